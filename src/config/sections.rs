//! Reads each section of the configuration: its keys, their defaults, and their consistency.

use std::net::SocketAddr;
use std::num::NonZero;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use toml::Value;

use crate::admin;
use crate::bootstrap::BootstrapFiles;
use crate::definitions::DEFAULT_FOLDER;
use crate::observability::logging::{LogConfig, LogFormat, filter};
use crate::store::{self, Confirm, StoreKind};
use crate::transport::UdpListener;
use crate::upstream;
use lwm2m_base::secret::Secret;
use lwm2m_core::coap::{AckMode, Parameters};
use lwm2m_core::gateway::broker::BrokerLogin;
use lwm2m_core::gateway::config::{AutoObserve, ClientTemplates, GatewayConfig, Limits, PasswordSource, UpdatePublish};
use lwm2m_core::lwm2m::codec::UndefinedResources;
use lwm2m_core::lwm2m::path::Path;
use lwm2m_core::mqtt::topics::{SEND_TOPIC, STATUS_TOPIC, Template, TemplateError, Translator, Translators};

use super::bootstrap;
use super::cluster::{self, ClusterSurroundings};
#[cfg(feature = "console")]
use super::console;
use super::dtls;
use super::exproto;
use super::firmware;
use super::groups::{rate, rate_limit};
use super::listeners::listeners;
use super::mqtt;
use super::reader::ConfigReader;
use super::value_parsers::{
    HOUR, MAX_COUNT, MILLISECOND, SECOND, SOCKET_ADDRESS, YEAR, choice, duration, list, number, parsed, switch, text,
    text_with_content, whole,
};
use super::warnings::UpstreamSections;
use super::{Config, ConfigValues};

/// Maximum lifetime. LwM2M allows 32 bits of seconds; a device that was silent for a hundred years is gone.
const LONGEST_LIFETIME: Duration = Duration::from_secs(100 * YEAR.as_secs());

const MEBIBYTE: usize = 1024 * 1024;

/// Maximum value of a memory limit, in bytes: 1 TiB.
const MOST_BYTES: usize = 1 << 40;

/// Maximum number of driver threads.
const MOST_THREADS: u8 = 64;

/// Minimum length of tokens that name a thread, in bytes.
const SHORTEST_SHARED_TOKEN: usize = 4;

/// Time in which another node of a cluster connects a device whose connection was lost, before the broker publishes
/// that the device is offline.
const WILL_DELAY: Duration = Duration::from_secs(30);

/// Kind of the connection to the broker.
#[derive(Clone, Copy, PartialEq, Eq)]
enum UpstreamKind {
    ExProto,
    Mqtt,
}

/// Reads all sections. The reader records mistakes, and the default takes the place of an invalid value.
pub(super) fn config(reader: &mut ConfigReader) -> (Config, UpstreamSections) {
    let kind = upstream_kind(reader);
    let (exproto, mqtt) = (exproto::read(reader), mqtt::read(reader));
    let (gateway, listeners, bootstrap_files) = gateway_and_listeners(reader, kind);
    let mut dtls = dtls::read(reader);
    dtls.realms = gateway.roles.iter().map(|role| role.realm()).collect();
    check_status(reader, kind, &gateway);
    let threads = threads(reader, &gateway);
    pass_over_other_builds(reader);
    let others = upstream_sections(&exproto, &mqtt);
    #[cfg(feature = "embedded")]
    let embedded = embedded(reader, exproto.handler_bind);
    let mut upstream = match kind {
        UpstreamKind::ExProto => upstream::UpstreamConfig::ExProto(exproto),
        UpstreamKind::Mqtt => upstream::UpstreamConfig::Mqtt(mqtt),
    };
    let store = store(reader);
    let surroundings = ClusterSurroundings { gateway: &gateway, store: &store, upstream: &upstream, threads };
    let cluster = cluster::read(reader, &surroundings);
    if let (Some(_), upstream::UpstreamConfig::Mqtt(mqtt)) = (&cluster, &mut upstream) {
        mqtt.will_delay = Some(WILL_DELAY);
    }
    let config = Config {
        gateway,
        listeners,
        dtls,
        credentials: dtls::credentials(reader, &bootstrap_files),
        bootstrap: bootstrap_files,
        #[cfg(feature = "embedded")]
        embedded,
        upstream,
        threads,
        store,
        cluster,
        images: firmware::images(reader),
        admin: admin(reader),
        #[cfg(feature = "console")]
        console: console::read(reader),
        log: log(reader),
        watch_interval: reader.read("watch_interval", 5 * SECOND, duration(Duration::ZERO..=HOUR)),
        file: None,
        written: ConfigValues::default(),
        warnings: Vec::new(),
        xml_dir: PathBuf::from(reader.read("xml_dir", DEFAULT_FOLDER.to_owned(), text)),
        shutdown_timeout: reader.read("shutdown_timeout", 10 * SECOND, duration(Duration::ZERO..=HOUR)),
    };
    (config, others)
}

