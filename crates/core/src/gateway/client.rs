//! The device as a client of the broker: its client ID, its username, its topics.

use std::time::Duration;

use crate::lwm2m::register::Registration;
use crate::mqtt::topics::{Names, TopicError, check_text};
use crate::registry::Topics;
use lwm2m_base::Peer;
use lwm2m_base::identity::Identity;

use super::broker::ClientInfo;
use super::config::{GatewayConfig, PasswordSource};
use super::presence::will;

/// Returns what the device is to the broker, and its topics.
pub(super) fn client(
    settings: &GatewayConfig,
    registration: &Registration,
    peer: Peer,
    identity: Option<&Identity>,
) -> Result<(ClientInfo, Topics), TopicError> {
    let endpoint = &registration.endpoint;
    let (psk_identity, cert_cn) = match identity {
        Some(Identity::Psk(identity)) => (Some(identity.as_str()), None),
        Some(Identity::Certificate { common_name, .. }) => (None, common_name.as_deref()),
        Some(Identity::RawPublicKey { .. } | Identity::Unknown) | None => (None, None),
    };
    let with = |clientid, username| Names {
        endpoint_name: endpoint,
        clientid,
        username,
        imei: registration.item("imei"),
        peerhost: peer.address.ip(),
        psk_identity,
        cert_cn,
    };
    let or_endpoint = |text: String| if text.is_empty() { endpoint.clone() } else { text };
    let templates = &settings.client;
    let clientid = or_endpoint(templates.clientid.render(with(endpoint, endpoint)));
    let username = or_endpoint(templates.username.render(with(&clientid, endpoint)));
    check_text("the clientid", &clientid)?;
    check_text("the username", &username)?;
    let topics = settings.translators.topics(with(&clientid, &username))?;
    let client = ClientInfo {
        endpoint: endpoint.clone(),
        clientid,
        username,
        password: match templates.password {
            PasswordSource::None => None,
            PasswordSource::QueryItem => registration.password().cloned(),
        },
        proto_ver: registration.version().to_owned(),
        peerhost: peer.address.ip(),
        command_filter: topics.command.name.clone(),
        command_qos: topics.command.qos,
        lifetime: allowed_silence(settings, registration),
        will: will(&topics),
    };
    Ok((client, topics))
}

/// Returns for how long the device may be silent: its lifetime, and the longest lifetime in place of zero.
pub(super) fn allowed_silence(settings: &GatewayConfig, registration: &Registration) -> Duration {
    let lifetime = registration.lifetime;
    if lifetime.is_zero() { *settings.lifetimes.end() } else { lifetime }
}
