//! The content formats of a request and of its answer.

use serde::{Deserialize, Serialize};

use super::content_format::ContentFormat;

/// Holds the formats of one request, or those that a command names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Formats {
    /// The format to ask for in the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accept: Option<ContentFormat>,
    /// The format of the request's own payload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<ContentFormat>,
}
