//! Transmission parameters and the times that follow from them (RFC 7252 section 4.8).

use std::time::Duration;

use lwm2m_base::ShardSet;

/// Says when a confirmable notification is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AckMode {
    /// A notification is acknowledged on receipt.
    OnReceipt,
    /// A notification is acknowledged when [`Endpoint::acknowledge`](super::Endpoint::acknowledge) is called. Until
    /// then the peer repeats the notification, and the repetitions have no effect. If the first answer to an observe
    /// request was lost, the next notification counts as that answer and is acknowledged at once.
    Deferred,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Parameters {
    pub ack_timeout: Duration,
    /// Upper bound of the random factor of the first timeout; at least 1.0.
    pub ack_random_factor: f64,
    /// Limits the retransmissions of a message. A further block of a transfer has twice as many.
    pub max_retransmit: u8,
    pub max_latency: Duration,
    pub processing_delay: Duration,
    pub acknowledge_notifications: AckMode,
    /// The length of a token of the gateway in bytes, 1 to 8.
    pub token_length: usize,
    /// The shards whose tokens the endpoint gives out.
    pub shards: ShardSet,
    /// Whether a token names the shard of its device, rather than any of `shards`.
    pub tokens_of_device: bool,
    /// Limits the messages that are remembered for duplicate detection, for each peer and for all peers.
    pub deduplication_entries_per_peer: usize,
    pub deduplication_entries: usize,
    /// The maximum number of requests of devices that wait for the answer of the gateway.
    pub pending_requests: usize,
    /// The size of a block of the gateway, 16 to 1024 bytes. A larger body is sent block by block.
    pub block_size: usize,
    /// The maximum size of a body that comes in blocks. Unregistered peers may send 64 KiB of them.
    pub received_body_size: usize,
    /// The maximum number of bodies that peers send in blocks at a time, separately over DTLS and over plain UDP.
    /// Unregistered peers may send half as many in addition.
    pub block_uploads: usize,
    /// The maximum size of all bodies together that come in blocks, whether the gateway asked for them or not.
    pub block_transfer_bytes: usize,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            ack_timeout: Duration::from_secs(2),
            ack_random_factor: 1.5,
            max_retransmit: 4,
            max_latency: Duration::from_secs(100),
            processing_delay: Duration::from_secs(2),
            acknowledge_notifications: AckMode::OnReceipt,
            token_length: 8,
            shards: ShardSet::ALL,
            tokens_of_device: false,
            deduplication_entries_per_peer: 64,
            deduplication_entries: 200_000,
            pending_requests: 20_000,
            block_size: 1024,
            received_body_size: 1024 * 1024,
            block_uploads: 1000,
            block_transfer_bytes: 64 * 1024 * 1024,
        }
    }
}

impl Parameters {
    /// Returns MAX_TRANSMIT_SPAN, the longest time from the first transmission of a confirmable message to its last.
    pub(crate) fn max_transmit_span(&self) -> Duration {
        self.ack_timeout.mul_f64(self.ack_random_factor * (doublings(self.max_retransmit) - 1.0))
    }

    /// Returns MAX_TRANSMIT_WAIT, the time from the first transmission until the sender gives up.
    pub fn max_transmit_wait(&self) -> Duration {
        self.ack_timeout.mul_f64(self.ack_random_factor * (doublings(self.max_retransmit + 1) - 1.0))
    }

    /// Returns EXCHANGE_LIFETIME, the time after which a message id may be used for another confirmable message.
    pub fn exchange_lifetime(&self) -> Duration {
        self.max_transmit_span() + 2 * self.max_latency + self.processing_delay
    }

    /// Returns NON_LIFETIME, the same for non-confirmable messages.
    pub(crate) fn non_lifetime(&self) -> Duration {
        self.max_transmit_span() + self.max_latency
    }
}

fn doublings(times: u8) -> f64 {
    2f64.powi(i32::from(times))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_give_the_times_of_rfc_7252() {
        let parameters = Parameters::default();
        assert_eq!(parameters.max_transmit_span(), Duration::from_secs(45));
        assert_eq!(parameters.max_transmit_wait(), Duration::from_secs(93));
        assert_eq!(parameters.exchange_lifetime(), Duration::from_secs(247));
        assert_eq!(parameters.non_lifetime(), Duration::from_secs(145));
    }
}
