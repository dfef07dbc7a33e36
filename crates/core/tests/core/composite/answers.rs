//! Answers and notifications of composite operations in virtual time: codes of the device, what is missing, times, and
//! how long an observation lives (LwM2M 1.1 sections 6.3.8 to 6.4.5, RFC 8428 section 4.5.3).

use lwm2m_core::coap::options::{format, number};
use lwm2m_core::coap::{AckMode, Code, Kind, Message};
use lwm2m_core::gateway::broker::{BrokerCommand, BrokerEvent};
use lwm2m_testkit::scene::{Scene, reply};
use serde_json::{Value, json};

use super::scene::{
    QUERY_1_1, composite, entries, notification, notified, observing, registered, registered_with, restarted, senml,
};

const PATHS: [&str; 2] = ["/3303/0/5700", "/3/0/9"];
const VALUES: [(&str, i64); 2] = [("/3303/0/5700", 21), ("/3/0/9", 81)];

/// The data of an answer that has a code and no content.
fn code_of(code: &str, message: &str, paths: &[&str]) -> Value {
    json!({ "code": code, "codeMsg": message, "reqPaths": paths })
}

fn observed(scene: &mut Scene) -> Message {
    observing(scene, &PATHS, &VALUES)
}

/// A notification of the device with this payload in SenML JSON.
fn with_payload(scene: &mut Scene, observe: &Message, kind: Kind, number: u32, payload: &str) -> Message {
    let id = scene.fresh_id();
    Message { id, payload: payload.as_bytes().to_vec(), ..senml(observe, kind, Some(number), &[]) }
}

#[test]
fn every_code_of_a_device_is_passed_on_with_its_name() {
    let mut scene = registered();
    let write =
        json!({ "reqID": 2, "msgType": "write-composite", "data": { "content": [{ "path": "/1/0/1", "value": 60 }] } });
    for (code, text, name) in [
        (Code::BAD_REQUEST, "4.00", "bad_request"),
        (Code::UNAUTHORIZED, "4.01", "unauthorized"),
        (Code::NOT_FOUND, "4.04", "not_found"),
        (Code::METHOD_NOT_ALLOWED, "4.05", "method_not_allowed"),
        (Code::REQUEST_ENTITY_INCOMPLETE, "4.08", "request_entity_incomplete"),
        (Code::CONFLICT, "4.09", "conflict"),
        (Code::UNPROCESSABLE_ENTITY, "4.22", "unprocessable_entity"),
        (Code::INTERNAL_SERVER_ERROR, "5.00", "internal_server_error"),
        (Code::NOT_IMPLEMENTED, "5.01", "not_implemented"),
        (Code::SERVICE_UNAVAILABLE, "5.03", "service_unavailable"),
    ] {
        let read = composite(1, "read-composite", &PATHS);
        scene.command(&read);
        let request = scene.expect_request(Code::FETCH, "");
        scene.answer(&request, code);
        scene.expect_answer(&read, code_of(text, name, &PATHS));
        scene.command(&write);
        let request = scene.expect_request(Code::IPATCH, "");
        scene.answer(&request, code);
        scene.expect_answer(&write, code_of(text, name, &["/1/0/1"]));
        scene.expect_nothing_more();
    }
}

#[test]
fn the_first_answer_tells_what_is_missing_and_a_notification_does_not() {
    let mut scene = registered();
    let command = composite(1, "observe-composite", &PATHS);
    scene.command(&command);
    let observe = scene.expect_request(Code::FETCH, "");
    scene.device_sends(&senml(&observe, Kind::Acknowledgement, Some(0), &VALUES[..1]));
    let mut first = entries(&PATHS, &VALUES[..1]);
    first["missing"] = json!(["/3/0/9"]);
    scene.expect_answer(&command, first);
    notified(&mut scene, &observe, 5, &VALUES[..1], &notification(5, &PATHS, &VALUES[..1]));
    notified(&mut scene, &observe, 6, &[], &notification(6, &PATHS, &[]));
    scene.expect_nothing_more();
}

