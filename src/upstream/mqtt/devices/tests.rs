//! The devices against a broker that is played by hand, in virtual time.

mod availability;
mod connecting;
mod lifecycle;
mod losses;
mod publishing;
mod sessions;
mod superseding;

use rand::SeedableRng;

use crate::upstream::client::test_values::client;
use crate::upstream::mqtt::codec::{ConnAck, PacketId, ServerLimits};
use lwm2m_core::gateway::broker::{BrokerCommand, ConnectError, MessageProperties, Publication, Ticket, UplinkClass};

use super::test_values::{config, publication};
use super::*;

const ONE: RegistrationId = RegistrationId(1);
const TWO: RegistrationId = RegistrationId(2);
const A: Destination = Destination::Configured(TargetId(0));
const B: Destination = Destination::Configured(TargetId(1));

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A packet of a client, as far as the tests look into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SentPacket {
    Connect,
    /// `id` is 0 for QoS 0.
    Publish {
        topic: String,
        id: u16,
        again: bool,
    },
    PubAck(u16),
    Subscribe(u16),
    Unsubscribe,
    Ping,
    Disconnect {
        reason: u8,
        session_expiry: Option<u32>,
    },
}

/// Reads packets of fewer than 16,384 bytes.
pub(super) fn said(mut bytes: &[u8]) -> Vec<SentPacket> {
    let mut packets = Vec::new();
    while let [first, rest @ ..] = bytes {
        let (length, rest) = match rest {
            [low, high, rest @ ..] if *low >= 0x80 => (usize::from(low & 0x7f) | usize::from(*high) << 7, rest),
            [length, rest @ ..] => (usize::from(*length), rest),
            [] => panic!("no length"),
        };
        let (body, rest) = rest.split_at(length);
        packets.push(packet(*first, body));
        bytes = rest;
    }
    packets
}

fn packet(first: u8, body: &[u8]) -> SentPacket {
    let number = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
    match first >> 4 {
        1 => SentPacket::Connect,
        3 => {
            let end = 2 + usize::from(number(0));
            let topic = String::from_utf8(body[2..end].to_vec()).unwrap();
            let id = if first & 6 == 0 { 0 } else { number(end) };
            SentPacket::Publish { topic, id, again: first & 8 != 0 }
        }
        4 => SentPacket::PubAck(number(0)),
        8 => SentPacket::Subscribe(number(0)),
        10 => SentPacket::Unsubscribe,
        12 => SentPacket::Ping,
        14 => match body {
            [] => SentPacket::Disconnect { reason: 0, session_expiry: None },
            [reason, 5, 0x11, expiry @ ..] => {
                let expiry = u32::from_be_bytes(expiry.try_into().unwrap());
                SentPacket::Disconnect { reason: *reason, session_expiry: Some(expiry) }
            }
            other => panic!("{other:?}"),
        },
        other => panic!("a packet of type {other}"),
    }
}

struct MqttScene {
    now: Instant,
    devices: MqttDevices,
    metrics: Arc<UpstreamMetrics>,
}

