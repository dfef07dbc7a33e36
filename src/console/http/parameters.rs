//! Types of query parameters whose bounds are in the OpenAPI document.

use std::time::Duration;

use serde::Deserialize;
use utoipa::openapi::schema::{AnyOfBuilder, KnownFormat, Schema};
use utoipa::openapi::{ObjectBuilder, RefOr, SchemaFormat, Type};
use utoipa::{PartialSchema, ToSchema};

/// A number of seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Seconds(u32);

/// The schema of an IP address.
#[derive(Debug)]
pub(crate) struct IpAddressText;

impl Seconds {
    pub(in crate::console) fn duration(self) -> Duration {
        Duration::from_secs(self.0.into())
    }
}

impl PartialSchema for Seconds {
    fn schema() -> RefOr<Schema> {
        let seconds = ObjectBuilder::new().schema_type(Type::Integer);
        seconds.minimum(Some(0)).maximum(Some(u32::MAX)).into()
    }
}

impl ToSchema for Seconds {}

impl PartialSchema for IpAddressText {
    fn schema() -> RefOr<Schema> {
        let format =
            |format| ObjectBuilder::new().schema_type(Type::String).format(Some(SchemaFormat::KnownFormat(format)));
        AnyOfBuilder::new().item(format(KnownFormat::Ipv4)).item(format(KnownFormat::Ipv6)).into()
    }
}

impl ToSchema for IpAddressText {}
