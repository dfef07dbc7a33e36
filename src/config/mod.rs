//! Reads a TOML file and the environment into checked values.
//!
//! Every default is in `sections` (those of CoAP and the limits beside their types), every mistake is reported at once,
//! and past this module nobody validates again. `deploy/lwm2m-gateway.toml` documents every key.

mod bootstrap;
mod cluster;
#[cfg(feature = "console")]
mod console;
mod dtls;
mod exproto;
mod firmware;
mod former;
mod groups;
mod listeners;
mod mqtt;
mod reader;
mod redis;
#[cfg(all(test, feature = "embedded"))]
mod reference;
mod sections;
mod value_parsers;
mod warnings;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;
use toml::{Table, Value};

use crate::admin;
use crate::bootstrap::BootstrapFiles;
use crate::cluster::config::ClusterConfig;
#[cfg(feature = "console")]
use crate::console::ConsoleConfig;
use crate::credentials;
use crate::errors::one_line;
use crate::firmware::ImagesConfig;
use crate::observability::logging::LogConfig;
use crate::store;
use crate::transport::UdpListener;
use crate::upstream;
use lwm2m_core::gateway;

use reader::{ConfigReader, Mistake};
#[cfg(feature = "console")]
pub(crate) use reader::{PLACE_VARIABLE, TOKEN_VARIABLE};

/// The complete configuration, validated.
#[derive(Clone, Debug)]
pub struct Config {
    pub gateway: gateway::config::GatewayConfig,
    /// The listeners, at least one, those for plain UDP first. The position of a listener is the `socket` of its peers.
    pub listeners: Vec<UdpListener>,
    pub dtls: lwm2m_dtls::DtlsConfig,
    pub credentials: credentials::CredentialsConfig,
    pub bootstrap: BootstrapFiles,
    pub upstream: upstream::UpstreamConfig,
    #[cfg(feature = "embedded")]
    pub embedded: lwm2m_broker::BrokerConfig,
    /// Number of threads that serve devices.
    pub threads: NonZero<u8>,
    pub store: store::StoreConfig,
    /// The cluster that the gateway is a node of; `None` for a gateway by itself.
    pub cluster: Option<ClusterConfig>,
    pub images: ImagesConfig,
    pub admin: admin::AdminConfig,
    #[cfg(feature = "console")]
    pub console: ConsoleConfig,
    pub log: LogConfig,
    /// The folder of object definitions beside those that are built in; a relative one counts from the working
    /// directory.
    pub xml_dir: PathBuf,
    /// Interval at which files are checked for changes; zero disables it.
    pub watch_interval: Duration,
    /// Maximum duration of the shutdown.
    pub shutdown_timeout: Duration,
    /// The file of the configuration.
    pub file: Option<PathBuf>,
    pub written: ConfigValues,
    /// Warnings about valid but suspicious settings, a sentence each.
    pub warnings: Vec<String>,
}

/// The values of the file and the environment by key, to be compared with those of a later reload. It may contain
/// secrets.
#[derive(Clone, Default, PartialEq)]
pub struct ConfigValues(BTreeMap<String, Value>);

/// Reasons why a configuration cannot be loaded.
#[derive(Debug, Error)]
pub enum ConfigError {
    #[error("{}: {error}", .file.display())]
    Unreadable { file: PathBuf, error: std::io::Error },
    /// The file is no TOML. The message omits the line, which may contain a secret.
    #[error("{} is not TOML: line {line}, column {column}: {problem}{}", .file.display(), hint(*.looks_like))]
    NotToml { file: PathBuf, line: usize, column: usize, problem: String, looks_like: Option<&'static str> },
    #[error("{0}")]
    Mistakes(Mistakes),
}

/// The mistakes of a configuration, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistakes(pub Vec<Mistake>);

impl Config {
    /// Reads the file, if there is one, and puts the variables `LWM2M_GATEWAY__SECTION__KEY` and `LWM2M_GATEWAY_LOG` of
    /// the environment over it.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigError> {
        let table = file.map(read_table).transpose()?.unwrap_or_else(Table::new);
        let config = Self::from_table(table, environment).map_err(ConfigError::Mistakes)?;
        Ok(Self { file: file.map(Path::to_owned), ..config })
    }

    fn from_table(table: Table, environment: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Self, Mistakes> {
        let mut reader = ConfigReader::new(table);
        reader.override_from(environment);
        let (config, others) = sections::config(&mut reader);
        let warnings = warnings::of(&reader, &config, &others);
        let config = Self { written: ConfigValues(reader.written()), warnings, ..config };
        let mistakes = reader.finish();
        if mistakes.is_empty() { Ok(config) } else { Err(Mistakes(mistakes)) }
    }
}

/// Returns the configuration without a file and without environment variables.
impl Default for Config {
    fn default() -> Self {
        Self::from_table(Table::new(), []).expect("the defaults have no mistakes")
    }
}

/// The keys that take effect without a restart; those that end with a dot stand for a section.
const RELOADED: [&str; 24] = [
    "limits.",
    "log.level",
    "xml_dir",
    "watch_interval",
    "dtls.certfile",
    "dtls.keyfile",
    "dtls.password",
    "dtls.cacertfile",
    "dtls.verify",
    "dtls.fail_if_no_peer_cert",
    "dtls.pinned",
    "dtls.raw_public_keys",
    "dtls.ciphers",
    "dtls.psk_ciphers",
    "dtls.connection_id",
    "dtls.session_tickets",
    "dtls.mtu",
    "dtls.psk_file",
    "dtls.psk_separator",
    "dtls.psk_encoding",
    "bootstrap.accounts",
    "bootstrap.psk_file",
    "bootstrap.psk_separator",
    "bootstrap.psk_encoding",
];

/// Returns whether a changed key of the configuration takes effect while the program runs.
pub(crate) fn takes_effect_at_once(key: &str) -> bool {
    RELOADED.iter().any(|reloaded| key == *reloaded || (reloaded.ends_with('.') && key.starts_with(reloaded)))
}

impl ConfigValues {
    /// Returns the keys whose values differ.
    pub(crate) fn differences(&self, other: &Self) -> Vec<String> {
        let keys: BTreeSet<&String> = self.0.keys().chain(other.0.keys()).collect();
        keys.into_iter().filter(|key| self.0.get(*key) != other.0.get(*key)).cloned().collect()
    }
}

impl fmt::Debug for ConfigValues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConfigValues")
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        write!(f, "the configuration has {count} mistake{}", if count == 1 { "" } else { "s" })?;
        self.0.iter().try_for_each(|mistake| write!(f, "\n  {mistake}"))
    }
}

fn read_table(file: &Path) -> Result<Table, ConfigError> {
    let text = fs::read_to_string(file).map_err(|error| ConfigError::Unreadable { file: file.to_owned(), error })?;
    text.parse().map_err(|error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        let looks_like = former::format_of(file, &text);
        // The library explains some mistakes on several lines.
        let problem = one_line(error.message());
        ConfigError::NotToml { file: file.to_owned(), line, column, problem, looks_like }
    })
}

/// Returns the next step for a file in another format.
fn hint(looks_like: Option<&str>) -> String {
    let said =
        |format| format!(" (this looks like {format}; docs/migration.md has the keys of EMQX's gateway in TOML)");
    looks_like.map(said).unwrap_or_default()
}
