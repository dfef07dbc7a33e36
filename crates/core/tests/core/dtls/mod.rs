//! A device that speaks DTLS, the gateway and a broker, in virtual time: whatever the network or a restart does to the
//! association, the device is registered once, its commands are answered, and its notifications arrive.

mod traces;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use lwm2m_base::{AssociationId, Peer};
use lwm2m_core::coap::options::{format, number};
use lwm2m_core::coap::{Code, Kind, Message, MessageId, Options, Token, Transmit};
use lwm2m_core::gateway::broker::{BrokerCommand, BrokerEvent, MessageProperties, RegistrationId};
use lwm2m_core::gateway::persistence::record::{Change, DeviceRecord};
use lwm2m_core::gateway::report::Report;
use lwm2m_core::gateway::{Gateway, Output};
use lwm2m_dtls::credentials::{KeyAnswer, PskKey};
use lwm2m_dtls::handshake::{Acceptor, AcceptorConfig};
use lwm2m_dtls::test_client::{DtlsClient, DtlsClientConfig};
use lwm2m_dtls::{self as server, AssociationChange, DtlsServer, SavedAssociation, Term, WriteTerms};
use lwm2m_simulator::{self as simulator, DeviceEvent, SimulatedDevice, SimulatedDeviceConfig};
use lwm2m_testkit::scene::{beginning, model};
use serde_json::{Value, json};

const ENDPOINT: &str = "urn:imei:490154203237518";
const KEY: &[u8] = b"0123456789abcdef";
const TEMPERATURE: &str = "/3303/0/5700";
/// The sockets of the gateway: plain UDP, and DTLS.
const PLAIN: u16 = 0;
const SECURED: u16 = 1;
const LATENCY: Duration = Duration::from_millis(100);

enum Datagram {
    Up(SocketAddr, Vec<u8>),
    Down(SocketAddr, Vec<u8>),
}

struct DtlsGatewayScene {
    gateway: Gateway,
    now: Instant,
    device: SimulatedDevice,
    wakes: Option<Instant>,
    client: DtlsClient,
    address: SocketAddr,
    /// The number of the datagram that is lost.
    loses: Option<u64>,
    under_way: BTreeMap<(Instant, u64), Datagram>,
    sent: u64,
    connected: Option<RegistrationId>,
    /// The broker does not answer.
    broker_waits: bool,
    published: Vec<Value>,
    reports: Vec<Report>,
    events: Vec<DeviceEvent>,
    devices: HashMap<String, DeviceRecord>,
    associations: HashMap<AssociationId, SavedAssociation>,
    restarts: u8,
}

impl DtlsGatewayScene {
    /// The device has made its association, and is registered and observed.
    fn registered(client: DtlsClientConfig) -> Self {
        let mut scene = Self::new(client);
        // Its first Register is lost: there was no association yet.
        scene.run_for(Duration::from_secs(30));
        assert!(scene.device.is_registered(), "{:?}", scene.reports);
        assert_eq!(scene.reported("register"), 1);
        scene.command(json!({ "reqID": 1, "msgType": "observe", "data": { "path": TEMPERATURE } }));
        assert_eq!(scene.answer(1)["data"]["code"], "2.05");
        scene
    }

    fn new(client: DtlsClientConfig) -> Self {
        let mut scene = Self::with_silent_device(client);
        scene.device.start(scene.now);
        scene
    }

    /// The device only makes its association.
    fn with_silent_device(client: DtlsClientConfig) -> Self {
        let now = beginning();
        let config = SimulatedDeviceConfig {
            notification_interval: None,
            wave: None,
            confirmable_notifications: true,
            ..SimulatedDeviceConfig::new(ENDPOINT)
        };
        let mut scene = Self {
            gateway: gateway(now, 0, Vec::new()).0,
            now,
            device: SimulatedDevice::new(config, 7),
            wakes: None,
            client: DtlsClient::new(now, client),
            address: "192.0.2.1:5000".parse().expect("an address"),
            loses: None,
            under_way: BTreeMap::new(),
            sent: 0,
            connected: None,
            broker_waits: false,
            published: Vec::new(),
            reports: Vec::new(),
            events: Vec::new(),
            devices: HashMap::new(),
            associations: HashMap::new(),
            restarts: 0,
        };
        scene.gateway.restore(now, Vec::new());
        scene
    }

    fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.exchange();
            let arrival = self.under_way.first_key_value().map(|((at, _), _)| *at);
            let next = [arrival, self.client.next_deadline(), self.wakes, self.drain()].into_iter().flatten().min();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            self.now = self.now.max(next);
            self.step();
        }
        self.now = end;
    }

    fn step(&mut self) {
        while let Some(entry) = self.under_way.first_entry().filter(|entry| entry.key().0 <= self.now) {
            match entry.remove() {
                Datagram::Up(from, datagram) => {
                    self.gateway.handle_datagram(self.now, Peer::udp(SECURED, from), &datagram)
                }
                Datagram::Down(to, datagram) if to == self.address => self.client.handle_datagram(self.now, &datagram),
                Datagram::Down(..) => {}
            }
        }
        self.client.handle_timeout(self.now);
        if self.wakes.is_some_and(|at| at <= self.now) {
            self.device.handle_timeout(self.now);
        }
        self.gateway.handle_timeout(self.now);
    }

    /// What the device says goes through its association, as soon as it has one; and what comes from there to it.
    fn exchange(&mut self) {
        while let Some(plaintext) = self.client.poll_plaintext() {
            self.device.handle_datagram(self.now, &plaintext);
        }
        loop {
            match self.device.poll_output() {
                simulator::SimulatedDeviceOutput::Transmit(plaintext) if self.client.is_established() => {
                    self.client.send(&plaintext)
                }
                // Its reliability layer sends it again.
                simulator::SimulatedDeviceOutput::Transmit(_) => {}
                simulator::SimulatedDeviceOutput::Event(event) => self.events.push(event),
                simulator::SimulatedDeviceOutput::Idle(next) => {
                    self.wakes = next.map(|next| next.max(self.now));
                    break;
                }
            }
        }
        for datagram in self.client.transmits() {
            self.carry(Datagram::Up(self.address, datagram));
        }
    }

    fn carry(&mut self, datagram: Datagram) {
        self.sent += 1;
        if self.loses != Some(self.sent) {
            self.under_way.insert((self.now + LATENCY, self.sent), datagram);
        }
    }

    /// Does what the gateway wants; gives when it is due again.
    fn drain(&mut self) -> Option<Instant> {
        loop {
            match self.gateway.poll_output() {
                Output::Transmit(Transmit { peer, datagram }) => {
                    assert_eq!(peer.association, None, "sealed");
                    self.carry(Datagram::Down(peer.address, datagram));
                }
                Output::DescribeImage { .. } | Output::ReadImage { .. } => panic!("nobody asks for an image here"),
                Output::Claim(_) | Output::Unclaim { .. } => panic!("this gateway has all devices"),
                Output::FindKey(question) => {
                    let key = PskKey::new(KEY).expect("a key");
                    let answer = KeyAnswer::Found { key: key.into(), keep_for: Duration::from_secs(60) };
                    self.gateway.handle_key(self.now, &question, answer);
                }
                Output::Broker(
                    BrokerCommand::Connect { registration, .. } | BrokerCommand::Resume { registration, .. },
                ) => {
                    self.connected = Some(registration);
                    if !self.broker_waits {
                        self.gateway.handle_broker(self.now, BrokerEvent::Connected { registration });
                    }
                }
                Output::Broker(BrokerCommand::Publish { registration, publication }) => {
                    self.published.push(serde_json::from_slice(&publication.payload).expect("JSON"));
                    if let Some(ticket) = publication.ticket {
                        self.gateway.handle_broker(self.now, BrokerEvent::Published { registration, ticket });
                    }
                }
                Output::Broker(
                    BrokerCommand::Disconnect { .. }
                    | BrokerCommand::HandOver { .. }
                    | BrokerCommand::Abandon { .. }
                    | BrokerCommand::SetLifetime { .. }
                    | BrokerCommand::Confirm { .. },
                ) => {}
                Output::Report(report) => self.reports.push(report),
                Output::Answer(answer) => panic!("there is no console here, {answer:?}"),
                Output::Idle(next) => return next,
            }
        }
    }

    /// Publishes a command, and waits for a minute.
    fn command(&mut self, command: Value) {
        let registration = self.connected.expect("it is registered");
        let (topic, payload) = ("dn".to_owned(), command.to_string().into_bytes());
        self.gateway.handle_broker(
            self.now,
            BrokerEvent::Message { registration, topic, payload, properties: MessageProperties::default() },
        );
        self.run_for(Duration::from_secs(60));
    }

    /// The answer to the command of this number.
    fn answer(&self, id: u64) -> &Value {
        let mut answers = self.published.iter().filter(|published| published["reqID"] == id);
        answers.next().unwrap_or_else(|| panic!("no answer to {id}: {:?} {:?}", self.published, self.reports))
    }

    fn reported(&self, msg_type: &str) -> usize {
        self.published.iter().filter(|published| published["msgType"] == msg_type).count()
    }

    /// What holds whatever happened before: the device can be read, and is heard; and it is registered as it was.
    fn assert_all_is_well(&mut self) {
        let id = 1000 + self.sent;
        self.command(json!({ "reqID": id, "msgType": "read", "data": { "path": "/3/0/0" } }));
        assert_eq!(self.answer(id)["data"]["code"], "2.05", "{:?}", self.answer(id));
        let notifications = self.reported("notify");
        let path = TEMPERATURE.parse().expect("a path");
        assert!(self.device.notify(self.now, path, simulator::SimulatedValue::Float(self.sent as f64)));
        self.run_for(Duration::from_secs(60));
        assert_eq!(self.reported("notify"), notifications + 1);
        assert_eq!(self.reported("register"), 1);
    }

    fn save(&mut self) {
        for change in self.gateway.take_changes(self.now, usize::MAX) {
            self.keep(change);
        }
    }

    fn keep(&mut self, change: Change) {
        match change {
            Change::Put(record) => drop(self.devices.insert(record.registration.endpoint.clone(), *record)),
            Change::Remove { endpoint, .. } => drop(self.devices.remove(&endpoint)),
            Change::RetainedCommands(record) => panic!("no command was retained, {record:?}"),
            Change::Profile(record) => panic!("no device named a profile, {record:?}"),
            Change::GeneratedKey(record) => panic!("nobody is bootstrapped, {record:?}"),
            Change::AwaitedBootstrap(record) => panic!("nobody is bootstrapped, {record:?}"),
            Change::Campaign(record) => panic!("no campaign was begun, {record:?}"),
            Change::FirmwareJob(record) => panic!("no firmware was updated, {record:?}"),
            Change::Association(AssociationChange::Put(saved)) => drop(self.associations.insert(saved.id, saved)),
            Change::Association(AssociationChange::Remove(id)) => drop(self.associations.remove(&id)),
        }
    }

    /// kill -9, and a new process with what is in the store.
    fn restart(&mut self) {
        self.restarts += 1;
        let associations = self.associations.values().cloned().collect();
        let (gateway, changes) = gateway(self.now, self.restarts, associations);
        self.gateway = gateway;
        for change in changes {
            self.keep(Change::Association(change));
        }
        self.gateway.restore(self.now, self.devices.values().cloned().collect());
    }

    fn rebind(&mut self) {
        self.address.set_port(self.address.port() + 1);
    }

    fn handshakes(&self) -> usize {
        let begun = |report: &&Report| matches!(report, Report::Dtls(server::DtlsReport::HandshakeBegun { .. }));
        self.reports.iter().filter(begun).count()
    }
}

