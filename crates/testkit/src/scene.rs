//! The core in virtual time: the test is the devices, the broker and the clock.
//!
//! What comes out for devices and for the broker stands in one queue, in the order in which it came out, and every
//! `expect_*` takes its head: a test that ends with [`Scene::expect_nothing_more`] has seen everything. Of what is said
//! to people, the outcomes are checked at once (one for each datagram), the rest is kept for [`Scene::reports`].

mod expecting;

use std::collections::VecDeque;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use lwm2m_base::Peer;
use lwm2m_core::coap::options::{format, number};
use lwm2m_core::coap::{Code, DatagramOutcome, Kind, Message, MessageId, Options, Token};
use lwm2m_core::gateway::broker::{BrokerCommand, BrokerEvent, MessageProperties, RegistrationId, UplinkClass};
use lwm2m_core::gateway::config::GatewayConfig;
use lwm2m_core::gateway::operators::console_commands::ConsoleAnswer;
use lwm2m_core::gateway::report::Report;
use lwm2m_core::gateway::{Gateway, Output};
use lwm2m_core::lwm2m::model::Model;
use serde_json::{Value, json};

use crate::images::MemoryImages;

/// The object list that a device registers with, if the test does not care.
pub const LINKS: &str = "</1/0>,</3/0>,</3303/0>";
/// The query of a Register in tests that do not depend on it.
pub const QUERY: &str = "ep=dev-7&lt=300&lwm2m=1.0";
/// The password of every device that has one: it must never come out.
pub const PASSWORD: &str = "hunter2-and-more";

pub struct Scene {
    pub gateway: Gateway,
    pub now: Instant,
    /// The peer of the device.
    pub peer: Peer,
    /// The registration that commands are for: the last one.
    pub device: RegistrationId,
    /// The segments of its Location-Path.
    pub location: Vec<String>,
    /// The request of the last observation.
    pub observed: Option<Message>,
    /// The lifetimes that were sent to the broker.
    pub lifetimes: Vec<(RegistrationId, Duration)>,
    /// The firmware images on the disk.
    pub images: MemoryImages,
    /// The disk does not answer: requests for images wait for [`Scene::disk_answers`].
    pub disk_waits: bool,
    image_requests: VecDeque<Output>,
    said: VecDeque<Said>,
    reports: VecDeque<Report>,
    deadline: Option<Instant>,
    next_id: u16,
}

/// An output of the gateway for the outside.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    ToDevice(Peer, Message),
    ToBroker(BrokerCommand),
    ToConsole(ConsoleAnswer),
}

impl Default for Scene {
    fn default() -> Self {
        Self::with(|_| {})
    }
}

impl Scene {
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates a scene with changed settings.
    pub fn with(change: impl FnOnce(&mut GatewayConfig)) -> Self {
        let mut config = GatewayConfig::default();
        change(&mut config);
        let now = beginning();
        Self {
            gateway: Gateway::new(config, model(), [7; 32], now, Duration::from_secs(1_700_000_000)),
            now,
            peer: peer(1),
            device: RegistrationId(0),
            location: Vec::new(),
            observed: None,
            lifetimes: Vec::new(),
            images: MemoryImages::default(),
            disk_waits: false,
            image_requests: VecDeque::new(),
            said: VecDeque::new(),
            reports: VecDeque::new(),
            deadline: None,
            next_id: 0,
        }
    }

    /// Creates a scene with one device, `dev-7`, that is registered for 300 s.
    pub fn registered() -> Self {
        Self::registered_with(|_| {})
    }

    pub fn registered_with(change: impl FnOnce(&mut GatewayConfig)) -> Self {
        let mut scene = Self::with(change);
        scene.register(QUERY);
        scene
    }

    // --- The device --------------------------------------------------------------------------------------------------

    /// Registers by way of the broker; what comes out on the way is checked.
    pub fn register(&mut self, query: &str) {
        self.join(query);
        self.expect_reported("register");
    }

    /// Sends a Register, lets the broker take it and takes the 2.01: the report and whatever else comes are the test's.
    pub fn join(&mut self, query: &str) {
        let register = self.send_register(query);
        self.expect_connect();
        self.broker_takes_it();
        self.expect_created(&register);
    }

    pub fn send_register(&mut self, query: &str) -> Message {
        let register = self.register_message(query);
        self.device_sends(&register);
        register
    }

    pub fn register_message(&mut self, query: &str) -> Message {
        let mut register = self.request(Code::POST, &["rd"], query);
        register.options.add_uint(number::CONTENT_FORMAT, format::LINK_FORMAT.into());
        register.payload = LINKS.as_bytes().to_vec();
        register
    }

