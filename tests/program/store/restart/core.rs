//! The core by itself in virtual time, with a store that is a map: what a restart keeps goes through JSON, as in the
//! file.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use lwm2m_base::Peer;
use lwm2m_core::coap::options::{format, number};
use lwm2m_core::coap::{Code, Kind, Message};
use lwm2m_core::gateway::broker::{BrokerCommand, BrokerEvent, CloseReason, MessageProperties, RegistrationId};
use lwm2m_core::gateway::config::GatewayConfig;
use lwm2m_core::gateway::report::{NotRestored, Report};
use lwm2m_core::gateway::{Gateway, Output};
use lwm2m_core::lwm2m::model::Model;
use lwm2m_gateway::config::Config;
use lwm2m_gateway::definitions;
use lwm2m_testkit::store::MemoryStore;
use serde_json::{Value, json};

use crate::common::device::{fresh_id, request, response_to};

pub(super) const LINKS: &str = "</1/0>,</3/0>,</3303/0>";

pub(super) struct RestartedCore {
    pub gateway: Gateway,
    pub settings: GatewayConfig,
    pub now: Instant,
    pub unix_time: Duration,
    pub store: MemoryStore,
    /// By endpoint, the newest.
    pub devices: BTreeMap<String, RegistrationId>,
    pub to_devices: VecDeque<(Peer, Message)>,
    pub published: VecDeque<(String, Value)>,
    /// The devices that were asked to be connected again and are not yet.
    pub resumed: VecDeque<(String, RegistrationId)>,
    pub not_restored: Vec<(String, NotRestored)>,
    seed: u8,
}

impl RestartedCore {
    pub(super) fn new() -> Self {
        Self::with(|_| ())
    }

    pub(super) fn with(adjust: impl FnOnce(&mut GatewayConfig)) -> Self {
        let mut settings = Config::default().gateway;
        adjust(&mut settings);
        let (now, unix_time) = (Instant::now(), Duration::from_secs(1_800_000_000));
        let mut gateway = Gateway::new(settings.clone(), model(), [1; 32], now, unix_time);
        gateway.restore(now, Vec::new());
        Self {
            gateway,
            settings,
            now,
            unix_time,
            store: MemoryStore::default(),
            devices: BTreeMap::new(),
            to_devices: VecDeque::new(),
            published: VecDeque::new(),
            resumed: VecDeque::new(),
            not_restored: Vec::new(),
            seed: 1,
        }
    }

    /// The process is killed, and another one begins `later`. Its monotonic clock tells nothing of the one before.
    pub(super) fn restart(&mut self, later: Duration) {
        self.keep();
        self.seed += 1;
        self.now += Duration::from_secs(7);
        self.unix_time += later;
        let mut gateway = Gateway::new(self.settings.clone(), model(), [self.seed; 32], self.now, self.unix_time);
        self.devices.clear();
        self.store.restore(&mut gateway, self.now);
        self.gateway = gateway;
        self.take_outputs();
        self.keep();
    }

    /// Writes what has changed.
    pub(super) fn keep(&mut self) {
        self.store.keep(self.gateway.take_changes(self.now, usize::MAX));
    }

    pub(super) fn advance(&mut self, duration: Duration) {
        self.now += duration;
        self.unix_time += duration;
        self.gateway.handle_timeout(self.now);
        self.take_outputs();
    }

    /// The broker has connected everybody who was to be connected again.
    pub(super) fn connect_resumed(&mut self) {
        while let Some((_, device)) = self.resumed.pop_front() {
            self.broker(BrokerEvent::Connected { registration: device });
        }
    }

    pub(super) fn broker(&mut self, event: BrokerEvent) {
        self.gateway.handle_broker(self.now, event);
        self.take_outputs();
    }

    pub(super) fn close(&mut self, endpoint: &str, reason: CloseReason) {
        if let Some(&device) = self.devices.get(endpoint) {
            self.broker(BrokerEvent::Closed { registration: device, reason });
        }
    }

    /// The broker ends the sessions of all devices but one.
    pub(super) fn close_all_but(&mut self, kept: &str) {
        self.take_outputs();
        for endpoint in self.devices.keys().filter(|endpoint| *endpoint != kept).cloned().collect::<Vec<_>>() {
            self.close(&endpoint, CloseReason::Kicked);
        }
    }

    pub(super) fn command(&mut self, endpoint: &str, command: &Value) {
        self.command_with(endpoint, command, MessageProperties::default());
    }

    /// As the broker gives a retained command to everybody who subscribes.
    pub(super) fn retained_command(&mut self, endpoint: &str, command: &Value) {
        self.command_with(endpoint, command, MessageProperties { retained: true, ..MessageProperties::default() });
    }

    pub(super) fn command_with(&mut self, endpoint: &str, command: &Value, properties: MessageProperties) {
        if let Some(&device) = self.devices.get(endpoint) {
            let (topic, payload) = ("dn".to_owned(), command.to_string().into_bytes());
            self.broker(BrokerEvent::Message { registration: device, topic, payload, properties });
        }
    }

