//! Terms: the numbered tenures of a shard. They follow a clock, so that a forgotten term is not given again.

use std::fmt::{self, Display};
use std::time::Duration;

/// A time of day as milliseconds since 1970-01-01 UTC. Clocks of different machines differ, so it measures no interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WallTime(pub u64);

impl WallTime {
    /// Returns the time this much later.
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(millis(duration)))
    }

    /// Returns how far two times are apart, whichever is the earlier.
    pub fn distance(self, other: Self) -> Duration {
        Duration::from_millis(self.0.abs_diff(other.0))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The number of a tenure of a shard. Each acquisition gives the shard a greater term than all before that the engine
/// remembers. A term is also a time: no term is more than [`Term::AHEAD`] ticks ahead of the engine's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term(u64);

impl Term {
    /// The term of a shard that nobody ever had.
    pub const NONE: Self = Self(0);
    /// The length of a tick of the clock that terms follow.
    pub const TICK: Duration = Duration::from_secs(4);
    /// The time at which the ticks begin: 2025-01-01 00:00 UTC, in milliseconds since 1970.
    pub const EPOCH: WallTime = WallTime(1_735_689_600_000);
    /// The number of ticks that a term may be ahead of the clock.
    pub const AHEAD: u64 = 4;
    /// The number of ticks between the last term of an earlier process of a node and the first of a later one. With
    /// rounding it allows for clocks of two engines that differ by less than 8 s.
    const MARGIN: u64 = 3;

    /// Returns the term of this number, which an engine or a message reports.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Returns the number of the term.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// Returns the tick of this time.
    pub fn at(time: WallTime) -> Self {
        Self(time.0.saturating_sub(Self::EPOCH.0) / millis(Self::TICK))
    }

    /// Returns the greatest term that anybody may take at this time.
    pub fn last_at(time: WallTime) -> Self {
        Self(Self::at(time).0.saturating_add(Self::AHEAD))
    }

    /// Returns the least term that a process may use which started at this time. It is above all terms that an earlier
    /// process of the same node took.
    pub fn first_of_process(started: WallTime) -> Self {
        Self(Self::last_at(started).0.saturating_add(Self::MARGIN))
    }

    /// Returns the term after this one.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// Returns the number of terms from an earlier one to this one, or `None` if the other one is later.
    pub fn since(self, earlier: Self) -> Option<u64> {
        self.0.checked_sub(earlier.0)
    }
}

impl Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_are_ticks_of_4_seconds_since_2025() {
        let at = |milliseconds| Term::at(WallTime(Term::EPOCH.0 + milliseconds)).number();

        assert_eq!([at(0), at(3_999), at(4_000), at(31_536_000_000)], [0, 0, 1, 7_884_000]);
        assert_eq!(Term::at(WallTime(0)), Term::new(0), "a clock before 2025");
    }

    #[test]
    fn the_first_term_of_a_process_is_above_all_that_could_be_taken_before() {
        let time = WallTime(Term::EPOCH.0 + 1_000_000_000);
        let fast = time.plus(Duration::from_millis(7_999));

        assert!(Term::first_of_process(time) > Term::last_at(fast));
    }
}
