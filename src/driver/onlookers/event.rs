//! Copies of what happened to a device. The server makes JSON of them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::observability::failures::CountedFailure;
use lwm2m_core::gateway::Gateway;
use lwm2m_core::gateway::broker::Publication;
use lwm2m_core::gateway::operators::view::{CommandProgress, DeviceRow};
use lwm2m_core::gateway::report::{LeaveReason, Report};

use super::PAYLOAD_BYTES;

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct OnlookerEvent {
    /// The time since 1970.
    pub at: Duration,
    /// `None` for a failure of a peer whose endpoint name is not known.
    pub endpoint: Option<String>,
    pub kind: EventKind,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum EventKind {
    /// The registration as it is now.
    Registered(Box<DeviceRow>),
    Updated(Box<DeviceRow>),
    Moved {
        from: SocketAddr,
        to: SocketAddr,
    },
    Left(LeaveReason),
    /// A publication, whose payload may be cut; `bytes` is its whole size.
    Message {
        topic: String,
        payload: Vec<u8>,
        bytes: usize,
    },
    Command(Box<CommandProgress>),
    Failure(Box<CountedFailure>),
}

impl EventKind {
    /// Returns the event that a report makes; `None` if it makes none.
    pub(super) fn of(now: Instant, gateway: &mut Gateway, report: &Report) -> Option<Self> {
        match report {
            Report::Registered { endpoint, .. } => gateway.row(now, endpoint).map(Box::new).map(Self::Registered),
            Report::Updated { endpoint } => gateway.row(now, endpoint).map(Box::new).map(Self::Updated),
            Report::Moved { from, to, .. } => Some(Self::Moved { from: from.address, to: to.address }),
            Report::Left { reason, .. } => Some(Self::Left(*reason)),
            Report::CommandProgress { progress, .. } => Some(Self::Command(progress.clone())),
            Report::Datagram { .. }
            | Report::Retransmitted { .. }
            | Report::DuplicateForgotten { .. }
            | Report::RegisterRejected { .. }
            | Report::Forbidden { .. }
            | Report::AssociationClosed { .. }
            | Report::Dtls(_)
            | Report::Bootstrap(_)
            | Report::Restored { .. }
            | Report::NotRestored { .. }
            | Report::Command { .. }
            | Report::Notification { .. }
            | Report::Send { .. }
            | Report::AutoObserveCut { .. }
            | Report::AutoObserveSplit { .. }
            | Report::FirmwareUpdate { .. }
            | Report::FirmwareJobsFull { .. }
            | Report::Campaign(_)
            | Report::LinksLeftOut { .. }
            | Report::UndefinedVersions { .. }
            | Report::FormatRejected { .. }
            | Report::ProfilesEvicted { .. }
            | Report::SentBeforeStored { .. }
            | Report::UndecodableContent { .. }
            | Report::TransferFailed { .. }
            | Report::PublishRefused { .. } => None,
        }
    }

    pub(super) fn message(publication: &Publication) -> Self {
        let Publication { topic, payload, .. } = publication;
        let shown = payload.get(..PAYLOAD_BYTES).unwrap_or(payload);
        Self::Message { topic: topic.clone(), payload: shown.to_vec(), bytes: payload.len() }
    }
}
