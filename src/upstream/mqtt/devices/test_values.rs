//! Values for the tests of the devices.

use std::time::Duration;

use crate::upstream::LinkConfig;
use crate::upstream::client::test_values;
use crate::upstream::mqtt::MqttConfig;
use crate::upstream::mqtt::codec::ProtocolVersion;
use lwm2m_core::gateway::broker::{Publication, UplinkClass};

pub(crate) fn config() -> MqttConfig {
    MqttConfig {
        brokers: vec!["a:1883".to_owned()],
        ssl: Default::default(),
        version: ProtocolVersion::V5,
        keep_alive: Duration::from_secs(60),
        window: 3,
        max_packet_size: 1 << 20,
        will_delay: None,
        link: LinkConfig {
            source_addresses: Vec::new(),
            connect_timeout: Duration::from_secs(8),
            connections_per_second: 10,
            queue_per_device: 5,
            queue_total: 100,
            event_queue: 16,
        },
    }
}

pub(crate) fn publication(topic: &str, qos: u8) -> Publication {
    test_values::publication(topic, qos, UplinkClass::Answer)
}
