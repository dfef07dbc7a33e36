//! Firmware updates that are interrupted: by loss, a reboot, sleep, a restart of the gateway, and an image that
//! changes.

use std::time::Duration;

use lwm2m_core::coap::options::number;
use lwm2m_core::coap::{Code, Message};
use lwm2m_core::gateway::Gateway;
use lwm2m_core::gateway::config::GatewayConfig;
use lwm2m_core::gateway::report::Report;
use lwm2m_testkit::scene::{Said, Scene, model};
use lwm2m_testkit::store::MemoryStore;
use serde_json::json;

use super::scene::*;

fn public(config: &mut GatewayConfig) {
    config.firmware.public_uris.add("coap://gw.example.com:5683".parse().expect("a URI"));
}

/// Kills the gateway, and begins the next process with what the store has.
fn restart(scene: &mut Scene, store: &mut MemoryStore, change: fn(&mut GatewayConfig)) {
    restart_after(scene, store, change, Duration::ZERO);
}

/// Kills the gateway, and begins the next process, after this time, with what the store has.
fn restart_after(scene: &mut Scene, store: &mut MemoryStore, change: fn(&mut GatewayConfig), down: Duration) {
    store.keep(scene.gateway.take_changes(scene.now, usize::MAX));
    let mut config = GatewayConfig::default();
    change(&mut config);
    let unix_time = Duration::from_secs(1_700_000_000) + down;
    scene.gateway = Gateway::new(config, model(), [8; 32], scene.now, unix_time);
    store.restore(&mut scene.gateway, scene.now);
    scene.settle();
    scene.forget_what_was_said();
    // The device has got the same registration back, under the first id of the process.
    scene.device = lwm2m_core::gateway::broker::RegistrationId(1);
    scene.broker_takes_it();
}

/// Plays a pull up to the download of the first block.
fn pulling(scene: &mut Scene) -> (String, String, [Message; 2]) {
    begin(scene, json!({ "image": IMAGE }));
    expect_event(scene, "preparing");
    let observations = prepare(scene, 2);
    expect_event(scene, "downloading");
    let (write, key, name) = expect_uri(scene);
    scene.answer(&write, Code::CHANGED);
    notify(scene, &observations[0], 2, 1);
    fetch(scene, (&key, &name), 0);
    (key, name, observations)
}

/// Lets a request time out.
fn lose(scene: &mut Scene) {
    scene.advance(400.0);
    while let Some(said) = scene.next_said() {
        assert!(matches!(said, Said::ToDevice(..)) || matches!(said, Said::ToBroker(_)), "{said:?}");
    }
}

#[test]
fn a_pull_goes_on_under_the_same_uri_after_a_restart_of_the_gateway() {
    let mut scene = public_scene();
    let (key, name, _) = pulling(&mut scene);
    let mut store = MemoryStore::default();
    restart(&mut scene, &mut store, public);
    let read = scene.expect_request(Code::GET, "/5/0");
    // The device does not wait for the gateway.
    assert_eq!(fetch(&mut scene, (&key, &name), 1), image()[1024..2048]);
    scene.device_sends(&object(&read, 1, 0, 2));
    let [state, _] = observe(&mut scene, 1, 0);
    for block in 2..4 {
        fetch(&mut scene, (&key, &name), block);
    }
    notify(&mut scene, &state, 2, 2);
    let event = expect_event(&mut scene, "downloaded");
    assert_eq!((&event["attempt"], &event["bytes"]), (&json!(1), &json!(SIZE)));
    expect_execute(&mut scene, "/5/0/2");
}

#[test]
fn an_update_that_was_installed_while_the_gateway_was_down_succeeds() {
    let mut scene = public_scene();
    install(&mut scene);
    let mut store = MemoryStore::default();
    restart(&mut scene, &mut store, public);
    let read = scene.expect_request(Code::GET, "/5/0");
    scene.device_sends(&object(&read, 0, 1, 2));
    expect_event(&mut scene, "verifying");
    expect_event(&mut scene, "succeeded");
    restart(&mut scene, &mut store, public);
    let status = json!({ "reqID": 4, "msgType": "firmware-status" });
    scene.command(&status);
    let answer = scene.expect_any_published("lwm2m/dev-7/up/resp");
    assert_eq!(answer["data"]["phase"], "succeeded");
}

