//! `auto_observe_composite`: one composite observation in the place of single ones, in virtual time.

use lwm2m_core::coap::options::{format, number};
use lwm2m_core::coap::{Code, Kind, Message};
use lwm2m_core::gateway::config::{AutoObserve, GatewayConfig};
use lwm2m_core::gateway::report::Report;
use lwm2m_core::lwm2m::path::Path;
use lwm2m_testkit::scene::{QUERY, Scene, content, outcome, path_of, read};
use serde_json::{Value, json};

use super::scene::{QUERY_1_1, composite, entries, restarted_with, senml};

const PATHS: [&str; 2] = ["/3303/0/5700", "/3/0/9"];
const VALUES: [(&str, i64); 2] = [("/3303/0/5700", 21), ("/3/0/9", 81)];
const RESPONSES: &str = "lwm2m/dev-7/up/resp";

fn observe_all(config: &mut GatewayConfig, paths: &[&str]) {
    let paths: Vec<Path> = paths.iter().map(|path| path.parse().expect("a path")).collect();
    config.auto_observe = AutoObserve::Paths(paths);
    config.auto_observe_composite = true;
}

fn configured(config: &mut GatewayConfig) {
    observe_all(config, &PATHS);
}

fn scene_with(change: impl FnOnce(&mut GatewayConfig)) -> Scene {
    let mut scene = Scene::with(change);
    scene.gateway.restore(scene.now, Vec::new());
    scene
}

/// Registers a device of LwM2M 1.1 that observes both paths, and gives the request that began it.
fn observing() -> (Scene, Message) {
    let mut scene = scene_with(configured);
    scene.register(QUERY_1_1);
    let request = expect_fetch(&mut scene);
    scene.device_sends(&senml(&request, Kind::Acknowledgement, Some(2), &VALUES));
    let mut answer = command(&PATHS);
    answer["seqNum"] = json!(2);
    scene.expect_answer(&answer, entries(&PATHS, &VALUES));
    (scene, request)
}

/// What the gateway's own command would be as JSON of an application.
fn command(paths: &[&str]) -> Value {
    json!({ "msgType": "observe-composite", "is_auto_observe": true, "data": { "paths": paths } })
}

fn expect_fetch(scene: &mut Scene) -> Message {
    let request = scene.expect_request(Code::FETCH, "");
    assert_eq!(request.options.uint(number::OBSERVE), Ok(Some(0)));
    request
}

fn expect_code(scene: &mut Scene, msg_type: &str, code: &str) {
    let answer = scene.expect_any_published(RESPONSES);
    assert_eq!((&answer["msgType"], &answer["is_auto_observe"]), (&json!(msg_type), &json!(true)));
    assert_eq!(answer["data"]["code"], code, "{answer}");
}

/// Takes the single observations that follow, and answers each; gives their paths.
fn observed_singly(scene: &mut Scene) -> Vec<String> {
    let mut paths = Vec::new();
    while let Some((_, request)) = (paths.len() < 8).then(|| next_request(scene)).flatten() {
        assert_eq!((request.code, request.options.uint(number::OBSERVE)), (Code::GET, Ok(Some(0))));
        paths.push(path_of(&request));
        scene.answer(&request, Code::NOT_FOUND);
        expect_code(scene, "observe", "4.04");
    }
    paths
}

fn next_request(scene: &mut Scene) -> Option<(lwm2m_base::Peer, Message)> {
    match scene.next_said()? {
        lwm2m_testkit::scene::Said::ToDevice(peer, message) => Some((peer, message)),
        other => panic!("{other:?} is no request"),
    }
}

fn splits(scene: &mut Scene) -> Vec<usize> {
    let paths = |report| match report {
        Report::AutoObserveSplit { paths, .. } => Some(paths),
        _ => None,
    };
    scene.reports().into_iter().filter_map(paths).collect()
}

#[test]
fn the_whole_list_is_one_composite_observation() {
    let (mut scene, request) = observing();
    assert_eq!(request.payload, b"\x82\xa1\x00\x6c/3303/0/5700\xa1\x00\x66/3/0/9");
    scene.expect_nothing_more();
    let id = scene.fresh_id();
    scene.device_sends(&Message { id, ..senml(&request, Kind::NonConfirmable, Some(3), &VALUES[..1]) });
    let data = entries(&PATHS, &VALUES[..1]);
    let told = json!({ "msgType": "notify", "is_auto_observe": true, "seqNum": 3, "data": data });
    scene.expect_published("up/notify", &told);
    assert!(splits(&mut scene).is_empty());
    scene.expect_nothing_more();
}

