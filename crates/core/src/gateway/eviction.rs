//! ByteReservation for new devices when `limits.devices` is reached: the registration of plain UDP that was silent the longest is
//! evicted for a device that the broker has accepted. A lifetime may be years, and nobody can tell a device that sleeps from
//! one that is dead; one that was heard within a day is not evicted.
//!
//! 1. A Register beyond the limit goes on to the broker if there is a device to evict.
//! 2. When the broker has accepted the new device, the old one is evicted. So somebody who has no credentials evicts nobody.

use std::time::{Duration, Instant};

use super::Gateway;
use super::broker::RegistrationId;
use super::report::LeaveReason;

/// A device that was silent for less than this is not evicted.
const LEAST_SILENCE: Duration = Duration::from_secs(24 * 3600);
/// Devices that are looked at for one Register: each look at one that was heard meanwhile puts it off by a day.
const LOOKS: usize = 1_000;

impl Gateway {
    /// A device of plain UDP is here. One that speaks DTLS is never evicted: it proved who it is.
    pub(super) fn watch_silence(&mut self, id: RegistrationId) {
        if let Some(device) = self.registry.device(id).filter(|device| device.identity.is_none()) {
            self.silent.set(id, device.last_heard());
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.devices_and_pending() >= self.settings.limits.devices
    }

    /// Returns the device that may be evicted now.
    pub(super) fn evictable(&mut self, now: Instant) -> Option<RegistrationId> {
        for _ in 0..LOOKS {
            let (heard, id) = self.silent.first().filter(|(heard, _)| *heard + LEAST_SILENCE <= now)?;
            match self.registry.device(id).map(|device| device.last_heard()) {
                Some(last) if last > heard => self.silent.set(id, last),
                Some(_) => return Some(id),
                None => self.silent.cancel(id),
            }
        }
        None
    }

    /// Whether a device that the broker has accepted can be registered; another one may be evicted for it.
    pub(super) fn make_room_for(&mut self, now: Instant, endpoint: &str) -> bool {
        let replaces = self.registry.id_by_endpoint(endpoint).is_some();
        if replaces || self.registry.len() < self.settings.limits.devices {
            return true;
        }
        let Some(silent) = self.evictable(now) else { return false };
        self.leave(now, silent, LeaveReason::Evicted);
        true
    }
}