    pub(super) fn datagram(&mut self, peer: Peer, message: &Message) {
        self.gateway.handle_datagram(self.now, peer, &message.encode());
        self.take_outputs();
    }

    /// Registers, and gives the location.
    pub(super) fn register(&mut self, peer: Peer, query: &str) -> String {
        self.register_with_links(peer, query, LINKS)
    }

    pub(super) fn register_with_links(&mut self, peer: Peer, query: &str, links: &str) -> String {
        let query: Vec<&str> = query.split('&').collect();
        self.datagram(peer, &request(Code::POST, &["rd"], &query, Some((format::LINK_FORMAT, links.as_bytes()))));
        let created = self.expect_to_device(peer);
        assert_eq!(created.code, Code::CREATED);
        created.options.texts(number::LOCATION_PATH).unwrap()[1].to_owned()
    }

    pub(super) fn update(&mut self, peer: Peer, location: &str) -> Code {
        self.datagram(peer, &request(Code::POST, &["rd", location], &[], None));
        self.to_devices.pop_front().expect("an answer").1.code
    }

    /// Has the device observed, and gives the request that began it.
    pub(super) fn observe(&mut self, endpoint: &str, peer: Peer, id: u64) -> Message {
        self.command(endpoint, &observe(id));
        let asked = self.expect_to_device(peer);
        let mut answer = response_to(&asked, Code::CONTENT, Some((format::TEXT, b"20.5")));
        answer.options.add_uint(number::OBSERVE, 5);
        self.datagram(peer, &answer);
        asked
    }

    #[track_caller]
    pub(super) fn expect_to_device(&mut self, peer: Peer) -> Message {
        let (to, message) = self.to_devices.pop_front().expect("something for the device");
        assert_eq!(to, peer);
        message
    }

    #[track_caller]
    pub(super) fn expect_published(&mut self, topic: &str) -> Value {
        let (heard, payload) = self.published.pop_front().expect("a publication");
        assert_eq!(heard, topic, "{payload}");
        payload
    }

    #[track_caller]
    pub(super) fn expect_nothing_more(&self) {
        assert_eq!((&self.to_devices, &self.published), (&VecDeque::new(), &VecDeque::new()));
    }

    fn take_outputs(&mut self) {
        loop {
            match self.gateway.poll_output() {
                Output::Transmit(transmit) => {
                    let message = Message::decode(&transmit.datagram).expect("a well-formed message");
                    self.to_devices.push_back((transmit.peer, message));
                }
                Output::Broker(BrokerCommand::Connect { registration: device, client }) => {
                    self.devices.insert(client.clientid, device);
                    self.gateway.handle_broker(self.now, BrokerEvent::Connected { registration: device });
                }
                Output::Broker(BrokerCommand::Resume { registration: device, client }) => {
                    self.devices.insert(client.clientid.clone(), device);
                    self.resumed.push_back((client.clientid, device));
                }
                Output::Broker(BrokerCommand::Publish { publication, .. }) => {
                    let payload = serde_json::from_slice(&publication.payload).expect("what is published is JSON");
                    self.published.push_back((publication.topic, payload));
                }
                Output::Broker(
                    BrokerCommand::Disconnect { registration: device }
                    | BrokerCommand::HandOver { registration: device }
                    | BrokerCommand::Abandon { registration: device },
                ) => {
                    self.devices.retain(|_, other| *other != device);
                }
                Output::Broker(BrokerCommand::SetLifetime { .. } | BrokerCommand::Confirm { .. }) => {}
                Output::Report(Report::NotRestored { endpoint, reason }) => self.not_restored.push((endpoint, reason)),
                Output::Report(_) | Output::Answer(_) => {}
                Output::FindKey(question) => panic!("nobody speaks DTLS here, {question}"),
                Output::Claim(_) | Output::Unclaim { .. } => panic!("this gateway has all devices"),
                Output::DescribeImage { .. } | Output::ReadImage { .. } => panic!("nobody asks for an image here"),
                Output::Idle(_) => return,
            }
        }
    }
}

pub(super) fn peer(number: u8) -> Peer {
    Peer::udp(0, SocketAddr::from(([192, 0, 2, number], 56_830)))
}

pub(super) fn read(id: u64) -> Value {
    json!({ "reqID": id, "msgType": "read", "data": { "path": "/3/0/0" } })
}

pub(super) fn observe(id: u64) -> Value {
    json!({ "reqID": id, "msgType": "observe", "data": { "path": "/3303/0/5700" } })
}

pub(super) fn notification(of: &Message, number: u32, text: &str) -> Message {
    let mut message = response_to(of, Code::CONTENT, Some((format::TEXT, text.as_bytes())));
    message.kind = Kind::Confirmable;
    message.id = fresh_id();
    message.options.add_uint(number::OBSERVE, number);
    message
}

fn model() -> Arc<Model> {
    static MODEL: OnceLock<Arc<Model>> = OnceLock::new();
    let read = || {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("xml");
        Arc::new(definitions::read(&folder).expect("the project's own definitions").model)
    };
    Arc::clone(MODEL.get_or_init(read))
}
