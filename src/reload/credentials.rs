//! Reload of DTLS credentials: certificates, and the files of pre-shared keys (`keys`). New handshakes use the new
//! credentials; existing sessions continue, except those whose pre-shared key was removed or changed.
//!
//! The event loop takes the result as a [`SettingsChange`], and passes it to `Gateway::set_acceptor` or
//! `Gateway::revoke`.

use std::sync::Arc;

use tracing::info;

use crate::conditions::{Condition, ConditionState};
use crate::credentials::CredentialsConfig;
use crate::driver::control::SettingsChange;
use crate::observability::metrics::Metrics;

use super::keys::ReloadableKeys;
use crate::file_snapshot::FileSnapshot;

/// All kinds of credentials; each is reloaded independently.
pub(crate) struct ReloadableCredentials {
    pub certificates: ReloadableCertificates,
    pub keys: ReloadableKeys,
}

/// The certificate and key of the gateway, and the certificates that it trusts.
pub(crate) struct ReloadableCertificates {
    condition: Condition,
    metrics: Arc<Metrics>,
    /// The settings and files in force; `None` if there are none.
    in_force: Option<(CredentialsConfig, FileSnapshot)>,
}

impl ReloadableCertificates {
    /// Creates the certificates; `read_at` is the state of the files before they were loaded at the start, `None` if
    /// they could not be loaded. The condition shows whether handshakes are accepted.
    pub(crate) fn new(
        config: &CredentialsConfig,
        read_at: Option<&FileSnapshot>,
        condition: Condition,
        metrics: Arc<Metrics>,
    ) -> Self {
        let in_force = read_at.map(|files| (config.clone(), files.only(config.certificate_files())));
        Self { condition, metrics, in_force }
    }

    pub(super) fn read(&mut self, config: &CredentialsConfig) -> Result<Option<SettingsChange>, String> {
        let found = certificates_at(config);
        if self.in_force.as_ref() == Some(&found) {
            return Ok(None);
        }
        let acceptor = config.load_acceptor().map_err(|error| error.to_string())?;
        info!("DTLS credentials reloaded");
        self.in_force = Some(found);
        self.condition.set(ConditionState::Up, "handshakes are accepted");
        self.metrics.dtls_up.set(1);
        Ok(Some(SettingsChange::Acceptor(acceptor)))
    }
}

fn certificates_at(config: &CredentialsConfig) -> (CredentialsConfig, FileSnapshot) {
    (config.clone(), FileSnapshot::at(config.certificate_files()))
}
