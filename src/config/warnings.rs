//! Warnings about valid but suspicious settings: those without effect, and those whose effect is easily overlooked.
//! `check` prints them, and the log shows them at the start.

use std::net::{IpAddr, SocketAddr};

use crate::credentials;
use crate::transport::Security;
use crate::upstream::{UpstreamConfig, exproto, mqtt};
use lwm2m_core::gateway::config::AutoObserve;
use lwm2m_core::gateway::identity::IdentityRule;
use lwm2m_core::mqtt::topics::Names;

use super::Config;
use super::reader::ConfigReader;

/// The keys of `[dtls]` that name credentials.
const CREDENTIALS: [&str; 6] =
    ["dtls.psk_file", "dtls.psk_http.url", "dtls.certfile", "dtls.keyfile", "dtls.cacertfile", "dtls.pinned"];

/// The protocol name that an exproto gateway of EMQX has authenticators for.
const PROTO_NAME: &str = "exproto";

/// Returns the warnings, each a sentence that begins with a key or an environment variable.
pub(super) fn of(reader: &ConfigReader, config: &Config, others: &UpstreamSections) -> Vec<String> {
    let mut warnings = reader.unknown_variables();
    warnings.extend(other_upstream(config, others));
    warnings.extend(unused_credentials(reader, config));
    warnings.extend(unused_tls(reader, config));
    warnings.extend(topics(config));
    warnings.extend(clientid(config));
    warnings.extend(unused_auto_observe_composite(config));
    warnings.extend(unused_public_uri(config));
    if let UpstreamConfig::ExProto(exproto) = &config.upstream {
        warnings.extend(proto_name(exproto));
        warnings.extend(unreachable_handler(exproto));
    }
    warnings
}

/// The sections of both kinds of upstream, of which one is in force, and their defaults.
pub(crate) struct UpstreamSections {
    pub exproto: exproto::ExProtoConfig,
    pub mqtt: mqtt::MqttConfig,
    pub default_exproto: exproto::ExProtoConfig,
    pub default_mqtt: mqtt::MqttConfig,
}

fn other_upstream(config: &Config, others: &UpstreamSections) -> Option<String> {
    match &config.upstream {
        UpstreamConfig::ExProto(_) if others.mqtt != others.default_mqtt => Some(
            "upstream.mqtt: this section has no effect, since upstream.kind is \"exproto\"; devices use MQTT with \
             upstream.kind = \"mqtt\""
                .to_owned(),
        ),
        // A configuration for both has handler_bind and the like; only an address shows what was meant.
        UpstreamConfig::Mqtt(mqtt)
            if others.exproto.nodes != others.default_exproto.nodes && mqtt.brokers == others.default_mqtt.brokers =>
        {
            Some(format!(
                "upstream.exproto: this section has no effect, since upstream.kind is \"mqtt\", and \
                 upstream.mqtt.brokers is {}",
                mqtt.brokers.join(", ")
            ))
        }
        UpstreamConfig::ExProto(_) | UpstreamConfig::Mqtt(_) => None,
    }
}

fn unused_credentials(reader: &ConfigReader, config: &Config) -> Vec<String> {
    let secured = config.listeners.iter().any(|listener| listener.security == Security::Dtls);
    let mut warnings = Vec::new();
    if let Some(key) = CREDENTIALS.into_iter().find(|key| reader.has(key)).filter(|_| !secured) {
        warnings.push(format!(
            "{key}: it has no effect without a listener for DTLS; [listeners.dtls.default] adds one on port 5684"
        ));
    }
    let credentials::CredentialsConfig { psk_http, keyfile, .. } = &config.credentials;
    if psk_http.is_none() && reader.has("dtls.psk_http.authorization") {
        warnings.push("dtls.psk_http.authorization: it has no effect without dtls.psk_http.url".to_owned());
    }
    if keyfile.is_none() && reader.has("dtls.password") {
        warnings.push("dtls.password: it has no effect without dtls.keyfile".to_owned());
    }
    warnings
}

