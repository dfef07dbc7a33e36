//! Reload of the accounts of the bootstrap server. Sessions in progress continue.

use std::sync::Arc;

use tokio::sync::watch;
use tracing::info;

use crate::bootstrap::{BootstrapFiles, LoadedAccounts};
use crate::conditions::{Condition, ConditionState};
use crate::driver::control::SettingsChange;
use lwm2m_core::lwm2m::model::Model;

use crate::file_snapshot::FileSnapshot;

/// The accounts in force.
pub(crate) struct ReloadableAccounts {
    /// The settings in force, and the state of the files when they were read; `None` if there are none.
    in_force: Option<(BootstrapFiles, FileSnapshot)>,
    model: watch::Receiver<Arc<Model>>,
    condition: Condition,
}

impl ReloadableAccounts {
    /// Creates the accounts; `loaded` are those in force, `None` if they could not be loaded.
    pub(crate) fn new(
        files: &BootstrapFiles,
        loaded: Option<&LoadedAccounts>,
        model: watch::Receiver<Arc<Model>>,
        condition: Condition,
    ) -> Self {
        let in_force = loaded.map(|loaded| (files.clone(), loaded.files.clone()));
        Self { in_force, model, condition }
    }

    /// Returns the state of the files in force when they were read.
    pub(super) fn read_at(&self) -> Option<&FileSnapshot> {
        Some(&self.in_force.as_ref()?.1)
    }

    pub(super) fn read(&mut self, files: &BootstrapFiles) -> Result<Option<SettingsChange>, String> {
        if let Some((in_force, read)) = &self.in_force
            && in_force == files
            && *read == read.again()
        {
            return Ok(None);
        }
        let model = Arc::clone(&self.model.borrow());
        let loaded = files.load_accounts(&model).map_err(|error| error.to_string())?;
        info!(accounts = loaded.accounts.len(), "bootstrap accounts reloaded");
        self.in_force = Some((files.clone(), loaded.files));
        self.condition.set(ConditionState::Up, "accounts are served");
        Ok(Some(SettingsChange::BootstrapAccounts(loaded.accounts)))
    }
}