fn gateway(now: Instant, number: u8, associations: Vec<SavedAssociation>) -> (Gateway, Vec<AssociationChange>) {
    let acceptor = Acceptor::new(&AcceptorConfig::default()).expect("PSK needs nothing");
    let mut server = DtlsServer::new(server::DtlsConfig::default(), Some(acceptor), [number; 32], now);
    let seconds = Duration::from_secs(1_700_000_000);
    let terms = WriteTerms::new(Term::new(u64::from(number) + 1), now, Duration::ZERO);
    let changes = server.restore(now, terms, associations);
    let gateway =
        Gateway::new(lwm2m_core::gateway::config::GatewayConfig::default(), model(), [number; 32], now, seconds);
    (gateway.with_dtls(server, SECURED), changes)
}

fn psk() -> DtlsClientConfig {
    DtlsClientConfig::psk(ENDPOINT, KEY)
}

/// Without connection ids; with one in the device's records; with one both ways.
fn each_kind() -> [DtlsClientConfig; 3] {
    [psk(), psk().with_cid(&[]), psk().with_cid(b"dev")]
}

#[test]
fn a_device_registers_is_read_and_notifies_over_dtls() {
    for client in each_kind() {
        let mut scene = DtlsGatewayScene::registered(client);
        scene.assert_all_is_well();
        scene.assert_all_is_well();
        assert_eq!(scene.handshakes(), 1);
    }
}

