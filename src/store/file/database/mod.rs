//! Reads and writes the file: a redb database with a table of devices and one of their commands.
//!
//! - `about`: the number of the format, and the first term of the newest process that has used the file.
//! - `shard_devices`: by shard and endpoint, the record as JSON, and the name of the listener that the device speaks
//!   to. The shard keeps the records of two gateways of one program apart that both had the endpoint.
//! - `shard_commands`: by shard, endpoint and serial, the JSON of a command, or of a final answer that the broker may
//!   not have. They are apart from the devices since they may be large and never change: a device is written often,
//!   each of its commands and answers once.
//! - `obeyed`: by endpoint, the digests of the retained commands that it was sent, the oldest first, 8 bytes of each.
//! - `profiles`: by protocol and profile ID, the object list as JSON.
//! - `generated_keys`: by identity, the key that the bootstrap server generated, and the one that is to replace it.
//! - `awaited_bootstraps`: by endpoint, the `bootstrap` command that awaits a session, as JSON. It outlives the
//!   registration.
//! - `firmware_jobs`: by endpoint, the firmware update as JSON. It outlives the registration.
//! - `campaigns`: by name and endpoint, the part of the device in a firmware campaign as JSON; without endpoint the
//!   campaign itself.
//! - `associations`: by id, what DTLS keeps, with the names of the listeners.

mod reading;
mod writing;

