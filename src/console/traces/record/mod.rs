//! The messages of one trace, in a ring: the oldest go. They are covered before they come here, so that nothing in
//! memory has a secret.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::console::hide::HiddenPaths;
use crate::console::time::Timestamp;
use crate::observability::log::reasons::{
    close_reason, datagram_outcome, dtls_datagram_outcome, forbidden_reason, handshake_failure, suite_name,
};
use lwm2m_base::Peer;
use lwm2m_core::coap::{Code, DatagramOutcome, Header, Kind, Message};
use lwm2m_core::gateway::operators::trace::{Direction, TraceId, TraceTarget, TracedMessage, TracedSubject};
use lwm2m_core::gateway::report::Report;
use lwm2m_core::lwm2m::model::Model;
use lwm2m_dtls::{DtlsDatagramOutcome, DtlsReport};

use super::covering::DatagramParts;
use super::values::{PayloadRule, payload_rule};

/// Maximum number of entries of a trace, and of their bytes.
const ENTRIES: usize = 512;
const ENTRY_BYTES: usize = 512 * 1024;
/// Estimate of what an entry occupies beside its datagram.
const OVERHEAD: usize = 192;

/// A trace.
#[derive(Debug)]
pub(crate) struct TraceRecord {
    pub id: TraceId,
    pub target: TraceTarget,
    /// Name of the token that began it.
    pub by: String,
    pub begun: Timestamp,
    pub ends: Timestamp,
    pub deadline: Instant,
    /// Whether it still copies messages.
    pub runs: bool,
    entries: VecDeque<TraceEntry>,
    bytes: usize,
    /// The number of the newest entry.
    newest: u64,
    /// Number of messages that were left out, beyond a bound.
    pub left_out: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct TraceEntry {
    pub n: u64,
    pub at: Duration,
    pub content: EntryContent,
}

#[derive(Clone, Debug)]
pub(crate) enum EntryContent {
    Message(MessageEntry),
    Dtls(DtlsEntry),
}

/// A CoAP message.
#[derive(Clone, Debug)]
pub(crate) struct MessageEntry {
    pub direction: Direction,
    pub peer: Peer,
    pub address: SocketAddr,
    /// The bytes, with stars in the place of secrets.
    pub datagram: Vec<u8>,
    /// Whether the payload is covered.
    pub hidden: bool,
    pub header: Option<Header>,
    pub subject: Option<Arc<TracedSubject>>,
    pub outcome: Option<String>,
    /// The number of the entry with the request, or with the message that is acknowledged.
    pub answers: Option<u64>,
    /// Whether the message is a retransmission or a duplicate.
    pub again: bool,
}

/// Something that happened in DTLS.
#[derive(Clone, Debug, Default)]
pub(crate) struct DtlsEntry {
    pub address: Option<SocketAddr>,
    pub event: &'static str,
    pub identity: Option<String>,
    pub reason: Option<String>,
    pub suite: Option<&'static str>,
    pub connection_id: Option<bool>,
    pub resumed: Option<bool>,
    /// The address before.
    pub from: Option<SocketAddr>,
}

/// A message with its secrets covered.
#[derive(Clone, Debug)]
pub(crate) struct CoveredMessage {
    direction: Direction,
    peer: Peer,
    address: SocketAddr,
    header: Option<Header>,
    subject: Option<Arc<TracedSubject>>,
    /// The message with its payload; `None` if the payload must not be shown.
    shown: Option<Vec<u8>>,
    /// Without the payload; `None` if that may be shown.
    covered: Option<Vec<u8>>,
}

impl CoveredMessage {
    /// Covers the secrets of a message. This is the only place where datagrams with secrets are seen.
    pub(crate) fn of(traced: TracedMessage, at: Duration, hidden: &HiddenPaths, model: &Model) -> Self {
        let TracedMessage { direction, peer, address, datagram, subject } = traced;
        let message = Message::decode(&datagram).ok();
        let rule = payload_rule((direction, message.as_ref()), subject.as_ref(), (hidden, model, at));
        let parts = DatagramParts::of(&datagram);
        let cover = |covers_payload: bool| {
            let mut bytes = datagram.clone();
            parts.cover(&mut bytes, direction, covers_payload);
            bytes
        };
        Self {
            direction,
            peer,
            address,
            header: Header::of(&datagram),
            subject: subject.map(Arc::new),
            shown: (rule != PayloadRule::Covered).then(|| cover(false)),
            covered: (rule != PayloadRule::Shown).then(|| cover(true)),
        }
    }
}

impl TraceRecord {
    pub(crate) fn new(
        id: TraceId,
        target: TraceTarget,
        by: String,
        begun: Timestamp,
        now: Instant,
        lasts: Duration,
    ) -> Self {
        Self {
            id,
            target,
            by,
            begun,
            ends: Timestamp(begun.0 + lasts),
            deadline: now + lasts,
            runs: true,
            entries: VecDeque::new(),
            bytes: 0,
            newest: 0,
            left_out: 0,
        }
    }

