//! The pace at which devices are reconnected: a back-off for each device after a loss, and a limited rate for all of
//! them together, in which the devices that were active last come first.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use rand::{Rng, RngExt};

use lwm2m_core::gateway::broker::RegistrationId;

const BACK_OFF_MIN: Duration = Duration::from_secs(1);
const BACK_OFF_MAX: Duration = Duration::from_secs(30);
/// Limits how late a turn may be before it is skipped, so that the rate holds after a stall of the process.
const LATE: Duration = Duration::from_millis(100);

/// Orders the turns by the time at which a device was active last. `None` is a device that this process has not heard
/// of yet.
type TurnOrder = Reverse<Option<Instant>>;

/// Holds the devices that wait for their turn to be reconnected.
#[derive(Debug)]
pub struct Turns {
    interval: Duration,
    /// Is the earliest time of the next turn.
    next: Option<Instant>,
    queue: BTreeSet<(TurnOrder, RegistrationId)>,
    order: HashMap<RegistrationId, TurnOrder>,
}

impl Turns {
    pub fn per_second(rate: u32) -> Self {
        Self {
            interval: Duration::from_secs(1) / rate.max(1),
            next: None,
            queue: BTreeSet::new(),
            order: HashMap::new(),
        }
    }

    /// Adds a device, which was active last at `active`.
    pub fn add(&mut self, device: RegistrationId, active: Option<Instant>) {
        self.remove(device);
        self.order.insert(device, Reverse(active));
        self.queue.insert((Reverse(active), device));
    }

    /// Notes that a device is active now. If it waits, its turn comes earlier.
    pub fn active(&mut self, device: RegistrationId, now: Instant) {
        if self.order.contains_key(&device) {
            self.add(device, Some(now));
        }
    }

    pub fn remove(&mut self, device: RegistrationId) {
        if let Some(order) = self.order.remove(&device) {
            self.queue.remove(&(order, device));
        }
    }

    /// Takes out the device whose turn it is. Returns `None` before the time of the next turn, and when no device
    /// waits.
    pub fn take(&mut self, now: Instant) -> Option<RegistrationId> {
        let at = self.next.unwrap_or(now);
        let (_, device) = self.queue.first().filter(|_| at <= now).copied()?;
        self.remove(device);
        let late = now.saturating_duration_since(at) > LATE;
        self.next = Some(if late { now } else { at } + self.interval);
        Some(device)
    }

    /// Returns the time of the next turn, if a device waits for it.
    pub fn next(&self, now: Instant) -> Option<Instant> {
        let waits = !self.queue.is_empty();
        waits.then(|| self.next.unwrap_or(now))
    }

    /// Makes no turn come before this time.
    #[cfg(test)]
    pub fn hold(&mut self, until: Instant) {
        self.next = Some(until);
    }

    #[cfg(test)]
    pub fn contains(&self, device: RegistrationId) -> bool {
        self.order.contains_key(&device)
    }
}

/// Returns the time to wait before attempt `failures + 1`. It doubles up to a bound, and has a random part, so that
/// devices that were lost together do not come back together.
pub fn back_off(failures: u32, rng: &mut impl Rng) -> Duration {
    let doubled = BACK_OFF_MIN.saturating_mul(2_u32.saturating_pow(failures));
    doubled.min(BACK_OFF_MAX / 2).mul_f64(rng.random_range(1.0..=2.0))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    const fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// Returns when each device has its turn, with a clock that looks every 10 ms.
    fn turns_within(turns: &mut Turns, start: Instant, time: Duration) -> Vec<(u64, u128)> {
        let mut taken = Vec::new();
        let mut now = start;
        while now <= start + time {
            while let Some(device) = turns.take(now) {
                taken.push((device.0, (now - start).as_millis()));
            }
            now += millis(10);
        }
        taken
    }

    #[test]
    fn the_first_turn_is_at_once_and_the_others_are_as_many_in_a_second_as_set() {
        let start = Instant::now();
        let mut turns = Turns::per_second(10);
        (1..=3).for_each(|id| turns.add(RegistrationId(id), Some(start)));
        assert_eq!(turns_within(&mut turns, start, millis(500)), [(1, 0), (2, 100), (3, 200)]);
        assert_eq!(turns.next(start + millis(500)), None);

        // A device that comes alone, after a pause, does not wait.
        turns.add(RegistrationId(4), Some(start));
        let later = start + Duration::from_secs(5);
        assert_eq!(turns_within(&mut turns, later, millis(0)), [(4, 0)]);
    }

    #[test]
    fn the_devices_that_were_active_last_come_first() {
        let start = Instant::now();
        let mut turns = Turns::per_second(1_000);
        turns.add(RegistrationId(1), None);
        turns.add(RegistrationId(2), Some(start + millis(10)));
        turns.add(RegistrationId(3), Some(start + millis(20)));
        turns.add(RegistrationId(4), Some(start + millis(5)));
        turns.add(RegistrationId(5), None);
        turns.active(RegistrationId(5), start + millis(30));
        turns.active(RegistrationId(9), start + millis(40));
        turns.remove(RegistrationId(4));
        let order: Vec<_> =
            turns_within(&mut turns, start + millis(50), millis(50)).iter().map(|(id, _)| *id).collect();
        assert_eq!(order, [5, 3, 2, 1]);
    }

    #[test]
    fn turns_that_a_stalled_process_missed_are_not_made_up_for() {
        let start = Instant::now();
        let mut turns = Turns::per_second(10);
        (1..=30).for_each(|id| turns.add(RegistrationId(id), None));
        assert_eq!(turns_within(&mut turns, start, millis(0)).len(), 1);
        let taken = turns_within(&mut turns, start + Duration::from_secs(2), millis(0));
        assert_eq!(taken, [(2, 0)]);
        assert_eq!(turns.next(start), Some(start + Duration::from_secs(2) + millis(100)));
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
