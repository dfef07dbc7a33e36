//! The cases of a `vectors.json` (bytes of the device's side, JSON of the application's side), each through the built
//! program between real sockets, and through the core in virtual time. The file is named by `LWM2M_VECTORS`, or it is
//! `../shared/spec/vectors.json`; without it there is nothing to run, and `mapping.rs` covers the same ground.

#![expect(clippy::disallowed_methods, reason = "the core's virtual time begins with the moment of the test")]

mod lwm2m_11;

use std::collections::VecDeque;
use std::env;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::common::application::{Application, answer, assert_same, content};
use crate::common::broker::{TestBroker, is_emqx};
use crate::common::device::{Device, fresh_id, path_of, request, response_to};
use crate::common::gateway::Gateway;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use lwm2m_base::Peer;
use lwm2m_core::coap::options::{format, number};
use lwm2m_core::coap::{Code, Kind, Message, MessageId, Token};
use lwm2m_core::gateway::broker::{
    BrokerCommand, BrokerEvent, ConnectError, MessageProperties, RegistrationId, UplinkClass,
};
use lwm2m_core::gateway::config::GatewayConfig;
use lwm2m_core::gateway::{self, Output};
use lwm2m_core::lwm2m::codec::UndefinedResources;
use lwm2m_gateway::config::Config;
use lwm2m_gateway::definitions;
use serde_json::{Value, json};

crate::over_both_upstreams! {
    every_case_holds_through_the_built_program,
    every_tlv_case_holds_through_the_built_program,
}

/// How long EMQX may turn a clientid away that was just there.
const THROTTLED: Duration = Duration::from_secs(10);
/// What the clock of the core says.
const UNIX_TIME: Duration = Duration::from_secs(1_800_000_000);
const ENDPOINT: &str = "dev-7";
const COMMANDS: &str = "lwm2m/dev-7/dn";
const RESPONSES: &str = "lwm2m/dev-7/up/resp";

/// An object that nobody has defined: what a payload holds comes as it is.
const UNDEFINED_OBJECT: &str = "4242";

/// A payload up to this size travels in one message; a larger one in blocks of this size (RFC 7959).
const BLOCK: usize = 1024;

/// A little more than the default, so that a body of 64 KiB may have a header.
const RECEIVED_BODY: usize = 72 * 1024;

/// Both sides of a gateway.
trait VectorSides {
    fn device_sends(&mut self, message: &Message);
    fn device_receives(&mut self) -> Message;
    fn application_sends(&mut self, topic: &str, payload: &[u8]);
    fn application_receives(&mut self) -> (String, Value);
    /// Gives the time of the gateway's clock, in seconds since 1970.
    fn unix_time(&self) -> f64;
}

async fn every_case_holds_through_the_built_program() {
    let Some(cases) = cases() else { return };
    let broker = TestBroker::start().await;
    if let Some(control) = broker.control() {
        control.refuse(|credentials| credentials.username == "nobody");
    }
    let refuses = broker.control().is_some();
    let mut sides = VectorSockets::start(&broker, "");
    for case in cases.iter().filter(|case| kind(case) != "tlv_codec") {
        if refuses || case["name"] != "register_auth_denied" {
            play(&mut sides, case);
        }
    }
}

async fn every_tlv_case_holds_through_the_built_program() {
    let Some(cases) = cases() else { return };
    let broker = TestBroker::start().await;
    let mut sides = VectorSockets::start(
        &broker,
        &format!("undefined_resources = \"opaque\"\ncoap.received_body_size = {RECEIVED_BODY}\n"),
    );
    cases.iter().filter(|case| kind(case) == "tlv_codec").for_each(|case| play(&mut sides, case));
}

struct VectorSockets {
    device: Device,
    application: Application,
    _gateway: Gateway,
}

impl VectorSockets {
    fn start(broker: &TestBroker, lines: &str) -> Self {
        let gateway = Gateway::start_with(&broker.addresses, 1, lines);
        Self {
            device: Device::new(gateway.address()),
            application: Application::connect(&broker.addresses.mqtt, &[ENDPOINT]),
            _gateway: gateway,
        }
    }
}

