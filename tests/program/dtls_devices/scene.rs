//! The core with DTLS in virtual time, on a network without losses, at a broker that takes everybody.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use std::time::{Duration, Instant};

use lwm2m_base::{AssociationId, Peer};
use lwm2m_core::coap::options::{format, number};
use lwm2m_core::coap::{Code, Message};
use lwm2m_core::gateway::broker::{BrokerCommand, BrokerEvent, ClientInfo, MessageProperties, RegistrationId};
use lwm2m_core::gateway::config::GatewayConfig;
use lwm2m_core::gateway::persistence::record::{Change, DeviceRecord};
use lwm2m_core::gateway::report::Report;
use lwm2m_core::gateway::{Gateway, Output};
use lwm2m_dtls::credentials::{KeyAnswer, PskKey};
use lwm2m_dtls::handshake::{Acceptor, AcceptorConfig};
use lwm2m_dtls::{self as dtls, AssociationChange, DtlsServer, SavedAssociation, Term, WriteTerms};
use lwm2m_gateway::config::Config;
use serde_json::{Value, json};

use crate::common::device::{request, response_to};
use lwm2m_dtls::test_client::{DtlsClient, DtlsClientConfig};
use lwm2m_testkit::scene::{beginning, model};

pub(crate) const KEY: &[u8] = b"0123456789abcdef";
const SECURED: u16 = 1;
const LINKS: &[u8] = b"</1/0>,</3/0>,</3303/0>";

pub(crate) struct DtlsDevicesScene {
    pub gateway: Gateway,
    settings: GatewayConfig,
    pub now: Instant,
    unix_time: Duration,
    clients: BTreeMap<SocketAddr, DtlsClient>,
    /// What came to the devices, over DTLS and over plain UDP.
    heard: VecDeque<(SocketAddr, Message)>,
    pub connects: Vec<ClientInfo>,
    /// By endpoint.
    pub devices: BTreeMap<String, RegistrationId>,
    pub published: VecDeque<Value>,
    pub reports: Vec<Report>,
    /// While the broker thinks, nobody is connected.
    pub broker_thinks: bool,
    records: BTreeMap<String, DeviceRecord>,
    associations: BTreeMap<AssociationId, SavedAssociation>,
    restarts: u8,
}