/// Passes over the sections of parts that are not in this build: one file fits every build.
fn pass_over_other_builds(reader: &mut ConfigReader) {
    if cfg!(not(feature = "console")) {
        reader.pass_over("console");
    }
    if cfg!(not(feature = "embedded")) {
        reader.pass_over("embedded");
    }
}

/// Reads what the gateway does and where it listens, which depend on each other, and the files of bootstrap accounts.
fn gateway_and_listeners(
    reader: &mut ConfigReader,
    kind: UpstreamKind,
) -> (GatewayConfig, Vec<UdpListener>, BootstrapFiles) {
    let mut gateway = gateway(reader);
    let listeners = listeners(reader);
    let (bootstrap, bootstrap_files) = bootstrap::read(reader, &gateway.identity, kind == UpstreamKind::Mqtt);
    bootstrap::check_roles(reader, &listeners, bootstrap.is_some());
    gateway.bootstrap = bootstrap;
    gateway.firmware.login = firmware::login(reader, kind == UpstreamKind::Mqtt);
    gateway.status_login = status_login(reader, gateway.translators.status.is_some());
    gateway.roles = listeners.iter().map(|listener| listener.role).collect();
    (gateway, listeners, bootstrap_files)
}

/// Reads the number of driver threads. What threads cannot share is refused with more than one.
fn threads(reader: &mut ConfigReader, gateway: &GatewayConfig) -> NonZero<u8> {
    let key = "driver.threads";
    let number = reader.read(key, 1, whole(1..=MOST_THREADS));
    if number > 1 {
        if gateway.coap.token_length < SHORTEST_SHARED_TOKEN {
            let problem = "more than one thread requires coap.token_length = 4 or more: the first byte of a token \
                           names the thread, and the others have to be hard to guess";
            reader.refuse(key, problem);
        }
        if gateway.bootstrap.is_some() {
            let problem = "more than one thread requires bootstrap.enable = false: the threads do not share the keys \
                           that bootstrap generates";
            reader.refuse(key, problem);
        }
        if gateway.firmware.login.is_some() {
            let problem =
                "more than one thread requires firmware.mqtt = false: a campaign knows the devices of one thread";
            reader.refuse(key, problem);
        }
    }
    NonZero::new(number).unwrap_or(NonZero::<u8>::MIN)
}

fn upstream_kind(reader: &mut ConfigReader) -> UpstreamKind {
    let kinds = [("exproto", UpstreamKind::ExProto), ("mqtt", UpstreamKind::Mqtt)];
    reader.read("upstream.kind", UpstreamKind::ExProto, choice(kinds))
}

/// Refuses the retained status of devices where the upstream cannot publish it.
fn check_status(reader: &mut ConfigReader, kind: UpstreamKind, gateway: &GatewayConfig) {
    if kind == UpstreamKind::ExProto && gateway.translators.status.is_some() {
        let problem = "requires upstream.kind = \"mqtt\": ExProto has neither retained messages nor wills";
        reader.refuse("translators.status.enable", problem);
    }
}

