//! `[bootstrap]`: the bootstrap server, its accounts and the keys of bootstrap accounts.

use std::path::PathBuf;

use crate::bootstrap::BootstrapFiles;
use crate::credentials::PskFileConfig;
use crate::transport::UdpListener;
use lwm2m_base::secret::Secret;
use lwm2m_core::bootstrap::EndpointPattern;
use lwm2m_core::gateway::broker::BrokerLogin;
use lwm2m_core::gateway::config::{BootstrapConfig, SocketRole};
use lwm2m_core::gateway::identity::IdentityRule;

use super::dtls::{file, identity_rule, psk_encoding};
use super::reader::ConfigReader;
use super::value_parsers::{HOUR, MAX_COUNT, SECOND, duration, list, switch, text, text_with_content, whole};

/// Reads the settings of the bootstrap server; `None` if it is off.
pub(super) fn read(
    reader: &mut ConfigReader,
    default_rule: &IdentityRule,
    is_mqtt: bool,
) -> (Option<BootstrapConfig>, BootstrapFiles) {
    let default = BootstrapConfig::default();
    let key = |last: &str| format!("bootstrap.{last}");
    let is_enabled = reader.read(&key("enable"), false, switch);
    let config = BootstrapConfig {
        session_timeout: reader.read(&key("session_timeout"), default.session_timeout, duration(SECOND..=HOUR)),
        sessions: reader.read(&key("sessions"), default.sessions, whole(1..=MAX_COUNT)),
        generated_keys: reader.read(&key("generated_keys"), default.generated_keys, whole(0..=MAX_COUNT)),
        identity: reader.read(&key("identity"), default_rule.clone(), identity_rule),
        certificates: certificates(reader),
        login: login(reader, is_mqtt),
    };
    let accounts = reader.read(&key("accounts"), None, file);
    let keys = psk_file(reader);
    if is_enabled && accounts.is_none() && config.login.is_none() {
        reader.refuse(&key("accounts"), "bootstrap.enable requires a file of accounts, or bootstrap.mqtt");
    }
    let files = BootstrapFiles { is_enabled, accounts, keys };
    (is_enabled.then_some(config), files)
}

/// Reads the names of the certificates and raw public keys that are for bootstrap.
fn certificates(reader: &mut ConfigReader) -> Vec<EndpointPattern> {
    let names: Vec<String> = reader.read("bootstrap.certificates", Vec::new(), list(text_with_content));
    names.into_iter().map(EndpointPattern::new).collect()
}

/// Reads the client at the broker by which accounts come.
fn login(reader: &mut ConfigReader, is_mqtt: bool) -> Option<BrokerLogin> {
    let is_wanted = reader.read("bootstrap.mqtt", false, switch);
    if is_wanted && !is_mqtt {
        reader.refuse("bootstrap.mqtt", "requires upstream.kind = \"mqtt\"");
    }
    let username = reader.read("bootstrap.mqtt_username", "lwm2m-bootstrap".to_owned(), text);
    let password = reader.read_secret("bootstrap.mqtt_password").map(Secret::new);
    is_wanted.then_some(BrokerLogin { username, password })
}

/// Reads the file with the keys of bootstrap accounts.
fn psk_file(reader: &mut ConfigReader) -> Option<PskFileConfig> {
    let separator = reader.read("bootstrap.psk_separator", ":".to_owned(), text_with_content);
    let encoding = psk_encoding(reader, "bootstrap.psk_encoding");
    let file: PathBuf = reader.read("bootstrap.psk_file", None, file)?;
    Some(PskFileConfig { file, separator, encoding })
}

/// Refuses listeners for bootstrap without a bootstrap server.
pub(crate) fn check_roles(reader: &mut ConfigReader, listeners: &[UdpListener], is_enabled: bool) {
    for listener in listeners.iter().filter(|listener| listener.role == SocketRole::Bootstrap && !is_enabled) {
        reader.refuse(&format!("{}.role", listener.key()), "requires bootstrap.enable = true");
    }
}
