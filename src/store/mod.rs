//! Keeps what has to survive the process: registrations, observations, commands, DTLS associations and the other
//! records of the core.
//!
//! The store is to the driver what the link to the broker is: it takes commands ([`StoreCommand`]) and returns events
//! ([`StoreEvent`]), and it never makes the driver wait. [`file`] is the store in a file.
//!
//! 1. At the start the program opens the store, which returns its contents.
//! 2. While the program runs, the driver hands over batches of changes. The store writes them in this order, each batch
//!    as a whole, and confirms each when it is durable. Batches that have come meanwhile are written together.
//! 3. At the end the driver closes the store, which writes the remaining changes.

pub mod file;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use thiserror::Error;

use lwm2m_core::gateway::record::Change;
use lwm2m_core::gateway::{ChangeBatch, Gateway, Version};

use file::FileStore;

pub use file::{OpenedStore, StoreContents};

/// Maximum number of changes in a batch.
const BATCH: usize = 256;

/// The configuration of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    /// `None` enables the store unless the broker is embedded, because the embedded broker stores nothing either.
    pub enable: Option<bool>,
    /// The path of the file. A relative path starts at the working directory.
    pub file: PathBuf,
    /// Maximum time that a change waits to be written together with others.
    pub flush_interval: Duration,
    /// The moment at which devices and applications are told of a change.
    pub confirm: Confirm,
    /// Maximum time that a message to a device or an application waits for its write.
    pub patience: Duration,
}

/// The moment at which devices and applications are told of a change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Confirm {
    /// They are told when the change is durable. A crash loses nothing that was told.
    #[default]
    Stored,
    /// They are told at once, and the change is written later. A crash loses what was told just before it.
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
    #[error("store.file = {}: it cannot be read ({problem}), and it cannot be put aside: {error}", .file.display())]
    NotPutAside { file: PathBuf, problem: String, error: std::io::Error },
    #[error(
        "store.file = {}: {problem}. A newer version of this program wrote it: use that version, or move the file away; \
         devices then register again, and pending commands and generated keys are lost",
        .file.display()
    )]
    Newer { file: PathBuf, problem: String },
    #[error("store.file = {}: it cannot be written: {problem}", .file.display())]
    NotWritten { file: PathBuf, problem: String },
}

/// A request of the driver to the store.
#[derive(Debug)]
pub enum StoreCommand {
    /// Writes a batch of changes of this driver's gateway. [`StoreEvent::Stored`] follows when it is durable; a store
    /// that cannot write retries.
    Write { version: Version, changes: Vec<Change> },
}

/// A message of the store to the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreEvent {
    /// All batches of this driver's gateway up to this one are durable.
    Stored { version: Version },
}

/// The end of the store that one driver has.
pub enum Store {
    File(FileStore),
}

impl Store {
    /// Takes a command. Never waits.
    pub fn submit(&mut self, command: StoreCommand) {
        match self {
            Self::File(store) => store.submit(command),
        }
    }

    /// Returns whether the store takes another batch. If it does not, the driver keeps its changes as marks.
    pub fn has_room(&self) -> bool {
        match self {
            Self::File(store) => store.has_room(),
        }
    }

    /// Returns the number of the batch that was handed over last.
    pub(crate) fn last(&self) -> Version {
        match self {
            Self::File(store) => store.last(),
        }
    }

    /// Returns the next event. Cancel-safe. Without a living writer there is none.
    pub async fn event(&mut self) -> StoreEvent {
        match self {
            Self::File(store) => store.event().await,
        }
    }

    /// Returns when the present changes have to be handed over; `None` without changes.
    pub(crate) fn next_flush(&self, now: Instant, gateway: &Gateway) -> Option<Instant> {
        gateway.has_changes().then(|| now + self.interval())
    }

    /// Hands over a batch of changes, and returns when the next one is due. Never blocks.
    pub fn flush(&mut self, now: Instant, gateway: &mut Gateway) -> Option<Instant> {
        if !gateway.has_changes() {
            return None;
        }
        if !self.has_room() {
            self.count_full();
            return Some(now + self.interval());
        }
        self.write(gateway.take_batch(now, BATCH));
        gateway.has_changes().then_some(now)
    }

    /// Hands over all remaining changes, and waits until they are written, but not longer than `patience`.
    pub async fn close(self, now: Instant, gateway: Gateway, patience: Duration) {
        match self {
            Self::File(store) => store.close(now, gateway, patience).await,
        }
    }

    fn write(&mut self, batch: ChangeBatch) {
        let ChangeBatch { version, changes } = batch;
        self.submit(StoreCommand::Write { version, changes });
    }

    fn interval(&self) -> Duration {
        match self {
            Self::File(store) => store.interval(),
        }
    }

    fn count_full(&self) {
        match self {
            Self::File(store) => store.count_full(),
        }
    }
}
