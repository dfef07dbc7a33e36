//! One device on its way to the broker, and the session that all registrations of one clientid have there.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use crate::upstream::client::clients::ClientKey;
use crate::upstream::client::queue::Serial;
use crate::upstream::client::targets::TargetId;
use crate::upstream::mqtt::codec::{Limits, Message, PacketId, RECEIVE_MAXIMUM, Version};
use lwm2m_core::gateway::broker::{ClientInfo, CloseReason, RegistrationId};

use super::ConnectionId;

#[derive(Debug)]
pub struct Device {
    pub client: ClientInfo,
    pub key: ClientKey,
    pub state: State,
    /// Where it is, or where it was last.
    pub target: Option<Target>,
    pub version: Version,
    /// Its broker did not serve it: the next attempt goes to another one.
    pub elsewhere: bool,
    /// Servers in a row that named another one.
    pub referrals: u8,
    /// The core knows it as connected: from now on it is the link that connects it again.
    pub connected_before: bool,
    /// It was so before this process began; the core waits to hear that it is again.
    pub resumed: bool,
    /// Attempts in a row that led to nothing, or not for long.
    pub failures: u32,
    /// When the broker refused it first since it was a client, without another fault since.
    pub refused_since: Option<Instant>,
    /// When it said something last, as far as this process knows.
    pub active: Option<Instant>,
    pub leaving: Option<Leaving>,
    /// The broker ended the connection by its will, while a newer registration was asked for.
    pub ended: Option<CloseReason>,
    /// Commands that other connections of the clientid received before this device was connected.
    pub inherited: Vec<Message>,
}

/// What the registrations of one clientid have in common.
#[derive(Debug)]
pub struct Session {
    /// Publications that the broker has not acknowledged, in their order. They outlive their connection.
    pub in_flight: Vec<InFlight>,
    pub last_packet: PacketId,
    /// The commands that were acknowledged last. The broker may not have heard the acknowledgement when the connection
    /// ended, and then it sends the command again.
    acknowledged: VecDeque<(PacketId, u64)>,
    /// The device on whose connection publications go out.
    pub publisher: Option<RegistrationId>,
    /// CONNECT packets without an answer, and when they were sent.
    pub connecting: BTreeMap<ConnectionId, Instant>,
    /// Until when a CONNECT that was given up without an answer may be accepted after all.
    pub doubtful_until: Option<Instant>,
    /// The connection on which CONNECT was sent last.
    pub last_connected: Option<ConnectionId>,
}

/// In the order in which a device goes through them.
#[derive(Debug)]
pub enum State {
    Held,
    Dialing {
        connection: ConnectionId,
    },
    Connecting {
        connection: ConnectionId,
        /// When CONNECT went out.
        since: Instant,
    },
    Subscribing {
        open: OpenConnection,
        packet: PacketId,
        /// Commands that overtook the answer to SUBSCRIBE.
        early: Vec<Message>,
    },
    Ready {
        open: OpenConnection,
    },
    WaitingToReconnect(Wait),
}

/// Where a connection goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Configured(TargetId),
    /// `host:port`, as a server named it.
    Referred(String),
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

/// How a device leaves that has still something to publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// With its session.
    ForGood,
    /// The program ends: the broker keeps what comes for it.
    ForNow,
}

/// A connection on which the broker has accepted the device.
#[derive(Debug)]
pub struct OpenConnection {
    pub connection: ConnectionId,
    pub limits: Limits,
    /// The broker knows of what was in flight.
    pub session_present: bool,
    pub since: Instant,
    /// Bytes that the system has not taken yet.
    pub unwritten: usize,
    pub last_received: Instant,
    pub last_sent: Instant,
    /// When a PINGREQ went out that has no answer yet.
    pub pinged: Option<Instant>,
    /// When the first of the publications in flight went out, or the one before it was acknowledged.
    pub progress: Instant,
    /// None: no PINGREQ is expected.
    pub keep_alive: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InFlight {
    pub packet: PacketId,
    pub serial: Serial,
    /// When it went out on the connection that there is now.
    pub sent: Option<Instant>,
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
            target: None,
            version: Version::V5,
            elsewhere: false,
            referrals: 0,
            connected_before: false,
            resumed: false,
            failures: 0,
            refused_since: None,
            active: None,
            leaving: None,
            ended: None,
            inherited: Vec::new(),
        }
    }

    /// The server that another one named does not serve: back to those that are configured.
    pub fn forget_referral(&mut self) {
        if let Some(Target::Referred(_)) = self.target {
            self.target = None;
        }
    }

    pub fn broker(&self) -> Option<TargetId> {
        match self.target {
            Some(Target::Configured(broker)) => Some(broker),
            Some(Target::Referred(_)) | None => None,
        }
    }
}

impl Default for Session {
    fn default() -> Self {
        Self {
            in_flight: Vec::new(),
            last_packet: PacketId::FIRST,
            acknowledged: VecDeque::new(),
            publisher: None,
            connecting: BTreeMap::new(),
            doubtful_until: None,
            last_connected: None,
        }
    }
}

impl Session {
    /// Whether this command is not one of those that were told and acknowledged before. It is now.
    pub fn takes(&mut self, message: &Message) -> bool {
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

    /// A packet identifier that is not in use.
    pub fn next_packet(&mut self) -> PacketId {
        loop {
            self.last_packet = self.last_packet.next();
            if !self.in_flight.iter().any(|in_flight| in_flight.packet == self.last_packet) {
                return self.last_packet;
            }
        }
    }
}

impl State {
    pub fn connection(&self) -> Option<ConnectionId> {
        match self {
            Self::Dialing { connection } | Self::Connecting { connection, .. } => Some(*connection),
            Self::Subscribing { open, .. } | Self::Ready { open } => Some(open.connection),
            Self::Held | Self::WaitingToReconnect(_) => None,
        }
    }

    pub fn is_ready(&self) -> bool {
        matches!(self, Self::Ready { .. })
    }

    pub fn open_mut(&mut self) -> Option<&mut OpenConnection> {
        match self {
            Self::Subscribing { open, .. } | Self::Ready { open } => Some(open),
            Self::Held | Self::Dialing { .. } | Self::Connecting { .. } | Self::WaitingToReconnect(_) => None,
        }
    }
}
