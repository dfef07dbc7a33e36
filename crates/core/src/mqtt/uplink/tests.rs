use std::time::Duration;

use serde_json::json;

use super::*;
use crate::coap::Request;
use crate::coap::options::number;
use crate::lwm2m::model::Model;
use crate::lwm2m::value::{ObjectLink, Value};
use crate::mqtt::downlink::{self, CommandContext};

fn read_command(payload: &[u8], registration: &Registration) -> Result<Command, downlink::Refusal> {
    downlink::parse(payload, CommandContext { registration, model: &Model::default(), composite_paths: 128 })
}

fn registration(query: &[&str], objects: &str) -> Registration {
    let mut request = Request::new(Code::POST);
    query.iter().for_each(|item| request.options.add_text(number::URI_QUERY, item));
    request.payload = objects.as_bytes().to_vec();
    Registration::from_register(&request, &(Duration::from_secs(1)..=Duration::from_secs(86_400)), None).unwrap()
}

fn command(payload: &serde_json::Value) -> Command {
    let registration = registration(&["ep=dev-7"], "");
    read_command(payload.to_string().as_bytes(), &registration).unwrap()
}

fn read(path: &str) -> Command {
    command(&json!({ "reqID": 7, "msgType": "read", "cacheID": [1, null], "data": { "path": path } }))
}

fn shown(payload: Bytes) -> serde_json::Value {
    serde_json::from_slice(&payload).unwrap()
}

fn entries(values: Vec<Value>) -> Outcome {
    let entry = |value| Entry { path: "/3/0/9".parse().unwrap(), value, time: None, undefined: false };
    let content = Some(Content::Entries(values.into_iter().map(entry).collect()));
    Outcome { content, ..Outcome::of(Code::CONTENT) }
}

#[test]
fn an_answer_is_the_command_with_other_data() {
    let outcome = entries(vec![Value::Integer(81)]);
    assert_eq!(
        shown(answer(&read("/3/0/9?a=1").echo, &outcome, None)),
        json!({ "reqID": 7, "msgType": "read", "cacheID": [1, null], "data": { "reqPath": "/3/0/9", "code": "2.05",
            "codeMsg": "content", "content": [{ "path": "/3/0/9", "value": 81 }] } })
    );
    let without_slash = shown(answer(&read("3/0/9").echo, &outcome, None));
    assert_eq!(without_slash["data"]["reqPath"], "3/0/9");
    assert_eq!(without_slash["data"]["content"][0]["path"], "3/0/9");
}

#[test]
fn every_value_has_its_json_type() {
    for (value, expected) in [
        (Value::String("é\"".into()), json!("é\"")),
        (Value::Integer(i64::MIN), json!(i64::MIN)),
        (Value::UnsignedInteger(u64::MAX), json!(u64::MAX)),
        (Value::Time(1_735_689_600), json!(1_735_689_600)),
        (Value::Float(48.25), json!(48.25)),
        (Value::Float(48.0), json!(48)),
        (Value::Float(-1e300), json!(-1e300)),
        (Value::Boolean(false), json!(false)),
        (Value::Opaque(vec![0xca, 0xfe]), json!("yv4=")),
        (Value::ObjectLink(ObjectLink { object: 3, instance: 0 }), json!("3:0")),
        (Value::CoreLink("</3>".into()), json!("</3>")),
    ] {
        let payload = shown(answer(&read("/3/0/9").echo, &entries(vec![value]), None));
        assert_eq!(payload["data"]["content"][0]["value"], expected);
    }
}

#[test]
fn a_time_and_a_missing_definition_stand_beside_the_value() {
    let mut outcome = entries(vec![Value::Opaque(vec![42])]);
    if let Some(Content::Entries(entries)) = &mut outcome.content {
        entries[0].time = Some(1_500_000_000.5);
        entries[0].undefined = true;
    }
    let payload = shown(answer(&read("/3/0/9").echo, &outcome, None));
    let expected = json!([{ "path": "/3/0/9", "value": "Kg==", "type": "Opaque", "time": 1_500_000_000.5 }]);
    assert_eq!(payload["data"]["content"], expected);
}