impl VectorSides for VectorSockets {
    fn device_sends(&mut self, message: &Message) {
        self.device.send(message);
    }

    fn device_receives(&mut self) -> Message {
        self.device.receive()
    }

    fn application_sends(&mut self, topic: &str, payload: &[u8]) {
        self.application.send_to(topic, payload);
    }

    fn application_receives(&mut self) -> (String, Value) {
        self.application.receive()
    }

    fn unix_time(&self) -> f64 {
        SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock of this century").as_secs_f64()
    }
}

#[test]
fn every_case_holds_in_the_core() {
    let Some(cases) = cases() else { return };
    let mut config = Config::default().gateway;
    let mut sides = VectorCore::new(config.clone());
    cases.iter().filter(|case| kind(case) != "tlv_codec").for_each(|case| play(&mut sides, case));
    config.undefined_resources = UndefinedResources::Opaque;
    config.coap.received_body_size = RECEIVED_BODY;
    let mut sides = VectorCore::new(config);
    cases.iter().filter(|case| kind(case) == "tlv_codec").for_each(|case| play(&mut sides, case));
}

/// The core by itself, in virtual time: the broker connects everybody but `nobody`.
struct VectorCore {
    gateway: gateway::Gateway,
    now: Instant,
    device: Option<RegistrationId>,
    to_device: VecDeque<Message>,
    published: VecDeque<(String, Value)>,
}

impl VectorCore {
    fn new(config: GatewayConfig) -> Self {
        Self::with_definitions(config, &Path::new(env!("CARGO_MANIFEST_DIR")).join("xml"))
    }

    fn with_definitions(config: GatewayConfig, folder: &Path) -> Self {
        let model = definitions::read(folder).expect("definitions that can be read").model;
        let now = Instant::now();
        let gateway = gateway::Gateway::new(config, Arc::new(model), [7; 32], now, UNIX_TIME);
        Self { gateway, now, device: None, to_device: VecDeque::new(), published: VecDeque::new() }
    }

    fn take_outputs(&mut self) {
        loop {
            match self.gateway.poll_output() {
                Output::Transmit(transmit) => {
                    self.to_device.push_back(Message::decode(&transmit.datagram).expect("a well-formed message"));
                }
                Output::Broker(command) => self.obey(command),
                Output::Report(_) | Output::Answer(_) => {}
                Output::FindKey(question) => panic!("nobody speaks DTLS here, {question}"),
                Output::Claim(_) | Output::Unclaim { .. } => panic!("this gateway has all devices"),
                Output::DescribeImage { .. } | Output::ReadImage { .. } => panic!("nobody asks for an image here"),
                Output::Idle(_) => return,
            }
        }
    }

    fn obey(&mut self, command: BrokerCommand) {
        match command {
            BrokerCommand::Connect { registration: device, client } if client.username == "nobody" => {
                let error = ConnectError::Refused("not_authorized".to_owned());
                self.gateway.handle_broker(self.now, BrokerEvent::ConnectFailed { registration: device, error });
            }
            BrokerCommand::Connect { registration: device, .. } => {
                self.device = Some(device);
                self.gateway.handle_broker(self.now, BrokerEvent::Connected { registration: device });
            }
            BrokerCommand::Publish { registration, publication } => {
                if let (UplinkClass::Send, Some(ticket)) = (publication.class, publication.ticket) {
                    self.gateway.handle_broker(self.now, BrokerEvent::Queued { registration, ticket });
                }
                let payload = serde_json::from_slice(&publication.payload).expect("what is published is JSON");
                self.published.push_back((publication.topic, payload));
            }
            BrokerCommand::Resume { .. }
            | BrokerCommand::SetLifetime { .. }
            | BrokerCommand::Confirm { .. }
            | BrokerCommand::Disconnect { .. }
            | BrokerCommand::HandOver { .. }
            | BrokerCommand::Abandon { .. } => {}
        }
    }
}

impl VectorSides for VectorCore {
    fn device_sends(&mut self, message: &Message) {
        let peer = Peer::udp(0, SocketAddr::from(([192, 0, 2, 7], 56_830)));
        self.gateway.handle_datagram(self.now, peer, &message.encode());
        self.take_outputs();
    }

