//! Plays the cases of LwM2M 1.1 and 1.2: each device registers as its case says, a command may take several requests,
//! and devices send values unasked.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use lwm2m_core::coap::options::number;
use lwm2m_core::coap::{Code, Request};
use lwm2m_core::command::Command;
use lwm2m_core::lwm2m::format_choice::Attempts;
use lwm2m_core::lwm2m::model::Model;
use lwm2m_core::lwm2m::register::{Registration, Rejection};
use lwm2m_core::lwm2m::send::{self, SendError};
use lwm2m_core::mqtt::{downlink, uplink};
use serde_json::{Value, json};

use super::{NOW, beside, bytes, command_context, decode_context, hex, model_with, read_cases, response_of};

/// Cases of the gateway as a whole, which the tests of the program play.
const OF_THE_GATEWAY: [&str; 2] = ["send_wrong_method", "send_unregistered"];

#[test]
fn every_case_of_1_1_holds() {
    let mut failed = Vec::new();
    let mut counts: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for case in read_cases("LWM2M_VECTORS_11", "spec/vectors-11.json") {
        let name = case["name"].as_str().expect("a name").to_owned();
        if case["kind"] == "script" || OF_THE_GATEWAY.contains(&name.as_str()) {
            continue;
        }
        let Some(model) = model_of(&case) else {
            println!("skipped: no definitions for {name} (LWM2M_DEFS)");
            continue;
        };
        let group = case["group"].as_str().expect("a group").to_owned();
        let (passed, all) = counts.entry(group).or_default();
        *all += 1;
        match play(&case, &model) {
            Ok(()) => *passed += 1,
            Err(reason) => failed.push(format!("{name}: {reason}")),
        }
    }
    for (group, (passed, all)) in counts {
        println!("{group}: {passed} of {all}");
    }
    assert!(failed.is_empty(), "{} cases failed:\n{}", failed.len(), failed.join("\n"));
}

fn play(case: &Value, model: &Model) -> Result<(), String> {
    match case["kind"].as_str() {
        Some("command") => command(case, model),
        Some("send") => send(case, model),
        Some("registration") => registration(case),
        other => panic!("unknown kind {other:?}"),
    }
}

/// The shipped definitions and those that the case names; `None` where the latter are not there.
fn model_of(case: &Value) -> Option<Model> {
    let names = listed(&case["setup"]["definitions"]);
    if names.is_empty() {
        return Some(model_with(&[]));
    }
    let folder = beside("LWM2M_DEFS", "oma-registry/version_history")?;
    let files: Vec<PathBuf> = names.iter().map(|name| folder.join(name.as_str().expect("a file name"))).collect();
    Some(model_with(&files))
}

fn command(case: &Value, model: &Model) -> Result<(), String> {
    let mut registration = registered(&case["setup"]["register"]);
    let payload =
        case["downlink"]["payload_raw"].as_str().map_or_else(|| case["downlink"]["payload"].to_string(), str::to_owned);
    let mut published = Vec::new();
    match downlink::parse(payload.as_bytes(), command_context(&registration, model)) {
        Ok(command) => published = exchange(case, &command, &mut registration, model)?,
        Err(refusal) if case["coap_request"].is_null() => {
            published.push(uplink::refused(&refusal.echo, &refusal.reason));
        }
        Err(refusal) => return Err(format!("refused: {}", refusal.reason)),
    }
    check_published(case, &published)
}

/// Answers the requests of a command as the case says, and returns what is published.
fn exchange(
    case: &Value,
    command: &Command,
    registration: &mut Registration,
    model: &Model,
) -> Result<Vec<Bytes>, String> {
    let requests = listed(&case["coap_request"]);
    let responses = match &case["coap_request"] {
        Value::Array(_) => {
            case["coap_response"].as_array().expect("a list for each request").iter().map(listed).collect()
        }
        _ => vec![listed(&case["coap_response"])],
    };
    if requests.is_empty() {
        return Err("the command was not refused".to_owned());
    }
    let mut published = Vec::new();
    let mut attempts = Attempts::first(&command.operation, registration);
    for (at, (request, responses)) in requests.iter().zip(&responses).enumerate() {
        check_request(request, &command.operation.request_in(attempts.formats(), registration))?;
        for (number, written) in responses.iter().enumerate() {
            if written["empty"] == true {
                published.push(uplink::acknowledged(&command.echo));
                continue;
            }
            let response = with_location(written);
            let again = attempts.next(&command.operation, response.code, registration).is_some();
            if again != (at + 1 < requests.len()) {
                return Err(format!("after request {at}: another one is sent: {again}"));
            }
            if !again {
                let outcome = command.operation.outcome(&response, decode_context(registration, model));
                let observe = written["observe"].as_u64().and_then(|number| u32::try_from(number).ok());
                published.push(match number {
                    0 => uplink::answer(&command.echo, &outcome, observe),
                    _ => uplink::notification(&command.echo, &outcome, observe),
                });
            }
        }
    }
    Ok(published)
}

fn send(case: &Value, model: &Model) -> Result<(), String> {
    let registration = registered(&case["setup"]["register"]);
    let request = request_of(&case["coap_request"]);
    let (code, published) = match send::read(&request, decode_context(&registration, model)) {
        Ok(entries) => (Code::CHANGED, vec![uplink::send(entries)]),
        Err(SendError::UnsupportedFormat) => (Code::UNSUPPORTED_CONTENT_FORMAT, Vec::new()),
        Err(SendError::BadPayload(reason)) => (Code::BAD_REQUEST, vec![uplink::send_refused(&reason)]),
    };
    same("code", &json!(code.to_string()), &case["coap_response"]["code"])?;
    check_published(case, &published)
}