#[test]
fn it_is_cancelled_as_a_whole_and_not_by_a_path_of_it() {
    let (mut scene, request) = observing();
    let single = json!({ "reqID": 8, "msgType": "cancel-observe", "data": { "path": PATHS[1] } });
    scene.command(&single);
    let unrelated = scene.expect_request(Code::GET, PATHS[1]);
    assert_ne!(unrelated.token, request.token);
    scene.answer(&unrelated, Code::NOT_FOUND);
    scene.expect_answer(&single, outcome("4.04", "not_found", &json!(PATHS[1])));

    let (set, mut values) = (["/3/0/9", "/3303/0/5700"], VALUES);
    values.reverse();
    let cancel = composite(9, "cancel-observe-composite", &set);
    scene.command(&cancel);
    let cancellation = scene.expect_request(Code::FETCH, "");
    assert_eq!((cancellation.token, &cancellation.payload), (request.token, &request.payload));
    assert_eq!(cancellation.options.uint(number::OBSERVE), Ok(Some(1)));
    scene.device_sends(&senml(&cancellation, Kind::Acknowledgement, None, &values));
    scene.expect_answer(&cancel, entries(&set, &values));
    let late = Message { id: scene.fresh_id(), ..senml(&request, Kind::NonConfirmable, Some(6), &VALUES) };
    scene.device_sends(&late);
    scene.expect_reset(&late);
    scene.expect_nothing_more();
}

#[test]
fn a_device_without_composite_observations_is_asked_for_each_path() {
    for (code, told) in [
        (Code::BAD_REQUEST, "4.00"),
        (Code::NOT_FOUND, "4.04"),
        (Code::METHOD_NOT_ALLOWED, "4.05"),
        (Code::NOT_IMPLEMENTED, "5.01"),
    ] {
        let mut scene = scene_with(configured);
        scene.register(QUERY_1_1);
        let request = expect_fetch(&mut scene);
        scene.answer(&request, code);
        expect_code(&mut scene, "observe-composite", told);
        assert_eq!(observed_singly(&mut scene), PATHS);
        assert_eq!(splits(&mut scene), [2]);
    }
}

#[test]
fn a_device_that_knows_neither_format_of_a_path_list_is_asked_for_each_path() {
    let mut scene = scene_with(configured);
    scene.register(QUERY_1_1);
    for expected in [format::SENML_CBOR, format::SENML_JSON] {
        let request = expect_fetch(&mut scene);
        assert_eq!(request.options.content_format(), Some(expected));
        scene.answer(&request, Code::UNSUPPORTED_CONTENT_FORMAT);
    }
    expect_code(&mut scene, "observe-composite", "4.15");
    assert_eq!(observed_singly(&mut scene), PATHS);
}

#[test]
fn after_any_other_answer_nothing_follows() {
    let answers = [
        (Code::UNAUTHORIZED, "4.01"),
        (Code::FORBIDDEN, "4.03"),
        (Code::INTERNAL_SERVER_ERROR, "5.00"),
        (Code::SERVICE_UNAVAILABLE, "5.03"),
    ];
    for (code, told) in answers {
        let mut scene = scene_with(configured);
        scene.register(QUERY_1_1);
        let request = expect_fetch(&mut scene);
        scene.answer(&request, code);
        expect_code(&mut scene, "observe-composite", told);
        scene.expect_nothing_more();
        assert_eq!(scene.gateway.table_sizes().to_observe, 0);
    }
    let mut scene = scene_with(configured);
    scene.register(QUERY_1_1);
    let request = expect_fetch(&mut scene);
    scene.device_sends(&senml(&request, Kind::Acknowledgement, None, &VALUES));
    scene.expect_answer(&command(&PATHS), entries(&PATHS, &VALUES));
    scene.expect_nothing_more();
}

