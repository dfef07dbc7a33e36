//! Writer thread. Disk writes block, so they run off the event loop.
//!
//! Batches that have come while the disk was busy are written together, in one transaction. Each batch is answered when
//! it is on the disk. What cannot be written is kept and tried again. Meanwhile nothing is answered, so that the
//! drivers hand over no more, and the changes wait in the core: as marks, one for each device.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::mpsc::UnboundedReceiver;
use tracing::{error, info};

use crate::conditions::{Condition, ConditionState};
use crate::observability::metrics::Metrics;
use crate::transport::UdpListener;
use lwm2m_core::gateway::persistence::record::Change;

use super::super::handle::{PendingWrite, WriterReply};
use super::OpenedFile;
use super::database::{Database, StoreOpenError};

/// Maximum number of batches in one transaction.
const MAX_BATCHES: usize = 64;

/// Pause after a failed write.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

pub(crate) struct StoreWriter {
    /// `None` after an error: redb accepts no writes until the file is opened again.
    database: Option<Database>,
    file: PathBuf,
    listeners: Vec<UdpListener>,
    batches: UnboundedReceiver<PendingWrite>,
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
    pub(super) fn new(
        opened: OpenedFile,
        batches: UnboundedReceiver<PendingWrite>,
        closing: Arc<AtomicBool>,
        condition: Condition,
    ) -> Self {
        let OpenedFile { database, config, listeners, metrics } = opened;
        let file = config.file;
        condition.set(ConditionState::Up, format!("{} is written", file.display()));
        Self { database: Some(database), file, listeners, batches, closing, failing: false, metrics, condition }
    }

    /// Writes batches until all drivers have closed their ends.
    pub(super) fn run(mut self) {
        while let Some(first) = self.batches.blocking_recv() {
            let waiting = std::iter::from_fn(|| self.batches.try_recv().ok()).take(MAX_BATCHES - 1);
            let batches: Vec<PendingWrite> = std::iter::once(first).chain(waiting).collect();
            let is_written = self.write_until_closing(&batches);
            for PendingWrite { version, replies, .. } in batches {
                let reply = if is_written { WriterReply::Stored(version) } else { WriterReply::GivenUp };
                // A driver that has closed its end does not wait for the answer.
                let (Ok(()) | Err(_)) = replies.send(reply);
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
            thread::park_timeout(RETRY_PAUSE);
        }
        true
    }

    fn write(&mut self, batches: &[PendingWrite]) -> Result<(), WriteError> {
        // redb asserts what a file of its own cannot contain. The gateway continues without a store rather than end.
        let written = catch_unwind(AssertUnwindSafe(|| self.try_to_write(batches)));
        written.unwrap_or(Err(WriteError::Senseless))?;
        self.metrics.store.written(changes(batches));
        if std::mem::take(&mut self.failing) {
            info!(file = %self.file.display(), "store writable again");
            self.metrics.store.failing.set(0);
            self.condition.set(ConditionState::Up, format!("{} is written", self.file.display()));
        }
        Ok(())
    }

    fn try_to_write(&mut self, batches: &[PendingWrite]) -> Result<(), WriteError> {
        // The database is put back only after a success.
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
