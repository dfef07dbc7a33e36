//! Composite operations and the choice of formats over time, in virtual time (LwM2M 1.1 sections 6.3.8 to 6.4.5).

mod answers;
mod auto_observe;
mod fetch_blocks;
pub(crate) mod scene;

use lwm2m_core::coap::options::{format, number};
use lwm2m_core::coap::{Code, Kind, Message};
use lwm2m_core::gateway::report::Report;
use lwm2m_core::lwm2m::content_format::ContentFormat;
use lwm2m_testkit::scene::{Scene, content, outcome, read};
use serde_json::{Value, json};

use scene::{QUERY_1_1, composite, entries, notification, notified, observing, registered, restarted, senml};

#[test]
fn a_composite_observation_is_that_of_its_set_of_paths() {
    let mut scene = registered();
    let paths = ["/3303/0/5700", "/3/0/9"];
    let values = [("/3303/0/5700", 21), ("/3/0/9", 81)];
    let first = observing(&mut scene, &paths, &values);
    notified(&mut scene, &first, 5, &values[..1], &notification(5, &paths, &values[..1]));

    let again = composite(2, "observe-composite", &["3/0/9", "/3303/0/5700/"]);
    scene.command(&again);
    let second = scene.expect_request(Code::FETCH, "");
    assert_ne!(second.token, first.token);
    scene.device_sends(&senml(&second, Kind::Acknowledgement, Some(1), &values));
    let mut answer = again.clone();
    answer["seqNum"] = json!(1);
    scene.expect_answer(&answer, entries(&["3/0/9", "/3303/0/5700/"], &values));

    let stale = Message { id: scene.fresh_id(), ..senml(&first, Kind::NonConfirmable, Some(6), &values) };
    scene.device_sends(&stale);
    scene.expect_reset(&stale);
    scene.expect_nothing_more();
}

#[test]
fn a_composite_observation_is_cancelled_by_the_request_that_began_it() {
    let mut scene = registered();
    let (paths, values) = (["/3303/0/5700", "/3/0/9"], [("/3303/0/5700", 21), ("/3/0/9", 81)]);
    let observe = observing(&mut scene, &paths, &values);

    let single = json!({ "reqID": 8, "msgType": "cancel-observe", "data": { "path": "/3/0/9" } });
    scene.command(&single);
    let unrelated = scene.expect_request(Code::GET, "/3/0/9");
    assert_ne!(unrelated.token, observe.token);
    scene.answer(&unrelated, Code::NOT_FOUND);
    scene.expect_answer(&single, outcome("4.04", "not_found", &json!("/3/0/9")));

    let cancel = composite(9, "cancel-observe-composite", &["/3/0/9", "/3303/0/5700"]);
    scene.command(&cancel);
    let request = scene.expect_request(Code::FETCH, "");
    assert_eq!((request.token, &request.payload), (observe.token, &observe.payload));
    assert_eq!(request.options.uint(number::OBSERVE), Ok(Some(1)));
    assert_eq!(request.options.uint(number::ACCEPT), observe.options.uint(number::ACCEPT));
    scene.device_sends(&senml(&request, Kind::Acknowledgement, None, &values));
    scene.expect_answer(&cancel, entries(&["/3/0/9", "/3303/0/5700"], &values));

    let late = Message { id: scene.fresh_id(), ..senml(&observe, Kind::NonConfirmable, Some(6), &values) };
    scene.device_sends(&late);
    scene.expect_reset(&late);
    scene.expect_nothing_more();
}

#[test]
fn a_composite_observation_and_its_formats_survive_a_restart() {
    let mut scene = registered();
    let (paths, values) = (["/3303/0/5700", "/3/0/9"], [("/3303/0/5700", 21), ("/3/0/9", 81)]);
    // The device rejects SenML CBOR, so that its formats are not those of the first choice.
    let command = composite(1, "observe-composite", &paths);
    scene.command(&command);
    let rejected = scene.expect_request(Code::FETCH, "");
    scene.answer(&rejected, Code::UNSUPPORTED_CONTENT_FORMAT);
    let observe = scene.expect_request(Code::FETCH, "");
    assert_eq!(observe.options.content_format(), Some(format::SENML_JSON));
    scene.device_sends(&senml(&observe, Kind::Acknowledgement, Some(0), &values));
    scene.expect_answer(&command, entries(&paths, &values));

    let mut scene = restarted(scene);
    notified(&mut scene, &observe, 5, &values, &notification(5, &paths, &values));
    let cancel = composite(9, "cancel-observe-composite", &paths);
    scene.command(&cancel);
    let request = scene.expect_request(Code::FETCH, "");
    assert_eq!((request.token, &request.payload), (observe.token, &observe.payload));
    assert_eq!(request.options.content_format(), Some(format::SENML_JSON));
    assert_eq!(request.options.uint(number::ACCEPT), Ok(Some(format::SENML_JSON.into())));
}

