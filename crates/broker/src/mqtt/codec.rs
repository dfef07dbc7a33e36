//! Packets of a session in the same form for both versions of MQTT. They are encoded and decoded by `rumqttc`.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use thiserror::Error;

use super::{v5, v311};
use crate::bus::{ForwardedProperties, SubscriptionOptions};
use crate::control::DeviceCredentials;

/// The largest packet that is taken.
pub(super) const MAX_PACKET: usize = 16 * 1024 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MqttVersion {
    V311,
    V5,
}

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
    /// Not authorized.
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

impl MqttVersion {
    /// Returns the version that the first packet asks for (MQTT 5.0 section 3.1.2.2); `None` until enough of it has
    /// arrived.
    ///
    /// # Errors
    /// Not a CONNECT, or another version.
    pub(super) fn of_connect(bytes: &[u8]) -> Result<Option<Self>, MalformedClientPacket> {
        let length = bytes.iter().skip(1).take(4).position(|byte| byte & 0x80 == 0);
        let Some(after_length) = length.map(|length| length + 2) else {
            return if bytes.len() > 4 { Err(MalformedClientPacket("remaining length".to_owned())) } else { Ok(None) };
        };
        match bytes.get(after_length..after_length + 7) {
            None => Ok(None),
            Some([0, 4, b'M', b'Q', b'T', b'T', 4]) if bytes.first() == Some(&0x10) => Ok(Some(Self::V311)),
            Some([0, 4, b'M', b'Q', b'T', b'T', 5]) if bytes.first() == Some(&0x10) => Ok(Some(Self::V5)),
            Some(_) => Err(MalformedClientPacket("no CONNECT of MQTT 3.1.1 or 5".to_owned())),
        }
    }

    /// Takes the next packet, if all of it is there.
    pub(super) fn decode(self, bytes: &mut BytesMut) -> Result<Option<ClientPacket>, MalformedClientPacket> {
        match self {
            Self::V311 => v311::decode(bytes),
            Self::V5 => v5::decode(bytes),
        }
    }

    pub(super) fn encode(self, reply: ServerPacket<'_>, out: &mut BytesMut) -> Result<(), MalformedClientPacket> {
        match self {
            Self::V311 => v311::encode(reply, out),
            Self::V5 => v5::encode(reply, out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_packet_tells_the_version() {
        let v311 = [0x10, 12, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0, 0, 0];
        let v5 = [0x10, 0x80, 1, 0, 4, b'M', b'Q', b'T', b'T', 5];
        assert_eq!(MqttVersion::of_connect(&v311).unwrap(), Some(MqttVersion::V311));
        assert_eq!(MqttVersion::of_connect(&v5).unwrap(), Some(MqttVersion::V5));
        for cut in 0..9 {
            assert_eq!(MqttVersion::of_connect(&v311[..cut]).unwrap(), None, "{cut} bytes");
        }
    }

    #[test]
    fn what_is_no_connect_of_a_known_version_is_refused() {
        for bytes in
            [&b"GET / HTTP/1.1\r\n"[..], &[0x10, 12, 0, 4, b'M', b'Q', b'T', b'T', 3], &[0x10, 255, 255, 255, 255, 1]]
        {
            assert!(MqttVersion::of_connect(bytes).is_err(), "{bytes:?}");
        }
    }
}
