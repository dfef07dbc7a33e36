//! Writer thread. Disk writes block, so they run off the event loop.
//!
//! Batches that have come while the disk was busy are written together, in one transaction. Each batch is answered when
//! it is on the disk. What cannot be written is kept and tried again. Meanwhile nothing is answered, so that the
//! drivers hand over no more, and the changes wait in the core: as marks, one for each device.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::mpsc::UnboundedSender;
use tracing::{error, info};

use crate::conditions::{Condition, ConditionState};
use crate::observability::metrics::Metrics;
use crate::transport::UdpListener;
use lwm2m_core::gateway::Version;
use lwm2m_core::gateway::record::Change;
use lwm2m_dtls::AssociationChange;

use super::OpenedStore;
use super::database::{Database, StoreOpenError};

/// Maximum number of batches in one transaction.
const TOGETHER: usize = 64;

/// Pause after a failed write.
const PAUSE: Duration = Duration::from_secs(1);

/// A batch of one driver, and where it is answered.
pub struct PendingWrite {
    pub version: Version,
    pub changes: Vec<Change>,
    pub result: UnboundedSender<BatchResult>,
}

/// The result of a batch.
#[derive(Clone, Copy, Debug)]
pub enum BatchResult {
    /// The batch is on the disk.
    Stored(Version),
    /// The program shuts down, and the disk rejects writes.
    GivenUp,
}

pub struct StoreWriter {
    /// `None` after an error: redb accepts no writes until the file is opened again.
    database: Option<Database>,
    file: PathBuf,
    listeners: Vec<UdpListener>,
    batches: Receiver<PendingWrite>,
    /// Set during the shutdown: failed writes are not retried any more.
    closing: Arc<AtomicBool>,
    failing: bool,
    metrics: Arc<Metrics>,
    condition: Condition,
}

#[derive(Debug, Error)]
enum WriteError {
    #[error(transparent)]
    Open(#[from] StoreOpenError),
    #[error(transparent)]
    Write(#[from] redb::Error),
    #[error("the pages of the file contradict each other")]
    Senseless,
}

impl StoreWriter {
    /// Creates a writer that reports its state by the condition of the store.
    pub fn new(
        opened: OpenedStore,
        batches: Receiver<PendingWrite>,
        closing: Arc<AtomicBool>,
        condition: Condition,
    ) -> Self {
        let OpenedStore { database, settings, listeners, metrics } = opened;
        let file = settings.file;
        condition.set(ConditionState::Up, format!("{} is written", file.display()));
        Self { database: Some(database), file, listeners, batches, closing, failing: false, metrics, condition }
    }

    /// Writes batches until all drivers have closed their ends.
    pub fn run(mut self) {
        while let Ok(first) = self.batches.recv() {
            let batches: Vec<PendingWrite> =
                std::iter::once(first).chain(self.batches.try_iter().take(TOGETHER - 1)).collect();
            let is_written = self.write_until_closing(&batches);
            for PendingWrite { version, result, .. } in batches {
                let answer = if is_written { BatchResult::Stored(version) } else { BatchResult::GivenUp };
                // A driver that has closed its end does not wait for the answer.
                let (Ok(()) | Err(_)) = result.send(answer);
            }
        }
    }

    /// Writes these batches, and retries until the shutdown. Returns whether they are written.
    fn write_until_closing(&mut self, batches: &[PendingWrite]) -> bool {
        while let Err(error) = self.write(batches) {
            self.failed(&error);
            if self.closing.load(Ordering::Relaxed) {
                return false;
            }
            thread::park_timeout(PAUSE);
        }
        true
    }

    fn write(&mut self, batches: &[PendingWrite]) -> Result<(), WriteError> {
        // redb asserts what a file of its own cannot contain. The gateway goes on without a store rather than not at
        // all.
        let written = catch_unwind(AssertUnwindSafe(|| self.try_to_write(batches)));
        written.unwrap_or(Err(WriteError::Senseless))?;
        let counters = &self.metrics.store;
        for change in changes(batches) {
            let counter = match change {
                Change::Put(_) => &counters.put,
                Change::Remove { .. } => &counters.removed,
                Change::RetainedCommands(_) => &counters.retained_written,
                Change::Profile(_) => &counters.profiles_written,
                Change::GeneratedKey(_) => &counters.generated_keys_written,
                Change::AwaitedBootstrap(_) => &counters.awaited_bootstraps_written,
                Change::FirmwareJob(_) => &counters.firmware_jobs_written,
                Change::Campaign(_) => &counters.campaigns_written,
                Change::Association(AssociationChange::Put(_)) => &counters.associations_put,
                Change::Association(AssociationChange::Remove(_)) => &counters.associations_removed,
            };
            counter.inc();
        }
        if std::mem::take(&mut self.failing) {
            info!(file = %self.file.display(), "store writable again");
            self.metrics.store.failing.set(0);
            self.condition.set(ConditionState::Up, format!("{} is written", self.file.display()));
        }
        Ok(())
    }

    fn try_to_write(&mut self, batches: &[PendingWrite]) -> Result<(), WriteError> {
        // Put back only when it went well.
        let database = match self.database.take() {
            Some(database) => database,
            None => Database::reopen(&self.file, &self.listeners)?,
        };
        database.write(changes(batches))?;
        self.database = Some(database);
        Ok(())
    }

    fn failed(&mut self, error: &WriteError) {
        self.metrics.store.write_errors.inc();
        self.metrics.store.failing.set(1);
        let detail = format!("{} cannot be written: {error}; a restart would lose recent changes", self.file.display());
        self.condition.set(ConditionState::Degraded, detail);
        if !std::mem::replace(&mut self.failing, true) {
            error!(
                file = %self.file.display(), %error,
                "the store cannot be written: a restart would lose recent changes; retrying"
            );
        }
    }
}

fn changes(batches: &[PendingWrite]) -> impl Iterator<Item = &Change> {
    batches.iter().flat_map(|batch| &batch.changes)
}
