//! Answers of devices that cannot be read, that come in parts, or that are too large, through the whole core in virtual
//! time. Cases from the field, and their neighbours.

use lwm2m_core::coap::options::{format, number};
use lwm2m_core::coap::{BlockError, Code, DatagramOutcome, Kind, Message, MessageDecodeError, MessageId};
use lwm2m_core::gateway::report::{CommandOutcome, DropReason, NotificationOutcome, Report};
use lwm2m_testkit::scene::{Scene, content, observe, outcome, peer, read, reply, text_reply};
use serde_json::{Value, json};

const MANUFACTURER: &str = "/3/0/0";

/// The bytes of an answer to this request, with this first byte and these bytes behind the token.
fn answer_bytes(request: &Message, first: u8, code: Code, rest: &[u8]) -> Vec<u8> {
    [&[first, code.0], &request.id.0.to_be_bytes()[..], request.token.as_bytes(), rest].concat()
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex")).collect()
}

/// The value of a Block option.
fn block(number: u32, more: bool, bytes: u32) -> u32 {
    (number << 4) | (u32::from(more) << 3) | (bytes.ilog2() - 4)
}

/// A piggybacked answer with these options and this payload.
fn answer(scene: &mut Scene, request: &Message, code: Code, options: &[(u16, u32)], payload: &[u8]) {
    let mut answer = Message { kind: Kind::Acknowledgement, code, payload: payload.to_vec(), ..reply(request) };
    options.iter().for_each(|(number, value)| answer.options.add_uint(*number, *value));
    scene.device_sends(&answer);
}

fn uint(message: &Message, number: u16) -> Option<u32> {
    message.options.uint(number).expect("an integer")
}

fn commands(scene: &mut Scene) -> Vec<CommandOutcome> {
    let commands = scene.reports().into_iter().filter_map(|report| match report {
        Report::Command { outcome, .. } => Some(outcome),
        _ => None,
    });
    commands.collect()
}

// --- What cannot be read
// ------------------------------------------------------------------------------------------------

#[test]
fn an_answer_that_cannot_be_read_ends_the_command_at_once_and_the_next_one_leaves() {
    // First byte, code, what stands behind the token, and a part of the reason.
    let cases: [(u8, Code, &[u8], &str); 6] = [
        (0x68, Code::CONTENT, b"\xff", "a payload marker without payload"),
        (0x68, Code::CONTENT, b"\xc0\xff", "a payload marker without payload"),
        (0x48, Code::CONTENT, b"\xff", "a payload marker without payload"),
        (0x68, Code::CONTENT, b"\xc5", "malformed"),
        (0x68, Code::CONTENT, b"\x90", "the critical option 9"),
        (0x68, Code::GET, b"", "the code 0.01"),
    ];
    for (first, code, rest, expected) in cases {
        let mut scene = Scene::registered();
        scene.command(&read(1));
        scene.command(&read(2));
        let request = scene.expect_request(Code::GET, MANUFACTURER);
        let outcome = scene.device_sends_bytes(&answer_bytes(&request, first, code, rest));
        assert!(matches!(outcome, DatagramOutcome::Dropped(_)), "{outcome:?}");
        if first == 0x48 {
            scene.expect_reset(&request);
        }
        let reason = scene.expect_refused(&read(1));
        assert!(reason.contains(expected), "{reason}");
        let next = scene.expect_request(Code::GET, MANUFACTURER);
        scene.answer_text(&next, "Acme");
        scene.expect_answer(&read(2), content(MANUFACTURER, "Acme"));
        scene.expect_nothing_more();
        assert_eq!(commands(&mut scene), [CommandOutcome::MalformedAnswer, CommandOutcome::Answered]);
    }
}

