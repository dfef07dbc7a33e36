//! The devices that have to be connected again, after an outage of the broker or a restart of the gateway: the log
//! tells when all of them are.

use std::collections::HashSet;
use std::time::Instant;

use tracing::info;

use lwm2m_core::gateway::broker::RegistrationId;

#[derive(Debug, Default)]
pub(crate) struct Returning {
    since: Option<Instant>,
    awaited: HashSet<RegistrationId>,
    connected: usize,
}

impl Returning {
    /// Begins to measure how long these devices, which are not connected, take to return after the broker has
    /// recovered.
    pub(crate) fn begin(&mut self, now: Instant, devices: impl IntoIterator<Item = RegistrationId>) {
        *self = Self::default();
        devices.into_iter().for_each(|device| self.add(now, device));
    }

    /// Adds a device of before the restart. Clients of the gateway's own are no devices.
    pub(crate) fn add(&mut self, now: Instant, registration: RegistrationId) {
        if !registration.is_of_device() {
            return;
        }
        self.since.get_or_insert(now);
        self.awaited.insert(registration);
    }

    pub(crate) fn connected(&mut self, now: Instant, registration: RegistrationId) {
        if self.awaited.remove(&registration) {
            self.connected += 1;
            self.tell_the_end(now);
        }
    }

    /// Notes that the device will not return, because its registration has ended.
    pub(crate) fn left(&mut self, now: Instant, registration: RegistrationId) {
        if self.awaited.remove(&registration) {
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
    pub(crate) fn awaited(&self) -> usize {
        self.awaited.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_of_the_gateway_s_own_are_not_awaited() {
        let now = Instant::now();
        let [bootstrap, campaigns, presence] = [0, u64::MAX, u64::MAX - 1].map(RegistrationId);
        let mut returning = Returning::default();
        [bootstrap, campaigns, presence].into_iter().for_each(|client| returning.add(now, client));
        assert_eq!((returning.awaited(), returning.since), (0, None));
        returning.begin(now, [presence, RegistrationId(1)]);
        assert_eq!((returning.awaited(), returning.since), (1, Some(now)));
        returning.connected(now, RegistrationId(1));
        assert_eq!((returning.awaited(), returning.since), (0, None));
    }
}