#[test]
fn the_end_of_a_handshake_is_told_when_the_store_has_the_association() {
    for client in each_kind() {
        let mut scene = DtlsGatewayScene::with_silent_device(client);
        scene.gateway.tell_when_stored(Duration::from_secs(3600));
        scene.run_for(Duration::from_secs(5));
        assert!(scene.gateway.has_urgent_changes() && !scene.client.is_established(), "{:?}", scene.reports);
        let batch = scene.gateway.take_batch(scene.now, 1);
        assert_eq!(batch.changes.len(), 1);
        batch.changes.into_iter().for_each(|change| scene.keep(change));
        scene.run_for(Duration::from_secs(5));
        assert!(!scene.client.is_established(), "the store is late");
        scene.gateway.handle_stored(scene.now, batch.version);
        scene.drain();
        scene.run_for(Duration::from_secs(1));
        assert!(scene.client.is_established(), "{:?} {:?}", scene.client.state(), scene.reports);

        scene.restart();
        scene.device.start(scene.now);
        scene.run_for(Duration::from_secs(30));
        assert!(scene.device.is_registered(), "{:?}", scene.reports);
        assert_eq!(scene.handshakes(), 1);
    }
}

#[test]
fn whichever_of_the_first_forty_datagrams_is_lost_the_device_is_registered_once() {
    for client in each_kind() {
        for lost in 1..=40 {
            let mut scene = DtlsGatewayScene::new(client.clone());
            scene.loses = Some(lost);
            scene.run_for(Duration::from_secs(60));
            assert!(scene.device.is_registered(), "without datagram {lost}");
            scene.command(json!({ "reqID": 1, "msgType": "observe", "data": { "path": TEMPERATURE } }));
            scene.assert_all_is_well();
        }
    }
}

#[test]
fn a_device_with_a_connection_id_moves_in_every_state_of_a_command() {
    for client in each_kind().into_iter().skip(1) {
        for tenths in 0..8 {
            let mut scene = DtlsGatewayScene::registered(client.clone());
            let device = scene.connected.expect("it is registered");
            let payload =
                json!({ "reqID": 7, "msgType": "read", "data": { "path": "/3/0/0" } }).to_string().into_bytes();
            scene.gateway.handle_broker(
                scene.now,
                BrokerEvent::Message {
                    registration: device,
                    topic: "dn".into(),
                    payload,
                    properties: MessageProperties::default(),
                },
            );
            scene.run_for(tenths * Duration::from_millis(50) + Duration::from_millis(10));
            scene.rebind();
            // A device behind a NAT is found again when it speaks.
            let path = TEMPERATURE.parse().expect("a path");
            assert!(scene.device.notify(scene.now, path, simulator::SimulatedValue::Float(f64::from(tenths))));
            scene.run_for(Duration::from_secs(60));
            assert_eq!(scene.answer(7)["data"]["code"], "2.05");
            scene.assert_all_is_well();
            assert_eq!(scene.handshakes(), 1);
        }
    }
}