    /// Sends an Update of the last registration.
    pub fn update(&mut self, query: &str) -> Message {
        let path = self.location.clone();
        self.request(Code::POST, &path, query)
    }

    pub fn update_with_links(&mut self, links: &str) -> Message {
        let mut update = self.update("");
        update.options.add_uint(number::CONTENT_FORMAT, format::LINK_FORMAT.into());
        update.payload = links.as_bytes().to_vec();
        update
    }

    pub fn deregister(&mut self) -> Message {
        let path = self.location.clone();
        self.request(Code::DELETE, &path, "")
    }

    /// Returns a confirmable request of the device with a message id and a token of its own.
    pub fn request(&mut self, method: Code, path: &[impl AsRef<str>], query: &str) -> Message {
        let id = self.fresh_id();
        let token = Token::new(&id.0.to_be_bytes());
        let mut message =
            Message { kind: Kind::Confirmable, code: method, id, token, options: Options::new(), payload: Vec::new() };
        for segment in path {
            message.options.add_text(number::URI_PATH, segment.as_ref());
        }
        for item in query.split('&').filter(|item| !item.is_empty()) {
            message.options.add_text(number::URI_QUERY, item);
        }
        message
    }

    pub fn device_sends(&mut self, message: &Message) {
        self.device_sends_from(self.peer, message);
    }

    pub fn device_sends_from(&mut self, peer: Peer, message: &Message) {
        self.gateway.handle_datagram(self.now, peer, &message.encode());
        let outcomes = self.poll();
        assert_eq!(outcomes.len(), 1, "one outcome for each datagram, not {outcomes:?}");
        assert_eq!(outcomes[0].0, peer);
    }

    /// Sends a datagram that may be no message, and gives its outcome.
    pub fn device_sends_bytes(&mut self, datagram: &[u8]) -> DatagramOutcome {
        self.device_sends_bytes_from(self.peer, datagram)
    }

    pub fn device_sends_bytes_from(&mut self, peer: Peer, datagram: &[u8]) -> DatagramOutcome {
        self.gateway.handle_datagram(self.now, peer, datagram);
        let outcomes = self.poll();
        assert_eq!(outcomes.len(), 1, "one outcome for each datagram, not {outcomes:?}");
        outcomes[0].1
    }

    /// Sends a request of the device and takes the piggybacked answer with this code.
    pub fn ask(&mut self, request: &Message, code: Code) {
        self.device_sends(request);
        let peer = self.peer;
        self.expect_reply(peer, request, code);
    }

    /// Sends the device's answer, in the acknowledgement.
    pub fn answer(&mut self, request: &Message, code: Code) {
        let answer = Message { kind: Kind::Acknowledgement, code, id: request.id, ..reply(request) };
        self.device_sends(&answer);
    }

    /// Answers 2.05 with text.
    pub fn answer_text(&mut self, request: &Message, text: &str) {
        let answer = text_reply(request, Kind::Acknowledgement, request.id, None, text);
        self.device_sends(&answer);
    }

    /// Answers 2.05 with text and an Observe number: the observation begins.
    pub fn answer_observe(&mut self, request: &Message, number: u32, text: &str) {
        let answer = text_reply(request, Kind::Acknowledgement, request.id, Some(number), text);
        self.device_sends(&answer);
    }

    /// Observes by way of an application; the first answer has the number 2. Gives the request that the device got.
    pub fn observe(&mut self, id: u64, path: &str) -> Message {
        self.command(&observe(id, path));
        let request = self.expect_request(Code::GET, path);
        self.answer_observe(&request, 2, "20.5");
        let mut data = observe(id, path);
        data["seqNum"] = json!(2);
        self.expect_answer(&data, content(path, 20.5));
        self.observed = Some(request.clone());
        request
    }

    /// Sends a notification of the observation that this request began, and returns the message.
    pub fn notify(&mut self, observe: &Message, kind: Kind, number: u32, text: &str) -> Message {
        let id = self.fresh_id();
        let notification = text_reply(observe, kind, id, Some(number), text);
        self.device_sends(&notification);
        notification
    }

    pub fn fresh_id(&mut self) -> MessageId {
        self.next_id += 1;
        MessageId(self.next_id)
    }

    // --- The broker --------------------------------------------------------------------------------------------------

    pub fn broker_says(&mut self, event: BrokerEvent) {
        self.gateway.handle_broker(self.now, event);
        let outcomes = self.poll();
        assert_eq!(outcomes, [], "an outcome without a datagram");
    }

