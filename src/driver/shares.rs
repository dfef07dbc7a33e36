//! The shares of the driver threads in the limits of the program.

use std::num::NonZero;

use crate::upstream::UpstreamConfig;
use lwm2m_base::rate::{Rate, RateLimit};
use lwm2m_core::coap::Parameters;
use lwm2m_core::gateway::config::Limits;
use lwm2m_dtls::DtlsConfig;

/// The divisor for the extra room of each thread: devices are not distributed evenly over the threads, and some move.
/// The table of endpoint names enforces the limit for all threads together.
const SLACK: usize = 8;

/// The share of one of several threads in the limits of the whole program. A limit for one device or one message is the
/// same for all threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadShare(NonZero<u8>);

impl ThreadShare {
    /// The share of the only thread.
    pub(crate) const WHOLE: Self = Self(NonZero::<u8>::MIN);

    /// Returns the share of one of so many threads.
    pub fn of_threads(threads: NonZero<u8>) -> Self {
        Self(threads)
    }

    /// Returns the number of threads.
    pub fn threads(self) -> NonZero<u8> {
        self.0
    }

    pub fn limits(self, whole: &Limits) -> Limits {
        Limits {
            devices: self.with_slack(whole.devices),
            pending_registrations: self.part(whole.pending_registrations),
            registers: self.rate_limit(whole.registers),
            unregistered: self.rate_limit(whole.unregistered),
            pending_command_bytes_total: self.part(whole.pending_command_bytes_total),
            firmware_jobs: self.with_slack(whole.firmware_jobs),
            ..whole.clone()
        }
    }

    pub fn coap(self, whole: Parameters) -> Parameters {
        // Pending registrations must leave room for the requests of registered devices.
        let room = usize::from(self.0 > NonZero::<u8>::MIN);
        Parameters {
            deduplication_entries: self.part(whole.deduplication_entries),
            pending_requests: self.part(whole.pending_requests) + room,
            block_uploads: self.part(whole.block_uploads),
            block_transfer_bytes: self.part(whole.block_transfer_bytes).max(whole.received_body_size),
            ..whole
        }
    }

    pub fn dtls(self, whole: &DtlsConfig) -> DtlsConfig {
        DtlsConfig {
            begun: self.rate_limit(whole.begun),
            handshakes: self.part(whole.handshakes),
            handshakes_per_address: self.part(whole.handshakes_per_address),
            associations: self.with_slack(whole.associations),
            cached_keys: self.part(whole.cached_keys),
            ..whole.clone()
        }
    }

    pub fn upstream(self, whole: &UpstreamConfig) -> UpstreamConfig {
        let mut share = whole.clone();
        let link = share.link_mut();
        link.connections_per_second = self.count(link.connections_per_second);
        link.queue_total = self.part(link.queue_total).max(link.queue_per_device);
        link.event_queue = self.part(link.event_queue);
        share
    }

    /// Returns an equal part of a number, rounded up.
    pub fn part(self, whole: usize) -> usize {
        whole.div_ceil(usize::from(self.0.get()))
    }

    fn with_slack(self, whole: usize) -> usize {
        match self {
            Self::WHOLE => whole,
            _ => self.part(whole.saturating_add(whole.div_ceil(SLACK))),
        }
    }

    fn count(self, whole: u32) -> u32 {
        whole.div_ceil(u32::from(self.0.get()))
    }

    // The kernel distributes the ports of one address over the threads.
    fn rate_limit(self, RateLimit { total, address }: RateLimit) -> RateLimit {
        RateLimit { total: self.rate(total), address: self.rate(address) }
    }

    fn rate(self, whole: Rate) -> Rate {
        whole.shared_by(usize::from(self.0.get()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(threads: u8) -> ThreadShare {
        ThreadShare::of_threads(NonZero::new(threads).unwrap())
    }

    #[test]
    fn the_only_thread_has_all() {
        let (limits, coap, dtls) = (Limits::default(), Parameters::default(), DtlsConfig::default());
        assert_eq!((ThreadShare::WHOLE.limits(&limits), ThreadShare::WHOLE.dtls(&dtls)), (limits, dtls));
        assert_eq!(format!("{:?}", ThreadShare::WHOLE.coap(coap.clone())), format!("{coap:?}"));
    }

    #[test]
    fn the_threads_have_together_what_is_configured_and_some_room_for_devices_that_are_spread_unevenly() {
        let whole = Limits { devices: 1_000, pending_registrations: 101, ..Limits::default() };
        let limits = share(4).limits(&whole);
        assert_eq!((limits.devices, limits.pending_registrations), (282, 26));
        assert_eq!(limits.registers.total.per_second, whole.registers.total.per_second / 4);
        assert_eq!((limits.observations, limits.registered), (whole.observations, whole.registered));
        let few = share(64).limits(&Limits { devices: 1, pending_registrations: 1, ..whole });
        assert_eq!((few.devices, few.pending_registrations), (1, 1));
    }

    #[test]
    fn registers_that_wait_leave_room_for_other_requests_in_each_thread() {
        for threads in 1..=64 {
            let (registrations, requests) = (1_000, 1_001);
            let coap = share(threads).coap(Parameters { pending_requests: requests, ..Parameters::default() });
            assert!(share(threads).part(registrations) < coap.pending_requests, "{threads}");
        }
    }

    #[test]
    fn a_body_of_the_largest_size_fits_into_the_share_of_a_thread() {
        let whole = Parameters { received_body_size: 700, block_transfer_bytes: 1_000, ..Parameters::default() };
        assert_eq!(share(2).coap(whole).block_transfer_bytes, 700);
    }
}
