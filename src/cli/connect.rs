//! Implements `check --connect`, which tries everything that a configuration needs of its environment and leaves no
//! trace.
//!
//! 1. Ports: each listener for devices is bound, and that of metrics and health.
//! 2. The store: its file could be opened and written, or its server could be used, and no other gateway uses it.
//!    Nothing in it is changed.
//! 3. Keys: the service of pre-shared keys answers to an identity of this check.
//! 4. The broker, node by node: a device of an invented name connects as a real one would, by the same code, and
//!    publishes one small message with QoS 1 to each of its topics. With QoS 0 MQTT has no answer to a publication, so
//!    that a denied one is never told.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rand::TryRng;
use rand::rngs::SysRng;
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::conditions::Conditions;
use crate::config::Config;
use crate::errors::{one_line, plain};
use crate::store::redis::{RedisTrial, SealingState};
use crate::store::{self, StoreKind};
use crate::transport::{Security, UdpSockets};
use crate::upstream::{UpstreamConfig, UpstreamLink};
use lwm2m_base::identity::PskIdentity;
use lwm2m_core::gateway::broker::{
    BrokerCommand, BrokerEvent, ClientInfo, ConnectError, Publication, RegistrationId, Ticket, UplinkClass,
};
use lwm2m_core::mqtt::topics::{Names, TopicError};

/// The name of the device of this check, in front of something random: it must not be that of a real one.
const NAME: &str = "lwm2m-gateway-check";
/// The payload of its publications.
const PAYLOAD: &[u8] = br#"{"msgType":"check"}"#;
const DEVICE: RegistrationId = RegistrationId(0);
/// Time beyond `connect_timeout` in which the link reports its failure.
const GRACE: Duration = Duration::from_secs(2);
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(5);

/// The result of one attempt.
struct ConnectCheck {
    kind: CheckKind,
    line: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CheckKind {
    Works,
    /// The part works, and something about it is not recommended.
    Warning,
    Problem,
}

fn works(line: impl Into<String>) -> ConnectCheck {
    ConnectCheck { kind: CheckKind::Works, line: line.into() }
}

fn warning(line: impl Into<String>) -> ConnectCheck {
    ConnectCheck { kind: CheckKind::Warning, line: line.into() }
}

fn problem(line: impl Into<String>) -> ConnectCheck {
    ConnectCheck { kind: CheckKind::Problem, line: line.into() }
}

/// Tries everything and returns the number of problems.
pub(crate) fn try_out(config: &Config, output: &mut impl Write) -> anyhow::Result<usize> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut problems = 0;
    let mut tell = |found: Vec<ConnectCheck>| -> io::Result<()> {
        problems += found.iter().filter(|found| found.kind == CheckKind::Problem).count();
        found.iter().try_for_each(|ConnectCheck { kind, line }| {
            let begin = match kind {
                CheckKind::Works => "tried",
                CheckKind::Warning => "warning",
                CheckKind::Problem => "failed",
            };
            writeln!(output, "{begin}: {line}")
        })
    };
    let _inside = runtime.enter();
    tell(try_sockets(config))?;
    tell(runtime.block_on(try_admin(config)))?;
    tell(runtime.block_on(try_store(config)))?;
    tell(runtime.block_on(try_keys(config)))?;
    for upstream in each_node(&config.upstream) {
        let mut random = [0; 4];
        SysRng.try_fill_bytes(&mut random).context("the system's randomness")?;
        let endpoint = format!("{NAME}-{:08x}", u32::from_be_bytes(random));
        tell(runtime.block_on(try_broker(config, upstream, &endpoint)))?;
    }
    Ok(problems)
}

fn try_sockets(config: &Config) -> Vec<ConnectCheck> {
    let tried = config.listeners.iter().map(|listener| match UdpSockets::bind(std::slice::from_ref(listener)) {
        Ok(_) => works(format!("{} can listen at {}", listener.key(), listener.bind)),
        Err(error) => problem(in_use(&error, error.to_string())),
    });
    tried.collect()
}

async fn try_admin(config: &Config) -> Vec<ConnectCheck> {
    if !config.admin.enable.unwrap_or(true) {
        return Vec::new();
    }
    let bind = config.admin.bind;
    vec![match TcpListener::bind(bind).await {
        Ok(_) => works(format!("admin can listen at {bind}")),
        Err(error) => problem(in_use(&error, format!("admin.bind = {bind}: {}", plain(&error)))),
    }]
}

fn in_use(error: &io::Error, text: String) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => format!("{text}. Is a gateway running here already?"),
        _ => text,
    }
}

async fn try_store(config: &Config) -> Vec<ConnectCheck> {
    if !config.store.enable.unwrap_or(true) {
        return Vec::new();
    }
    match config.store.kind {
        StoreKind::File => vec![match store::file::try_out(&config.store) {
            Ok(()) => works(format!("store.file = {} can be written", config.store.file.display())),
            Err(error) => problem(one_line(&error.to_string())),
        }],
        StoreKind::Redis => match store::redis::try_out(&config.store.redis, node_name(config)).await {
            Ok(trial) => redis_checks(trial, config.cluster.is_some()),
            Err(error) => vec![problem(one_line(&error.to_string()))],
        },
    }
}