#[test]
fn a_device_that_does_not_answer_or_rejects_the_message_is_asked_for_each_path() {
    let mut scene = scene_with(configured);
    scene.register(QUERY_1_1);
    let request = expect_fetch(&mut scene);
    scene.advance(30.0);
    while let Some((_, repeated)) = next_request(&mut scene) {
        assert_eq!(repeated, request, "a lost request is repeated as it is");
    }
    let mut timed_out = scene_with(configured);
    timed_out.register(QUERY_1_1);
    let request = expect_fetch(&mut timed_out);
    for _ in 0..4 {
        timed_out.advance_to_next_deadline();
        timed_out.expect_message(&request);
    }
    timed_out.advance_to_next_deadline();
    timed_out.expect_returned(&command(&PATHS), "coap_timeout");
    assert_eq!(observed_singly(&mut timed_out), PATHS);

    let mut rejected = scene_with(configured);
    rejected.register(QUERY_1_1);
    let request = expect_fetch(&mut rejected);
    rejected.device_sends(&Message::empty(Kind::Reset, request.id));
    rejected.expect_returned(&command(&PATHS), "coap_reset");
    assert_eq!(observed_singly(&mut rejected), PATHS);
}

#[test]
fn a_device_of_lwm2m_1_0_is_asked_for_each_path_at_once() {
    let mut scene = scene_with(configured);
    scene.register(QUERY);
    assert_eq!(observed_singly(&mut scene), PATHS);
    assert!(splits(&mut scene).is_empty());
}

#[test]
fn what_a_device_does_not_accept_is_tried_again_when_it_registers_again() {
    let mut scene = scene_with(configured);
    scene.register(QUERY_1_1);
    let request = expect_fetch(&mut scene);
    scene.answer(&request, Code::METHOD_NOT_ALLOWED);
    expect_code(&mut scene, "observe-composite", "4.05");
    let single = scene.expect_request(Code::GET, PATHS[0]);
    let update = scene.update("lt=300");
    scene.ask(&update, Code::CHANGED);
    scene.answer(&single, Code::NOT_FOUND);
    expect_code(&mut scene, "observe", "4.04");
    assert_eq!(observed_singly(&mut scene), PATHS[1..]);

    let before = scene.device;
    let register = scene.send_register(QUERY_1_1);
    scene.expect_connect();
    scene.broker_takes_it();
    scene.expect_disconnect(before);
    scene.expect_created(&register);
    scene.expect_reported("register");
    expect_fetch(&mut scene);
    scene.expect_nothing_more();
}

#[test]
fn a_list_beyond_the_limit_of_a_composite_operation_becomes_several_observations() {
    let paths = ["/3303/0/5700", "/3/0/9", "/3/0/13", "/1/0/1", "/1/0/2"];
    let limited = |config: &mut GatewayConfig| {
        observe_all(config, &paths);
        config.limits.composite_paths = 2;
    };
    let mut scene = scene_with(limited);
    scene.register(QUERY_1_1);
    let first = expect_fetch(&mut scene);
    scene.device_sends(&senml(&first, Kind::Acknowledgement, Some(0), &VALUES));
    scene.expect_answer(&command(&paths[..2]), entries(&paths[..2], &VALUES));
    let second = expect_fetch(&mut scene);
    scene.answer(&second, Code::NOT_FOUND);
    expect_code(&mut scene, "observe-composite", "4.04");
    assert_eq!(observed_singly(&mut scene), &paths[2..], "the last one is not asked for in vain");
    assert_eq!(splits(&mut scene), [3]);

    let mut scene = scene_with(|config| {
        limited(config);
        config.limits.observations = 1;
    });
    scene.reports();
    scene.register(QUERY_1_1);
    let cut = scene.reports().into_iter().find_map(|report| match report {
        Report::AutoObserveCut { paths, .. } => Some(paths),
        _ => None,
    });
    assert_eq!(cut, Some(3));
    let request = expect_fetch(&mut scene);
    scene.answer(&request, Code::METHOD_NOT_ALLOWED);
    expect_code(&mut scene, "observe-composite", "4.05");
    assert_eq!(observed_singly(&mut scene), &paths[..1]);
}