#[test]
fn a_register_that_waits_for_the_broker_is_answered_5_03_when_the_shard_of_its_association_is_handed_over() {
    let mut scene = DtlsGatewayScene::with_silent_device(psk().with_cid(b"dev"));
    scene.run_for(Duration::from_secs(5));
    scene.broker_waits = true;
    scene.device.start(scene.now);
    scene.run_for(Duration::from_secs(1));
    assert!(scene.connected.is_some(), "{:?}", scene.reports);
    scene.save();
    let shard = scene.associations.keys().next().expect("it is saved").shard();
    scene.gateway.hand_over_shard(scene.now, shard);
    scene.drain();
    scene.run_for(Duration::from_secs(1));
    let is_refusal =
        |event: &DeviceEvent| matches!(event, DeviceEvent::Refused { code: Some(Code::SERVICE_UNAVAILABLE), .. });
    assert!(scene.events.iter().any(is_refusal), "{:?} {:?}", scene.events, scene.reports);
    assert!(!scene.gateway.is_registered(ENDPOINT) && !scene.gateway.has_endpoint(ENDPOINT));
}

#[test]
fn a_device_that_reboots_its_association_keeps_its_registration() {
    for client in each_kind() {
        let mut scene = DtlsGatewayScene::registered(client);
        for moves in [false, true, false] {
            if moves {
                scene.rebind();
            }
            scene.client = scene.client.reboot(scene.now);
            scene.run_for(Duration::from_secs(5));
            assert!(scene.client.is_established());
            // It says nothing by itself: the registration is where its new association is.
            scene.assert_all_is_well();
        }
        assert_eq!(scene.handshakes(), 4);
    }
}

#[test]
fn a_restart_costs_no_handshake_and_no_registration() {
    for client in each_kind() {
        let mut scene = DtlsGatewayScene::registered(client);
        for _ in 0..3 {
            scene.save();
            scene.restart();
            scene.assert_all_is_well();
            // Without a save: by what was there before.
            scene.restart();
            scene.assert_all_is_well();
        }
        assert_eq!(scene.handshakes(), 1);
        assert!(scene.events.iter().all(|event| !matches!(event, DeviceEvent::Refused { .. })));
    }
}

#[test]
fn a_restart_within_a_command_costs_no_handshake() {
    for client in each_kind() {
        for tenths in 0..6 {
            let mut scene = DtlsGatewayScene::registered(client.clone());
            let device = scene.connected.expect("it is registered");
            let payload =
                json!({ "reqID": 7, "msgType": "read", "data": { "path": "/3/0/0" } }).to_string().into_bytes();
            scene.gateway.handle_broker(
                scene.now,
                BrokerEvent::Message {
                    registration: device,
                    topic: "dn".into(),
                    payload,
                    properties: MessageProperties::default(),
                },
            );
            scene.save();
            scene.run_for(tenths * Duration::from_millis(50) + Duration::from_millis(10));
            scene.restart();
            scene.run_for(Duration::from_secs(60));
            assert_eq!(scene.answer(7)["data"]["code"], "2.05", "after {tenths} times 50 ms");
            scene.assert_all_is_well();
            assert_eq!(scene.handshakes(), 1);
        }
    }
}

