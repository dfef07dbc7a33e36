//! Send in virtual time: values that a device reports without having been asked (LwM2M 1.1 section 6.4.6).

use lwm2m_base::Peer;
use lwm2m_core::coap::options::{format, number};
use lwm2m_core::coap::{AckMode, Code, Kind, Message};
use lwm2m_core::gateway::broker::{BrokerCommand, BrokerEvent, Ticket};
use lwm2m_core::gateway::report::Report;
use lwm2m_testkit::scene::{Scene, content, peer, read, reply, text_reply};
use serde_json::{Value, json};

const TEMPERATURES: &[u8] = br#"[{"bn":"/3303/0/5700","v":21.5,"t":1700000000},{"v":22,"t":-10}]"#;

fn send(scene: &mut Scene, content_format: u16, payload: &[u8]) -> Message {
    let mut request = scene.request(Code::POST, &["dp"], "");
    request.options.add_uint(number::CONTENT_FORMAT, content_format.into());
    request.payload = payload.to_vec();
    request
}

fn good(scene: &mut Scene) -> Message {
    send(scene, format::SENML_JSON, TEMPERATURES)
}

/// Returns the message for [`TEMPERATURES`] that come at this time.
fn temperatures(now: u64) -> Value {
    let entry = |value: Value, time: u64| json!({ "path": "/3303/0/5700", "value": value, "time": time });
    let content = [entry(json!(21.5), 1_700_000_000), entry(json!(22), now - 10)];
    json!({ "msgType": "send", "data": { "code": "2.05", "codeMsg": "content", "reqPath": "/", "content": content } })
}

/// Takes the publication of a Send, and returns its ticket.
fn expect_handed_over(scene: &mut Scene, payload: &Value) -> Ticket {
    let BrokerCommand::Publish { registration, publication } = scene.expect_broker_command() else {
        panic!("no publication")
    };
    assert_eq!((registration, publication.topic.as_str()), (scene.device, "lwm2m/dev-7/up/send"));
    assert_eq!(&serde_json::from_slice::<Value>(&publication.payload).expect("JSON"), payload);
    publication.ticket.expect("a Send has a ticket")
}

fn queued(scene: &mut Scene, ticket: Ticket) {
    scene.broker_says(BrokerEvent::Queued { registration: scene.device, ticket });
}

fn answered(scene: &mut Scene) -> Vec<Code> {
    let answered = |report| match report {
        Report::Send { code, .. } => Some(code),
        _ => None,
    };
    scene.reports().into_iter().filter_map(answered).collect()
}

#[test]
fn a_send_is_published_with_its_times_and_answered_when_it_is_queued() {
    let mut scene = Scene::registered();
    scene.reports();
    let request = good(&mut scene);
    scene.device_sends(&request);
    let ticket = expect_handed_over(&mut scene, &temperatures(1_700_000_000));
    scene.expect_nothing_more();
    queued(&mut scene, ticket);
    let (me, request_id) = (scene.peer, request.id);
    scene.expect_reply(me, &request, Code::CHANGED);
    assert_eq!(answered(&mut scene), [Code::CHANGED]);
    // A repeated message is answered as before, and not published twice.
    scene.device_sends(&request);
    assert_eq!(scene.expect_reply(me, &request, Code::CHANGED).id, request_id);
    scene.broker_says(BrokerEvent::Published { registration: scene.device, ticket });
    scene.expect_nothing_more();
    assert_eq!(answered(&mut scene), []);
}

#[test]
fn with_ack_published_a_send_is_answered_when_the_broker_has_it() {
    let mut scene = Scene::registered_with(|config| {
        config.coap.acknowledge_notifications = AckMode::Deferred;
    });
    let request = good(&mut scene);
    scene.device_sends(&request);
    let ticket = expect_handed_over(&mut scene, &temperatures(1_700_000_000));
    queued(&mut scene, ticket);
    scene.expect_nothing_more();
    // RFC 7252 section 5.2.2: the answer takes longer than the device waits, so that it is told to wait.
    scene.advance(2.0);
    scene.expect_acknowledgement(&request);
    scene.broker_says(BrokerEvent::Published { registration: scene.device, ticket });
    let (_, response) = scene.expect_sent();
    assert_eq!((response.kind, response.code, response.token), (Kind::Confirmable, Code::CHANGED, request.token));
    scene.device_sends(&Message::empty(Kind::Acknowledgement, response.id));
    scene.expect_nothing_more();
}

