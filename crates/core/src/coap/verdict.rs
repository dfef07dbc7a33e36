//! What became of a datagram.

use super::DecodeError;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    Request,
    Response,
    Notification,
    Acknowledgement,
    Reset,
    /// An empty confirmable message, answered with a reset.
    Ping,
    /// Seen before; its stored reply was sent again.
    Duplicate,
    /// A request that was answered with its refusal, and forgotten.
    Refused,
    Dropped(DropReason),
}

/// Why a datagram was dropped. It may have been answered with a reset, and where it was the answer to a request of ours,
/// that request has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DropReason {
    NoMessage(DecodeError),
    /// An acknowledgement, a reset or a response to nothing that is waited for.
    Unexpected,
    /// A notification that is older than the newest one (RFC 7641 section 3.4).
    StaleNotification,
    /// Code and type do not go together (RFC 7252 section 4.3): a request in an acknowledgement ...
    Senseless,
    /// A response, or a non-confirmable request, with a critical option that is not known (RFC 7252 section 5.4.1).
    CriticalOption,
    /// Too many requests of devices wait for their answer.
    TooManyRequests,
    /// More than strangers may send, together or from this address.
    RateLimited,
    /// More than the devices that are registered at this address may send.
    DeviceRateLimited,
}
