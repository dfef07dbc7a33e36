//! What the core has to say to people: to be counted and logged by the shell.

use std::time::Duration;

use crate::coap::{Code, DecodeError, Peer};

use super::broker::CloseReason;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// What became of a datagram: exactly one of these for each.
    Datagram {
        peer: Peer,
        verdict: Verdict,
    },
    /// A confirmable message was sent once more.
    Retransmitted {
        peer: Peer,
    },
    Registered {
        endpoint: String,
        peer: Peer,
        lifetime: Duration,
    },
    RegisterRejected {
        peer: Peer,
        endpoint: Option<String>,
        code: Code,
        reason: String,
    },
    Updated {
        endpoint: String,
    },
    /// The device speaks from another address now.
    Moved {
        endpoint: String,
        from: Peer,
        to: Peer,
    },
    Left {
        endpoint: String,
        reason: LeaveReason,
    },
    /// A command came to its end.
    Command {
        endpoint: String,
        msg_type: &'static str,
        outcome: CommandOutcome,
    },
    Notification {
        endpoint: String,
        outcome: NotificationOutcome,
    },
    /// A payload that could not be understood; the application was told 4.00.
    UndecodableContent {
        endpoint: String,
        path: String,
        reason: String,
    },
    /// The broker did not allow a publication; `first` for the first one of this device.
    PublishRefused {
        endpoint: String,
        topic: String,
        first: bool,
    },
}

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
    Dropped(DropReason),
}

/// Why nothing was done with a datagram but, where due, a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DropReason {
    NoMessage(DecodeError),
    /// An acknowledgement, a reset or a response to nothing that is waited for.
    Unexpected,
    /// A notification that is older than the newest one (RFC 7641 section 3.4).
    StaleNotification,
    /// Code and type do not go together (RFC 7252 section 4.2, 4.3), or a critical option of a response is unknown.
    Senseless,
    /// The table of exchanges is full.
    TooManyExchanges,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LeaveReason {
    Deregistered,
    LifetimeOver,
    /// The endpoint registered again.
    Replaced,
    Broker(CloseReason),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CommandOutcome {
    Answered,
    Reset,
    TimedOut,
    /// It could not be carried out: no JSON, an unknown path ...
    Refused,
    Expired,
    QueueFull,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NotificationOutcome {
    Published,
    /// It carried an error code; the observation is over.
    Ended,
}