#[test]
fn a_device_that_reboots_to_install_tells_its_result_after_its_register() {
    let mut scene = public_scene();
    install(&mut scene);
    register(&mut scene, QUERY);
    let read = scene.expect_request(Code::GET, "/5/0");
    scene.device_sends(&object(&read, 0, 8, 2));
    let failed = expect_event(&mut scene, "failed");
    assert_eq!((&failed["error"], &failed["result"]), (&json!("update_failed"), &json!(8)));
}

#[test]
fn a_pull_goes_on_after_a_register_while_the_device_downloads() {
    let mut scene = public_scene();
    let (key, name, _) = pulling(&mut scene);
    register(&mut scene, QUERY);
    let read = scene.expect_request(Code::GET, "/5/0");
    scene.device_sends(&object(&read, 1, 0, 2));
    observe(&mut scene, 1, 0);
    scene.expect_nothing_more();
    fetch(&mut scene, (&key, &name), 1);
}

#[test]
fn a_pull_that_starts_over_may_go_on_where_it_was() {
    let mut scene = public_scene();
    let (key, name, _) = pulling(&mut scene);
    fetch(&mut scene, (&key, &name), 1);
    // The device has rebooted, and has kept what it had.
    register(&mut scene, QUERY);
    let read = scene.expect_request(Code::GET, "/5/0");
    scene.device_sends(&object(&read, 0, 0, 2));
    expect_event(&mut scene, "preparing");
    let [state, _] = observe(&mut scene, 0, 0);
    assert_eq!(expect_event(&mut scene, "downloading")["attempt"], 2);
    let (write, again, _) = expect_uri(&mut scene);
    assert_eq!(again, key);
    scene.answer(&write, Code::CHANGED);
    notify(&mut scene, &state, 2, 1);
    (2..4).for_each(|block| drop(fetch(&mut scene, (&key, &name), block)));
    notify(&mut scene, &state, 3, 2);
    let downloaded = expect_event(&mut scene, "downloaded");
    assert_eq!((&downloaded["attempt"], &downloaded["bytes"]), (&json!(2), &json!(SIZE)));
}

#[test]
fn bytes_that_the_disk_has_read_for_a_push_that_is_over_do_not_go_into_the_next_one() {
    let body: Vec<u8> = (0..40_000).map(|at| (at * 7 % 251) as u8).collect();
    let mut scene = scene();
    scene.images.write("large.bin", &body);
    begin(&mut scene, json!({ "image": "large.bin", "method": "push" }));
    expect_event(&mut scene, "preparing");
    prepare(&mut scene, 1);
    expect_event(&mut scene, "downloading");
    (0..31).for_each(|_| drop(take_block(&mut scene, Code::CHANGED)));
    // The next bytes are in another part of the image, which the disk does not read before the device has rebooted.
    scene.disk_waits = true;
    take_block(&mut scene, Code::CHANGED);
    scene.expect_nothing_more();
    register(&mut scene, QUERY);
    let read = scene.expect_request(Code::GET, "/5/0");
    scene.device_sends(&object(&read, 0, 0, 1));
    expect_event(&mut scene, "preparing");
    observe(&mut scene, 0, 0);
    expect_event(&mut scene, "downloading");
    let (peer, first) = scene.expect_sent();
    scene.disk_answers();
    scene.expect_nothing_more();
    scene.say_again(Said::ToDevice(peer, first));
    scene.disk_waits = false;
    let mut pushed = Vec::new();
    while pushed.len() < body.len() {
        pushed.extend(take_block(&mut scene, Code::CHANGED).payload);
    }
    assert_eq!(pushed, body);
}

#[test]
fn a_push_that_times_out_waits_for_the_next_message_and_starts_over() {
    let mut scene = scene();
    begin(&mut scene, json!({ "image": IMAGE, "attempts": 2 }));
    expect_event(&mut scene, "preparing");
    prepare(&mut scene, 1);
    expect_event(&mut scene, "downloading");
    take_block(&mut scene, Code::CHANGED);
    scene.advance(400.0);
    let mut phases = Vec::new();
    while let Some(said) = scene.next_said() {
        if let Said::ToBroker(lwm2m_core::gateway::broker::BrokerCommand::Publish { publication, .. }) = said {
            let event: serde_json::Value = serde_json::from_slice(&publication.payload).unwrap();
            phases.push((event["data"]["phase"].clone(), event["data"]["attempt"].clone()));
        }
    }
    assert_eq!(phases, [(json!("downloading"), json!(1)), (json!("waiting"), json!(2))]);
    let update = scene.update("");
    scene.ask(&update, Code::CHANGED);
    expect_event(&mut scene, "preparing");
    let read = scene.expect_request(Code::GET, "/5/0");
    scene.device_sends(&object(&read, 1, 0, 1));
    let clear = scene.expect_request(Code::PUT, "/5/0/1");
    assert_eq!(clear.payload, b"");
    scene.answer(&clear, Code::CHANGED);
    observe(&mut scene, 0, 0);
    assert_eq!(expect_event(&mut scene, "downloading")["attempt"], 2);
    assert_eq!(take_block(&mut scene, Code::CHANGED).options.uint(number::BLOCK1), Ok(Some(0x0e)));
    scene.forget_what_was_said();
    lose(&mut scene);
    let status = json!({ "reqID": 4, "msgType": "firmware-status" });
    scene.command(&status);
    let answer = scene.expect_any_published("lwm2m/dev-7/up/resp");
    assert_eq!((&answer["data"]["phase"], &answer["data"]["error"]), (&json!("failed"), &json!("stalled")));
}

