//! The MQTT state of one device: the steps of its handshake, its open connection, and the session of its client ID.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use crate::upstream::client::device::ConnectionId;
use crate::upstream::client::publication_queues::Serial;
use crate::upstream::mqtt::codec::{MqttMessage, PacketId, ProtocolVersion, RECEIVE_MAXIMUM, ServerLimits};
use lwm2m_core::gateway::broker::RegistrationId;

use super::{MqttProtocol, UpstreamState};

/// Keeps what one device has learnt in its attempts to connect.
#[derive(Debug)]
pub struct MqttRecord {
    pub version: ProtocolVersion,
    /// Counts the servers in a row that named another one.
    pub referrals: u8,
}

impl Default for MqttRecord {
    fn default() -> Self {
        Self { version: ProtocolVersion::V5, referrals: 0 }
    }
}

/// Keeps the session that all registrations of one client ID have at the broker.
#[derive(Debug)]
pub struct MqttSession {
    /// Lists the publications that the broker has not acknowledged, in their order. They outlive their connection.
    pub in_flight: Vec<InFlightPublish>,
    pub last_packet: PacketId,
    /// Lists the commands that were acknowledged last. If the connection ended before the broker received the
    /// acknowledgement, it sends the command again.
    acknowledged: VecDeque<(PacketId, u64)>,
    /// The device on whose connection publications are sent.
    pub publisher: Option<RegistrationId>,
}

/// Lists the steps of the handshake, in their order.
#[derive(Debug)]
pub enum MqttAttempt {
    /// The connection is being opened.
    Dialing { connection: ConnectionId },
    /// CONNECT is sent.
    Connecting { connection: ConnectionId, since: Instant },
    Subscribing {
        /// Boxed, because few devices subscribe at any time.
        open: Box<OpenConnection>,
        packet: PacketId,
        /// Keeps commands that arrived before the answer to SUBSCRIBE.
        early: Vec<MqttMessage>,
    },
}

/// Describes a connection on which the broker has accepted the device.
#[derive(Debug)]
pub struct OpenConnection {
    pub connection: ConnectionId,
    pub limits: ServerLimits,
    /// Tells that the broker has the session of before, and so knows of the publications in flight.
    pub session_present: bool,
    pub since: Instant,
    /// Counts the bytes that the system has not taken yet.
    pub unwritten: usize,
    pub last_received: Instant,
    pub last_sent: Instant,
    /// The time of a PINGREQ that has no answer yet.
    pub pinged: Option<Instant>,
    /// The time at which the first of the publications in flight was sent, or the one before it was acknowledged.
    pub progress: Instant,
    /// The silence after which PINGREQ is sent. `None` means never.
    pub keep_alive: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InFlightPublish {
    pub packet: PacketId,
    pub serial: Serial,
    /// The time at which it was sent on the present connection.
    pub sent: Option<Instant>,
}

impl Default for MqttSession {
    fn default() -> Self {
        Self { in_flight: Vec::new(), last_packet: PacketId::FIRST, acknowledged: VecDeque::new(), publisher: None }
    }
}

impl MqttSession {
    /// Returns whether this command is new, which is to say not one of those that were told and acknowledged before,
    /// and remembers it.
    pub fn takes(&mut self, message: &MqttMessage) -> bool {
        let Some(packet) = message.packet else { return true };
        let mut hasher = DefaultHasher::new();
        (&message.topic, &message.payload).hash(&mut hasher);
        let command = (packet, hasher.finish());
        if message.again && self.acknowledged.contains(&command) {
            return false;
        }
        self.acknowledged.push_back(command);
        if self.acknowledged.len() > usize::from(RECEIVE_MAXIMUM) {
            self.acknowledged.pop_front();
        }
        true
    }

    /// Returns a packet identifier that is not in use.
    pub fn next_packet(&mut self) -> PacketId {
        loop {
            self.last_packet = self.last_packet.next();
            if !self.in_flight.iter().any(|in_flight| in_flight.packet == self.last_packet) {
                return self.last_packet;
            }
        }
    }
}

impl UpstreamState<MqttProtocol> {
    pub fn connection(&self) -> Option<ConnectionId> {
        match self {
            Self::Connecting(MqttAttempt::Dialing { connection } | MqttAttempt::Connecting { connection, .. }) => {
                Some(*connection)
            }
            Self::Connecting(MqttAttempt::Subscribing { open, .. }) => Some(open.connection),
            Self::Ready(open) => Some(open.connection),
            Self::Held | Self::WaitingToReconnect(_) => None,
        }
    }

    pub(crate) fn open_mut(&mut self) -> Option<&mut OpenConnection> {
        match self {
            Self::Connecting(MqttAttempt::Subscribing { open, .. }) => Some(open),
            Self::Ready(open) => Some(open),
            Self::Connecting(MqttAttempt::Dialing { .. } | MqttAttempt::Connecting { .. })
            | Self::Held
            | Self::WaitingToReconnect(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::upstream::client::device::UpstreamDevice;

    use super::*;

    #[test]
    fn the_record_of_a_device_needs_little_memory() {
        let size = size_of::<UpstreamDevice<MqttProtocol>>();
        assert!(size <= 448, "{size}");
    }
}