/// Returns the sections of both upstreams, and their defaults.
fn upstream_sections(
    exproto: &upstream::exproto::ExProtoConfig,
    mqtt: &upstream::mqtt::MqttConfig,
) -> UpstreamSections {
    let mut without_file = ConfigReader::new(toml::Table::new());
    UpstreamSections {
        exproto: exproto.clone(),
        mqtt: mqtt.clone(),
        default_exproto: exproto::read(&mut without_file),
        default_mqtt: mqtt::read(&mut without_file),
    }
}

fn gateway(reader: &mut ConfigReader) -> GatewayConfig {
    let publish = [
        ("object_list_changed", UpdatePublish::ObjectListChanged),
        ("contains_object_list", UpdatePublish::ContainsObjectList),
        ("always", UpdatePublish::Always),
    ];
    let undefined = [("refuse", UndefinedResources::Refuse), ("opaque", UndefinedResources::Opaque)];
    let default = GatewayConfig::default();
    let coap = coap(reader, default.coap);
    GatewayConfig {
        limits: limits(reader, coap.pending_requests, default.limits),
        coap,
        lifetimes: lifetimes(reader, &default.lifetimes),
        translators: translators(reader, default.translators),
        status_login: default.status_login,
        client: client(reader, default.client),
        awake_window: reader.read("qmode_time_window", default.awake_window, duration(Duration::ZERO..=YEAR)),
        qmode_apn: reader.read("qmode_apn", default.qmode_apn, list(text_with_content)),
        auto_observe: reader.read("auto_observe", default.auto_observe, auto_observe),
        auto_observe_composite: reader.read("auto_observe_composite", default.auto_observe_composite, switch),
        update_msg_publish_condition: reader.read(
            "update_msg_publish_condition",
            default.update_msg_publish_condition,
            choice(publish),
        ),
        identity: dtls::identity(reader, default.identity),
        plain_udp_for_psk_devices: dtls::plain_udp_for_psk_devices(reader, default.plain_udp_for_psk_devices),
        report_identity: reader.read("dtls.report_identity", default.report_identity, switch),
        report_attributes: reader.read("report_attributes", default.report_attributes, switch),
        firmware: firmware::updates(reader, default.firmware),
        undefined_resources: reader.read("undefined_resources", default.undefined_resources, choice(undefined)),
        #[cfg(feature = "console")]
        publish_console_answers: console::publish_answers(reader, default.publish_console_answers),
        #[cfg(not(feature = "console"))]
        publish_console_answers: default.publish_console_answers,
        // These follow from other sections.
        roles: default.roles,
        bootstrap: default.bootstrap,
    }
}

fn lifetimes(reader: &mut ConfigReader, default: &RangeInclusive<Duration>) -> RangeInclusive<Duration> {
    let least = reader.read("lifetime_min", *default.start(), duration(Duration::ZERO..=LONGEST_LIFETIME));
    let most = reader.read("lifetime_max", *default.end(), duration(SECOND..=LONGEST_LIFETIME));
    if reader.all_valid(&["lifetime_min", "lifetime_max"]) && least > most {
        let most = humantime::format_duration(most);
        reader.refuse("lifetime_min", format!("expected at most lifetime_max, which is {most}"));
    }
    least..=most
}