#[test]
fn a_sleeping_device_is_waited_for_and_its_sleep_is_no_stall() {
    let mut scene = Scene::new();
    scene.images.write(IMAGE, &image());
    register(&mut scene, "ep=dev-7&lt=86400&lwm2m=1.1&b=UQ");
    scene.advance(60.0);
    begin(&mut scene, json!({ "image": IMAGE }));
    expect_event(&mut scene, "waiting");
    scene.advance(20_000.0);
    scene.expect_nothing_more();
    let update = scene.update("");
    scene.ask(&update, Code::CHANGED);
    expect_event(&mut scene, "preparing");
    let read = scene.expect_request(Code::GET, "/5/0");
    scene.device_sends(&object(&read, 0, 0, 1));
    observe(&mut scene, 0, 0);
    expect_event(&mut scene, "downloading");
}

#[test]
fn an_image_that_changes_ends_a_pull_and_a_push() {
    let mut scene = public_scene();
    let (key, name, _) = pulling(&mut scene);
    scene.images.write(IMAGE, &vec![9; SIZE]);
    // The parts that were read stay in memory for a while: it is the same image to the device.
    let mut store = MemoryStore::default();
    restart(&mut scene, &mut store, public);
    scene.forget_what_was_said();
    let mut get = scene.request(Code::GET, &["fw", &key, &name], "");
    get.options.add_uint(number::BLOCK2, 1 << 4 | 6);
    scene.ask(&get, Code::NOT_FOUND);
    assert_eq!(expect_event(&mut scene, "failed")["error"], "image_changed");

    let mut push = scene_with(|_| {});
    begin(&mut push, json!({ "image": IMAGE }));
    expect_event(&mut push, "preparing");
    push.images.remove(IMAGE);
    prepare(&mut push, 1);
    expect_event(&mut push, "downloading");
    assert_eq!(expect_event(&mut push, "failed")["error"], "image_changed");
    push.expect_nothing_more();
}

#[test]
fn a_push_waits_for_a_disk_that_reports_an_error_and_goes_on_with_the_same_block() {
    let mut scene = scene();
    begin(&mut scene, json!({ "image": IMAGE }));
    expect_event(&mut scene, "preparing");
    scene.images.is_broken = true;
    prepare(&mut scene, 1);
    expect_event(&mut scene, "downloading");
    scene.advance(60.0);
    scene.expect_nothing_more();
    scene.images.is_broken = false;
    scene.advance(5.0);
    let mut pushed = Vec::new();
    (0..4).for_each(|_| pushed.extend(take_block(&mut scene, Code::CHANGED).payload));
    assert_eq!(pushed, image());

    let mut broken = scene_with(|_| {});
    begin(&mut broken, json!({ "image": IMAGE }));
    expect_event(&mut broken, "preparing");
    broken.images.is_broken = true;
    prepare(&mut broken, 1);
    expect_event(&mut broken, "downloading");
    broken.advance(601.0);
    assert_eq!(expect_event(&mut broken, "failed")["error"], "image_unreadable");
    broken.expect_nothing_more();
}