/// Nothing of an observation ends unseen: with the reset the device forgets it (RFC 7641 section 3.6).
#[test]
fn a_notification_that_cannot_be_read_is_published_as_4_00() {
    for (first, over) in [(0x48, true), (0x58, false)] {
        let mut scene = Scene::registered();
        let observed = scene.observe(1, "/3303/0/5700");
        scene.reports();
        let like = Message { id: MessageId(700), ..observed.clone() };
        scene.device_sends_bytes(&answer_bytes(&like, first, Code::CONTENT, b"\xff"));
        if over {
            scene.expect_reset(&like);
        }
        let told = scene.expect_any_published("lwm2m/dev-7/up/notify");
        assert_eq!((&told["reqID"], &told["data"]["code"]), (&json!(1), &json!("4.00")));
        assert!(told["data"]["reason"].as_str().is_some_and(|reason| reason.contains("without payload")), "{told}");
        let outcome = if over { NotificationOutcome::Ended } else { NotificationOutcome::Published };
        let last = scene.reports().pop();
        assert_eq!(last, Some(Report::Notification { endpoint: "dev-7".to_owned(), outcome }));

        let next = scene.notify(&observed, Kind::Confirmable, 9, "21.5");
        if over {
            scene.expect_reset(&next);
        } else {
            scene.expect_acknowledgement(&next);
            assert_eq!(scene.expect_any_published("lwm2m/dev-7/up/notify")["seqNum"], 9);
        }
        scene.expect_nothing_more();
    }
}

/// Cases f13a and f13b of the field.
#[test]
fn a_confirmable_message_with_a_format_error_is_reset() {
    let cases = [
        ("4d0220010031323334353637383930313233b27264", 0x2001, MessageDecodeError::TokenLength),
        ("40452002c0ff", 0x2002, MessageDecodeError::EmptyPayload),
    ];
    let mut scene = Scene::registered();
    for (datagram, id, error) in cases {
        // From the device, and from an unregistered peer.
        for from in [scene.peer, peer(99)] {
            let outcome = scene.device_sends_bytes_from(from, &hex(datagram));
            assert_eq!(outcome, DatagramOutcome::Dropped(DropReason::NoMessage(error)));
            scene.expect_message_to(from, &Message::empty(Kind::Reset, MessageId(id)));
            scene.expect_nothing_more();
        }
    }
}

// --- Answers in parts
// ---------------------------------------------------------------------------------------------------

/// Case f03 of the field.
#[test]
fn a_notification_in_blocks_is_never_of_two_states() {
    let mut scene = Scene::registered();
    scene.command(&observe(2, MANUFACTURER));
    let observed = scene.expect_request(Code::GET, MANUFACTURER);
    scene.answer_observe(&observed, 1, "start");
    let mut first = observe(2, MANUFACTURER);
    first["seqNum"] = json!(1);
    scene.expect_answer(&first, content(MANUFACTURER, "start"));
    scene.reports();

    let notify = |scene: &mut Scene, number: u32, text: &str| {
        let id = scene.fresh_id();
        let mut notification = text_reply(&observed, Kind::Confirmable, id, Some(number), text);
        notification.options.add_uint(number::BLOCK2, block(0, true, 16));
        scene.device_sends(&notification);
        scene.expect_acknowledgement(&notification);
        scene.expect_request(Code::GET, MANUFACTURER)
    };
    let older = notify(&mut scene, 2, "OOOOOOOOOOOOOOOO");
    let newer = notify(&mut scene, 3, "NNNNNNNNNNNNNNNN");
    let rest = [(number::CONTENT_FORMAT, 0), (number::BLOCK2, block(1, false, 16))];
    answer(&mut scene, &older, Code::CONTENT, &rest, &[b'N'; 16]);
    scene.expect_nothing_more();
    answer(&mut scene, &newer, Code::CONTENT, &rest, &[b'N'; 16]);
    let data = content(MANUFACTURER, "N".repeat(32));
    scene.expect_published("up/notify", &json!({ "reqID": 2, "msgType": "notify", "seqNum": 3, "data": data }));
    scene.expect_nothing_more();
    let outcomes = [NotificationOutcome::Superseded, NotificationOutcome::Published];
    let reports = outcomes.map(|outcome| Report::Notification { endpoint: "dev-7".to_owned(), outcome });
    assert_eq!(scene.reports(), reports);
}