/// Returns the name of the node in a cluster.
fn node_name(config: &Config) -> Option<&str> {
    config.cluster.as_ref().map(|cluster| cluster.node.as_str())
}

fn redis_checks(trial: RedisTrial, is_shared: bool) -> Vec<ConnectCheck> {
    let RedisTrial { server, is_persistent, user, nodes, sealing } = trial;
    let mut found = vec![works(format!("store.redis: {server} is a primary that can be used"))];
    if !is_persistent {
        found.push(warning(format!(
            "store.redis: {server} writes no append-only file: its restart loses the registrations (appendonly yes)"
        )));
    }
    found.push(match user {
        Some(user) if is_shared => problem(format!(
            "store.redis: the gateway {user} uses the store without a cluster: set another store.redis.prefix"
        )),
        None if is_shared && nodes.is_empty() => works("store.redis: no node of the cluster runs"),
        None if is_shared => works(format!("store.redis: these nodes of the cluster run: {}", nodes.join(", "))),
        None => works("store.redis: no gateway uses the store"),
        Some(user) => warning(format!(
            "store.redis: the gateway {user} uses the store: another one starts only when that one has ended. That is \
             right for a standby (docs/cluster.md); a gateway with other devices needs another store.redis.prefix"
        )),
    });
    found.extend(match sealing {
        SealingState::OneKey => None,
        SealingState::OtherUnused => Some(works("store.redis.other_seal_keyfile: no record is sealed with this key")),
        SealingState::OtherOnly => Some(warning(
            "store.redis.seal_keyfile: no record is sealed with this key yet: after the start of all gateways with it, \
             run `lwm2m-gateway rekey` (docs/cluster.md)",
        )),
        SealingState::Both => Some(warning(
            "store.redis.other_seal_keyfile: there may be records that are sealed with this key: `lwm2m-gateway rekey` \
             seals them with store.redis.seal_keyfile (docs/cluster.md)",
        )),
    });
    found
}

async fn try_keys(config: &Config) -> Vec<ConnectCheck> {
    let secured = config.listeners.iter().any(|listener| listener.security == Security::Dtls);
    let Ok(Some((asker, _))) = config.credentials.asker() else { return Vec::new() };
    if !secured {
        return Vec::new();
    }
    let identity = PskIdentity::new(NAME.as_bytes()).expect("a short text is an identity");
    vec![match asker.ask(&identity).await {
        Ok(_) => works("dtls.psk_http.url: the service of keys answers"),
        Err(error) => problem(format!("dtls.psk_http.url: the service of keys does not answer as it should: {error}")),
    }]
}

/// Returns a configuration for each node or broker alone.
fn each_node(upstream: &UpstreamConfig) -> Vec<UpstreamConfig> {
    match upstream {
        UpstreamConfig::ExProto(exproto) => {
            let of = |node| {
                UpstreamConfig::ExProto(crate::upstream::exproto::ExProtoConfig {
                    nodes: vec![node],
                    ..exproto.clone()
                })
            };
            exproto.nodes.iter().cloned().map(of).collect()
        }
        UpstreamConfig::Mqtt(mqtt) => {
            let of = |broker| {
                UpstreamConfig::Mqtt(crate::upstream::mqtt::MqttConfig { brokers: vec![broker], ..mqtt.clone() })
            };
            mqtt.brokers.iter().cloned().map(of).collect()
        }
    }
}

async fn try_broker(config: &Config, upstream: UpstreamConfig, endpoint: &str) -> Vec<ConnectCheck> {
    let name = match &upstream {
        UpstreamConfig::ExProto(exproto) => exproto.nodes[0].listeners.join(", "),
        UpstreamConfig::Mqtt(mqtt) => mqtt.brokers[0].clone(),
    };
    let patience = upstream.link().connect_timeout;
    let (client, topics) = match invented(config, endpoint) {
        Ok(invented) => invented,
        Err(error) => return vec![problem(format!("no topics for a device {endpoint}: {error}"))],
    };
    let conditions = Conditions::default();
    let link = UpstreamLink::start(upstream, Arc::default(), conditions.add("broker")).await;
    let mut link = match link {
        Ok(link) => link,
        Err(error) => return vec![problem(in_use(&error, error.to_string()))],
    };
    link.submit(BrokerCommand::Connect { registration: DEVICE, client });
    let answer = timeout(patience + GRACE, link.event()).await;
    let mut found = Vec::new();
    match answer {
        Ok(BrokerEvent::Connected { .. }) => {
            found.push(works(format!(
                "the broker {name} serves. It let in a device of an invented name without a password: nothing \
                 authenticates devices there"
            )));
            found.extend(try_publications(&mut link, &name, topics).await);
        }
        Ok(BrokerEvent::ConnectFailed { error: ConnectError::Refused(why), .. }) => found.push(works(format!(
            "the broker {name} answers. It refused a device of an invented name ({why}): right where devices are \
             authenticated; its access rules could not be tried"
        ))),
        Ok(BrokerEvent::ConnectFailed { error: ConnectError::Unavailable(why), .. }) => {
            found.push(problem(format!("the broker {}", why_unavailable(&conditions, &name, &why))));
        }
        Ok(
            BrokerEvent::Closed { .. }
            | BrokerEvent::Message { .. }
            | BrokerEvent::Reconnected { .. }
            | BrokerEvent::Published { .. }
            | BrokerEvent::Queued { .. }
            | BrokerEvent::Unpublished { .. }
            | BrokerEvent::PublishRefused { .. },
        ) => found.push(problem(format!("the broker {name} closed the connection"))),
        Err(_) => found.push(problem(format!("the broker {name}: no answer within {patience:?}"))),
    }
    link.submit(BrokerCommand::Disconnect { registration: DEVICE });
    link.shut_down(GRACE).await;
    found
}