/// A relative time counts from the arrival of the notification, however late the broker takes it.
#[test]
fn a_history_in_a_notification_keeps_its_order_and_has_absolute_times() {
    let mut scene = registered_with(|config| config.coap.acknowledge_notifications = AckMode::Deferred);
    let observe = observed(&mut scene);
    scene.advance(60.0);
    let records = r#"[{"n":"/3303/0/5700","v":20,"t":-30},{"n":"/3303/0/5700","v":21.5,"t":-40.5},
        {"n":"/3/0/9","v":80,"t":1600000000},{"n":"/3/0/9","v":79}]"#;
    let message = with_payload(&mut scene, &observe, Kind::Confirmable, 5, records);
    scene.device_sends(&message);
    let BrokerCommand::Publish { registration, publication } = scene.expect_broker_command() else {
        panic!("no publication")
    };
    let ticket = publication.ticket.expect("a confirmable notification has a ticket");
    let content = json!([
        { "path": "/3303/0/5700", "value": 20, "time": 1_700_000_030 },
        { "path": "/3303/0/5700", "value": 21.5, "time": 1_700_000_019.5 },
        { "path": "/3/0/9", "value": 80, "time": 1_600_000_000 },
        { "path": "/3/0/9", "value": 79 },
    ]);
    let published: Value = serde_json::from_slice(&publication.payload).expect("JSON");
    assert_eq!((&published["msgType"], &published["data"]["content"]), (&json!("notify"), &content));
    scene.expect_nothing_more();
    scene.broker_says(BrokerEvent::Published { registration, ticket });
    scene.expect_acknowledgement(&message);
    scene.expect_nothing_more();
}

#[test]
fn the_answer_to_a_single_read_and_observe_has_times_too() {
    let mut scene = registered();
    for (id, msg_type) in [(1, "read"), (2, "observe")] {
        let command = json!({ "reqID": id, "msgType": msg_type, "data": { "path": "/3303/0/5700" } });
        scene.command(&command);
        let request = scene.expect_request(Code::GET, "/3303/0/5700");
        let mut answer = Message { kind: Kind::Acknowledgement, ..reply(&request) };
        if msg_type == "observe" {
            answer.options.add_uint(number::OBSERVE, 0);
        }
        answer.options.add_uint(number::CONTENT_FORMAT, format::SENML_JSON.into());
        answer.payload = br#"[{"bn":"/3303/0/5700","bt":1500000000,"v":20},{"v":21,"t":10}]"#.to_vec();
        scene.device_sends(&answer);
        let entry = |value: u64, time: u64| json!({ "path": "/3303/0/5700", "value": value, "time": time });
        let content = [entry(20, 1_500_000_000), entry(21, 1_500_000_010)];
        let data = json!({ "code": "2.05", "codeMsg": "content", "reqPath": "/3303/0/5700", "content": content });
        scene.expect_answer(&command, data);
    }
    scene.expect_nothing_more();
}

#[test]
fn a_composite_observation_ends_with_an_error_of_the_device() {
    let mut scene = registered();
    let observe = observed(&mut scene);
    let error = Message { kind: Kind::Confirmable, code: Code::NOT_FOUND, id: scene.fresh_id(), ..reply(&observe) };
    scene.device_sends(&error);
    scene.expect_acknowledgement(&error);
    let data = code_of("4.04", "not_found", &PATHS);
    scene.expect_published("up/notify", &json!({ "reqID": 1, "msgType": "notify", "data": data }));
    let after = with_payload(&mut scene, &observe, Kind::Confirmable, 9, "[]");
    scene.device_sends(&after);
    scene.expect_reset(&after);
    scene.command(&composite(2, "cancel-observe-composite", &PATHS));
    let cancel = scene.expect_request(Code::FETCH, "");
    assert_ne!(cancel.token, observe.token, "nothing is left to be cancelled");
    assert_eq!(cancel.options.uint(number::OBSERVE), Ok(Some(1)));
}

#[test]
fn a_composite_observation_outlives_an_update_and_ends_with_the_next_register() {
    let mut scene = registered();
    let observe = observed(&mut scene);
    let update = scene.update("lt=250");
    scene.ask(&update, Code::CHANGED);
    notified(&mut scene, &observe, 5, &VALUES, &notification(5, &PATHS, &VALUES));
    let mut scene = restarted(scene);
    notified(&mut scene, &observe, 6, &VALUES, &notification(6, &PATHS, &VALUES));

    let before = scene.device;
    let register = scene.send_register(QUERY_1_1);
    scene.expect_connect();
    scene.broker_takes_it();
    scene.expect_disconnect(before);
    scene.expect_created(&register);
    scene.expect_reported("register");
    let late = with_payload(&mut scene, &observe, Kind::Confirmable, 7, "[]");
    scene.device_sends(&late);
    scene.expect_reset(&late);
    scene.expect_nothing_more();
}