fn coap(reader: &mut ConfigReader, default: Parameters) -> Parameters {
    let parameters = Parameters {
        ack_timeout: reader.read("coap.ack_timeout", default.ack_timeout, duration(MILLISECOND..=HOUR)),
        ack_random_factor: reader.read("coap.ack_random_factor", default.ack_random_factor, number(1.0..=10.0)),
        max_retransmit: reader.read("coap.max_retransmit", default.max_retransmit, whole(0..=20)),
        max_latency: reader.read("coap.max_latency", default.max_latency, duration(MILLISECOND..=HOUR)),
        processing_delay: reader.read("coap.processing_delay", default.processing_delay, duration(MILLISECOND..=HOUR)),
        acknowledge_notifications: reader.read(
            "notification_ack",
            default.acknowledge_notifications,
            choice([("received", AckMode::OnReceipt), ("published", AckMode::Deferred)]),
        ),
        token_length: reader.read("coap.token_length", default.token_length, whole(1..=8)),
        shards: default.shards,
        tokens_of_device: default.tokens_of_device,
        deduplication_entries_per_peer: reader.read(
            "coap.deduplication_entries_per_peer",
            default.deduplication_entries_per_peer,
            whole(1..=MAX_COUNT),
        ),
        deduplication_entries: reader.read(
            "coap.deduplication_entries",
            default.deduplication_entries,
            whole(1..=MAX_COUNT),
        ),
        pending_requests: reader.read("coap.pending_requests", default.pending_requests, whole(1..=MAX_COUNT)),
        block_size: reader.read("coap.block_size", default.block_size, whole(16..=1024)),
        received_body_size: reader.read(
            "coap.received_body_size",
            default.received_body_size,
            whole(1024..=64 * MEBIBYTE),
        ),
        block_uploads: reader.read("coap.block_uploads", default.block_uploads, whole(1..=MAX_COUNT)),
        block_transfer_bytes: reader.read(
            "coap.block_transfer_bytes",
            default.block_transfer_bytes,
            whole(1024..=64 * 1024 * MEBIBYTE),
        ),
    };
    let keys = ["coap.received_body_size", "coap.block_transfer_bytes"];
    if reader.all_valid(&keys) && parameters.received_body_size > parameters.block_transfer_bytes {
        let most = parameters.block_transfer_bytes;
        reader.refuse(keys[0], format!("expected at most coap.block_transfer_bytes, which is {most}"));
    }
    parameters
}

fn limits(reader: &mut ConfigReader, pending_requests: usize, default: Limits) -> Limits {
    let limits = Limits {
        devices: reader.read("limits.devices", default.devices, whole(1..=MAX_COUNT)),
        pending_registrations: reader.read(
            "limits.pending_registrations",
            default.pending_registrations,
            whole(1..=MAX_COUNT),
        ),
        registers: rate_limit(reader, "limits.registers", default.registers),
        unregistered: rate_limit(reader, "limits.unregistered", default.unregistered),
        registration_size: reader.read(
            "limits.registration_size",
            default.registration_size,
            whole(1024..=64 * 1024 * 1024),
        ),
        profiles: reader.read("limits.profiles", default.profiles, whole(0..=MAX_COUNT)),
        registered: rate(reader, "limits.registered", default.registered),
        pending_commands: reader.read("limits.pending_commands", default.pending_commands, whole(1..=MAX_COUNT)),
        pending_command_bytes: reader.read(
            "limits.pending_command_bytes",
            default.pending_command_bytes,
            whole(1024..=MOST_BYTES),
        ),
        pending_command_bytes_total: reader.read(
            "limits.pending_command_bytes_total",
            default.pending_command_bytes_total,
            whole(1024..=MOST_BYTES),
        ),
        command_expiry: reader.read("limits.command_expiry", default.command_expiry, duration(SECOND..=YEAR)),
        firmware_jobs: reader.read("limits.firmware_jobs", default.firmware_jobs, whole(1..=MAX_COUNT)),
        observations: reader.read("limits.observations", default.observations, whole(1..=MAX_COUNT)),
        composite_paths: reader.read("limits.composite_paths", default.composite_paths, whole(1..=MAX_COUNT)),
        entries: reader.read("limits.entries", default.entries, whole(1..=MAX_COUNT)),
        sent_body_size: reader.read("limits.sent_body_size", default.sent_body_size, whole(1024..=64 * 1024 * 1024)),
        command_size: reader.read("limits.command_size", default.command_size, whole(64..=256 * 1024 * 1024)),
        retry_after: reader.read("limits.retry_after", default.retry_after, duration(SECOND..=24 * HOUR)),
    };
    let keys = ["limits.pending_registrations", "coap.pending_requests"];
    if reader.all_valid(&keys) && limits.pending_registrations >= pending_requests {
        reader.refuse(keys[0], format!("expected less than coap.pending_requests, which is {pending_requests}"));
    }
    limits
}

