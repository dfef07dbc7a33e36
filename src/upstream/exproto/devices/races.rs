//! EMQX as far as the races of a device that registers again need it: one client ID, one connection that has it, calls
//! and events that take their time, discards, and an Authenticate that is carried out although its socket was closed
//! meanwhile.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::Ipv4Addr;

use rand::{RngExt, SeedableRng};

use crate::upstream::exproto::Node;
use crate::upstream::races::{BrokerModel, Disruptions, command, race};
use lwm2m_core::gateway::broker::BrokerCommand;

use super::*;

const SCHEDULES: u64 = 3_000;

enum EmqxStep {
    Dialed(ConnectionId),
    Event(ExProtoEvent),
    /// EMQX begins to look at a call.
    Begin(ConnectionId, Box<AdapterCall>),
    Authenticated(ConnectionId),
    Answer(ConnectionId, CallOutcome),
    AnchorEnded(ConnectionId),
    HungUp(ConnectionId),
    /// A message for the device leaves for the handler.
    Message(ConnectionId, u64),
}

/// A connection, by its anchor.
#[derive(Default)]
struct EmqxConnection {
    /// The socket is closed.
    closed: bool,
    /// True if the connection was discarded, or its process has ended.
    dead: bool,
    authenticated: bool,
    subscribed: bool,
    /// The time at which its last event for the handler arrives. Events keep their order.
    last_event: Option<Instant>,
}

struct EmqxModel {
    devices: ExProtoDevices,
    metrics: Arc<UpstreamMetrics>,
    rng: StdRng,
    happenings: BTreeMap<(Instant, u64), EmqxStep>,
    order: u64,
    connections: BTreeMap<ConnectionId, EmqxConnection>,
    /// The connection that has the client ID.
    holder: Option<ConnectionId>,
    events: VecDeque<BrokerEvent>,
    published: Vec<Vec<u8>>,
    promised: BTreeSet<u64>,
}

impl EmqxModel {
    fn new(seed: u64) -> Self {
        let settings = ExProtoConfig {
            ssl: crate::tls::TlsConfig::default(),
            nodes: vec![Node { listeners: vec!["a".to_owned()], adapter: String::new() }],
            adapter_connections: 1,
            handler_bind: (Ipv4Addr::LOCALHOST, 0).into(),
            source_addresses: Vec::new(),
            proto_name: "exproto".to_owned(),
            connect_timeout: Duration::from_secs(8),
            anchors_per_second: 500,
            queue_per_device: 1_000,
            queue_total: 10_000,
            event_queue: 1,
        };
        let metrics = Arc::new(UpstreamMetrics::default());
        Self {
            devices: ExProtoDevices::new(&settings, StdRng::seed_from_u64(seed), Arc::clone(&metrics)),
            metrics,
            rng: StdRng::seed_from_u64(seed ^ 0x5eed),
            happenings: BTreeMap::new(),
            order: 0,
            connections: BTreeMap::new(),
            holder: None,
            events: VecDeque::new(),
            published: Vec::new(),
            promised: BTreeSet::new(),
        }
    }

    /// Returns a random duration that is seldom long.
    fn a_while(&mut self) -> Duration {
        let most = if self.rng.random_bool(0.02) { 2_000_000 } else { 2_000 };
        Duration::from_micros(self.rng.random_range(50..most))
    }

    fn happens_at(&mut self, at: Instant, happening: EmqxStep) {
        self.order += 1;
        self.happenings.insert((at, self.order), happening);
    }

    fn tell(&mut self, now: Instant, anchor: ConnectionId, event: ExProtoEvent) {
        let after = now + self.a_while();
        let connection = self.connections.entry(anchor).or_default();
        let at = connection.last_event.map_or(after, |last| last.max(after));
        connection.last_event = Some(at);
        self.happens_at(at, EmqxStep::Event(event));
    }

    fn act(&mut self, now: Instant) {
        while let Some(action) = self.devices.poll_action() {
            match action {
                ExProtoAction::Dial { anchor, token, .. } => {
                    self.connections.insert(anchor, EmqxConnection::default());
                    let at = now + self.a_while();
                    self.happens_at(at, EmqxStep::Dialed(anchor));
                    self.tell(now, anchor, ExProtoEvent::ReceivedBytes { conn: conn(anchor), bytes: token.line() });
                }
                ExProtoAction::HangUp { anchor } => {
                    let at = now + self.a_while();
                    self.happens_at(at, EmqxStep::HungUp(anchor));
                }
                ExProtoAction::Call { anchor, call, .. } => {
                    let at = now + self.a_while();
                    self.happens_at(at, EmqxStep::Begin(anchor, Box::new(call)));
                }
                ExProtoAction::Emit(event) => self.events.push_back(event),
            }
        }
    }

    fn happen(&mut self, now: Instant, happening: EmqxStep) {
        match happening {
            EmqxStep::Dialed(anchor) => self.devices.dialed(now, anchor, Ok(())),
            EmqxStep::Event(event) => self.devices.heard(now, event),
            EmqxStep::Begin(anchor, call) => self.begin(now, anchor, *call),
            EmqxStep::Authenticated(anchor) => self.authenticated(now, anchor),
            EmqxStep::Answer(anchor, outcome) => self.devices.called(now, TargetId(0), anchor, outcome),
            EmqxStep::AnchorEnded(anchor) => self.devices.anchor_ended(now, anchor),
            EmqxStep::HungUp(anchor) => {
                let connection = self.connections.get_mut(&anchor).expect("it was dialed");
                connection.closed = true;
                self.end(now, anchor, "{shutdown,tcp_closed}");
            }
            EmqxStep::Message(anchor, number) => self.deliver(now, anchor, number),
        }
        self.act(now);
    }

