//! The port to the broker: the commands of the core and the events that answer them. The program's `upstream` carries
//! them out, by ExProto or by MQTT.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;

use crate::command::ResponseTopic;
pub use crate::registry::RegistrationId;
use crate::registry::Topic;
use lwm2m_base::secret::Secret;

/// A device as a client of the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientInfo {
    pub endpoint: String,
    pub clientid: String,
    pub username: String,
    pub password: Option<Secret>,
    /// The LwM2M version of the registration: `1.0`, `1.1` ...
    pub proto_ver: String,
    pub peerhost: IpAddr,
    /// The filter for its commands. If it is empty, the client subscribes to nothing.
    pub command_filter: String,
    pub command_qos: u8,
    /// The lifetime of the registration: how long the broker keeps commands for the device while it is not connected.
    pub lifetime: Duration,
    /// The retained message that the broker publishes when the connection of the device is lost. Boxed: the upstream
    /// keeps it for each device, and few gateways publish the presence.
    pub will: Option<Box<Will>>,
}

/// The name and password with which a client of the gateway's own connects to the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerLogin {
    pub username: String,
    pub password: Option<Secret>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will {
    pub topic: String,
    pub qos: u8,
    pub payload: Vec<u8>,
}

/// The class of a publication. If a queue is full, notifications are dropped first, then answers, then those of the
/// class [`Registration`](Self::Registration).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UplinkClass {
    /// A `register`, an `update` or the presence of a device.
    Registration,
    /// An answer to a command: `ack`, `coap_reset` and `coap_timeout` too.
    Answer,
    Notification,
    /// A Send. Once it is queued it is not evicted, and it evicts no other publication.
    Send,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    pub topic: String,
    pub qos: u8,
    /// The JSON. Clones share it.
    pub payload: Bytes,
    pub class: UplinkClass,
    /// Whether the broker retains it for later subscribers. ExProto has no such flag.
    pub retain: bool,
    /// The Message Expiry Interval: the time after which the broker removes the publication. ExProto and MQTT 3.1.1
    /// have none.
    pub expiry: Option<Duration>,
    /// The Correlation Data of an answer to the Response Topic of its command ([`ResponseTopic`]).
    pub correlation: Option<Vec<u8>>,
    /// If set, [`BrokerEvent::Published`] reports that the broker has accepted the publication, or
    /// [`BrokerEvent::Unpublished`] that it never will. Every Send has a ticket: [`BrokerEvent::Queued`] or
    /// [`BrokerEvent::Unpublished`] reports at once whether it is queued.
    pub ticket: Option<Ticket>,
}

impl Publication {
    /// Makes a publication that the broker does not retain and that nobody waits for.
    pub(super) fn new(topic: Topic, payload: Bytes, class: UplinkClass) -> Self {
        let Topic { name: topic, qos } = topic;
        Self { topic, qos, payload, class, retain: false, expiry: None, correlation: None, ticket: None }
    }
}

/// Names a publication whose acceptance by the broker is awaited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BrokerCommand {
    /// Connects this device, authenticates it and subscribes to its command filter. Exactly one
    /// [`BrokerEvent::Connected`] or [`BrokerEvent::ConnectFailed`] follows, unless [`BrokerCommand::Disconnect`] comes
    /// first. The link reconnects a device whose connection is lost.
    Connect { registration: RegistrationId, client: ClientInfo },
    /// Connects a device that an earlier process had connected. The link retries without end, at the limited rate, as
    /// after a lost connection; publications wait. [`BrokerEvent::Connected`] or [`BrokerEvent::Closed`] follows.
    Resume { registration: RegistrationId, client: ClientInfo },
    /// Publishes, for each device in the order of the commands. Publications wait in a bounded queue while the device
    /// is not connected.
    Publish { registration: RegistrationId, publication: Publication },
    /// Confirms a message that came with this receipt: a crash of the gateway does not lose it any more. Without effect
    /// if the connection has ended: the broker sends the message again by the next one.
    Confirm { registration: RegistrationId, receipt: MessageReceipt },
    /// Changes the lifetime: [`ClientInfo::lifetime`].
    SetLifetime { registration: RegistrationId, lifetime: Duration },
    /// Disconnects the device after its queued publications, or at a deadline, because another gateway of this program
    /// has it now and connects it by the same client ID. The session at the broker stays. No event of this registration
    /// follows.
    HandOver { registration: RegistrationId },
    /// Closes the connection of a device that another gateway has taken over, without a DISCONNECT: its queued
    /// publications are dropped, and the broker may be connected to the other gateway already. No event of this
    /// registration follows.
    Abandon { registration: RegistrationId },
    /// Disconnects the device after its queued publications, or at a deadline. No event of this device follows.
    Disconnect { registration: RegistrationId },
}