#[test]
fn an_update_ends_when_the_lifetime_of_its_device_has_passed_twice() {
    let mut scene = public_scene();
    begin(&mut scene, json!({ "image": IMAGE, "activate": false }));
    expect_event(&mut scene, "preparing");
    let [state, _] = prepare(&mut scene, 2);
    expect_event(&mut scene, "downloading");
    let (write, ..) = expect_uri(&mut scene);
    scene.answer(&write, Code::CHANGED);
    notify(&mut scene, &state, 2, 2);
    expect_event(&mut scene, "downloaded");
    scene.advance(3600.0);
    scene.forget_what_was_said();
    assert_eq!(scene.gateway.table_sizes().firmware_jobs, 1);
    scene.reports();
    scene.advance(3599.0);
    assert_eq!(scene.gateway.table_sizes().firmware_jobs, 1);
    scene.advance(1.0);
    let lost = scene.reports().into_iter().find_map(|report| match report {
        Report::FirmwareUpdate { status, .. } => status.error,
        _ => None,
    });
    assert_eq!(lost.map(|error| error.name()), Some("lost"));
    assert_eq!((scene.gateway.table_sizes().firmware_jobs, scene.gateway.table_sizes().image_offers), (0, 0));
    scene.expect_nothing_more();
}

#[test]
fn an_update_survives_the_registration_of_its_device_and_a_restart_meanwhile() {
    let mut scene = public_scene();
    let (key, name, _) = pulling(&mut scene);
    let deregister = scene.deregister();
    scene.ask(&deregister, Code::DELETED);
    scene.forget_what_was_said();
    let mut store = MemoryStore::default();
    restart_without_device(&mut scene, &mut store, Duration::ZERO);
    register(&mut scene, QUERY);
    let read = scene.expect_request(Code::GET, "/5/0");
    scene.device_sends(&object(&read, 1, 0, 2));
    observe(&mut scene, 1, 0);
    fetch(&mut scene, (&key, &name), 1);
}

#[test]
fn an_update_outlives_a_registration_that_ended_while_the_gateway_was_down() {
    let mut scene = public_scene();
    let (key, name, _) = pulling(&mut scene);
    let mut store = MemoryStore::default();
    restart_without_device(&mut scene, &mut store, Duration::from_secs(4000));
    scene.advance(3600.0);
    assert_eq!(scene.gateway.table_sizes().firmware_jobs, 1);
    register(&mut scene, QUERY);
    let read = scene.expect_request(Code::GET, "/5/0");
    scene.device_sends(&object(&read, 1, 0, 2));
    observe(&mut scene, 1, 0);
    fetch(&mut scene, (&key, &name), 1);
}

#[test]
fn an_update_whose_time_passed_while_the_gateway_was_down_is_looked_at_first() {
    let mut scene = public_scene();
    install(&mut scene);
    let mut store = MemoryStore::default();
    restart_after(&mut scene, &mut store, public, Duration::from_secs(2100));
    let read = scene.expect_request(Code::GET, "/5/0");
    scene.device_sends(&object(&read, 0, 1, 2));
    expect_event(&mut scene, "verifying");
    expect_event(&mut scene, "succeeded");
}

fn restart_without_device(scene: &mut Scene, store: &mut MemoryStore, down: Duration) {
    store.keep(scene.gateway.take_changes(scene.now, usize::MAX));
    let mut config = GatewayConfig::default();
    public(&mut config);
    let unix_time = Duration::from_secs(1_700_000_000) + down;
    scene.gateway = Gateway::new(config, model(), [8; 32], scene.now, unix_time);
    store.restore(&mut scene.gateway, scene.now);
    scene.settle();
    scene.expect_nothing_more();
}

#[test]
fn a_retained_update_is_carried_out_once_however_often_the_device_registers() {
    use lwm2m_core::gateway::broker::{BrokerEvent, MessageProperties};
    let mut scene = public_scene();
    let give = |scene: &mut Scene| {
        let payload = update(json!({ "image": IMAGE })).to_string().into_bytes();
        let properties = MessageProperties { retained: true, ..MessageProperties::default() };
        let (registration, topic) = (scene.device, "lwm2m/dev-7/dn".to_owned());
        scene.broker_says(BrokerEvent::Message { registration, topic, payload, properties });
    };
    give(&mut scene);
    scene.expect_any_published("lwm2m/dev-7/up/resp");
    expect_event(&mut scene, "preparing");
    let read = scene.expect_request(Code::GET, "/5/0");
    scene.answer(&read, Code::METHOD_NOT_ALLOWED);
    expect_event(&mut scene, "failed");
    register(&mut scene, QUERY);
    give(&mut scene);
    scene.expect_nothing_more();
}

const SLEEPY: &str = "ep=dev-7&lt=86400&lwm2m=1.1&b=UQ";