#[test]
fn a_send_that_is_not_published_is_answered_5_03_with_the_time_to_try_again() {
    for acknowledging in [AckMode::OnReceipt, AckMode::Deferred] {
        let mut scene = Scene::registered_with(|config| config.coap.acknowledge_notifications = acknowledging);
        scene.reports();
        let request = good(&mut scene);
        scene.device_sends(&request);
        let ticket = expect_handed_over(&mut scene, &temperatures(1_700_000_000));
        scene.broker_says(BrokerEvent::Unpublished { registration: scene.device, ticket });
        let me = scene.peer;
        let response = scene.expect_reply(me, &request, Code::SERVICE_UNAVAILABLE);
        assert_eq!(response.options.uint(number::MAX_AGE), Ok(Some(30)));
        assert_eq!(answered(&mut scene), [Code::SERVICE_UNAVAILABLE]);
        scene.expect_nothing_more();
    }
}

#[test]
fn a_send_that_cannot_be_decoded_is_answered_and_told_4_00() {
    let mut scene = Scene::registered();
    let me = scene.peer;
    for payload in [&b"[{"[..], b"[]", br#"[{"n":"/3303/0","v":1}]"#, br#"[{"n":"/3/0/9","v":81.5}]"#] {
        scene.reports();
        let request = send(&mut scene, format::SENML_JSON, payload);
        scene.device_sends(&request);
        let told = scene.expect_any_published("lwm2m/dev-7/up/send");
        let reason = told["data"]["reason"].as_str().expect("a reason").to_owned();
        let refused = json!({ "code": "4.00", "codeMsg": "bad_request", "reqPath": "/", "reason": reason });
        assert_eq!(told, json!({ "msgType": "send", "data": refused }));
        let response = scene.expect_reply(me, &request, Code::BAD_REQUEST);
        let diagnostic = String::from_utf8(response.payload).expect("text");
        assert!(reason == diagnostic || diagnostic == "payload", "{diagnostic} of {reason}");
        let reports = scene.reports();
        let told = |report: &Report| matches!(report, Report::UndecodableContent { path, .. } if path == "/dp");
        assert!(reports.iter().any(told), "{reports:?}");
        scene.expect_nothing_more();
    }
}

#[test]
fn a_send_in_another_format_is_answered_4_15_and_told_nobody() {
    let mut scene = Scene::registered();
    for content_format in [format::TEXT, format::TLV, format::LINK_FORMAT] {
        let request = send(&mut scene, content_format, b"21.5");
        scene.ask(&request, Code::UNSUPPORTED_CONTENT_FORMAT);
    }
    let without = scene.request(Code::POST, &["dp"], "");
    scene.ask(&without, Code::UNSUPPORTED_CONTENT_FORMAT);
    scene.expect_nothing_more();
}

#[test]
fn another_method_or_path_is_no_send() {
    let mut scene = Scene::registered();
    for method in [Code::GET, Code::PUT, Code::DELETE, Code::FETCH] {
        let request = scene.request(method, &["dp"], "");
        scene.ask(&request, Code::METHOD_NOT_ALLOWED);
    }
    for path in [&["m2m", "dp"][..], &["dp", "1"]] {
        let request = scene.request(Code::POST, path, "");
        scene.ask(&request, Code::NOT_FOUND);
    }
    scene.expect_nothing_more();
}

