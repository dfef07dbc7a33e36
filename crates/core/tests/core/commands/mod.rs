//! Commands of applications over time: one at a time, never stuck, and devices that sleep (mapping contract, sections 3
//! and 5), in virtual time.

mod answers;
mod definitions;
mod server_object;

use std::time::Duration;

use lwm2m_core::coap::options::{format, number};
use lwm2m_core::coap::{Code, Kind, Message, MessageId};
use lwm2m_core::gateway::report::{CommandOutcome, Report};
use lwm2m_core::lwm2m::codec::UndefinedResources;
use lwm2m_testkit::scene::{Scene, content, outcome, peer, read, reply, text_reply};
use serde_json::{Value, json};

const RESPONSES: &str = "lwm2m/dev-7/up/resp";

/// A read with a time to live.
fn read_within(id: u64, ttl: Value) -> Value {
    let mut command = read(id);
    command["mheaders"] = json!({ "ttl": ttl });
    command
}

/// Answers the one request that is in flight and takes what is published.
fn finish(scene: &mut Scene, id: u64) {
    let request = scene.expect_request(Code::GET, "/3/0/0");
    scene.answer_text(&request, "Acme");
    scene.expect_answer(&read(id), content("/3/0/0", "Acme"));
}

fn outcomes(scene: &mut Scene) -> Vec<CommandOutcome> {
    let commands = scene.reports().into_iter().filter_map(|report| match report {
        Report::Command { outcome, .. } => Some(outcome),
        _ => None,
    });
    commands.collect()
}

// --- One at a time
// ------------------------------------------------------------------------------------------------------

#[test]
fn a_read_is_repeated_until_the_device_answers() {
    let mut scene = Scene::registered();
    scene.command(&read(1));
    let first = scene.expect_request(Code::GET, "/3/0/0");
    scene.expect_nothing_more();
    scene.advance_to_next_deadline();
    scene.expect_message(&first);
    scene.answer_text(&first, "Acme");
    scene.expect_answer(&read(1), content("/3/0/0", "Acme"));
    scene.advance(100.0);
    scene.expect_nothing_more();
    assert_eq!(outcomes(&mut scene), [CommandOutcome::Answered]);
}

#[test]
fn the_next_command_leaves_when_the_one_before_it_is_answered_reset_or_given_up() {
    let mut scene = Scene::registered();
    for id in 1..=5 {
        scene.command(&read(id));
    }
    finish(&mut scene, 1);
    let reset = scene.expect_request(Code::GET, "/3/0/0");
    scene.expect_nothing_more();
    scene.device_sends(&Message::empty(Kind::Reset, reset.id));
    scene.expect_returned(&read(2), "coap_reset");

    let silent = scene.expect_request(Code::GET, "/3/0/0");
    for _ in 0..4 {
        scene.advance_to_next_deadline();
        scene.expect_message(&silent);
        scene.expect_nothing_more();
    }
    scene.advance_to_next_deadline();
    scene.expect_returned(&read(3), "coap_timeout");

    let promised = scene.expect_request(Code::GET, "/3/0/0");
    scene.device_sends(&Message::empty(Kind::Acknowledgement, promised.id));
    let mut acknowledged = read(4);
    acknowledged["msgType"] = json!("ack");
    acknowledged.as_object_mut().expect("an object").remove("data");
    scene.expect_published("up/resp", &acknowledged);
    scene.expect_nothing_more();
    let answer = text_reply(&promised, Kind::Confirmable, MessageId(900), None, "Acme");
    scene.device_sends(&answer);
    scene.expect_acknowledgement(&answer);
    scene.expect_answer(&read(4), content("/3/0/0", "Acme"));

    finish(&mut scene, 5);
    scene.answer_text(&silent, "too late");
    scene.expect_nothing_more();
    let (answered, reset, timed_out) = (CommandOutcome::Answered, CommandOutcome::Reset, CommandOutcome::TimedOut);
    assert_eq!(outcomes(&mut scene), [answered, reset, timed_out, answered, answered]);
}

#[test]
fn a_promised_answer_that_never_comes_is_given_up() {
    let mut scene = Scene::registered();
    scene.command(&read(1));
    scene.command(&read(2));
    let request = scene.expect_request(Code::GET, "/3/0/0");
    scene.device_sends(&Message::empty(Kind::Acknowledgement, request.id));
    scene.expect_any_published(RESPONSES);
    scene.advance(92.0);
    scene.expect_nothing_more();
    scene.advance(1.0);
    scene.expect_returned(&read(1), "coap_timeout");
    finish(&mut scene, 2);
    scene.expect_nothing_more();
}

