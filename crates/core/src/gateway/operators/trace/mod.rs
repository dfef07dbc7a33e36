//! Traces: copies of the messages of one device, one address or one identity, for people who look for a fault.
//!
//! 1. Messages pass at two places, both after decryption: received ones before the rate limits decide, and sent ones
//!    before they are sealed. Without a trace nothing is copied there.
//! 2. A copy waits for [`Gateway::poll_trace`](crate::gateway::Gateway::poll_trace).
//! 3. The outcome of a received message, and what happens in DTLS, follows it as a copy of the [`Report`].
//!
//! A trace by endpoint name follows the device to each of its addresses, and looks at each Register for its name. A
//! trace by address or by identity has also what peers send that never register.
//!
//! The copies contain secrets of devices, such as passwords: a program that shows them covers these first.

mod matching;
mod subject;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::lwm2m::path::Path;
use crate::lwm2m::register::Registration;
use lwm2m_base::{AssociationId, Peer};

use crate::gateway::report::Report;

use matching::Trace;

pub(in crate::gateway) use matching::{PeerFacts, TracedPeer};

/// The maximum number of traces at any time.
pub const TRACES: usize = 8;
/// The maximum number of messages that one trace copies in a second.
pub const MESSAGES_PER_SECOND: u32 = 200;
/// The maximum number of copies that wait for [`Gateway::poll_trace`](crate::gateway::Gateway::poll_trace), and of their bytes.
const WAITING: usize = 1_024;
const WAITING_BYTES: usize = 1024 * 1024;

/// Names a trace. The caller chooses the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TraceId(pub u64);

/// Chooses the messages of a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TraceTarget {
    /// The device of this endpoint name, and each Register with the name.
    Endpoint(String),
    /// All peers at this IP address, at any port.
    Address(IpAddr),
    /// The handshakes of this identity, and the messages of its associations.
    Identity(String),
}

/// A copy that one or several traces have.
#[derive(Clone, Debug, PartialEq)]
pub struct Traced {
    /// The traces, each with the number of messages that it has skipped so far because of its limits.
    pub traces: Vec<(TraceId, u64)>,
    /// The wall clock time, since 1970.
    pub at: Duration,
    pub event: TracedEvent,
}

#[derive(Clone, Debug, PartialEq)]
pub enum TracedEvent {
    Message(Box<TracedMessage>),
    /// A report about the newest message that the peer has sent, or about DTLS with the peer.
    Report {
        peer: Option<Peer>,
        /// The name of the identity that the peer has proved, or named.
        identity: Option<String>,
        report: Box<Report>,
    },
}

/// A CoAP message as it was before encryption, or after decryption.
#[derive(Clone, Debug, PartialEq)]
pub struct TracedMessage {
    pub direction: Direction,
    pub peer: Peer,
    /// The address of the device. That of `peer` is older if the device has moved with its DTLS association.
    pub address: SocketAddr,
    pub datagram: Vec<u8>,
    /// The resources of the message; `None` for a message without values of a registered device, or with values that
    /// were not asked for.
    pub subject: Option<TracedSubject>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The gateway has received the message.
    In,
    /// The gateway sends the message.
    Out,
}

/// The resources that a message is about.
#[derive(Clone, Debug, PartialEq)]
pub struct TracedSubject {
    /// The registration by which the payload is decoded, without password, query items and links.
    pub registration: Registration,
    /// The paths of the operation. A Send has the root.
    pub paths: Vec<Path>,
    /// Whether the payload has to name whole paths, as those of composite operations and Sends do.
    pub is_composite: bool,
}

/// Owns the traces and the copies that wait.
#[derive(Debug, Default)]
pub(in crate::gateway) struct Traces {
    traces: Vec<Trace>,
    waiting: VecDeque<Traced>,
    waiting_bytes: usize,
    /// The newest received message, if it was copied.
    received: Option<(Peer, Vec<TraceId>)>,
    /// The newest message that was copied before it was sealed.
    sealed: Option<(AssociationId, Vec<TraceId>)>,
}

impl Traces {
    pub(in crate::gateway) fn is_empty(&self) -> bool {
        self.traces.is_empty()
    }

    /// Begins a trace; `device` is the peer of the device of an endpoint name. Returns `false` if there are too many.
    pub(super) fn begin(&mut self, id: TraceId, target: TraceTarget, device: Option<Peer>) -> bool {
        let has_room = self.traces.len() < TRACES;
        if has_room {
            self.traces.push(Trace::new(id, target, device));
        }
        has_room
    }

    /// Ends a trace. The copies that wait stay.
    pub(super) fn end(&mut self, id: TraceId) {
        self.traces.retain(|trace| trace.id != id);
    }

    /// Copies a received message for the traces that it belongs to. `named` is the endpoint name that it is about, if
    /// it names one.
    pub(super) fn received(
        &mut self,
        (now, at): (Instant, Duration),
        facts: &PeerFacts,
        named: Option<&str>,
        datagram: &[u8],
        subject: impl FnOnce() -> Option<TracedSubject>,
    ) {
        self.received = None;
        let traces = self.belonging(now, |trace| trace.has_received(now, facts, named));
        if !traces.is_empty() {
            self.received = Some((facts.peer, ids(&traces)));
            self.copy(traces, at, (facts, Direction::In), datagram, subject);
        }
    }

