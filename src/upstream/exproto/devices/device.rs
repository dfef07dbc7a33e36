//! What is kept of a device for ExProto: the steps of the handshake, its anchor, and the call of Publish.

use std::collections::VecDeque;
use std::time::Instant;

use crate::upstream::client::device::ConnectionId;
use crate::upstream::client::queue::Serial;
use crate::upstream::client::targets::TargetId;
use crate::upstream::exproto::announcements::AnchorToken;

use super::{DeviceState, ExProtoMessage, ExProtoProtocol};

/// What is kept for one device of its connections to EMQX.
#[derive(Debug, Default)]
pub struct AnchorRecord {
    /// The connection that the broker told us of last. It outlives its anchor: the reason of the end may come later.
    pub conn: Option<String>,
    /// The anchor that `conn` is, or was.
    pub announced: Option<ConnectionId>,
    /// Connections of older registrations of the same clientid, of which the broker may still tell messages.
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
    /// The anchor is gone: until when the answer is waited for, before the publication goes on another one.
    pub patience: Option<Instant>,
}

/// The steps of the handshake, in their order.
#[derive(Debug)]
pub enum ExProtoAttempt {
    /// The anchor is on its way to the broker's listener.
    Dialing { anchor: ConnectionId, token: AnchorToken },
    /// The anchor is open and has sent its token; the broker has to tell us of it.
    Announced { anchor: ConnectionId, token: AnchorToken },
    /// The broker told us the token, so that the `conn` is known.
    Authenticating { anchor: ConnectionId },
    Subscribing {
        anchor: ConnectionId,
        /// Commands that overtook the answer to Subscribe.
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

impl DeviceState<ExProtoProtocol> {
    pub fn anchor(&self) -> Option<ConnectionId> {
        match self {
            Self::Connecting(attempt) => Some(attempt.anchor()),
            Self::Ready(anchor) => Some(*anchor),
            Self::Held | Self::WaitingToReconnect(_) => None,
        }
    }

    /// Returns the token that the broker has not told yet.
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
