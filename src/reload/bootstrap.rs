//! Reload of the accounts of the bootstrap server. Sessions that run go on.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;
use tracing::info;

use crate::bootstrap::{BootstrapFiles, LoadedAccounts};
use crate::conditions::{Condition, ConditionState};
use crate::driver::control::SettingsChange;
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

    pub(super) fn read(&mut self, files: &BootstrapFiles) -> Result<Option<SettingsChange>, String> {
        if self.in_force.as_ref() == Some(&accounts_at(files, &self.named)) {
            return Ok(None);
        }
        let model = Arc::clone(&self.model.borrow());
        let loaded = files.load_accounts(&model).map_err(|error| error.to_string())?;
        info!(accounts = loaded.accounts.len(), "bootstrap accounts reloaded");
        self.in_force = Some(accounts_at(files, &loaded.files));
        self.named = loaded.files;
        self.condition.set(ConditionState::Up, "accounts are served");
        Ok(Some(SettingsChange::BootstrapAccounts(loaded.accounts)))
    }
}

fn accounts_at(files: &BootstrapFiles, named: &[PathBuf]) -> (BootstrapFiles, FileSnapshot) {
    (files.clone(), FileSnapshot::at(files.accounts.iter().chain(named).cloned()))
}
