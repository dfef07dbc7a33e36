//! Decides which messages and reports belong to a trace.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lwm2m_base::Peer;
use lwm2m_base::identity::{Identity, PskIdentity};
use lwm2m_dtls::{DtlsDatagramOutcome, DtlsReport};

use super::{MESSAGES_PER_SECOND, TraceId, TraceTarget, TracedBy};
use crate::gateway::identity::names;
use crate::gateway::report::Report;

/// Time for which a trace by endpoint name has the messages of a peer that named it in a request. The answer of the
/// broker to a Register takes less.
const PEER_REMEMBERED: Duration = Duration::from_secs(60);
/// Maximum number of such peers.
const PEERS: usize = 8;
const SECOND: Duration = Duration::from_secs(1);

/// A trace that runs.
#[derive(Debug)]
pub(super) struct Trace {
    pub id: TraceId,
    target: TraceTarget,
    /// The peer of the device of the endpoint name; `None` while it is not registered.
    device: Option<Peer>,
    /// Peers that named the endpoint in a request, and the time until which they count.
    named_by: Vec<(Peer, Instant)>,
    /// The begin of the second that is counted, and the messages in it.
    second: Option<Instant>,
    messages: u32,
    /// Number of messages that were not copied, beyond a bound.
    pub left_out: u64,
}

/// The known facts about the peer of a message.
#[derive(Clone, Debug)]
pub(in crate::gateway) struct PeerFacts {
    pub peer: Peer,
    pub address: SocketAddr,
    /// The identity of its association, or the one that it named in a handshake.
    pub identity: Option<Arc<Identity>>,
    /// The endpoint names that a handshake of this identity is about.
    pub endpoints: Vec<String>,
}

impl Trace {
    pub(super) fn new(id: TraceId, target: TraceTarget, device: Option<Peer>) -> Self {
        let target = match target {
            TraceTarget::Address(address) => TraceTarget::Address(address.to_canonical()),
            TraceTarget::Endpoint(_) | TraceTarget::Identity(_) => target,
        };
        Self { id, target, device, named_by: Vec::new(), second: None, messages: 0, left_out: 0 }
    }

    /// Returns whether a received message belongs to the trace, and remembers its peer if it names the endpoint.
    pub(crate) fn has_received(&mut self, now: Instant, facts: &PeerFacts, named: Option<&str>) -> bool {
        let has = self.has(now, facts, named);
        if has && named.is_some() && self.device != Some(facts.peer) {
            self.remember(now, facts.peer);
        }
        has
    }

    /// Returns whether something of this peer belongs to the trace. `named` is the endpoint name that it is about, if
    /// it names one.
    pub(super) fn has(&self, now: Instant, facts: &PeerFacts, named: Option<&str>) -> bool {
        match &self.target {
            TraceTarget::Address(address) => facts.address.ip().to_canonical() == *address,
            TraceTarget::Identity(name) => {
                facts.identity.as_ref().is_some_and(|identity| names(identity).any(|own| own == name))
            }
            TraceTarget::Endpoint(name) => match named {
                Some(named) => named == name,
                None => {
                    self.device == Some(facts.peer)
                        || facts.endpoints.contains(name)
                        || self.named_by.iter().any(|(peer, until)| *peer == facts.peer && now < *until)
                }
            },
        }
    }

    /// Follows the device of the endpoint name.
    pub(super) fn follow(&mut self, now: Instant, report: &Report) {
        let TraceTarget::Endpoint(name) = &self.target else { return };
        if let Report::Registered { endpoint, peer, .. } | Report::Moved { endpoint, to: peer, .. } = report
            && endpoint == name
        {
            self.device = Some(*peer);
        }
        if let Report::Left { endpoint, .. } = report
            && endpoint == name
            && let Some(peer) = self.device.take()
        {
            self.remember(now, peer);
        }
    }

    /// Returns whether the trace has room for one more in this second, and counts it if not.
    pub(crate) fn admits(&mut self, now: Instant) -> bool {
        if self.second.is_none_or(|begin| now.saturating_duration_since(begin) >= SECOND) {
            (self.second, self.messages) = (Some(now), 0);
        }
        let admits = self.messages < MESSAGES_PER_SECOND;
        if admits {
            self.messages += 1;
        } else {
            self.left_out += 1;
        }
        admits
    }

