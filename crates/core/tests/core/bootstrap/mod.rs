//! Bootstrap sessions through the whole core in virtual time: devices without DTLS here, devices with DTLS in
//! [`secured`].

mod broker;
mod command;
mod losses;
mod packs;
mod refusals;
mod rotation;
mod secured;
mod sequence;
mod simulated;
mod stored_keys;

use lwm2m_core::bootstrap::account::PatternAccount;
use lwm2m_core::bootstrap::file::{AccountFile, AccountReading};
use lwm2m_core::coap::options::{format, number};
use lwm2m_core::coap::{Code, Kind, Message};
use lwm2m_core::gateway::config::{BootstrapConfig, GatewayConfig};
use lwm2m_core::gateway::report::{BootstrapReport, Report};
use lwm2m_testkit::scene::{Scene, model, path_of, reply};
use serde_json::{Value, json};

/// What a device answers to Bootstrap-Discover in these tests: its bootstrap account is the instance 0.
const DISCOVERED: &str =
    "</>;lwm2m=1.1,</0>,</0/0>;uri=\"coap://bs.example.com\",</0/1>;ssid=7,</1>,</1/0>;ssid=7,</3/0>";

/// Returns an account for all endpoint names with one server without security, with these members beside.
fn account(members: Value) -> Value {
    let server = json!({ "short_server_id": 101, "uri": "coap://gw.example.com:5683", "lifetime": "1h" });
    let mut account = json!({ "match": "*", "server": [server] });
    account.as_object_mut().expect("an object").extend(members.as_object().expect("an object").clone());
    account
}

/// Returns an account whose server has a generated key, which may be written without DTLS.
fn generating(members: Value) -> Value {
    let server = json!({
        "short_server_id": 101, "uri": "coaps://gw.example.com", "security": "psk", "identity": "${endpoint_name}",
        "secret": "generate",
    });
    let mut account = account(json!({ "server": [server], "allow_plaintext": true }));
    account.as_object_mut().expect("an object").extend(members.as_object().expect("an object").clone());
    account
}

fn accounts(accounts: Value) -> Vec<PatternAccount> {
    let file: AccountFile = serde_json::from_value(json!({ "account": accounts })).expect("accounts");
    file.read(AccountReading { model: &model(), read_file: None }).expect("valid accounts")
}

/// Returns a scene with a bootstrap server that has this account.
fn scene(account: Value) -> Scene {
    scene_with(account, |_| {})
}

fn scene_with(account: Value, change: impl FnOnce(&mut GatewayConfig)) -> Scene {
    let mut scene = Scene::with(|config| {
        config.bootstrap = Some(BootstrapConfig::default());
        change(config);
    });
    scene.gateway.set_bootstrap_accounts(scene.now, accounts(json!([account])));
    scene
}

/// Sends POST `/bs` with this query, and takes the 2.04.
fn ask(scene: &mut Scene, query: &str) -> Message {
    let request = scene.request(Code::POST, &["bs"], query);
    scene.ask(&request, Code::CHANGED);
    request
}

/// Begins a session, and answers the Discover.
fn begin(scene: &mut Scene, query: &str) {
    ask(scene, query);
    let discover = scene.expect_request(Code::GET, "");
    assert_eq!(discover.options.uint(number::ACCEPT), Ok(Some(format::LINK_FORMAT.into())));
    answer_links(scene, &discover, DISCOVERED);
}

fn answer_links(scene: &mut Scene, discover: &Message, links: &str) {
    let mut answer = Message { kind: Kind::Acknowledgement, code: Code::CONTENT, ..reply(discover) };
    answer.options.add_uint(number::CONTENT_FORMAT, format::LINK_FORMAT.into());
    answer.payload = links.as_bytes().to_vec();
    scene.device_sends(&answer);
}

/// Answers each request with the code of success until the session has ended. Returns the requests as text.
fn obey(scene: &mut Scene) -> Vec<Message> {
    let mut requests = Vec::new();
    while let Some(request) = next_request(scene) {
        scene.answer(&request, success(&request));
        requests.push(request);
    }
    requests
}

/// Takes the next request to the device, if there is one.
fn next_request(scene: &mut Scene) -> Option<Message> {
    match scene.next_said()? {
        lwm2m_testkit::scene::Said::ToDevice(_, message) => Some(message),
        other => panic!("a request is expected, not {other:?}"),
    }
}

fn success(request: &Message) -> Code {
    match request.code {
        Code::DELETE => Code::DELETED,
        Code::GET => Code::CONTENT,
        _ => Code::CHANGED,
    }
}

fn lines(requests: &[Message]) -> Vec<String> {
    requests.iter().map(|request| format!("{} {}", request.code, path_of(request))).collect()
}

/// Takes the reports of the bootstrap server.
fn reports(scene: &mut Scene) -> Vec<BootstrapReport> {
    let reports = scene.reports().into_iter().filter_map(|report| match report {
        Report::Bootstrap(report) => Some(report),
        _ => None,
    });
    reports.collect()
}

/// Takes the reports, of which the last one is a failure, and returns its step, code and reason.
fn failure(scene: &mut Scene) -> (String, Option<Code>, String) {
    match reports(scene).pop() {
        Some(BootstrapReport::Failed { step, code, reason, .. }) => (step.to_string(), code, reason),
        other => panic!("a failure is expected, not {other:?}"),
    }
}
