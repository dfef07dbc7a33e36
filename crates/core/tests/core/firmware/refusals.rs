//! Firmware updates that do not begin: each is answered with a reason, and nothing is sent to the device.

use lwm2m_core::coap::Code;
use lwm2m_core::gateway::report::Report;
use lwm2m_testkit::scene::peer;
use serde_json::{Value, json};

use super::scene::*;

/// Gives a `firmware-update` that is refused, and returns the reason.
fn refused(scene: &mut lwm2m_testkit::scene::Scene, members: Value, code: &str) -> String {
    scene.command(&update(members));
    let reason = expect_refused(scene, code);
    scene.expect_nothing_more();
    reason
}

#[test]
fn an_image_that_is_no_file_of_the_folder_is_refused_by_its_name_or_as_not_found() {
    let mut scene = scene();
    for name in ["../secret", "a/b", "..", ".", "", "a b", "ü", &"x".repeat(201)] {
        let reason = refused(&mut scene, json!({ "image": name }), "4.00");
        assert!(reason.contains("image") || reason.contains("folders"), "{name}: {reason}");
    }
    assert!(refused(&mut scene, json!({ "image": "other.bin" }), "4.04").contains("no such image"));
    assert_eq!(scene.image_requests(), 0);
}

#[test]
fn a_wrong_digest_is_refused_with_the_right_one() {
    let mut scene = scene();
    let right = scene.images.describe(&IMAGE.parse().unwrap()).unwrap().sha256.to_string();
    let reason = refused(&mut scene, json!({ "image": IMAGE, "sha256": "00".repeat(32) }), "4.00");
    assert!(reason.contains(&right), "{reason}");
    refused(&mut scene, json!({ "image": IMAGE, "sha256": "beef" }), "4.00");
    begin(&mut scene, json!({ "image": IMAGE, "sha256": right.to_uppercase() }));
}

#[test]
fn a_second_update_is_refused_while_one_runs_or_waits_for_its_image() {
    let mut scene = scene();
    scene.disk_waits = true;
    scene.command(&update(json!({ "image": IMAGE })));
    scene.expect_nothing_more();
    assert!(refused(&mut scene, json!({ "image": IMAGE }), "4.09").contains("runs already"));
    scene.command(&json!({ "reqID": 1, "msgType": "firmware-cancel" }));
    assert!(expect_refused(&mut scene, "4.09").contains("has not begun"));
    scene.disk_answers();
    scene.expect_any_published("lwm2m/dev-7/up/resp");
    expect_event(&mut scene, "preparing");
    scene.forget_what_was_said();
    assert!(refused(&mut scene, json!({ "image": IMAGE, "instance": 1 }), "4.09").contains("runs already"));
}

#[test]
fn a_device_without_the_object_or_the_instance_is_refused() {
    let mut scene = scene();
    let reason = refused(&mut scene, json!({ "image": IMAGE, "instance": 2 }), "4.04");
    assert!(reason.contains("/5/2"), "{reason}");
    let without = scene.update_with_links("</3/0>");
    scene.device_sends(&without);
    scene.forget_what_was_said();
    assert!(refused(&mut scene, json!({ "image": IMAGE }), "4.04").contains("no Firmware Update object"));
}

#[test]
fn what_the_members_do_not_fit_together_is_refused() {
    let mut scene = scene();
    for (members, named) in [
        (json!({}), "image or uri"),
        (json!({ "image": IMAGE, "uri": "coap://a/b" }), "image or uri"),
        (json!({ "uri": "coap://a/b", "method": "push" }), "push"),
        (json!({ "uri": "coap://a/b", "sha256": "00".repeat(32) }), "sha256"),
        (json!({ "uri": "no uri" }), "uri"),
        (json!({ "uri": format!("coap://a/{}", "x".repeat(250)) }), "255"),
        (json!({ "image": IMAGE, "method": "pull" }), "firmware.public_uri"),
        (json!({ "image": IMAGE, "blockSize": 48 }), "blockSize"),
    ] {
        let reason = refused(&mut scene, members.clone(), "4.00");
        assert!(reason.contains(named), "{members}: {reason}");
    }
}

