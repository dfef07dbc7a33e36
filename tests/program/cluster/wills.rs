//! The sessions and wills of devices at a real broker, when the node that has them is killed.

use std::collections::HashSet;

use rumqttc::v5::mqttbytes::v5::PublishProperties;
use serde_json::Value;
use tokio::time::timeout;

use super::*;
use crate::broker::mqtt_link::application::Mqtt5Client;
use crate::broker::mqtt_link::broker::BrokerKind;

/// The time after which the broker publishes the will of a device without a connection (MQTT 5.0 section 3.1.3.2.2), and
/// some more.
const WILL_DELAY: Duration = Duration::from_secs(33);

/// Sends an Update, and answers what the gateway asks. Returns whether the Update was answered.
fn is_served(device: &Device, has_read: &mut bool) -> bool {
    let update = request(Code::POST, &["rd", &device.location[1]], &[], None);
    device.send(&update);
    while let Some(message) = device.receive_within(Duration::from_millis(200)) {
        if message.token == update.token {
            assert_eq!(message.code, Code::CHANGED);
            return true;
        }
        if message.code == Code::GET {
            device.send(&response_to(&message, Code::CONTENT, Some((0, b"Acme"))));
            *has_read = true;
        }
    }
    false
}

/// With `CLUSTER_KILLS` it is waited until the broker would publish the wills.
#[tokio::test(flavor = "multi_thread")]
async fn no_will_is_published_and_no_command_is_lost_when_another_node_takes_the_devices_of_a_killed_one() {
    Upstream::Mqtt.choose();
    if BrokerKind::is_emqx() {
        return println!("skipped: it has a Mosquitto of its own");
    }
    let (Some(server), Some(mosquitto)) = (RedisServer::start(), BrokerKind::start()) else { return };
    let mut broker = TestBroker::start().await;
    broker.addresses.devices = mosquitto.address();
    let more =
        format!("{LEASES}cluster.direct = true\nclientinfo.username = \"user\"\ntranslators.status.enable = true\n");
    let mut nodes = [0, 1].map(|number| Node::start_with(number, &broker, &server, &more));
    until_divided(&[&nodes[0], &nodes[1]]);
    let mut application = Mqtt5Client::connect(&mosquitto.address(), "application").await;
    application.subscribe("lwm2m/+/up/#").await;
    // A client that waits for an acknowledgement drops what it hears meanwhile.
    let mut commander = Mqtt5Client::connect(&mosquitto.address(), "commander").await;
    let devices: Vec<Device> = (0..DEVICES)
        .map(|number| {
            let mut device = Device::new(nodes[0].gateway.address());
            device.register(&format!("ep=plain-{number}&lt=3000&password=secret"), LINKS);
            device
        })
        .collect();
    let mut online = HashSet::new();
    while online.len() < DEVICES {
        let message = application.message().await;
        let value: Value = serde_json::from_slice(&message.payload).expect("JSON");
        if value["status"] == "online" {
            online.insert(message.topic);
        }
    }

    nodes[0].gateway.kill();
    let killed = now();
    for number in 0..DEVICES {
        let command = json!({ "reqID": number, "msgType": "read", "data": { "path": "/3/0/0" } });
        let topic = format!("lwm2m/plain-{number}/dn");
        commander.publish(&topic, &command.to_string(), PublishProperties::default()).await;
    }
    for mut device in devices {
        let mut has_read = false;
        device.reaches(nodes[1].gateway.address());
        while !is_served(&device, &mut has_read) || !has_read {
            assert!(now() - killed < TAKEOVER, "{}", nodes[1].gateway.output());
        }
    }
    println!("all devices were served and commanded after {:?}", now() - killed);

    let mut answered = HashSet::new();
    let listens = |answered: &HashSet<u64>| {
        answered.len() < DEVICES || (std::env::var_os("CLUSTER_KILLS").is_some() && now() - killed < WILL_DELAY)
    };
    while listens(&answered) {
        let Ok(message) = timeout(Duration::from_secs(1), application.message()).await else {
            assert!(now() - killed < 2 * WILL_DELAY, "{answered:?}");
            continue;
        };
        let value: Value = serde_json::from_slice(&message.payload).expect("JSON");
        assert_ne!(value["status"], "offline", "{}", String::from_utf8_lossy(&message.topic));
        if value["msgType"] == "read" {
            assert!(answered.insert(value["reqID"].as_u64().expect("a number")), "one answer: {value}");
        }
    }
    assert!(!nodes[1].gateway.output().contains("device registered"));
}