#[test]
fn devices_do_not_wait_for_each_other() {
    let mut scene = Scene::registered();
    scene.command(&read(1));
    scene.expect_request(Code::GET, "/3/0/0");
    scene.peer = peer(2);
    scene.join("ep=dev-8");
    scene.expect_any_published("lwm2m/dev-8/up/resp");
    scene.command(&read(2));
    scene.expect_request(Code::GET, "/3/0/0");
    scene.expect_nothing_more();
}

#[test]
fn what_is_no_command_is_answered_with_the_reason_and_reaches_no_device() {
    let mut scene = Scene::registered_with(|config| config.limits.command_size = 64);
    let long = format!("{{\"msgType\":\"read\",\"data\":{{\"path\":\"/3/0/0\"}},\"reqID\":\"{}\"}}", "x".repeat(64));
    for payload in ["", "no JSON", "[]", "7", "{\"msgType\":\"read\"", long.as_str()] {
        scene.command_bytes(payload.as_bytes());
        let mut refused = scene.expect_any_published(RESPONSES);
        assert!(refused["data"]["reason"].take().is_string(), "{payload}");
        let data = json!({ "code": "4.00", "codeMsg": "bad_request", "reqPath": null, "reason": null });
        assert_eq!(refused, json!({ "msgType": "error", "data": data }), "{payload}");
    }
    scene.command_bytes(&[0xff, 0xfe]);
    scene.expect_any_published(RESPONSES);
    for command in [
        json!({ "reqID": 1, "msgType": "dance", "data": { "path": "/3/0/0" } }),
        json!({ "reqID": "a", "msgType": "read", "data": { "path": "/3/0/x" } }),
        json!({ "reqID": 1, "msgType": "read", "data": { "path": "/" } }),
    ] {
        scene.command(&command);
        scene.expect_refused(&command);
    }
    scene.expect_nothing_more();
    assert_eq!(outcomes(&mut scene), [CommandOutcome::Refused; 10]);
}

#[test]
fn a_value_beyond_the_limit_is_refused() {
    let mut scene = Scene::registered_with(|config| config.limits.sent_body_size = 2000);
    let args = "x".repeat(2001);
    let command = json!({ "reqID": 1, "msgType": "execute", "data": { "path": "/3/0/4", "args": args } });
    scene.command(&command);
    scene.expect_refused(&command);
    scene.command(&read(2));
    finish(&mut scene, 2);
    scene.expect_nothing_more();
}

// --- What waits
// ---------------------------------------------------------------------------------------------------------

#[test]
fn a_command_that_finds_the_queue_full_is_refused_and_the_others_stay() {
    let mut scene = Scene::registered_with(|config| config.limits.pending_commands = 2);
    for id in 1..=5 {
        scene.command(&read(id));
    }
    let request = scene.expect_request(Code::GET, "/3/0/0");
    assert!(scene.expect_refused(&read(4)).contains("too many"));
    scene.expect_refused(&read(5));
    scene.expect_nothing_more();
    assert_eq!(outcomes(&mut scene), [CommandOutcome::QueueFull; 2]);

    scene.answer_text(&request, "Acme");
    scene.expect_answer(&read(1), content("/3/0/0", "Acme"));
    finish(&mut scene, 2);
    finish(&mut scene, 3);
    scene.expect_nothing_more();
}

#[test]
fn a_command_that_waits_too_long_is_refused_in_its_time_and_the_others_stay() {
    let mut scene = Scene::registered_with(|config| config.limits.command_expiry = Duration::from_secs(40));
    let patient = read_within(3, json!(60));
    let hasty = read_within(4, json!(1.5));
    scene.command(&read(1));
    scene.command(&read(2));
    scene.command(&patient);
    scene.command(&hasty);
    let request = scene.expect_request(Code::GET, "/3/0/0");
    scene.device_sends(&Message::empty(Kind::Acknowledgement, request.id));
    scene.expect_any_published(RESPONSES);
    scene.advance(1.4);
    scene.expect_nothing_more();
    scene.advance(0.1);
    scene.expect_refused(&hasty);
    scene.advance(38.4);
    scene.expect_nothing_more();
    scene.advance(0.1);
    scene.expect_refused(&read(2));
    assert_eq!(outcomes(&mut scene), [CommandOutcome::Expired; 2]);

    let answer = Message { id: MessageId(900), ..text_reply(&request, Kind::NonConfirmable, request.id, None, "Acme") };
    scene.device_sends(&answer);
    scene.expect_answer(&read(1), content("/3/0/0", "Acme"));
    let request = scene.expect_request(Code::GET, "/3/0/0");
    scene.answer_text(&request, "Acme");
    scene.expect_answer(&patient, content("/3/0/0", "Acme"));
    scene.advance(100.0);
    scene.expect_nothing_more();
}