impl MqttScene {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut MqttConfig)) -> Self {
        let mut config = config();
        change(&mut config);
        let metrics = Arc::new(UpstreamMetrics::default());
        let devices = MqttDevices::new(&config, StdRng::seed_from_u64(1), Arc::clone(&metrics));
        Self { now: Instant::now(), devices, metrics }
    }

    /// With one device that is a client of the broker.
    fn with_ready_device() -> (Self, ConnectionId) {
        let mut scene = Self::new();
        let connection = scene.connect(ONE);
        (scene, connection)
    }

    fn connect(&mut self, registration: RegistrationId) -> ConnectionId {
        self.command_connect(registration, "ep1");
        let connection = self.attempt(&A, false);
        self.expect_told(&[BrokerEvent::Connected { registration }]);
        connection
    }

    fn command_connect(&mut self, registration: RegistrationId, clientid: &str) {
        let client = client(clientid);
        self.devices.command(self.now, BrokerCommand::Connect { registration, client });
    }

    fn command_resume(&mut self, registration: RegistrationId, clientid: &str) {
        let client = client(clientid);
        self.devices.command(self.now, BrokerCommand::Resume { registration, client });
    }

    /// Plays a broker to which everything succeeds, from the dial to the answer to SUBSCRIBE.
    fn attempt(&mut self, target: &Destination, session_present: bool) -> ConnectionId {
        let connection = self.expect_dial(target);
        self.open(connection);
        self.hear(connection, accepted(session_present));
        self.answer_subscribe(connection, 0);
        connection
    }

    fn open(&mut self, connection: ConnectionId) {
        self.devices.opened(self.now, connection);
        self.expect_said(connection, &[SentPacket::Connect]);
    }

    fn answer_subscribe(&mut self, connection: ConnectionId, reason: u8) {
        let packet = self.expect_subscribe(connection);
        self.hear(connection, Incoming::SubAck { packet: id(packet), reason: Reason(reason) });
    }

    fn hear(&mut self, connection: ConnectionId, incoming: Incoming) {
        self.devices.heard(self.now, connection, incoming);
    }

    fn acknowledge(&mut self, connection: ConnectionId, packet: u16) {
        self.hear(connection, Incoming::PubAck { packet: id(packet), reason: Reason::SUCCESS });
    }

    fn disconnect_by_broker(&mut self, connection: ConnectionId, reason: u8, server: Option<&str>) {
        let server = server.map(str::to_owned);
        self.hear(connection, Incoming::Disconnect { reason: Reason(reason), server });
    }

    fn publish(&mut self, registration: RegistrationId, topic: &str) {
        self.publish_with(registration, publication(topic, 1));
    }

    fn publish_with(&mut self, registration: RegistrationId, publication: Publication) {
        self.devices.command(self.now, BrokerCommand::Publish { registration, publication });
    }

    fn confirm(&mut self, registration: RegistrationId, receipt: MessageReceipt) {
        self.devices.command(self.now, BrokerCommand::Confirm { registration, receipt });
    }

    fn disconnect(&mut self, registration: RegistrationId) {
        self.devices.command(self.now, BrokerCommand::Disconnect { registration });
    }

    fn advance(&mut self, time: Duration) {
        self.now += time;
        self.devices.handle_timeout(self.now);
    }

    /// To the next deadline; gives how long it took.
    fn advance_to_deadline(&mut self) -> Duration {
        let before = self.now;
        self.now = self.devices.next_deadline().expect("a deadline");
        self.devices.handle_timeout(self.now);
        self.now - before
    }

    fn actions(&mut self) -> Vec<MqttAction> {
        std::iter::from_fn(|| self.devices.poll_action()).collect()
    }

    #[track_caller]
    fn expect(&mut self, expected: &[MqttAction]) {
        assert_eq!(self.actions(), expected);
    }

    #[track_caller]
    fn expect_nothing(&mut self) {
        self.expect(&[]);
    }

    #[track_caller]
    fn expect_told(&mut self, events: &[BrokerEvent]) {
        let told: Vec<MqttAction> = events.iter().cloned().map(MqttAction::Emit).collect();
        self.expect(&told);
    }

    #[track_caller]
    fn expect_dial(&mut self, wanted: &Destination) -> ConnectionId {
        let actions = self.actions();
        let [MqttAction::Dial { connection, destination, .. }] = actions.as_slice() else {
            panic!("no dial, but {actions:?}")
        };
        assert_eq!(destination, wanted);
        *connection
    }

    /// Nothing but packets on this connection, these.
    #[track_caller]
    fn expect_said(&mut self, connection: ConnectionId, expected: &[SentPacket]) {
        assert_eq!(self.packets(connection), expected);
    }

    #[track_caller]
    fn expect_subscribe(&mut self, connection: ConnectionId) -> u16 {
        let packets = self.packets(connection);
        let [SentPacket::Subscribe(packet)] = packets.as_slice() else { panic!("no SUBSCRIBE, but {packets:?}") };
        *packet
    }

    #[track_caller]
    fn packets(&mut self, connection: ConnectionId) -> Vec<SentPacket> {
        let sent = self.actions().into_iter().flat_map(|action| match action {
            MqttAction::Send { connection: on, bytes } if on == connection => said(&bytes),
            other => panic!("not sent on {connection:?}: {other:?}"),
        });
        sent.collect()
    }

    /// The packet identifiers of publications on these topics, that go out in this order.
    #[track_caller]
    fn expect_published(&mut self, connection: ConnectionId, topics: &[&str], sent_again: bool) -> Vec<u16> {
        let mut ids = Vec::new();
        let mut heard = Vec::new();
        for packet in self.packets(connection) {
            let SentPacket::Publish { topic, id, again } = packet else { panic!("{packet:?}") };
            assert_eq!(again, sent_again, "{topic}");
            heard.push(topic);
            ids.push(id);
        }
        assert_eq!(heard, topics);
        ids
    }

    #[track_caller]
    fn expect_failed(&mut self, registration: RegistrationId, connection: ConnectionId) -> ConnectError {
        let actions = self.actions();
        let [
            MqttAction::Emit(BrokerEvent::ConnectFailed { registration: failed, error }),
            MqttAction::HangUp { connection: ended },
        ] = actions.as_slice()
        else {
            panic!("no failure, but {actions:?}")
        };
        assert_eq!((*failed, *ended), (registration, connection));
        assert!(self.devices.is_empty());
        error.clone()
    }
}

