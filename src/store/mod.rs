//! The persistent store: keeps the state of devices in one file, so that it survives the process. Writes are collected
//! and carried out behind the event loop (write-behind).
//!
//! 1. [`Store::open`] reads the file, or renames one that cannot be read, and returns its contents.
//!    [`OpenedStore::write_now`] writes what must be on the disk before anything is sent to a device.
//! 2. [`Store::flush`] takes the changes of the core and hands them to the writer, a thread of its own, through a
//!    bounded channel. It never waits: while the channel is full, the core keeps the changes. The event loop calls it
//!    once per `store.flush_interval`.
//! 3. [`Store::close`] waits until the last change is written.
//!
//! The file holds the passwords of devices, because the broker asks for them when a device is connected again, and the
//! keys of DTLS associations: only its owner can read it. A write ends with `fsync`, so that it survives a power
//! failure too.

mod database;
mod writer;

use std::fs::{OpenOptions, TryLockError};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use thiserror::Error;
use tracing::{error, info, warn};

use crate::conditions::Condition;
use crate::observability::metrics::Metrics;
use crate::transport::UdpListener;
use lwm2m_core::gateway::Gateway;
use lwm2m_core::gateway::record::Change;

use database::{Database, StoreOpenError};

pub use database::StoreContents;
use writer::StoreWriter;

/// Maximum number of changes in a batch.
const BATCH: usize = 256;
/// Maximum number of batches that wait for the writer.
const BATCHES: usize = 64;

/// The configuration of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    /// `None` enables the store unless the broker is embedded, because the embedded broker stores nothing either.
    pub enable: Option<bool>,
    /// The path of the file. A relative path starts at the working directory.
    pub file: PathBuf,
    /// Maximum time that a change waits to be written together with others.
    pub flush_interval: Duration,
}

/// Reasons why the store cannot be used. A damaged file is not among them: it is moved aside.
#[derive(Debug, Error)]
pub enum StoreError {
    #[error(
        "store.file = {}: another process uses it; every gateway needs a store of its own (or `store.enable = false`)",
        .0.display()
    )]
    InUse(PathBuf),
    #[error("store.file = {}: {error} (`store.enable = false` runs without a store)", .file.display())]
    NotOpened { file: PathBuf, error: std::io::Error },
    #[error("store.file = {}: it cannot be read ({problem}), and it cannot be put aside: {error}", .file.display())]
    NotPutAside { file: PathBuf, problem: String, error: std::io::Error },
    #[error("store.file = {}: it cannot be written: {problem}", .file.display())]
    NotWritten { file: PathBuf, problem: String },
}

/// The driver's end of the store.
pub struct Store {
    batches: SyncSender<Vec<Change>>,
    /// A batch for which the channel had no room. It is older than all changes that the core still holds.
    held: Option<Vec<Change>>,
    writer: JoinHandle<()>,
    closing: Arc<AtomicBool>,
    interval: Duration,
    metrics: Arc<Metrics>,
}

/// A store whose file has been read, before its writer has started.
pub struct OpenedStore {
    database: Database,
    settings: StoreConfig,
    listeners: Vec<UdpListener>,
    metrics: Arc<Metrics>,
}

impl OpenedStore {
    /// Writes changes at once, and waits until they are on the disk.
    pub fn write_now(&self, changes: &[Change]) -> Result<(), StoreError> {
        if changes.is_empty() {
            return Ok(());
        }
        let written = catch_unwind(AssertUnwindSafe(|| self.database.write(changes)));
        let problem = match written {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the pages of the file contradict each other".to_owned(),
        };
        self.metrics.store.write_errors.inc();
        Err(StoreError::NotWritten { file: self.settings.file.clone(), problem })
    }

    /// Starts the writer. The condition shows whether it succeeds.
    pub fn start(self, condition: Condition) -> Result<Store, StoreError> {
        let (batches, receiver) = sync_channel(BATCHES);
        let closing = Arc::new(AtomicBool::new(false));
        let (file, interval) = (self.settings.file.clone(), self.settings.flush_interval);
        let metrics = Arc::clone(&self.metrics);
        let writer = StoreWriter::new(self, receiver, Arc::clone(&closing), condition);
        let writer = thread::Builder::new()
            .name("store".to_owned())
            .spawn(|| writer.run())
            .map_err(|error| StoreError::NotOpened { file, error })?;
        Ok(Store { batches, held: None, writer, closing, interval, metrics })
    }
}

impl Store {
    /// Opens the file, or creates it, and returns its contents. A device comes back to the listener of the same name.
    /// `unix_time` names a file that is moved aside.
    pub fn open(
        settings: &StoreConfig,
        listeners: &[UdpListener],
        unix_time: Duration,
        metrics: Arc<Metrics>,
    ) -> Result<(OpenedStore, StoreContents), StoreError> {
        let (database, contents) = open_or_put_aside(settings, listeners, unix_time)?;
        let StoreContents { devices, associations, .. } = &contents;
        let (file, devices, associations) = (settings.file.display(), devices.len(), associations.len());
        info!(%file, devices, associations, "store opened");
        let opened = OpenedStore { database, settings: settings.clone(), listeners: listeners.to_vec(), metrics };
        Ok((opened, contents))
    }

