//! Firmware updates through the gateway: the way of an update, by pull and by push.

mod campaigns;
mod interrupted;
mod refusals;
mod scene;

use lwm2m_core::coap::options::number;
use lwm2m_core::coap::{Code, Kind, Message};
use lwm2m_core::gateway::report::Report;
use lwm2m_testkit::scene::{Said, content, outcome, path_of, read, reply};
use serde_json::json;

use scene::*;

#[test]
fn a_pull_is_told_from_the_command_to_the_new_version() {
    let mut scene = public_scene();
    let answer = begin(&mut scene, json!({ "image": IMAGE, "version": "2.1.0" }));
    let described = scene.images.describe(&IMAGE.parse().unwrap()).unwrap();
    assert_eq!((&answer["size"], &answer["sha256"]), (&json!(SIZE), &json!(described.sha256.to_string())));
    assert_eq!(answer["job"].as_str().map(str::len), Some(6));

    let waiting = expect_event(&mut scene, "preparing");
    let expected = json!({ "job": answer["job"], "phase": "preparing", "method": null, "state": null, "result": null,
        "bytes": 0, "size": SIZE, "progress": 0, "attempt": 1 });
    assert_eq!(waiting, expected);
    let [state, result] = prepare(&mut scene, 2);
    assert_eq!(expect_event(&mut scene, "downloading")["method"], "pull");
    let (write, key, name) = expect_uri(&mut scene);
    scene.answer(&write, Code::CHANGED);
    notify(&mut scene, &state, 2, 1);

    let mut fetched = Vec::new();
    for block in 0..4 {
        scene.advance(4.0);
        if block == 2 {
            let event = expect_event(&mut scene, "downloading");
            assert_eq!((&event["bytes"], &event["progress"], &event["state"]), (&json!(2048), &json!(57), &json!(1)));
        }
        fetched.extend(fetch(&mut scene, (&key, &name), block));
    }
    assert_eq!(fetched, image());
    notify(&mut scene, &state, 3, 2);
    assert_eq!(expect_event(&mut scene, "downloaded")["state"], 2);
    let execute = expect_execute(&mut scene, "/5/0/2");
    scene.answer(&execute, Code::CHANGED);
    expect_event(&mut scene, "updating");
    notify(&mut scene, &state, 4, 3);
    notify(&mut scene, &result, 2, 1);
    expect_event(&mut scene, "verifying");
    answer_value(&mut scene, "/3/0/3", "2.1.0");
    let end = expect_event(&mut scene, "succeeded");
    assert_eq!((&end["result"], &end["state"]), (&json!(1), &json!(3)));
    scene.expect_nothing_more();

    // Its observations are over, and so is the offer.
    let late = Message { id: other_id(&mut scene), kind: Kind::Confirmable, ..reply(&state) };
    scene.device_sends(&late);
    scene.expect_reset(&late);
    let get = scene.request(Code::GET, &["fw", &key, &name], "");
    scene.ask(&get, Code::NOT_FOUND);
    assert_eq!(scene.gateway.table_sizes().image_offers, 0);
}

#[test]
fn a_push_is_one_request_whose_blocks_are_read_as_they_are_needed() {
    let mut scene = scene();
    begin(&mut scene, json!({ "image": IMAGE }));
    expect_event(&mut scene, "preparing");
    let [state, _] = prepare(&mut scene, 2);
    assert_eq!(expect_event(&mut scene, "downloading")["method"], "push");
    let mut pushed = Vec::new();
    for block in 0..4 {
        let message = take_block(&mut scene, Code::CHANGED);
        assert_eq!(message.options.uint(number::CONTENT_FORMAT), Ok(Some(42)));
        let size = (block == 0).then_some(SIZE as u32);
        assert_eq!(message.options.uint(number::SIZE1), Ok(size));
        pushed.extend(message.payload);
        if block == 0 {
            notify(&mut scene, &state, 2, 1);
        }
    }
    assert_eq!(pushed, image());
    answer_value(&mut scene, "/5/0/3", "2");
    let event = expect_event(&mut scene, "downloaded");
    assert_eq!((&event["bytes"], &event["progress"]), (&json!(SIZE), &json!(100)));
    expect_execute(&mut scene, "/5/0/2");
}