#[test]
fn nothing_in_it_is_an_empty_list_and_links_are_texts() {
    let payload = shown(answer(&read("/3/0").echo, &entries(vec![]), None));
    assert_eq!(payload["data"]["content"], json!([]));
    let content = Some(Content::Links(vec!["</3/0/9>;pmin=5".into()]));
    let outcome = Outcome { content, ..Outcome::of(Code::CONTENT) };
    assert_eq!(shown(answer(&read("/3").echo, &outcome, None))["data"]["content"], json!(["</3/0/9>;pmin=5"]));
}

#[test]
fn a_notification_has_its_number_and_the_first_answer_only_one_that_is_not_zero() {
    let echo = read("/3/0/9").echo;
    let outcome = entries(vec![Value::Integer(1)]);
    let notification = shown(notification(&echo, &outcome, Some(0)));
    assert_eq!((&notification["msgType"], &notification["seqNum"]), (&json!("notify"), &json!(0)));
    assert_eq!(notification["reqID"], 7);
    assert_eq!(shown(answer(&echo, &outcome, Some(3)))["seqNum"], 3);
    assert_eq!(shown(answer(&echo, &outcome, Some(0))).get("seqNum"), None);
}

#[test]
fn an_ack_has_no_data_and_what_failed_has_the_command_s() {
    let command = read("/3/0/9");
    assert_eq!(shown(acknowledged(&command.echo)), json!({ "reqID": 7, "msgType": "ack", "cacheID": [1, null] }));
    for (payload, msg_type) in [(reset(&command), "coap_reset"), (timed_out(&command), "coap_timeout")] {
        let expected = json!({ "reqID": 7, "msgType": msg_type, "cacheID": [1, null], "data": { "path": "/3/0/9" } });
        assert_eq!(shown(payload), expected);
    }
}

/// As large as 1 KiB a value comes back, beyond it its size: of an Opaque its bytes, not those of its base64.
#[test]
fn a_large_value_of_an_unanswered_command_is_its_size() {
    let image = "A".repeat(4000);
    let (largest, larger) = ("x".repeat(1022), "x".repeat(1023));
    let value = |value: &str, kind: &str| json!({ "path": "/5/0/0", "type": kind, "value": value, "more": 1.0 });
    let size =
        |bytes: usize, kind: &str| json!({ "path": "/5/0/0", "type": kind, "value": { "bytes": bytes }, "more": 1.0 });
    for (sent, data) in [
        (("write", value(&image, "Opaque")), size(3000, "Opaque")),
        (("write", value(&largest, "String")), value(&largest, "String")),
        (("write", value(&larger, "String")), size(1023, "String")),
        (
            (
                "write",
                json!({ "basePath": "/5/0", "content": [
                { "path": "0", "type": "Opaque", "value": image }, { "path": 3, "type": "Integer", "value": 7 } ] }),
            ),
            json!({ "basePath": "/5/0", "content": [
                { "path": "0", "type": "Opaque", "value": { "bytes": 3000 } },
                { "path": 3, "type": "Integer", "value": 7 } ] }),
        ),
        (
            ("create", json!({ "basePath": "/5", "content": [{ "path": "1/0", "type": "Opaque", "value": image }] })),
            json!({ "basePath": "/5", "content": [{ "path": "1/0", "type": "Opaque", "value": { "bytes": 3000 } }] }),
        ),
        (
            ("execute", json!({ "path": "/5/0/2", "args": larger })),
            json!({ "path": "/5/0/2", "args": { "bytes": 1023 } }),
        ),
    ] {
        let (msg_type, written) = sent;
        let command = command(&json!({ "reqID": 7, "msgType": msg_type, "data": written }));
        for (payload, msg_type) in [(reset(&command), "coap_reset"), (timed_out(&command), "coap_timeout")] {
            assert_eq!(shown(payload), json!({ "reqID": 7, "msgType": msg_type, "data": data }));
        }
    }
    let hex = "7a".repeat(1000);
    let command = command(&json!({ "msgType": "write", "encoding": "hex",
        "data": { "path": "/3/0/14", "type": "String", "value": hex } }));
    assert_eq!(shown(timed_out(&command))["data"]["value"], json!({ "bytes": 1000 }));
}

