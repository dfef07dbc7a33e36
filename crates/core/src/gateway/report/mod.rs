//! Reports of the core. The program counts and logs them.

mod bootstrap;
mod campaign;
pub(super) mod command_outcome;

use std::time::Duration;

use crate::coap::{BlockError, Code};
use crate::command::firmware::JobStatus;
use crate::lwm2m::content_format::ContentFormat;
use crate::lwm2m::model::UndefinedVersion;
use lwm2m_base::Peer;
use lwm2m_dtls as dtls;

use super::broker::CloseReason;
use super::operators::view::CommandProgress;

pub use command_outcome::CommandOutcome;

pub use self::bootstrap::{BootstrapRefusal, BootstrapReport, BootstrapStep};
pub use self::campaign::CampaignReport;
pub use crate::coap::{DatagramOutcome, DropReason};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// The outcome of a CoAP message. Each message, which is a datagram over plain UDP, has exactly one.
    Datagram {
        peer: Peer,
        outcome: DatagramOutcome,
    },
    /// A confirmable message was sent once more.
    Retransmitted {
        peer: Peer,
    },
    /// A deduplication entry was evicted early to make room: a duplicate of its message would be handled again.
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
    /// A request for an endpoint name, or for its registration, by a peer that may not use it, was answered 4.03.
    Forbidden {
        endpoint: String,
        peer: Peer,
        /// The authenticated identity of the peer.
        identity: Option<String>,
        reason: Forbidden,
    },
    /// A DTLS association was closed. The registrations that were made over it continue.
    AssociationClosed {
        peer: Peer,
        reason: dtls::AssociationCloseReason,
    },
    /// A report of the DTLS server. Each datagram of a DTLS listener has exactly one outcome among them.
    Dtls(dtls::DtlsReport),
    /// A report of the bootstrap server.
    Bootstrap(BootstrapReport),
    /// A device of an earlier process was restored from the store.
    Restored {
        endpoint: String,
        peer: Peer,
    },
    /// Outputs left before the store had confirmed their records, because it took longer than `store.patience`, or
    /// could not be written.
    SentBeforeStored {
        outputs: usize,
    },
    /// A device of an earlier process was not restored. Its next Update is answered 4.04.
    NotRestored {
        endpoint: String,
        reason: NotRestored,
    },
    /// The address of the device has changed.
    Moved {
        endpoint: String,
        from: Peer,
        to: Peer,
    },
    Left {
        endpoint: String,
        reason: LeaveReason,
    },
    /// A command was completed.
    Command {
        endpoint: String,
        /// The `msgType` of the command, of [`crate::command::MSG_TYPES`], or `error` for a command that could not be
        /// read.
        msg_type: &'static str,
        outcome: CommandOutcome,
        /// The time from its first datagram to the answer; `None` for a command that the device did not answer.
        took: Option<Duration>,
        /// The path of a command that timed out, or the paths of a composite one with commas between them; `None` for
        /// another outcome.
        unanswered: Option<Box<str>>,
    },
    /// A command has reached another stage. This is reported only while there are onlookers
    /// ([`super::Gateway::set_onlookers`]).
    CommandProgress {
        endpoint: String,
        progress: Box<CommandProgress>,
    },
    Notification {
        endpoint: String,
        outcome: NotificationOutcome,
    },
    /// A request to the Send resource was answered with this code.
    Send {
        peer: Peer,
        /// The device, if the peer is one.
        endpoint: Option<String>,
        code: Code,
    },
    /// `auto_observe` skipped this many paths because the device has `limits.observations` observations.
    AutoObserveCut {
        endpoint: String,
        paths: usize,
    },
    /// A firmware update has made progress.
    FirmwareUpdate {
        endpoint: String,
        status: Box<JobStatus>,
    },
    /// A report of a firmware campaign.
    Campaign(CampaignReport),
    /// A firmware update was refused because `limits.firmware_jobs` run.
    FirmwareJobsFull {
        endpoint: String,
    },
    /// A device did not accept a composite observation of `auto_observe`; this many paths are observed one by one.
    AutoObserveSplit {
        endpoint: String,
        paths: usize,
    },
    /// Malformed links or attributes in a list of the device were ignored. `first` marks the first such list of this
    /// registration.
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
    /// Object lists by profile ID were evicted because there were more than `limits.profiles`.
    ProfilesEvicted {
        profiles: usize,
    },
    /// A payload could not be decoded. The application got 4.00.
    UndecodableContent {
        endpoint: String,
        path: String,
        reason: String,
    },
    /// A block-wise transfer failed.
    TransferFailed {
        peer: Peer,
        /// The device, if the peer is one.
        endpoint: Option<String>,
        error: BlockError,
    },
    /// The broker refused a publication. `first` marks the first one of this device.
    PublishRefused {
        endpoint: String,
        topic: String,
        first: bool,
    },
}

impl Report {
    /// Returns the endpoint name of the device that the report is about, if it is known.
    pub fn endpoint(&self) -> Option<&str> {
        match self {
            Self::Datagram { .. }
            | Self::Retransmitted { .. }
            | Self::DuplicateForgotten { .. }
            | Self::ProfilesEvicted { .. }
            | Self::SentBeforeStored { .. }
            | Self::AssociationClosed { .. }
            | Self::Dtls(_) => None,
            Self::Bootstrap(report) => report.endpoint(),
            Self::Campaign(report) => report.endpoint(),
            Self::RegisterRejected { endpoint, .. }
            | Self::Send { endpoint, .. }
            | Self::TransferFailed { endpoint, .. } => endpoint.as_deref(),
            Self::AutoObserveCut { endpoint, .. }
            | Self::AutoObserveSplit { endpoint, .. }
            | Self::Registered { endpoint, .. }
            | Self::Updated { endpoint }
            | Self::Forbidden { endpoint, .. }
            | Self::Restored { endpoint, .. }
            | Self::NotRestored { endpoint, .. }
            | Self::Moved { endpoint, .. }
            | Self::Left { endpoint, .. }
            | Self::Command { endpoint, .. }
            | Self::FirmwareUpdate { endpoint, .. }
            | Self::FirmwareJobsFull { endpoint }
            | Self::CommandProgress { endpoint, .. }
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
    /// The identity may use other endpoint names only.
    OtherName,
    /// The registration was made by another identity.
    OtherIdentity,
    /// The request came over plain UDP, and the registration was made over DTLS.
    Unsecured,
    /// The request came over plain UDP, and the name has a pre-shared key.
    HasKey,
    /// The socket or the credentials are for bootstrap only.
    BootstrapOnly,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LeaveReason {
    Deregistered,
    LifetimeOver,
    /// The endpoint registered again.
    Replaced,
    /// The device had been silent longest when another device needed its place.
    Evicted,
    /// An operator ended the registration.
    Operator,
    Broker(CloseReason),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NotRestored {
    /// Its lifetime ended while the program did not run.
    LifetimeOver,
    /// The names of the device give invalid topics, because the configuration has changed.
    NoTopics,
    /// There are more devices than `limits.devices`, and the others were active more recently.
    TooMany,
    /// Its registration is larger than `limits.registration_size`.
    TooLarge,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NotificationOutcome {
    Published,
    /// The notification has an error code; the observation is over.
    Ended,
    /// A newer one came before its body was fetched.
    Superseded,
}