use std::collections::HashMap;
use std::fs::{self, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::thread;
use std::time::Duration;

use redb::{DatabaseError, ReadableTable, ReadableTableMetadata, Table, TableDefinition, WriteTransaction};
use thiserror::Error;
use tracing::info;

use super::unchanged::UnchangedFile;
use crate::store::listeners::{ListenerNames, StoredRecord};
use crate::transport::UdpListener;
use lwm2m_core::gateway::persistence::record::{
    AwaitedBootstrapRecord, CampaignRecord, DeviceRecord, FirmwareJobRecord, GeneratedKeyRecord, ProfileRecord,
    RetainedCommandsRecord,
};
use lwm2m_dtls::{SavedAssociation, Term, WriteTerms};

/// The number of the format. It counts up with each change of the tables that an older version could not read. 2:
/// associations of DTLS; an older version would leave them as they are, and a later one would then use sequence numbers
/// twice. 3: an object list has its paths only once, as the texts of its links. 4: terms, and shards in the keys.
const FORMAT: u64 = 4;

/// Formats that this program can read.
const READABLE: std::ops::RangeInclusive<u64> = 1..=FORMAT;

/// Size of the cache, in bytes.
const CACHE: usize = 16 * 1024 * 1024;

/// Permissions of the file: it contains passwords and keys.
const FILE_MODE: u32 = 0o600;

const ABOUT: TableDefinition<'_, &str, u64> = TableDefinition::new("about");
/// Lists by profile ID. An older program leaves them as they are: a profile ID stands for one list.
const PROFILES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("profiles");
/// Keys by identity; the second one is empty unless it is to replace the first. An older program leaves them as they
/// are.
const GENERATED_KEYS: TableDefinition<'_, &str, (&[u8], &[u8])> = TableDefinition::new("generated_keys");
/// Commands by endpoint. An older program leaves them as they are.
const AWAITED_BOOTSTRAPS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("awaited_bootstraps");
const DEVICES: TableDefinition<'_, (u8, &str), &[u8]> = TableDefinition::new("shard_devices");
// Another name of the table would be another format.
const RETAINED_COMMANDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("obeyed");
const COMMANDS: TableDefinition<'_, (u8, &str, u64), &str> = TableDefinition::new("shard_commands");
/// Devices of a format without shards.
const UNSHARDED_DEVICES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("devices");
/// Commands of a format without shards.
const UNSHARDED_COMMANDS: TableDefinition<'_, (&str, u64), &str> = TableDefinition::new("commands");
/// Firmware campaigns. An older program leaves them as they are.
const CAMPAIGNS: TableDefinition<'_, (&str, &str), &str> = TableDefinition::new("campaigns");
/// The firmware update of each endpoint, as JSON. An older program leaves them as they are.
const FIRMWARE_JOBS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("firmware_jobs");
/// Holds for each association the names of two listeners, the one at which it was established and the one by which it
/// is reached, and the bytes that the DTLS layer saved.
const ASSOCIATIONS: TableDefinition<'_, u64, (&str, &str, &[u8])> = TableDefinition::new("associations");

type CommandTable<'t> = Table<'t, (u8, &'static str, u64), &'static str>;

pub(super) struct Database {
    database: redb::Database,
    listeners: ListenerNames,
}

/// The contents of a store.
#[derive(Debug, Default)]
pub struct StoreContents {
    /// The first term of this process, which the store has already.
    pub term: Term,
    /// The clock that terms follow, since 1970, when the term was taken; `None` for that of this machine.
    pub store_clock: Option<Duration>,
    pub devices: Vec<DeviceRecord>,
    pub associations: Vec<SavedAssociation>,
    pub retained_commands: Vec<RetainedCommandsRecord>,
    pub profiles: Vec<ProfileRecord>,
    pub generated_keys: Vec<GeneratedKeyRecord>,
    pub awaited_bootstraps: Vec<AwaitedBootstrapRecord>,
    pub firmware_jobs: Vec<FirmwareJobRecord>,
    pub campaigns: Vec<CampaignRecord>,
}

/// Reasons why a file cannot be used as a store.
#[derive(Debug, Error)]
pub(crate) enum StoreOpenError {
    #[error("another process uses it")]
    InUse,
    #[error(transparent)]
    Io(io::Error),
    #[error("{0}")]
    Damaged(String),
    /// The format.
    #[error("it has format {0}, and this version reads the formats 1 to {FORMAT}")]
    Newer(u64),
}

impl Database {
    /// Opens a file, or creates it, and reads what is in it. Every checksum is verified.
    /// `unix_time` is the wall clock time, which the first term of the process follows.
    pub(super) fn open(
        file: &Path,
        listeners: &[UdpListener],
        unix_time: Duration,
    ) -> Result<(Self, StoreContents), StoreOpenError> {
        // Checksums do not prove that the pages make sense; redb asserts it, and a damaged file must not stop the
        // program.
        let opened = catch_unwind(AssertUnwindSafe(|| Self::open_file(file, listeners, unix_time)));
        opened.unwrap_or_else(|_| Err(StoreOpenError::Damaged("its pages contradict each other".to_owned())))
    }

    /// Reads a file that no process uses, without changing it: an older format is converted in memory. The term of the
    /// contents is the stored one. No process can open the file as its store while the returned one is open.
    pub(super) fn read_copy(
        file: &Path,
        listeners: &[UdpListener],
    ) -> Result<(StoreContents, fs::File), StoreOpenError> {
        let opened = catch_unwind(AssertUnwindSafe(|| Self::read_locked_copy(file, listeners)));
        opened.unwrap_or_else(|_| Err(StoreOpenError::Damaged("its pages contradict each other".to_owned())))
    }

    fn read_locked_copy(file: &Path, listeners: &[UdpListener]) -> Result<(StoreContents, fs::File), StoreOpenError> {
        let opened = fs::File::open(file).map_err(StoreOpenError::Io)?;
        match opened.try_lock_shared() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StoreOpenError::InUse),
            Err(TryLockError::Error(error)) => return Err(StoreOpenError::Io(error)),
        }
        if opened.metadata().map_err(StoreOpenError::Io)?.len() == 0 {
            return Err(StoreOpenError::Damaged("it is empty".to_owned()));
        }
        let lock = opened.try_clone().map_err(StoreOpenError::Io)?;
        let unchanged = UnchangedFile::new(opened).map_err(StoreOpenError::Io)?;
        let mut builder = redb::Database::builder();
        builder.set_cache_size(CACHE).set_check_integrity_on_open(true);
        let database = builder.create_with_backend(unchanged).map_err(|error| damage(error.into()))?;
        let database = Self { database, listeners: ListenerNames::new(listeners) };
        let term = database.prepare(|transaction| {
            let about = transaction.open_table(ABOUT)?;
            Ok(Term::new(about.get("term")?.map_or(0, |term| term.value())))
        })?;
        Ok((database.contents(term)?, lock))
    }

    /// Opens the file again, without reading it.
    pub(crate) fn reopen(file: &Path, listeners: &[UdpListener]) -> Result<Self, StoreOpenError> {
        Ok(Self { database: open_database(file)?, listeners: ListenerNames::new(listeners) })
    }

    fn open_file(
        file: &Path,
        listeners: &[UdpListener],
        unix_time: Duration,
    ) -> Result<(Self, StoreContents), StoreOpenError> {
        make_private(file).map_err(StoreOpenError::Io)?;
        let database = open_database(file)?;
        let database = Self { database, listeners: ListenerNames::new(listeners) };
        let term = database.prepare(|transaction| take_term(transaction, unix_time))?;
        let contents = database.contents(term)?;
        Ok((database, contents))
    }

    /// Reads everything. The term is that of this process.
    fn contents(&self, term: Term) -> Result<StoreContents, StoreOpenError> {
        let devices = self.read().map_err(damage)?;
        let associations = self.read_associations().map_err(damage)?;
        let retained_commands = self.read_retained_commands().map_err(damage)?;
        let profiles = self.read_profiles().map_err(damage)?;
        let generated_keys = self.read_generated_keys().map_err(damage)?;
        let awaited_bootstraps = self.read_awaited_bootstraps().map_err(damage)?;
        let firmware_jobs = self.read_firmware_jobs().map_err(damage)?;
        let campaigns = self.read_campaigns().map_err(damage)?;
        Ok(StoreContents {
            term,
            store_clock: None,
            devices,
            associations,
            retained_commands,
            profiles,
            generated_keys,
            awaited_bootstraps,
            firmware_jobs,
            campaigns,
        })
    }

    /// Checks the format of the file, converts an older one, and returns the term that `term_of` takes. All of this is
    /// durable when it returns. A file without a format is new.
    fn prepare(
        &self,
        term_of: impl FnOnce(&WriteTransaction) -> Result<Term, redb::Error>,
    ) -> Result<Term, StoreOpenError> {
        let transaction = self.database.begin_write().map_err(|error| damage(error.into()))?;
        let format = format_of(&transaction).map_err(damage)?;
        match format {
            known if READABLE.contains(&known) => {}
            older @ ..FORMAT => return Err(StoreOpenError::Damaged(format!("there is no format {older}"))),
            newer => return Err(StoreOpenError::Newer(newer)),
        }
        let convert = || -> Result<Term, redb::Error> {
            create_tables(&transaction)?;
            if format < FORMAT {
                add_shards(&transaction)?;
            }
            let term = term_of(&transaction)?;
            transaction.commit()?;
            Ok(term)
        };
        convert().map_err(damage)
    }
}