pub(super) fn accepted(session_present: bool) -> Incoming {
    connack(Reason::SUCCESS, session_present, None)
}

fn connack(reason: Reason, session_present: bool, server: Option<&str>) -> Incoming {
    let server = server.map(str::to_owned);
    Incoming::ConnAck(Box::new(ConnAck { reason, session_present, limits: ServerLimits::default(), server }))
}

fn command(topic: &str, packet: Option<u16>) -> Incoming {
    let properties = MessageProperties::default();
    let packet = packet.map(id);
    let (topic, payload) = (topic.to_owned(), b"{}".to_vec());
    Incoming::Publish(Box::new(MqttMessage { topic, payload, packet, again: false, properties }))
}

/// The same, sent once more.
fn again(command: Incoming) -> Incoming {
    match command {
        Incoming::Publish(message) => Incoming::Publish(Box::new(MqttMessage { again: true, ..*message })),
        other => other,
    }
}

fn message(registration: RegistrationId, topic: &str) -> MqttAction {
    let properties = MessageProperties::default();
    MqttAction::Emit(BrokerEvent::Message {
        registration,
        topic: topic.to_owned(),
        payload: b"{}".to_vec(),
        properties,
    })
}

/// The same with QoS 1, by this connection.
fn kept_message(registration: RegistrationId, topic: &str, receipt: MessageReceipt) -> MqttAction {
    match message(registration, topic) {
        MqttAction::Emit(BrokerEvent::Message { registration, topic, payload, .. }) => {
            let properties = MessageProperties { receipt: Some(receipt), ..MessageProperties::default() };
            MqttAction::Emit(BrokerEvent::Message { registration, topic, payload, properties })
        }
        other => other,
    }
}

fn receipt(connection: ConnectionId, packet: u16) -> MessageReceipt {
    MessageReceipt { connection: connection.0, packet, is_repeated: false }
}

fn puback(connection: ConnectionId, packet: u16) -> MqttAction {
    MqttAction::Send { connection, bytes: codec::puback(id(packet)) }
}

fn unreachable() -> Probed {
    Probed::NotOpened(DialFailure::NotReached("connection refused".to_owned()))
}

fn nothing_left() -> DialFailure {
    DialFailure::Local("no file descriptor is left".to_owned())
}

fn accepts() -> Probed {
    Probed::Accepted { took: Duration::from_millis(1) }
}

pub(super) fn id(number: u16) -> PacketId {
    (1..number).fold(PacketId::FIRST, |id, _| id.next())
}
