//! How fast devices come back to the broker: each after a back-off of its own, and so many in a second together.

use std::time::{Duration, Instant};

use rand::{Rng, RngExt};

const BACK_OFF_MIN: Duration = Duration::from_secs(1);
const BACK_OFF_MAX: Duration = Duration::from_secs(30);

/// Slots for anchors, so many in a second.
#[derive(Debug)]
pub struct Pace {
    interval: Duration,
    next: Option<Instant>,
}

impl Pace {
    pub fn per_second(rate: u32) -> Self {
        Self { interval: Duration::from_secs(1) / rate.max(1), next: None }
    }

    /// Takes the next free slot: `now`, or later.
    pub fn reserve(&mut self, now: Instant) -> Instant {
        let slot = self.next.map_or(now, |next| next.max(now));
        self.next = Some(slot + self.interval);
        slot
    }
}

/// How long to wait before attempt `failures + 1`: doubling, up to a bound, and up to once more of it at random, so that
/// what was lost together does not come back together.
pub fn back_off(failures: u32, rng: &mut impl Rng) -> Duration {
    let doubled = BACK_OFF_MIN.saturating_mul(2_u32.saturating_pow(failures));
    doubled.min(BACK_OFF_MAX / 2).mul_f64(rng.random_range(1.0..=2.0))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn slots_are_as_many_in_a_second_as_set() {
        let start = Instant::now();
        let mut pace = Pace::per_second(10);
        let slots: Vec<_> = (0..3).map(|_| pace.reserve(start) - start).collect();
        assert_eq!(slots, [0, 100, 200].map(Duration::from_millis));
        let later = start + Duration::from_secs(5);
        assert_eq!(pace.reserve(later), later);
    }

    #[test]
    fn the_back_off_grows_from_one_second_to_thirty() {
        let mut rng = StdRng::seed_from_u64(1);
        for failures in 0..100 {
            let wait = back_off(failures, &mut rng);
            assert!((BACK_OFF_MIN..=BACK_OFF_MAX).contains(&wait), "{wait:?} after {failures}");
        }
        assert!(back_off(0, &mut rng) <= BACK_OFF_MIN * 2);
        assert!(back_off(9, &mut rng) >= BACK_OFF_MAX / 2);
    }
}