    fn device_receives(&mut self) -> Message {
        self.to_device.pop_front().expect("the gateway has something to say to the device")
    }

    fn application_sends(&mut self, topic: &str, payload: &[u8]) {
        let device = self.device.expect("a device is connected");
        let properties = MessageProperties::default();
        let event = BrokerEvent::Message {
            registration: device,
            topic: topic.to_owned(),
            payload: payload.to_vec(),
            properties,
        };
        self.gateway.handle_broker(self.now, event);
        self.take_outputs();
    }

    fn application_receives(&mut self) -> (String, Value) {
        self.published.pop_front().expect("the gateway publishes")
    }

    fn unix_time(&self) -> f64 {
        UNIX_TIME.as_secs_f64()
    }
}

fn cases() -> Option<Vec<Value>> {
    read_cases("LWM2M_VECTORS", "spec/vectors.json")
}

/// The file or folder that a variable names, or else the one beside the project.
fn beside(variable: &str, path: &str) -> Option<PathBuf> {
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared").join(path);
    env::var_os(variable).map(PathBuf::from).or_else(|| beside.exists().then_some(beside))
}

fn read_cases(variable: &str, path: &str) -> Option<Vec<Value>> {
    let Some(file) = beside(variable, path) else {
        println!("there is no {path} ({variable}): no vectors to run; mapping.rs covers the mapping without them");
        return None;
    };
    let Ok(text) = fs::read_to_string(&file) else {
        println!("there is no {}: no vectors to run; tests/mapping.rs covers the mapping without them", file.display());
        return None;
    };
    let cases: Vec<Value> = serde_json::from_str(&text).expect("a list of cases");
    assert!(!cases.is_empty());
    Some(cases)
}

/// Plays one case, after its name. It panics where the gateway does something else.
fn play(sides: &mut impl VectorSides, case: &Value) {
    println!("case {}", case["name"]);
    match kind(case) {
        "registration" => registration(sides, case),
        "command" => command(sides, case),
        "tlv_codec" => tlv_codec(sides, case),
        other => panic!("unknown kind {other}"),
    }
}

fn kind(case: &Value) -> &str {
    case["kind"].as_str().expect("a case has a kind")
}

fn registration(sides: &mut impl VectorSides, case: &Value) {
    let before = case["setup"]["precondition"].as_str().filter(|text| text.starts_with("registered"));
    let mut id = before.map(|_| register(sides, 300, "</1/0>,</3/0>"));

    let location = id.as_deref().unwrap_or("no-such-registration");
    let (sent, response) = ask(sides, || request_of_device(&case["coap_request"], location));
    check_response(&response, &sent, &case["coap_response"]);
    uplinks(case).iter().for_each(|uplink| check_uplink(sides, uplink));

    id = location_of(&response).or(id).filter(|_| response.code != Code::DELETED);
    let id = id.unwrap_or_else(|| register(sides, 777, "</3/0>"));
    nothing_came_before_the_next_read(sides, alternate_path(case));
    deregister(sides, &id);
}

/// What is in front of every path of the device that a registration's case leaves registered.
fn alternate_path(case: &Value) -> &str {
    let path = case["uplink"]["payload"]["data"]["alternatePath"].as_str();
    path.unwrap_or_default().trim_end_matches('/')
}

fn command(sides: &mut impl VectorSides, case: &Value) {
    let root = case["setup"]["alternate_path"].as_str().expect("a command's case names the alternate path");
    let prefix = root.trim_end_matches('/');
    let links = format!("<{root}>;rt=\"oma.lwm2m\",<{prefix}/1/0>,<{prefix}/3/0>,<{prefix}/5/0>,<{prefix}/6/0>");
    let id = register(sides, 300, &links);

    let topic = case["downlink"]["topic"].as_str().expect("a topic");
    let payload = match &case["downlink"]["payload_raw"] {
        Value::String(raw) => raw.clone(),
        _ => case["downlink"]["payload"].to_string(),
    };
    sides.application_sends(topic, payload.as_bytes());
    if !case["coap_request"].is_null() {
        let received = sides.device_receives();
        check_request(&received, &case["coap_request"]);
        listed(&case["coap_response"]).iter().for_each(|response| respond(sides, &received, response));
    }
    uplinks(case).iter().for_each(|uplink| check_uplink(sides, uplink));

    nothing_came_before_the_next_read(sides, prefix);
    deregister(sides, &id);
}

