//! A broker as far as the races of a device that registers again need it: one client ID with its session, a connection
//! that takes it over, packets that take their time, and a CONNECT that is accepted although its socket was closed
//! meanwhile.

use std::collections::BTreeMap;

use rand::RngExt;

use crate::upstream::mqtt::codec::{ConnAck, ServerLimits};
use crate::upstream::races::{BrokerModel, Disruptions, ModelBase, command, race};

use super::test_values::config;
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
    base: ModelBase<MqttProtocol, SessionModelStep>,
    version: ProtocolVersion,
    connections: BTreeMap<ConnectionId, ModelConnection>,
    session: ModelSession,
}

impl SessionModel {
    fn new(seed: u64, version: ProtocolVersion) -> Self {
        let mut config = MqttConfig { version, ..config() };
        (config.link.queue_per_device, config.link.queue_total) = (1_000, 10_000);
        let devices = |rng, metrics| MqttDevices::new(&config, rng, metrics);
        let session = ModelSession::default();
        Self { base: ModelBase::new(seed, devices), version, connections: BTreeMap::new(), session }
    }

    /// Between the link and the broker.
    const ON_THE_WAY: Duration = Duration::from_micros(100);

    fn say(&mut self, now: Instant, connection: ConnectionId, incoming: Incoming) {
        let after = now + self.base.a_while();
        self.in_order(connection, after, SessionModelStep::Heard(connection, incoming));
    }

    fn in_order(&mut self, connection: ConnectionId, at: Instant, happening: SessionModelStep) {
        let last = &mut self.connections.get_mut(&connection).expect("it was dialed").last;
        let at = last.map_or(at, |last| last.max(at));
        *last = Some(at);
        self.base.schedule(at, happening);
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
                let slow = if self.base.rng.random_bool(0.05) { 4_000 } else { 3 };
                let at = now + Duration::from_micros(self.base.rng.random_range(200..slow * 1_000));
                self.base.schedule(at, SessionModelStep::Accepted(connection));
            }
            SentPacket::Subscribe(packet) => {
                self.session.subscribed = true;
                self.say(now, connection, Incoming::SubAck { packet: id(packet), reason: Reason(1) });
            }
            SentPacket::Publish { id: packet, .. } => {
                self.base.published.push(payloads.next().expect("a payload").into());
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
        if let Some(older) = self.base.holder.replace(connection) {
            self.connections.get_mut(&older).expect("it was dialed").dead = true;
            if self.version == ProtocolVersion::V5 {
                self.say(now, older, Incoming::Disconnect { reason: Reason(0x8e), server: None });
            }
            let at = now + self.base.a_while();
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
        self.connections.get_mut(&connection).expect("it was dialed").dead |= self.base.holder == Some(connection);
        if self.base.holder == Some(connection) {
            self.base.holder = None;
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
    type Protocol = MqttProtocol;
    type Step = SessionModelStep;

    fn base(&self) -> &ModelBase<MqttProtocol, SessionModelStep> {
        &self.base
    }

    fn base_mut(&mut self) -> &mut ModelBase<MqttProtocol, SessionModelStep> {
        &mut self.base
    }

    fn act(&mut self, now: Instant) {
        while let Some(action) = self.base.devices.poll_action() {
            match action {
                MqttAction::Dial { connection, .. } => {
                    self.connections.insert(connection, ModelConnection::default());
                    let at = now + 2 * Self::ON_THE_WAY + self.base.a_while();
                    self.base.schedule(at, SessionModelStep::Dialed(connection));
                }
                MqttAction::Send { connection, bytes } => {
                    let packets = said(&bytes);
                    let payloads = payloads(&bytes);
                    self.base.schedule(now + Self::ON_THE_WAY, SessionModelStep::Arrive(connection, packets, payloads));
                }
                MqttAction::Close { connection } => {
                    self.base.schedule(now + Self::ON_THE_WAY, SessionModelStep::Gone(connection));
                }
                MqttAction::HangUp { connection } => {
                    self.base.schedule(now + Self::ON_THE_WAY, SessionModelStep::Gone(connection));
                }
                MqttAction::Probe { .. } => {}
                MqttAction::Emit(event) => self.base.events.push_back(event),
            }
        }
    }

    fn happen(&mut self, now: Instant, step: SessionModelStep) {
        match step {
            SessionModelStep::Dialed(connection) => {
                if !self.connections[&connection].closed {
                    self.base.devices.opened(now, connection);
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
                self.base.devices.heard(now, connection, incoming);
            }
            SessionModelStep::Ended(connection) => self.base.devices.ended(now, connection, "closed by the broker"),
            SessionModelStep::Gone(connection) => {
                self.connections.get_mut(&connection).expect("it was dialed").closed = true;
                self.leave(connection);
            }
        }
    }

    fn command(&mut self, now: Instant, number: u64) {
        if !self.session.subscribed {
            return;
        }
        self.session.last_packet += 1;
        let packet = self.session.last_packet;
        self.session.commands.push((packet, number));
        self.base.promised.insert(number);
        if let Some(connection) = self.base.holder {
            self.deliver(now, connection, packet, number, false);
        }
    }

    fn lose_connection(&mut self, now: Instant) {
        let Some(connection) = self.base.holder else { return };
        self.connections.get_mut(&connection).expect("it was dialed").closed = true;
        self.leave(connection);
        let at = now + self.base.a_while();
        self.in_order(connection, at, SessionModelStep::Ended(connection));
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
