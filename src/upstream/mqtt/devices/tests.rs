//! The devices against a broker that is played by hand, in virtual time.

mod availability;
mod lifecycle;
mod superseding;

use rand::SeedableRng;

use crate::upstream::mqtt::codec::{ConnAck, PacketId, ServerLimits};
use lwm2m_core::gateway::broker::{BrokerCommand, ConnectError, MessageProperties, Publication, Ticket, UplinkClass};

use super::test_values::{client, publication, settings};
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
        let mut settings = settings();
        change(&mut settings);
        let metrics = Arc::new(UpstreamMetrics::default());
        let devices = MqttDevices::new(&settings, StdRng::seed_from_u64(1), Arc::clone(&metrics));
        Self { now: Instant::now(), devices, metrics }
    }

    /// With one device that is a client of the broker.
    fn with_ready_device() -> (Self, ConnectionId) {
        let mut scene = Self::new();
        let connection = scene.connect(ONE);
        (scene, connection)
    }

    fn connect(&mut self, device: RegistrationId) -> ConnectionId {
        self.command_connect(device, "ep1");
        let connection = self.attempt(&A, false);
        self.expect_told(&[BrokerEvent::Connected { registration: device }]);
        connection
    }

    fn command_connect(&mut self, device: RegistrationId, clientid: &str) {
        let client = client(clientid);
        self.devices.command(self.now, BrokerCommand::Connect { registration: device, client });
    }

    fn command_resume(&mut self, device: RegistrationId, clientid: &str) {
        let client = client(clientid);
        self.devices.command(self.now, BrokerCommand::Resume { registration: device, client });
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

    fn publish(&mut self, device: RegistrationId, topic: &str) {
        self.publish_with(device, publication(topic, 1));
    }

    fn publish_with(&mut self, device: RegistrationId, publication: Publication) {
        self.devices.command(self.now, BrokerCommand::Publish { registration: device, publication });
    }

    fn disconnect(&mut self, device: RegistrationId) {
        self.devices.command(self.now, BrokerCommand::Disconnect { registration: device });
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
    fn expect_failed(&mut self, device: RegistrationId, connection: ConnectionId) -> ConnectError {
        let actions = self.actions();
        let [
            MqttAction::Emit(BrokerEvent::ConnectFailed { registration: failed, error }),
            MqttAction::HangUp { connection: ended },
        ] = actions.as_slice()
        else {
            panic!("no failure, but {actions:?}")
        };
        assert_eq!((*failed, *ended), (device, connection));
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

fn message(device: RegistrationId, topic: &str) -> MqttAction {
    let properties = MessageProperties::default();
    MqttAction::Emit(BrokerEvent::Message {
        registration: device,
        topic: topic.to_owned(),
        payload: b"{}".to_vec(),
        properties,
    })
}

fn unreachable() -> Probed {
    Probed::NotOpened(DialFailure::NotReached("connection refused".to_owned()))
}

fn accepts() -> Probed {
    Probed::Accepted { took: Duration::from_millis(1) }
}

pub(super) fn id(number: u16) -> PacketId {
    (1..number).fold(PacketId::FIRST, |id, _| id.next())
}

// -- The way in -------------------------------------------------------------------------------------------------------

#[test]
fn what_a_broker_answers_to_a_first_connect_is_403_or_503() {
    for reason in 0x80..=0xa2 {
        let mut scene = MqttScene::new();
        scene.command_connect(ONE, "ep1");
        let connection = scene.expect_dial(&A);
        scene.open(connection);
        scene.hear(connection, connack(Reason(reason), false, None));
        if [0x84, 0x9c, 0x9d].contains(&reason) {
            continue;
        }
        let refused = matches!(scene.expect_failed(ONE, connection), ConnectError::Refused(_));
        assert_eq!(refused, [0x85, 0x86, 0x87, 0x8a, 0x8c].contains(&reason), "{reason:02x}");
        assert_eq!(scene.devices.next_deadline(), None);
    }
}

#[test]
fn a_subscription_that_fails_is_403() {
    for reason in [0x80, 0x83, 0x87, 0x8f, 0x9e, 0xa2] {
        let mut scene = MqttScene::new();
        scene.command_connect(ONE, "ep1");
        let connection = scene.expect_dial(&A);
        scene.open(connection);
        scene.hear(connection, accepted(false));
        scene.answer_subscribe(connection, reason);
        let error = scene.expect_failed(ONE, connection);
        assert!(matches!(error, ConnectError::Refused(_)), "{reason:02x}");
    }
}

#[test]
fn a_first_connect_that_is_lost_on_its_way_is_unavailable() {
    type Break = fn(&mut MqttScene, ConnectionId);
    let end: Break = |scene, connection| scene.devices.ended(scene.now, connection, "reset");
    let silence: Break = |scene, _| scene.advance(seconds(8));
    for (state, fault) in
        ["Dialing", "Connecting", "Subscribing"].into_iter().flat_map(|state| [(state, end), (state, silence)])
    {
        let mut scene = MqttScene::new();
        scene.command_connect(ONE, "ep1");
        let connection = scene.expect_dial(&A);
        if state != "Dialing" {
            scene.open(connection);
        }
        if state == "Subscribing" {
            scene.hear(connection, accepted(false));
            scene.expect_subscribe(connection);
        }
        fault(&mut scene, connection);
        let error = scene.expect_failed(ONE, connection);
        assert!(matches!(error, ConnectError::Unavailable(_)), "{state}");
        // What comes late finds nothing.
        scene.hear(connection, accepted(false));
        scene.expect_nothing();
    }
}

#[test]
fn a_broker_without_version_5_is_spoken_to_in_the_older_one_from_then_on() {
    let mut scene = MqttScene::new();
    scene.command_connect(ONE, "ep1");
    let connection = scene.expect_dial(&A);
    scene.open(connection);
    scene.hear(connection, connack(Reason::UNSUPPORTED_PROTOCOL_VERSION, false, None));
    let actions = scene.actions();
    let [MqttAction::HangUp { .. }, MqttAction::Dial { connection: again, version: ProtocolVersion::V311, .. }] =
        actions.as_slice()
    else {
        panic!("{actions:?}")
    };
    let again = *again;
    scene.open(again);
    scene.hear(again, accepted(false));
    scene.answer_subscribe(again, 1);
    scene.expect_told(&[BrokerEvent::Connected { registration: ONE }]);

    scene.command_connect(TWO, "ep2");
    let actions = scene.actions();
    assert!(matches!(actions.as_slice(), [MqttAction::Dial { version: ProtocolVersion::V311, .. }]), "{actions:?}");
}

#[test]
fn a_device_follows_the_server_that_is_named_and_not_for_ever() {
    let mut scene = MqttScene::new();
    scene.command_connect(ONE, "ep1");
    let mut target = A;
    for _ in 0..3 {
        let connection = scene.expect_dial(&target);
        scene.open(connection);
        scene.hear(connection, connack(Reason(0x9c), false, Some("other:1885")));
        target = Destination::Referred("other:1885".to_owned());
        let mut actions = scene.actions();
        assert_eq!(actions.remove(0), MqttAction::HangUp { connection });
        scene.devices.actions.extend(actions);
    }
    let connection = scene.expect_dial(&target);
    scene.open(connection);
    scene.hear(connection, connack(Reason(0x9c), false, Some("other:1885")));
    let actions = scene.actions();
    assert!(matches!(
        actions.as_slice(),
        [MqttAction::HangUp { .. }, MqttAction::Emit(BrokerEvent::ConnectFailed { .. })]
    ));
}

#[test]
fn a_device_that_is_sent_away_connects_to_the_named_server_and_back_when_that_fails() {
    let (mut scene, connection) = MqttScene::with_ready_device();
    scene.disconnect_by_broker(connection, 0x9d, Some("other:1885"));
    scene.expect(&[MqttAction::HangUp { connection }]);
    scene.advance_to_deadline();
    let referred = scene.expect_dial(&Destination::Referred("other:1885".to_owned()));
    scene.devices.ended(scene.now, referred, "refused");
    scene.expect(&[MqttAction::HangUp { connection: referred }]);
    scene.advance_to_deadline();
    scene.attempt(&A, true);
    scene.expect_told(&[BrokerEvent::Reconnected { registration: ONE }]);
}

#[test]
fn a_first_connect_tries_each_address_once() {
    let mut scene = MqttScene::with(|settings| settings.brokers.push("b:1883".to_owned()));
    scene.command_connect(ONE, "ep1");
    let first = scene.expect_dial(&A);
    scene.devices.ended(scene.now, first, "refused");
    let actions = scene.actions();
    let [MqttAction::HangUp { .. }, MqttAction::Dial { connection, destination, .. }] = actions.as_slice() else {
        panic!("{actions:?}")
    };
    assert_eq!(*destination, B);
    let second = *connection;
    scene.devices.ended(scene.now, second, "refused");
    assert!(matches!(scene.expect_failed(ONE, second), ConnectError::Unavailable(_)));
    // Both are down: nobody waits for them.
    scene.command_connect(TWO, "ep2");
    let actions = scene.actions();
    assert!(matches!(actions.as_slice(), [MqttAction::Emit(BrokerEvent::ConnectFailed { .. })]), "{actions:?}");
}

#[test]
fn a_want_of_file_descriptors_is_no_fault_of_the_broker() {
    let mut scene = MqttScene::new();
    scene.command_connect(ONE, "ep1");
    let connection = scene.expect_dial(&A);
    scene.devices.not_opened(scene.now, connection, &DialFailure::Local("no file descriptor is left".to_owned()));
    assert!(matches!(scene.expect_failed(ONE, connection), ConnectError::Unavailable(_)));
    let outcome = Probed::NotOpened(DialFailure::Local("no file descriptor is left".to_owned()));
    scene.devices.probed(scene.now, TargetId(0), outcome);
    assert_eq!(scene.devices.table_sizes().nodes_unavailable, 0);
    assert_eq!(scene.metrics.nodes_failed.get(), 0);
}

// -- Publications -----------------------------------------------------------------------------------------------------

#[test]
fn as_many_publications_as_the_window_has_are_in_flight_and_order_is_kept() {
    let (mut scene, connection) = MqttScene::with_ready_device();
    ["a", "b", "c", "d", "e"].iter().for_each(|topic| scene.publish(ONE, topic));
    let ids = scene.expect_published(connection, &["a", "b", "c"], false);
    scene.acknowledge(connection, ids[0]);
    let next = scene.expect_published(connection, &["d"], false);
    assert!(!ids.contains(&next[0]));
    ids[1..].iter().for_each(|packet| scene.acknowledge(connection, *packet));
    let last = scene.expect_published(connection, &["e"], false);
    scene.acknowledge(connection, next[0]);
    scene.acknowledge(connection, last[0]);
    scene.expect_nothing();
    assert_eq!(scene.metrics.publishes_ok.get(), 5);
}

#[test]
fn the_receive_maximum_of_the_broker_is_honoured() {
    let mut scene = MqttScene::new();
    scene.command_connect(ONE, "ep1");
    let connection = scene.expect_dial(&A);
    scene.open(connection);
    let limits = ServerLimits { receive_maximum: 1, ..ServerLimits::default() };
    let ack = ConnAck { reason: Reason::SUCCESS, session_present: false, limits, server: None };
    scene.hear(connection, Incoming::ConnAck(Box::new(ack)));
    scene.answer_subscribe(connection, 1);
    scene.expect_told(&[BrokerEvent::Connected { registration: ONE }]);
    scene.publish(ONE, "a");
    scene.publish(ONE, "b");
    let ids = scene.expect_published(connection, &["a"], false);
    scene.acknowledge(connection, ids[0]);
    scene.expect_published(connection, &["b"], false);
}

#[test]
fn what_is_larger_than_the_broker_takes_is_given_up_and_the_next_one_goes() {
    let mut scene = MqttScene::new();
    scene.command_connect(ONE, "ep1");
    let connection = scene.expect_dial(&A);
    scene.open(connection);
    let limits = ServerLimits { max_packet_size: 100, ..ServerLimits::default() };
    let ack = ConnAck { reason: Reason::SUCCESS, session_present: false, limits, server: None };
    scene.hear(connection, Incoming::ConnAck(Box::new(ack)));
    scene.answer_subscribe(connection, 1);
    scene.expect_told(&[BrokerEvent::Connected { registration: ONE }]);
    scene.publish_with(ONE, Publication { payload: vec![b'x'; 100], ..publication("large", 1) });
    scene.publish(ONE, "small");
    scene.expect_published(connection, &["small"], false);
    assert_eq!(scene.metrics.dropped_answers.get(), 1);
}

#[test]
fn a_publication_of_qos_0_waits_for_nothing_but_room() {
    let (mut scene, connection) = MqttScene::with_ready_device();
    for _ in 0..3 {
        scene.publish_with(ONE, publication("a", 0));
    }
    assert_eq!(scene.expect_published(connection, &["a", "a", "a"], false), [0, 0, 0]);
    let large = Publication { payload: vec![b'x'; 10_000], ..publication("large", 0) };
    for _ in 0..12 {
        scene.publish_with(ONE, large.clone());
    }
    let sent: usize = scene
        .actions()
        .iter()
        .map(|action| if let MqttAction::Send { bytes, .. } = action { bytes.len() } else { panic!("{action:?}") })
        .sum();
    assert!((64 * 1024..74 * 1024).contains(&sent), "{sent}");
    scene.devices.written(scene.now, connection, sent);
    assert_eq!(scene.expect_published(connection, &["large"; 5], false).len(), 5);
}

#[test]
fn a_publication_that_is_not_allowed_is_told_and_the_next_one_goes() {
    for (reason, told) in [(0x87, true), (0x80, false), (0x83, false), (0x90, false), (0x97, false), (0x99, false)] {
        let (mut scene, connection) = MqttScene::with_ready_device();
        scene.publish(ONE, "a");
        let ids = scene.expect_published(connection, &["a"], false);
        scene.hear(connection, Incoming::PubAck { packet: id(ids[0]), reason: Reason(reason) });
        let event = BrokerEvent::PublishRefused { registration: ONE, topic: "a".to_owned() };
        scene.expect_told(if told { std::slice::from_ref(&event) } else { &[] });
        assert_eq!(scene.metrics.dropped_answers.get(), u64::from(!told));
        scene.publish(ONE, "b");
        scene.expect_published(connection, &["b"], false);
    }
}

// -- Losses -----------------------------------------------------------------------------------------------------------

#[test]
fn what_was_in_flight_goes_again_in_order_and_then_what_waited() {
    let (mut scene, connection) = MqttScene::with_ready_device();
    ["a", "b", "c", "d"].iter().for_each(|topic| scene.publish(ONE, topic));
    let ids = scene.expect_published(connection, &["a", "b", "c"], false);
    scene.acknowledge(connection, ids[0]);
    scene.expect_published(connection, &["d"], false);
    scene.devices.ended(scene.now, connection, "reset");
    scene.expect(&[MqttAction::HangUp { connection }]);
    scene.publish(ONE, "e");

    scene.advance_to_deadline();
    let again = scene.attempt(&A, true);
    let mut actions = scene.actions();
    assert_eq!(actions.remove(0), MqttAction::Emit(BrokerEvent::Reconnected { registration: ONE }));
    scene.devices.actions.extend(actions);
    let repeated = scene.expect_published(again, &["b", "c", "d"], true);
    assert_eq!(repeated[..2], ids[1..]);
    scene.acknowledge(again, repeated[0]);
    scene.expect_published(again, &["e"], false);
}

#[test]
fn who_waits_for_a_send_is_told_whether_it_is_queued() {
    let mut scene = MqttScene::with(|settings| settings.queue_per_device = 2);
    scene.connect(ONE);
    let send = |number| {
        let (class, ticket) = (UplinkClass::Send, Some(Ticket(number)));
        Publication { class, ticket, ..publication("send", 1) }
    };
    scene.publish_with(ONE, Publication { class: UplinkClass::Notification, ..publication("notify", 1) });
    (1..=2).for_each(|number| scene.publish_with(ONE, send(number)));
    let emitted = |action| {
        let MqttAction::Emit(event) = action else { return None };
        Some(event)
    };
    let told: Vec<BrokerEvent> = scene.actions().into_iter().filter_map(emitted).collect();
    let (queued, full) = (Ticket(1), Ticket(2));
    assert_eq!(
        told,
        [
            BrokerEvent::Queued { registration: ONE, ticket: queued },
            BrokerEvent::Unpublished { registration: ONE, ticket: full },
        ]
    );
    assert_eq!((scene.metrics.dropped_sends.get(), scene.metrics.dropped_notifications.get()), (1, 0));
}

#[test]
fn who_waits_for_a_notification_is_told_that_it_lost_its_place() {
    let mut scene = MqttScene::with(|settings| settings.queue_per_device = 1);
    scene.connect(ONE);
    let notification = |topic, number| {
        let (class, ticket) = (UplinkClass::Notification, Some(Ticket(number)));
        Publication { class, ticket, ..publication(topic, 1) }
    };
    // The window is open: this one is in flight, and keeps its place.
    scene.publish_with(ONE, notification("a", 1));
    scene.publish_with(ONE, notification("b", 2));
    let told: Vec<MqttAction> =
        scene.actions().into_iter().filter(|action| matches!(action, MqttAction::Emit(_))).collect();
    assert_eq!(told, [MqttAction::Emit(BrokerEvent::Unpublished { registration: ONE, ticket: Ticket(2) })]);
    assert_eq!(scene.metrics.dropped_notifications.get(), 1);
}

#[test]
fn what_was_in_flight_gives_way_to_a_report_while_the_connection_is_away() {
    let mut scene = MqttScene::with(|settings| settings.queue_per_device = 3);
    let connection = scene.connect(ONE);
    let notification = |topic| Publication { class: UplinkClass::Notification, ..publication(topic, 1) };
    ["a", "b", "c"].iter().for_each(|topic| scene.publish_with(ONE, notification(topic)));
    scene.expect_published(connection, &["a", "b", "c"], false);
    scene.devices.ended(scene.now, connection, "reset");
    scene.expect(&[MqttAction::HangUp { connection }]);
    scene.publish_with(ONE, Publication { class: UplinkClass::Report, ..publication("report", 1) });
    assert_eq!(scene.metrics.dropped_notifications.get(), 1);

    scene.advance_to_deadline();
    let again = scene.attempt(&A, true);
    let mut packets = scene.actions();
    assert_eq!(packets.remove(0), MqttAction::Emit(BrokerEvent::Reconnected { registration: ONE }));
    let sent = packets.iter().flat_map(|action| match action {
        MqttAction::Send { connection, bytes } if *connection == again => said(bytes),
        other => panic!("{other:?}"),
    });
    let topics = sent.map(|packet| match packet {
        SentPacket::Publish { topic, again, .. } => (topic, again),
        other => panic!("{other:?}"),
    });
    let expected = [("b", true), ("c", true), ("report", false)].map(|(topic, again)| (topic.to_owned(), again));
    assert_eq!(topics.collect::<Vec<_>>(), expected);
}

#[test]
fn a_broker_that_lost_the_session_is_given_everything_as_if_for_the_first_time() {
    let (mut scene, connection) = MqttScene::with_ready_device();
    ["a", "b"].iter().for_each(|topic| scene.publish(ONE, topic));
    scene.expect_published(connection, &["a", "b"], false);
    scene.devices.ended(scene.now, connection, "reset");
    scene.expect(&[MqttAction::HangUp { connection }]);
    scene.advance_to_deadline();
    let again = scene.attempt(&A, false);
    let mut actions = scene.actions();
    assert_eq!(actions.remove(0), MqttAction::Emit(BrokerEvent::Reconnected { registration: ONE }));
    scene.devices.actions.extend(actions);
    scene.expect_published(again, &["a", "b"], false);
}

#[test]
fn the_reasons_of_disconnect_end_a_registration_or_bring_the_device_back() {
    for reason in (0x80..=0xa2).filter(|reason| ![0x9c, 0x9d].contains(reason)) {
        let (mut scene, connection) = MqttScene::with_ready_device();
        scene.disconnect_by_broker(connection, reason, None);
        let closed = match reason {
            0x87 => Some(CloseReason::Refused),
            0x8e => Some(CloseReason::Discarded),
            0x98 => Some(CloseReason::Kicked),
            0xa0 => Some(CloseReason::Expired),
            _ => None,
        };
        match closed {
            Some(reason) => {
                let event = BrokerEvent::Closed { registration: ONE, reason };
                scene.expect(&[MqttAction::Emit(event), MqttAction::HangUp { connection }]);
                assert!(scene.devices.is_empty());
            }
            None => {
                scene.expect(&[MqttAction::HangUp { connection }]);
                let wait = scene.advance_to_deadline();
                assert!((seconds(1)..=seconds(2)).contains(&wait), "{wait:?}");
                scene.attempt(&A, true);
                scene.expect_told(&[BrokerEvent::Reconnected { registration: ONE }]);
            }
        }
    }
}

#[test]
fn a_publication_that_the_broker_disconnects_for_is_given_up_the_third_time() {
    let (mut scene, mut connection) = MqttScene::with_ready_device();
    scene.publish(ONE, "poison");
    scene.publish(ONE, "fine");
    scene.expect_published(connection, &["poison", "fine"], false);
    for attempt in 1..=3 {
        scene.disconnect_by_broker(connection, 0x95, None);
        scene.expect(&[MqttAction::HangUp { connection }]);
        scene.advance_to_deadline();
        connection = scene.attempt(&A, true);
        let mut actions = scene.actions();
        assert_eq!(actions.remove(0), MqttAction::Emit(BrokerEvent::Reconnected { registration: ONE }));
        scene.devices.actions.extend(actions);
        let left: &[&str] = if attempt < 3 { &["poison", "fine"] } else { &["fine"] };
        scene.expect_published(connection, left, true);
    }
    assert_eq!(scene.metrics.dropped_answers.get(), 1);
}

#[test]
fn while_the_broker_is_away_one_device_in_a_second_tries_and_the_first_answer_brings_all_back() {
    let mut scene = MqttScene::new();
    for number in 1..=3 {
        scene.command_connect(RegistrationId(number), &format!("ep{number}"));
        scene.attempt(&A, false);
        scene.expect_told(&[BrokerEvent::Connected { registration: RegistrationId(number) }]);
    }
    for number in 0..3 {
        scene.devices.ended(scene.now, ConnectionId(number), "reset");
    }
    scene.actions();
    let mut dials = 0;
    let until = scene.now + seconds(20);
    while scene.now < until {
        scene.advance_to_deadline();
        for action in scene.actions() {
            match action {
                MqttAction::Dial { connection, .. } => scene.devices.ended(scene.now, connection, "refused"),
                MqttAction::Probe { broker } => scene.devices.probed(scene.now, broker, unreachable()),
                _ => continue,
            }
            dials += 1;
        }
    }
    assert!((10..=22).contains(&dials), "{dials} dials in 20 s");

    let mut back = 0;
    while back < 3 {
        if scene.devices.actions.is_empty() {
            scene.advance_to_deadline();
        }
        for action in scene.actions() {
            match action {
                MqttAction::Dial { connection, .. } => {
                    scene.open(connection);
                    scene.hear(connection, accepted(true));
                    let actions = scene.actions();
                    let subscribe = actions.iter().find_map(|action| match action {
                        MqttAction::Send { connection: on, bytes } if *on == connection => said(bytes).pop(),
                        _ => None,
                    });
                    let Some(SentPacket::Subscribe(packet)) = subscribe else { panic!("{actions:?}") };
                    let others = actions.into_iter().filter(|action| matches!(action, MqttAction::Dial { .. }));
                    let others: Vec<_> = others.collect();
                    scene.hear(connection, Incoming::SubAck { packet: id(packet), reason: Reason(1) });
                    scene.devices.actions.extend(others);
                    back += 1;
                }
                MqttAction::Probe { broker } => scene.devices.probed(scene.now, broker, accepts()),
                MqttAction::Emit(BrokerEvent::Reconnected { .. }) | MqttAction::HangUp { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(scene.now < until + seconds(32));
}

#[test]
fn a_connection_without_an_answer_is_asked_and_then_given_up() {
    let (mut scene, connection) = MqttScene::with_ready_device();
    assert_eq!(scene.advance_to_deadline(), seconds(60));
    scene.expect_said(connection, &[SentPacket::Ping]);
    scene.hear(connection, Incoming::Pong);
    assert_eq!(scene.advance_to_deadline(), seconds(20));
    scene.expect_nothing();
    assert_eq!(scene.advance_to_deadline(), seconds(40));
    scene.expect_said(connection, &[SentPacket::Ping]);
    assert_eq!(scene.advance_to_deadline(), ANSWER_TIMEOUT);
    scene.expect(&[MqttAction::HangUp { connection }]);
}

#[test]
fn a_publication_without_an_answer_ends_the_connection() {
    let (mut scene, connection) = MqttScene::with_ready_device();
    scene.publish(ONE, "a");
    scene.expect_published(connection, &["a"], false);
    assert_eq!(scene.advance_to_deadline(), ANSWER_TIMEOUT);
    scene.expect(&[MqttAction::HangUp { connection }]);
}

// -- Commands ---------------------------------------------------------------------------------------------------------

#[test]
fn a_command_is_acknowledged_when_it_is_told() {
    let (mut scene, connection) = MqttScene::with_ready_device();
    scene.hear(connection, command("dn", Some(7)));
    let actions = scene.actions();
    assert_eq!(actions[0], message(ONE, "dn"));
    assert_eq!(actions[1], MqttAction::Send { connection, bytes: codec::puback(id(7)) });
    scene.hear(connection, command("dn", None));
    scene.expect(&[message(ONE, "dn")]);
}

#[test]
fn commands_of_the_session_wait_until_a_new_device_is_connected() {
    let mut scene = MqttScene::new();
    scene.command_connect(ONE, "ep1");
    let connection = scene.expect_dial(&A);
    scene.open(connection);
    scene.hear(connection, accepted(true));
    let packet = scene.expect_subscribe(connection);
    scene.hear(connection, command("dn/1", Some(7)));
    scene.expect_nothing();
    scene.hear(connection, Incoming::SubAck { packet: id(packet), reason: Reason(1) });
    let actions = scene.actions();
    assert_eq!(actions[..2], [MqttAction::Emit(BrokerEvent::Connected { registration: ONE }), message(ONE, "dn/1")]);
    assert_eq!(actions[2], MqttAction::Send { connection, bytes: codec::puback(id(7)) });
}

#[test]
fn a_device_of_an_earlier_process_hears_what_the_broker_kept_for_it() {
    let mut scene = MqttScene::new();
    scene.command_resume(ONE, "ep1");
    let connection = scene.expect_dial(&A);
    scene.open(connection);
    scene.hear(connection, accepted(true));
    let packet = scene.expect_subscribe(connection);
    scene.hear(connection, command("dn/1", Some(7)));
    assert_eq!(scene.actions()[0], message(ONE, "dn/1"));
    scene.hear(connection, Incoming::SubAck { packet: id(packet), reason: Reason(1) });
    scene.expect_told(&[BrokerEvent::Connected { registration: ONE }]);
}

// -- The end ----------------------------------------------------------------------------------------------------------

#[test]
fn the_end_of_a_registration_is_the_end_of_its_session() {
    let (mut scene, connection) = MqttScene::with_ready_device();
    scene.publish(ONE, "last");
    let ids = scene.expect_published(connection, &["last"], false);
    scene.disconnect(ONE);
    scene.expect_nothing();
    scene.acknowledge(connection, ids[0]);
    let actions = scene.actions();
    let [MqttAction::Send { bytes, .. }, MqttAction::Close { .. }] = actions.as_slice() else { panic!("{actions:?}") };
    assert_eq!(said(bytes), [SentPacket::Disconnect { reason: 0, session_expiry: Some(0) }]);
    assert!(scene.devices.is_empty());
    assert_eq!(scene.devices.next_deadline(), None);
}

#[test]
fn the_end_of_the_program_keeps_the_sessions_for_the_lifetime_of_the_devices() {
    let (mut scene, _) = MqttScene::with_ready_device();
    let lifetime = seconds(600);
    scene.devices.command(scene.now, BrokerCommand::SetLifetime { registration: ONE, lifetime });
    scene.devices.disconnect_all(scene.now);
    let actions = scene.actions();
    let [MqttAction::Send { bytes, .. }, MqttAction::Close { .. }] = actions.as_slice() else { panic!("{actions:?}") };
    assert_eq!(said(bytes), [SentPacket::Disconnect { reason: 0, session_expiry: Some(600) }]);
}

#[test]
fn a_broker_of_version_311_keeps_nothing_for_a_device_that_left() {
    let mut scene = MqttScene::with(|settings| settings.version = ProtocolVersion::V311);
    scene.connect(ONE);
    scene.disconnect(ONE);
    let actions = scene.actions();
    let [MqttAction::Send { bytes, .. }, MqttAction::Close { .. }] = actions.as_slice() else { panic!("{actions:?}") };
    assert_eq!(said(bytes), [SentPacket::Unsubscribe, SentPacket::Disconnect { reason: 0, session_expiry: None }]);
}

#[test]
fn a_device_that_registers_again_waits_for_the_last_words_of_its_predecessor() {
    let (mut scene, connection) = MqttScene::with_ready_device();
    scene.publish(ONE, "last");
    let ids = scene.expect_published(connection, &["last"], false);
    scene.disconnect(ONE);
    scene.command_connect(TWO, "ep1");
    scene.expect_nothing();
    scene.acknowledge(connection, ids[0]);
    let actions = scene.actions();
    assert!(
        matches!(actions.as_slice(), [MqttAction::Send { .. }, MqttAction::Close { .. }, MqttAction::Dial { .. }]),
        "{actions:?}"
    );
}

#[test]
fn two_gateways_with_one_clientid_take_it_from_each_other_ever_more_slowly() {
    let mut scene = MqttScene::with(|settings| settings.version = ProtocolVersion::V311);
    let mut connection = scene.connect(ONE);
    let mut waits = Vec::new();
    for _ in 0..5 {
        scene.devices.ended(scene.now, connection, "reset");
        scene.expect(&[MqttAction::HangUp { connection }]);
        waits.push(scene.advance_to_deadline());
        connection = scene.attempt(&A, true);
        scene.expect_told(&[BrokerEvent::Reconnected { registration: ONE }]);
    }
    assert!(waits[4] >= seconds(15), "{waits:?}");
}