fn registration(case: &Value) -> Result<(), String> {
    let (code, published) = match register(&request_of(&case["coap_request"])) {
        Ok(registration) => (Code::CREATED, vec![uplink::register(&registration, uplink::ProvenIdentity::Omitted)]),
        Err(rejection) => (rejection.code, Vec::new()),
    };
    same("code", &json!(code.to_string()), &case["coap_response"]["code"])?;
    check_published(case, &published)
}

fn registered(setup: &Value) -> Registration {
    let mut request = Request::new(Code::POST);
    for item in listed(&setup["uri_query"]) {
        request.options.add_text(number::URI_QUERY, item.as_str().expect("a text"));
    }
    request.payload = setup["payload"].as_str().expect("an object list").as_bytes().to_vec();
    register(&request).expect("a registration that is accepted")
}

fn register(request: &Request) -> Result<Registration, Rejection> {
    Registration::from_register(request, &(Duration::from_secs(1)..=Duration::from_secs(86_400)), None)
}

fn request_of(written: &Value) -> Request {
    let mut request = Request::new(Code::POST);
    for item in listed(&written["uri_query"]) {
        request.options.add_text(number::URI_QUERY, item.as_str().expect("a text"));
    }
    if let Some(format) = written["content_format"].as_u64() {
        request.options.add_uint(number::CONTENT_FORMAT, u32::try_from(format).expect("a content format"));
    }
    request.payload = bytes(&written["payload_hex"]);
    request
}

fn with_location(written: &Value) -> lwm2m_core::coap::Response {
    let mut response = response_of(written);
    for segment in listed(&written["location_path"]) {
        response.options.add_text(number::LOCATION_PATH, segment.as_str().expect("a text"));
    }
    response
}

fn check_request(expected: &Value, request: &Request) -> Result<(), String> {
    let texts = |number| request.options.texts(number).expect("text");
    let method = match expected["method"].as_str() {
        Some("IPATCH") => "0.07".to_owned(),
        _ => expected["code"].as_str().unwrap_or_default().to_owned(),
    };
    same("method", &json!(request.method.to_string()), &json!(method))?;
    same("path", &json!(texts(number::URI_PATH)), &expected["uri_path"])?;
    let (mut query, mut wanted) = (texts(number::URI_QUERY), listed(&expected["uri_query"]));
    query.sort_unstable();
    wanted.sort_by_key(Value::to_string);
    same("query", &json!(query), &json!(wanted))?;
    for (member, number) in [("accept", number::ACCEPT), ("observe", number::OBSERVE)] {
        same(member, &json!(request.options.uint(number).expect("a number")), &expected[member])?;
    }
    let payload = bytes(&expected["payload_hex"]);
    if !payload.is_empty() {
        same("format", &json!(request.options.content_format()), &expected["content_format"])?;
    }
    if matches!(request.options.content_format(), Some(110 | 320 | 11543)) {
        let parsed = |payload: &[u8]| serde_json::from_slice::<Value>(payload).expect("JSON");
        return same("payload", &parsed(&request.payload), &parsed(&payload));
    }
    same("payload", &json!(hex(&request.payload)), &json!(hex(&payload)))
}

fn check_published(case: &Value, published: &[Bytes]) -> Result<(), String> {
    let expected = listed(&case["uplink"]);
    if published.len() != expected.len() {
        return Err(format!("{} messages are published, not {}", published.len(), expected.len()));
    }
    for (payload, expected) in published.iter().zip(&expected) {
        let payload: Value = serde_json::from_slice(payload).expect("JSON");
        if !matches(&payload, &expected["payload"]) {
            return Err(format!("published {payload}, not {}", expected["payload"]));
        }
    }
    Ok(())
}

/// Compares JSON: a `reason` may always be there, and `{"$now": n}` is a time of so many seconds from now.
fn matches(value: &Value, expected: &Value) -> bool {
    match (value, expected) {
        (Value::Number(time), Value::Object(now)) if now.contains_key("$now") => {
            let wanted = now["$now"].as_f64().map(|seconds| seconds + NOW.as_secs_f64());
            time.as_f64() == wanted
        }
        (Value::Object(members), Value::Object(expected)) => {
            let known = |name: &String| expected.contains_key(name) || name == "reason";
            let all = |(name, wanted): (&String, &Value)| members.get(name).is_some_and(|value| matches(value, wanted));
            members.keys().all(known) && expected.iter().all(all)
        }
        (Value::Array(items), Value::Array(expected)) => {
            items.len() == expected.len() && items.iter().zip(expected).all(|(item, wanted)| matches(item, wanted))
        }
        (Value::Number(number), Value::Number(wanted)) => {
            number == wanted || (number.is_f64() != wanted.is_f64() && number.as_f64() == wanted.as_f64())
        }
        (value, expected) => value == expected,
    }
}

fn same(what: &str, value: &Value, expected: &Value) -> Result<(), String> {
    if value == expected { Ok(()) } else { Err(format!("{what} {value}, not {expected}")) }
}

/// One thing, several in order, or none.
fn listed(value: &Value) -> Vec<Value> {
    match value {
        Value::Null => Vec::new(),
        Value::Array(items) => items.clone(),
        one => vec![one.clone()],
    }
}