#[test]
fn send_can_be_disabled() {
    let mut scene = Scene::registered_with(|config| config.translators.send = None);
    let request = good(&mut scene);
    scene.ask(&request, Code::METHOD_NOT_ALLOWED);
    scene.expect_nothing_more();
}

#[test]
fn over_plain_udp_a_send_is_that_of_the_device_at_this_address_and_of_no_other() {
    let mut scene = Scene::registered();
    scene.reports();
    let elsewhere = peer(9);
    let request = good(&mut scene);
    scene.device_sends_from(elsewhere, &request);
    scene.expect_reply(elsewhere, &request, Code::NOT_FOUND);
    scene.expect_nothing_more();
    let told = Report::Send { peer: elsewhere, endpoint: None, code: Code::NOT_FOUND };
    assert_eq!(scene.reports(), [told]);

    // Once the device has told its new address, it may send from there.
    let update = scene.update("");
    scene.device_sends_from(elsewhere, &update);
    scene.expect_reply(elsewhere, &update, Code::CHANGED);
    let again = good(&mut scene);
    scene.device_sends_from(elsewhere, &again);
    let ticket = expect_handed_over(&mut scene, &temperatures(1_700_000_000));
    queued(&mut scene, ticket);
    scene.expect_reply(elsewhere, &again, Code::CHANGED);
}

#[test]
fn of_two_registrations_at_one_address_the_one_that_was_heard_last_sends() {
    let mut scene = Scene::new();
    scene.join("ep=dev-6&lt=300");
    scene.expect_broker_command();
    scene.advance(1.0);
    scene.register("ep=dev-7&lt=300");
    let request = good(&mut scene);
    scene.device_sends(&request);
    expect_handed_over(&mut scene, &temperatures(1_700_000_001));
}

#[test]
fn a_send_begins_the_lifetime_anew() {
    let mut scene = Scene::registered();
    scene.advance(200.0);
    let request = good(&mut scene);
    scene.device_sends(&request);
    let ticket = expect_handed_over(&mut scene, &temperatures(1_700_000_200));
    queued(&mut scene, ticket);
    let me = scene.peer;
    scene.expect_reply(me, &request, Code::CHANGED);
    scene.advance(250.0);
    scene.expect_nothing_more();
    let next = good(&mut scene);
    scene.device_sends(&next);
    expect_handed_over(&mut scene, &temperatures(1_700_000_450));
}

#[test]
fn a_sleeping_device_that_sends_is_awake_and_gets_its_commands_after_the_2_04() {
    let mut scene = Scene::new();
    scene.register("ep=dev-7&lt=300&b=UQ&lwm2m=1.0");
    scene.advance(60.0);
    let command = read(1);
    scene.command(&command);
    scene.expect_nothing_more();
    let request = good(&mut scene);
    scene.device_sends(&request);
    let ticket = expect_handed_over(&mut scene, &temperatures(1_700_000_060));
    scene.expect_nothing_more();
    queued(&mut scene, ticket);
    let me = scene.peer;
    scene.expect_reply(me, &request, Code::CHANGED);
    let path = command["data"]["path"].as_str().expect("a path").to_owned();
    let asked = scene.expect_request(Code::GET, &path);
    let answer = text_reply(&asked, Kind::Acknowledgement, asked.id, None, "ACME");
    scene.device_sends(&answer);
    scene.expect_answer(&command, content(&path, "ACME"));
}

#[test]
fn a_send_may_come_in_blocks() {
    let mut scene = Scene::registered();
    let me = scene.peer;
    let (blocks, last) = (TEMPERATURES.chunks(16).collect::<Vec<_>>(), TEMPERATURES.len().div_ceil(16) - 1);
    for (at, block) in blocks.iter().enumerate() {
        let mut request = send(&mut scene, format::SENML_JSON, block);
        let more = if at < last { 8 } else { 0 };
        request.options.add_uint(number::BLOCK1, u32::try_from(at).expect("few") << 4 | more);
        scene.device_sends(&request);
        if at < last {
            scene.expect_reply(me, &request, Code::CONTINUE);
        } else {
            let ticket = expect_handed_over(&mut scene, &temperatures(1_700_000_000));
            queued(&mut scene, ticket);
            scene.expect_reply(me, &request, Code::CHANGED);
        }
    }
    scene.expect_nothing_more();
}

