//! Reloads the object definitions.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;
use tracing::{info, warn};

use crate::definitions;
use crate::driver::control::SettingsChange;
use crate::observability::metrics::Metrics;
use crate::reload::status::ReloadStatus;
use lwm2m_core::lwm2m::model::{BrokenFile, Model};

/// The object definitions, as they were read last.
pub(crate) struct ReloadableDefinitions {
    /// The files that were already broken when the definitions in force were read.
    broken: BTreeSet<String>,
    status: ReloadStatus,
    metrics: Arc<Metrics>,
    /// Announces the definitions to others than the driver.
    model: watch::Sender<Arc<Model>>,
}

impl ReloadableDefinitions {
    /// Creates the definitions. The status has the files that were rejected at the start.
    pub(crate) fn new(status: ReloadStatus, metrics: Arc<Metrics>, model: watch::Sender<Arc<Model>>) -> Self {
        Self { broken: names(&status.results().broken), status, metrics, model }
    }

    pub(crate) fn status(&self) -> &ReloadStatus {
        &self.status
    }

    /// Reads the folder. If another file than before is broken the definitions in force stay.
    pub(super) fn read(&mut self, folder: &Path) -> Result<Option<SettingsChange>, String> {
        let read = definitions::read(folder).map_err(|error| format!("xml_dir: {}: {error}", folder.display()))?;
        self.status.set_broken(read.broken.clone());
        let fresh: Vec<String> = read
            .broken
            .iter()
            .filter(|broken| !self.broken.contains(&broken.file))
            .map(|BrokenFile { file, reason }| format!("{file}: {reason}"))
            .collect();
        if !fresh.is_empty() {
            return Err(fresh.join("; "));
        }
        self.broken = names(&read.broken);
        let objects = read.model.objects().count();
        self.metrics.reload.definitions.set(objects as i64);
        read.warnings.iter().for_each(|warning| warn!("{warning}"));
        info!(objects, "object definitions reloaded");
        let model = Arc::new(read.model);
        self.model.send_replace(Arc::clone(&model));
        Ok(Some(SettingsChange::Model(model)))
    }
}

fn names(broken: &[BrokenFile]) -> BTreeSet<String> {
    broken.iter().map(|broken| broken.file.clone()).collect()
}
