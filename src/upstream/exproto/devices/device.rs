//! One device on its way to the broker.

use crate::gateway::broker::{ClientInfo, DeviceId};
use crate::upstream::exproto::announcements::Token;
use crate::upstream::exproto::nodes::NodeId;
use crate::upstream::queue::Serial;

use super::{AnchorId, Message};

#[derive(Debug)]
pub struct Device {
    pub client: ClientInfo,
    pub state: State,
    /// The connection that the broker told us of last. It outlives its anchor: the reason of the end may come later.
    pub conn: Option<String>,
    /// Where it is, or where it was last.
    pub node: Option<NodeId>,
    /// That node did not serve it: the next attempt goes to another one.
    pub elsewhere: bool,
    /// Where it was last a client.
    pub home: Option<NodeId>,
    /// The core knows it as connected: from now on it is the link that connects it again.
    pub connected_before: bool,
    /// It was so before this process began; the core waits to hear that it is again.
    pub resumed: bool,
    /// Attempts in a row that led to nothing.
    pub failures: u32,
    /// Disconnected, but it has something to publish.
    pub leaving: bool,
    /// The device of the same clientid that waits for this one to have left.
    pub successor: Option<DeviceId>,
}

/// In the order in which a device goes through them.
#[derive(Debug)]
pub enum State {
    Held,
    Dialing {
        anchor: AnchorId,
        token: Token,
    },
    Announced {
        anchor: AnchorId,
        token: Token,
    },
    Authenticating {
        anchor: AnchorId,
    },
    Subscribing {
        anchor: AnchorId,
        /// Commands that overtook the answer to Subscribe.
        early: Vec<Message>,
    },
    Ready {
        anchor: AnchorId,
        publishing: Option<Serial>,
    },
    WaitingToReconnect(Wait),
}

/// What a device waits for before the next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    BackOff,
    /// Its turn among the many that come back.
    Slot,
    /// The broker is away.
    Parked,
}

impl Device {
    /// One that the core knows as connected, by an earlier process.
    pub fn resumed(client: ClientInfo) -> Self {
        Self { connected_before: true, resumed: true, ..Self::new(client) }
    }

    pub fn new(client: ClientInfo) -> Self {
        Self {
            client,
            state: State::Held,
            conn: None,
            node: None,
            elsewhere: false,
            home: None,
            connected_before: false,
            resumed: false,
            failures: 0,
            leaving: false,
            successor: None,
        }
    }
}

impl State {
    pub fn anchor(&self) -> Option<AnchorId> {
        match self {
            Self::Dialing { anchor, .. }
            | Self::Announced { anchor, .. }
            | Self::Authenticating { anchor }
            | Self::Subscribing { anchor, .. }
            | Self::Ready { anchor, .. } => Some(*anchor),
            Self::Held | Self::WaitingToReconnect(_) => None,
        }
    }

    /// The token that the broker has not told yet.
    pub fn token(&self) -> Option<&Token> {
        match self {
            Self::Dialing { token, .. } | Self::Announced { token, .. } => Some(token),
            Self::Held
            | Self::Authenticating { .. }
            | Self::Subscribing { .. }
            | Self::Ready { .. }
            | Self::WaitingToReconnect(_) => None,
        }
    }
}