#[test]
fn a_sleeping_device_is_asked_when_it_wakes() {
    let mut scene = scene_with(configured);
    let register = scene.send_register("ep=dev-7&lt=300&lwm2m=1.1&b=UQ");
    scene.expect_connect();
    scene.command(&read(1));
    scene.broker_takes_it();
    scene.expect_created(&register);
    scene.expect_reported("register");
    let silent = scene.expect_request(Code::GET, "/3/0/0");
    scene.advance(93.0);
    (0..4).for_each(|_| scene.expect_message(&silent));
    scene.expect_returned(&read(1), "coap_timeout");
    scene.expect_nothing_more();
    let update = scene.update("");
    scene.ask(&update, Code::CHANGED);
    let request = expect_fetch(&mut scene);
    scene.advance(93.0);
    (0..4).for_each(|_| scene.expect_message(&request));
    scene.expect_returned(&command(&PATHS), "coap_timeout");
    scene.expect_nothing_more();
    let update = scene.update("");
    scene.ask(&update, Code::CHANGED);
    assert_eq!(observed_singly(&mut scene), PATHS);
}

#[test]
fn a_composite_observation_of_its_own_survives_a_restart() {
    let (scene, request) = observing();
    let mut scene = restarted_with(scene, configured);
    scene.expect_nothing_more();
    let id = scene.fresh_id();
    scene.device_sends(&Message { id, ..senml(&request, Kind::NonConfirmable, Some(9), &VALUES) });
    let data = entries(&PATHS, &VALUES);
    let told = json!({ "msgType": "notify", "is_auto_observe": true, "seqNum": 9, "data": data });
    scene.expect_published("up/notify", &told);
}

#[test]
fn what_was_not_asked_for_before_a_restart_is_asked_for_in_the_same_way() {
    let mut scene = scene_with(configured);
    let register = scene.send_register(QUERY_1_1);
    scene.expect_connect();
    scene.command(&read(1));
    scene.broker_takes_it();
    scene.expect_created(&register);
    scene.expect_reported("register");
    scene.expect_request(Code::GET, "/3/0/0");

    // The configuration of today holds for devices that register.
    let mut scene = restarted_with(scene, |_| {});
    let again = scene.expect_request(Code::GET, "/3/0/0");
    scene.answer_text(&again, "Acme");
    scene.expect_answer(&read(1), content("/3/0/0", "Acme"));
    let interrupted = expect_fetch(&mut scene);

    let mut scene = restarted_with(scene, |_| {});
    let request = expect_fetch(&mut scene);
    assert_eq!(request.payload, interrupted.payload);
    scene.answer(&request, Code::METHOD_NOT_ALLOWED);
    expect_code(&mut scene, "observe-composite", "4.05");
    scene.expect_request(Code::GET, PATHS[0]);

    let mut scene = restarted_with(scene, configured);
    assert_eq!(observed_singly(&mut scene), PATHS, "single ones stay single ones");
}

#[test]
fn what_the_shutdown_gave_up_is_asked_for_by_the_next_process() {
    let mut scene = scene_with(configured);
    scene.register(QUERY_1_1);
    expect_fetch(&mut scene);
    scene.drains();
    scene.gateway_ends();
    scene.expect_returned(&command(&PATHS), "coap_timeout");
    scene.expect_nothing_more();

    let mut scene = restarted_with(scene, |_| {});
    let request = expect_fetch(&mut scene);
    scene.answer(&request, Code::METHOD_NOT_ALLOWED);
    expect_code(&mut scene, "observe-composite", "4.05");
    scene.expect_request(Code::GET, PATHS[0]);
    scene.drains();
    scene.gateway_ends();
    assert_eq!(scene.expect_any_published(RESPONSES)["msgType"], "coap_timeout");

    let mut scene = restarted_with(scene, |_| {});
    assert_eq!(observed_singly(&mut scene), PATHS);
}

#[test]
fn an_application_that_calls_its_command_an_auto_observation_gets_its_answer_and_no_more() {
    let mut scene = scene_with(|_| {});
    scene.register(QUERY_1_1);
    scene.command(&command(&PATHS));
    let request = expect_fetch(&mut scene);
    scene.answer(&request, Code::METHOD_NOT_ALLOWED);
    expect_code(&mut scene, "observe-composite", "4.05");
    scene.expect_nothing_more();
}