#[test]
fn a_command_without_time_to_live_is_carried_out_now_or_never() {
    let mut scene = Scene::registered();
    let first = read_within(1, json!(0));
    scene.command(&first);
    let request = scene.expect_request(Code::GET, "/3/0/0");
    let second = read_within(2, json!(0));
    scene.command(&second);
    scene.expect_refused(&second);
    scene.answer_text(&request, "Acme");
    scene.expect_answer(&first, content("/3/0/0", "Acme"));
    scene.expect_nothing_more();
    assert_eq!(outcomes(&mut scene), [CommandOutcome::Expired, CommandOutcome::Answered]);
}

#[test]
fn a_time_to_live_without_end_is_as_good_as_a_long_one() {
    let mut scene = Scene::registered();
    scene.command(&read(1));
    let request = scene.expect_request(Code::GET, "/3/0/0");
    let endless = [read_within(2, json!(u64::MAX)), read_within(3, json!(1e15))];
    endless.iter().for_each(|command| scene.command(command));
    for wrong in [json!(-1), json!("soon"), json!(1e300)] {
        let command = read_within(4, wrong);
        scene.command(&command);
        scene.expect_refused(&command);
    }
    scene.answer_text(&request, "Acme");
    scene.expect_answer(&read(1), content("/3/0/0", "Acme"));
    for command in endless {
        let request = scene.expect_request(Code::GET, "/3/0/0");
        scene.answer_text(&request, "Acme");
        scene.expect_answer(&command, content("/3/0/0", "Acme"));
    }
    scene.expect_nothing_more();
}

// --- Content
// ------------------------------------------------------------------------------------------------------------

#[test]
fn a_resource_without_definition_is_refused_or_opaque_as_the_operator_chose() {
    let command = json!({ "reqID": 1, "msgType": "read", "data": { "path": "/32769/0/1" } });
    for undefined in [UndefinedResources::Refuse, UndefinedResources::Opaque] {
        let mut scene = Scene::registered_with(|config| config.undefined_resources = undefined);
        scene.command(&command);
        let request = scene.expect_request(Code::GET, "/32769/0/1");
        let mut answer = Message { kind: Kind::Acknowledgement, ..reply(&request) };
        answer.options.add_uint(number::CONTENT_FORMAT, format::TLV.into());
        answer.payload = b"\xc1\x01\x3c".to_vec();
        scene.reports();
        scene.device_sends(&answer);
        let undecodable = scene.reports().iter().any(|report| matches!(report, Report::UndecodableContent { .. }));
        match undefined {
            UndefinedResources::Refuse => {
                scene.expect_refused(&command);
                assert!(undecodable);
            }
            UndefinedResources::Opaque => {
                let mut data = outcome("2.05", "content", &json!("/32769/0/1"));
                data["content"] = json!([{ "path": "/32769/0/1", "value": "PA==", "type": "Opaque" }]);
                scene.expect_answer(&command, data);
                assert!(!undecodable);
            }
        }
        scene.expect_nothing_more();
    }
}

// --- Values in another format
// -----------------------------------------------------------------------------------------

fn push(id: u64) -> Value {
    json!({ "reqID": id, "msgType": "write", "data": { "path": "/5/0/0", "type": "Opaque", "value": "yv4=" } })
}

fn written(request: &Message) -> (Option<u16>, &[u8]) {
    (request.options.content_format(), &request.payload)
}