impl DtlsDevicesScene {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut GatewayConfig)) -> Self {
        let mut settings = Config::default().gateway;
        change(&mut settings);
        let (now, unix_time) = (beginning(), Duration::from_secs(1_800_000_000));
        let mut server = server(now, 1);
        assert_eq!(server.restore(now, terms(1, now, unix_time), Vec::new()), []);
        let mut gateway = Gateway::new(settings.clone(), model(), [1; 32], now, unix_time).with_dtls(server, SECURED);
        gateway.restore(now, Vec::new());
        Self {
            gateway,
            settings,
            now,
            unix_time,
            clients: BTreeMap::new(),
            heard: VecDeque::new(),
            connects: Vec::new(),
            devices: BTreeMap::new(),
            published: VecDeque::new(),
            reports: Vec::new(),
            broker_thinks: false,
            records: BTreeMap::new(),
            associations: BTreeMap::new(),
            restarts: 0,
        }
    }

    /// A device at this address shakes hands.
    pub(crate) fn connect(&mut self, device: u8, identity: &str) -> SocketAddr {
        let address = address(device);
        self.clients.insert(address, DtlsClient::new(self.now, DtlsClientConfig::psk(identity, KEY)));
        self.pump();
        assert!(self.clients[&address].is_established());
        address
    }

    pub(crate) fn close(&mut self, address: SocketAddr) {
        self.clients.get_mut(&address).expect("a device").close();
        self.pump();
    }

    /// Over DTLS where there is an association.
    pub(crate) fn say(&mut self, address: SocketAddr, message: &Message) {
        match self.clients.get_mut(&address) {
            Some(client) => client.send(&message.encode()),
            None => self.gateway.handle_datagram(self.now, Peer::udp(0, address), &message.encode()),
        }
        self.pump();
    }

    /// The answer to this request.
    #[track_caller]
    pub(crate) fn ask(&mut self, address: SocketAddr, request: &Message) -> Message {
        self.say(address, request);
        let answer = self.hear(address);
        assert_eq!(answer.token, request.token);
        answer
    }

    #[track_caller]
    pub(crate) fn hear(&mut self, address: SocketAddr) -> Message {
        let (to, message) = self.heard.pop_front().expect("something for a device");
        assert_eq!(to, address);
        message
    }

    #[track_caller]
    pub(crate) fn nobody_hears_anything(&self) {
        assert_eq!(self.heard, []);
    }

    /// Registers and gives the location.
    #[track_caller]
    pub(crate) fn register(&mut self, address: SocketAddr, query: &str) -> String {
        let created = self.ask(address, &register(query));
        assert_eq!(created.code, Code::CREATED);
        created.options.texts(number::LOCATION_PATH).expect("text")[1].to_owned()
    }

    #[track_caller]
    pub(crate) fn update(&mut self, address: SocketAddr, location: &str) -> Code {
        self.ask(address, &update(location)).code
    }

    pub(crate) fn command(&mut self, endpoint: &str, command: &Value) {
        let event = BrokerEvent::Message {
            registration: self.devices[endpoint],
            topic: "dn".to_owned(),
            payload: command.to_string().into_bytes(),
            properties: MessageProperties::default(),
        };
        self.gateway.handle_broker(self.now, event);
        self.pump();
    }

    pub(crate) fn answer(&mut self, address: SocketAddr, asked: &Message, text: &str, observing: Option<u32>) {
        let mut answer = response_to(asked, Code::CONTENT, Some((format::TEXT, text.as_bytes())));
        if let Some(number) = observing {
            answer.options.add_uint(number::OBSERVE, number);
        }
        self.say(address, &answer);
    }

    pub(crate) fn advance(&mut self, duration: Duration) {
        self.now += duration;
        self.unix_time += duration;
        self.gateway.handle_timeout(self.now);
        self.pump();
    }

    /// Handshakes that were begun.
    pub(crate) fn handshakes(&self) -> usize {
        let begun = |report: &&Report| matches!(report, Report::Dtls(dtls::DtlsReport::HandshakeBegun { .. }));
        self.reports.iter().filter(begun).count()
    }

    /// The process is killed, and another one begins.
    pub(crate) fn restart(&mut self) {
        self.keep();
        self.restarts += 1;
        self.now += Duration::from_secs(5);
        self.unix_time += Duration::from_secs(5);
        let mut server = server(self.now, 100 + self.restarts);
        let terms = terms(1 + u64::from(self.restarts), self.now, self.unix_time);
        let first = server.restore(self.now, terms, self.associations.values().cloned().collect());
        first.into_iter().for_each(|change| self.keep_association(change));
        let seed = [self.restarts; 32];
        let mut gateway = Gateway::new(self.settings.clone(), model(), seed, self.now, self.unix_time);
        gateway = gateway.with_dtls(server, SECURED);
        gateway.restore(self.now, self.records.values().cloned().collect());
        self.devices.clear();
        self.gateway = gateway;
        self.pump();
    }

    /// What has changed is durable.
    pub(crate) fn keep(&mut self) {
        for change in self.gateway.take_changes(self.now, usize::MAX) {
            match change {
                Change::Put(record) => drop(self.records.insert(record.registration.endpoint.clone(), *record)),
                Change::Remove { endpoint, .. } => drop(self.records.remove(&endpoint)),
                Change::RetainedCommands(record) => panic!("no command was retained, {record:?}"),
                Change::Profile(record) => panic!("no device named a profile, {record:?}"),
                Change::GeneratedKey(record) => panic!("nobody is bootstrapped, {record:?}"),
                Change::AwaitedBootstrap(record) => panic!("nobody is bootstrapped, {record:?}"),
                Change::FirmwareJob(record) => panic!("no firmware was updated, {record:?}"),
                Change::Campaign(record) => panic!("no campaign was begun, {record:?}"),
                Change::Association(change) => self.keep_association(change),
            }
        }
    }

    fn keep_association(&mut self, change: AssociationChange) {
        match change {
            AssociationChange::Put(saved) => drop(self.associations.insert(saved.id, saved)),
            AssociationChange::Remove(id) => drop(self.associations.remove(&id)),
        }
    }

    /// Until nobody has anything to say.
    pub(crate) fn pump(&mut self) {
        loop {
            let mut quiet = self.take_outputs();
            for (address, client) in &mut self.clients {
                while let Some(datagram) = client.poll_transmit() {
                    quiet = false;
                    self.gateway.handle_datagram(self.now, Peer::udp(SECURED, *address), &datagram);
                }
                while let Some(plaintext) = client.poll_plaintext() {
                    self.heard.push_back((*address, Message::decode(&plaintext).expect("a message")));
                }
            }
            if quiet {
                return;
            }
        }
    }

    /// True if there were none.
    fn take_outputs(&mut self) -> bool {
        let mut quiet = true;
        loop {
            match self.gateway.poll_output() {
                Output::Idle(_) => return quiet,
                Output::Transmit(transmit) if transmit.peer.socket == SECURED => {
                    if let Some(client) = self.clients.get_mut(&transmit.peer.address) {
                        client.handle_datagram(self.now, &transmit.datagram);
                    }
                }
                Output::Transmit(transmit) => {
                    let message = Message::decode(&transmit.datagram).expect("a message");
                    self.heard.push_back((transmit.peer.address, message));
                }
                Output::DescribeImage { .. } | Output::ReadImage { .. } => panic!("nobody asks for an image here"),
                Output::Claim(_) | Output::Unclaim { .. } => panic!("this gateway has all devices"),
                Output::FindKey(question) => {
                    let key = PskKey::new(KEY.to_vec()).expect("a key");
                    let answer = KeyAnswer::Found { key: key.into(), keep_for: Duration::from_secs(60) };
                    self.gateway.handle_key(self.now, &question, answer);
                }
                Output::Broker(
                    BrokerCommand::Connect { registration: device, client }
                    | BrokerCommand::Resume { registration: device, client },
                ) => {
                    self.devices.insert(client.endpoint.clone(), device);
                    self.connects.push(client);
                    if !self.broker_thinks {
                        self.gateway.handle_broker(self.now, BrokerEvent::Connected { registration: device });
                    }
                }
                Output::Broker(BrokerCommand::Publish { publication, .. }) => {
                    self.published.push_back(serde_json::from_slice(&publication.payload).expect("JSON"));
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
            }
            quiet = false;
        }
    }
}