    fn begin(&mut self, now: Instant, anchor: ConnectionId, call: AdapterCall) {
        let connection = self.connections.get_mut(&anchor).expect("it was dialed");
        if connection.dead || connection.closed {
            return self.answer(now, anchor, CallOutcome::ConnectionLost("not alive".to_owned()));
        }
        match call {
            // The authenticator takes its time. What happens to the socket meanwhile is seen after it.
            AdapterCall::Authenticate { .. } => {
                let slow = if self.rng.random_bool(0.05) { 4_000 } else { 3 };
                let at = now + Duration::from_micros(self.rng.random_range(100..slow * 1_000));
                self.happens_at(at, EmqxStep::Authenticated(anchor));
            }
            AdapterCall::Subscribe { .. } => {
                connection.subscribed = connection.authenticated;
                self.answer(now, anchor, CallOutcome::Done);
            }
            AdapterCall::Publish { publication, .. } => {
                self.published.push(publication.payload);
                self.answer(now, anchor, CallOutcome::Done);
            }
            AdapterCall::Ping { .. } => self.answer(now, anchor, CallOutcome::Done),
        }
    }

    fn authenticated(&mut self, now: Instant, anchor: ConnectionId) {
        if let Some(older) = self.holder.replace(anchor) {
            self.discard(now, older);
        }
        self.connections.get_mut(&anchor).expect("it was dialed").authenticated = true;
        self.answer(now, anchor, CallOutcome::Done);
        if self.connections[&anchor].closed {
            self.end(now, anchor, "{shutdown,tcp_closed}");
        }
    }

    fn answer(&mut self, now: Instant, anchor: ConnectionId, outcome: CallOutcome) {
        let at = now + self.a_while();
        self.happens_at(at, EmqxStep::Answer(anchor, outcome));
    }

    fn discard(&mut self, now: Instant, anchor: ConnectionId) {
        let lost = self.rng.random_bool(0.3);
        self.connections.get_mut(&anchor).expect("it was dialed").dead = true;
        if !lost {
            let reason = "{shutdown,discarded}".to_owned();
            self.tell(now, anchor, ExProtoEvent::SocketClosed { conn: conn(anchor), reason });
        }
        let at = now + self.a_while();
        self.happens_at(at, EmqxStep::AnchorEnded(anchor));
    }

    fn end(&mut self, now: Instant, anchor: ConnectionId, reason: &str) {
        let connection = self.connections.get_mut(&anchor).expect("it was dialed");
        if std::mem::replace(&mut connection.dead, true) {
            return;
        }
        if self.holder == Some(anchor) {
            self.holder = None;
        }
        self.tell(now, anchor, ExProtoEvent::SocketClosed { conn: conn(anchor), reason: reason.to_owned() });
    }

    /// Delivers what waits in a connection. If the connection was discarded, the content may be lost or arrive late.
    fn deliver(&mut self, now: Instant, anchor: ConnectionId, number: u64) {
        if self.connections[&anchor].dead && self.rng.random_bool(0.5) {
            return;
        }
        self.promised.insert(number);
        let messages = vec![ExProtoMessage { topic: "dn".to_owned(), payload: command(number) }];
        self.devices.heard(now, ExProtoEvent::ReceivedMessages { conn: conn(anchor), messages });
    }
}

impl BrokerModel for EmqxModel {
    fn submit(&mut self, now: Instant, command: BrokerCommand) {
        self.devices.command(now, command);
        self.act(now);
    }

    fn advance(&mut self, now: Instant) {
        while let Some(first) = self.happenings.first_entry().filter(|first| first.key().0 <= now) {
            let happening = first.remove();
            self.happen(now, happening);
        }
        self.devices.handle_timeout(now);
        self.act(now);
    }

    fn next(&self) -> Option<Instant> {
        let first = self.happenings.first_key_value().map(|((at, _), _)| *at);
        [first, self.devices.next_deadline()].into_iter().flatten().min()
    }

    fn take_event(&mut self) -> Option<BrokerEvent> {
        self.events.pop_front()
    }

    fn command(&mut self, now: Instant, number: u64) {
        let Some(anchor) = self.holder.filter(|anchor| self.connections[anchor].subscribed) else { return };
        // Before the end of the connection is told.
        let at = now + Duration::from_micros(self.rng.random_range(50..2_000));
        let connection = self.connections.get_mut(&anchor).expect("it was dialed");
        let at = connection.last_event.map_or(at, |last| last.max(at));
        connection.last_event = Some(at);
        self.happens_at(at, EmqxStep::Message(anchor, number));
    }

    fn lose_connection(&mut self, now: Instant) {
        let Some(anchor) = self.holder else { return };
        self.connections.get_mut(&anchor).expect("it was dialed").closed = true;
        self.end(now, anchor, "{shutdown,etimedout}");
        let at = now + self.a_while();
        self.happens_at(at, EmqxStep::AnchorEnded(anchor));
    }

    fn published(&self) -> &[Vec<u8>] {
        &self.published
    }

    fn promised(&self) -> &BTreeSet<u64> {
        &self.promised
    }

    fn dropped(&self) -> u64 {
        let counters = &self.metrics;
        counters.dropped_answers.get() + counters.dropped_reports.get()
    }
}

fn conn(anchor: ConnectionId) -> String {
    format!("c{}", anchor.0)
}

#[test]
fn a_device_that_registers_again_loses_neither_its_registration_nor_an_answer() {
    for seed in 0..SCHEDULES {
        let weather = Disruptions { losses: seed % 2 == 1, repetitions: false };
        race(seed, Instant::now(), EmqxModel::new(seed), 0, weather);
    }
}
