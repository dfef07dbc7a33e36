//! Whether the broker is there, as far as dials and calls have shown; and how fast devices come back to it.

use std::time::{Duration, Instant};

use rand::{Rng, RngExt};
use tracing::{info, warn};

/// While the broker is away, one attempt in this time finds out whether it is back.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
const BACK_OFF_MIN: Duration = Duration::from_secs(1);
const BACK_OFF_MAX: Duration = Duration::from_secs(30);

/// The two places where the broker has to be reached. Each change is logged once.
#[derive(Debug, Default)]
pub struct Health {
    listener: Option<Reach>,
    adapter: Option<Reach>,
    /// No attempt to connect before this, while the broker is away.
    next_probe: Option<Instant>,
    /// Whether the handler was called at all, and whether its silence was complained about.
    handler: Handler,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    Up,
    Down,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Handler {
    #[default]
    NeverCalled,
    Missed,
    Called,
}

impl Health {
    pub fn dialed(&mut self, outcome: Result<(), &str>) {
        change(&mut self.listener, outcome, "exproto listener");
    }

    pub fn called(&mut self, outcome: Result<(), &str>) {
        change(&mut self.adapter, outcome, "ConnectionAdapter");
    }

    pub fn event_came(&mut self) {
        self.handler = Handler::Called;
    }

    /// The broker took an anchor, but did not tell us of it.
    pub fn announcement_missed(&mut self) {
        if self.handler == Handler::NeverCalled {
            self.handler = Handler::Missed;
            warn!("EMQX takes connections, but does not call our handler: is its `handler.address` right?");
        }
    }

    pub fn is_down(&self) -> bool {
        [self.listener, self.adapter].contains(&Some(Reach::Down))
    }

    /// Whether a device may try to connect now. While the broker is away this counts as the probe.
    pub fn admits(&mut self, now: Instant) -> bool {
        if !self.is_down() {
            return true;
        }
        if self.next_probe.is_some_and(|at| at > now) {
            return false;
        }
        self.next_probe = Some(now + PROBE_INTERVAL);
        true
    }

    /// When the next probe is due; `now` if at once.
    pub fn next_probe(&self, now: Instant) -> Instant {
        self.next_probe.map_or(now, |at| at.max(now))
    }
}

fn change(reach: &mut Option<Reach>, outcome: Result<(), &str>, place: &'static str) {
    let current = if outcome.is_ok() { Reach::Up } else { Reach::Down };
    if reach.replace(current) == Some(current) {
        return;
    }
    match outcome {
        Ok(()) => info!(place, "EMQX is reached"),
        Err(error) => warn!(place, error, "EMQX cannot be reached"),
    }
}

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
    fn while_the_broker_is_away_one_attempt_in_a_probe_interval_is_let_through() {
        let start = Instant::now();
        let mut health = Health::default();
        assert!(health.admits(start) && health.admits(start));

        health.dialed(Err("connection refused"));
        assert!(health.admits(start));
        assert!(!health.admits(start));
        assert_eq!(health.next_probe(start), start + PROBE_INTERVAL);
        assert!(health.admits(start + PROBE_INTERVAL));
        assert!(!health.admits(start + PROBE_INTERVAL));

        health.dialed(Ok(()));
        assert!(health.admits(start + PROBE_INTERVAL));
        health.called(Err("unavailable"));
        assert!(health.is_down());
        health.called(Ok(()));
        assert!(!health.is_down());
    }

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
