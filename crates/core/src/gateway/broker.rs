//! The port to the broker: what the core asks of it and what it hears from it. `upstream` has the two sides that do it.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use crate::command::Reply;
pub use crate::registry::RegistrationId;
use crate::registry::Topic;
use lwm2m_base::secret::Secret;

/// What the device is to the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientInfo {
    pub endpoint: String,
    pub clientid: String,
    pub username: String,
    pub password: Option<Secret>,
    /// As registered: `1.0`, `1.1` ...
    pub proto_ver: String,
    pub peerhost: IpAddr,
    /// The filter for its commands.
    pub command_filter: String,
    pub command_qos: u8,
    /// For how long the device may be silent: so long commands for it are worth being kept while it is not connected.
    pub lifetime: Duration,
    /// What the broker publishes for the device, retained, when its connection is lost.
    pub will: Option<Will>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will {
    pub topic: String,
    pub qos: u8,
    pub payload: Vec<u8>,
}

/// What may be given up first when a queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UplinkClass {
    /// `register`, `update`.
    Report,
    /// An answer to a command: `ack`, `coap_reset` and `coap_timeout` too.
    Answer,
    Notification,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    pub topic: String,
    pub qos: u8,
    pub payload: Vec<u8>,
    pub class: UplinkClass,
    /// The broker keeps it for those who subscribe later. ExProto cannot say so.
    pub retain: bool,
    /// Goes with an answer to the topic that the command named ([`Reply`]).
    pub correlation: Option<Vec<u8>>,
    /// When it is there, [`BrokerEvent::Published`] tells that the broker took the publication.
    pub ticket: Option<Ticket>,
}

impl Publication {
    /// Makes a publication that the broker does not retain and that nobody waits for.
    pub(super) fn new(topic: Topic, payload: Vec<u8>, class: UplinkClass) -> Self {
        let Topic { name: topic, qos } = topic;
        Self { topic, qos, payload, class, retain: false, correlation: None, ticket: None }
    }
}

/// What somebody waits for to be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BrokerCommand {
    /// Connect this device, authenticate it, subscribe its command filter: [`BrokerEvent::Connected`] or
    /// [`BrokerEvent::ConnectFailed`] comes back, exactly one of them, unless [`BrokerCommand::Disconnect`] is faster.
    /// Once connected, the link keeps it so: a connection that the world takes away is made again, by the link.
    Connect { registration: RegistrationId, client: ClientInfo },
    /// The same for a device that was connected before this process began: as after a loss of the connection, at the
    /// limited rate and for as long as it takes, while publications wait. [`BrokerEvent::Connected`] comes when it is
    /// done, or [`BrokerEvent::Closed`].
    Resume { registration: RegistrationId, client: ClientInfo },
    /// In the order of the commands, per device. Waits in a bounded queue while the connection is away.
    Publish { registration: RegistrationId, publication: Publication },
    /// The device may be silent for so long from now on: [`ClientInfo::lifetime`].
    SetLifetime { registration: RegistrationId, lifetime: Duration },
    /// What is queued is still published, to a deadline; nothing is heard of this device any more.
    Disconnect { registration: RegistrationId },
}

/// Why a device could not be connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectError {
    /// The broker does not want this client (authentication, or the subscription); the text is for the log.
    Refused(String),
    /// The broker cannot be reached, or it was too slow.
    Unavailable(String),
}

/// Why the broker ended a connection for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseReason {
    Kicked,
    /// Another connection has the clientid now.
    Discarded,
    /// What the authenticator allowed has run out.
    Expired,
    /// Refused when the link connected it again.
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
    /// The connection is gone and stays so: the registration ends.
    Closed {
        registration: RegistrationId,
        reason: CloseReason,
    },
    /// An application's command.
    Message {
        registration: RegistrationId,
        topic: String,
        payload: Vec<u8>,
        properties: MessageProperties,
    },
    /// The connection was lost meanwhile, and is there again. Only an upstream with wills tells it.
    Reconnected {
        registration: RegistrationId,
    },
    /// The broker took the publication with this ticket.
    Published {
        registration: RegistrationId,
        ticket: Ticket,
    },
    /// The broker did not allow a publication.
    PublishRefused {
        registration: RegistrationId,
        topic: String,
    },
}

/// What comes with a command beside its topic and payload. ExProto carries none of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MessageProperties {
    /// For how long it is worth being carried out.
    pub expiry: Option<Duration>,
    /// Where its final answer is wanted too.
    pub reply: Option<Reply>,
    /// It was published before somebody subscribed: it may come again.
    pub retained: bool,
}
