//! Implements `check`, which reports the mistakes of a configuration and of the files that it names, warnings, and the
//! settings in force.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr};

use anyhow::ensure;

use crate::bootstrap::second_kind;
use crate::config::Config;
#[cfg(feature = "console")]
use crate::console::ConsoleConfig;
use crate::credentials::CredentialsError;
use crate::definitions::Definitions;
use crate::errors::one_line;
use crate::store::redis::config::RedisUrl;
use crate::store::{StoreConfig, StoreKind};
use crate::transport::Security;
use crate::upstream::UpstreamConfig;
use lwm2m_core::gateway::config::SocketRole;
use lwm2m_core::lwm2m::model::BrokenFile;
use lwm2m_core::mqtt::topics::Names;

use super::check_bootstrap::check_accounts;
use super::{ConfigFile, absolute, connect, read_definitions};

/// Reports the problems of the configuration, the definitions and the credentials. With `try_out` it also tries the
/// ports, the store, the key service and the broker. Fails if there is a problem; a warning is none.
pub(super) fn check(config: &ConfigFile, try_out: bool, output: &mut impl Write) -> anyhow::Result<()> {
    let config = config.load()?;
    writeln!(output, "configuration: no mistakes")?;
    let definitions = read_definitions(&config.xml_dir)?;
    for warning in config.warnings.iter().chain(&definitions.warnings) {
        writeln!(output, "warning: {warning}")?;
    }
    write_in_force(&config, output)?;
    write_definitions(&config, &definitions, output)?;
    let secured = check_credentials(&config, output)?;
    let accounts = check_accounts(&config, &definitions.model, output)?;
    #[cfg(feature = "console")]
    let console = check_console(&config.console, output)?;
    let problems = if try_out { connect::try_out(&config, output)? } else { 0 };
    ensure!(definitions.broken.is_empty(), "{} of the object definitions are broken", definitions.broken.len());
    ensure!(secured, "the credentials of DTLS are missing or invalid");
    ensure!(accounts, "the bootstrap accounts are missing or invalid");
    #[cfg(feature = "console")]
    ensure!(console, "the files of the console are missing or invalid");
    ensure!(problems == 0, "{problems} of the things that were tried do not work");
    Ok(())
}

/// Prints the most important settings, as the defaults, the file and the environment together have them.
fn write_in_force(config: &Config, output: &mut impl Write) -> io::Result<()> {
    for listener in &config.listeners {
        let protocol = match listener.security {
            Security::None => "CoAP over UDP",
            Security::Dtls => "CoAP over DTLS",
        };
        let role = match listener.role {
            SocketRole::All => "",
            SocketRole::Registration => ", registrations only",
            SocketRole::Bootstrap => ", bootstrap only",
        };
        writeln!(output, "devices: {protocol} at {}{role}", listener.bind)?;
    }
    write_broker(&config.upstream, output)?;
    write_topics(config, output)?;
    if config.store.enable.unwrap_or(true) {
        write_store(&config.store, output)?;
    }
    if config.admin.enable.unwrap_or(true) {
        writeln!(output, "metrics and health: http://{}", config.admin.bind)?;
    }
    #[cfg(feature = "console")]
    write_console(&config.console, output)?;
    Ok(())
}

fn write_store(store: &StoreConfig, output: &mut impl Write) -> io::Result<()> {
    let shown = |servers: &[RedisUrl]| servers.iter().map(RedisUrl::to_string).collect::<Vec<_>>().join(", ");
    match store.kind {
        StoreKind::File => writeln!(output, "store: {}", absolute(&store.file).display()),
        StoreKind::Redis if store.redis.sentinels.is_empty() => {
            writeln!(output, "store: {}, prefix {}", shown(&store.redis.urls), store.redis.prefix)
        }
        StoreKind::Redis => {
            let (sentinels, master) = (shown(&store.redis.sentinels), &store.redis.master);
            writeln!(output, "store: {master} of the Sentinels {sentinels}, prefix {}", store.redis.prefix)
        }
    }
}