    pub fn broker_takes_it(&mut self) {
        self.broker_says(BrokerEvent::Connected { registration: self.device });
    }

    pub fn command(&mut self, command: &Value) {
        self.command_bytes(command.to_string().as_bytes());
    }

    pub fn command_bytes(&mut self, payload: &[u8]) {
        self.command_to(self.device, payload);
    }

    pub fn command_to(&mut self, device: RegistrationId, payload: &[u8]) {
        let topic = "lwm2m/dev-7/dn".to_owned();
        let properties = MessageProperties::default();
        self.broker_says(BrokerEvent::Message { registration: device, topic, payload: payload.to_vec(), properties });
    }

    /// Takes what came out after the test has called the gateway itself.
    pub fn settle(&mut self) {
        assert_eq!(self.poll(), [], "an outcome without a datagram");
    }

    /// Starts the shutdown.
    pub fn drains(&mut self) {
        self.gateway.drain(self.now);
        assert_eq!(self.poll(), [], "an outcome without a datagram");
    }

    /// Ends the time for the shutdown.
    pub fn gateway_ends(&mut self) {
        self.gateway.end(self.now);
        assert_eq!(self.poll(), [], "an outcome without a datagram");
    }

    // --- The disk ----------------------------------------------------------------------------------------------------

    /// Answers the requests for images that wait, and those that come meanwhile.
    pub fn disk_answers(&mut self) {
        while let Some(request) = self.image_requests.pop_front() {
            self.images.answer(&mut self.gateway, self.now, request);
            self.settle();
        }
    }

    /// Returns how many requests for images wait.
    pub fn image_requests(&self) -> usize {
        self.image_requests.len()
    }

    // --- The clock ---------------------------------------------------------------------------------------------------

    /// Lets time pass, and wakes the core each time that it asked for it.
    pub fn advance(&mut self, seconds: f64) {
        let until = self.now + Duration::from_secs_f64(seconds);
        while let Some(next) = self.deadline.filter(|next| *next <= until) {
            self.now = next.max(self.now);
            self.time_out();
        }
        self.now = until;
        self.time_out();
    }

    /// Gives how long it took.
    pub fn advance_to_next_deadline(&mut self) -> Duration {
        let next = self.deadline.expect("a deadline");
        let waited = next.saturating_duration_since(self.now);
        self.now = next.max(self.now);
        self.time_out();
        waited
    }

    fn time_out(&mut self) {
        self.gateway.handle_timeout(self.now);
        let outcomes = self.poll();
        assert_eq!(outcomes, [], "an outcome without a datagram");
        assert!(self.deadline.is_none_or(|next| next > self.now), "a deadline that has passed is asked for again");
    }

    // --- What comes out ----------------------------------------------------------------------------------------------

    /// Discards all outputs so far.
    pub fn forget_what_was_said(&mut self) {
        self.said.clear();
    }

    /// Takes the head of the queue, whatever it is.
    pub fn next_said(&mut self) -> Option<Said> {
        self.said.pop_front()
    }

    /// Puts an output back to the head of the queue.
    pub fn say_again(&mut self, said: Said) {
        self.said.push_front(said);
    }

    /// Takes the reports since the last call, except the outcomes of datagrams.
    pub fn reports(&mut self) -> Vec<Report> {
        self.reports.drain(..).collect()
    }

    /// Takes everything out of the core; gives the outcomes.
    fn poll(&mut self) -> Vec<(Peer, DatagramOutcome)> {
        let mut outcomes = Vec::new();
        loop {
            let output = self.gateway.poll_output();
            keeps_the_secret(&output);
            match output {
                Output::Transmit(transmit) => {
                    let message = Message::decode(&transmit.datagram).expect("what leaves is a message");
                    self.said.push_back(Said::ToDevice(transmit.peer, message));
                }
                Output::Broker(BrokerCommand::SetLifetime { registration: device, lifetime }) => {
                    self.lifetimes.push((device, lifetime));
                }
                Output::Broker(command) => self.said.push_back(Said::ToBroker(command)),
                Output::Answer(answer) => self.said.push_back(Said::ToConsole(answer)),
                Output::Report(Report::Datagram { peer, outcome }) => outcomes.push((peer, outcome)),
                Output::Report(report) => self.reports.push_back(report),
                Output::FindKey(question) => panic!("nobody speaks DTLS here, {question}"),
                Output::Claim(_) | Output::Unclaim { .. } => panic!("this gateway has all devices"),
                Output::DescribeImage { .. } | Output::ReadImage { .. } if self.disk_waits => {
                    self.image_requests.push_back(output);
                }
                Output::DescribeImage { .. } | Output::ReadImage { .. } => {
                    self.images.answer(&mut self.gateway, self.now, output)
                }
                Output::Idle(deadline) => {
                    self.deadline = deadline;
                    return outcomes;
                }
            }
        }
    }
}