/// Case f05 of the field.
#[test]
fn a_body_whose_etag_is_in_its_first_block_only_is_read() {
    let mut scene = Scene::registered();
    scene.command(&read(1));
    let first = scene.expect_request(Code::GET, MANUFACTURER);
    let options = [(number::ETAG, 0x80), (number::CONTENT_FORMAT, 0), (number::BLOCK2, block(0, true, 16))];
    answer(&mut scene, &first, Code::CONTENT, &options, &[b'A'; 16]);
    let second = scene.expect_request(Code::GET, MANUFACTURER);
    assert_eq!(uint(&second, number::BLOCK2), Some(block(1, false, 16)));
    let options = [(number::CONTENT_FORMAT, 0), (number::BLOCK2, block(1, false, 16))];
    answer(&mut scene, &second, Code::CONTENT, &options, b"BBBB");
    scene.expect_answer(&read(1), content(MANUFACTURER, "AAAAAAAAAAAAAAAABBBB"));
    scene.expect_nothing_more();
}

/// wakaama answers the first block as it was asked and the others as TLV.
#[test]
fn a_body_in_blocks_of_two_formats_is_read_in_one() {
    let mut scene = Scene::registered();
    scene.command(&read(1));
    // TLV of /3/0/0, 20 bytes of text.
    let tlv = [&hex("c80014")[..], b"ABCDEFGHIJKLMNOPQRST"].concat();
    let steps: [(u32, u16, &[u8]); 4] = [
        (0, format::SENML_JSON, b"[{\"n\":\"/3/0/0\",\""),
        (1, format::TLV, &tlv[16..]),
        (0, format::TLV, &tlv[..16]),
        (1, format::TLV, &tlv[16..]),
    ];
    for (number, format, payload) in steps {
        let request = scene.expect_request(Code::GET, MANUFACTURER);
        let options = [(number::CONTENT_FORMAT, format.into()), (number::BLOCK2, block(number, number == 0, 16))];
        answer(&mut scene, &request, Code::CONTENT, &options, payload);
    }
    scene.expect_answer(&read(1), content(MANUFACTURER, "ABCDEFGHIJKLMNOPQRST"));
    scene.expect_nothing_more();
}

#[test]
fn a_body_that_is_too_large_is_fetched_to_its_end_and_the_answer_says_so() {
    let mut scene = Scene::registered_with(|config| config.coap.received_body_size = 2048);
    scene.command(&read(1));
    scene.command(&read(2));
    for number in 0..4 {
        let request = scene.expect_request(Code::GET, MANUFACTURER);
        let options = [(number::CONTENT_FORMAT, 0), (number::BLOCK2, block(number, number < 3, 1024))];
        answer(&mut scene, &request, Code::CONTENT, &options, &[b'x'; 1024]);
    }
    let reason = scene.expect_refused(&read(1));
    assert!(reason.contains("4096 bytes") && reason.contains("coap.received_body_size is 2048"), "{reason}");
    scene.expect_request(Code::GET, MANUFACTURER);
    scene.expect_nothing_more();
    let told: Vec<Report> = scene.reports();
    let endpoint = Some("dev-7".to_owned());
    let failed = Report::TransferFailed { peer: scene.peer, endpoint, error: BlockError::TooLarge };
    assert!(told.contains(&failed), "{told:?}");
}

#[test]
fn a_mebibyte_is_received_from_a_registered_device_by_default() {
    let mut scene = Scene::registered();
    scene.command(&read(1));
    for number in 0..1024 {
        let request = scene.expect_request(Code::GET, MANUFACTURER);
        let options = [(number::CONTENT_FORMAT, 0), (number::BLOCK2, block(number, number < 1023, 1024))];
        answer(&mut scene, &request, Code::CONTENT, &options, &[b'x'; 1024]);
    }
    let told = scene.expect_any_published("lwm2m/dev-7/up/resp");
    assert_eq!(told["data"]["content"][0]["value"].as_str().map(str::len), Some(1024 * 1024));
}

// --- Requests in parts
// --------------------------------------------------------------------------------------------------

fn write(length: usize) -> Value {
    let value = "f".repeat(length);
    json!({ "reqID": 1, "msgType": "write", "data": { "path": "/5/0/1", "type": "String", "value": value } })
}

