//! A broker as far as the races of a device that registers again need it: one client ID with its session, a connection
//! that takes it over, packets that take their time, and a CONNECT that is accepted although its socket was closed
//! meanwhile.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rand::{RngExt, SeedableRng};

use crate::upstream::mqtt::codec::{ConnAck, ServerLimits};
use crate::upstream::races::{BrokerModel, Disruptions, command, race};
use lwm2m_core::gateway::broker::BrokerCommand;

use super::test_values::settings;
use super::tests::{SentPacket, id, said};
use super::*;

const SCHEDULES: u64 = 2_000;

enum SessionModelStep {
    Dialed(ConnectionId),
    /// Packets arrive at the broker.
    Arrive(ConnectionId, Vec<SentPacket>, Vec<Vec<u8>>),
    Accepted(ConnectionId),
    Heard(ConnectionId, Incoming),
    Ended(ConnectionId),
    Gone(ConnectionId),
}

#[derive(Default)]
struct ModelConnection {
    closed: bool,
    /// True if this connection has the session.
    accepted: bool,
    dead: bool,
    /// The time at which the broker's last packet arrives.
    last: Option<Instant>,
}

/// The broker's state of the one client ID.
#[derive(Default)]
struct ModelSession {
    present: bool,
    subscribed: bool,
    /// Commands of QoS 1 without acknowledgement, by packet identifier.
    commands: Vec<(u16, u64)>,
    last_packet: u16,
}

struct SessionModel {
    version: ProtocolVersion,
    devices: MqttDevices,
    metrics: Arc<UpstreamMetrics>,
    rng: StdRng,
    happenings: BTreeMap<(Instant, u64), SessionModelStep>,
    order: u64,
    connections: BTreeMap<ConnectionId, ModelConnection>,
    holder: Option<ConnectionId>,
    session: ModelSession,
    events: VecDeque<BrokerEvent>,
    published: Vec<Vec<u8>>,
    promised: BTreeSet<u64>,
}

impl SessionModel {
    fn new(seed: u64, version: ProtocolVersion) -> Self {
        let metrics = Arc::new(UpstreamMetrics::default());
        let settings = MqttConfig { version, queue_per_device: 1_000, queue_total: 10_000, ..settings() };
        Self {
            version,
            devices: MqttDevices::new(&settings, StdRng::seed_from_u64(seed), Arc::clone(&metrics)),
            metrics,
            rng: StdRng::seed_from_u64(seed ^ 0x5eed),
            happenings: BTreeMap::new(),
            order: 0,
            connections: BTreeMap::new(),
            holder: None,
            session: ModelSession::default(),
            events: VecDeque::new(),
            published: Vec::new(),
            promised: BTreeSet::new(),
        }
    }

    fn a_while(&mut self) -> Duration {
        let most = if self.rng.random_bool(0.02) { 2_000_000 } else { 2_000 };
        Duration::from_micros(self.rng.random_range(50..most))
    }

    /// Between the link and the broker.
    const ON_THE_WAY: Duration = Duration::from_micros(100);

    fn happens_at(&mut self, at: Instant, happening: SessionModelStep) {
        self.order += 1;
        self.happenings.insert((at, self.order), happening);
    }

    fn say(&mut self, now: Instant, connection: ConnectionId, incoming: Incoming) {
        let after = now + self.a_while();
        self.in_order(connection, after, SessionModelStep::Heard(connection, incoming));
    }

    fn in_order(&mut self, connection: ConnectionId, at: Instant, happening: SessionModelStep) {
        let last = &mut self.connections.get_mut(&connection).expect("it was dialed").last;
        let at = last.map_or(at, |last| last.max(at));
        *last = Some(at);
        self.happens_at(at, happening);
    }

    fn act(&mut self, now: Instant) {
        while let Some(action) = self.devices.poll_action() {
            match action {
                MqttAction::Dial { connection, .. } => {
                    self.connections.insert(connection, ModelConnection::default());
                    let at = now + 2 * Self::ON_THE_WAY + self.a_while();
                    self.happens_at(at, SessionModelStep::Dialed(connection));
                }
                MqttAction::Send { connection, bytes } => {
                    let packets = said(&bytes);
                    let payloads = payloads(&bytes);
                    self.happens_at(now + Self::ON_THE_WAY, SessionModelStep::Arrive(connection, packets, payloads));
                }
                MqttAction::Close { connection } => {
                    self.happens_at(now + Self::ON_THE_WAY, SessionModelStep::Gone(connection));
                }
                MqttAction::HangUp { connection } => {
                    self.happens_at(now + Self::ON_THE_WAY, SessionModelStep::Gone(connection));
                }
                MqttAction::Probe { .. } => {}
                MqttAction::Emit(event) => self.events.push_back(event),
            }
        }
    }