/// Warns about composite observations if `auto_observe` is off.
fn unused_auto_observe_composite(config: &Config) -> Option<String> {
    let is_off = config.gateway.auto_observe == AutoObserve::Off;
    (config.gateway.auto_observe_composite && is_off)
        .then(|| "auto_observe_composite: it has no effect without auto_observe".to_owned())
}

/// Warns about a URI at which no listener serves images.
fn unused_public_uri(config: &Config) -> Vec<String> {
    let uris = &config.gateway.firmware.public_uris;
    let pairs = [(&uris.coap, Security::None, "plain UDP"), (&uris.coaps, Security::Dtls, "DTLS")];
    let unused = pairs.into_iter().filter_map(|(uri, security, protocol)| {
        let uri = uri.as_ref().filter(|_| !config.listeners.iter().any(|listener| listener.security == security))?;
        Some(format!("firmware.public_uri: {uri} has no effect without a listener for {protocol}"))
    });
    unused.collect()
}

/// Warns about TLS settings for the broker if no address uses TLS.
fn unused_tls(reader: &ConfigReader, config: &Config) -> Option<String> {
    let (section, key, addresses) = match &config.upstream {
        UpstreamConfig::ExProto(exproto) => {
            ("upstream.exproto.ssl", "listener", exproto.nodes.iter().flat_map(|node| node.listeners.clone()).collect())
        }
        UpstreamConfig::Mqtt(mqtt) => ("upstream.mqtt.ssl", "brokers", mqtt.brokers.clone()),
    };
    let addresses: Vec<String> = addresses;
    let names = ["cacertfile", "certfile", "keyfile", "server_name_indication"];
    let set = names.into_iter().find(|name| reader.has(&format!("{section}.{name}")))?;
    let secure = addresses.iter().any(|address| address.starts_with("ssl://"));
    let parent = section.trim_end_matches(".ssl");
    (!secure)
        .then(|| format!("{section}.{set}: it has no effect, since no address in {parent}.{key} begins with ssl://"))
}

/// Warns about topics by rendering those of two devices whose names have nothing in common.
fn topics(config: &Config) -> Vec<String> {
    let (Some(one), Some(other)) = (topics_of(config, &ONE), topics_of(config, &OTHER)) else { return Vec::new() };
    let translators = &config.gateway.translators;
    let mountpoint = translators.mountpoint.render(ONE.names());
    let mut warnings = Vec::new();
    let shared = one.iter().zip(&other).find(|((_, one), (_, other))| one == other);
    if let Some(((key, topic), _)) = shared {
        warnings.push(format!(
            "mountpoint: all devices share the topic {topic:?} ({key}); a placeholder such as ${{endpoint_name}} keeps \
             them apart"
        ));
    }
    if mountpoint.starts_with('/') {
        warnings.push("mountpoint: it begins with \"/\", so that the first level of each topic is empty".to_owned());
    } else if first_level_differs(&one, &other) {
        warnings.push(
            "mountpoint: it begins with a placeholder, so that devices choose the first level of their topics; begin \
             it with a text of its own, such as \"lwm2m/\""
                .to_owned(),
        );
    }
    if let Some((key, topic)) = one.iter().find(|(_, topic)| topic.contains("//")) {
        warnings.push(format!("{key}: the topic {:?} has an empty level", topic.replace(ONE.endpoint, "ep1")));
    }
    let joined = |topic: &str| topic.strip_prefix(&mountpoint).is_some_and(|rest| !rest.starts_with('/'));
    if !mountpoint.is_empty()
        && !mountpoint.ends_with('/')
        && let Some((key, topic)) = one.iter().find(|(_, topic)| joined(topic))
    {
        let topic = topic.replace(ONE.endpoint, "ep1");
        warnings.push(format!("mountpoint: it does not end with \"/\": the topic of {key} is {topic:?}"));
    }
    warnings
}

fn first_level_differs(one: &[(&str, String)], other: &[(&str, String)]) -> bool {
    one.iter().zip(other).any(|((_, one), (_, other))| one.chars().next() != other.chars().next())
}

