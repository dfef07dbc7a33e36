//! The outputs of the exchanges, which are datagrams and counts, and the events of single messages.

use lwm2m_base::Peer;

use crate::coap::{ExchangeError, MessageId, PeerClass, Request, Response};

/// Identifies a request of the gateway, and the observation that it may have begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExchangeId(pub(crate) u64);

/// Identifies a request of a peer that waits for its response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub(crate) u64);

/// A datagram that has to leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    pub peer: Peer,
    pub datagram: Vec<u8>,
}

/// A datagram to send, or an event to count beside the outcomes of datagrams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CoapOutput {
    Transmit(Transmit),
    Retransmitted(Peer),
    /// The oldest remembered message of this peer was evicted early to make room: its duplicate would pass for a new
    /// message.
    Evicted(Peer),
}

/// An event of single messages, for the block-wise transfer above them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ExchangeEvent {
    /// A peer sent a request. The owner answers it with [`Exchanges::respond`](super::Exchanges::respond).
    Request {
        id: RequestId,
        peer: Peer,
        class: PeerClass,
        request: Request,
    },
    /// The peer has received the request and will answer later.
    Acknowledged {
        exchange: ExchangeId,
    },
    /// The final answer has come. `observing` has the Observe number when the exchange lives on as an observation.
    Response {
        exchange: ExchangeId,
        response: Response,
        observing: Option<u32>,
    },
    Reset {
        exchange: ExchangeId,
    },
    /// An answer came that cannot be read, and its repetition would be the same.
    Failed {
        exchange: ExchangeId,
        error: ExchangeError,
    },
    /// A notification has come. One without a number, or with an error code, ends the observation.
    Notification {
        observation: ExchangeId,
        number: Option<u32>,
        response: Response,
        pending_ack: Option<PendingAck>,
    },
    /// A notification that cannot be read. When it was reset the observation is `over`: RFC 7641 section 3.6 lets the
    /// device forget it.
    NotificationFailed {
        observation: ExchangeId,
        error: ExchangeError,
        over: bool,
    },
}

/// An acknowledgement that was not sent yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PendingAck {
    pub(super) peer: Peer,
    pub(super) id: MessageId,
}