    pub(crate) fn is_of_other_device(&self, endpoint: &str) -> bool {
        matches!(&self.target, TraceTarget::Endpoint(name) if name != endpoint)
    }

    fn remember(&mut self, now: Instant, peer: Peer) {
        self.named_by.retain(|(known, until)| *known != peer && now < *until);
        if self.named_by.len() >= PEERS {
            self.named_by.remove(0);
        }
        self.named_by.push((peer, now + PEER_REMEMBERED));
    }
}

/// The peer that a report is about, and the identity that it named in a handshake.
pub(in crate::gateway) struct TracedPeer {
    pub peer: Peer,
    pub identity: Option<PskIdentity>,
}

impl Report {
    /// Tells which traces have the report.
    pub(super) fn traced_by(&self) -> TracedBy {
        if matches!(self, Self::Datagram { .. } | Self::UndecodableContent { .. }) {
            TracedBy::Received
        } else if let Self::Dtls(DtlsReport::Unsent { association }) = self {
            TracedBy::Sealed(*association)
        } else if self.traced_peer().is_some() {
            TracedBy::Peer
        } else {
            TracedBy::Nothing
        }
    }

    /// Returns the peer of a report that traces have for its peer; `None` for all others.
    pub(in crate::gateway) fn traced_peer(&self) -> Option<TracedPeer> {
        let peer = match self {
            Self::RegisterRejected { peer, .. }
            | Self::Forbidden { peer, .. }
            | Self::TransferFailed { peer, .. }
            | Self::AssociationClosed { peer, .. } => *peer,
            Self::Bootstrap(report) => return report.peer().map(|peer| TracedPeer { peer, identity: None }),
            Self::Dtls(report) => return traced_peer_of_dtls(report),
            Self::Datagram { .. }
            | Self::UndecodableContent { .. }
            | Self::Retransmitted { .. }
            | Self::DuplicateForgotten { .. }
            | Self::Registered { .. }
            | Self::Updated { .. }
            | Self::Restored { .. }
            | Self::NotRestored { .. }
            | Self::Moved { .. }
            | Self::Left { .. }
            | Self::Command { .. }
            | Self::CommandProgress { .. }
            | Self::Notification { .. }
            | Self::Send { .. }
            | Self::AutoObserveCut { .. }
            | Self::AutoObserveSplit { .. }
            | Self::FirmwareUpdate { .. }
            | Self::FirmwareJobsFull { .. }
            | Self::Campaign(_)
            | Self::LinksLeftOut { .. }
            | Self::UndefinedVersions { .. }
            | Self::FormatRejected { .. }
            | Self::ProfilesEvicted { .. }
            | Self::SentBeforeStored { .. }
            | Self::PublishRefused { .. } => return None,
        };
        Some(TracedPeer { peer, identity: None })
    }
}

/// Returns the peer of a report of DTLS, with the identity that failed.
fn traced_peer_of_dtls(report: &DtlsReport) -> Option<TracedPeer> {
    let (peer, identity) = match report {
        // The plaintext follows, and a handshake has reports of its own.
        DtlsReport::Datagram { outcome: DtlsDatagramOutcome::Data | DtlsDatagramOutcome::Handshake, .. } => {
            return None;
        }
        DtlsReport::HandshakeFailed { peer, identity, .. } => (*peer, identity.clone()),
        DtlsReport::Datagram { peer, .. }
        | DtlsReport::HandshakeBegun { peer }
        | DtlsReport::HandshakeRetransmitted { peer }
        | DtlsReport::HandshakeCompleted { peer, .. }
        | DtlsReport::Moved { peer, .. } => (*peer, None),
        DtlsReport::Restored { .. }
        | DtlsReport::NotRestored { .. }
        | DtlsReport::Unsent { .. }
        | DtlsReport::KeyNotAsked { .. } => return None,
    };
    Some(TracedPeer { peer, identity })
}