/// Case f04 of the field.
#[test]
fn a_write_that_is_too_large_for_one_message_goes_in_blocks() {
    let mut scene = Scene::registered();
    scene.command(&write(320));
    let whole = scene.expect_request(Code::PUT, "/5/0/1");
    answer(&mut scene, &whole, Code::REQUEST_ENTITY_TOO_LARGE, &[(number::BLOCK1, block(0, false, 128))], b"");
    let mut body: Vec<u8> = Vec::new();
    for number in 0..3 {
        let part = scene.expect_request(Code::PUT, "/5/0/1");
        let value = block(number, number < 2, 128);
        assert_eq!(uint(&part, number::BLOCK1), Some(value));
        body.extend(&part.payload);
        let code = if number < 2 { Code::CONTINUE } else { Code::CHANGED };
        answer(&mut scene, &part, code, &[(number::BLOCK1, value)], b"");
    }
    assert_eq!(body, whole.payload);
    scene.expect_answer(&write(320), outcome("2.04", "changed", &json!("/5/0/1")));
    scene.expect_nothing_more();
}

#[test]
fn a_write_that_the_device_calls_done_too_early_is_a_failure() {
    let mut scene = Scene::registered();
    scene.command(&write(2000));
    scene.command(&read(2));
    let first = scene.expect_request(Code::PUT, "/5/0/1");
    scene.answer(&first, Code::CHANGED);
    let reason = scene.expect_refused(&write(2000));
    assert!(reason.contains("before it had the whole body"), "{reason}");
    scene.expect_request(Code::GET, MANUFACTURER);
    scene.expect_nothing_more();
}

/// The registration is one, however often its last block comes.
#[test]
fn a_last_block_of_a_register_that_comes_again_is_answered_as_before() {
    let mut scene = Scene::new();
    let part = |scene: &mut Scene, number: u32, more: bool, payload: &[u8]| {
        let mut part = scene.register_message(lwm2m_testkit::scene::QUERY);
        part.options.add_uint(number::BLOCK1, block(number, more, 16));
        part.payload = payload.to_vec();
        scene.device_sends(&part);
        part
    };
    let first = part(&mut scene, 0, true, b"</1/0>,</3/0>,</");
    let sender = scene.peer;
    scene.expect_reply(sender, &first, Code::CONTINUE);
    let last = part(&mut scene, 1, false, b"3303/0>");
    scene.expect_connect();
    let early = part(&mut scene, 1, false, b"3303/0>");
    scene.expect_nothing_more();
    scene.broker_takes_it();
    scene.expect_created(&last);
    let location = scene.location.clone();
    scene.expect_created(&early);
    assert_eq!(scene.location, location);
    scene.expect_reported("register");
    let late = part(&mut scene, 1, false, b"3303/0>");
    scene.expect_created(&late);
    assert_eq!(scene.location, location);
    scene.expect_nothing_more();
}

// --- A device that moves
// ------------------------------------------------------------------------------------------------

#[test]
fn a_command_in_flight_leaves_for_the_new_address_at_once_even_after_its_last_repetition() {
    let mut scene = Scene::registered();
    scene.command(&read(1));
    let request = scene.expect_request(Code::GET, MANUFACTURER);
    for _ in 0..4 {
        scene.advance_to_next_deadline();
        scene.expect_message(&request);
    }
    scene.peer = peer(2);
    let update = scene.update("");
    scene.ask(&update, Code::CHANGED);
    scene.advance(0.0);
    scene.expect_message(&request);
    scene.answer_text(&request, "Acme");
    scene.expect_answer(&read(1), content(MANUFACTURER, "Acme"));
    scene.expect_nothing_more();
}

#[test]
fn a_command_that_was_acknowledged_leaves_for_the_new_address_too() {
    let mut scene = Scene::registered();
    scene.command(&read(1));
    let request = scene.expect_request(Code::GET, MANUFACTURER);
    scene.device_sends(&Message::empty(Kind::Acknowledgement, request.id));
    scene.expect_any_published("lwm2m/dev-7/up/resp");
    scene.peer = peer(2);
    let update = scene.update("");
    scene.ask(&update, Code::CHANGED);
    scene.advance(0.0);
    scene.expect_message(&request);
    scene.device_sends(&Message::empty(Kind::Acknowledgement, request.id));
    scene.expect_nothing_more();
    let answer = text_reply(&request, Kind::Confirmable, MessageId(901), None, "Acme");
    scene.device_sends(&answer);
    scene.expect_acknowledgement(&answer);
    scene.expect_answer(&read(1), content(MANUFACTURER, "Acme"));
    scene.expect_nothing_more();
}