    /// Adds a message.
    pub(crate) fn add(&mut self, at: Duration, message: &CoveredMessage) {
        let CoveredMessage { direction, peer, address, header, subject, shown, covered } = message.clone();
        let repeated = shown.as_ref().and_then(|shown| self.same(direction, address, shown));
        let subject = subject.or_else(|| repeated.and_then(|earlier| earlier.subject.clone()));
        let is_repeated = repeated.is_some();
        let (datagram, hidden) = match (shown, covered) {
            (Some(shown), None) => (shown, false),
            // A value that was shown before is not hidden now.
            (Some(shown), Some(_)) if is_repeated => (shown, false),
            (_, Some(covered)) => (covered, true),
            (None, None) => return,
        };
        let again = is_repeated || hidden && self.same(direction, address, &datagram).is_some();
        let answers = header.and_then(|header| self.answered(direction, address, header, subject.as_deref()));
        let (outcome, answers) = (None, answers);
        let entry =
            MessageEntry { direction, peer, address, datagram, hidden, header, subject, outcome, answers, again };
        self.push(at, EntryContent::Message(entry));
    }

    /// Adds a report to the message that it is about, or as an entry of its own.
    pub(crate) fn note(&mut self, at: Duration, peer: Option<Peer>, identity: Option<String>, report: &Report) {
        match report {
            Report::Datagram { outcome, .. } => {
                if let Some(message) = self.newest_of(peer, |message| message.outcome.is_none()) {
                    message.outcome = Some(datagram_outcome(*outcome));
                    message.again |= *outcome == DatagramOutcome::Duplicate;
                }
            }
            Report::UndecodableContent { reason, .. } => {
                if let Some(message) = self.newest_of(peer, |_| true) {
                    // The reason may quote the payload.
                    let reason = if message.hidden { "" } else { reason.as_str() };
                    message.outcome = Some(format!("payload not understood: {reason}"));
                }
            }
            Report::RegisterRejected { code, reason, .. } => {
                self.note_request_outcome(peer, format!("refused {code}: {reason}"));
            }
            Report::Forbidden { reason, .. } => {
                self.note_request_outcome(peer, format!("refused {}: {}", Code::FORBIDDEN, forbidden_reason(*reason)));
            }
            Report::TransferFailed { error, .. } => {
                if let Some(message) = self.newest_of(peer, |_| true) {
                    message.outcome = Some(format!("block-wise transfer failed: {error}"));
                }
            }
            Report::Dtls(DtlsReport::Unsent { .. }) => {
                let sent = self.messages_mut().find(|message| message.direction == Direction::Out);
                if let Some(message) = sent {
                    message.outcome = Some("not sent: the DTLS association is closed".to_owned());
                }
            }
            other => {
                if let Some(entry) = DtlsEntry::of(other, peer, identity) {
                    self.push(at, EntryContent::Dtls(entry));
                }
            }
        }
    }

