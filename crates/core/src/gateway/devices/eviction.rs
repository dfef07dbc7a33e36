//! Eviction: makes room for new devices when `limits.devices` is reached. The plain-UDP registration that was silent
//! longest is evicted for a device that the broker has accepted. A lifetime may be years, and a sleeping device cannot
//! be distinguished from a dead one, so a device that sent a message within the last day is not evicted.
//!
//! 1. A Register beyond the limit goes on to the broker if there is a device to evict.
//! 2. When the broker has accepted the new device, the old one is evicted. So a peer without credentials evicts nobody.

use std::time::{Duration, Instant};

use crate::registry::{Device, RegistrationId, Registry};
use lwm2m_base::deadlines::IdDeadlines;

/// The shortest silence after which a device may be evicted.
const LEAST_SILENCE: Duration = Duration::from_secs(24 * 3600);
/// The maximum number of devices that are examined for one Register. A device that has sent a message meanwhile is not
/// examined again for a day.
const MAX_EXAMINED: usize = 1_000;

/// Orders the devices of plain UDP by the time of their last message, as of the last look at each.
#[derive(Debug, Default)]
pub(super) struct SilentDevices(IdDeadlines<RegistrationId>);

impl SilentDevices {
    /// Adds a device. A device that uses DTLS is never evicted, because it has proved its identity.
    pub(super) fn watch(&mut self, device: &Device) {
        if device.identity.is_none() {
            self.0.set(device.id, device.last_heard());
        }
    }

    pub(super) fn forget(&mut self, id: RegistrationId) {
        self.0.cancel(id);
    }

    /// Returns the device that may be evicted now.
    pub(crate) fn evictable(&mut self, now: Instant, registry: &Registry) -> Option<RegistrationId> {
        for _ in 0..MAX_EXAMINED {
            let (heard, id) = self.0.first().filter(|(heard, _)| *heard + LEAST_SILENCE <= now)?;
            match registry.device(id).map(Device::last_heard) {
                Some(last) if last > heard => self.0.set(id, last),
                Some(_) => return Some(id),
                None => self.0.cancel(id),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::fixtures::device;

    #[test]
    fn the_device_that_was_silent_the_longest_is_evicted_and_none_that_was_heard_within_a_day() {
        let start = Instant::now();
        let after = |hours: u64| start + Duration::from_secs(hours * 3600);
        let (mut registry, mut silent) = (Registry::default(), SilentDevices::default());
        for (id, heard) in [(1, after(2)), (2, after(1)), (3, after(0))] {
            let device = device(id, &[], heard);
            silent.watch(&device);
            registry.insert(device);
        }
        assert_eq!(silent.evictable(after(23), &registry), None);
        assert_eq!(silent.evictable(after(24), &registry), Some(RegistrationId(3)));
        registry.device_mut(RegistrationId(3)).unwrap().heard_from(after(20));
        assert_eq!(silent.evictable(after(24), &registry), None, "it was heard meanwhile");
        assert_eq!(silent.evictable(after(26), &registry), Some(RegistrationId(2)));
        silent.forget(RegistrationId(2));
        assert_eq!(silent.evictable(after(26), &registry), Some(RegistrationId(1)));
        registry.remove(RegistrationId(1));
        assert_eq!(silent.evictable(after(26), &registry), None, "it has left");
    }
}
