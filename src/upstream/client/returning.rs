//! The devices that have to be connected again, after an outage of the broker or a restart of the gateway: the log
//! tells when all of them are.

use std::collections::HashSet;
use std::time::Instant;

use tracing::info;

use lwm2m_core::gateway::broker::RegistrationId;

#[derive(Debug, Default)]
pub struct Returning {
    since: Option<Instant>,
    awaited: HashSet<RegistrationId>,
    connected: usize,
}

impl Returning {
    /// Begins to measure how long these devices, which are not connected, take to return after the broker has
    /// recovered.
    pub fn begin(&mut self, now: Instant, devices: impl IntoIterator<Item = RegistrationId>) {
        *self = Self::default();
        devices.into_iter().for_each(|device| self.add(now, device));
    }

    /// Adds a device of before the restart.
    pub fn add(&mut self, now: Instant, device: RegistrationId) {
        self.since.get_or_insert(now);
        self.awaited.insert(device);
    }

    pub fn connected(&mut self, now: Instant, device: RegistrationId) {
        if self.awaited.remove(&device) {
            self.connected += 1;
            self.tell_the_end(now);
        }
    }

    /// Notes that the device will not return, because its registration has ended.
    pub fn left(&mut self, now: Instant, device: RegistrationId) {
        if self.awaited.remove(&device) {
            self.tell_the_end(now);
        }
    }

    fn tell_the_end(&mut self, now: Instant) {
        let Some(since) = self.since.filter(|_| self.awaited.is_empty()) else { return };
        let took = now.saturating_duration_since(since);
        info!(devices = self.connected, ?took, "all devices are connected again");
        *self = Self::default();
    }

    #[cfg(test)]
    pub fn awaited(&self) -> usize {
        self.awaited.len()
    }
}
