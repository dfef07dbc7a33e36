//! The store in a file, which one process uses at a time.

mod database;
mod unchanged;
mod writer;

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tracing::{error, info};

use crate::conditions::Condition;
use crate::observability::metrics::Metrics;
use crate::transport::UdpListener;
use lwm2m_core::gateway::persistence::record::Change;

use super::handle::{HandleParts, Sleeper, Store};
use super::{OpenedStore, StoreConfig, StoreError};
use database::{Database, StoreOpenError};
use writer::StoreWriter;

pub use database::StoreContents;

/// Maximum number of changes in a batch.
const BATCH: usize = 256;

/// A store whose file has been read, before its writer has started.
pub struct OpenedFile {
    database: Database,
    config: StoreConfig,
    listeners: Vec<UdpListener>,
    metrics: Arc<Metrics>,
}

impl OpenedFile {
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
        Err(StoreError::NotWritten { file: self.config.file.clone(), problem })
    }

    /// Starts the writer, and returns the ends of so many drivers.
    pub(crate) fn start_for(self, drivers: usize, condition: Condition) -> Result<Vec<Store>, StoreError> {
        let (writes, pending) = mpsc::unbounded_channel();
        let (open, closed) = watch::channel(());
        let closing = Arc::new(AtomicBool::new(false));
        let (file, interval) = (self.config.file.clone(), self.config.flush_interval);
        let metrics = Arc::clone(&self.metrics);
        let writer = StoreWriter::new(self, pending, Arc::clone(&closing), condition);
        let run = || {
            writer.run();
            drop(open);
        };
        let writer = thread::Builder::new()
            .name("store".to_owned())
            .spawn(run)
            .map_err(|error| StoreError::NotOpened { file, error })?;
        let sleeper = Sleeper::Thread(writer.thread().clone());
        let parts = HandleParts { writes, sleeper, closed, closing, interval, batch: BATCH, metrics };
        Ok(std::iter::repeat_with(|| Store::new(parts.clone())).take(drivers).collect())
    }
}

impl Store {
    /// Opens the file, or creates it, and returns its contents. A device comes back to the listener of the same name.
    /// `unix_time` is the wall clock time: the first term of the process follows it, and it names a file that is moved
    /// aside.
    pub fn open(
        config: &StoreConfig,
        listeners: &[UdpListener],
        unix_time: Duration,
        metrics: Arc<Metrics>,
    ) -> Result<(OpenedStore, StoreContents), StoreError> {
        let (database, contents) = open_or_put_aside(config, listeners, unix_time)?;
        let StoreContents { devices, associations, .. } = &contents;
        let (file, devices, associations) = (config.file.display(), devices.len(), associations.len());
        info!(%file, devices, associations, "store opened");
        let opened = OpenedFile { database, config: config.clone(), listeners: listeners.to_vec(), metrics };
        Ok((OpenedStore::File(Box::new(opened)), contents))
    }
}

/// Reads a file that no gateway uses, and does not change it. No gateway can use it while the returned file is open.
///
/// # Errors
/// The file is not there, a process uses it, or it cannot be read.
pub(crate) fn read_copy(file: &Path, listeners: &[UdpListener]) -> Result<(StoreContents, File), StoreOpenError> {
    Database::read_copy(file, listeners)
}

/// Tests whether the file could be opened and written. The file is neither read nor changed nor created.
///
/// # Errors
/// If another process uses it, or the system does not allow it.
pub(crate) fn try_out(config: &StoreConfig) -> Result<(), StoreError> {
    let file = &config.file;
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
    config: &StoreConfig,
    listeners: &[UdpListener],
    unix_time: Duration,
) -> Result<(Database, StoreContents), StoreError> {
    let file = &config.file;
    let problem = match Database::open(file, listeners, unix_time) {
        Ok(opened) => return Ok(opened),
        Err(StoreOpenError::InUse) => return Err(StoreError::InUse(file.clone())),
        Err(StoreOpenError::Io(error)) => return Err(StoreError::NotOpened { file: file.clone(), error }),
        Err(StoreOpenError::Damaged(problem)) => problem,
        Err(newer @ StoreOpenError::Newer(_)) => {
            return Err(StoreError::Newer { file: file.clone(), problem: newer.to_string() });
        }
    };
    let mut aside = file.clone().into_os_string();
    aside.push(format!(".damaged-{}", unix_time.as_secs()));
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
        "the store cannot be read: the devices that it knew have to register again; the damaged file can be deleted"
    );
    Database::open(file, listeners, unix_time).map_err(|error| match error {
        StoreOpenError::InUse => StoreError::InUse(file.clone()),
        StoreOpenError::Io(error) => StoreError::NotOpened { file: file.clone(), error },
        StoreOpenError::Damaged(_) | StoreOpenError::Newer(_) => {
            StoreError::NotOpened { file: file.clone(), error: std::io::Error::other("a new file cannot be read back") }
        }
    })
}
