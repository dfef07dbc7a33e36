//! The devices against a broker that keeps sessions and is away now and then, with random events in virtual time: what
//! a device publishes arrives at least once and in order, and each command is heard at least once.

use std::collections::HashMap;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::upstream::mqtt::codec::{ConnAck, ServerLimits};
use lwm2m_core::gateway::broker::{BrokerCommand, MessageProperties, Publication, UplinkClass};

use super::test_values::config;
use super::tests::{SentPacket, id, said};
use super::*;
use crate::upstream::client::test_values::client;

const DEVICES: u64 = 4;
const STEPS: usize = 3_000;

/// What the broker keeps of a client ID.
#[derive(Default)]
struct StoredSession {
    /// Commands that the device has not acknowledged.
    commands: Vec<u32>,
}

/// A connection as the broker sees it.
#[derive(Default)]
struct OpenSocket {
    device: u64,
    /// What the device said and the broker has not looked at.
    unread: Vec<SentPacket>,
    subscribed: bool,
}

struct RandomBroker {
    now: Instant,
    rng: StdRng,
    devices: MqttDevices,
    metrics: Arc<UpstreamMetrics>,
    away: bool,
    /// It has restarted, and its authentication is not up: it refuses everybody.
    refusing: bool,
    dialing: Vec<ConnectionId>,
    open: HashMap<ConnectionId, OpenSocket>,
    sessions: HashMap<u64, StoredSession>,
    owner: HashMap<ConnectionId, u64>,
    published: HashMap<u64, u32>,
    arrived: HashMap<u64, Vec<u32>>,
    commanded: HashMap<u64, u32>,
    obeyed: HashMap<u64, Vec<u32>>,
}

impl RandomBroker {
    fn new(seed: u64) -> Self {
        let metrics = Arc::new(UpstreamMetrics::default());
        let mut config = config();
        (config.link.queue_per_device, config.link.queue_total) = (10_000, 100_000);
        let devices = MqttDevices::new(&config, StdRng::seed_from_u64(seed), Arc::clone(&metrics));
        Self {
            now: Instant::now(),
            rng: StdRng::seed_from_u64(seed),
            devices,
            metrics,
            away: false,
            refusing: false,
            dialing: Vec::new(),
            open: HashMap::new(),
            sessions: HashMap::new(),
            owner: HashMap::new(),
            published: HashMap::new(),
            arrived: HashMap::new(),
            commanded: HashMap::new(),
            obeyed: HashMap::new(),
        }
    }

    fn step(&mut self) {
        match self.rng.random_range(0..100) {
            0..30 => self.publish(),
            30..40 => self.send_command(),
            40..80 => self.broker_works(),
            80..84 => self.lose_one(),
            84 => self.away = !self.away,
            85 => self.refusing = false,
            86..88 if self.rng.random_bool(0.1) => self.broker_restarts(),
            _ => self.time_passes(),
        }
        self.act();
        let ready = self.devices.devices.values().filter(|device| device.is_ready()).count();
        assert_eq!(self.devices.table_sizes().connected, ready);
    }

    fn publish(&mut self) {
        let device = self.rng.random_range(1..=DEVICES);
        let number = self.published.entry(device).or_default();
        *number += 1;
        let publication = Publication {
            topic: number.to_string(),
            qos: 1,
            payload: "{}".into(),
            class: UplinkClass::Registration,
            retain: false,
            expiry: None,
            correlation: None,
            ticket: None,
        };
        self.devices.command(self.now, BrokerCommand::Publish { registration: RegistrationId(device), publication });
    }

    /// An application publishes a command of QoS 1: the broker keeps it for the session.
    fn send_command(&mut self) {
        let device = self.rng.random_range(1..=DEVICES);
        let Some(session) = self.sessions.get_mut(&device) else { return };
        let number = self.commanded.entry(device).or_default();
        *number += 1;
        session.commands.push(*number);
        let number = *number;
        if let Some(connection) = self.connection_of(device) {
            self.deliver(connection, number);
        }
    }

    fn connection_of(&self, device: u64) -> Option<ConnectionId> {
        self.open.iter().find(|(_, open)| open.device == device && open.subscribed).map(|(connection, _)| *connection)
    }

    fn deliver(&mut self, connection: ConnectionId, number: u32) {
        let message = MqttMessage {
            topic: number.to_string(),
            payload: b"{}".to_vec(),
            packet: Some(id(u16::try_from(number).unwrap())),
            again: false,
            properties: MessageProperties::default(),
        };
        self.devices.heard(self.now, connection, Incoming::Publish(Box::new(message)));
        self.act();
    }

    /// The broker looks at one packet of one connection, or takes a dial.
    fn broker_works(&mut self) {
        if self.away {
            return self.refuse_dials();
        }
        if !self.dialing.is_empty() {
            let at = self.rng.random_range(0..self.dialing.len());
            let connection = self.dialing.swap_remove(at);
            self.devices.opened(self.now, connection);
            let Some(device) = self.owner.get(&connection).copied() else { return };
            self.open.insert(connection, OpenSocket { device, ..OpenSocket::default() });
            return self.act();
        }
        let mut waiting: Vec<_> =
            self.open.iter().filter(|(_, open)| !open.unread.is_empty()).map(|(id, _)| *id).collect();
        waiting.sort();
        if waiting.is_empty() {
            return;
        }
        let connection = waiting[self.rng.random_range(0..waiting.len())];
        let packet = self.open.get_mut(&connection).unwrap().unread.remove(0);
        self.look_at(connection, packet);
    }

