//! The built program, killed and started again, at a broker that stays.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use lwm2m_core::coap::options::format;
use lwm2m_core::coap::{Code, Kind, Message};
use lwm2m_gateway::config::Config;
use lwm2m_gateway::store::{Store, StoreConfig};
use serde_json::{Value, json};

use super::core::{observe, read};
use super::file::make_older;
use crate::common::admin::sum;
use crate::common::application::Application;
use crate::common::broker::TestBroker;
use crate::common::device::Device;
use crate::common::gateway::Gateway;
use crate::common::scene::{LINKS, ProgramScene};

/// Longer than a change may wait to be written, by far.
const WRITTEN: Duration = Duration::from_millis(500);

/// No device that is in queue mode is awake for longer than it is spoken to.
const ASLEEP_AT_ONCE: &str = "qmode_time_window = \"1ms\"";

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_the_program_is_killed_under_load() {
    let broker = TestBroker::start().await;
    let mut gateway = Gateway::start_with(&broker.addresses, 1, ASLEEP_AT_ONCE);
    let awake: Vec<String> = (0..8).map(|number| format!("awake-{number}")).collect();
    let asleep: Vec<String> = (0..8).map(|number| format!("asleep-{number}")).collect();
    let endpoints: Vec<&str> = awake.iter().chain(&asleep).map(String::as_str).collect();
    let mut application = Application::connect(&broker.addresses.mqtt, &endpoints);
    let register = |endpoint: &str, query: &str| {
        let mut device = Device::new(gateway.address());
        device.register(&format!("ep={endpoint}&lt=300{query}"), LINKS);
        device
    };
    let thermometers: Vec<Device> = awake.iter().map(|endpoint| register(endpoint, "")).collect();
    let sleepers: Vec<Device> = asleep.iter().map(|endpoint| register(endpoint, "&b=UQ")).collect();
    let observed: Vec<Message> = awake
        .iter()
        .zip(&thermometers)
        .map(|(endpoint, device)| {
            application.send(endpoint, &observe(1));
            let request = device.expect_request(Code::GET, "/3303/0/5700");
            device.answer_observe(&request, "20.5");
            request
        })
        .collect();
    for endpoint in &asleep {
        (1..=3).for_each(|id| application.send(endpoint, &read(id)));
    }
    while_load(&thermometers, &observed, || {
        thread::sleep(WRITTEN);
        gateway.kill();
        gateway.start_again();
        thread::sleep(WRITTEN);
    });
    let heard = |application: &mut Application| {
        std::iter::from_fn(|| application.receive_within(WRITTEN))
            .map(|(topic, payload)| (topic, serde_json::from_slice(&payload).expect("JSON")))
            .collect::<Vec<(String, Value)>>()
    };
    let registered = heard(&mut application).iter().filter(|(_, payload)| payload["msgType"] == "register").count();
    assert_eq!(registered, endpoints.len(), "each device registered once, before");

    for (endpoint, (device, request)) in awake.iter().zip(thermometers.iter().zip(&observed)) {
        let told = device.notify(request, Kind::Confirmable, 500_000, "99.5");
        device.expect_acknowledgement(&told);
        let (topic, payload) = application.receive();
        assert_eq!(topic, format!("lwm2m/{endpoint}/up/notify"));
        assert_eq!((&payload["reqID"], &payload["data"]["content"][0]["value"]), (&json!(1), &json!(99.5)));
        assert_eq!(device.update(&[], None).code, Code::CHANGED);
    }
    for (endpoint, device) in asleep.iter().zip(&sleepers) {
        assert_eq!(device.update(&[], None).code, Code::CHANGED);
        for id in 1..=3 {
            let request = device.expect_request(Code::GET, "/3/0/0");
            device.answer(&request, Code::CONTENT, Some((format::TEXT, b"Acme")));
            let (topic, payload) = application.receive();
            assert_eq!((topic, &payload["reqID"]), (format!("lwm2m/{endpoint}/up/resp"), &json!(id)));
        }
    }
    assert_eq!(heard(&mut application), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_device_was_told_is_true_after_a_kill_at_that_moment() {
    let broker = TestBroker::start().await;
    // Without the wait for the store a change would be written 100 ms later.
    let mut gateway = Gateway::start_with(&broker.addresses, 1, "store.flush_interval = \"100ms\"");
    let mut devices = Vec::new();
    for round in 0..5 {
        let mut device = Device::new(gateway.address());
        device.register(&format!("ep=told-{round}&lt=300"), LINKS);
        gateway.kill();
        gateway.start_again();
        devices.push(device);
        for device in &devices {
            assert_eq!(device.update(&[], None).code, Code::CHANGED, "round {round}");
        }
        let lifetime = format!("lt={}", 400 + round);
        assert_eq!(devices[round].update(&[&lifetime], None).code, Code::CHANGED);
        gateway.kill();
        assert_eq!(stored_lifetime(&gateway, &format!("told-{round}")), Some(Duration::from_secs(400 + round as u64)));
        gateway.start_again();
        let mut leaver = Device::new(gateway.address());
        leaver.register("ep=leaver&lt=300", LINKS);
        assert_eq!(leaver.deregister().code, Code::DELETED);
        gateway.kill();
        assert_eq!(stored_lifetime(&gateway, "leaver"), None);
        gateway.start_again();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_an_older_format_keeps_its_devices_and_their_commands() {
    let mut scene = ProgramScene::start_with("older", ASLEEP_AT_ONCE).await;
    scene.register("lt=300&b=UQ", LINKS);
    for format in 1..=3 {
        scene.command(&read(format));
        thread::sleep(WRITTEN);
        assert_eq!(scene.gateway.stop("TERM").code(), Some(0));
        make_older(&scene.gateway.store(), format);
        scene.gateway.start_again();
        scene.gateway.wait_for_clients(1.0);
        assert_eq!(scene.device.update(&[], None).code, Code::CHANGED, "format {format}");
        let request = scene.device.expect_request(Code::GET, "/3/0/0");
        scene.device.answer_text(&request, "Acme");
        assert_eq!(scene.hear("up/resp", "read")["reqID"], format);
    }
    let output = scene.gateway.output();
    assert!(!output.contains("ERROR"), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_just_now_is_written_before_the_program_ends_in_order() {
    let mut scene = ProgramScene::start("in-order").await;
    scene.device.register("ep=in-order&lt=300", LINKS);
    assert_eq!(scene.gateway.stop("TERM").code(), Some(0));
    scene.gateway.start_again();
    assert_eq!(scene.device.update(&[], None).code, Code::CHANGED);
    scene.gateway.wait_for_clients(1.0);
    scene.hear("up/resp", "register");
    scene.nothing_more();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_without_a_store_forgets() {
    let mut scene = ProgramScene::registered_with("forgotten", "store.enable = false").await;
    thread::sleep(WRITTEN);
    scene.gateway.kill();
    assert!(!scene.gateway.store().exists());
    scene.gateway.start_again();
    assert_eq!(scene.device.update(&[], None).code, Code::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_program_does_not_take_the_store_of_another() {
    let first = ProgramScene::registered("one").await;
    let lines = format!("listeners.udp.x.bind = \"127.0.0.1:0\"\nstore.file = {:?}", first.gateway.store());
    let mut second = Gateway::start_without_waiting(&first.broker.addresses, &lines);
    assert_eq!(second.wait().code(), Some(1));
    assert!(second.output().contains("another process uses it"), "{}", second.output());
    assert_eq!(first.device.update(&[], None).code, Code::CHANGED);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_store_is_put_aside_and_the_program_serves() {
    let mut scene = ProgramScene::registered("damaged").await;
    scene.gateway.kill();
    std::fs::write(scene.gateway.store(), "no store").expect("a writable place");
    scene.gateway.start_again();
    let output = scene.gateway.output();
    assert!(output.contains("ERROR") && output.contains("store.redb.damaged-"), "{output}");
    assert_eq!(scene.device.update(&[], None).code, Code::NOT_FOUND);
    scene.register("lt=300", LINKS);
    scene.nothing_more();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_is_told_once_stops_nobody_and_loses_nothing_once_it_has_room_again() {
    let mut scene = ProgramScene::registered_with("full", ASLEEP_AT_ONCE).await;
    scene.device.register("ep=full&lt=300&b=UQ", LINKS);
    scene.hear("up/resp", "register");
    assert_eq!(store(&scene.gateway), (true, "up".to_owned(), 0.0));
    assert_eq!(scene.gateway.stop("TERM").code(), Some(0));
    let size = std::fs::metadata(scene.gateway.store()).expect("the store is there").len();
    // There is room for the start, but not for the commands.
    scene.gateway.limit_files(u32::try_from(size / 1024).expect("a small file") + 256);
    scene.gateway.start_again();
    scene.gateway.wait_for_clients(1.0);

    for id in 0..60 {
        let mut command = read(id);
        command["padding"] = "x".repeat(100_000).into();
        scene.command(&command);
    }
    let complaints = || scene.gateway.output().matches("the store cannot be written").count();
    for _ in 0..100 {
        if complaints() > 0 {
            break;
        }
        thread::sleep(Duration::from_millis(100));
    }
    // It is tried again each second.
    thread::sleep(Duration::from_secs(2));
    assert_eq!(complaints(), 1, "{}", scene.gateway.output());
    assert_eq!(store(&scene.gateway), (true, "degraded".to_owned(), 1.0));

    scene.gateway.unlimit_files();
    for _ in 0..100 {
        if store(&scene.gateway).1 == "up" {
            break;
        }
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(store(&scene.gateway), (true, "up".to_owned(), 0.0), "{}", scene.gateway.output());
    assert_eq!(scene.gateway.stop("TERM").code(), Some(0));
    scene.gateway.start_again();
    scene.gateway.wait_for_clients(1.0);
    assert_eq!(scene.device.update(&[], None).code, Code::CHANGED);
    for id in 0..60 {
        let request = scene.device.expect_request(Code::GET, "/3/0/0");
        scene.device.answer_text(&request, "Acme");
        assert_eq!(scene.hear("up/resp", "read")["reqID"], id);
    }
    assert_eq!(scene.gateway.stop("TERM").code(), Some(0));
}

/// The lifetime of a device in the store of a program that does not run; `None` without the device.
fn stored_lifetime(gateway: &Gateway, endpoint: &str) -> Option<Duration> {
    let settings = StoreConfig { file: gateway.store(), ..Config::default().store };
    let (_opened, contents) = Store::open(&settings, &[], Duration::from_secs(1), Arc::default()).expect("a store");
    let stored = contents.devices.into_iter().find(|device| device.registration.endpoint == endpoint);
    stored.map(|device| device.registration.lifetime)
}

/// Whether the program is ready, the state of its store, and whether that is failing by the metrics.
fn store(gateway: &Gateway) -> (bool, String, f64) {
    let (status, readiness) = gateway.ask_admin("/readyz");
    let readiness: Value = serde_json::from_str(&readiness).expect("JSON");
    let state = readiness["conditions"]["store"]["state"].as_str().expect("a state").to_owned();
    assert_eq!(readiness["ready"], status == 200, "{readiness}");
    (status == 200, state, sum(&gateway.ask_admin("/metrics").1, "lwm2m_store_failing"))
}

/// Does it while all of them tell their temperature, over and over.
fn while_load(devices: &[Device], observed: &[Message], what: impl FnOnce()) {
    let stopped = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in (1..).take_while(|_| !stopped.load(Ordering::Relaxed)) {
                for (device, request) in devices.iter().zip(observed) {
                    device.notify(request, Kind::NonConfirmable, number, "21.5");
                }
                thread::sleep(Duration::from_millis(2));
            }
        });
        what();
        stopped.store(true, Ordering::Relaxed);
    });
}