/// Over plain UDP anybody can claim to be many devices that begin a Register in blocks and never finish it.
#[test]
fn a_flood_of_registers_in_blocks_over_plain_udp_keeps_no_dtls_device_from_its_own() {
    for client in each_kind() {
        let mut scene = DtlsGatewayScene::with_silent_device(client);
        scene.run_for(Duration::from_secs(5));
        assert!(scene.client.is_established());

        scene.begin_registers_over_plain_udp(0);
        scene.client.send(&register_in_blocks(ENDPOINT, false));
        scene.run_for(Duration::from_secs(1));
        assert_eq!(scene.gateway.table_sizes().coap.assemblies, BODIES_OF_UNREGISTERED_PEERS + 1);
        scene.begin_registers_over_plain_udp(1);
        assert_eq!(scene.connected, None);
        scene.client.send(&register_in_blocks(ENDPOINT, true));
        scene.run_for(Duration::from_secs(1));

        assert!(scene.connected.is_some(), "{:?}", scene.reports);
        assert_eq!(scene.reported("register"), 1);
        assert_eq!(scene.gateway.table_sizes().coap.assemblies, BODIES_OF_UNREGISTERED_PEERS);
    }
}

/// The bodies in transfer that unregistered peers may have over plain UDP, by default.
const BODIES_OF_UNREGISTERED_PEERS: usize = 500;

impl DtlsGatewayScene {
    /// Twice as many as there is room for, each from an address of its own.
    fn begin_registers_over_plain_udp(&mut self, network: u8) {
        for number in 0..2 * BODIES_OF_UNREGISTERED_PEERS {
            let address = ([172, 16 + network, (number >> 8) as u8, number as u8], 5683).into();
            let register = register_in_blocks(&format!("spoofed-{number}"), false);
            self.gateway.handle_datagram(self.now, Peer::udp(PLAIN, address), &register);
        }
        self.drain();
    }
}

/// The first and the last block of a Register, of 16 bytes and of 7.
fn register_in_blocks(endpoint: &str, last: bool) -> Vec<u8> {
    let mut options = Options::new();
    options.add_text(number::URI_PATH, "rd");
    options.add_text(number::URI_QUERY, &format!("ep={endpoint}"));
    options.add_text(number::URI_QUERY, "lt=60");
    options.add_uint(number::CONTENT_FORMAT, format::LINK_FORMAT.into());
    options.add_uint(number::BLOCK1, if last { 0x10 } else { 0x08 });
    let payload: &[u8] = if last { b"3303/0>" } else { b"</1/0>,</3/0>,</" };
    let (id, payload) = (MessageId(if last { 2 } else { 1 }), payload.to_vec());
    Message { kind: Kind::Confirmable, code: Code::POST, id, token: Token::EMPTY, options, payload }.encode()
}

/// Returns the bytes of a Send with one temperature.
fn temperature_sent(id: u16) -> Vec<u8> {
    let mut options = Options::new();
    options.add_text(number::URI_PATH, "dp");
    options.add_uint(number::CONTENT_FORMAT, format::SENML_JSON.into());
    let payload = br#"[{"n":"/3303/0/5700","v":21.5}]"#.to_vec();
    let (kind, token) = (Kind::Confirmable, Token::new(&id.to_be_bytes()));
    Message { kind, code: Code::POST, id: MessageId(id), token, options, payload }.encode()
}

#[test]
fn a_send_from_a_new_address_moves_the_device_there_and_is_published_once() {
    for client in each_kind().into_iter().skip(1) {
        let mut scene = DtlsGatewayScene::registered(client);
        scene.rebind();
        // Two copies: the second one is a duplicate, although the address was unknown at the first.
        for _ in 0..2 {
            scene.client.send(&temperature_sent(4242));
        }
        scene.run_for(Duration::from_secs(5));
        assert_eq!(scene.reported("send"), 1, "{:?}", scene.reports);
        scene.assert_all_is_well();
    }
}

#[test]
fn a_send_by_a_new_association_is_that_of_its_identity() {
    for client in each_kind() {
        let mut scene = DtlsGatewayScene::registered(client);
        scene.client = scene.client.reboot(scene.now);
        scene.run_for(Duration::from_secs(5));
        scene.client.send(&temperature_sent(4242));
        scene.run_for(Duration::from_secs(5));
        assert_eq!(scene.reported("send"), 1, "{:?}", scene.reports);
        scene.assert_all_is_well();
    }
}