fn write_broker(upstream: &UpstreamConfig, output: &mut impl Write) -> io::Result<()> {
    match upstream {
        UpstreamConfig::ExProto(exproto) => {
            for node in &exproto.nodes {
                writeln!(
                    output,
                    "broker: EMQX by ExProto, listener {}, adapter {}",
                    node.listeners.join(", "),
                    node.adapter
                )?;
            }
            writeln!(output, "broker: EMQX calls the handler at {}", exproto.handler_bind)?;
        }
        UpstreamConfig::Mqtt(mqtt) => writeln!(output, "broker: MQTT, {}", mqtt.brokers.join(", "))?,
    }
    Ok(())
}

/// Writes the topics of a device with the endpoint name `ep1`.
fn write_topics(config: &Config, output: &mut impl Write) -> io::Result<()> {
    let names = Names {
        endpoint_name: "ep1",
        clientid: "ep1",
        username: "ep1",
        imei: None,
        peerhost: IpAddr::V4(Ipv4Addr::LOCALHOST),
        psk_identity: None,
        cert_cn: None,
    };
    if let Ok(topics) = config.gateway.translators.topics(names) {
        let (command, response, notify) = (topics.command().name, topics.response().name, topics.notify().name);
        let send = topics.send().map(|send| format!(", {}", send.name)).unwrap_or_default();
        writeln!(output, "topics of a device ep1: {command}, {response}, {notify}{send}")?;
    }
    Ok(())
}

#[cfg(feature = "console")]
fn write_console(console: &ConsoleConfig, output: &mut impl Write) -> io::Result<()> {
    if console.tokens.is_some() {
        let scheme = if console.certificate.is_some() { "https" } else { "http" };
        writeln!(output, "console: {scheme}://{}", console.bind)?;
    }
    if let Some(socket) = &console.socket {
        writeln!(output, "console: socket {}", absolute(socket).display())?;
    }
    Ok(())
}

/// Returns whether the files of the console are valid, or not needed.
#[cfg(feature = "console")]
fn check_console(console: &ConsoleConfig, output: &mut impl Write) -> io::Result<bool> {
    if !console.is_enabled() {
        return Ok(true);
    }
    match console.check_files() {
        Ok(tokens) => writeln!(output, "console: {tokens} {}, OK", if tokens == 1 { "token" } else { "tokens" })?,
        Err(problem) => {
            writeln!(output, "{}", one_line(&problem.to_string()))?;
            return Ok(false);
        }
    }
    Ok(true)
}

fn write_definitions(config: &Config, definitions: &Definitions, output: &mut impl Write) -> io::Result<()> {
    for BrokenFile { file, reason } in &definitions.broken {
        writeln!(output, "{file}: {reason}")?;
    }
    let (all, built_in) = definitions.count();
    let folder = config.xml_dir.display();
    match all - built_in {
        0 => writeln!(output, "object definitions: {all}, all built in"),
        own => writeln!(output, "object definitions: {all}, {built_in} of them built in, {own} of the folder {folder}"),
    }
}

/// Returns whether the credentials are valid, or not needed.
fn check_credentials(config: &Config, output: &mut impl Write) -> io::Result<bool> {
    if config.listeners.iter().all(|listener| listener.security == Security::None) {
        return Ok(true);
    }
    match read_credentials(config) {
        Ok((keys, warnings)) => {
            for warning in warnings {
                writeln!(output, "warning: {warning}")?;
            }
            writeln!(output, "dtls: {keys} {}, OK", if keys == 1 { "key" } else { "keys" })?;
        }
        Err(problem) => {
            writeln!(output, "{}", one_line(&problem.to_string()))?;
            return Ok(false);
        }
    }
    Ok(true)
}

/// Returns the number of keys and the warnings.
fn read_credentials(config: &Config) -> Result<(usize, Vec<String>), CredentialsError> {
    config.credentials.asker()?;
    let credentials = config.credentials.load()?;
    let bootstrap = config.credentials.load_bootstrap_keys().map_err(CredentialsError::BootstrapPskFile)?;
    if let Some(identity) = second_kind(&config.listeners, &credentials.keys, &bootstrap.keys) {
        return Err(CredentialsError::SecondKind(identity.clone()));
    }
    Ok((credentials.keys.len(), credentials.warnings))
}
