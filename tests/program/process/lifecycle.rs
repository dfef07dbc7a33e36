//! What an administrator does to EMQX's exproto gateway, and what becomes of the devices: each claim of
//! `docs/upstream.md` that no other test has. To the gateway `unload` is a stop, and `load` a start with
//! nothing remembered.

use std::time::Duration;

use crate::common::application::Application;
use crate::common::broker::{TestBroker, start_again};
use crate::common::device::{Device, PATIENCE};
use crate::common::gateway::Gateway;
use crate::common::scene::{LINKS, ProgramScene};
use lwm2m_broker::BrokerControl;
use lwm2m_core::coap::Code;
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn a_command_during_a_stop_reaches_nobody_and_the_next_one_is_carried_out() {
    let mut scene = ProgramScene::registered("stopped").await;
    let Some(control) = scene.broker.control() else { return };
    control.stop().await;
    scene.command(&json!({ "reqID": "lost", "msgType": "read", "data": { "path": "/3/0/1" } }));

    start_again(&control).await;
    until_connected(&control, &["stopped"]).await;
    // The read of something else would have come first.
    reads(&mut scene.application, &scene.device, "stopped", "first");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_left_during_a_stop_is_no_client_after_the_start() {
    let broker = TestBroker::start().await;
    let Some(control) = broker.control() else { return };
    let gateway = Gateway::start(&broker.addresses);
    let [leaves, stays] = ["leaves", "stays"].map(|endpoint| {
        let mut device = Device::new(gateway.address());
        device.register(&format!("ep={endpoint}&lt=300"), LINKS);
        device
    });
    until_connected(&control, &["leaves", "stays"]).await;

    control.stop().await;
    assert_eq!(leaves.deregister().code, Code::DELETED);
    start_again(&control).await;
    until_connected(&control, &["stays"]).await;
    assert_eq!(stays.update(&[], None).code, Code::CHANGED);
    assert_eq!(control.clients(), ["stays"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lifetime_runs_out_during_a_stop_as_at_any_time() {
    let mut scene = ProgramScene::start("brief").await;
    let Some(control) = scene.broker.control() else { return };
    scene.register("lt=1", LINKS);
    control.stop().await;
    let gone = async {
        while scene.device.update(&["lt=1"], None).code != Code::NOT_FOUND {
            tokio::time::sleep(Duration::from_millis(1500)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("the lifetime is over");

    start_again(&control).await;
    let registered = async {
        while scene.device.try_register("ep=brief&lt=300", LINKS).code != Code::CREATED {
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    };
    tokio::time::timeout(PATIENCE, registered).await.expect("the broker is back");
    reads(&mut scene.application, &scene.device, "brief", "after");
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_survive_stop_after_stop() {
    let mut scene = ProgramScene::registered("patient").await;
    let Some(control) = scene.broker.control() else { return };
    for round in ["first", "second", "third"] {
        control.stop().await;
        assert_eq!(scene.device.update(&[], None).code, Code::CHANGED);
        start_again(&control).await;
        until_connected(&control, &["patient"]).await;
        reads(&mut scene.application, &scene.device, "patient", round);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_was_unloaded_and_loaded_has_its_devices_again() {
    let broker = TestBroker::start().await;
    let gateway = Gateway::start(&broker.addresses);
    let mut device = Device::new(gateway.address());
    device.register("ep=reloaded&lt=300&lwm2m=1.0", LINKS);

    let Some(broker) = broker.restart().await else { return };
    let Some(control) = broker.control() else { return };
    assert_eq!(device.update(&[], None).code, Code::CHANGED);
    until_connected(&control, &["reloaded"]).await;
    let mut application = Application::connect(&broker.addresses.mqtt, &["reloaded"]);
    reads(&mut application, &device, "reloaded", "first");
}

/// A whole read, from the application to the device and back. What had been published when the broker went may come
/// once more before it: nobody told the gateway that it had arrived.
fn reads(application: &mut Application, device: &Device, endpoint: &str, id: &str) {
    application.send(endpoint, &json!({ "reqID": id, "msgType": "read", "data": { "path": "/3/0/0" } }));
    let request = device.expect_request(Code::GET, "/3/0/0");
    device.answer_text(&request, "Acme");
    let answer = loop {
        let (_, payload) = application.receive();
        if payload["reqID"] == id {
            break payload;
        }
        assert!(payload["msgType"] == "register" || payload["data"]["code"] == "2.05", "{payload}");
    };
    assert_eq!(answer["data"]["content"], json!([{ "path": "/3/0/0", "value": "Acme" }]));
}

/// These and no other devices are clients, and hear commands.
async fn until_connected(control: &BrokerControl, endpoints: &[&str]) {
    let hears = |endpoint: &&str| control.subscriptions(endpoint) == [format!("lwm2m/{endpoint}/dn/#")];
    let connected = async {
        while control.clients() != endpoints || !endpoints.iter().all(hears) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, connected).await.expect("the devices are connected in time");
}