fn server(now: Instant, seed: u8) -> DtlsServer {
    let acceptor = Acceptor::new(&AcceptorConfig::default()).expect("PSK needs nothing");
    DtlsServer::new(dtls::DtlsConfig::default(), Some(acceptor), [seed; 32], now)
}

pub(crate) fn address(device: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, device], 5684))
}

pub(crate) fn register(query: &str) -> Message {
    let items: Vec<&str> = query.split('&').filter(|item| !item.is_empty()).collect();
    request(Code::POST, &["rd"], &items, Some((format::LINK_FORMAT, LINKS)))
}

pub(crate) fn update(location: &str) -> Message {
    request(Code::POST, &["rd", location], &[], None)
}

pub(crate) fn deregister(location: &str) -> Message {
    request(Code::DELETE, &["rd", location], &[], None)
}

pub(crate) fn read(id: u64) -> Value {
    json!({ "reqID": id, "msgType": "read", "data": { "path": "/3/0/0" } })
}

pub(crate) fn observe(id: u64) -> Value {
    json!({ "reqID": id, "msgType": "observe", "data": { "path": "/3303/0/5700" } })
}

/// The terms of a process, by the first one.
fn terms(first: u64, now: Instant, unix_time: Duration) -> WriteTerms {
    WriteTerms::new(WriteTerms::first_after(Term::new(first), unix_time), now, unix_time)
}
