//! The two timers of a connection: idle, and the keepalive that StartTimer starts. They count reads; what is sent
//! to the device does not count.

use std::time::Duration;

use tokio::time::Instant;

/// The keepalive is checked at least so often, and at most so often.
const LONGEST_PERIOD: Duration = Duration::from_secs(30);
const SHORTEST_PERIOD: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConnectionTimeout {
    Idle,
    Keepalive,
}

#[derive(Debug)]
pub(super) struct Timers {
    /// Deadline of the first byte.
    idle: Option<Instant>,
    keepalive: Option<Keepalive>,
    reads: u64,
}

#[derive(Debug)]
struct Keepalive {
    allowed: Duration,
    next_period: Duration,
    period: Duration,
    check: Instant,
    silent: Duration,
    reads_at_check: u64,
}

impl Timers {
    /// Creates the timers of a connection that was just accepted.
    pub(super) fn new(now: Instant, idle_timeout: Duration) -> Self {
        Self { idle: Some(now + idle_timeout), keepalive: None, reads: 0 }
    }

    /// Stops the idle timer at the first bytes.
    pub(super) fn received(&mut self) {
        self.idle = None;
        self.reads += 1;
    }

    /// Starts the keepalive. If it runs already the interval changes, and the check in progress keeps its time.
    pub(super) fn start_keepalive(&mut self, now: Instant, interval: Duration) {
        let period = (interval / 2).clamp(SHORTEST_PERIOD, LONGEST_PERIOD);
        let allowed = interval.saturating_mul(3) / 2;
        match &mut self.keepalive {
            Some(running) => {
                running.allowed = allowed;
                running.next_period = period;
            }
            None => {
                self.keepalive = Some(Keepalive {
                    allowed,
                    next_period: period,
                    period,
                    check: now + period,
                    silent: Duration::ZERO,
                    reads_at_check: self.reads,
                });
            }
        }
    }

    /// Returns the time at which [`Timers::expired`] has to be called.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let check = self.keepalive.as_ref().map(|keepalive| keepalive.check);
        [self.idle, check].into_iter().flatten().min()
    }

    /// Returns the timer that expired. The keepalive expires when nothing was read for 1.5 intervals, in whole periods.
    pub(super) fn expired(&mut self, now: Instant) -> Option<ConnectionTimeout> {
        if self.idle.is_some_and(|deadline| deadline <= now) {
            return Some(ConnectionTimeout::Idle);
        }
        let keepalive = self.keepalive.as_mut().filter(|keepalive| keepalive.check <= now)?;
        let silent = self.reads == keepalive.reads_at_check;
        keepalive.silent = if silent { keepalive.silent + keepalive.period } else { Duration::ZERO };
        keepalive.reads_at_check = self.reads;
        keepalive.period = keepalive.next_period;
        keepalive.check = now + keepalive.period;
        (keepalive.silent >= keepalive.allowed).then_some(ConnectionTimeout::Keepalive)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(30);

    /// Seconds until the keepalive closes a connection that is read from at those seconds.
    fn closed_after(interval: u64, reads: &[u64]) -> f64 {
        let start = Instant::now();
        let mut timers = Timers::new(start, IDLE);
        timers.received();
        timers.start_keepalive(start, Duration::from_secs(interval));
        let mut reads = reads.iter().map(|second| start + Duration::from_secs(*second)).peekable();
        loop {
            let deadline = timers.deadline().expect("the keepalive runs");
            while reads.next_if(|read| *read <= deadline).is_some() {
                timers.received();
            }
            if timers.expired(deadline) == Some(ConnectionTimeout::Keepalive) {
                return (deadline - start).as_secs_f64();
            }
        }
    }

    #[test]
    fn a_silent_device_is_closed_after_one_and_a_half_intervals() {
        assert_eq!(closed_after(10, &[]), 15.0);
        assert_eq!(closed_after(5, &[]), 7.5);
        assert_eq!(closed_after(1, &[]), 2.0);
        assert_eq!(closed_after(300, &[]), 450.0);
    }

    #[test]
    fn a_read_begins_the_count_again_at_the_next_check() {
        assert_eq!(closed_after(10, &[3, 12]), 30.0);
    }

    #[test]
    fn a_new_interval_counts_from_the_check_under_way() {
        let start = Instant::now();
        let mut timers = Timers::new(start, IDLE);
        timers.received();
        timers.start_keepalive(start, Duration::from_secs(60));
        timers.start_keepalive(start, Duration::from_secs(2));
        assert_eq!(timers.deadline(), Some(start + Duration::from_secs(30)));
        assert_eq!(timers.expired(start + Duration::from_secs(30)), Some(ConnectionTimeout::Keepalive));
    }

    #[test]
    fn only_the_first_byte_ends_the_idle_timer() {
        let start = Instant::now();
        let mut timers = Timers::new(start, IDLE);
        assert_eq!(timers.expired(start + IDLE - Duration::from_millis(1)), None);
        assert_eq!(timers.expired(start + IDLE), Some(ConnectionTimeout::Idle));
        timers.received();
        assert_eq!(timers.deadline(), None);
        assert_eq!(timers.expired(start + IDLE), None);
    }
}
