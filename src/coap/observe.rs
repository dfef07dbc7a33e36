//! The order of notifications (RFC 7641 section 3.4).

use std::time::{Duration, Instant};

/// After this long a number proves nothing about order.
const NUMBER_LIFETIME: Duration = Duration::from_secs(128);
/// Half of the 24-bit space of Observe numbers.
const HALF: u32 = 1 << 23;
/// The numbers have 24 bits.
const NUMBERS: u32 = (1 << 24) - 1;

/// The newest notification of an observation: its number and when it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freshness {
    number: u32,
    at: Instant,
}

impl Freshness {
    pub fn of(number: u32, at: Instant) -> Self {
        Self { number, at }
    }

    pub fn number(&self) -> u32 {
        self.number
    }

    pub fn at(&self) -> Instant {
        self.at
    }

    /// As it was before the newest notification, so that this one may come once more.
    pub fn without_newest(self) -> Self {
        Self { number: self.number.wrapping_sub(1) & NUMBERS, ..self }
    }

    /// Takes the notification as the newest one, unless it is older than what came before.
    pub fn advance(&mut self, number: u32, at: Instant) -> bool {
        let fresh = (self.number < number && number - self.number < HALF)
            || (self.number > number && self.number - number > HALF)
            || at > self.at + NUMBER_LIFETIME;
        if fresh {
            *self = Self { number, at };
        }
        fresh
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newer_of_two_is_told_by_number_and_after_128_seconds_by_time() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let advances = |from: u32, to: u32, seconds| Freshness::of(from, start).advance(to, after(seconds));

        assert!(advances(5, 6, 1));
        assert!(!advances(6, 6, 1), "the same number is no news");
        assert!(!advances(6, 5, 1));
        assert!(!advances(6, 5, 128));
        assert!(advances(6, 5, 129));
        assert!(advances(0xff_ffff, 0, 1), "the number wraps at 24 bits");
        assert!(!advances(0, 0xff_ffff, 1));
    }
}
