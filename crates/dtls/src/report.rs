//! Reports for metrics and logs, which the shell writes.

use std::net::SocketAddr;

use lwm2m_base::{AssociationId, Peer};

use super::cipher::Suite;
use super::handshake::HandshakeError;
use lwm2m_base::identity::PskIdentity;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DtlsReport {
    /// The outcome of a datagram. There is exactly one for each datagram. The association of `peer` is the one that a
    /// record belongs to, if there is one; the address is the source of the datagram.
    Datagram { peer: Peer, outcome: DtlsDatagramOutcome },
    /// A client with a valid cookie began one.
    HandshakeBegun { peer: Peer },
    /// Our flight was sent once more.
    HandshakeRetransmitted { peer: Peer },
    HandshakeCompleted {
        peer: Peer,
        suite: Suite,
        /// Our connection id is in the client's records.
        connection_id: bool,
        resumed: bool,
    },
    HandshakeFailed {
        peer: Peer,
        /// The PSK identity, if the client named one.
        identity: Option<PskIdentity>,
        reason: HandshakeFailure,
    },
    /// The device speaks from another address now.
    Moved { peer: Peer, from: SocketAddr, to: SocketAddr },
    /// An association of an earlier process continues.
    Restored { peer: Peer },
    /// The record of an association of an earlier process cannot be read.
    NotRestored { association: AssociationId },
    /// A plaintext was not sent, because its association is closed or has no free record number.
    Unsent { association: AssociationId },
    /// A key is needed, and cannot be asked for: too many others are asked for.
    KeyNotAsked { identity: PskIdentity },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HandshakeFailure {
    /// The handshake was not finished in time.
    Deadline,
    /// The handshake was not finished in time, and the client sent records under another key.
    WrongKey,
    /// The same client began another handshake.
    Restarted,
    /// Another handshake needed its place.
    Evicted,
    /// The key of the client was revoked or replaced.
    Revoked,
    /// The key could not be looked up.
    KeyUnavailable,
    /// OpenSSL reported a failure.
    Failed(HandshakeError),
}

/// The outcome of a datagram. For a datagram with several records it is that of the first record that was not
/// dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DtlsDatagramOutcome {
    /// Data of an association.
    Data,
    /// A part of a handshake.
    Handshake,
    /// A hello without a valid cookie, answered with one.
    CookieAsked,
    /// Kept until its handshake is finished.
    Early,
    Alert,
    /// The client lost our last flight; it was sent again.
    LastFlightRepeated,
    /// A wish to renegotiate, refused.
    RenegotiationRefused,
    Dropped(DtlsDropReason),
}

/// The reason why a datagram was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DtlsDropReason {
    NoRecord,
    /// A hello of which not enough is there, or not of this protocol.
    NoHello,
    /// The record belongs to no association and to no handshake.
    Unknown,
    UnknownConnectionId,
    /// A record that is not authentic.
    Forged,
    /// A record that was received before, or is too old to tell (RFC 6347 section 4.1.2.6).
    Replayed,
    /// A handshake would be begun, and DTLS is switched off.
    NoAcceptor,
    TooManyHandshakes,
    TooManyHandshakesFromAddress,
    /// More came before the end of a handshake than is kept.
    TooMuchHeld,
    /// An authentic record that has no place here.
    Unexpected,
}

/// The reason why an association was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AssociationCloseReason {
    /// The device closed it.
    CloseNotify,
    /// The device sent a fatal alert, of this number.
    Alert(u8),
    /// A newer one from the same address is established.
    Replaced,
    /// The key that it was made by is not its device's any more.
    Revoked,
    Idle,
    /// The association was evicted for a newer one: it had been silent longest, or was one of many of its device.
    Evicted,
    TooManyForged,
    /// The sequence numbers of the association are exhausted.
    SequenceExhausted,
}
