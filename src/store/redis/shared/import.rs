//! Files the records of a store in a file in the shards of a cluster whose nodes do not run.
//!
//! 1. No gateway uses the store, and no DTLS record number in the file is of a later term than a node could take now.
//! 2. A device is imported as a whole or not: its registration, with commands and answers, its DTLS session, and what
//!    else belongs to it, by one script. The script refuses a shard that a node has, and a device that has a shard.
//! 3. The script also raises the term of the shard above all terms that the former gateway can have used.
//!
//! An import that was interrupted is begun again: the devices that are imported already are left as they are.

use std::collections::{HashMap, HashSet};
use std::time::Duration;
use std::vec;

use ::redis::{Cmd, Pipeline};
use rand::TryRng;
use rand::rngs::SysRng;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::clock::monotonic_now;
use crate::store::listeners::ListenerNames;
use crate::store::{StoreConfig, StoreContents};
use crate::transport::UdpListener;
use lwm2m_base::Shard;
use lwm2m_cluster::{Term, WallTime};
use lwm2m_core::gateway::moves::newest_records;
use lwm2m_core::gateway::persistence::record::{Change, DeviceRecord};
use lwm2m_dtls::{AssociationChange, SavedAssociation, SavedNumbers};

use super::super::connection::{ConnectionError, RedisConnection};
use super::super::layout::{BatchStep, Layout, RecordHash};
use super::super::lease::AnswerError;
use super::super::scripts::{PRELUDE, SEAL_KEYS};
use super::super::seal::Seal;
use super::super::users::users;
use super::super::{RedisError, check_about, dialer, random_text, seal_keys};
use super::requests::{FORMAT, eval};
use super::scripts::NAMES;

/// Number of devices in one request.
const AT_ONCE: usize = 64;
/// Maximum number of names in a report.
const NAMES_TOLD: usize = 10;

/// Files what belongs to one device. KEYS: the lease of its shard, about, name, the lease of a gateway without a
/// cluster, and the hashes. ARGV: `1` for a trial, `1` to replace what exists, format, fingerprints of the keys, a random
/// number for a new database, shard, prefix, endpoint (empty for a DTLS session without a registration); then for each
/// value the number of its hash, the field and the value.
///
/// Answers `imported`, `exists`, `held` with the process that has the shard, `used` with the gateway that uses the store
/// without a cluster, `format` with the stored format, or `seal`.
const IMPORT: &str = r"
local about = redis.call('HMGET', KEYS[2], 'format', 'seal')
local function holder(key)
  local l = redis.call('HMGET', key, 'owner', 'until')
  return l[1] and l[1] ~= '' and (tonumber(l[2]) or 0) > now and l[1]
end
if holder(KEYS[4]) then return {'used', holder(KEYS[4])} end
if about[1] and about[1] ~= ARGV[3] then return {'format', about[1]} end
if not knows_keys(about[2], ARGV[4]) then return {'seal'} end
if holder(KEYS[1]) then return {'held', holder(KEYS[1])} end
local endpoint, state, old, version, exists = ARGV[8], nil, nil, 0, false
local before
if endpoint ~= '' then
  state, old, version = place(KEYS[3])
  before = old and ARGV[7] .. ':{' .. old .. '}:'
  exists = old and redis.call('HEXISTS', before .. 'd', endpoint) == 1
else
  exists = redis.call('HEXISTS', KEYS[tonumber(ARGV[9])], ARGV[10]) == 1
end
if exists and ARGV[2] ~= '1' then return {'exists'} end
if old and holder(before .. 'lease') then return {'held', holder(before .. 'lease')} end
if ARGV[1] == '1' then return {'imported'} end
if not about[1] then redis.call('HSET', KEYS[2], 'format', ARGV[3], 'created', ARGV[5]) end
note_key(KEYS[2], ARGV[4])
local tick = math.floor((now - 1735689600000) / 4000)
local term = math.max(tonumber(redis.call('HGET', KEYS[1], 'term')) or 0, tick + 4)
redis.call('HSET', KEYS[1], 'term', text(term))
if old then
  for _, hash in ipairs({'d', 'r', 'f'}) do redis.call('HDEL', before .. hash, endpoint) end
  for _, field in ipairs(redis.call('HKEYS', before .. 'c')) do
    if string.sub(field, 1, #endpoint + 1) == endpoint .. '\0' then redis.call('HDEL', before .. 'c', field) end
  end
end
for i = 9, #ARGV, 3 do redis.call('HSET', KEYS[tonumber(ARGV[i])], ARGV[i + 1], ARGV[i + 2]) end
if endpoint ~= '' then set_place(KEYS[3], 's', ARGV[6], version) end
return {'imported'}
";

/// What an import does with records that exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ImportMode {
    /// Nothing is written.
    pub is_trial: bool,
    /// Devices that exist are replaced.
    pub replaces: bool,
}