/// The reason why a device could not be connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectError {
    /// The broker refused the client or its subscription. The text is for the log.
    Refused(String),
    /// The broker cannot be reached, or did not answer in time.
    Unavailable(String),
}

/// The reason why the broker ended a session for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseReason {
    Kicked,
    /// Another connection took over the client ID.
    Discarded,
    /// The time that the authenticator allows is over.
    Expired,
    /// The broker refused the device when the link reconnected it.
    Refused,
}

impl fmt::Display for CloseReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Kicked => "kicked",
            Self::Discarded => "discarded",
            Self::Expired => "expired",
            Self::Refused => "refused",
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BrokerEvent {
    Connected {
        registration: RegistrationId,
    },
    ConnectFailed {
        registration: RegistrationId,
        error: ConnectError,
    },
    /// The broker ended the session for good: the registration ends.
    Closed {
        registration: RegistrationId,
        reason: CloseReason,
    },
    /// A command of an application has come.
    Message {
        registration: RegistrationId,
        topic: String,
        payload: Vec<u8>,
        properties: MessageProperties,
    },
    /// A lost connection was opened again. Only an upstream with wills reports this.
    Reconnected {
        registration: RegistrationId,
    },
    /// The broker accepted the publication with this ticket.
    Published {
        registration: RegistrationId,
        ticket: Ticket,
    },
    /// The Send with this ticket is in the queue to the broker.
    Queued {
        registration: RegistrationId,
        ticket: Ticket,
    },
    /// The publication with this ticket is not published: it found no room in the queue, lost its place to another one,
    /// or was rejected by the broker.
    Unpublished {
        registration: RegistrationId,
        ticket: Ticket,
    },
    /// The broker did not allow a publication.
    PublishRefused {
        registration: RegistrationId,
        topic: String,
    },
}

impl BrokerEvent {
    /// Returns the registration that the event is about.
    pub fn registration(&self) -> RegistrationId {
        match self {
            Self::Connected { registration }
            | Self::ConnectFailed { registration, .. }
            | Self::Closed { registration, .. }
            | Self::Message { registration, .. }
            | Self::Reconnected { registration }
            | Self::Published { registration, .. }
            | Self::Queued { registration, .. }
            | Self::Unpublished { registration, .. }
            | Self::PublishRefused { registration, .. } => *registration,
        }
    }
}

/// The properties of a command in MQTT. ExProto has none of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MessageProperties {
    /// The Message Expiry Interval.
    pub expiry: Option<Duration>,
    /// The Response Topic and the Correlation Data, for the final answer.
    pub reply: Option<ResponseTopic>,
    /// Whether it is a retained message: it may be delivered again.
    pub retained: bool,
    /// The receipt for [`BrokerCommand::Confirm`], if the broker keeps the message until then (QoS 1).
    pub receipt: Option<MessageReceipt>,
}

/// Identifies a message that the broker keeps until it is confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageReceipt {
    /// The number of the connection by which the message came. The link gives each number once.
    pub connection: u64,
    /// The Packet Identifier on that connection.
    pub packet: u16,
    /// Whether the broker has delivered the message before (DUP), perhaps to an earlier process.
    pub is_repeated: bool,
}
