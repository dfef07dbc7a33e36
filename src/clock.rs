//! The clocks of this machine.

use std::time::{Duration, Instant, SystemTime};

use thiserror::Error;

/// Returns the time of the monotonic clock, which the core is given.
#[expect(clippy::disallowed_methods, reason = "the one place where the monotonic clock of the core is read")]
pub fn monotonic_now() -> Instant {
    Instant::now()
}

/// The wall clock of this machine shows a time before 1970, such as after a battery failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the clock of this machine is set to a time before 1970: set it, for example by NTP, and start again")]
pub struct ClockError;

/// Returns the time of the wall clock, since 1970.
#[expect(clippy::disallowed_methods, reason = "the one place where the wall clock is read")]
pub fn unix_time() -> Result<Duration, ClockError> {
    since_1970(SystemTime::now())
}

fn since_1970(time: SystemTime) -> Result<Duration, ClockError> {
    time.duration_since(SystemTime::UNIX_EPOCH).map_err(|_| ClockError)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_before_1970_is_an_error_that_says_what_to_do() {
        let second = Duration::from_secs(1);
        assert_eq!(since_1970(SystemTime::UNIX_EPOCH + second), Ok(second));
        let error = since_1970(SystemTime::UNIX_EPOCH - second).unwrap_err();
        assert!(error.to_string().contains("before 1970: set it"), "{error}");
    }
}