/// What an import did, in numbers of records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ImportReport {
    pub devices: usize,
    /// The shards that got a device.
    pub shards: usize,
    pub commands: usize,
    pub sessions: usize,
    pub profiles: usize,
    /// The devices that were left, since they are in the cluster already, and the first names of them.
    pub existing: usize,
    pub existing_names: Vec<String>,
    /// The DTLS sessions without a registration that were left, since they are in the store already.
    pub existing_sessions: usize,
    /// The imported devices whose DTLS session could not be imported: they have to make a new handshake.
    pub without_session: usize,
    /// The DTLS sessions of a version of before terms, which a node of a cluster cannot go on with.
    pub sessions_before_terms: usize,
    /// The records that a cluster does not have: generated keys, awaited bootstraps, firmware campaigns.
    pub left: [usize; 3],
    /// Retained commands and firmware updates of devices that are not registered.
    pub without_device: usize,
}

/// Reasons why an import failed. None contains a secret.
#[derive(Debug, Error)]
pub(crate) enum ImportError {
    #[error(transparent)]
    Store(#[from] RedisError),
    #[error("the cluster runs: {0}. Stop all nodes, import, and start them again")]
    Running(String),
    #[error(
        "the gateway {0} uses this store without a cluster. A cluster needs a store of its own: set another \
         store.redis.prefix at all nodes"
    )]
    Used(String),
    #[error(
        "the file has DTLS record numbers that are {} ahead of the clock of the store's server, so that a node \
         would have to wait until it may send. The clock of the gateway or that of the server was wrong: correct it if it \
         still is, and import when this time is over",
        humantime::format_duration(*.ahead)
    )]
    Ahead { ahead: Duration },
    #[error(
        "a node ({0}) took a shard during the import. Stop all nodes, and import again: what is imported already is left \
         as it is"
    )]
    Held(String),
}

impl From<ConnectionError> for ImportError {
    fn from(error: ConnectionError) -> Self {
        Self::Store(error.into())
    }
}

impl From<AnswerError> for ImportError {
    fn from(error: AnswerError) -> Self {
        Self::Store(error.into())
    }
}

/// Files the records in the shards of the cluster.
pub(crate) async fn import(
    config: &StoreConfig,
    listeners: &[UdpListener],
    contents: StoreContents,
    mode: ImportMode,
) -> Result<ImportReport, ImportError> {
    let redis = &config.redis;
    let keys = seal_keys(redis)?;
    let fingerprints = keys.fingerprints().map_err(RedisError::from)?;
    let mut connection = dialer(redis)?.connect().await?;
    let (users, now) = users(&mut connection, &redis.prefix).await?;
    let (nodes, gateways): (Vec<_>, Vec<_>) =
        users.into_iter().filter(|user| user.lives).partition(|user| user.is_node);
    if let Some(gateway) = gateways.into_iter().next() {
        return Err(ImportError::Used(gateway.name));
    }
    check_about(&mut connection, (&redis.prefix, &fingerprints), FORMAT).await?;
    if !nodes.is_empty() {
        let names: Vec<String> = nodes.into_iter().map(|node| node.name).collect();
        return Err(ImportError::Running(names.join(", ")));
    }
    check_terms(&contents, WallTime(now))?;
    let seal = Seal::new(keys.sealing, 0);
    let mut work = Importing { connection, prefix: &redis.prefix, fingerprints, seal, mode };
    let (mut units, profiles) = ImportUnits::of(contents, listeners);
    let mut counts = ImportCounts::new(&units);
    loop {
        let together: Vec<ImportUnit> = units.by_ref().take(AT_ONCE).collect();
        if together.is_empty() {
            break;
        }
        for (unit, answer) in together.iter().zip(work.file(&together).await?) {
            counts.take(unit, answer)?;
        }
    }
    let profiles = work.file_profiles(profiles).await?;
    Ok(counts.report(&units, profiles))
}

/// Checks that no number in the file is of a later term than anybody may take now. Without a session there is none.
fn check_terms(contents: &StoreContents, now: WallTime) -> Result<(), ImportError> {
    if contents.associations.is_empty() {
        return Ok(());
    }
    let of_sessions = contents.associations.iter().filter_map(|saved| match saved.numbers() {
        SavedNumbers::UpTo(term) => Some(term),
        SavedNumbers::BeforeTerms | SavedNumbers::Unreadable => None,
    });
    let newest = of_sessions.fold(contents.term, Term::max);
    match newest.since(Term::last_at(now)) {
        None | Some(0) => Ok(()),
        Some(ticks) => {
            let ahead = Term::TICK.saturating_mul(u32::try_from(ticks).unwrap_or(u32::MAX));
            Err(ImportError::Ahead { ahead })
        }
    }
}

