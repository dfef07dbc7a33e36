//! The ExProto state of one device: the steps of its handshake, its anchor, and its call of Publish.

use std::collections::VecDeque;
use std::time::Instant;

use crate::upstream::client::device::ConnectionId;
use crate::upstream::client::publication_queues::Serial;
use crate::upstream::client::targets::TargetId;
use crate::upstream::exproto::announcements::AnchorToken;

use super::{ExProtoMessage, ExProtoProtocol, UpstreamState};

/// Keeps the connections of one device to EMQX.
#[derive(Debug, Default)]
pub struct AnchorRecord {
    /// The connection that EMQX reported last. It outlives its anchor, because the reason of the end may come later.
    pub conn: Option<String>,
    /// The anchor of `conn`.
    pub announced: Option<ConnectionId>,
    /// Lists connections of older registrations of the same client ID, whose messages EMQX may still report.
    pub former: VecDeque<String>,
    /// The node where the device was last a client.
    pub home: Option<TargetId>,
}

/// A call of Publish without an answer.
#[derive(Debug)]
pub struct PublishCall {
    pub anchor: ConnectionId,
    pub serial: Serial,
    pub begun: Instant,
    /// Set when the anchor has ended: the time until which the answer is awaited before the publication is sent on
    /// another anchor.
    pub patience: Option<Instant>,
}

/// Lists the steps of the handshake, in their order.
#[derive(Debug)]
pub enum ExProtoAttempt {
    /// The anchor is being connected to EMQX's listener.
    Dialing { anchor: ConnectionId, token: AnchorToken },
    /// The anchor is open and has sent its token; EMQX has to report it.
    Announced { anchor: ConnectionId, token: AnchorToken },
    /// EMQX reported the token, so that the `conn` is known.
    Authenticating { anchor: ConnectionId },
    Subscribing {
        anchor: ConnectionId,
        /// Keeps commands that arrived before the answer to Subscribe.
        early: Vec<ExProtoMessage>,
    },
}

impl ExProtoAttempt {
    fn anchor(&self) -> ConnectionId {
        match self {
            Self::Dialing { anchor, .. }
            | Self::Announced { anchor, .. }
            | Self::Authenticating { anchor }
            | Self::Subscribing { anchor, .. } => *anchor,
        }
    }
}

impl UpstreamState<ExProtoProtocol> {
    pub fn anchor(&self) -> Option<ConnectionId> {
        match self {
            Self::Connecting(attempt) => Some(attempt.anchor()),
            Self::Ready(anchor) => Some(*anchor),
            Self::Held | Self::WaitingToReconnect(_) => None,
        }
    }

    /// Returns the token that EMQX has not reported yet.
    pub fn token(&self) -> Option<&AnchorToken> {
        match self {
            Self::Connecting(ExProtoAttempt::Dialing { token, .. } | ExProtoAttempt::Announced { token, .. }) => {
                Some(token)
            }
            Self::Connecting(ExProtoAttempt::Authenticating { .. } | ExProtoAttempt::Subscribing { .. })
            | Self::Held
            | Self::Ready(_)
            | Self::WaitingToReconnect(_) => None,
        }
    }
}
