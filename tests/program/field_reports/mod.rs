//! Faults that were reported from the field, each as the datagrams and commands of the report: the device's side is
//! played as it was, with the message ids and tokens of this run. The same is done with a file of such reports, where
//! `LWM2M_FIELD_REPORTS` names one, or `../shared/spec/field-reports.json` is one.

mod cases;
mod player;

use std::fs;
use std::path::PathBuf;

use cases::{CASES, Case, CaseStep};
use lwm2m_core::coap::options::number;
use lwm2m_core::coap::{Code, Kind, Message, MessageId};
use player::Player;
use serde_json::{Value, json};

#[test]
fn a_link_list_that_deviates_registers_the_device_with_its_objects() {
    check_all(&["f01a", "f01b", "f01d", "f01g"]);
}

#[test]
fn a_body_in_blocks_is_of_one_state() {
    check_all(&["f03", "f05"]);
}

#[test]
fn a_body_that_is_too_large_for_the_device_goes_in_blocks() {
    check_all(&["f04"]);
}

#[test]
fn a_confirmable_message_that_cannot_be_read_is_reset() {
    check_all(&["f13a", "f13b"]);
}

#[test]
fn resources_of_an_object_with_one_instance_are_its_own() {
    check_all(&["f06a"]);
}

#[test]
fn an_empty_answer_is_an_empty_list() {
    check_all(&["f07a", "f07b", "f07d", "f07f"]);
}

#[test]
fn a_number_has_a_plus_in_front() {
    check_all(&["f09a"]);
}

#[test]
fn cbor_has_tags() {
    check_all(&["f10a", "f10c"]);
}

#[test]
fn a_large_number_comes_back_as_it_was_written() {
    check_all(&["f11"]);
}

#[test]
fn base64_has_line_breaks() {
    check_all(&["f12"]);
}

/// The cases of the file are checked as those of this program are.
#[test]
fn every_report_of_the_file_is_as_it_should_be() {
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/spec/field-reports.json");
    let file =
        std::env::var_os("LWM2M_FIELD_REPORTS").map(PathBuf::from).or_else(|| beside.is_file().then_some(beside));
    let Some(file) = file else {
        println!("skipped: no field reports (LWM2M_FIELD_REPORTS)");
        return;
    };
    let reports: Value = serde_json::from_slice(&fs::read(file).expect("a file that can be read")).expect("JSON");
    let reports = reports["cases"].as_array().expect("a list of cases");
    assert!(!reports.is_empty());
    for report in reports {
        let id = report["id"].as_str().expect("an id");
        println!("case {id}");
        let steps: Vec<CaseStep> =
            report["steps"].as_array().expect("a list of steps").iter().filter_map(step).collect();
        check(id, &steps);
    }
}

/// What happened on the way to the gateway, and which requests it made.
fn step(step: &Value) -> Option<CaseStep<'_>> {
    let device = step["coap_to_gateway"].as_str().map(CaseStep::Device);
    let gateway = step["coap_from_gateway"].as_str().map(CaseStep::Gateway);
    device.or(gateway).or_else(|| step["mqtt_to_gateway"]["payload"].as_str().map(CaseStep::Command))
}

fn check_all(ids: &[&str]) {
    for id in ids {
        let Case { steps, .. } = CASES.iter().find(|case| case.id == *id).expect("a case of this id");
        check(id, steps);
    }
}

