//! Sums over the registered devices. Every device adds its own contributions, so that reading the sums costs the same
//! for any number of devices.

use lwm2m_base::total::Total;

/// Sums over all registered devices. A device counts from its insertion into the registry until it is dropped.
#[derive(Debug, Default)]
pub struct RegistryTotals {
    /// Bytes that the registrations take.
    pub registration_bytes: Total,
    pub pending_commands: Total,
    pub deferred_acks: Total,
    /// Paths that `auto_observe` has not observed yet.
    pub scheduled_observations: Total,
    /// Devices in queue mode whose awake window was over when it was checked last.
    pub asleep: Total,
}