/// Returns the start of every scene.
#[expect(clippy::disallowed_methods, reason = "virtual time has to begin somewhere")]
pub fn beginning() -> Instant {
    Instant::now()
}

/// Returns the object definitions that the project ships.
pub fn model() -> Arc<Model> {
    static MODEL: OnceLock<Arc<Model>> = OnceLock::new();
    Arc::clone(MODEL.get_or_init(|| {
        let (model, broken) = Model::from_files(shipped_definitions());
        assert!(broken.is_empty(), "{broken:?}");
        Arc::new(model)
    }))
}

/// Returns the peer of this number; each has an address of its own.
pub fn peer(number: u32) -> Peer {
    let [_, a, b, c] = number.to_be_bytes();
    Peer::udp(0, SocketAddr::from(([10, a, b, c], 5683)))
}

pub fn read(id: u64) -> Value {
    json!({ "reqID": id, "msgType": "read", "data": { "path": "/3/0/0" } })
}

pub fn observe(id: u64, path: &str) -> Value {
    json!({ "reqID": id, "msgType": "observe", "data": { "path": path } })
}

/// Returns the `data` of an answer without content.
pub fn outcome(code: &str, message: &str, path: &Value) -> Value {
    json!({ "code": code, "codeMsg": message, "reqPath": path })
}

/// Returns the `data` of a 2.05 with one value.
pub fn content(path: &str, value: impl Into<Value>) -> Value {
    let value: Value = value.into();
    json!({ "code": "2.05", "codeMsg": "content", "reqPath": path, "content": [{ "path": path, "value": value }] })
}

pub fn path_of(message: &Message) -> String {
    let segments = message.options.texts(number::URI_PATH).expect("text");
    segments.iter().map(|segment| format!("/{segment}")).collect()
}

pub fn location_of(created: &Message) -> Vec<String> {
    created.options.texts(number::LOCATION_PATH).expect("text").into_iter().map(str::to_owned).collect()
}

/// Returns an answer of the device without options and payload.
pub fn reply(request: &Message) -> Message {
    Message {
        kind: Kind::Confirmable,
        code: Code::CONTENT,
        id: request.id,
        token: request.token,
        options: Options::new(),
        payload: Vec::new(),
    }
}

pub fn text_reply(request: &Message, kind: Kind, id: MessageId, observe: Option<u32>, text: &str) -> Message {
    let mut message = Message { kind, id, payload: text.as_bytes().to_vec(), ..reply(request) };
    if let Some(number) = observe {
        message.options.add_uint(number::OBSERVE, number);
    }
    message.options.add_uint(number::CONTENT_FORMAT, format::TEXT.into());
    message
}

fn class_of(payload: &Value) -> UplinkClass {
    match payload["msgType"].as_str() {
        Some("register" | "update") => UplinkClass::Registration,
        Some("notify") => UplinkClass::Notification,
        Some("send") if payload["data"]["code"] == "2.05" => UplinkClass::Send,
        Some("send") => UplinkClass::Notification,
        _ => UplinkClass::Answer,
    }
}

/// Checks that the password leaves toward the broker's authenticator only.
fn keeps_the_secret(output: &Output) {
    let bytes = match output {
        Output::Transmit(transmit) => &transmit.datagram[..],
        Output::Broker(BrokerCommand::Publish { publication, .. }) => &publication.payload[..],
        Output::Answer(answer) => &answer.payload[..],
        Output::Broker(_)
        | Output::FindKey(_)
        | Output::Claim(_)
        | Output::Unclaim { .. }
        | Output::DescribeImage { .. }
        | Output::ReadImage { .. }
        | Output::Report(_)
        | Output::Idle(_) => &[],
    };
    let shown = format!("{output:?}") + &String::from_utf8_lossy(bytes);
    assert!(!shown.contains(PASSWORD), "{shown}");
}

/// Returns the files of `xml/` with their names.
fn shipped_definitions() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../xml");
    let files =
        fs::read_dir(folder).expect("the folder of the shipped definitions").map(|entry| entry.expect("a file").path());
    let read = |file: std::path::PathBuf| (file.display().to_string(), fs::read(file).expect("a readable file"));
    files.map(read).collect()
}
