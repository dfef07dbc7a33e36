//! Outcomes of received datagrams.

use super::MessageDecodeError;

/// The outcome of a received datagram; every datagram has exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DatagramOutcome {
    Request,
    Response,
    Notification,
    Acknowledgement,
    Reset,
    /// An empty confirmable message, answered with a reset.
    Ping,
    /// The message was received before; the stored reply was sent again.
    Duplicate,
    /// The request was answered with an error, and no state was kept.
    Refused,
    Dropped(DropReason),
}

/// The reason why a datagram was dropped. The datagram may have been answered with a reset. If it was the answer to a
/// request of the gateway, that request has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DropReason {
    NoMessage(MessageDecodeError),
    /// An acknowledgement, a reset or a response that matches no message of the gateway.
    Unexpected,
    /// A notification that is older than the newest one (RFC 7641 section 3.4).
    StaleNotification,
    /// The code is not allowed for the message type (RFC 7252 section 4.3), such as a request in an acknowledgement.
    InvalidCodeForType,
    /// A response, or a non-confirmable request, with an unrecognized critical option (RFC 7252 section 5.4.1).
    CriticalOption,
    /// The limit of unanswered requests of devices is reached.
    TooManyRequests,
    /// The rate limit of unregistered peers is exceeded, in total or for the address.
    RateLimited,
    /// The rate limit of the registered devices at this address is exceeded.
    DeviceRateLimited,
}