    /// Copies a message that is sent.
    pub(in crate::gateway) fn sent(&mut self, (now, at): (Instant, Duration), facts: &PeerFacts, datagram: &[u8]) {
        let traces = self.belonging(now, |trace| trace.has(now, facts, None));
        self.sealed = facts.peer.association.map(|association| (association, ids(&traces)));
        if !traces.is_empty() {
            self.copy(traces, at, (facts, Direction::Out), datagram, || None);
        }
    }

    /// Copies a report for the traces that it belongs to, and updates the devices that traces by endpoint name follow.
    pub(in crate::gateway) fn report(
        &mut self,
        (now, at): (Instant, Duration),
        facts: Option<&PeerFacts>,
        report: &Report,
    ) {
        self.traces.iter_mut().for_each(|trace| trace.follow(now, report));
        let traces = match (report.traced_by(), facts) {
            (TracedBy::Nothing, _) | (TracedBy::Peer, None) => return,
            (TracedBy::Received, _) => self.still_running(self.received.as_ref().map(|(_, traces)| traces)),
            (TracedBy::Sealed(association), _) => {
                let sealed = self.sealed.as_ref().filter(|(newest, _)| *newest == association);
                self.still_running(sealed.map(|(_, traces)| traces))
            }
            (TracedBy::Peer, Some(facts)) => self.belonging(now, |trace| trace.has(now, facts, report.endpoint())),
        };
        let received = self.received.as_ref().map(|(peer, _)| *peer);
        if !traces.is_empty() {
            let identity = facts.and_then(|facts| facts.identity.as_ref()?.name()).map(str::to_owned);
            let peer = facts.map(|facts| facts.peer).or(received);
            let event = TracedEvent::Report { peer, identity, report: Box::new(report.clone()) };
            self.push(Traced { traces, at, event }, 0);
        }
    }

    pub(super) fn pop(&mut self) -> Option<Traced> {
        let traced = self.waiting.pop_front()?;
        self.waiting_bytes -= traced.bytes();
        Some(traced)
    }

    /// Removes a message from the traces by endpoint name of other devices. Returns whether a trace is left that has
    /// it.
    pub(crate) fn keep_own(&self, traced: &mut Traced, endpoint: &str) -> bool {
        let is_others = |id| self.traces.iter().any(|trace| trace.id == id && trace.is_of_other_device(endpoint));
        traced.traces.retain(|(id, _)| !is_others(*id));
        !traced.traces.is_empty()
    }

    /// Returns the traces that have something, and have room for it in this second.
    fn belonging(&mut self, now: Instant, mut has: impl FnMut(&mut Trace) -> bool) -> Vec<(TraceId, u64)> {
        let traces = self.traces.iter_mut();
        traces.filter_map(|trace| (has(trace) && trace.admits(now)).then_some((trace.id, trace.left_out))).collect()
    }

    fn still_running(&self, ids: Option<&Vec<TraceId>>) -> Vec<(TraceId, u64)> {
        let running = self.traces.iter().filter(|trace| ids.is_some_and(|ids| ids.contains(&trace.id)));
        running.map(|trace| (trace.id, trace.left_out)).collect()
    }

    fn copy(
        &mut self,
        traces: Vec<(TraceId, u64)>,
        at: Duration,
        (facts, direction): (&PeerFacts, Direction),
        datagram: &[u8],
        subject: impl FnOnce() -> Option<TracedSubject>,
    ) {
        if self.waiting.len() >= WAITING || self.waiting_bytes + datagram.len() > WAITING_BYTES {
            self.leave_out(&ids(&traces));
            return;
        }
        let PeerFacts { peer, address, .. } = *facts;
        let message = TracedMessage { direction, peer, address, datagram: datagram.to_vec(), subject: subject() };
        self.push(Traced { traces, at, event: TracedEvent::Message(Box::new(message)) }, datagram.len());
    }

    /// Appends a copy. Reports count no bytes, and there is at most one for each message or handshake.
    fn push(&mut self, traced: Traced, bytes: usize) {
        if self.waiting.len() >= 2 * WAITING {
            self.leave_out(&ids(&traced.traces));
            return;
        }
        self.waiting_bytes += bytes;
        self.waiting.push_back(traced);
    }

    fn leave_out(&mut self, ids: &[TraceId]) {
        self.traces.iter_mut().filter(|trace| ids.contains(&trace.id)).for_each(|trace| trace.left_out += 1);
    }
}

/// Tells by what the traces of a report are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TracedBy {
    /// No trace has it.
    Nothing,
    /// The newest received message, whose outcome the report tells.
    Received,
    /// The newest message for this association, which was not sent.
    Sealed(AssociationId),
    /// The peer of the report.
    Peer,
}

impl Traced {
    fn bytes(&self) -> usize {
        match &self.event {
            TracedEvent::Message(message) => message.datagram.len(),
            TracedEvent::Report { .. } => 0,
        }
    }
}

fn ids(traces: &[(TraceId, u64)]) -> Vec<TraceId> {
    traces.iter().map(|(id, _)| *id).collect()
}