/// A 1.0 device gets the bytes in place of TLV. A newer one gets SenML CBOR in place of the bytes.
#[test]
fn a_device_that_does_not_know_the_format_of_an_opaque_value_gets_another_one() {
    let (bytes, tlv) = ((Some(42), &b"\xca\xfe"[..]), (Some(11542), &b"\xc2\x00\xca\xfe"[..]));
    let senml = (Some(112), &b"\x81\xa2\x21\x66/5/0/0\x08\x42\xca\xfe"[..]);
    for (version, formats) in [("1.0", [tlv, bytes]), ("1.1", [bytes, senml])] {
        let mut scene = Scene::new();
        scene.register(&format!("ep=dev-7&lt=300&lwm2m={version}"));
        scene.command(&push(1));
        scene.command(&read(2));
        let first = scene.expect_request(Code::PUT, "/5/0/0");
        assert_eq!(written(&first), formats[0]);
        scene.answer(&first, Code::UNSUPPORTED_CONTENT_FORMAT);
        let second = scene.expect_request(Code::PUT, "/5/0/0");
        assert_eq!(written(&second), formats[1]);
        assert_ne!((second.id, second.token), (first.id, first.token));
        scene.expect_nothing_more();

        scene.answer(&second, Code::CHANGED);
        scene.expect_answer(&push(1), outcome("2.04", "changed", &json!("/5/0/0")));
        finish(&mut scene, 2);
        scene.expect_nothing_more();
        assert_eq!(outcomes(&mut scene), [CommandOutcome::Answered; 2]);
    }
}

#[test]
fn a_device_that_knows_neither_format_is_asked_twice_and_the_last_answer_counts() {
    let mut scene = Scene::registered();
    scene.command(&push(1));
    for _ in 0..2 {
        let request = scene.expect_request(Code::PUT, "/5/0/0");
        scene.device_sends(&Message::empty(Kind::Acknowledgement, request.id));
        let id = scene.fresh_id();
        let code = Code::UNSUPPORTED_CONTENT_FORMAT;
        if written(&request).0 == Some(11542) {
            let mut ack = push(1);
            ack["msgType"] = json!("ack");
            ack.as_object_mut().expect("an object").remove("data");
            scene.expect_published("up/resp", &ack);
        }
        // Of the second request the application hears no second ack.
        scene.expect_nothing_more();
        let answer = Message { code, id, kind: Kind::Confirmable, ..reply(&request) };
        scene.device_sends(&answer);
        scene.expect_acknowledgement(&answer);
    }
    scene.expect_answer(&push(1), outcome("4.15", "unsupported_content_format", &json!("/5/0/0")));
    scene.expect_nothing_more();
    assert_eq!(outcomes(&mut scene), [CommandOutcome::Answered]);
}

#[test]
fn other_values_go_to_the_device_once() {
    let mut scene = Scene::registered();
    let command = json!({ "reqID": 1, "msgType": "write", "data": { "path": "/1/0/1", "value": 60 } });
    scene.command(&command);
    let request = scene.expect_request(Code::PUT, "/1/0/1");
    scene.answer(&request, Code::UNSUPPORTED_CONTENT_FORMAT);
    scene.expect_answer(&command, outcome("4.15", "unsupported_content_format", &json!("/1/0/1")));
    scene.expect_nothing_more();
}

#[test]
fn a_large_value_that_did_not_arrive_comes_back_as_its_size() {
    let mut scene = Scene::registered();
    let mut command = push(1);
    command["data"]["value"] = json!("AAAA".repeat(300));
    let mut returned = command.clone();
    returned["data"]["value"] = json!({ "bytes": 900 });
    scene.command(&command);
    scene.expect_request(Code::PUT, "/5/0/0");
    scene.advance(93.0);
    for _ in 0..4 {
        scene.expect_request(Code::PUT, "/5/0/0");
    }
    scene.expect_returned(&returned, "coap_timeout");

    scene.command(&command);
    let request = scene.expect_request(Code::PUT, "/5/0/0");
    scene.device_sends(&Message::empty(Kind::Reset, request.id));
    scene.expect_returned(&returned, "coap_reset");
    scene.expect_nothing_more();
}

// --- Devices that sleep
// -------------------------------------------------------------------------------------------------

/// Everything that makes a device one that sleeps, and one that does not.
#[test]
fn a_device_sleeps_when_its_binding_its_item_q_or_its_apn_says_so() {
    let cases = [
        ("ep=dev-7&b=UQ", true),
        ("ep=dev-7&lwm2m=1.1&b=U&Q", true),
        ("ep=dev-7&apn=psm", true),
        ("ep=dev-7&b=U", false),
        ("ep=dev-7&apn=internet", false),
        ("ep=dev-7", false),
    ];
    for (query, sleeps) in cases {
        let mut scene = Scene::with(|config| config.qmode_apn = vec!["PSM".to_owned()]);
        scene.register(query);
        scene.advance(21.9);
        scene.command(&read(1));
        finish(&mut scene, 1);
        scene.advance(22.0);
        scene.command(&read(2));
        if !sleeps {
            scene.expect_request(Code::GET, "/3/0/0");
        }
        scene.expect_nothing_more();
    }
}

