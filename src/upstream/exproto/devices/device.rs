//! One device on its way to the broker, and what all registrations of one clientid have under way there.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use crate::upstream::client::clients::ClientKey;
use crate::upstream::client::queue::Serial;
use crate::upstream::client::targets::TargetId;
use crate::upstream::exproto::announcements::Token;
use lwm2m_core::gateway::broker::{ClientInfo, CloseReason};

use super::{AnchorId, Message};

#[derive(Debug)]
pub struct Device {
    pub client: ClientInfo,
    pub key: ClientKey,
    pub state: State,
    /// The connection that the broker told us of last. It outlives its anchor: the reason of the end may come later.
    pub conn: Option<String>,
    /// The anchor that `conn` is, or was.
    pub announced: Option<AnchorId>,
    /// Connections of older registrations of the same clientid, of which the broker may still tell messages.
    pub former: VecDeque<String>,
    /// Commands that such connections received before this device was connected.
    pub inherited: Vec<Message>,
    /// Where it is, or where it was last.
    pub node: Option<TargetId>,
    /// That node did not serve it: the next attempt goes to another one.
    pub elsewhere: bool,
    /// Where it was last a client.
    pub home: Option<TargetId>,
    /// The core knows it as connected: from now on it is the link that connects it again.
    pub connected_before: bool,
    /// It was so before this process began; the core waits to hear that it is again.
    pub resumed: bool,
    /// Attempts in a row that led to nothing.
    pub failures: u32,
    /// When EMQX refused it first since it was a client, without another fault since.
    pub refused_since: Option<Instant>,
    /// When it said something last, as far as this process knows.
    pub active: Option<Instant>,
    /// Disconnected, but it has something to publish.
    pub leaving: bool,
    /// The broker ended the connection by its will, while a newer registration was asked for.
    pub ended: Option<CloseReason>,
}

/// What the broker was asked on behalf of one clientid, whichever of its registrations asked.
#[derive(Debug, Default)]
pub struct UnderWay {
    /// Calls of Authenticate without an answer, and when they were made. The broker may carry one out at any time, and
    /// closes the connection that has the clientid then.
    pub authenticating: BTreeMap<AnchorId, Instant>,
    /// Until when an Authenticate that ended without a verdict may be carried out after all.
    pub doubtful_until: Option<Instant>,
    /// The anchor for which Authenticate was called last.
    pub last_authenticated: Option<AnchorId>,
    pub publishing: Option<Publishing>,
}

/// A call of Publish without an answer.
#[derive(Debug)]
pub struct Publishing {
    pub anchor: AnchorId,
    pub serial: Serial,
    pub begun: Instant,
    /// The anchor is gone: until when the answer is waited for, before the publication goes on another one.
    pub patience: Option<Instant>,
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
    },
    WaitingToReconnect(Wait),
}

/// What a device waits for before the next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    BackOff,
    /// Its turn among the many that come back.
    Turn,
    /// The broker is away.
    Parked,
    /// A newer registration of the clientid was asked for.
    Superseded,
}

impl Device {
    /// One that the core knows as connected, by an earlier process.
    pub fn resumed(client: ClientInfo, key: ClientKey) -> Self {
        let state = State::WaitingToReconnect(Wait::Turn);
        Self { state, connected_before: true, resumed: true, ..Self::new(client, key) }
    }

    /// One that has just registered.
    pub fn registered(now: Instant, client: ClientInfo, key: ClientKey) -> Self {
        Self { active: Some(now), ..Self::new(client, key) }
    }

    fn new(client: ClientInfo, key: ClientKey) -> Self {
        Self {
            client,
            key,
            state: State::Held,
            conn: None,
            announced: None,
            former: VecDeque::new(),
            inherited: Vec::new(),
            node: None,
            elsewhere: false,
            home: None,
            connected_before: false,
            resumed: false,
            failures: 0,
            refused_since: None,
            active: None,
            leaving: false,
            ended: None,
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
            | Self::Ready { anchor } => Some(*anchor),
            Self::Held | Self::WaitingToReconnect(_) => None,
        }
    }

    pub fn is_ready(&self) -> bool {
        matches!(self, Self::Ready { .. })
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