    /// Returns the entries with a larger number, the oldest first.
    pub(crate) fn entries(&self, after: u64) -> impl Iterator<Item = &TraceEntry> {
        self.entries.iter().filter(move |entry| entry.n > after)
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns the number of entries that have gone from the ring.
    pub(crate) fn gone(&self) -> u64 {
        self.newest - self.entries.len() as u64
    }

    pub(crate) fn newest(&self) -> u64 {
        self.newest
    }

    fn push(&mut self, at: Duration, content: EntryContent) {
        self.newest += 1;
        self.bytes += content.bytes();
        self.entries.push_back(TraceEntry { n: self.newest, at, content });
        while self.entries.len() > ENTRIES || self.bytes > ENTRY_BYTES {
            let Some(oldest) = self.entries.pop_front() else { return };
            self.bytes -= oldest.content.bytes();
        }
    }

    /// Returns the newest message with these bytes.
    fn same(&self, direction: Direction, address: SocketAddr, datagram: &[u8]) -> Option<&MessageEntry> {
        self.messages().map(|(_, message)| message).find(|message| {
            message.direction == direction && message.address == address && message.datagram == datagram
        })
    }

    /// Returns the number of the message that this one answers or acknowledges.
    fn answered(
        &self,
        direction: Direction,
        address: SocketAddr,
        header: Header,
        subject: Option<&TracedSubject>,
    ) -> Option<u64> {
        let of_the_other_side = || self.messages().filter(move |(_, message)| message.direction != direction);
        if header.code.is_response() {
            // A notification may come from another address than that of the request.
            let same_device = |message: &MessageEntry| {
                message.address == address
                    || subject
                        .zip(message.subject.as_deref())
                        .is_some_and(|(one, other)| one.registration.endpoint == other.registration.endpoint)
            };
            let is_request = |message: &MessageEntry| {
                message.header.is_some_and(|request| request.code.is_request() && request.token == header.token)
            };
            return of_the_other_side().find(|(_, m)| is_request(m) && same_device(m)).map(|(n, _)| n);
        }
        if !matches!(header.kind, Kind::Acknowledgement | Kind::Reset) {
            return None;
        }
        let acknowledged = |message: &MessageEntry| {
            message.address == address && message.header.is_some_and(|other| other.id == header.id)
        };
        of_the_other_side().find(|(_, message)| acknowledged(message)).map(|(n, _)| n)
    }

    /// Sets the outcome of the newest Register or Update of this peer.
    fn note_request_outcome(&mut self, peer: Option<Peer>, outcome: String) {
        let is_request =
            |message: &MessageEntry| message.header.is_some_and(|header| matches!(header.code, Code::POST | Code::PUT));
        if let Some(message) = self.newest_of(peer, is_request) {
            message.outcome = Some(outcome);
        }
    }

    fn newest_of(&mut self, peer: Option<Peer>, is: impl Fn(&MessageEntry) -> bool) -> Option<&mut MessageEntry> {
        self.messages_mut()
            .find(|message| message.direction == Direction::In && Some(message.peer) == peer && is(message))
    }

    /// Returns the messages with their numbers, the newest first.
    fn messages(&self) -> impl Iterator<Item = (u64, &MessageEntry)> {
        self.entries.iter().rev().filter_map(|entry| match &entry.content {
            EntryContent::Message(message) => Some((entry.n, message)),
            EntryContent::Dtls(_) => None,
        })
    }

    fn messages_mut(&mut self) -> impl Iterator<Item = &mut MessageEntry> {
        self.entries.iter_mut().rev().filter_map(|entry| match &mut entry.content {
            EntryContent::Message(message) => Some(message),
            EntryContent::Dtls(_) => None,
        })
    }
}

impl EntryContent {
    fn bytes(&self) -> usize {
        match self {
            Self::Message(message) => {
                let subject = message.subject.as_ref().map_or(0, |subject| subject.registration.size());
                OVERHEAD + message.datagram.len() + subject
            }
            Self::Dtls(_) => OVERHEAD,
        }
    }
}

impl DtlsEntry {
    /// Returns the entry of a report; `None` for one that is not about DTLS.
    fn of(report: &Report, peer: Option<Peer>, identity: Option<String>) -> Option<Self> {
        let entry = |event| Self { address: peer.map(|peer| peer.address), event, identity, ..Self::default() };
        if let Report::AssociationClosed { reason, .. } = report {
            return Some(Self { reason: Some(close_reason(*reason)), ..entry("closed") });
        }
        let Report::Dtls(report) = report else { return None };
        Some(match report {
            DtlsReport::Datagram { outcome: outcome @ DtlsDatagramOutcome::Dropped(_), .. } => {
                Self { reason: Some(dtls_datagram_outcome(*outcome).to_owned()), ..entry("dropped") }
            }
            DtlsReport::Datagram { outcome, .. } => {
                Self { reason: Some(dtls_datagram_outcome(*outcome).to_owned()), ..entry("datagram") }
            }
            DtlsReport::HandshakeBegun { .. } => entry("handshakeBegun"),
            DtlsReport::HandshakeRetransmitted { .. } => entry("handshakeRetransmitted"),
            DtlsReport::HandshakeCompleted { suite, connection_id, resumed, .. } => Self {
                suite: Some(suite_name(*suite)),
                connection_id: Some(*connection_id),
                resumed: Some(*resumed),
                ..entry("handshakeCompleted")
            },
            DtlsReport::HandshakeFailed { reason, .. } => {
                Self { reason: Some(handshake_failure(*reason)), ..entry("handshakeFailed") }
            }
            DtlsReport::Moved { from, to, .. } => Self { from: Some(*from), address: Some(*to), ..entry("moved") },
            DtlsReport::Restored { .. }
            | DtlsReport::NotRestored { .. }
            | DtlsReport::Unsent { .. }
            | DtlsReport::KeyNotAsked { .. } => return None,
        })
    }
}

#[cfg(test)]
mod tests;
