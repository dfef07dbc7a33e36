//! Sizes of the tables of the endpoint.

/// The entries of each table: all of them are bounded, and empty when nothing is under way and EXCHANGE_LIFETIME is
/// over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CoapTableSizes {
    pub exchanges: usize,
    pub observations: usize,
    pub tokens: usize,
    /// Confirmable messages that are not acknowledged.
    pub transmissions: usize,
    /// Requests of peers that wait for our answer.
    pub pending_requests: usize,
    /// Messages that are remembered for duplicate detection.
    pub remembered_messages: usize,
    /// Requests of ours and bodies of notifications, with all their blocks.
    pub transfers: usize,
    /// Bodies of peers that are being received in blocks.
    pub assemblies: usize,
    /// Bodies of peers that were received completely, with their responses.
    pub concluded_bodies: usize,
    /// The received bytes of incomplete bodies in both directions.
    pub block_transfer_bytes: usize,
    /// Notifications that wait for the body of an earlier one.
    pub waiting_notifications: usize,
    pub deadlines: usize,
    /// Outputs and events that were not polled yet.
    pub outputs: usize,
}

/// Adds the sizes of the tables of another instance.
impl std::ops::AddAssign for CoapTableSizes {
    fn add_assign(&mut self, other: Self) {
        lwm2m_base::add_fields!(self, other;
            exchanges, observations, tokens, transmissions, pending_requests, remembered_messages, transfers,
            assemblies, concluded_bodies, block_transfer_bytes, waiting_notifications, deadlines, outputs
        );
    }
}