#[test]
fn a_device_that_answers_blocks_of_a_push_is_awake() {
    let mut scene = Scene::new();
    scene.images.write(IMAGE, &image());
    register(&mut scene, SLEEPY);
    begin(&mut scene, json!({ "image": IMAGE }));
    expect_event(&mut scene, "preparing");
    prepare(&mut scene, 1);
    expect_event(&mut scene, "downloading");
    for _ in 0..3 {
        let (_, block) = scene.expect_sent();
        scene.advance(15.0);
        scene.forget_what_was_said();
        assert_eq!(scene.gateway.sleeping_devices(), 0);
        scene.say_again(Said::ToDevice(scene.peer, block));
        take_block(&mut scene, Code::CHANGED);
    }
    scene.advance(30.0);
    assert_eq!(scene.gateway.sleeping_devices(), 1);
}

#[test]
fn a_device_that_fetches_blocks_is_awake_and_gets_the_commands_that_waited() {
    let mut scene = Scene::with(public);
    scene.images.write(IMAGE, &image());
    register(&mut scene, SLEEPY);
    let (key, name, _) = pulling(&mut scene);
    for block in 1..4 {
        scene.advance(15.0);
        scene.forget_what_was_said();
        assert_eq!(scene.gateway.sleeping_devices(), 0);
        fetch(&mut scene, (&key, &name), block);
    }
    scene.advance(30.0);
    scene.forget_what_was_said();
    assert_eq!(scene.gateway.sleeping_devices(), 1);
    scene.command(&lwm2m_testkit::scene::read(9));
    scene.expect_nothing_more();
    fetch(&mut scene, (&key, &name), 3);
    scene.expect_request(Code::GET, "/3/0/0");
    assert_eq!(scene.gateway.sleeping_devices(), 0);
}

/// Cancels an update of which the device has fetched a block. Returns when the device is told to drop it.
fn cancelled(scene: &mut Scene) -> Message {
    pulling(scene);
    let cancel = json!({ "reqID": 2, "msgType": "firmware-cancel" });
    scene.command(&cancel);
    scene.expect_any_published("lwm2m/dev-7/up/resp");
    expect_event(scene, "cancelled");
    expect_execute(scene, "/5/0/10")
}

#[test]
fn a_device_that_was_not_told_of_a_cancel_is_told_when_it_is_back() {
    // It registers again before it has answered.
    let mut scene = public_scene();
    cancelled(&mut scene);
    register(&mut scene, QUERY);
    let execute = expect_execute(&mut scene, "/5/0/10");
    scene.command(&json!({ "reqID": 4, "msgType": "firmware-status" }));
    assert!(expect_refused(&mut scene, "4.04").contains("since the device registered"));
    scene.answer(&execute, Code::CHANGED);
    scene.expect_nothing_more();
    assert_eq!(scene.gateway.table_sizes().firmware_jobs, 0);

    // It does not answer, and sends a message later.
    let mut scene = public_scene();
    cancelled(&mut scene);
    lose(&mut scene);
    let update = scene.update("");
    scene.ask(&update, Code::CHANGED);
    let execute = expect_execute(&mut scene, "/5/0/10");
    scene.answer(&execute, Code::CHANGED);
    let update = scene.update("");
    scene.ask(&update, Code::CHANGED);
    scene.expect_nothing_more();

    // The gateway is restarted.
    let mut scene = public_scene();
    cancelled(&mut scene);
    let mut store = MemoryStore::default();
    restart(&mut scene, &mut store, public);
    let execute = expect_execute(&mut scene, "/5/0/10");
    scene.answer(&execute, Code::CHANGED);
    scene.expect_nothing_more();
    restart(&mut scene, &mut store, public);
    scene.expect_nothing_more();
}

#[test]
fn a_device_that_does_not_answer_the_end_of_a_cancelled_update_is_asked_three_times() {
    let mut scene = public_scene();
    cancelled(&mut scene);
    for _ in 0..2 {
        lose(&mut scene);
        let update = scene.update("");
        scene.ask(&update, Code::CHANGED);
        expect_execute(&mut scene, "/5/0/10");
    }
    lose(&mut scene);
    let update = scene.update("");
    scene.ask(&update, Code::CHANGED);
    scene.expect_nothing_more();
}

/// Lets the device fetch the whole image and begin to install it.
fn install(scene: &mut Scene) {
    let (key, name, [state, _]) = pulling(scene);
    (1..4).for_each(|block| drop(fetch(scene, (&key, &name), block)));
    notify(scene, &state, 3, 2);
    expect_event(scene, "downloaded");
    let execute = expect_execute(scene, "/5/0/2");
    scene.answer(&execute, Code::CHANGED);
    expect_event(scene, "updating");
}
