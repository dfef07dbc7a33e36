//! Values for the tests of the devices.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use crate::upstream::mqtt::MqttConfig;
use crate::upstream::mqtt::codec::ProtocolVersion;
use lwm2m_base::secret::Secret;
use lwm2m_core::gateway::broker::{ClientInfo, Publication, UplinkClass};

pub fn settings() -> MqttConfig {
    MqttConfig {
        brokers: vec!["a:1883".to_owned()],
        ssl: Default::default(),
        version: ProtocolVersion::V5,
        keep_alive: Duration::from_secs(60),
        window: 3,
        max_packet_size: 1 << 20,
        source_addresses: Vec::new(),
        connect_timeout: Duration::from_secs(8),
        connections_per_second: 10,
        queue_per_device: 5,
        queue_total: 100,
        event_queue: 16,
    }
}

pub fn client(clientid: &str) -> ClientInfo {
    ClientInfo {
        endpoint: clientid.to_owned(),
        clientid: clientid.to_owned(),
        username: "user".to_owned(),
        password: Some(Secret::new("secret")),
        proto_ver: "1.1".to_owned(),
        peerhost: IpAddr::V4(Ipv4Addr::LOCALHOST),
        command_filter: format!("lwm2m/{clientid}/dn"),
        command_qos: 1,
        lifetime: Duration::from_secs(300),
        will: None,
    }
}

pub fn publication(topic: &str, qos: u8) -> Publication {
    Publication {
        topic: topic.to_owned(),
        qos,
        payload: b"{}".to_vec(),
        class: UplinkClass::Answer,
        retain: false,
        expiry: None,
        correlation: None,
        ticket: None,
    }
}