    fn look_at(&mut self, connection: ConnectionId, packet: SentPacket) {
        let device = self.open[&connection].device;
        let answer = match packet {
            SentPacket::Connect if self.refusing => {
                let (reason, limits) = (Reason::NOT_AUTHORIZED, ServerLimits::default());
                Incoming::ConnAck(Box::new(ConnAck { reason, session_present: false, limits, server: None }))
            }
            SentPacket::Connect => {
                let session_present = self.sessions.contains_key(&device);
                self.sessions.entry(device).or_default();
                let limits = ServerLimits::default();
                Incoming::ConnAck(Box::new(ConnAck { reason: Reason::SUCCESS, session_present, limits, server: None }))
            }
            SentPacket::Subscribe(packet) => {
                self.open.get_mut(&connection).unwrap().subscribed = true;
                let waiting = self.sessions[&device].commands.clone();
                self.devices.heard(self.now, connection, Incoming::SubAck { packet: id(packet), reason: Reason(1) });
                self.act();
                return waiting.into_iter().for_each(|number| self.deliver(connection, number));
            }
            SentPacket::Publish { topic, id: packet, .. } => {
                self.arrived.entry(device).or_default().push(topic.parse().unwrap());
                Incoming::PubAck { packet: id(packet), reason: Reason::SUCCESS }
            }
            SentPacket::PubAck(packet) => {
                let session = self.sessions.get_mut(&device).unwrap();
                return session.commands.retain(|number| *number != u32::from(packet));
            }
            SentPacket::Ping => Incoming::Pong,
            SentPacket::Unsubscribe | SentPacket::Disconnect { .. } => return,
        };
        self.devices.heard(self.now, connection, answer);
    }

    fn refuse_dials(&mut self) {
        for connection in std::mem::take(&mut self.dialing) {
            self.devices.ended(self.now, connection, "refused");
        }
    }

    /// What was on its way to the broker is lost with its connection.
    fn lose_one(&mut self) {
        let mut all: Vec<_> = self.open.keys().copied().collect();
        all.sort();
        if !all.is_empty() {
            let connection = all[self.rng.random_range(0..all.len())];
            self.open.remove(&connection);
            self.devices.ended(self.now, connection, "reset");
        }
    }

    /// With its sessions.
    fn broker_restarts(&mut self) {
        self.refusing = true;
        let mut all: Vec<_> = self.open.drain().map(|(connection, _)| connection).collect();
        all.sort();
        for connection in all {
            self.devices.ended(self.now, connection, "reset");
        }
    }

    fn time_passes(&mut self) {
        let step = Duration::from_millis(self.rng.random_range(0..2_000));
        self.now += step;
        self.devices.handle_timeout(self.now);
    }

    fn act(&mut self) {
        while let Some(action) = self.devices.poll_action() {
            match action {
                MqttAction::Dial { connection, .. } => {
                    let device = self.devices.protocol.by_connection[&connection].0;
                    self.owner.insert(connection, device);
                    self.dialing.push(connection);
                }
                MqttAction::Send { connection, bytes } => {
                    if let Some(open) = self.open.get_mut(&connection) {
                        open.unread.extend(said(&bytes));
                    } else {
                        let device = self.owner[&connection];
                        self.open.insert(connection, OpenSocket { device, unread: said(&bytes), subscribed: false });
                    }
                }
                MqttAction::HangUp { connection } => {
                    self.dialing.retain(|dialing| *dialing != connection);
                    self.open.remove(&connection);
                }
                MqttAction::Close { .. } | MqttAction::Probe { .. } => {}
                MqttAction::Emit(BrokerEvent::Message { registration: device, topic, .. }) => {
                    self.obeyed.entry(device.0).or_default().push(topic.parse().unwrap());
                }
                MqttAction::Emit(BrokerEvent::Connected { .. } | BrokerEvent::Reconnected { .. }) => {}
                MqttAction::Emit(other) => panic!("{other:?}"),
            }
        }
    }

    /// The broker is there, and everything comes to rest.
    fn settle(&mut self) {
        (self.away, self.refusing) = (false, false);
        for _ in 0..20_000 {
            self.broker_works();
            self.act();
            if self.rng.random_bool(0.05) {
                self.time_passes();
                self.act();
            }
        }
    }
}

/// Each number is there, and what is repeated is a tail that was sent before: numbers grow by one, or go back.
#[track_caller]
fn expect_at_least_once_in_order(arrived: &[u32], last: u32) {
    let mut highest = 0;
    for number in arrived {
        assert!(*number <= highest + 1, "{number} came before {}", highest + 1);
        highest = highest.max(*number);
    }
    assert_eq!(highest, last);
}

#[test]
fn whatever_happens_publications_arrive_in_order_and_commands_are_heard() {
    for seed in 0..20 {
        let mut world = RandomBroker::new(seed);
        for device in 1..=DEVICES {
            let (device, client) = (RegistrationId(device), client(&format!("ep{device}")));
            world.devices.command(world.now, BrokerCommand::Resume { registration: device, client });
        }
        world.act();
        for _ in 0..STEPS {
            world.step();
        }
        world.settle();
        for device in 1..=DEVICES {
            let nothing = Vec::new();
            let arrived = world.arrived.get(&device).unwrap_or(&nothing);
            expect_at_least_once_in_order(arrived, world.published.get(&device).copied().unwrap_or(0));
            let obeyed = world.obeyed.get(&device).unwrap_or(&nothing);
            expect_at_least_once_in_order(obeyed, world.commanded.get(&device).copied().unwrap_or(0));
        }
        assert_eq!(world.metrics.dropped_registrations.get(), 0, "seed {seed}");
    }
}
