//! Limits the number of devices by the file descriptors of the process. Each device needs one for its connection to the
//! broker.
//!
//! Some are kept for what is no device: reading the configuration anew, the probes of an orchestrator, the calls of
//! EMQX. The system always gives the lowest number that is free, so that a number above [`Descriptors::ceiling`] shows
//! that only those are left; the connections of devices give such a number back.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use rlimit::Resource;

use lwm2m_core::gateway::config::Limits;

/// Number of reserved descriptors, but at most a quarter of all.
const KEPT: u64 = 200;

/// The system errors without a free descriptor: EMFILE of the process, ENFILE of the system.
const USED_UP: [i32; 2] = [24, 23];

/// The limit of open file descriptors of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Descriptors {
    pub limit: u64,
}

impl Descriptors {
    /// Raises the limit as far as the system allows.
    pub(crate) fn raise() -> io::Result<Self> {
        rlimit::increase_nofile_limit(u64::MAX).map(|limit| Self { limit })
    }

    /// Returns the limit in force; unlimited if the system does not report one.
    pub(crate) fn of_process() -> Self {
        Self { limit: rlimit::getrlimit(Resource::NOFILE).map_or(u64::MAX, |(soft, _)| soft) }
    }

    /// Returns the maximum number of device connections.
    pub(crate) fn ceiling(self) -> u64 {
        self.limit - KEPT.min(self.limit / 4)
    }

    /// Returns whether a descriptor is one of the reserved ones.
    pub(crate) fn keeps(self, descriptor: &impl AsRawFd) -> bool {
        u64::try_from(descriptor.as_raw_fd()).is_ok_and(|number| number >= self.ceiling())
    }

    /// Returns whether at most the reserved descriptors are free.
    pub(crate) fn are_used_up(self) -> bool {
        match File::open("/dev/null") {
            Ok(file) => self.keeps(&file),
            Err(error) => is_used_up(&error),
        }
    }
}

/// The maximum number of devices that the descriptors allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DeviceCapacity {
    pub descriptors: Descriptors,
    /// Whether the broker runs in this process, so that both ends of a device's connection need a descriptor.
    pub embedded: bool,
}

impl DeviceCapacity {
    /// Returns the maximum number of devices.
    pub(crate) fn devices(self) -> usize {
        let ends = if self.embedded { 2 } else { 1 };
        usize::try_from(self.descriptors.ceiling() / ends).unwrap_or(usize::MAX).max(1)
    }

    /// Returns the limits with at most that number of devices.
    pub(crate) fn bound(self, limits: &Limits) -> Limits {
        Limits { devices: limits.devices.min(self.devices()), ..limits.clone() }
    }
}

/// Returns the system error for exhausted descriptors.
pub(crate) fn used_up() -> io::Error {
    io::Error::from_raw_os_error(USED_UP[0])
}

/// Returns whether an error means that no descriptor is free.
pub(crate) fn is_used_up(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|number| USED_UP.contains(&number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_descriptors_are_for_what_is_no_device() {
        let room = |limit, embedded| DeviceCapacity { descriptors: Descriptors { limit }, embedded };
        let devices = |limit| room(limit, false).devices();
        assert_eq!((devices(20_000), devices(1_024), devices(64), devices(1)), (19_800, 824, 48, 1));
        assert_eq!(room(20_000, true).devices(), 9_900);
        let limits = Limits { devices: 100_000, ..Limits::default() };
        assert_eq!(room(20_000, false).bound(&limits).devices, 19_800);
        assert_eq!(room(1_048_576, false).bound(&limits), limits);
    }

    #[test]
    fn a_descriptor_above_the_ceiling_is_kept() {
        assert!(Descriptors { limit: 0 }.are_used_up());
        assert!(!Descriptors { limit: u64::MAX }.are_used_up());
        assert!(is_used_up(&io::Error::from_raw_os_error(24)) && !is_used_up(&io::Error::from_raw_os_error(111)));
    }
}