fn translators(reader: &mut ConfigReader, default: Translators) -> Translators {
    Translators {
        mountpoint: reader.read("mountpoint", default.mountpoint, topic_name),
        command: Translator {
            topic: reader.read("translators.command.topic", default.command.topic, topic_filter),
            qos: reader.read("translators.command.qos", default.command.qos, whole(0..=2)),
        },
        response: translator(reader, "response", default.response),
        notify: translator(reader, "notify", default.notify),
        send: optional_translator(reader, "send", default.send, SEND_TOPIC),
        register: translator(reader, "register", default.register),
        update: translator(reader, "update", default.update),
        firmware: translator(reader, "firmware", default.firmware),
        status: optional_translator(reader, "status", default.status, STATUS_TOPIC),
    }
}

/// Reads the client at the broker that publishes `offline` for devices whose session the broker has ended.
fn status_login(reader: &mut ConfigReader, has_status: bool) -> Option<BrokerLogin> {
    let is_wanted = reader.read("translators.status.own_client", false, switch);
    if is_wanted && !has_status {
        reader.refuse("translators.status.own_client", "requires translators.status.enable = true");
    }
    let username = reader.read("translators.status.mqtt_username", "lwm2m-status".to_owned(), text);
    let password = reader.read_secret("translators.status.mqtt_password").map(Secret::new);
    is_wanted.then_some(BrokerLogin { username, password })
}

/// Reads the topic of messages that can be disabled, if they are enabled.
fn optional_translator(
    reader: &mut ConfigReader,
    name: &str,
    default: Option<Translator>,
    default_topic: &str,
) -> Option<Translator> {
    let enabled = reader.read(&format!("translators.{name}.enable"), default.is_some(), switch);
    let topic = || Template::for_topic(default_topic).expect("a default is a template");
    let translator = translator(reader, name, default.unwrap_or_else(|| Translator { topic: topic(), qos: 0 }));
    enabled.then_some(translator)
}

fn translator(reader: &mut ConfigReader, name: &str, default: Translator) -> Translator {
    Translator {
        topic: reader.read(&format!("translators.{name}.topic"), default.topic, |value| {
            text_with_content(value)?;
            topic_name(value)
        }),
        qos: reader.read(&format!("translators.{name}.qos"), default.qos, whole(0..=2)),
    }
}

fn client(reader: &mut ConfigReader, default: ClientTemplates) -> ClientTemplates {
    let template = |value: &Value| Template::for_client(&text(value)?).map_err(template_problem);
    let password = [("${password}", PasswordSource::QueryItem), ("", PasswordSource::None)];
    ClientTemplates {
        clientid: reader.read("clientinfo.clientid", default.clientid, template),
        username: reader.read("clientinfo.username", default.username, template),
        password: reader.read("clientinfo.password", default.password, |value| {
            let given = password.iter().find(|(word, _)| value.as_str() == Some(word));
            given.map(|(_, source)| source.clone()).ok_or_else(|| "expected \"${password}\" or \"\"".to_owned())
        }),
    }
}

