//! Events of the endpoint.

use lwm2m_base::Peer;

use crate::coap::{BlockError, ExchangeError, ExchangeId, PendingAck, Request, RequestId, Response};

/// An event of the endpoint for its owner: whole requests, responses and notifications.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointEvent {
    /// A peer sent a request. The owner answers it with [`Endpoint::respond`](super::Endpoint::respond).
    Request {
        id: RequestId,
        peer: Peer,
        request: Request,
    },
    /// The peer has received the request and will answer later. This comes once for each request, whatever its number
    /// of blocks.
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
    TimedOut {
        exchange: ExchangeId,
    },
    /// Takes the failure of an exchange: the response cannot be read, or the body of the request or of the response
    /// could not be transferred.
    Failed {
        exchange: ExchangeId,
        error: ExchangeError,
    },
    /// A notification has come. One without a number, or with an error code, ends the observation. If it has an
    /// `pending_ack` acknowledgement, the owner sends that with
    /// [`Endpoint::acknowledge`](super::Endpoint::acknowledge).
    Notification {
        observation: ExchangeId,
        number: Option<u32>,
        response: Response,
        pending_ack: Option<PendingAck>,
    },
    /// A notification cannot be read, or its body could not be fetched.
    NotificationFailed {
        observation: ExchangeId,
        number: Option<u32>,
        error: ExchangeError,
        /// Whether it ends the observation.
        over: bool,
    },
    /// A newer notification came before the body of this one was fetched.
    NotificationSuperseded {
        observation: ExchangeId,
    },
    /// The next block of a body that its owner supplies needs these bytes:
    /// `Endpoint::supply`.
    BodyWanted {
        exchange: ExchangeId,
        offset: usize,
        length: usize,
        /// Whether the peer has just answered the block before.
        is_answered: bool,
    },
    /// A body of a peer was refused. The answer to the peer has the reason.
    BodyRefused {
        peer: Peer,
        error: BlockError,
    },
}

impl EndpointEvent {
    /// Returns the exchange that the event is about, unless it is an observation.
    pub(crate) fn exchange(&self) -> Option<ExchangeId> {
        match self {
            Self::Acknowledged { exchange }
            | Self::Response { exchange, .. }
            | Self::Reset { exchange }
            | Self::TimedOut { exchange }
            | Self::BodyWanted { exchange, .. }
            | Self::Failed { exchange, .. } => Some(*exchange),
            Self::Request { .. }
            | Self::Notification { .. }
            | Self::NotificationFailed { .. }
            | Self::NotificationSuperseded { .. }
            | Self::BodyRefused { .. } => None,
        }
    }
}