#[test]
fn numbers_come_back_as_they_were_written() {
    let registration = registration(&["ep=dev-7"], "");
    let text =
        r#"{"reqID":123456789012345678901234567890,"f":1.50E+3,"msgType":"read","data":{"path":"/3/0/9","n":1e400}}"#;
    let refused = read_command(text.as_bytes(), &registration);
    assert!(refused.is_err(), "what it means has to be read");
    let text = text.replace("1e400", "1.0e2");
    let command = read_command(text.as_bytes(), &registration).unwrap();
    let payload = String::from_utf8(timed_out(&command).into()).unwrap();
    assert!(payload.contains(r#""reqID":123456789012345678901234567890,"f":1.50E+3,"#), "{payload}");
    assert!(payload.contains(r#""data":{"path":"/3/0/9","n":1.0e2}"#), "{payload}");
    let payload = String::from_utf8(answer(&command.echo, &entries(vec![]), Some(1)).into()).unwrap();
    assert!(payload.contains(r#""reqID":123456789012345678901234567890,"f":1.50E+3,"#), "{payload}");
}

#[test]
fn a_refusal_says_why_whatever_came() {
    let registration = registration(&["ep=dev-7"], "");
    for (payload, echoed) in [
        ("x", json!({ "msgType": "error", "data": { "reqPath": null } })),
        ("[1]", json!({ "msgType": "error", "data": { "reqPath": null } })),
        (r#"{"a":1}"#, json!({ "a": 1, "msgType": "error", "data": { "reqPath": null } })),
        (r#"{"msgType":7,"data":{"path":"/3"}}"#, json!({ "msgType": "error", "data": { "reqPath": "/3" } })),
        (
            r#"{"msgType":"reboot","data":{"path":null,"basePath":"/3?a"}}"#,
            json!({ "msgType": "reboot", "data": { "reqPath": "/3" } }),
        ),
    ] {
        let refusal = read_command(payload.as_bytes(), &registration).unwrap_err();
        let mut expected = echoed;
        expected["data"]["code"] = "4.00".into();
        expected["data"]["codeMsg"] = "bad_request".into();
        expected["data"]["reason"] = refusal.reason.as_str().into();
        assert_eq!(shown(refused(&refusal.echo, &refusal.reason)), expected, "{payload}");
    }
}

#[test]
fn a_code_outside_the_list_is_passed_on_as_unknown() {
    let outcome = Outcome::of(Code::of(4, 18));
    let data = shown(answer(&read("/3").echo, &outcome, None))["data"].clone();
    assert_eq!(data, json!({ "reqPath": "/3", "code": "4.18", "codeMsg": "unknown" }));
    assert_eq!(code_message(Code::CONFLICT), "conflict");
    assert_eq!(code_message(Code::of(2, 31)), "continue");
}

#[test]
fn a_report_is_the_whole_registration_but_the_password() {
    let query = ["ep=dev-7", "lt=300", "lwm2m=1.1", "b=U", "Q", "imei=9", "password=pw1", "objectList=x"];
    let full = registration(&query, "</m2m>;rt=\"oma.lwm2m\",</m2m/1/0>;ver=1.1,</4/0>");
    let data = json!({ "ep": "dev-7", "lt": 300, "lwm2m": "1.1", "b": "U", "Q": "", "imei": "9",
        "alternatePath": "/m2m", "objectList": ["/1/0", "/4/0"] });
    assert_eq!(shown(register(&full, ProvenIdentity::Omitted)), json!({ "msgType": "register", "data": data }));
    assert_eq!(shown(update(&full, ProvenIdentity::Omitted)), json!({ "msgType": "update", "data": data }));
    let bare = registration(&["ep=dev-7", "lt=300"], "");
    assert_eq!(
        shown(register(&bare, ProvenIdentity::Omitted))["data"],
        json!({ "ep": "dev-7", "lt": 300, "lwm2m": "1.0" })
    );
}
