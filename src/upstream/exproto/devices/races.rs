//! EMQX as far as the races of a device that registers again need it: one client ID, one connection that has it, calls
//! and events that take their time, discards, and an Authenticate that is carried out although its socket was closed
//! meanwhile.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use rand::RngExt;

use crate::upstream::LinkConfig;
use crate::upstream::exproto::Node;
use crate::upstream::races::{BrokerModel, Disruptions, ModelBase, command, race};

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
    base: ModelBase<ExProtoProtocol, EmqxStep>,
    connections: BTreeMap<ConnectionId, EmqxConnection>,
}

impl EmqxModel {
    fn new(seed: u64) -> Self {
        let config = ExProtoConfig {
            ssl: crate::tls::TlsConfig::default(),
            nodes: vec![Node { listeners: vec!["a".to_owned()], adapter: String::new() }],
            adapter_connections: 1,
            handler_bind: (Ipv4Addr::LOCALHOST, 0).into(),
            proto_name: "exproto".to_owned(),
            link: LinkConfig {
                source_addresses: Vec::new(),
                connect_timeout: Duration::from_secs(8),
                connections_per_second: 500,
                queue_per_device: 1_000,
                queue_total: 10_000,
                event_queue: 1,
            },
        };
        let devices = |rng, metrics| ExProtoDevices::new(&config, rng, metrics);
        Self { base: ModelBase::new(seed, devices), connections: BTreeMap::new() }
    }

    fn tell(&mut self, now: Instant, anchor: ConnectionId, event: ExProtoEvent) {
        let after = now + self.base.a_while();
        let connection = self.connections.entry(anchor).or_default();
        let at = connection.last_event.map_or(after, |last| last.max(after));
        connection.last_event = Some(at);
        self.base.schedule(at, EmqxStep::Event(event));
    }

    fn begin(&mut self, now: Instant, anchor: ConnectionId, call: AdapterCall) {
        let connection = self.connections.get_mut(&anchor).expect("it was dialed");
        if connection.dead || connection.closed {
            return self.answer(now, anchor, CallOutcome::ConnectionLost("not alive".to_owned()));
        }
        match call {
            // The authenticator takes its time. What happens to the socket meanwhile is seen after it.
            AdapterCall::Authenticate { .. } => {
                let slow = if self.base.rng.random_bool(0.05) { 4_000 } else { 3 };
                let at = now + Duration::from_micros(self.base.rng.random_range(100..slow * 1_000));
                self.base.schedule(at, EmqxStep::Authenticated(anchor));
            }
            AdapterCall::Subscribe { .. } => {
                connection.subscribed = connection.authenticated;
                self.answer(now, anchor, CallOutcome::Done);
            }
            AdapterCall::Publish { publication, .. } => {
                self.base.published.push(publication.payload);
                self.answer(now, anchor, CallOutcome::Done);
            }
            AdapterCall::Ping { .. } => self.answer(now, anchor, CallOutcome::Done),
        }
    }

    fn authenticated(&mut self, now: Instant, anchor: ConnectionId) {
        if let Some(older) = self.base.holder.replace(anchor) {
            self.discard(now, older);
        }
        self.connections.get_mut(&anchor).expect("it was dialed").authenticated = true;
        self.answer(now, anchor, CallOutcome::Done);
        if self.connections[&anchor].closed {
            self.end(now, anchor, "{shutdown,tcp_closed}");
        }
    }

    fn answer(&mut self, now: Instant, anchor: ConnectionId, outcome: CallOutcome) {
        let at = now + self.base.a_while();
        self.base.schedule(at, EmqxStep::Answer(anchor, outcome));
    }

    fn discard(&mut self, now: Instant, anchor: ConnectionId) {
        let lost = self.base.rng.random_bool(0.3);
        self.connections.get_mut(&anchor).expect("it was dialed").dead = true;
        if !lost {
            let reason = "{shutdown,discarded}".to_owned();
            self.tell(now, anchor, ExProtoEvent::SocketClosed { conn: conn(anchor), reason });
        }
        let at = now + self.base.a_while();
        self.base.schedule(at, EmqxStep::AnchorEnded(anchor));
    }