#[test]
fn a_send_that_is_too_large_is_answered_4_13() {
    let mut scene = Scene::registered_with(|config| config.coap.received_body_size = 1024);
    let me = scene.peer;
    for (block, code) in [(0, Code::CONTINUE), (1, Code::REQUEST_ENTITY_TOO_LARGE)] {
        let mut request = send(&mut scene, format::SENML_JSON, &[b' '; 1024]);
        request.options.add_uint(number::BLOCK1, block << 4 | 8 | 6);
        scene.device_sends(&request);
        scene.expect_reply(me, &request, code);
    }
    scene.expect_nothing_more();
}

#[test]
fn a_send_that_is_not_confirmable_is_published_and_answered() {
    let mut scene = Scene::registered();
    let request = Message { kind: Kind::NonConfirmable, ..good(&mut scene) };
    scene.device_sends(&request);
    let ticket = expect_handed_over(&mut scene, &temperatures(1_700_000_000));
    queued(&mut scene, ticket);
    let (_, response) = scene.expect_sent();
    assert_eq!((response.kind, response.code), (Kind::NonConfirmable, Code::CHANGED));
    scene.expect_nothing_more();
}

#[test]
fn a_send_that_waits_when_its_device_leaves_is_answered_5_03() {
    let mut scene = Scene::registered();
    let request = good(&mut scene);
    scene.device_sends(&request);
    let ticket = expect_handed_over(&mut scene, &temperatures(1_700_000_000));
    let deregister = scene.deregister();
    scene.device_sends(&deregister);
    let codes: Vec<Code> = sent(&mut scene).into_iter().map(|message| message.code).collect();
    assert!(codes.contains(&Code::SERVICE_UNAVAILABLE) && codes.contains(&Code::DELETED), "{codes:?}");
    queued(&mut scene, ticket);
    assert_eq!(sent(&mut scene), []);
}

#[test]
fn sends_that_wait_leave_room_for_other_requests() {
    let mut scene = Scene::registered_with(|config| {
        config.coap.acknowledge_notifications = AckMode::Deferred;
        config.coap.pending_requests = 8;
        config.limits.pending_registrations = 4;
    });
    for waiting in 1..=3 {
        let request = good(&mut scene);
        scene.device_sends(&request);
        let said = sent(&mut scene);
        let refused = said.iter().any(|message| message.code == Code::SERVICE_UNAVAILABLE);
        assert_eq!(refused, waiting > 2, "{waiting}: {said:?}");
    }
    let update = scene.update("");
    scene.device_sends(&update);
    assert_eq!(
        sent(&mut scene).pop(),
        Some(Message { kind: Kind::Acknowledgement, code: Code::CHANGED, ..reply(&update) })
    );
}

/// Takes everything that was said, and returns what was sent to devices.
fn sent(scene: &mut Scene) -> Vec<Message> {
    let to_device = |said| match said {
        lwm2m_testkit::scene::Said::ToDevice(_, message) => Some(message),
        lwm2m_testkit::scene::Said::ToBroker(_) | lwm2m_testkit::scene::Said::ToConsole(_) => None,
    };
    std::iter::from_fn(|| scene.next_said()).filter_map(to_device).collect()
}

#[test]
fn sends_of_unregistered_peers_are_limited_like_their_other_requests() {
    let mut scene = Scene::with(|config| {
        config.limits.unregistered.address.per_second = 1;
        config.limits.unregistered.address.burst = 3;
    });
    let unregistered: Peer = peer(9);
    let mut answers = 0;
    for _ in 0..10 {
        let request = good(&mut scene);
        scene.device_sends_from(unregistered, &request);
        answers += sent(&mut scene).len();
    }
    assert_eq!(answers, 3);
}
