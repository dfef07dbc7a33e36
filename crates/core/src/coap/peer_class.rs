//! Classes of peers, which decide what state the endpoint keeps for a message.

/// The class of the peer that sent a message, as the owner of the endpoint knows it. Unregistered peers have limits of
/// their own, so that they cannot take the room of registered devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerClass {
    /// Registered device: its messages are deduplicated and its block-wise bodies assembled.
    Registered,
    /// Unregistered peer: the same, within the share of unregistered peers.
    Unregistered,
    /// Idempotent request of an unregistered peer, or for a block of a firmware image: no deduplication state is kept.
    Idempotent,
}
