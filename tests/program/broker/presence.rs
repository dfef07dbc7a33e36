//! Presence in the built program, over MQTT: what the broker retains when it ends the session of a device.

use serde_json::{Value, json};

use super::embedded_broker::application::MqttClient;
use crate::common::broker::{TestBroker, Upstream};
use crate::common::device::Device;
use crate::common::gateway::Gateway;
use crate::common::scene::LINKS;
use lwm2m_core::coap::Code;

const TOPIC: &str = "lwm2m/banned-1/up/status";

/// Waits for this status with a time, which the will has not.
pub(crate) async fn hear(application: &mut MqttClient, status: &str) {
    loop {
        let message = application.message().await;
        let payload: Value = serde_json::from_slice(&message.payload).expect("JSON");
        if payload["status"] == json!(status) && payload["since"].is_u64() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_whose_session_the_broker_ends_is_offline_until_it_registers_again() {
    Upstream::Mqtt.choose();
    let broker = TestBroker::start().await;
    let Some(control) = broker.control() else { return };
    let lines = "translators.status.enable = true\ntranslators.status.own_client = true\n";
    let gateway = Gateway::start_with(&broker.addresses, 1, lines);
    let mut application = MqttClient::connect(&broker.addresses.mqtt, "application-of-presence").await;
    application.subscribe(TOPIC, 1).await;
    let mut device = Device::new(gateway.address());
    for _ in 0..3 {
        device.register("ep=banned-1&lt=300&lwm2m=1.0", LINKS);
        hear(&mut application, "online").await;
        assert!(control.kick("banned-1").await);
        hear(&mut application, "offline").await;
        assert_eq!(device.update(&[], None).code, Code::NOT_FOUND);
    }

    let mut later = MqttClient::connect(&broker.addresses.mqtt, "another-application").await;
    later.subscribe(TOPIC, 1).await;
    // The will may have come last: it says the same, without a time.
    let retained: Value = serde_json::from_slice(&later.message().await.payload).expect("JSON");
    assert_eq!(retained["status"], "offline", "{retained}");
}