/// Warns about a client ID that devices can choose freely, unless DTLS proves their names.
fn clientid(config: &Config) -> Option<String> {
    let template = &config.gateway.client.clientid;
    let (one, other) = (template.render(ONE.names()), template.render(OTHER.names()));
    if one == other && !one.is_empty() {
        return Some(format!(
            "clientinfo.clientid: all devices are the client {one:?}, and each one that registers ends the connection \
             of the one before; ${{endpoint_name}} keeps them apart"
        ));
    }
    let UpstreamConfig::Mqtt(_) = config.upstream else { return None };
    let proven = config.listeners.iter().all(|listener| listener.security == Security::Dtls)
        && config.gateway.identity != IdentityRule::None;
    let begins = one.chars().next() == other.chars().next();
    let ends = one.chars().next_back() == other.chars().next_back();
    (!proven && !begins && !ends).then(|| {
        "clientinfo.clientid: it has no fixed part, so that a device can take the client ID of an application; a \
         prefix such as \"lwm2m-${endpoint_name}\" with an access rule prevents that (docs/security.md)"
            .to_owned()
    })
}

fn proto_name(exproto: &exproto::ExProtoConfig) -> Option<String> {
    let name = &exproto.proto_name;
    (name != PROTO_NAME).then(|| {
        format!(
            "clientinfo.proto_name = {name:?}: EMQX asks the authenticators of this name; where it has none, it \
             accepts every device with any password. The exproto gateway has them for {PROTO_NAME:?}"
        )
    })
}

/// Warns about a handler on a loopback address if EMQX runs on another machine.
fn unreachable_handler(exproto: &exproto::ExProtoConfig) -> Option<String> {
    let handler = exproto.handler_bind;
    let remote =
        exproto.nodes.iter().map(|node| node.adapter.trim_start_matches("http://")).find(|adapter| !is_here(adapter));
    remote.filter(|_| handler.ip().is_loopback()).map(|adapter| {
        format!(
            "upstream.exproto.handler_bind = \"{handler}\": EMQX at {adapter} cannot call a loopback address of this \
             machine; give an address that EMQX reaches, or 0.0.0.0:{}",
            handler.port()
        )
    })
}

/// Returns whether `host:port` is on this machine, as far as can be told without asking anybody.
fn is_here(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// An example device. Its names have no character in common with those of the other one.
struct Example {
    endpoint: &'static str,
    imei: &'static str,
    peer: SocketAddr,
}

const ONE: Example = Example { endpoint: "aaaa", imei: "1111", peer: address([1, 1, 1, 1]) };
const OTHER: Example = Example { endpoint: "bbbb", imei: "2222", peer: address([2, 2, 2, 2]) };

const fn address(octets: [u8; 4]) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(octets[0], octets[1], octets[2], octets[3])), 5683)
}

impl Example {
    fn names(&self) -> Names<'static> {
        Names {
            endpoint_name: self.endpoint,
            clientid: self.endpoint,
            username: self.imei,
            imei: Some(self.imei),
            peerhost: self.peer.ip(),
            psk_identity: Some(self.endpoint),
            cert_cn: Some(self.endpoint),
        }
    }
}

/// Returns each topic with the key of its translator.
fn topics_of(config: &Config, example: &Example) -> Option<Vec<(&'static str, String)>> {
    let topics = config.gateway.translators.topics(example.names()).ok()?;
    let named = [
        ("translators.command.topic", Some(topics.command())),
        ("translators.response.topic", Some(topics.response())),
        ("translators.notify.topic", Some(topics.notify())),
        ("translators.register.topic", Some(topics.register())),
        ("translators.update.topic", Some(topics.update())),
        ("translators.firmware.topic", Some(topics.firmware())),
        ("translators.send.topic", topics.send()),
        ("translators.status.topic", topics.status()),
    ];
    Some(named.into_iter().filter_map(|(key, topic)| Some((key, topic?.name))).collect())
}