    /// Returns when the present changes have to be handed over; `None` without changes.
    pub(crate) fn next_flush(&self, now: Instant, gateway: &Gateway) -> Option<Instant> {
        gateway.has_changes().then(|| now + self.interval)
    }

    /// Hands over a batch of changes, and returns when the next one is due. Never blocks.
    pub fn flush(&mut self, now: Instant, gateway: &mut Gateway) -> Option<Instant> {
        let batch = self.held.take().unwrap_or_else(|| gateway.take_changes(now, BATCH));
        match self.batches.try_send(batch) {
            Ok(()) => gateway.has_changes().then_some(now),
            Err(TrySendError::Full(batch)) => {
                self.metrics.store.queue_full.inc();
                self.held = Some(batch);
                Some(now + self.interval)
            }
            Err(TrySendError::Disconnected(_)) => unreachable!("the writer stays as long as somebody sends to it"),
        }
    }

    /// Hands over all remaining changes, and waits until they are written, but not longer than `patience`.
    pub async fn close(self, now: Instant, mut gateway: Gateway, patience: Duration) {
        let Self { batches, held, writer, closing, .. } = self;
        gateway.change_all();
        closing.store(true, Ordering::Relaxed);
        writer.thread().unpark();
        let last = tokio::task::spawn_blocking(move || {
            let mut next = held;
            while let Some(batch) = next.or_else(|| Some(gateway.take_changes(now, BATCH)))
                && !batch.is_empty()
                && batches.send(batch).is_ok()
            {
                next = None;
            }
            drop(batches);
            writer.join()
        });
        match tokio::time::timeout(patience, last).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(_)) | Err(_)) => error!("store writer failed"),
            Err(_) => warn!("store closed with unwritten changes"),
        }
    }
}

/// Tests whether the file could be opened and written; it is neither read nor changed nor created.
///
/// # Errors
/// If another process uses it, or the system does not allow it.
pub(crate) fn try_out(settings: &StoreConfig) -> Result<(), StoreError> {
    let file = &settings.file;
    let not_opened = |error| StoreError::NotOpened { file: file.clone(), error };
    match OpenOptions::new().read(true).write(true).open(file) {
        Ok(opened) => match opened.try_lock() {
            Ok(()) => Ok(()),
            Err(TryLockError::WouldBlock) => Err(StoreError::InUse(file.clone())),
            Err(TryLockError::Error(error)) => Err(not_opened(error)),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => try_folder(file).map_err(not_opened),
        Err(error) => Err(not_opened(error)),
    }
}

/// Tests whether a file can be created in the folder of the store.
fn try_folder(file: &Path) -> io::Result<()> {
    let mut beside = file.to_owned().into_os_string();
    beside.push(format!(".check-{}", std::process::id()));
    OpenOptions::new().write(true).create_new(true).open(&beside)?;
    std::fs::remove_file(&beside)
}

fn open_or_put_aside(
    settings: &StoreConfig,
    listeners: &[UdpListener],
    unix_time: Duration,
) -> Result<(Database, StoreContents), StoreError> {
    let file = &settings.file;
    let (problem, mark) = match Database::open(file, listeners) {
        Ok(opened) => return Ok(opened),
        Err(StoreOpenError::InUse) => return Err(StoreError::InUse(file.clone())),
        Err(StoreOpenError::Io(error)) => return Err(StoreError::NotOpened { file: file.clone(), error }),
        Err(StoreOpenError::Damaged(problem)) => (problem, "damaged"),
        Err(StoreOpenError::Newer(format)) => {
            (format!("it is of format {format}, which a newer version of this program writes"), "newer")
        }
    };
    let mut aside = file.clone().into_os_string();
    aside.push(format!(".{mark}-{}", unix_time.as_secs()));
    let aside = PathBuf::from(aside);
    std::fs::rename(file, &aside).map_err(|error| StoreError::NotPutAside {
        file: file.clone(),
        problem: problem.clone(),
        error,
    })?;
    error!(
        file = %file.display(),
        problem,
        put_aside = %aside.display(),
        "the store cannot be read: the devices that it knew have to register again; \
         a store of a newer version can be put back for that version, a damaged one can be deleted"
    );
    Database::open(file, listeners).map_err(|error| match error {
        StoreOpenError::InUse => StoreError::InUse(file.clone()),
        StoreOpenError::Io(error) => StoreError::NotOpened { file: file.clone(), error },
        StoreOpenError::Damaged(_) | StoreOpenError::Newer(_) => {
            StoreError::NotOpened { file: file.clone(), error: std::io::Error::other("a new file cannot be read back") }
        }
    })
}
