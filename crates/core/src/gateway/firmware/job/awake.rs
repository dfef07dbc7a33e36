//! The awake time of a device since its last progress.

use std::time::{Duration, Instant};

/// Counts the time that the device is awake. A device that sleeps for a day has not stalled.
#[derive(Debug)]
pub(super) struct AwakeClock {
    /// The time that was counted before `since`.
    counted: Duration,
    /// The time from which the device has been awake; `None` while it sleeps, or is not registered.
    since: Option<Instant>,
}

impl AwakeClock {
    pub(super) fn new(now: Instant, awake: bool) -> Self {
        Self { counted: Duration::ZERO, since: awake.then_some(now) }
    }

    pub(crate) fn set_awake(&mut self, now: Instant, awake: bool) {
        self.counted = self.spent(now);
        self.since = awake.then_some(now);
    }

    /// Counts from zero again.
    pub(super) fn reset(&mut self, now: Instant) {
        self.counted = Duration::ZERO;
        self.since = self.since.map(|_| now);
    }

    pub(super) fn spent(&self, now: Instant) -> Duration {
        self.counted + self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// Returns the time at which the device will have been awake for this long, if it stays awake; `None` while it
    /// sleeps.
    pub(super) fn reaches(&self, time: Duration) -> Option<Instant> {
        Some(self.since? + time.saturating_sub(self.counted))
    }
}