#[test]
fn a_uri_that_is_longer_than_devices_take_is_refused_before_the_update_begins() {
    let mut scene = scene_with(|config| {
        let host = "g".repeat(60);
        config.firmware.public_uris.add(format!("coap://{host}").parse().expect("a URI"));
    });
    let name = "x".repeat(200);
    scene.images.write(&name, b"image");
    assert!(refused(&mut scene, json!({ "image": name }), "4.00").contains("255"));
    begin(&mut scene, json!({ "image": name, "method": "push" }));
}

#[test]
fn an_image_with_more_blocks_than_a_push_can_number_is_refused() {
    let mut scene = scene();
    scene.images.write("large.bin", &vec![0; 17 * 1024 * 1024]);
    let push = json!({ "image": "large.bin", "method": "push", "blockSize": 16 });
    assert!(refused(&mut scene, push, "4.00").contains("blocks"));
    // Without firmware.public_uri the gateway has no other method than a push.
    assert!(refused(&mut scene, json!({ "image": "large.bin", "blockSize": 16 }), "4.00").contains("blocks"));
}

#[test]
fn beyond_the_limit_of_updates_there_is_no_other_and_it_is_reported() {
    let mut scene = scene_with(|config| config.limits.firmware_jobs = 0);
    scene.reports();
    assert!(refused(&mut scene, json!({ "image": IMAGE }), "5.03").contains("limits.firmware_jobs"));
    assert!(scene.reports().iter().any(|report| matches!(report, Report::FirmwareJobsFull { .. })));
}

#[test]
fn an_image_that_cannot_be_read_now_is_refused_for_now() {
    let mut scene = scene();
    scene.images.is_broken = true;
    assert!(refused(&mut scene, json!({ "image": IMAGE }), "5.03").contains("cannot be read"));
}

#[test]
fn an_update_that_is_over_does_not_count_and_makes_room() {
    let mut scene = scene_with(|config| config.limits.firmware_jobs = 1);
    begin(&mut scene, json!({ "image": IMAGE }));
    expect_event(&mut scene, "preparing");
    let first = scene.expect_request(Code::GET, "/5/0");
    scene.answer(&first, Code::NOT_FOUND);
    assert_eq!(expect_event(&mut scene, "failed")["error"], "rejected");

    // Another device.
    let mut register = scene.register_message("ep=dev-8&lt=3600&lwm2m=1.1");
    register.payload = LINKS.as_bytes().to_vec();
    let other = peer(8);
    scene.device_sends_from(other, &register);
    let first_device = scene.device;
    scene.expect_connect();
    scene.broker_takes_it();
    scene.expect_reply(other, &register, Code::CREATED);
    scene.forget_what_was_said();
    scene.command(&update(json!({ "image": IMAGE })));
    let answer = scene.expect_any_published("lwm2m/dev-8/up/resp");
    assert_eq!(answer["data"]["code"], "2.01", "{answer}");
    assert_eq!(scene.gateway.table_sizes().firmware_jobs, 1, "the one that is over has made room");
    scene.forget_what_was_said();
    scene.device = first_device;
    assert!(refused(&mut scene, json!({ "image": IMAGE }), "5.03").contains("limits.firmware_jobs"));
}

#[test]
fn a_gateway_that_stops_begins_no_update() {
    let mut scene = scene();
    scene.drains();
    assert!(refused(&mut scene, json!({ "image": IMAGE }), "5.03").contains("stopping"));
    scene.command(&json!({ "reqID": 1, "msgType": "firmware-activate" }));
    expect_refused(&mut scene, "5.03");
}

#[test]
fn without_an_update_there_is_nothing_to_cancel_or_to_activate() {
    let mut scene = scene();
    for (msg_type, code) in [("firmware-cancel", "4.04"), ("firmware-activate", "4.09"), ("firmware-status", "4.04")] {
        scene.command(&json!({ "reqID": 1, "msgType": msg_type }));
        expect_refused(&mut scene, code);
        scene.expect_nothing_more();
    }
}