/// Counts what is imported.
struct ImportCounts {
    report: ImportReport,
    shards: HashSet<Shard>,
}

impl ImportCounts {
    fn new(units: &ImportUnits) -> Self {
        let sessions_before_terms = units.before_terms;
        let report = ImportReport { left: units.left, sessions_before_terms, ..ImportReport::default() };
        Self { report, shards: HashSet::new() }
    }

    /// Takes the answer of the script for a unit.
    fn take(&mut self, unit: &ImportUnit, answer: Vec<String>) -> Result<(), ImportError> {
        let report = &mut self.report;
        let is_device = !unit.endpoint.is_empty();
        match answer.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["imported"] => {
                report.sessions += usize::from(unit.has_session);
                if is_device {
                    report.devices += 1;
                    report.commands += unit.commands;
                    report.without_session += usize::from(unit.lacks_session);
                    self.shards.insert(unit.shard);
                }
            }
            ["exists"] if is_device => {
                report.existing += 1;
                if report.existing_names.len() < NAMES_TOLD {
                    report.existing_names.push(unit.endpoint.clone());
                }
            }
            ["exists"] => report.existing_sessions += 1,
            ["held", process] => return Err(ImportError::Held(process.to_owned())),
            ["used", gateway] => return Err(ImportError::Used(gateway.to_owned())),
            ["format", stored] => {
                return Err(RedisError::OtherFormat { stored: stored.to_owned(), expected: FORMAT }.into());
            }
            ["seal"] => return Err(RedisError::OtherSealKey.into()),
            _ => return Err(AnswerError::new(answer).into()),
        }
        Ok(())
    }

    /// Returns the numbers when all units were taken.
    fn report(self, units: &ImportUnits, profiles: usize) -> ImportReport {
        let without_device = units.companions.values().map(Vec::len).sum();
        ImportReport { shards: self.shards.len(), profiles, without_device, ..self.report }
    }
}

/// A value of a hash, with its field.
type HashValue = (RecordHash, Vec<u8>, Zeroizing<Vec<u8>>);

/// What belongs together.
struct ImportUnit {
    /// Empty for a DTLS session without a registration.
    endpoint: String,
    shard: Shard,
    values: Vec<HashValue>,
    commands: usize,
    has_session: bool,
    /// Whether it is a device over DTLS whose session is not imported.
    lacks_session: bool,
}

/// Divides the contents of a file into what belongs together, one after the other: at first the devices, then the DTLS
/// sessions without a registration.
struct ImportUnits {
    devices: vec::IntoIter<DeviceRecord>,
    sessions: HashMap<u64, SavedAssociation>,
    /// The records that belong to devices, by endpoint.
    companions: HashMap<String, Vec<Change>>,
    layout: Layout,
    before_terms: usize,
    left: [usize; 3],
}

impl ImportUnits {
    /// Divides the contents. Returns also the steps for the object lists of profiles, which belong to no device.
    fn of(contents: StoreContents, listeners: &[UdpListener]) -> (Self, Vec<BatchStep>) {
        let left = [contents.generated_keys.len(), contents.awaited_bootstraps.len(), contents.campaigns.len()];
        let mut layout = Layout::shared(ListenerNames::new(listeners));
        let mut before_terms = 0;
        let mut sessions = HashMap::new();
        for saved in contents.associations {
            match saved.numbers() {
                SavedNumbers::UpTo(_) => drop(sessions.insert(saved.id.0, saved)),
                SavedNumbers::BeforeTerms => before_terms += 1,
                SavedNumbers::Unreadable => {}
            }
        }
        let mut companions: HashMap<String, Vec<Change>> = HashMap::new();
        for record in contents.retained_commands {
            companions.entry(record.endpoint.clone()).or_default().push(Change::RetainedCommands(record));
        }
        for record in contents.firmware_jobs {
            companions.entry(record.endpoint.clone()).or_default().push(Change::FirmwareJob(record));
        }
        let now = monotonic_now();
        let profiles = contents.profiles.into_iter().map(Change::Profile);
        let profiles = profiles.flat_map(|profile| layout.steps(now, &profile)).collect();
        // A gateway with several threads may have stored an endpoint in two shards.
        let (newest, _) = newest_records(contents.devices);
        let devices = newest.into_iter();
        (Self { devices, sessions, companions, layout, before_terms, left }, profiles)
    }