    fn end(&mut self, now: Instant, anchor: ConnectionId, reason: &str) {
        let connection = self.connections.get_mut(&anchor).expect("it was dialed");
        if std::mem::replace(&mut connection.dead, true) {
            return;
        }
        if self.base.holder == Some(anchor) {
            self.base.holder = None;
        }
        self.tell(now, anchor, ExProtoEvent::SocketClosed { conn: conn(anchor), reason: reason.to_owned() });
    }

    /// Delivers what waits in a connection. If the connection was discarded, the content may be lost or arrive late.
    fn deliver(&mut self, now: Instant, anchor: ConnectionId, number: u64) {
        if self.connections[&anchor].dead && self.base.rng.random_bool(0.5) {
            return;
        }
        self.base.promised.insert(number);
        let messages = vec![ExProtoMessage { topic: "dn".to_owned(), payload: command(number) }];
        self.base.devices.heard(now, ExProtoEvent::ReceivedMessages { conn: conn(anchor), messages });
    }
}

impl BrokerModel for EmqxModel {
    type Protocol = ExProtoProtocol;
    type Step = EmqxStep;

    fn base(&self) -> &ModelBase<ExProtoProtocol, EmqxStep> {
        &self.base
    }

    fn base_mut(&mut self) -> &mut ModelBase<ExProtoProtocol, EmqxStep> {
        &mut self.base
    }

    fn act(&mut self, now: Instant) {
        while let Some(action) = self.base.devices.poll_action() {
            match action {
                ExProtoAction::Dial { anchor, token, .. } => {
                    self.connections.insert(anchor, EmqxConnection::default());
                    let at = now + self.base.a_while();
                    self.base.schedule(at, EmqxStep::Dialed(anchor));
                    self.tell(now, anchor, ExProtoEvent::ReceivedBytes { conn: conn(anchor), bytes: token.line() });
                }
                ExProtoAction::HangUp { anchor } => {
                    let at = now + self.base.a_while();
                    self.base.schedule(at, EmqxStep::HungUp(anchor));
                }
                ExProtoAction::Call { anchor, call, .. } => {
                    let at = now + self.base.a_while();
                    self.base.schedule(at, EmqxStep::Begin(anchor, Box::new(call)));
                }
                ExProtoAction::Emit(event) => self.base.events.push_back(event),
            }
        }
    }

    fn happen(&mut self, now: Instant, step: EmqxStep) {
        match step {
            EmqxStep::Dialed(anchor) => self.base.devices.dialed(now, anchor, Ok(())),
            EmqxStep::Event(event) => self.base.devices.heard(now, event),
            EmqxStep::Begin(anchor, call) => self.begin(now, anchor, *call),
            EmqxStep::Authenticated(anchor) => self.authenticated(now, anchor),
            EmqxStep::Answer(anchor, outcome) => self.base.devices.called(now, TargetId(0), anchor, outcome),
            EmqxStep::AnchorEnded(anchor) => self.base.devices.anchor_ended(now, anchor),
            EmqxStep::HungUp(anchor) => {
                let connection = self.connections.get_mut(&anchor).expect("it was dialed");
                connection.closed = true;
                self.end(now, anchor, "{shutdown,tcp_closed}");
            }
            EmqxStep::Message(anchor, number) => self.deliver(now, anchor, number),
        }
    }

    fn command(&mut self, now: Instant, number: u64) {
        let Some(anchor) = self.base.holder.filter(|anchor| self.connections[anchor].subscribed) else { return };
        // Before the end of the connection is told.
        let at = now + Duration::from_micros(self.base.rng.random_range(50..2_000));
        let connection = self.connections.get_mut(&anchor).expect("it was dialed");
        let at = connection.last_event.map_or(at, |last| last.max(at));
        connection.last_event = Some(at);
        self.base.schedule(at, EmqxStep::Message(anchor, number));
    }

    fn lose_connection(&mut self, now: Instant) {
        let Some(anchor) = self.base.holder else { return };
        self.connections.get_mut(&anchor).expect("it was dialed").closed = true;
        self.end(now, anchor, "{shutdown,etimedout}");
        let at = now + self.base.a_while();
        self.base.schedule(at, EmqxStep::AnchorEnded(anchor));
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