/// Returns the broker and why it is unavailable. The link has looked into it, unless a single attempt was too slow.
fn why_unavailable(conditions: &Conditions, name: &str, why: &str) -> String {
    let reported = conditions.statuses().remove("broker").map(|status| status.detail);
    reported.filter(|detail| detail.contains(": ")).unwrap_or_else(|| format!("{name}: {why}"))
}

/// Publishes to every topic of the device with QoS 1, because a denied publication with QoS 0 has no answer.
async fn try_publications(link: &mut UpstreamLink, name: &str, topics: Vec<String>) -> Vec<ConnectCheck> {
    let mut found = Vec::new();
    for (topic, number) in topics.into_iter().zip(0..) {
        let publication = Publication {
            topic: topic.clone(),
            qos: 1,
            payload: PAYLOAD.into(),
            class: UplinkClass::Answer,
            retain: false,
            expiry: None,
            correlation: None,
            ticket: Some(Ticket(number)),
        };
        link.submit(BrokerCommand::Publish { registration: DEVICE, publication });
        found.push(match timeout(PUBLISH_TIMEOUT, published(link)).await {
            Ok(true) => works(format!("the broker {name} takes publications to {topic}")),
            Ok(false) => problem(format!(
                "the broker {name} denies the publication to {topic}: its access rules have to allow a device its own \
                 topics (docs/emqx.md)"
            )),
            Err(_) => problem(format!("the broker {name} does not acknowledge the publication to {topic}")),
        });
    }
    found
}

/// Waits for the acknowledgement of the publication in flight and returns whether the broker accepted it.
async fn published(link: &mut UpstreamLink) -> bool {
    loop {
        match link.event().await {
            BrokerEvent::Published { .. } => return true,
            BrokerEvent::PublishRefused { .. } | BrokerEvent::Closed { .. } => return false,
            BrokerEvent::Connected { .. }
            | BrokerEvent::ConnectFailed { .. }
            | BrokerEvent::Message { .. }
            | BrokerEvent::Queued { .. }
            | BrokerEvent::Unpublished { .. }
            | BrokerEvent::Reconnected { .. } => {}
        }
    }
}

/// Returns an invented device and the topics that it publishes to, without duplicates.
fn invented(config: &Config, endpoint: &str) -> Result<(ClientInfo, Vec<String>), TopicError> {
    let with = |clientid, username| Names {
        endpoint_name: endpoint,
        clientid,
        username,
        imei: None,
        peerhost: IpAddr::V4(Ipv4Addr::LOCALHOST),
        psk_identity: None,
        cert_cn: None,
    };
    let templates = &config.gateway.client;
    let or_endpoint = |text: String| if text.is_empty() { endpoint.to_owned() } else { text };
    let clientid = or_endpoint(templates.clientid.render(with(endpoint, endpoint)));
    let username = or_endpoint(templates.username.render(with(&clientid, endpoint)));
    let own = config.gateway.translators.topics(with(&clientid, &username))?;
    let (command, published) =
        (own.command(), [own.response(), own.notify(), own.register(), own.update(), own.firmware()]);
    let optional = [own.send(), own.status()].into_iter().flatten();
    let mut topics: Vec<String> = published.into_iter().chain(optional).map(|topic| topic.name).collect();
    topics.sort();
    topics.dedup();
    let client = ClientInfo {
        endpoint: endpoint.to_owned(),
        clientid,
        username,
        password: None,
        proto_ver: "1.1".to_owned(),
        peerhost: IpAddr::V4(Ipv4Addr::LOCALHOST),
        command_filter: command.name,
        command_qos: command.qos,
        lifetime: PUBLISH_TIMEOUT,
        will: None,
    };
    Ok((client, topics))
}