#[test]
fn commands_for_a_sleeping_device_wait_for_its_update_and_go_out_one_at_a_time_in_order() {
    let mut scene = Scene::new();
    scene.register("ep=dev-7&b=UQ");
    scene.advance(22.0);
    for id in [1, 2, 3] {
        scene.command(&read(id));
    }
    scene.advance(3600.0);
    scene.expect_nothing_more();

    let update = scene.update("");
    scene.ask(&update, Code::CHANGED);
    for id in [1, 2, 3] {
        finish(&mut scene, id);
    }
    scene.expect_nothing_more();
}

#[test]
fn a_notification_wakes_a_device_too() {
    let mut scene = Scene::new();
    scene.register("ep=dev-7&b=UQ");
    let observed = scene.observe(1, "/3303/0/5700");
    scene.advance(22.0);
    scene.command(&read(2));
    scene.command(&read(3));
    scene.expect_nothing_more();
    scene.notify(&observed, Kind::NonConfirmable, 3, "21.5");
    scene.expect_any_published("lwm2m/dev-7/up/notify");
    finish(&mut scene, 2);
    finish(&mut scene, 3);
    scene.expect_nothing_more();
}

#[test]
fn each_message_opens_the_window_again_and_a_silent_device_counts_as_asleep() {
    let mut scene = Scene::new();
    scene.register("ep=dev-7&b=UQ");
    for id in [1, 2, 3] {
        scene.advance(20.0);
        scene.command(&read(id));
        finish(&mut scene, id);
    }
    scene.command(&read(4));
    scene.command(&read(5));
    let request = scene.expect_request(Code::GET, "/3/0/0");
    scene.advance(93.0);
    for _ in 0..4 {
        scene.expect_message(&request);
    }
    scene.expect_returned(&read(4), "coap_timeout");
    scene.expect_nothing_more();
    let update = scene.update("");
    scene.ask(&update, Code::CHANGED);
    finish(&mut scene, 5);
    scene.expect_nothing_more();
}

#[test]
fn a_command_for_a_sleeping_device_may_be_now_or_never_expire_or_find_the_queue_full() {
    let mut scene = Scene::with(|config| config.limits.pending_commands = 2);
    scene.register("ep=dev-7&b=UQ");
    scene.advance(22.0);
    let never = read_within(1, json!(0));
    scene.command(&never);
    scene.expect_refused(&never);
    let hasty = read_within(2, json!(10));
    scene.command(&hasty);
    scene.command(&read(3));
    scene.command(&read(4));
    scene.expect_refused(&read(4));
    scene.advance(10.0);
    scene.expect_refused(&hasty);
    scene.command(&read(5));
    scene.expect_nothing_more();
    let (expired, full) = (CommandOutcome::Expired, CommandOutcome::QueueFull);
    assert_eq!(outcomes(&mut scene), [expired, full, expired]);

    let update = scene.update("");
    scene.ask(&update, Code::CHANGED);
    finish(&mut scene, 3);
    finish(&mut scene, 5);
    scene.expect_nothing_more();
}

#[test]
fn an_update_may_end_and_begin_that_a_device_sleeps() {
    let mut scene = Scene::new();
    scene.register("ep=dev-7&b=UQ");
    let update = scene.update("b=U");
    scene.ask(&update, Code::CHANGED);
    scene.advance(3600.0);
    scene.command(&read(1));
    finish(&mut scene, 1);
    let update = scene.update("b=UQ");
    scene.ask(&update, Code::CHANGED);
    scene.advance(22.0);
    scene.command(&read(2));
    scene.expect_nothing_more();
}

#[test]
fn commands_that_wait_for_a_sleeping_device_outlive_its_registration() {
    let mut scene = Scene::new();
    scene.register("ep=dev-7&b=UQ");
    scene.advance(22.0);
    let hasty = read_within(1, json!(60));
    scene.command(&hasty);
    scene.command(&read(2));
    scene.advance(59.0);
    let before = scene.device;
    let register = scene.send_register("ep=dev-7&b=UQ");
    scene.expect_connect();
    scene.advance(1.0);
    scene.device = before;
    scene.expect_acknowledgement(&register);
    scene.expect_refused(&hasty);
    scene.device = lwm2m_core::gateway::broker::RegistrationId(before.0 + 1);
    scene.broker_takes_it();
    scene.expect_disconnect(before);
    assert_eq!(scene.expect_sent().1.code, Code::CREATED);
    scene.expect_reported("register");
    finish(&mut scene, 2);
    scene.expect_nothing_more();
}
