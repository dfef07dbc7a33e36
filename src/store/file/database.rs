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

use std::collections::{HashMap, HashSet};
use std::fs::{self, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::thread;
use std::time::Duration;

use redb::{
    DatabaseError, ReadableDatabase, ReadableTable, ReadableTableMetadata, StorageError, Table, TableDefinition,
    WriteTransaction,
};
use thiserror::Error;
use tracing::{error, info};

use zeroize::Zeroizing;

use super::unchanged::UnchangedFile;
use crate::store::listeners::{ListenerNames, StoredRecord};
use crate::transport::UdpListener;
use lwm2m_base::AssociationId;
use lwm2m_base::identity::PskIdentity;
use lwm2m_core::bootstrap::secret::SecretBytes;
use lwm2m_core::gateway::record::{
    AwaitedBootstrapRecord, CampaignRecord, Change, DeviceRecord, FirmwareJobRecord, GeneratedKeyRecord, KeyPairRecord,
    ProfileRecord, RetainedCommandsRecord,
};
use lwm2m_core::registry::CommandDigest;
use lwm2m_dtls::{AssociationChange, SavedAssociation, Term, WriteTerms};

/// Counts up with each change of the tables that an older version could not read. 2: associations of DTLS. A program
/// that knows nothing of them would leave them as they are, and a later one would then use sequence numbers twice. 3:
/// an object list has its paths only once, as the texts of its links. 4: terms, and shards in the keys.
const FORMAT: u64 = 4;

/// Formats that this program can read.
const READABLE: std::ops::RangeInclusive<u64> = 1..=FORMAT;

/// Size of the cache, in bytes.
const CACHE: usize = 16 * 1024 * 1024;

/// Permissions of the file: it contains passwords and keys.
const MODE: u32 = 0o600;

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
/// Holds for each association the names of two listeners, the one at which it was established and the one by which it
/// is reached, and the bytes that the DTLS layer saved.
/// The firmware update of each endpoint, as JSON. An older program leaves them as they are.
const FIRMWARE_JOBS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("firmware_jobs");
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
        // Checksums do not prove that pages make sense; redb asserts it, and a file may not stop the program.
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

    /// Writes all changes or none, and waits until they are on the disk.
    pub(super) fn write<'c>(&self, changes: impl IntoIterator<Item = &'c Change>) -> Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
        {
            let mut devices = transaction.open_table(DEVICES)?;
            let mut commands = transaction.open_table(COMMANDS)?;
            let mut associations = transaction.open_table(ASSOCIATIONS)?;
            let mut retained_commands = transaction.open_table(RETAINED_COMMANDS)?;
            let mut profiles = transaction.open_table(PROFILES)?;
            let mut generated_keys = transaction.open_table(GENERATED_KEYS)?;
            let mut awaited_bootstraps = transaction.open_table(AWAITED_BOOTSTRAPS)?;
            let mut firmware_jobs = transaction.open_table(FIRMWARE_JOBS)?;
            let mut campaigns = transaction.open_table(CAMPAIGNS)?;
            for change in changes {
                match change {
                    Change::Put(record) => {
                        let key = (record.shard().number(), record.registration.endpoint.as_str());
                        devices.insert(key, self.listeners.encode(record).as_slice())?;
                        write_commands(&mut commands, record)?;
                    }
                    Change::Remove { shard, endpoint } => {
                        let key = (shard.number(), endpoint.as_str());
                        devices.remove(key)?;
                        keep_commands(&mut commands, key, &HashSet::new())?;
                    }
                    Change::RetainedCommands(record) => write_retained_commands(&mut retained_commands, record)?,
                    Change::Profile(record) => write_profile(&mut profiles, record)?,
                    Change::GeneratedKey(record) => write_generated_key(&mut generated_keys, record)?,
                    Change::AwaitedBootstrap(record) => write_awaited_bootstrap(&mut awaited_bootstraps, record)?,
                    Change::FirmwareJob(record) => write_firmware_job(&mut firmware_jobs, record)?,
                    Change::Campaign(record) => write_campaign(&mut campaigns, record)?,
                    Change::Association(AssociationChange::Put(saved)) => {
                        let [made_at, reached_by] =
                            [saved.made_at, saved.reached_by].map(|socket| self.listeners.name(socket));
                        associations.insert(saved.id.0, (made_at, reached_by, saved.bytes.as_slice()))?;
                    }
                    Change::Association(AssociationChange::Remove(id)) => {
                        associations.remove(id.0)?;
                    }
                }
            }
        }
        transaction.commit()?;
        Ok(())
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

    fn read(&self) -> Result<Vec<DeviceRecord>, redb::Error> {
        let transaction = self.database.begin_read()?;
        let devices = transaction.open_table(DEVICES)?;
        let commands = transaction.open_table(COMMANDS)?;
        let mut records = Vec::new();
        for entry in devices.iter()? {
            let (key, value) = entry?;
            let (shard, endpoint) = key.value();
            let mut record = match serde_json::from_slice(value.value()) {
                Ok(read) => self.listeners.place(read),
                // Its pages are whole, so that the others can be trusted.
                Err(error) => {
                    error!(endpoint, %error, "stored registration unreadable; the device must register again");
                    continue;
                }
            };
            let mut complete = Vec::new();
            for mut command in record.commands {
                let json = commands.get((shard, endpoint, command.serial))?;
                let json = json.map(|json| json.value().to_owned());
                let Some(Ok(echo)) = json.map(TryInto::try_into) else {
                    error!(endpoint, serial = command.serial, "stored command unreadable; it is lost");
                    continue;
                };
                command.command = echo;
                complete.push(command);
            }
            record.commands = complete;
            let mut complete = Vec::new();
            for mut answer in record.answers {
                let Some(json) = commands.get((shard, endpoint, answer.serial))? else {
                    error!(endpoint, serial = answer.serial, "stored answer missing; it is lost");
                    continue;
                };
                answer.payload = json.value().to_owned();
                complete.push(answer);
            }
            record.answers = complete;
            records.push(record);
        }
        Ok(records)
    }

    fn read_retained_commands(&self) -> Result<Vec<RetainedCommandsRecord>, redb::Error> {
        let transaction = self.database.begin_read()?;
        let mut records = Vec::new();
        for entry in transaction.open_table(RETAINED_COMMANDS)?.iter()? {
            let (endpoint, commands) = entry?;
            let (digests, _) = commands.value().as_chunks();
            let commands = digests.iter().map(|digest| CommandDigest(u64::from_be_bytes(*digest))).collect();
            records.push(RetainedCommandsRecord { endpoint: endpoint.value().to_owned(), commands });
        }
        Ok(records)
    }

    fn read_profiles(&self) -> Result<Vec<ProfileRecord>, redb::Error> {
        let transaction = self.database.begin_read()?;
        let mut records = Vec::new();
        for entry in transaction.open_table(PROFILES)?.iter()? {
            let (key, objects) = entry?;
            let objects = serde_json::from_slice(objects.value());
            if let Err(error) = &objects {
                error!(profile = key.value(), %error, "stored object list of a profile unreadable; it is removed");
            }
            records.push(ProfileRecord { key: key.value().to_owned(), objects: objects.ok() });
        }
        Ok(records)
    }

    fn read_generated_keys(&self) -> Result<Vec<GeneratedKeyRecord>, redb::Error> {
        let transaction = self.database.begin_read()?;
        let mut records = Vec::new();
        for entry in transaction.open_table(GENERATED_KEYS)?.iter()? {
            let (identity, keys) = entry?;
            let (key, next) = keys.value();
            let Some(identity) = PskIdentity::new(identity.value().as_bytes()) else { continue };
            let next = (!next.is_empty()).then(|| SecretBytes::new(next));
            records
                .push(GeneratedKeyRecord { identity, keys: Some(KeyPairRecord { key: SecretBytes::new(key), next }) });
        }
        Ok(records)
    }

    fn read_awaited_bootstraps(&self) -> Result<Vec<AwaitedBootstrapRecord>, redb::Error> {
        let transaction = self.database.begin_read()?;
        let mut records = Vec::new();
        for entry in transaction.open_table(AWAITED_BOOTSTRAPS)?.iter()? {
            let (endpoint, awaited) = entry?;
            let endpoint = endpoint.value().to_owned();
            match serde_json::from_slice(awaited.value()) {
                Ok(awaited) => records.push(AwaitedBootstrapRecord { endpoint, awaited: Some(awaited) }),
                Err(error) => error!(endpoint, %error, "stored bootstrap command unreadable; its answer is lost"),
            }
        }
        Ok(records)
    }

    fn read_firmware_jobs(&self) -> Result<Vec<FirmwareJobRecord>, redb::Error> {
        let transaction = self.database.begin_read()?;
        let mut records = Vec::new();
        for entry in transaction.open_table(FIRMWARE_JOBS)?.iter()? {
            let (endpoint, job) = entry?;
            match serde_json::from_slice(job.value()) {
                Ok(job) => records.push(FirmwareJobRecord { endpoint: endpoint.value().to_owned(), job: Some(job) }),
                Err(error) => {
                    error!(endpoint = endpoint.value(), %error, "stored firmware update unreadable; it is lost");
                }
            }
        }
        Ok(records)
    }

    fn read_campaigns(&self) -> Result<Vec<CampaignRecord>, redb::Error> {
        let transaction = self.database.begin_read()?;
        let mut records = Vec::new();
        for entry in transaction.open_table(CAMPAIGNS)?.iter()? {
            let (key, json) = entry?;
            let (campaign, endpoint) = key.value();
            let endpoint = (!endpoint.is_empty()).then(|| endpoint.to_owned());
            let json = Some(json.value().to_owned());
            records.push(CampaignRecord { campaign: campaign.to_owned(), endpoint, json });
        }
        Ok(records)
    }

    fn read_associations(&self) -> Result<Vec<SavedAssociation>, redb::Error> {
        let transaction = self.database.begin_read()?;
        let associations = transaction.open_table(ASSOCIATIONS)?;
        let mut saved = Vec::new();
        for entry in associations.iter()? {
            let (id, value) = entry?;
            let (made_at, reached_by, bytes) = value.value();
            let [made_at, reached_by] = [made_at, reached_by].map(|listener| self.listeners.secured_socket(listener));
            let bytes = Zeroizing::new(bytes.to_vec());
            saved.push(SavedAssociation { id: AssociationId(id.value()), made_at, reached_by, bytes });
        }
        Ok(saved)
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

/// Tells damaged files from errors of the system, which redb reports alike.
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
    match OpenOptions::new().write(true).create_new(true).mode(MODE).open(file) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let mut permissions = fs::metadata(file)?.permissions();
            if permissions.mode() & 0o077 == 0 {
                return Ok(());
            }
            permissions.set_mode(MODE);
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

fn write_retained_commands(
    table: &mut Table<'_, &str, &[u8]>,
    record: &RetainedCommandsRecord,
) -> Result<(), StorageError> {
    if record.commands.is_empty() {
        table.remove(record.endpoint.as_str())?;
    } else {
        let digests: Vec<u8> = record.commands.iter().flat_map(|command| command.0.to_be_bytes()).collect();
        table.insert(record.endpoint.as_str(), digests.as_slice())?;
    }
    Ok(())
}

fn write_profile(table: &mut Table<'_, &str, &[u8]>, record: &ProfileRecord) -> Result<(), StorageError> {
    match &record.objects {
        Some(objects) => {
            let json = serde_json::to_vec(objects).expect("keys are texts or numbers");
            table.insert(record.key.as_str(), json.as_slice())?;
        }
        None => drop(table.remove(record.key.as_str())?),
    }
    Ok(())
}

fn write_generated_key(
    table: &mut Table<'_, &str, (&[u8], &[u8])>,
    record: &GeneratedKeyRecord,
) -> Result<(), StorageError> {
    let identity = record.identity.as_str();
    match &record.keys {
        Some(KeyPairRecord { key, next }) => {
            let next = next.as_ref().map(SecretBytes::reveal).unwrap_or_default();
            table.insert(identity, (key.reveal(), next))?;
        }
        None => drop(table.remove(identity)?),
    }
    Ok(())
}

fn write_awaited_bootstrap(
    table: &mut Table<'_, &str, &[u8]>,
    record: &AwaitedBootstrapRecord,
) -> Result<(), StorageError> {
    match &record.awaited {
        Some(awaited) => {
            let json = serde_json::to_vec(awaited).expect("keys are texts, and numbers are whole");
            table.insert(record.endpoint.as_str(), json.as_slice())?;
        }
        None => drop(table.remove(record.endpoint.as_str())?),
    }
    Ok(())
}

fn write_firmware_job(table: &mut Table<'_, &str, &[u8]>, record: &FirmwareJobRecord) -> Result<(), StorageError> {
    match &record.job {
        Some(job) => {
            let json = serde_json::to_vec(job).expect("keys are texts, and numbers are whole");
            table.insert(record.endpoint.as_str(), json.as_slice())?;
        }
        None => drop(table.remove(record.endpoint.as_str())?),
    }
    Ok(())
}

fn write_campaign(table: &mut Table<'_, (&str, &str), &str>, record: &CampaignRecord) -> Result<(), StorageError> {
    let CampaignRecord { campaign, endpoint, json } = record;
    let (name, endpoint) = (campaign.as_str(), endpoint.as_deref().unwrap_or_default());
    match json {
        Some(json) => drop(table.insert((name, endpoint), json.as_str())?),
        None if endpoint.is_empty() => {
            // Nothing lies between a name and the same name with a zero byte: these are the records of this campaign
            // only.
            let end = format!("{name}\0");
            table.retain_in((name, "")..(end.as_str(), ""), |_, _| false)?;
        }
        None => drop(table.remove((name, endpoint))?),
    }
    Ok(())
}

fn write_commands(table: &mut CommandTable<'_>, record: &DeviceRecord) -> Result<(), StorageError> {
    let key @ (shard, endpoint) = (record.shard().number(), record.registration.endpoint.as_str());
    let commands = record.commands.iter().map(|command| command.serial);
    let current: HashSet<u64> = commands.chain(record.answers.iter().map(|answer| answer.serial)).collect();
    let written = keep_commands(table, key, &current)?;
    for answer in record.answers.iter().filter(|answer| !written.contains(&answer.serial)) {
        table.insert((shard, endpoint, answer.serial), answer.payload.as_str())?;
    }
    for command in record.commands.iter().filter(|command| !written.contains(&command.serial)) {
        table.insert((shard, endpoint, command.serial), command.command.to_json().as_str())?;
    }
    Ok(())
}

/// Removes all commands and answers of an endpoint except these, and returns those that were stored.
fn keep_commands(
    table: &mut CommandTable<'_>,
    (shard, endpoint): (u8, &str),
    current: &HashSet<u64>,
) -> Result<HashSet<u64>, StorageError> {
    let mut written = HashSet::new();
    for entry in table.range((shard, endpoint, 0)..=(shard, endpoint, u64::MAX))? {
        written.insert(entry?.0.value().2);
    }
    for serial in written.difference(current) {
        table.remove((shard, endpoint, *serial))?;
    }
    Ok(written)
}