    fn device(&mut self, record: DeviceRecord) -> ImportUnit {
        let (endpoint, shard) = (record.registration.endpoint.clone(), record.shard());
        let (commands, association) = (record.commands.len(), record.peer.association);
        let session = association.and_then(|id| self.sessions.remove(&id.0));
        let (has_session, lacks_session) = (session.is_some(), association.is_some() && session.is_none());
        let mut changes = vec![Change::Put(Box::new(record))];
        changes.extend(session.map(|saved| Change::Association(AssociationChange::Put(saved))));
        changes.extend(self.companions.remove(&endpoint).into_iter().flatten());
        let values = self.values(&changes);
        self.layout.forget_device(shard, &endpoint);
        ImportUnit { endpoint, shard, values, commands, has_session, lacks_session }
    }

    fn session(&mut self, saved: SavedAssociation) -> ImportUnit {
        let shard = saved.id.shard();
        let values = self.values(&[Change::Association(AssociationChange::Put(saved))]);
        ImportUnit { endpoint: String::new(), shard, values, commands: 0, has_session: true, lacks_session: false }
    }

    /// Returns the values of changes that only put something.
    fn values(&mut self, changes: &[Change]) -> Vec<HashValue> {
        self.layout.note_homes(changes);
        let now = monotonic_now();
        let steps = changes.iter().flat_map(|change| self.layout.steps(now, change)).collect::<Vec<_>>();
        let put = |step| match step {
            BatchStep::Put { hash, field, value } => Some((hash, field, value)),
            // Of an empty store nothing is removed.
            BatchStep::Remove { .. } | BatchStep::Clear { .. } => None,
        };
        steps.into_iter().filter_map(put).collect()
    }
}

impl Iterator for ImportUnits {
    type Item = ImportUnit;

    fn next(&mut self) -> Option<ImportUnit> {
        if let Some(record) = self.devices.next() {
            return Some(self.device(record));
        }
        let id = *self.sessions.keys().next()?;
        let saved = self.sessions.remove(&id)?;
        Some(self.session(saved))
    }
}

/// Holds what the requests need.
struct Importing<'a> {
    connection: RedisConnection,
    prefix: &'a str,
    fingerprints: String,
    seal: Seal,
    mode: ImportMode,
}

impl Importing<'_> {
    /// Files units together, and returns the answer to each.
    async fn file(&mut self, units: &[ImportUnit]) -> Result<Vec<Vec<String>>, ImportError> {
        let mut requests = Pipeline::new();
        for unit in units {
            let request = self.request(unit)?;
            requests.add_command(request);
        }
        Ok(self.connection.ask_all(&requests).await?)
    }

    fn request(&mut self, unit: &ImportUnit) -> Result<Cmd, RedisError> {
        let prefix = self.prefix;
        let mut keys = vec![
            format!("{prefix}:{{{}}}:lease", unit.shard.number()),
            format!("{prefix}:about"),
            format!("{prefix}:ep:{}", unit.endpoint),
            format!("{prefix}:lease"),
        ];
        let mut values: Vec<(usize, &[u8], Vec<u8>)> = Vec::new();
        for (hash, field, value) in &unit.values {
            let key = hash.key(prefix);
            let sealed = self.sealed(&key, field, value)?;
            let place = keys.iter().position(|known| *known == key).unwrap_or_else(|| {
                keys.push(key);
                keys.len() - 1
            });
            values.push((place + 1, field, sealed));
        }
        let mut request = eval(&format!("{PRELUDE}{SEAL_KEYS}{NAMES}{IMPORT}"), &keys);
        request.arg(u8::from(self.mode.is_trial)).arg(u8::from(self.mode.replaces));
        request.arg(FORMAT).arg(&self.fingerprints).arg(random_text()?);
        request.arg(unit.shard.number()).arg(prefix).arg(&unit.endpoint);
        for (place, field, sealed) in values {
            request.arg(place).arg(field).arg(sealed);
        }
        Ok(request)
    }

    /// Files the object lists that the store does not have, and returns how many.
    async fn file_profiles(&mut self, profiles: Vec<BatchStep>) -> Result<usize, ImportError> {
        let mut filed = 0;
        for step in profiles {
            let BatchStep::Put { hash, field, value } = step else { continue };
            let key = hash.key(self.prefix);
            let sealed = self.sealed(&key, &field, &value)?;
            let mut request = ::redis::cmd("HSETNX");
            request.arg(&key).arg(field).arg(sealed);
            filed += if self.mode.is_trial { 1 } else { self.connection.ask::<usize>(&request).await? };
        }
        Ok(filed)
    }

    fn sealed(&mut self, hash: &str, field: &[u8], value: &[u8]) -> Result<Vec<u8>, RedisError> {
        let mut nonce = [0; 12];
        SysRng.try_fill_bytes(&mut nonce).map_err(|_| RedisError::Random)?;
        Ok(self.seal.seal(hash, field, nonce, value)?)
    }
}

#[cfg(test)]
mod tests;