/// The payload is what a device says of an object that has no definition, so that each resource and each resource
/// instance of the tree comes up with its bytes.
fn tlv_codec(sides: &mut impl VectorSides, case: &Value) {
    let id = register(sides, 300, "</3/0>");
    let tree = case["tlv_tree"].as_array().expect("a tree");
    let instances = tree.iter().all(|node| node["kind"] == "object_instance");
    let path = format!("/{UNDEFINED_OBJECT}{}", if instances { "" } else { "/0" });
    let (payload, padding) = tlv_payload(case);
    let mut expected = Vec::new();
    tree.iter().for_each(|node| entries(node, &path, padding, &mut expected));

    let command = json!({ "reqID": "tlv", "msgType": "read", "data": { "path": path } });
    sides.application_sends(COMMANDS, command.to_string().as_bytes());
    serve(sides, &payload);
    let data = json!({ "reqPath": path, "code": "2.05", "codeMsg": "content", "content": expected });
    check_uplink(sides, &json!({ "topic": RESPONSES, "payload": answer(&command, data) }));

    nothing_came_before_the_next_read(sides, "");
    deregister(sides, &id);
}

/// Answers the next request with a payload, in blocks when it is large (RFC 7959 section 2.4).
fn serve(sides: &mut impl VectorSides, payload: &[u8]) {
    let blocks = payload.chunks(BLOCK).count() as u32;
    for (block, bytes) in (0..blocks).zip(payload.chunks(BLOCK)) {
        let request = sides.device_receives();
        let mut response = response_to(&request, Code::CONTENT, Some((format::TLV, bytes)));
        if blocks > 1 {
            assert_eq!(request.options.uint(number::BLOCK2).expect("a number").unwrap_or(0) >> 4, block);
            // 1,024 bytes are size exponent 6.
            response.options.add_uint(number::BLOCK2, block << 4 | u32::from(block + 1 < blocks) << 3 | 6);
        }
        sides.device_sends(&response);
    }
}

/// The bytes of a TLV case, and how many of them it leaves to a note (zero bytes, that nobody wants to read).
fn tlv_payload(case: &Value) -> (Vec<u8>, usize) {
    let mut payload = hex(&case["coap_response"]["payload_hex"]);
    let note = case["coap_response"]["payload_note"].as_str();
    let padding = note.map_or(0, |note| {
        let words: Vec<&str> = note.split(' ').collect();
        let at = words.iter().position(|word| *word == "zero").expect("the note tells how many zero bytes follow");
        words[at - 1].parse().expect("a number")
    });
    payload.resize(payload.len() + padding, 0);
    (payload, padding)
}

/// The flat list of a tree, with the bytes of each value in base64.
fn entries(node: &Value, above: &str, padding: usize, list: &mut Vec<Value>) {
    let path = format!("{above}/{}", node["id"]);
    match node["kind"].as_str().expect("a node has a kind") {
        "object_instance" | "multiple_resource" => {
            let items = node["items"].as_array().expect("a node of this kind has items");
            items.iter().for_each(|item| entries(item, &path, padding, list));
        }
        "resource" | "resource_instance" => {
            let mut value = hex(&node["value_hex"]);
            if node.get("value_note").is_some() {
                value.resize(padding, 0);
            }
            list.push(json!({ "path": path, "value": STANDARD.encode(value), "type": "Opaque" }));
        }
        other => panic!("unknown kind {other}"),
    }
}