fn open_database(file: &Path) -> Result<redb::Database, StoreOpenError> {
    let mut builder = redb::Database::builder();
    builder.set_cache_size(CACHE).set_check_integrity_on_open(true);
    builder.create(file).map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => StoreOpenError::InUse,
        other => damage(other.into()),
    })
}

/// Distinguishes damaged files from errors of the system, which redb reports alike.
fn damage(error: redb::Error) -> StoreOpenError {
    match error {
        redb::Error::Io(error)
            if !matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
        {
            StoreOpenError::Io(error)
        }
        other => StoreOpenError::Damaged(other.to_string()),
    }
}

/// Creates the file, or corrects its permissions, so that only its owner can read it.
fn make_private(file: &Path) -> io::Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(file) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let mut permissions = fs::metadata(file)?.permissions();
            if permissions.mode() & 0o077 == 0 {
                return Ok(());
            }
            permissions.set_mode(FILE_MODE);
            fs::set_permissions(file, permissions)
        }
        Err(error) => Err(error),
    }
}

/// Returns the format of the file. A new file has none, and becomes one of this format.
fn format_of(transaction: &WriteTransaction) -> Result<u64, redb::Error> {
    let about = transaction.open_table(ABOUT)?;
    let format = about.get("format")?.map_or(FORMAT, |format| format.value());
    Ok(format)
}

/// Takes the first term of this process. If there are associations, the tick of the clock is above the stored term
/// first.
fn take_term(transaction: &WriteTransaction, unix_time: Duration) -> Result<Term, redb::Error> {
    let mut about = transaction.open_table(ABOUT)?;
    let stored = Term::new(about.get("term")?.map_or(0, |term| term.value()));
    let term = if transaction.open_table(ASSOCIATIONS)?.is_empty()? {
        // No association has used the stored term.
        stored.max(WriteTerms::first_after(Term::NONE, unix_time))
    } else {
        let wait = WriteTerms::wait_after(stored, unix_time);
        if !wait.is_zero() {
            info!(?wait, "waiting, since the program was started just before: DTLS record numbers may not repeat");
            wait_at_start(wait);
        }
        WriteTerms::first_after(stored, unix_time + wait)
    };
    about.insert("term", term.number())?;
    about.insert("format", FORMAT)?;
    Ok(term)
}

#[expect(clippy::disallowed_methods, reason = "nothing is served before the store is open")]
fn wait_at_start(wait: Duration) {
    thread::sleep(wait);
}

/// Moves the devices and commands of a format without shards to the tables of this format.
fn add_shards(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    let mut shards = HashMap::new();
    {
        let older = transaction.open_table(UNSHARDED_DEVICES)?;
        let mut devices = transaction.open_table(DEVICES)?;
        for entry in older.iter()? {
            let (endpoint, value) = entry?;
            let endpoint = endpoint.value();
            // An unreadable record is reported when the devices are read.
            let read = serde_json::from_slice::<StoredRecord>(value.value());
            let shard = read.map_or(0, |read| read.record.shard().number());
            devices.insert((shard, endpoint), value.value())?;
            shards.insert(endpoint.to_owned(), shard);
        }
        let older = transaction.open_table(UNSHARDED_COMMANDS)?;
        let mut commands = transaction.open_table(COMMANDS)?;
        for entry in older.iter()? {
            let (key, json) = entry?;
            let (endpoint, serial) = key.value();
            if let Some(shard) = shards.get(endpoint) {
                commands.insert((*shard, endpoint, serial), json.value())?;
            }
        }
    }
    transaction.delete_table(UNSHARDED_DEVICES)?;
    transaction.delete_table(UNSHARDED_COMMANDS)?;
    Ok(())
}

fn create_tables(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    transaction.open_table(DEVICES)?;
    transaction.open_table(COMMANDS)?;
    transaction.open_table(ASSOCIATIONS)?;
    transaction.open_table(RETAINED_COMMANDS)?;
    transaction.open_table(PROFILES)?;
    transaction.open_table(GENERATED_KEYS)?;
    transaction.open_table(AWAITED_BOOTSTRAPS)?;
    transaction.open_table(FIRMWARE_JOBS)?;
    transaction.open_table(CAMPAIGNS)?;
    Ok(())
}
