//! The pace at which devices are reconnected: a back-off for each device after a loss, and turns for all of them
//! together. The devices that have something to publish come first, then those that were active last.
//!
//! Turns come at a limited rate, and only while few enough attempts are under way. How many may be under way follows
//! the broker's own pace, in the manner of congestion control: each quick answer adds one, and slow answers and
//! failures halve it.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rand::{Rng, RngExt};

use lwm2m_base::id_map::IdMap;
use lwm2m_core::gateway::broker::RegistrationId;

const BACK_OFF_MIN: Duration = Duration::from_secs(1);
const BACK_OFF_MAX: Duration = Duration::from_secs(30);
/// Limits how late a turn may be before it is skipped, so that the rate holds after a stall of the process.
const LATE: Duration = Duration::from_millis(100);
/// Bound the attempts that are under way at once.
const FIRST_WINDOW: usize = 64;
const NARROWEST_WINDOW: usize = 16;
const WIDEST_WINDOW: usize = 1024;
/// An attempt that the broker accepts within this time lets more be under way.
const QUICK: Duration = Duration::from_millis(250);
/// An attempt that takes the broker longer than this lets fewer be under way.
const SLOW: Duration = Duration::from_secs(1);

/// Orders the turns: by whether a device has something to publish, then by the time at which it was active last.
/// `None` is a device that this process has not heard of yet.
type TurnOrder = Reverse<(bool, Option<Instant>)>;

/// Holds the devices that wait for their turn to be reconnected, and those whose attempt is under way.
#[derive(Debug)]
pub(crate) struct Turns {
    interval: Duration,
    /// The earliest time of the next turn.
    next: Option<Instant>,
    queue: BTreeSet<(TurnOrder, RegistrationId)>,
    order: IdMap<RegistrationId, TurnOrder>,
    window: AttemptWindow,
}

/// Limits how many attempts are under way at once.
#[derive(Debug)]
struct AttemptWindow {
    size: usize,
    /// Holds the devices that had their turn, with its time, until the broker has answered.
    under_way: IdMap<RegistrationId, Instant>,
    narrowed: Option<Instant>,
}

impl Turns {
    pub(crate) fn per_second(rate: u32) -> Self {
        Self {
            interval: Duration::from_secs(1) / rate.max(1),
            next: None,
            queue: BTreeSet::new(),
            order: IdMap::default(),
            window: AttemptWindow { size: FIRST_WINDOW, under_way: IdMap::default(), narrowed: None },
        }
    }

    /// Adds a device, which was active last at `active`.
    pub(crate) fn add(&mut self, registration: RegistrationId, has_publications: bool, active: Option<Instant>) {
        self.remove(registration);
        let order = Reverse((has_publications, active));
        self.order.insert(registration, order);
        self.queue.insert((order, registration));
    }

    /// Notes that a device has something to publish now. If it waits, its turn comes earlier.
    pub(crate) fn publishes(&mut self, registration: RegistrationId, now: Instant) {
        if self.order.contains_key(&registration) {
            self.add(registration, true, Some(now));
        }
    }

    /// Forgets the device, whether it waits or its attempt is under way.
    pub(crate) fn remove(&mut self, registration: RegistrationId) {
        if let Some(order) = self.order.remove(&registration) {
            self.queue.remove(&(order, registration));
        }
        self.window.under_way.remove(&registration);
    }

    /// Notes that the broker has accepted the device.
    pub(crate) fn accepted(&mut self, now: Instant, registration: RegistrationId) {
        self.window.accepted(now, registration);
    }

    /// Notes that the attempt of the device has failed.
    pub(crate) fn failed(&mut self, now: Instant, registration: RegistrationId) {
        self.window.failed(now, registration);
    }

    /// Takes out the device whose turn it is; its attempt is under way then. Returns `None` before the time of the next
    /// turn, when no device waits, and while too many attempts are under way.
    pub(crate) fn take(&mut self, now: Instant) -> Option<RegistrationId> {
        if self.window.is_full() {
            return None;
        }
        let at = self.next.unwrap_or(now);
        let (_, registration) = self.queue.first().filter(|_| at <= now).copied()?;
        self.remove(registration);
        self.window.under_way.insert(registration, now);
        let late = now.saturating_duration_since(at) > LATE;
        self.next = Some(if late { now } else { at } + self.interval);
        Some(registration)
    }

    /// Returns the time of the next turn, if a device waits for it and does not have to wait for the end of an attempt.
    pub(crate) fn next(&self, now: Instant) -> Option<Instant> {
        let waits = !self.queue.is_empty() && !self.window.is_full();
        waits.then(|| self.next.unwrap_or(now))
    }

    /// Makes no turn come before this time.
    #[cfg(test)]
    pub(crate) fn hold(&mut self, until: Instant) {
        self.next = Some(until);
    }

    #[cfg(test)]
    pub(crate) fn contains(&self, registration: RegistrationId) -> bool {
        self.order.contains_key(&registration)
    }

    #[cfg(test)]
    pub(crate) fn under_way(&self) -> impl Iterator<Item = RegistrationId> {
        self.window.under_way.keys().copied()
    }
}

impl AttemptWindow {
    fn is_full(&self) -> bool {
        self.under_way.len() >= self.size
    }