/// Sends a request of the device until EMQX accepts it, and returns the request and its response. EMQX rejects a client
/// ID for a moment that connects and disconnects as fast as in this test.
fn ask(sides: &mut impl VectorSides, request: impl Fn() -> Message) -> (Message, Message) {
    let until = Instant::now() + THROTTLED;
    loop {
        let sent = request();
        sides.device_sends(&sent);
        let response = sides.device_receives();
        if response.code != Code::SERVICE_UNAVAILABLE || !is_emqx() || Instant::now() >= until {
            return (sent, response);
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// Registers the device, and gives the id that it was assigned.
fn register(sides: &mut impl VectorSides, lifetime: u32, links: &str) -> String {
    register_as(sides, &[&format!("ep={ENDPOINT}"), &format!("lt={lifetime}"), "lwm2m=1.0"], links)
}

/// Registers the device with this query, and gives the id that it was assigned.
fn register_as(sides: &mut impl VectorSides, query: &[&str], links: &str) -> String {
    let (_, response) =
        ask(sides, || request(Code::POST, &["rd"], query, Some((format::LINK_FORMAT, links.as_bytes()))));
    assert_eq!(response.code, Code::CREATED, "{}", String::from_utf8_lossy(&response.payload));
    let (topic, report) = sides.application_receives();
    assert_eq!((topic.as_str(), &report["msgType"]), (RESPONSES, &json!("register")));
    let lifetime = report["data"]["lt"].as_u64().map(|lifetime| format!("lt={lifetime}"));
    assert!(lifetime.is_some_and(|lifetime| query.contains(&lifetime.as_str())), "{report}");
    location_of(&response).expect("a location")
}

fn deregister(sides: &mut impl VectorSides, id: &str) {
    sides.device_sends(&request(Code::DELETE, &["rd", id], &[], None));
    assert_eq!(sides.device_receives().code, Code::DELETED);
}

/// What the gateway sends and publishes keeps its order: when the next thing on each side belongs to a read that is
/// sent now, there was nothing else.
fn nothing_came_before_the_next_read(sides: &mut impl VectorSides, prefix: &str) {
    let command = json!({ "reqID": "after", "msgType": "read", "data": { "path": "/3/0/0" } });
    sides.application_sends(COMMANDS, command.to_string().as_bytes());
    let request = sides.device_receives();
    assert_eq!((request.code, path_of(&request)), (Code::GET, format!("{prefix}/3/0/0")), "nothing else is sent");
    sides.device_sends(&response_to(&request, Code::CONTENT, Some((format::TEXT, b"ACME"))));
    check_uplink(sides, &json!({ "topic": RESPONSES, "payload": answer(&command, content("/3/0/0", "ACME")) }));
}

fn request_of_device(case: &Value, id: &str) -> Message {
    let path: Vec<&str> =
        texts(&case["uri_path"]).into_iter().map(|segment| if segment == "*" { id } else { segment }).collect();
    let payload = hex(&case["payload_hex"]);
    let mut message = request(code(case), &path, &texts(&case["uri_query"]), None);
    message.kind = kind_of(case);
    if let Some(format) = case["content_format"].as_u64() {
        message.options.add_uint(number::CONTENT_FORMAT, format as u32);
    }
    message.payload = payload;
    message
}

/// One of the messages that the device sends for a request.
fn respond(sides: &mut impl VectorSides, request: &Message, case: &Value) {
    let kind = kind_of(case);
    let piggybacked = matches!(kind, Kind::Acknowledgement | Kind::Reset);
    let id = if piggybacked { request.id } else { fresh_id() };
    if case["empty"] == true {
        return sides.device_sends(&Message::empty(kind, id));
    }
    let mut message = Message { kind, id, ..response_to(request, code(case), None) };
    for (member, option) in [("content_format", number::CONTENT_FORMAT), ("observe", number::OBSERVE)] {
        if let Some(value) = case[member].as_u64() {
            message.options.add_uint(option, value as u32);
        }
    }
    texts(&case["location_path"]).iter().for_each(|segment| message.options.add_text(number::LOCATION_PATH, segment));
    message.payload = hex(&case["payload_hex"]);
    sides.device_sends(&message);
    if kind == Kind::Confirmable {
        assert_eq!(sides.device_receives(), Message::empty(Kind::Acknowledgement, id));
    }
}

/// The request that the device got is the case's, whole: an option that is not there was not sent.
fn check_request(received: &Message, case: &Value) {
    let payload = hex(&case["payload_hex"]);
    assert_eq!((received.kind, received.code, received.token.as_bytes().len()), (kind_of(case), code(case), 8));
    assert_eq!(
        path_of(received),
        texts(&case["uri_path"]).iter().map(|segment| format!("/{segment}")).collect::<String>()
    );
    let mut queries = received.options.texts(number::URI_QUERY).expect("a query is text");
    let mut expected = texts(&case["uri_query"]);
    queries.sort_unstable();
    expected.sort_unstable();
    assert_eq!(queries, expected);
    for (member, option) in [("accept", number::ACCEPT), ("observe", number::OBSERVE)] {
        assert_eq!(received.options.uint(option).expect("a number").map(u64::from), case[member].as_u64(), "{member}");
    }
    if !payload.is_empty() {
        assert_eq!(received.options.content_format().map(u64::from), case["content_format"].as_u64());
    }
    match received.options.content_format() {
        Some(format::SENML_JSON | format::SENML_ETCH_JSON | format::LWM2M_JSON) => {
            let parsed = |payload: &[u8]| serde_json::from_slice::<Value>(payload).expect("JSON");
            assert_eq!(parsed(&received.payload), parsed(&payload));
        }
        _ => assert_eq!(received.payload, payload),
    }
    let known = [number::URI_PATH, number::URI_QUERY, number::ACCEPT, number::OBSERVE, number::CONTENT_FORMAT];
    let other = received.options.iter().find(|(option, _)| !known.contains(option));
    assert_eq!(other, None, "an option that the case does not have");
}

fn check_response(response: &Message, request: &Message, case: &Value) {
    let envelope: (Kind, MessageId, Token) = (kind_of(case), request.id, request.token);
    assert_eq!((response.kind, response.id, response.token), envelope);
    assert_eq!(response.code, code(case), "{}", String::from_utf8_lossy(&response.payload));
    let location = response.options.texts(number::LOCATION_PATH).expect("a location is text");
    let expected = texts(&case["location_path"]);
    assert_eq!(location.len(), expected.len());
    assert!(location.iter().zip(&expected).all(|(segment, text)| *text == "*" || segment == text), "{location:?}");
    if response.code.is_success() {
        assert_eq!(response.payload, hex(&case["payload_hex"]));
    } else {
        // A diagnostic payload may say why (RFC 7252 section 5.5.2).
        assert!(std::str::from_utf8(&response.payload).is_ok());
    }
}

fn check_uplink(sides: &mut impl VectorSides, uplink: &Value) {
    let (topic, payload) = sides.application_receives();
    assert_eq!(topic, uplink["topic"], "{payload}");
    assert_same(&payload, &uplink["payload"]);
}

fn location_of(response: &Message) -> Option<String> {
    let location = response.options.texts(number::LOCATION_PATH).expect("a location is text");
    location.get(1).map(|id| (*id).to_owned())
}

fn uplinks(case: &Value) -> Vec<Value> {
    listed(&case["uplink"])
}

/// One thing, several in order, or none.
fn listed(value: &Value) -> Vec<Value> {
    match value {
        Value::Null => Vec::new(),
        Value::Array(items) => items.clone(),
        one => vec![one.clone()],
    }
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().map_or_else(Vec::new, |items| items.iter().map(|item| item.as_str().expect("a text")).collect())
}

fn kind_of(case: &Value) -> Kind {
    match case["type"].as_str().expect("a message has a type") {
        "CON" => Kind::Confirmable,
        "NON" => Kind::NonConfirmable,
        "ACK" => Kind::Acknowledgement,
        "RST" => Kind::Reset,
        other => panic!("unknown type {other}"),
    }
}

fn code(case: &Value) -> Code {
    let (class, detail) = case["code"].as_str().and_then(|text| text.split_once('.')).expect("class.detail");
    Code::of(class.parse().expect("a digit"), detail.parse().expect("two digits"))
}

fn hex(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap_or_default();
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex")).collect()
}