#[test]
fn commands_of_applications_wait_for_the_end_of_a_push_and_only_a_cancel_does_not() {
    let mut scene = scene();
    begin(&mut scene, json!({ "image": IMAGE, "blockSize": 512 }));
    expect_event(&mut scene, "preparing");
    prepare(&mut scene, 1);
    expect_event(&mut scene, "downloading");
    assert_eq!(take_block(&mut scene, Code::CHANGED).payload.len(), 512);
    scene.command(&read(9));
    let (_, second) = scene.expect_sent();
    scene.expect_nothing_more();

    let cancel = json!({ "reqID": 2, "msgType": "firmware-cancel" });
    scene.command(&cancel);
    scene.expect_answer(&cancel, outcome("2.02", "deleted", &json!("/5/0")));
    expect_event(&mut scene, "cancelled");
    let waited = scene.expect_request(Code::GET, "/3/0/0");
    scene.answer_text(&waited, "ACME");
    scene.expect_answer(&read(9), content("/3/0/0", "ACME"));
    // Then the device is asked to drop what it has.
    let execute = expect_execute(&mut scene, "/5/0/10");
    scene.answer(&execute, Code::CHANGED);
    let late = Message { kind: Kind::Acknowledgement, code: Code::CONTINUE, id: second.id, ..reply(&second) };
    scene.device_sends(&late);
    scene.expect_nothing_more();
}

#[test]
fn a_push_in_tlv_has_the_resource_in_front_of_the_image() {
    let mut scene = scene();
    begin(&mut scene, json!({ "image": IMAGE, "method": "push" }));
    expect_event(&mut scene, "preparing");
    prepare(&mut scene, 1);
    expect_event(&mut scene, "downloading");
    let (_, first) = scene.expect_sent();
    scene.answer(&first, Code::UNSUPPORTED_CONTENT_FORMAT);
    let mut pushed = Vec::new();
    for _ in 0..4 {
        let message = take_block(&mut scene, Code::CHANGED);
        assert_eq!(message.options.uint(number::CONTENT_FORMAT), Ok(Some(11542)));
        pushed.extend(message.payload);
    }
    let header = [0xd0, 0, (SIZE >> 8) as u8, SIZE as u8];
    assert_eq!(pushed, [&header[..], &image()].concat());
}

#[test]
fn the_image_of_a_push_is_never_held_whole_and_a_slow_disk_holds_nobody_up() {
    let mut scene = scene();
    scene.images.write("large.bin", &vec![7; 100_000]);
    begin(&mut scene, json!({ "image": "large.bin", "method": "push" }));
    expect_event(&mut scene, "preparing");
    scene.disk_waits = true;
    prepare(&mut scene, 1);
    expect_event(&mut scene, "downloading");
    scene.expect_nothing_more();
    assert_eq!(scene.image_requests(), 1);
    scene.disk_answers();
    let mut pushed = 0;
    while pushed < 100_000 {
        pushed += take_block(&mut scene, Code::CHANGED).payload.len();
        scene.disk_answers();
    }
    assert_eq!(pushed, 100_000);
    scene.expect_request(Code::GET, "/5/0/3");
}

#[test]
fn without_activate_the_package_waits_for_its_command() {
    let mut scene = public_scene();
    begin(&mut scene, json!({ "image": IMAGE, "activate": false }));
    expect_event(&mut scene, "preparing");
    let [state, _] = prepare(&mut scene, 2);
    expect_event(&mut scene, "downloading");
    let (write, key, name) = expect_uri(&mut scene);
    scene.answer(&write, Code::CHANGED);
    let activate = json!({ "reqID": 3, "msgType": "firmware-activate" });
    scene.command(&activate);
    assert!(expect_refused(&mut scene, "4.09").contains("nothing is downloaded"));
    for block in 0..4 {
        fetch(&mut scene, (&key, &name), block);
    }
    notify(&mut scene, &state, 2, 2);
    expect_event(&mut scene, "downloaded");
    scene.advance(900.0);
    scene.expect_nothing_more();
    scene.command(&activate);
    scene.expect_answer(&activate, outcome("2.04", "changed", &json!("/5/0")));
    expect_execute(&mut scene, "/5/0/2");
}

#[test]
fn the_status_is_the_last_event_until_the_device_registers_again() {
    let mut scene = public_scene();
    let status = json!({ "reqID": 4, "msgType": "firmware-status" });
    scene.command(&status);
    assert!(expect_refused(&mut scene, "4.04").contains("no firmware update"));
    begin(&mut scene, json!({ "image": IMAGE }));
    let event = expect_event(&mut scene, "preparing");
    scene.command(&status);
    let read = scene.expect_request(Code::GET, "/5/0");
    let mut data = event;
    data["code"] = json!("2.05");
    data["codeMsg"] = json!("content");
    data["reqPath"] = json!("/5/0");
    scene.expect_answer(&status, data.clone());
    scene.answer(&read, Code::METHOD_NOT_ALLOWED);
    let failed = expect_event(&mut scene, "failed");
    assert_eq!((&failed["error"], &failed["code"]), (&json!("rejected"), &json!("4.05")));
    scene.command(&status);
    let told = scene.expect_any_published("lwm2m/dev-7/up/resp");
    assert_eq!((&told["data"]["code"], &told["data"]["deviceCode"]), (&json!("2.05"), &json!("4.05")));
    register(&mut scene, QUERY);
    scene.command(&status);
    expect_refused(&mut scene, "4.04");
}