    fn happen(&mut self, now: Instant, happening: SessionModelStep) {
        match happening {
            SessionModelStep::Dialed(connection) => {
                if !self.connections[&connection].closed {
                    self.devices.opened(now, connection);
                }
            }
            SessionModelStep::Arrive(connection, packets, payloads) => {
                let mut payloads = payloads.into_iter();
                for packet in packets {
                    self.look_at(now, connection, packet, &mut payloads);
                }
            }
            SessionModelStep::Accepted(connection) => self.accept(now, connection),
            SessionModelStep::Heard(connection, incoming) => {
                self.devices.heard(now, connection, incoming);
            }
            SessionModelStep::Ended(connection) => self.devices.ended(now, connection, "closed by the broker"),
            SessionModelStep::Gone(connection) => {
                self.connections.get_mut(&connection).expect("it was dialed").closed = true;
                self.leave(connection);
            }
        }
        self.act(now);
    }

    fn look_at(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        packet: SentPacket,
        payloads: &mut impl Iterator<Item = Vec<u8>>,
    ) {
        let there = &self.connections[&connection];
        if there.dead || (there.closed && packet != SentPacket::Connect) {
            return;
        }
        match packet {
            SentPacket::Connect => {
                let slow = if self.rng.random_bool(0.05) { 4_000 } else { 3 };
                let at = now + Duration::from_micros(self.rng.random_range(200..slow * 1_000));
                self.happens_at(at, SessionModelStep::Accepted(connection));
            }
            SentPacket::Subscribe(packet) => {
                self.session.subscribed = true;
                self.say(now, connection, Incoming::SubAck { packet: id(packet), reason: Reason(1) });
            }
            SentPacket::Publish { id: packet, .. } => {
                self.published.push(payloads.next().expect("a payload"));
                if packet > 0 {
                    self.say(now, connection, Incoming::PubAck { packet: id(packet), reason: Reason::SUCCESS });
                }
            }
            SentPacket::PubAck(packet) => self.session.commands.retain(|(waits, _)| *waits != packet),
            SentPacket::Ping => self.say(now, connection, Incoming::Pong),
            SentPacket::Unsubscribe => self.session.subscribed = false,
            SentPacket::Disconnect { session_expiry, .. } => {
                if session_expiry == Some(0) {
                    self.session = ModelSession { last_packet: self.session.last_packet, ..ModelSession::default() };
                }
                self.leave(connection);
            }
        }
    }

    /// Takes the session over, from whichever connection has it.
    fn accept(&mut self, now: Instant, connection: ConnectionId) {
        if let Some(older) = self.holder.replace(connection) {
            self.connections.get_mut(&older).expect("it was dialed").dead = true;
            if self.version == ProtocolVersion::V5 {
                self.say(now, older, Incoming::Disconnect { reason: Reason(0x8e), server: None });
            }
            let at = now + self.a_while();
            self.in_order(older, at, SessionModelStep::Ended(older));
        }
        let session_present = std::mem::replace(&mut self.session.present, true);
        self.connections.get_mut(&connection).expect("it was dialed").accepted = true;
        let ack = ConnAck { reason: Reason::SUCCESS, session_present, limits: ServerLimits::default(), server: None };
        self.say(now, connection, Incoming::ConnAck(Box::new(ack)));
        for (packet, number) in self.session.commands.clone() {
            self.deliver(now, connection, packet, number, true);
        }
        if self.connections[&connection].closed {
            self.leave(connection);
        }
    }

    /// The session stays.
    fn leave(&mut self, connection: ConnectionId) {
        self.connections.get_mut(&connection).expect("it was dialed").dead |= self.holder == Some(connection);
        if self.holder == Some(connection) {
            self.holder = None;
        }
    }

    fn deliver(&mut self, now: Instant, connection: ConnectionId, packet: u16, number: u64, again: bool) {
        let message = MqttMessage {
            topic: number.to_string(),
            payload: command(number),
            packet: Some(id(packet)),
            again,
            properties: Default::default(),
        };
        self.say(now, connection, Incoming::Publish(Box::new(message)));
    }
}

impl BrokerModel for SessionModel {
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
        if !self.session.subscribed {
            return;
        }
        self.session.last_packet += 1;
        let packet = self.session.last_packet;
        self.session.commands.push((packet, number));
        self.promised.insert(number);
        if let Some(connection) = self.holder {
            self.deliver(now, connection, packet, number, false);
        }
    }

    fn lose_connection(&mut self, now: Instant) {
        let Some(connection) = self.holder else { return };
        self.connections.get_mut(&connection).expect("it was dialed").closed = true;
        self.leave(connection);
        let at = now + self.a_while();
        self.in_order(connection, at, SessionModelStep::Ended(connection));
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

/// Returns the payload of a PUBLISH packet: one JSON object, up to the end of the packet. Each packet is sent by
/// itself.
fn payloads(bytes: &[u8]) -> Vec<Vec<u8>> {
    let begin = bytes.iter().position(|byte| *byte == b'{');
    begin.map(|begin| bytes[begin..].to_vec()).into_iter().collect()
}

#[test]
fn a_device_that_registers_again_loses_neither_its_registration_nor_an_answer() {
    for seed in 0..SCHEDULES {
        let version = if seed % 3 == 0 { ProtocolVersion::V311 } else { ProtocolVersion::V5 };
        // Of QoS 0 nobody knows what is lost with a connection.
        let (qos, losses) = [(1, true), (1, false), (0, false)][(seed / 3 % 3) as usize];
        race(seed, Instant::now(), SessionModel::new(seed, version), qos, Disruptions { losses, repetitions: losses });
    }
}
