//! The one place of the broker that reads the clock and throws the dice.

use std::time::{SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

#[expect(clippy::disallowed_methods, reason = "the broker is shell; this is where it reads the clock")]
pub(super) fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "the broker is shell; this is where it reads the clock")]
pub(super) fn unix_milliseconds() -> u64 {
    // The time of a message is informative: a clock before 1970 is no reason to stop.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).expect("a time before the year 500,000,000")
}

#[expect(clippy::disallowed_methods, reason = "the broker is shell; this is where it throws the dice")]
pub(super) fn random() -> [u8; 16] {
    rand::random()
}
