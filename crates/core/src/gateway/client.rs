//! The device as a client of the broker: its client ID, its username, its topics.

use std::time::Duration;

use crate::lwm2m::register::Registration;
use crate::mqtt::topics::{Names, TopicError, check_text};
use crate::mqtt::uplink;
use crate::registry::{Presence, Topics};
use lwm2m_base::Peer;
use lwm2m_base::identity::Identity;

use super::broker::{ClientInfo, Will};
use super::config::{ClientTemplates, GatewayConfig, PasswordSource};
use super::operators::view::BrokerNames;

/// Returns the client of the broker that stands for the device, and its topics.
pub(super) fn client(
    config: &GatewayConfig,
    registration: &Registration,
    peer: Peer,
    identity: Option<&Identity>,
) -> Result<(ClientInfo, Topics), TopicError> {
    let (clientid, username) = rendered_names(config, registration, peer, identity);
    check_text("the clientid", &clientid)?;
    check_text("the username", &username)?;
    let topics = config.translators.topics(names(registration, peer, identity, (&clientid, &username)))?;
    let command = topics.command();
    let client = ClientInfo {
        endpoint: registration.endpoint.clone(),
        clientid,
        username,
        password: match config.client.password {
            PasswordSource::None => None,
            PasswordSource::QueryItem => registration.password().cloned(),
        },
        proto_ver: registration.version().to_owned(),
        peerhost: peer.address.ip(),
        command_filter: command.name,
        command_qos: command.qos,
        lifetime: allowed_silence(config, registration),
        will: will(&topics).map(Box::new),
    };
    Ok((client, topics))
}

/// Returns the names of the device at the broker, without the topics.
pub(super) fn broker_names(
    config: &GatewayConfig,
    registration: &Registration,
    peer: Peer,
    identity: Option<&Identity>,
) -> BrokerNames {
    let (clientid, username) = rendered_names(config, registration, peer, identity);
    let mountpoint = &config.translators.mountpoint;
    let mountpoint = mountpoint.render(names(registration, peer, identity, (&clientid, &username)));
    BrokerNames { username, mountpoint }
}

/// Returns the client ID and the username. An empty one is replaced by the endpoint name.
fn rendered_names(
    config: &GatewayConfig,
    registration: &Registration,
    peer: Peer,
    identity: Option<&Identity>,
) -> (String, String) {
    let endpoint = &registration.endpoint;
    let or_endpoint = |text: String| if text.is_empty() { endpoint.clone() } else { text };
    let ClientTemplates { clientid, username, .. } = &config.client;
    let clientid = or_endpoint(clientid.render(names(registration, peer, identity, (endpoint, endpoint))));
    let username = or_endpoint(username.render(names(registration, peer, identity, (&clientid, endpoint))));
    (clientid, username)
}

/// Returns the values of the placeholders of templates.
fn names<'a>(
    registration: &'a Registration,
    peer: Peer,
    identity: Option<&'a Identity>,
    (clientid, username): (&'a str, &'a str),
) -> Names<'a> {
    let (psk_identity, cert_cn) = match identity {
        Some(Identity::Psk(identity)) => (Some(identity.as_str()), None),
        Some(Identity::Certificate { common_name, .. }) => (None, common_name.as_deref()),
        Some(Identity::RawPublicKey { .. } | Identity::Unknown) | None => (None, None),
    };
    Names {
        endpoint_name: &registration.endpoint,
        clientid,
        username,
        imei: registration.item("imei"),
        peerhost: peer.address.ip(),
        psk_identity,
        cert_cn,
    }
}

/// Returns the will, which the broker publishes when the connection of the device is lost; `None` if its presence is
/// not published.
fn will(topics: &Topics) -> Option<Will> {
    let topic = topics.status()?;
    Some(Will { topic: topic.name, qos: topic.qos, payload: uplink::status(Presence::Offline, None).to_vec() })
}

/// Returns for how long the device may be silent: its lifetime, and the longest lifetime in place of zero.
pub(super) fn allowed_silence(config: &GatewayConfig, registration: &Registration) -> Duration {
    let lifetime = registration.lifetime;
    if lifetime.is_zero() { *config.lifetimes.end() } else { lifetime }
}
