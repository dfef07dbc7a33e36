//! Keeps what has to survive the process: registrations, observations, commands, DTLS associations and the other
//! records of the core.
//!
//! The store is to the driver what the link to the broker is: it takes commands ([`StoreCommand`]) and returns events
//! ([`StoreEvent`]), and it never makes the driver wait. [`mod@file`] is the store in a file, [`redis`] the one at a
//! server of the Redis protocol.
//!
//! 1. At the start the program opens the store, which returns its contents.
//! 2. While the program runs, the driver hands over batches of changes. The store writes them in this order, each batch
//!    as a whole, and confirms each when it is durable. Batches that have come meanwhile are written together.
//! 3. At the end the driver closes the store, which writes the remaining changes.

pub mod file;
mod handle;
mod listeners;
pub mod redis;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;

use lwm2m_core::gateway::BatchNumber;
use lwm2m_core::gateway::persistence::record::Change;

use crate::conditions::Condition;
use crate::observability::metrics::Metrics;
use crate::transport::UdpListener;

use file::OpenedFile;
use redis::config::RedisConfig;
use redis::shared::OpenedShared;
use redis::{OpenedRedis, RedisError};

pub use file::StoreContents;
pub use handle::Store;

/// The configuration of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    /// `None` enables the store unless the broker is embedded, because the embedded broker stores nothing either.
    pub enable: Option<bool>,
    pub kind: StoreKind,
    pub redis: RedisConfig,
    /// The path of the file. A relative path starts at the working directory.
    pub file: PathBuf,
    /// Maximum time that a change waits to be written together with others.
    pub flush_interval: Duration,
    /// Whether answers wait until their records are stored.
    pub confirm: Confirm,
    /// Maximum time that an answer waits for its record.
    pub patience: Duration,
}

/// The place of the records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StoreKind {
    /// A file of this machine.
    #[default]
    File,
    /// A server of the Redis protocol, such as Valkey.
    Redis,
}

/// Whether answers to devices and applications wait until their records are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Confirm {
    /// An answer is sent when its record is durable. A crash loses nothing that was answered.
    #[default]
    Stored,
    /// An answer is sent at once, and its record is written later. A crash loses the records of the newest answers.
    Behind,
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
    #[error("store.file = {}: it cannot be read ({problem}), and it cannot be renamed: {error}", .file.display())]
    NotPutAside { file: PathBuf, problem: String, error: std::io::Error },
    #[error(
        "store.file = {}: {problem}. A newer version of this program wrote it: use that version, or move the file \
         away; devices then register again, and pending commands and generated keys are lost",
        .file.display()
    )]
    Newer { file: PathBuf, problem: String },
    #[error("store.file = {}: it cannot be written: {problem}", .file.display())]
    NotWritten { file: PathBuf, problem: String },
    #[error(transparent)]
    Redis(#[from] RedisError),
}

/// A request of the driver to the store.
#[derive(Debug)]
pub enum StoreCommand {
    /// Writes a batch of changes of this driver's gateway. [`StoreEvent::Stored`] follows when it is durable; a store
    /// that cannot write retries.
    Write { version: BatchNumber, changes: Vec<Change> },
}

/// A message of the store to the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreEvent {
    /// All batches of this driver's gateway up to this one are durable.
    Stored { version: BatchNumber },
    /// The store cannot be written. It retries, and reports when it has written again. A store in a file does not
    /// report this.
    Away,
    /// The store can be written again.
    Back,
    /// No other process can use the store before this time. A store in a file has no such limit.
    Leased { until: Instant },
    /// The store has lost some or all of its records. The driver hands over all of them again.
    ContentsLost,
    /// Another process has taken the store. The program ends without informing devices or the broker.
    Fenced,
}

/// A store whose records have been read, before it is given to drivers.
pub enum OpenedStore {
    File(Box<OpenedFile>),
    Redis(OpenedRedis),
    /// The store of a cluster.
    Shared(OpenedShared),
}

impl OpenedStore {
    /// Opens the store of these settings and reads its records. `unix_time` is the wall clock time.
    ///
    /// # Errors
    /// The store cannot be used, or another process uses it.
    pub async fn open(
        config: &StoreConfig,
        listeners: &[UdpListener],
        unix_time: Duration,
        metrics: Arc<Metrics>,
    ) -> Result<(Self, StoreContents), StoreError> {
        match config.kind {
            StoreKind::File => Store::open(config, listeners, unix_time, metrics),
            StoreKind::Redis => {
                let (opened, contents) = redis::open(config, listeners, metrics).await?;
                Ok((Self::Redis(opened), contents))
            }
        }
    }

    /// Writes changes before devices are served.
    pub fn write_now(&self, changes: &[Change]) -> Result<(), StoreError> {
        match self {
            Self::File(file) => file.write_now(changes),
            Self::Redis(redis) => {
                redis.write_first(changes);
                Ok(())
            }
            Self::Shared(_) => {
                debug_assert!(changes.is_empty(), "a node of a cluster begins without shards");
                Ok(())
            }
        }
    }

    /// Starts the writer. The condition shows whether it succeeds.
    pub fn start(self, condition: Condition) -> Result<Store, StoreError> {
        Ok(self.start_for(1, condition)?.remove(0))
    }

    /// Starts the writer, and returns the handles of so many drivers.
    pub(crate) fn start_for(self, drivers: usize, condition: Condition) -> Result<Vec<Store>, StoreError> {
        match self {
            Self::File(file) => file.start_for(drivers, condition),
            Self::Redis(redis) => Ok(redis.start_for(drivers, condition)),
            Self::Shared(shared) => Ok(shared.start_for(drivers, condition)),
        }
    }
}
