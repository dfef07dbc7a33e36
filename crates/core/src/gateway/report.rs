//! What the core has to say to people: to be counted and logged by the shell.

use std::time::Duration;

use crate::coap::{BlockError, Code};
use crate::lwm2m::content_format::ContentFormat;
use crate::lwm2m::model::UndefinedVersion;
use lwm2m_base::Peer;
use lwm2m_dtls as dtls;

use super::broker::CloseReason;

pub use crate::coap::{DatagramOutcome, DropReason};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// What became of a message, a datagram over plain UDP: exactly one of these for each.
    Datagram {
        peer: Peer,
        outcome: DatagramOutcome,
    },
    /// A confirmable message was sent once more.
    Retransmitted {
        peer: Peer,
    },
    /// A message was forgotten before its time, for want of room: a duplicate of it would be acted on again.
    DuplicateForgotten {
        peer: Peer,
    },
    Registered {
        endpoint: String,
        peer: Peer,
        lifetime: Duration,
    },
    RegisterRejected {
        peer: Peer,
        endpoint: Option<String>,
        code: Code,
        reason: String,
    },
    Updated {
        endpoint: String,
    },
    /// A request for an endpoint name, or for its registration, from somebody who may not make it; answered 4.03.
    Forbidden {
        endpoint: String,
        peer: Peer,
        /// What the peer proved to be.
        identity: Option<String>,
        reason: Forbidden,
    },
    /// An association is over. The registrations that were made by it are not.
    AssociationClosed {
        peer: Peer,
        reason: dtls::AssociationCloseReason,
    },
    /// What DTLS has to say, exactly one verdict for each datagram of its sockets in it.
    Dtls(dtls::DtlsReport),
    /// A device of before the restart is registered again, without a word of its own.
    Restored {
        endpoint: String,
        peer: Peer,
    },
    /// A device of before the restart is not taken up again; the answer to its next Update is 4.04.
    NotRestored {
        endpoint: String,
        reason: NotRestored,
    },
    /// The device speaks from another address now.
    Moved {
        endpoint: String,
        from: Peer,
        to: Peer,
    },
    Left {
        endpoint: String,
        reason: LeaveReason,
    },
    /// A command came to its end.
    Command {
        endpoint: String,
        /// One of [`crate::command::MSG_TYPES`], or `error` for one that could not be read.
        msg_type: &'static str,
        outcome: CommandOutcome,
        /// From its first datagram to the answer; `None` for a command that the device did not answer.
        took: Option<Duration>,
    },
    Notification {
        endpoint: String,
        outcome: NotificationOutcome,
    },
    /// `auto_observe` has more paths than a device may have observations: so many are left out.
    AutoObserveCut {
        endpoint: String,
        paths: usize,
    },
    /// Links or attributes of a list of the device made no sense: the others count. `first` for the first such list of
    /// this registration.
    LinksLeftOut {
        endpoint: String,
        reason: String,
        first: bool,
    },
    /// The device announced these objects in versions that have no definition, while other versions of them have one.
    UndefinedVersions {
        endpoint: String,
        versions: Vec<UndefinedVersion>,
    },
    /// The device rejected a format of the gateway's choice, and the command is sent once more in another one.
    FormatRejected {
        endpoint: String,
        format: ContentFormat,
    },
    /// So many object lists by profile ID were evicted for a new one, beyond `limits.profiles`.
    ProfilesEvicted {
        profiles: usize,
    },
    /// A payload that could not be understood; the application was told 4.00.
    UndecodableContent {
        endpoint: String,
        path: String,
        reason: String,
    },
    /// A block-wise transfer came to nothing; who waited for it was told.
    TransferFailed {
        peer: Peer,
        error: BlockError,
    },
    /// The broker did not allow a publication; `first` for the first one of this device.
    PublishRefused {
        endpoint: String,
        topic: String,
        first: bool,
    },
}

impl Report {
    /// Which device it is about, where that is known.
    pub fn endpoint(&self) -> Option<&str> {
        match self {
            Self::Datagram { .. }
            | Self::Retransmitted { .. }
            | Self::DuplicateForgotten { .. }
            | Self::TransferFailed { .. }
            | Self::ProfilesEvicted { .. }
            | Self::AssociationClosed { .. }
            | Self::Dtls(_) => None,
            Self::RegisterRejected { endpoint, .. } => endpoint.as_deref(),
            Self::AutoObserveCut { endpoint, .. }
            | Self::Registered { endpoint, .. }
            | Self::Updated { endpoint }
            | Self::Forbidden { endpoint, .. }
            | Self::Restored { endpoint, .. }
            | Self::NotRestored { endpoint, .. }
            | Self::Moved { endpoint, .. }
            | Self::Left { endpoint, .. }
            | Self::Command { endpoint, .. }
            | Self::Notification { endpoint, .. }
            | Self::LinksLeftOut { endpoint, .. }
            | Self::UndefinedVersions { endpoint, .. }
            | Self::FormatRejected { endpoint, .. }
            | Self::UndecodableContent { endpoint, .. }
            | Self::PublishRefused { endpoint, .. } => Some(endpoint),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Forbidden {
    /// The identity stands for other endpoint names.
    OtherName,
    /// The registration was made by another identity.
    OtherIdentity,
    /// Over plain UDP, for what is registered by DTLS.
    Unsecured,
    /// Over plain UDP, for a name that has a key.
    HasKey,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LeaveReason {
    Deregistered,
    LifetimeOver,
    /// The endpoint registered again.
    Replaced,
    /// It was silent the longest when another device needed its place.
    Evicted,
    Broker(CloseReason),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NotRestored {
    /// Its lifetime ended while the program was away.
    LifetimeOver,
    /// The configuration is another one now, and the device's names cannot be topics by it.
    NoTopics,
    /// There are more devices than `limits.devices`; the others were heard later.
    TooMany,
    /// Its registration is larger than `limits.registration_size`.
    TooLarge,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CommandOutcome {
    Answered,
    Reset,
    TimedOut,
    /// It could not be carried out: no JSON, an unknown path ...
    Refused,
    Expired,
    QueueFull,
    /// A retained command that this device was sent before.
    DuplicateRetained,
    /// Its body, or that of its answer, could not be transferred in blocks.
    TransferFailed,
    /// The device answered with something that is no well-formed response.
    MalformedAnswer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NotificationOutcome {
    Published,
    /// It carried an error code; the observation is over.
    Ended,
    /// A newer one came before its body was fetched.
    Superseded,
}
