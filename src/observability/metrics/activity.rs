//! The counts from which the console makes its rates.

use std::ops::AddAssign;

/// Counts since the start of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ActivityCounts {
    pub registrations: u64,
    pub updates: u64,
    pub notifications: u64,
    /// Completed commands, with any outcome.
    pub commands: u64,
    pub commands_timed_out: u64,
    /// Failures of devices.
    pub failures: u64,
    /// Publications that the broker accepted.
    pub publications: u64,
    /// Completed handshakes.
    pub handshakes: u64,
    pub handshakes_failed: u64,
}

/// Adds the counts of another driver thread.
impl AddAssign for ActivityCounts {
    fn add_assign(&mut self, other: Self) {
        lwm2m_base::add_fields!(
            self, other;
            registrations, updates, notifications, commands, commands_timed_out, failures, publications, handshakes,
            handshakes_failed
        );
    }
}