/// Reads the addresses of the embedded broker. Port 0 lets the system choose the port.
#[cfg(feature = "embedded")]
fn embedded(reader: &mut ConfigReader, mut handler: SocketAddr) -> lwm2m_broker::BrokerConfig {
    if handler.ip().is_unspecified() {
        handler.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    let default = lwm2m_broker::BrokerConfig::default();
    lwm2m_broker::BrokerConfig {
        mqtt: reader.read("embedded.mqtt", default.mqtt, parsed(SOCKET_ADDRESS)),
        listener: reader.read("embedded.listener", default.listener, parsed(SOCKET_ADDRESS)),
        adapter: reader.read("embedded.adapter", default.adapter, parsed(SOCKET_ADDRESS)),
        handler: format!("http://{handler}"),
        ..default
    }
}

fn store(reader: &mut ConfigReader) -> store::StoreConfig {
    let tenth = 100 * MILLISECOND;
    let kind = reader.read(
        "store.kind",
        StoreKind::default(),
        choice([("file", StoreKind::File), ("redis", StoreKind::Redis)]),
    );
    store::StoreConfig {
        kind,
        redis: super::redis::read(reader, kind),
        enable: reader.read("store.enable", None, |value| switch(value).map(Some)),
        file: PathBuf::from(reader.read("store.file", "lwm2m-gateway.redb".to_owned(), text_with_content)),
        flush_interval: reader.read("store.flush_interval", tenth / 2, duration(MILLISECOND..=tenth)),
        confirm: reader.read(
            "store.confirm",
            Confirm::default(),
            choice([("stored", Confirm::Stored), ("behind", Confirm::Behind)]),
        ),
        patience: reader.read("store.patience", SECOND / 2, duration(MILLISECOND..=10 * SECOND)),
    }
}

fn admin(reader: &mut ConfigReader) -> admin::AdminConfig {
    admin::AdminConfig {
        enable: reader.read("admin.enable", None, |value| switch(value).map(Some)),
        bind: reader.read("admin.bind", SocketAddr::from(([127, 0, 0, 1], 8085)), parsed(SOCKET_ADDRESS)),
    }
}

fn log(reader: &mut ConfigReader) -> LogConfig {
    let default = filter("info").expect("a level is a filter");
    LogConfig {
        filter: reader.read("log.level", default, |value| filter(&text(value)?).map_err(|error| error.to_string())),
        format: reader.read(
            "log.format",
            LogFormat::Text,
            choice([("text", LogFormat::Text), ("json", LogFormat::Json)]),
        ),
    }
}

fn auto_observe(value: &Value) -> Result<AutoObserve, String> {
    match (value, value.as_str()) {
        (Value::Boolean(false), _) | (_, Some("off")) => Ok(AutoObserve::Off),
        (Value::Boolean(true), _) | (_, Some("on")) => Ok(AutoObserve::On),
        (Value::Array(paths), _) => paths.iter().map(observable_path).collect::<Result<_, _>>().map(AutoObserve::Paths),
        _ => Err("expected true, false or a list of paths, such as [\"/3303/0\", \"/3/0/9\"]".to_owned()),
    }
}

fn observable_path(value: &Value) -> Result<Path, String> {
    let path = Path::from_str(&text(value)?).map_err(|error| error.to_string())?;
    if path.object().is_some() { Ok(path) } else { Err("the root cannot be observed".to_owned()) }
}

/// Parses a topic for publications, or its beginning.
fn topic_name(value: &Value) -> Result<Template, String> {
    let topic = text(value)?;
    if topic.contains(['+', '#', '\0']) {
        return Err("expected a topic without the wildcards + and #".to_owned());
    }
    Template::for_topic(&topic).map_err(template_problem)
}

/// Parses a topic filter, with wildcards as in MQTT 3.1.1 section 4.7.1.
fn topic_filter(value: &Value) -> Result<Template, String> {
    let topic = text_with_content(value)?;
    let (before, last) = topic.rsplit_once('/').unwrap_or(("", &topic));
    let fits = |level: &str| level == "+" || !level.contains(['+', '#', '\0']);
    if !before.split('/').all(fits) || !(last == "#" || fits(last)) {
        return Err("expected a topic filter: + as a whole level, # as the last one".to_owned());
    }
    Template::for_topic(&topic).map_err(template_problem)
}

fn template_problem(error: TemplateError) -> String {
    error.to_string()
}
