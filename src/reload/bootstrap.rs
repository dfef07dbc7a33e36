//! Reload of the bootstrap server's files: the accounts, and the keys of bootstrap accounts. Sessions that run go on.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;
use tracing::{info, warn};

use crate::bootstrap::{BootstrapFiles, LoadedAccounts, second_kind};
use crate::conditions::{Condition, ConditionState};
use crate::config::Config;
use crate::credentials::{CredentialsConfig, FileKeys, PskFileConfig, PskFileContents};
use crate::driver::control::DriverRequest;
use lwm2m_core::lwm2m::model::Model;

use super::watch::FileSnapshot;

/// The accounts in force.
pub struct ReloadableAccounts {
    /// The settings and the state of the files in force; `None` if there are none.
    in_force: Option<(BootstrapFiles, FileSnapshot)>,
    /// The files that the accounts name.
    named: Vec<PathBuf>,
    model: watch::Receiver<Arc<Model>>,
    condition: Condition,
}

/// The keys of bootstrap accounts in force.
pub struct ReloadableBootstrapKeys {
    keys: FileKeys,
    /// The keys of the other kind.
    registration: FileKeys,
    in_force: Option<(Option<PskFileConfig>, FileSnapshot)>,
}

impl ReloadableAccounts {
    /// Creates the accounts; `loaded` are those in force, `None` if they could not be loaded.
    pub fn new(
        files: &BootstrapFiles,
        loaded: Option<&LoadedAccounts>,
        model: watch::Receiver<Arc<Model>>,
        condition: Condition,
    ) -> Self {
        let named = loaded.map(|loaded| loaded.files.clone()).unwrap_or_default();
        let in_force = loaded.map(|_| accounts_at(files, &named));
        Self { in_force, named, model, condition }
    }

    /// Returns the files of the accounts.
    pub(super) fn files(&self, files: &BootstrapFiles) -> Vec<PathBuf> {
        files.accounts.iter().chain(&self.named).cloned().collect()
    }

    pub(super) fn read(&mut self, files: &BootstrapFiles) -> Result<Option<DriverRequest>, String> {
        if self.in_force.as_ref() == Some(&accounts_at(files, &self.named)) {
            return Ok(None);
        }
        let model = Arc::clone(&self.model.borrow());
        let loaded = files.load_accounts(&model).map_err(|error| error.to_string())?;
        info!(accounts = loaded.accounts.len(), "bootstrap accounts reloaded");
        self.in_force = Some(accounts_at(files, &loaded.files));
        self.named = loaded.files;
        self.condition.set(ConditionState::Up, "accounts are served");
        Ok(Some(DriverRequest::BootstrapAccounts(loaded.accounts)))
    }
}

impl ReloadableBootstrapKeys {
    /// Creates the keys; `in_force` is whether they were loaded at the start.
    pub fn new(config: &CredentialsConfig, in_force: bool, keys: FileKeys, registration: FileKeys) -> Self {
        Self { keys, registration, in_force: in_force.then(|| keys_at(config)) }
    }

    pub(super) fn read(&mut self, config: &Config) -> Result<Option<DriverRequest>, String> {
        let found = keys_at(&config.credentials);
        if self.in_force.as_ref() == Some(&found) {
            return Ok(None);
        }
        let PskFileContents { keys, warnings } =
            config.credentials.load_bootstrap_keys().map_err(|error| format!("bootstrap.psk_file = {error}"))?;
        if let Some(identity) = self.registration.with(|other| second_kind(&config.listeners, other, &keys).cloned()) {
            return Err(format!("bootstrap.psk_file: {identity:?} has a key in dtls.psk_file as well"));
        }
        info!(keys = keys.len(), "pre-shared keys of bootstrap accounts reloaded");
        warnings.iter().for_each(|warning| warn!("{warning}"));
        self.in_force = Some(found);
        let revoked = self.keys.replace(keys);
        Ok(Some(DriverRequest::BootstrapKeys { revoked, identities: self.keys.identities() }))
    }
}

fn accounts_at(files: &BootstrapFiles, named: &[PathBuf]) -> (BootstrapFiles, FileSnapshot) {
    (files.clone(), FileSnapshot::at(files.accounts.iter().chain(named).cloned()))
}

fn keys_at(config: &CredentialsConfig) -> (Option<PskFileConfig>, FileSnapshot) {
    let settings = config.bootstrap_psk_file.clone();
    let file = settings.as_ref().map(|settings| settings.file.clone());
    (settings, FileSnapshot::at(file))
}