    fn accepted(&mut self, now: Instant, registration: RegistrationId) {
        let Some(begin) = self.under_way.remove(&registration) else { return };
        match now.saturating_duration_since(begin) {
            latency if latency <= QUICK => self.size = (self.size + 1).min(WIDEST_WINDOW),
            latency if latency > SLOW => self.narrow(now),
            _ => {}
        }
    }

    fn failed(&mut self, now: Instant, registration: RegistrationId) {
        if self.under_way.remove(&registration).is_some() {
            self.narrow(now);
        }
    }

    /// Halves the window, once for all the bad news of a while.
    fn narrow(&mut self, now: Instant) {
        if self.narrowed.is_none_or(|narrowed| now >= narrowed + SLOW) {
            self.size = (self.size / 2).max(NARROWEST_WINDOW);
            self.narrowed = Some(now);
        }
    }
}

/// Returns the time to wait before attempt `failures + 1`. It doubles up to a bound, and has a random part, so that
/// devices that were lost together do not come back together.
pub(crate) fn back_off(failures: u32, rng: &mut impl Rng) -> Duration {
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
        (1..=3).for_each(|id| turns.add(RegistrationId(id), false, Some(start)));
        assert_eq!(turns_within(&mut turns, start, millis(500)), [(1, 0), (2, 100), (3, 200)]);
        assert_eq!(turns.next(start + millis(500)), None);

        // A device that comes alone, after a pause, does not wait.
        turns.add(RegistrationId(4), false, Some(start));
        let later = start + Duration::from_secs(5);
        assert_eq!(turns_within(&mut turns, later, millis(0)), [(4, 0)]);
    }

    #[test]
    fn the_devices_that_were_active_last_come_first() {
        let start = Instant::now();
        let mut turns = Turns::per_second(1_000);
        turns.add(RegistrationId(1), false, None);
        turns.add(RegistrationId(2), false, Some(start + millis(10)));
        turns.add(RegistrationId(3), false, Some(start + millis(20)));
        turns.add(RegistrationId(4), false, Some(start + millis(5)));
        turns.add(RegistrationId(5), false, None);
        turns.publishes(RegistrationId(5), start + millis(30));
        turns.publishes(RegistrationId(9), start + millis(40));
        turns.remove(RegistrationId(4));
        let order: Vec<_> =
            turns_within(&mut turns, start + millis(50), millis(50)).iter().map(|(id, _)| *id).collect();
        assert_eq!(order, [5, 3, 2, 1]);
    }

    #[test]
    fn the_devices_with_something_to_publish_come_before_those_that_were_active_later() {
        let start = Instant::now();
        let mut turns = Turns::per_second(1_000);
        turns.add(RegistrationId(1), false, Some(start + millis(20)));
        turns.add(RegistrationId(2), true, Some(start));
        turns.add(RegistrationId(3), true, Some(start + millis(10)));
        let order: Vec<_> =
            turns_within(&mut turns, start + millis(50), millis(50)).iter().map(|(id, _)| *id).collect();
        assert_eq!(order, [3, 2, 1]);
    }

    /// Takes the turns of one moment.
    fn turns_at(turns: &mut Turns, now: Instant) -> Vec<RegistrationId> {
        std::iter::from_fn(|| turns.take(now)).collect()
    }

    #[test]
    fn no_turn_comes_while_the_broker_has_not_answered_enough_attempts() {
        let start = Instant::now();
        let mut turns = Turns::per_second(1_000_000);
        (1..=1_000).for_each(|id| turns.add(RegistrationId(id), false, None));
        let first = turns_within(&mut turns, start, millis(1_000)).len();
        assert_eq!(first, FIRST_WINDOW);
        assert_eq!(turns.next(start + millis(1_000)), None);

        // Each quick answer makes room for itself and for one more.
        turns.accepted(start + millis(100), RegistrationId(1));
        assert_eq!(turns_within(&mut turns, start + millis(1_100), millis(0)).len(), 1);
        assert_eq!(turns_within(&mut turns, start + millis(1_200), millis(100)).len(), 1);
    }

    #[test]
    fn slow_answers_and_failures_let_fewer_attempts_be_under_way() {
        let start = Instant::now();
        for fails in [false, true] {
            let mut turns = Turns::per_second(1_000_000);
            (1..=1_000).for_each(|id| turns.add(RegistrationId(id), false, None));
            let begun = turns_within(&mut turns, start, millis(100));
            assert_eq!(begun.len(), FIRST_WINDOW);
            let later = start + Duration::from_secs(3);
            for (id, _) in begun {
                let device = RegistrationId(id);
                if fails { turns.failed(later, device) } else { turns.accepted(later, device) }
            }
            assert_eq!(turns_within(&mut turns, later, millis(100)).len(), FIRST_WINDOW / 2);
        }
    }

    #[test]
    fn a_device_that_is_removed_while_its_attempt_is_under_way_makes_room() {
        let start = Instant::now();
        let mut turns = Turns::per_second(1_000_000);
        (1..=1_000).for_each(|id| turns.add(RegistrationId(id), false, None));
        let begun = turns_within(&mut turns, start, millis(100));
        turns.remove(RegistrationId(begun[0].0));
        assert_eq!(turns_at(&mut turns, start + millis(200)).len(), 1);
    }

    #[test]
    fn turns_that_a_stalled_process_missed_are_not_made_up_for() {
        let start = Instant::now();
        let mut turns = Turns::per_second(10);
        (1..=30).for_each(|id| turns.add(RegistrationId(id), false, None));
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