#[test]
fn an_application_keeps_its_own_observation_of_the_state() {
    let mut scene = public_scene();
    scene.command(&lwm2m_testkit::scene::observe(5, "/5/0/3"));
    let own = scene.expect_request(Code::GET, "/5/0/3");
    scene.answer_observe(&own, 2, "0");
    scene.expect_any_published("lwm2m/dev-7/up/resp");
    begin(&mut scene, json!({ "image": IMAGE }));
    expect_event(&mut scene, "preparing");
    let [state, _] = prepare(&mut scene, 2);
    assert_ne!(own.token, state.token);
    expect_event(&mut scene, "downloading");
    let (write, ..) = expect_uri(&mut scene);
    scene.answer(&write, Code::CHANGED);
    notify(&mut scene, &state, 2, 1);
    scene.expect_nothing_more();
    notify(&mut scene, &own, 3, 1);
    let notified = scene.expect_any_published("lwm2m/dev-7/up/notify");
    assert_eq!((&notified["reqID"], &notified["data"]["content"][0]["value"]), (&json!(5), &json!(1)));
    let cancel = json!({ "reqID": 2, "msgType": "firmware-cancel" });
    scene.command(&cancel);
    scene.forget_what_was_said();
    notify(&mut scene, &own, 4, 0);
    scene.expect_any_published("lwm2m/dev-7/up/notify");
}

#[test]
fn another_instance_is_updated_by_its_own_paths() {
    let mut scene = scene();
    scene.command(&update(json!({ "image": IMAGE, "instance": 1 })));
    let answer = scene.expect_any_published("lwm2m/dev-7/up/resp");
    assert_eq!((&answer["data"]["code"], &answer["data"]["reqPath"]), (&json!("2.01"), &json!("/5/1")));
    expect_event(&mut scene, "preparing");
    scene.expect_request(Code::GET, "/5/1");
    let status = json!({ "reqID": 4, "msgType": "firmware-status" });
    scene.command(&status);
    expect_refused(&mut scene, "4.04");
}

#[test]
fn each_event_is_reported_for_log_and_metrics_and_no_output_has_the_secret_of_the_uri() {
    let mut scene = public_scene();
    begin(&mut scene, json!({ "image": IMAGE }));
    expect_event(&mut scene, "preparing");
    prepare(&mut scene, 2);
    expect_event(&mut scene, "downloading");
    let (write, key, _) = expect_uri(&mut scene);
    scene.answer(&write, Code::BAD_REQUEST);
    answer_value(&mut scene, "/5/0/5", "7");
    assert_eq!(expect_event(&mut scene, "failed")["error"], "invalid_uri");
    let reports = scene.reports();
    let phase = |report: &Report| match report {
        Report::FirmwareUpdate { status, .. } => Some(status.phase.name()),
        _ => None,
    };
    let phases: Vec<&str> = reports.iter().filter_map(phase).collect();
    assert_eq!(phases, ["preparing", "downloading", "failed"]);
    assert!(!format!("{reports:?}").contains(&key));
    let changes = scene.gateway.take_changes(scene.now, 100);
    assert!(!format!("{changes:?}").contains(&key), "the record hides it, too");
    assert!(!matches!(scene.next_said(), Some(Said::ToDevice(..))));
}

#[test]
fn commands_of_applications_do_not_hold_up_an_update_for_ever() {
    let mut scene = scene();
    begin(&mut scene, json!({ "image": IMAGE }));
    expect_event(&mut scene, "preparing");
    let object_read = scene.expect_request(Code::GET, "/5/0");
    (0..20).for_each(|id| scene.command(&read(id)));
    scene.device_sends(&object(&object_read, 0, 0, 1));
    let mut before = 0;
    loop {
        let (_, request) = scene.expect_sent();
        if path_of(&request) == "/5/0/3" {
            break;
        }
        assert_eq!(path_of(&request), "/3/0/0");
        scene.answer_text(&request, "ACME");
        scene.expect_answer(&read(before), content("/3/0/0", "ACME"));
        before += 1;
    }
    assert_eq!(before, 8);
}
