//! The wall clock beside the monotonic one: times that outlive the process are kept as times since 1970.

use std::time::{Duration, Instant};

/// The latest time in a record, as a bound: a damaged file may contain any number, and the monotonic clock cannot
/// represent later times.
pub(super) const LATEST_TIME: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Holds one moment by both clocks, and converts between them.
#[derive(Clone, Copy, Debug)]
pub(super) struct WallClock {
    moment: Instant,
    unix_time: Duration,
}

impl WallClock {
    /// Creates a clock that shows `unix_time`, since 1970, at `moment`.
    pub(super) fn new(moment: Instant, unix_time: Duration) -> Self {
        Self { moment, unix_time }
    }

    /// Returns the moment at which the clocks were compared.
    pub(crate) fn compared(&self) -> Instant {
        self.moment
    }

    /// Returns the time since 1970 at this moment.
    pub(super) fn unix_time(&self, at: Instant) -> Duration {
        match at.checked_duration_since(self.moment) {
            Some(later) => self.unix_time + later,
            None => self.unix_time.saturating_sub(self.moment.duration_since(at)),
        }
    }

    /// Returns the moment of a time since 1970. The monotonic clock may not reach back so far: then it is the moment of
    /// the last comparison, so that a lifetime ends too late rather than too early.
    pub(super) fn moment(&self, unix_time: Duration) -> Instant {
        let moved = match unix_time.checked_sub(self.unix_time) {
            Some(later) => self.moment.checked_add(later.min(LATEST_TIME)),
            None => self.moment.checked_sub(self.unix_time - unix_time),
        };
        moved.unwrap_or(self.moment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YEAR_2026: Duration = Duration::from_secs(1_767_225_600);

    fn clock() -> (Instant, WallClock) {
        let moment = Instant::now() + Duration::from_secs(1000);
        (moment, WallClock::new(moment, YEAR_2026))
    }

    #[test]
    fn moments_and_times_are_converted_both_ways() {
        let (moment, clock) = clock();
        for (at, unix_time) in [
            (moment, YEAR_2026),
            (moment + Duration::from_secs(7), YEAR_2026 + Duration::from_secs(7)),
            (moment - Duration::from_secs(7), YEAR_2026 - Duration::from_secs(7)),
        ] {
            assert_eq!(clock.unix_time(at), unix_time);
            assert_eq!(clock.moment(unix_time), at);
        }
    }

    #[test]
    fn a_time_that_no_clock_counts_is_bounded() {
        let (moment, clock) = clock();
        assert_eq!(clock.moment(Duration::MAX), moment + LATEST_TIME);
        assert_eq!(WallClock::new(moment, Duration::ZERO).unix_time(moment - Duration::from_secs(1)), Duration::ZERO);
    }
}
