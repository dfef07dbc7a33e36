//! Reasons why a connection ended, and their effect on waiting events.

use super::events::HandlerCallError;

#[derive(Debug)]
pub(super) enum ConnectionEnd {
    ClosedByPeer,
    /// The gateway called Close.
    Closed,
    KeepaliveTimeout,
    IdleTimeout,
    Kicked,
    Discarded,
    /// The device does not read what is sent to it.
    SendTimeout,
    /// The handler refused an event, or was not there.
    Failed(HandlerCallError),
    /// EMQX 5.8.9 crashes on a wildcard in a Publish and on a shared Subscribe.
    Crashed,
}

/// The treatment of the events that wait when the connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RemainingEvents {
    /// They are delivered, then OnSocketClosed, if all of that takes no more than 15 s.
    Delivered,
    /// Loses the waiting events, if there are any, and OnSocketClosed.
    LostWithTheEnd,
    /// They are lost; OnSocketClosed is tried at once.
    Skipped,
}

impl ConnectionEnd {
    pub(super) fn rest(&self) -> RemainingEvents {
        match self {
            Self::ClosedByPeer | Self::Closed | Self::KeepaliveTimeout | Self::Kicked | Self::SendTimeout => {
                RemainingEvents::Delivered
            }
            Self::IdleTimeout | Self::Discarded | Self::Crashed => RemainingEvents::LostWithTheEnd,
            Self::Failed(_) => RemainingEvents::Skipped,
        }
    }

    /// Returns the `reason` of OnSocketClosed: a printed Erlang term.
    pub(super) fn reason(&self) -> String {
        let atom = match self {
            Self::ClosedByPeer => "tcp_closed",
            Self::Closed => "normal",
            Self::KeepaliveTimeout => "keepalive_timeout",
            Self::IdleTimeout => "idle_timeout",
            Self::Kicked => "kicked",
            Self::Discarded => "discarded",
            Self::SendTimeout => "send_timeout",
            Self::Failed(failure) => return format!("{{shutdown,{{error,{failure}}}}}"),
            Self::Crashed => return "#{exception => error}".to_owned(),
        };
        format!("{{shutdown,{atom}}}")
    }
}
