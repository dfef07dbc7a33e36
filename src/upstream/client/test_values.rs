//! Values for the tests of the devices over both upstreams.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use lwm2m_base::secret::Secret;
use lwm2m_core::gateway::broker::{ClientInfo, Publication, UplinkClass};

pub(crate) fn client(clientid: &str) -> ClientInfo {
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

pub(crate) fn publication(topic: &str, qos: u8, class: UplinkClass) -> Publication {
    Publication {
        topic: topic.to_owned(),
        qos,
        payload: "{}".into(),
        class,
        retain: false,
        expiry: None,
        correlation: None,
        ticket: None,
    }
}
