//! Reload of DTLS credentials: certificates, and the file of pre-shared keys. New handshakes use the new credentials;
//! existing sessions continue, except those whose pre-shared key was removed or changed.
//!
//! The event loop takes the result as a [`DriverRequest`], and passes it to `Gateway::set_acceptor` or
//! `Gateway::revoke`.

use std::sync::Arc;

use tracing::{info, warn};

use crate::bootstrap::second_kind;
use crate::conditions::{Condition, ConditionState};
use crate::config::Config;
use crate::credentials::{CredentialsConfig, FileKeys, PskFileContents};
use crate::driver::control::DriverRequest;
use crate::observability::metrics::Metrics;

use super::bootstrap::ReloadableBootstrapKeys;
use super::watch::FileSnapshot;

/// All kinds of credentials; each is reloaded independently.
pub struct ReloadableCredentials {
    pub certificates: ReloadableCertificates,
    pub keys: ReloadableKeys,
    pub bootstrap_keys: ReloadableBootstrapKeys,
}

/// The certificate and key of the gateway, and the certificates that it trusts.
pub struct ReloadableCertificates {
    condition: Condition,
    metrics: Arc<Metrics>,
    /// The settings and files in force; `None` if there are none.
    in_force: Option<(CredentialsConfig, FileSnapshot)>,
}

/// The file of pre-shared keys.
pub struct ReloadableKeys {
    keys: FileKeys,
    /// The keys of bootstrap accounts.
    bootstrap: FileKeys,
    in_force: Option<(CredentialsConfig, FileSnapshot)>,
}

impl ReloadableCertificates {
    /// Creates the certificates; `in_force` is whether they were loaded at the start. The condition shows whether
    /// handshakes are accepted.
    pub fn new(config: &CredentialsConfig, in_force: bool, condition: Condition, metrics: Arc<Metrics>) -> Self {
        Self { condition, metrics, in_force: in_force.then(|| certificates_at(config)) }
    }

    pub(super) fn read(&mut self, config: &CredentialsConfig) -> Result<Option<DriverRequest>, String> {
        let found = certificates_at(config);
        if self.in_force.as_ref() == Some(&found) {
            return Ok(None);
        }
        let acceptor = config.load_acceptor().map_err(|error| error.to_string())?;
        info!("DTLS credentials reloaded");
        self.in_force = Some(found);
        self.condition.set(ConditionState::Up, "handshakes are accepted");
        self.metrics.dtls_up.set(1);
        Ok(Some(DriverRequest::Acceptor(acceptor)))
    }
}

impl ReloadableKeys {
    /// Creates the keys; `in_force` is whether they were loaded at the start.
    pub fn new(config: &CredentialsConfig, in_force: bool, keys: FileKeys, bootstrap: FileKeys) -> Self {
        Self { keys, bootstrap, in_force: in_force.then(|| keys_at(config)) }
    }

    pub(super) fn read(&mut self, config: &Config) -> Result<Option<DriverRequest>, String> {
        let (config, listeners) = (&config.credentials, &config.listeners);
        let found = keys_at(config);
        if self.in_force.as_ref() == Some(&found) {
            return Ok(None);
        }
        let PskFileContents { keys, warnings } = config.load_keys().map_err(|error| error.to_string())?;
        if let Some(identity) = self.bootstrap.with(|other| second_kind(listeners, &keys, other).cloned()) {
            return Err(format!("dtls.psk_file: {identity:?} has a key in bootstrap.psk_file as well"));
        }
        info!(keys = keys.len(), "pre-shared keys reloaded");
        warnings.iter().for_each(|warning| warn!("{warning}"));
        self.in_force = Some(found);
        let revoked = self.keys.replace(keys);
        Ok(Some(DriverRequest::Keys { revoked, identities: self.keys.identities() }))
    }
}

fn certificates_at(config: &CredentialsConfig) -> (CredentialsConfig, FileSnapshot) {
    (config.clone(), FileSnapshot::at(config.certificate_files()))
}

fn keys_at(config: &CredentialsConfig) -> (CredentialsConfig, FileSnapshot) {
    (config.clone(), FileSnapshot::at(config.key_file()))
}
