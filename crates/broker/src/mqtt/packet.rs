//! Packets of a session in the same form for both versions of MQTT. They are encoded and decoded by `rumqttc`.

use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;

use crate::bus::ForwardedProperties;
use crate::rules::DeviceCredentials;
use crate::subscribers::SubscriptionOptions;

/// The largest packet that is taken.
pub(super) const MAX_PACKET: usize = 16 * 1024 * 1024;

/// The client broke the protocol.
#[derive(Debug, Error)]
#[error("malformed packet: {0}")]
pub(super) struct MalformedClientPacket(pub(super) String);

#[derive(Debug)]
pub(super) enum ClientPacket {
    Connect(ConnectPacket),
    Publish {
        packet: u16,
        publish: PublishPacket,
    },
    PubAck(u16),
    PubRec(u16),
    PubRel(u16),
    PubComp(u16),
    Subscribe {
        packet: u16,
        filters: Vec<(String, SubscriptionOptions)>,
    },
    Unsubscribe {
        packet: u16,
        filters: Vec<String>,
    },
    Ping,
    Disconnect {
        with_will: bool,
        /// Session expiry that replaces the one of CONNECT.
        session_expiry: Option<Duration>,
    },
}

#[derive(Debug)]
pub(super) struct ConnectPacket {
    /// An empty client ID: the broker chooses one.
    pub(super) credentials: DeviceCredentials,
    /// Discards the session of an earlier connection.
    pub(super) clean_start: bool,
    /// The session is kept for this time after the connection has ended.
    pub(super) session_expiry: Duration,
    /// Zero: none.
    pub(super) keep_alive: Duration,
    /// The maximum number of unacknowledged messages with QoS 1 and 2.
    pub(super) receive_maximum: u16,
    pub(super) will: Option<PublishPacket>,
}

#[derive(Clone, Debug)]
pub(super) struct PublishPacket {
    pub(super) topic: String,
    pub(super) qos: u8,
    pub(super) retain: bool,
    /// Marks a packet that was sent before.
    pub(super) dup: bool,
    pub(super) payload: Bytes,
    pub(super) properties: ForwardedProperties,
}

/// The result of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Grant {
    Granted(u8),
    Invalid,
    Denied,
}

/// The reason why the broker ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DisconnectCause {
    TakenOver,
    Kicked,
    Stopped,
}

#[derive(Debug)]
pub(super) enum ServerPacket<'a> {
    /// Accepted. The client ID, if the broker chose it.
    ConnAck {
        chosen: Option<&'a str>,
        session_present: bool,
    },
    /// The client is not authorized.
    Refused,
    /// Version 3.1.1 has no such packet.
    Disconnect(DisconnectCause),
    /// The packet identifier is 0 for QoS 0.
    Publish {
        packet: u16,
        publish: PublishPacket,
    },
    PubAck {
        packet: u16,
        allowed: bool,
    },
    PubRec(u16),
    PubRel(u16),
    PubComp(u16),
    SubAck {
        packet: u16,
        grants: Vec<Grant>,
    },
    /// Tells for each filter whether it was subscribed.
    UnsubAck {
        packet: u16,
        existed: Vec<bool>,
    },
    Pong,
}