/// Plays a case, and asserts what the report says that should have happened.
fn check(id: &str, steps: &[CaseStep<'_>]) {
    let mut player = Player::new();
    player.play(steps);
    match id {
        "f01a" => registered(&player, &["/1", "/1/0", "/3/0"]),
        "f01b" => registered(&player, &["/1/0", "/44", "/44/0"]),
        "f01d" => registered(&player, &["/1/0", "/3/0"]),
        "f01g" => registered(&player, &["/3/0", "/1/0"]),
        "f03" => {
            let notified = player.published.iter().filter(|(topic, _)| topic.ends_with("/up/notify"));
            let notified: Vec<Value> =
                notified.map(|(_, payload)| serde_json::from_str(payload).expect("JSON")).collect();
            let newest = notified.last().expect("a notification");
            let content = json!([{ "path": "/3/0/0", "value": "N".repeat(32) }]);
            assert_eq!((&newest["seqNum"], &newest["data"]["content"]), (&json!(3), &content));
            let values = notified.iter().filter_map(|told| told["data"]["content"][0]["value"].as_str());
            assert_eq!(values.collect::<Vec<_>>(), ["N".repeat(32)], "no body of two states");
        }
        "f04" => {
            let body = player.requests[0].payload.clone();
            let mut arrived: Vec<u8> = Vec::new();
            while arrived.len() < body.len() {
                let block = player.requests.last().expect("a block").clone();
                let last = arrived.len() + block.payload.len() == body.len();
                // Number, more, and the size that the device asked for: 128 bytes.
                let expected = (arrived.len() as u32 / 128) << 4 | u32::from(!last) << 3 | 3;
                assert_eq!((block.code, block.options.uint(number::BLOCK1)), (Code::PUT, Ok(Some(expected))));
                arrived.extend(&block.payload);
                player.answer(&block, if last { Code::CHANGED } else { Code::CONTINUE }, expected);
            }
            assert_eq!(arrived, body);
            let payload: Value = serde_json::from_str(&player.published[1].1).expect("JSON");
            assert_eq!((player.published.len(), &payload["data"]["code"]), (2, &json!("2.04")), "{payload}");
        }
        "f05" => answered(&player, "read", &json!([{ "path": "/3/0/0", "value": "A".repeat(16) + "BBBB" }])),
        "f13a" => reset(&player, 0x2001),
        "f13b" => reset(&player, 0x2002),
        "f06a" => {
            let content = json!([{ "path": "/3/0/0", "value": "ACME" }, { "path": "/3/0/9", "value": 52 }]);
            answered(&player, "read", &content);
        }
        "f07a" | "f07b" | "f07d" | "f07f" => answered(&player, "read", &json!([])),
        "f09a" => answered(&player, "read", &json!([{ "path": "/3/0/9", "value": 52 }])),
        "f10a" => answered(&player, "read", &json!([{ "path": "/3303/0/5700", "value": 21.5 }])),
        "f10c" => answered(&player, "read", &json!([{ "path": "/3/0/13", "value": 1_577_836_800 }])),
        "f11" => {
            answered(&player, "read", &json!([{ "path": "/3/0/0", "value": "ACME" }]));
            let (_, payload) = player.published.last().expect("an answer");
            assert!(payload.contains("\"reqID\":123456789012345678901234567890,"), "{payload}");
        }
        "f12" => {
            let request = player.requests.last().expect("the write is sent");
            let bytes: Vec<u8> = (0..64).collect();
            assert_eq!(
                (request.code, &request.payload[..3], &request.payload[3..]),
                (Code::PUT, &b"\xc8\x00\x40"[..], &bytes[..])
            );
        }
        other => panic!("nobody has said what should be in case {other}"),
    }
}

/// The last word to the device is the reset of this message.
fn reset(player: &Player, id: u16) {
    assert_eq!(player.answers.last(), Some(&Message::empty(Kind::Reset, MessageId(id))));
    assert_eq!(player.published.len(), 1, "the report of the Register");
}

/// The device is registered, with these objects.
fn registered(player: &Player, objects: &[&str]) {
    let codes: Vec<Code> = player.answers.iter().map(|answer| answer.code).collect();
    assert_eq!(codes, [Code::CREATED]);
    let [(topic, payload)] = &player.published[..] else { panic!("one report, not {:?}", player.published) };
    let payload: Value = serde_json::from_str(payload).expect("JSON");
    assert!(topic.ends_with("/up/resp"), "{topic}");
    assert_eq!((&payload["msgType"], &payload["data"]["objectList"]), (&json!("register"), &json!(objects)));
}

/// The last publication is this answer, and the only one beside the report.
fn answered(player: &Player, msg_type: &str, content: &Value) {
    assert_eq!(player.published.len(), 2, "{:?}", player.published);
    let payload: Value = serde_json::from_str(&player.published[1].1).expect("JSON");
    assert_eq!((&payload["msgType"], &payload["data"]["code"]), (&json!(msg_type), &json!("2.05")), "{payload}");
    assert_eq!(&payload["data"]["content"], content);
}