#[test]
fn a_notification_that_nobody_asked_for_is_bad_and_the_observation_goes_on() {
    let mut scene = registered();
    let (paths, values) = (["/3/0/9"], [("/3/0/9", 81)]);
    let observe = observing(&mut scene, &paths, &values);
    let other = Message { id: scene.fresh_id(), ..senml(&observe, Kind::Confirmable, Some(5), &[("/3/0/10", 1)]) };
    scene.device_sends(&other);
    scene.expect_acknowledgement(&other);
    let published = scene.expect_any_published("lwm2m/dev-7/up/notify");
    assert_eq!((&published["data"]["code"], &published["data"]["reqPaths"]), (&json!("4.00"), &json!(paths)));
    assert!(published["data"]["reason"].as_str().is_some_and(|reason| reason.contains("/3/0/10")));
    notified(&mut scene, &observe, 6, &values, &notification(6, &paths, &values));
    scene.expect_nothing_more();
}

#[test]
fn observations_of_both_kinds_count_against_one_limit() {
    let mut scene = Scene::with(|config| config.limits.observations = 1);
    scene.register(QUERY_1_1);
    observing(&mut scene, &["/3/0/9"], &[("/3/0/9", 81)]);
    for command in [composite(2, "observe-composite", &["/3/0/10"]), lwm2m_testkit::scene::observe(2, "/3/0/9")] {
        scene.command(&command);
        let refused = scene.expect_any_published("lwm2m/dev-7/up/resp");
        assert_eq!(refused["data"]["reason"], "too many observations of this device");
    }
    scene.expect_nothing_more();
}

fn batch(id: u64) -> Value {
    json!({ "reqID": id, "msgType": "write", "data": {
            "basePath": "/1/0",
            "content": [{ "path": "1", "value": 60 }],
        } })
}

/// Nothing else goes to the device between the requests of one command, and the application gets one answer.
#[test]
fn a_command_takes_three_requests_at_most_and_has_one_answer() {
    let mut scene = registered();
    scene.reports();
    scene.command(&batch(1));
    scene.command(&read(2));
    for expected in [format::SENML_CBOR, format::TLV, format::SENML_JSON] {
        let request = scene.expect_request(Code::POST, "/1/0");
        assert_eq!(request.options.content_format(), Some(expected));
        scene.expect_nothing_more();
        scene.answer(&request, Code::UNSUPPORTED_CONTENT_FORMAT);
    }
    scene.expect_answer(&batch(1), outcome("4.15", "unsupported_content_format", &json!("/1/0")));
    let next = scene.expect_request(Code::GET, "/3/0/0");
    scene.answer_text(&next, "ACME");
    scene.expect_answer(&read(2), content("/3/0/0", "ACME"));
    scene.expect_nothing_more();
    let rejected: Vec<_> = scene
        .reports()
        .into_iter()
        .filter_map(|report| match report {
            Report::FormatRejected { format, .. } => Some(format),
            _ => None,
        })
        .collect();
    assert_eq!(rejected, [ContentFormat::SenmlCbor, ContentFormat::Tlv]);
}

#[test]
fn what_a_device_rejects_is_remembered_over_an_update_and_a_restart_and_forgotten_at_register() {
    let mut scene = registered();
    let first_format = |scene: &mut Scene, id| {
        scene.command(&batch(id));
        let request = scene.expect_request(Code::POST, "/1/0");
        (request.options.content_format(), request)
    };
    let (format, request) = first_format(&mut scene, 1);
    assert_eq!(format, Some(format::SENML_CBOR));
    scene.answer(&request, Code::UNSUPPORTED_CONTENT_FORMAT);
    let accepted = scene.expect_request(Code::POST, "/1/0");
    scene.answer(&accepted, Code::CHANGED);
    let changed = outcome("2.04", "changed", &json!("/1/0"));
    scene.expect_answer(&batch(1), changed.clone());

    let update = scene.update("lt=300");
    scene.ask(&update, Code::CHANGED);
    let mut scene = restarted(scene);
    let (format, request) = first_format(&mut scene, 2);
    assert_eq!(format, Some(format::TLV));
    scene.answer(&request, Code::CHANGED);
    scene.expect_answer(&batch(2), changed);

    let mut scene = registered();
    assert_eq!(first_format(&mut scene, 3).0, Some(format::SENML_CBOR));
}
