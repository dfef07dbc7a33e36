//! Times of the API.

use std::fmt;
use std::time::{Duration, UNIX_EPOCH};

use serde::{Serialize, Serializer};
use utoipa::openapi::schema::{KnownFormat, Schema};
use utoipa::openapi::{ObjectBuilder, RefOr, SchemaFormat, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::clock::unix_time;

/// The last second of the year 9999. A later one has no text (RFC 3339).
const LATEST: Duration = Duration::from_secs(253_402_300_799);

/// A time since 1970, written by RFC 3339 in UTC with milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timestamp(pub Duration);

/// Returns the present time; 1970 while the clock of the machine is not set.
pub(super) fn now() -> Timestamp {
    Timestamp(unix_time().unwrap_or(Duration::ZERO))
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_rfc3339_millis(UNIX_EPOCH + self.0.min(LATEST)).fmt(f)
    }
}

impl PartialSchema for Timestamp {
    fn schema() -> RefOr<Schema> {
        let format = SchemaFormat::KnownFormat(KnownFormat::DateTime);
        let schema = ObjectBuilder::new().schema_type(Type::String).format(Some(format));
        schema.examples(["2026-11-27T20:31:05.120Z"]).build().into()
    }
}

impl ToSchema for Timestamp {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_milliseconds_and_ends_with_the_year_9999() {
        let text = |time| serde_json::to_string(&Timestamp(time)).unwrap();
        assert_eq!(text(Duration::from_millis(1_795_811_465_120)), "\"2026-11-27T20:31:05.120Z\"");
        assert_eq!(text(Duration::MAX), "\"9999-12-31T23:59:59.000Z\"");
    }
}
