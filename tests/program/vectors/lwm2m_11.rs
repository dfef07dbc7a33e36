//! The cases of LwM2M 1.1 and 1.2: each device registers as its case says, a command may take several requests, devices
//! send values unasked, and scripts have both sides in turn. The file is named by `LWM2M_VECTORS_11`, or it is
//! `../shared/spec/vectors-11.json`.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use lwm2m_core::coap::Message;
use lwm2m_gateway::config::Config;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::application::assert_same;
use crate::common::broker::TestBroker;

use super::{
    VectorCore, VectorSides, VectorSockets, ask, beside, check_request, check_response, deregister, kind, listed,
    location_of, nothing_came_before_the_next_read, read_cases, register_as, request_of_device, respond, texts,
};

crate::over_both_upstreams! {
    every_case_of_1_1_holds_through_the_built_program,
}

/// Seconds by which the clocks of the test and of the gateway may differ.
const TOLERANCE: f64 = 5.0;

async fn every_case_of_1_1_holds_through_the_built_program() {
    let Some((cases, definitions)) = cases() else { return };
    let broker = TestBroker::start().await;
    let lines = format!("xml_dir = {:?}\n", definitions.path());
    let mut sides = VectorSockets::start(&broker, &lines);
    cases.iter().for_each(|case| play(&mut sides, case));
}

#[test]
fn every_case_of_1_1_holds_in_the_core() {
    let Some((cases, definitions)) = cases() else { return };
    let mut sides = VectorCore::with_definitions(Config::default().gateway, definitions.path());
    cases.iter().for_each(|case| play(&mut sides, case));
}

/// The cases that can be played, and a folder with the shipped definitions and those that they need.
fn cases() -> Option<(Vec<Value>, TempDir)> {
    let mut cases = read_cases("LWM2M_VECTORS_11", "spec/vectors-11.json")?;
    let folder = TempDir::new().expect("a folder");
    copy_all(&Path::new(env!("CARGO_MANIFEST_DIR")).join("xml"), folder.path());
    let registry = beside("LWM2M_DEFS", "oma-registry/version_history").filter(|registry| registry.is_dir());
    cases.retain(|case| {
        let needed = texts(&case["setup"]["definitions"]);
        let Some(registry) = registry.as_ref().filter(|_| !needed.is_empty()) else { return needed.is_empty() };
        for name in needed {
            fs::copy(registry.join(name), folder.path().join(name)).expect("a definition that is there");
        }
        true
    });
    Some((cases, folder))
}

fn copy_all(from: &Path, to: &Path) {
    let files = fs::read_dir(from).expect("a folder").map(|entry| entry.expect("an entry").path());
    for file in files.collect::<Vec<PathBuf>>() {
        fs::copy(&file, to.join(file.file_name().expect("a file"))).expect("a file that can be copied");
    }
}

fn play(sides: &mut impl VectorSides, case: &Value) {
    println!("case {}", case["name"]);
    let setup = &case["setup"]["register"];
    let mut id = (!setup.is_null())
        .then(|| register_as(sides, &texts(&setup["uri_query"]), setup["payload"].as_str().expect("an object list")));
    match kind(case) {
        "command" => command(sides, case),
        "send" => drop(request(sides, case)),
        "registration" => id = request(sides, case),
        "script" => script(sides, case),
        other => panic!("unknown kind {other}"),
    }
    if let Some(id) = id {
        let prefix = case["setup"]["alternate_path"].as_str().unwrap_or_default();
        nothing_came_before_the_next_read(sides, prefix.trim_end_matches('/'));
        deregister(sides, &id);
    }
}

fn command(sides: &mut impl VectorSides, case: &Value) {
    publish(sides, &case["downlink"]);
    let requests = listed(&case["coap_request"]);
    let responses = match &case["coap_request"] {
        Value::Array(_) => listed(&case["coap_response"]),
        _ => vec![case["coap_response"].clone()],
    };
    for (request, responses) in requests.iter().zip(&responses) {
        let received = sides.device_receives();
        check_request(&received, request);
        listed(responses).iter().for_each(|response| respond(sides, &received, response));
    }
    listed(&case["uplink"]).iter().for_each(|uplink| check_uplink(sides, uplink));
}

/// A request of the device. Gives the id of the registration that it was assigned, if it was.
fn request(sides: &mut impl VectorSides, case: &Value) -> Option<String> {
    let (sent, response) = ask(sides, || request_of_device(&case["coap_request"], ""));
    check_response(&response, &sent, &case["coap_response"]);
    listed(&case["uplink"]).iter().for_each(|uplink| check_uplink(sides, uplink));
    location_of(&response)
}

fn script(sides: &mut impl VectorSides, case: &Value) {
    let mut last: Option<Message> = None;
    let mut named: HashMap<String, Message> = HashMap::new();
    for step in case["steps"].as_array().expect("steps") {
        let (act, what) = step.as_object().and_then(|step| step.iter().next()).expect("a step is one act");
        match act.as_str() {
            "publish" => publish(sides, what),
            "device_receives" => {
                let received = sides.device_receives();
                check_request(&received, what);
                if let Some(name) = what["token"].as_str() {
                    let first = named.entry(name.to_owned()).or_insert_with(|| received.clone());
                    assert_eq!(first.token, received.token, "the token of {name}");
                }
                last = Some(received);
            }
            "device_sends" => {
                let of = what["token"].as_str().map(|name| &named[name]).or(last.as_ref());
                respond(sides, of.expect("a request came before"), what);
            }
            "application_receives" => check_uplink(sides, what),
            other => panic!("unknown act {other}"),
        }
    }
}

fn publish(sides: &mut impl VectorSides, downlink: &Value) {
    let payload = downlink["payload_raw"].as_str().map_or_else(|| downlink["payload"].to_string(), str::to_owned);
    sides.application_sends(downlink["topic"].as_str().expect("a topic"), payload.as_bytes());
}

fn check_uplink(sides: &mut impl VectorSides, uplink: &Value) {
    let (topic, payload) = sides.application_receives();
    assert_eq!(topic, uplink["topic"], "{payload}");
    assert_same(&payload, &with_times(&uplink["payload"], &payload, sides.unix_time()));
}

/// Puts the time that came in the place of `{"$now": n}`, where it is so many seconds from now.
fn with_times(expected: &Value, payload: &Value, now: f64) -> Value {
    match expected {
        Value::Object(members) if members.contains_key("$now") => {
            let wanted = now + members["$now"].as_f64().expect("a number of seconds");
            let near = payload.as_f64().is_some_and(|time| (time - wanted).abs() <= TOLERANCE);
            if near { payload.clone() } else { json!(wanted) }
        }
        Value::Object(members) => {
            let member =
                |(name, value): (&String, &Value)| (name.clone(), with_times(value, &payload[name.as_str()], now));
            Value::Object(members.iter().map(member).collect())
        }
        Value::Array(items) => {
            let item = |(at, value): (usize, &Value)| with_times(value, &payload[at], now);
            Value::Array(items.iter().enumerate().map(item).collect())
        }
        other => other.clone(),
    }
}
