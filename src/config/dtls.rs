//! `[dtls]`.

use toml::Value;

use crate::gateway::identity::{IdentityRule, Pattern};

use super::kinds::text;
use super::reader::Reader;

pub fn identity(reader: &mut Reader) -> IdentityRule {
    reader.read("dtls.identity", IdentityRule::Equals, |value: &Value| match text(value)?.as_str() {
        "none" => Ok(IdentityRule::None),
        "equals" => Ok(IdentityRule::Equals),
        around => around.parse::<Pattern>().map(IdentityRule::Pattern).map_err(|error| {
            format!("allowed is \"none\", \"equals\" or a text such as \"device-${{endpoint_name}}\": {error}")
        }),
    })
}
