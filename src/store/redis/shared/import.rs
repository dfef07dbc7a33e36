//! Files the records of a store in a file in the shards of a cluster whose nodes do not run.
//!
//! A device is imported as a whole or not: its registration, with commands and answers, its DTLS session, and what else
//! belongs to it, by one script. The script refuses a shard that a node has, and a device that has a shard.

use std::collections::{HashMap, HashSet};

use ::redis::{Cmd, Pipeline};
use rand::TryRng;
use rand::rngs::SysRng;
use thiserror::Error;

use crate::clock::monotonic_now;
use crate::store::listeners::ListenerNames;
use crate::store::{StoreConfig, StoreContents};
use crate::transport::UdpListener;
use lwm2m_base::Shard;
use lwm2m_cluster::Term;
use lwm2m_core::gateway::record::Change;
use lwm2m_dtls::{AssociationChange, SavedAssociation};

use super::super::connection::{ConnectionError, RedisConnection};
use super::super::layout::{BatchStep, Layout, RecordHash};
use super::super::lease::AnswerError;
use super::super::scripts::PRELUDE;
use super::super::seal::Seal;
use super::super::{RedisError, check_about, dialer, random_text, seal_keys};
use super::living::living_nodes;
use super::requests::{FORMAT, eval};
use super::scripts::NAMES;

/// Number of devices in one request.
const AT_ONCE: usize = 64;

/// Files what belongs to one device. KEYS: the lease of its shard, about, name, and the hashes. ARGV: `1` for a trial,
/// `1` to replace what exists, format, fingerprints of the keys, a random number for a new database, the term after which
/// the next one begins, shard, prefix, endpoint (empty for a DTLS session without a registration); then for each value
/// the number of its hash, the field and the value.
///
/// Answers `imported`, `exists`, `held` with the process that has the shard, `format` with the stored format, or `seal`.
const IMPORT: &str = r"
local about = redis.call('HMGET', KEYS[2], 'format', 'seal')
if about[1] and about[1] ~= ARGV[3] then return {'format', about[1]} end
if about[2] and not string.find(ARGV[4], about[2], 1, true) then return {'seal'} end
local function holder(key)
  local l = redis.call('HMGET', key, 'owner', 'until')
  return l[1] and l[1] ~= '' and (tonumber(l[2]) or 0) > now and l[1]
end
if holder(KEYS[1]) then return {'held', holder(KEYS[1])} end
local endpoint, state, old, version, exists = ARGV[9], nil, nil, 0, false
if endpoint ~= '' then
  state, old, version = place(KEYS[3])
  exists = old ~= nil
else
  exists = redis.call('HEXISTS', KEYS[tonumber(ARGV[10])], ARGV[11]) == 1
end
if exists and ARGV[2] ~= '1' then return {'exists'} end
local before = old and ARGV[8] .. ':{' .. old .. '}:'
if old and holder(before .. 'lease') then return {'held', holder(before .. 'lease')} end
if ARGV[1] == '1' then return {'imported'} end
if not about[1] then
  redis.call('HSET', KEYS[2], 'format', ARGV[3], 'seal', sealing(ARGV[4]), 'created', ARGV[5])
end
local tick = math.floor((now - 1735689600000) / 4000)
local term = math.max(tonumber(redis.call('HGET', KEYS[1], 'term')) or 0, tick + 4, tonumber(ARGV[6]))
redis.call('HSET', KEYS[1], 'term', text(term))
if old then
  for _, hash in ipairs({'d', 'r', 'f'}) do redis.call('HDEL', before .. hash, endpoint) end
  for _, field in ipairs(redis.call('HKEYS', before .. 'c')) do
    if string.sub(field, 1, #endpoint + 1) == endpoint .. '\0' then redis.call('HDEL', before .. 'c', field) end
  end
end
for i = 10, #ARGV, 3 do redis.call('HSET', KEYS[tonumber(ARGV[i])], ARGV[i + 1], ARGV[i + 2]) end
if endpoint ~= '' then set_place(KEYS[3], 's', ARGV[7], version) end
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
    /// The shards of the imported devices.
    pub shards: usize,
    pub commands: usize,
    pub associations: usize,
    pub profiles: usize,
    /// The endpoints that were left, since they are registered in the cluster.
    pub existing: Vec<String>,
    /// The DTLS sessions that were left, since they are in the store already.
    pub existing_associations: usize,
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

/// What belongs together.
struct ImportUnit {
    /// Empty for a DTLS session without a registration.
    endpoint: String,
    shard: Shard,
    steps: Vec<(RecordHash, Vec<u8>, zeroize::Zeroizing<Vec<u8>>)>,
    commands: usize,
    associations: usize,
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
    check_about(&mut connection, (&redis.prefix, &fingerprints), FORMAT).await?;
    let running = living_nodes(&mut connection, &redis.prefix).await?;
    if !running.is_empty() {
        let names: Vec<String> = running.into_iter().map(|node| node.name).collect();
        return Err(ImportError::Running(names.join(", ")));
    }
    let term = contents.term;
    let (units, profiles, mut report) = units_of(contents, listeners);
    let seal = Seal::new(keys.sealing, 0);
    let mut work = Importing { connection, prefix: &redis.prefix, fingerprints, seal, term, mode };
    let mut shards = HashSet::new();
    for together in units.chunks(AT_ONCE) {
        for (unit, answer) in together.iter().zip(work.file(together).await?) {
            match answer.iter().map(String::as_str).collect::<Vec<_>>()[..] {
                ["imported"] => {
                    report.devices += usize::from(!unit.endpoint.is_empty());
                    report.commands += unit.commands;
                    report.associations += unit.associations;
                    shards.extend((!unit.endpoint.is_empty()).then_some(unit.shard));
                }
                ["exists"] if unit.endpoint.is_empty() => report.existing_associations += 1,
                ["exists"] => report.existing.push(unit.endpoint.clone()),
                ["held", process] => return Err(ImportError::Held(process.to_owned())),
                ["format", stored] => {
                    return Err(RedisError::OtherFormat { stored: stored.to_owned(), expected: FORMAT }.into());
                }
                ["seal"] => return Err(RedisError::OtherSealKey.into()),
                _ => return Err(AnswerError::new(answer).into()),
            }
        }
    }
    report.shards = shards.len();
    report.profiles = work.file_profiles(profiles).await?;
    Ok(report)
}

/// Divides the contents into what belongs together, and the object lists of profiles. Counts what is left.
fn units_of(contents: StoreContents, listeners: &[UdpListener]) -> (Vec<ImportUnit>, Vec<BatchStep>, ImportReport) {
    let mut report = ImportReport {
        left: [contents.generated_keys.len(), contents.awaited_bootstraps.len(), contents.campaigns.len()],
        ..ImportReport::default()
    };
    let mut layout = Layout::shared(ListenerNames::new(listeners));
    let mut associations: HashMap<u64, SavedAssociation> =
        contents.associations.into_iter().map(|saved| (saved.id.0, saved)).collect();
    let mut companions: HashMap<String, Vec<Change>> = HashMap::new();
    for record in contents.retained_commands {
        companions.entry(record.endpoint.clone()).or_default().push(Change::RetainedCommands(record));
    }
    for record in contents.firmware_jobs {
        companions.entry(record.endpoint.clone()).or_default().push(Change::FirmwareJob(record));
    }
    let mut units = Vec::new();
    for record in contents.devices {
        let (endpoint, shard) = (record.registration.endpoint.clone(), record.shard());
        let (commands, session) = (record.commands.len(), record.peer.association);
        let session = session.and_then(|id| associations.remove(&id.0));
        let mut changes = vec![Change::Put(Box::new(record))];
        let associations = usize::from(session.is_some());
        changes.extend(session.map(|saved| Change::Association(AssociationChange::Put(saved))));
        changes.extend(companions.remove(&endpoint).into_iter().flatten());
        units.push(ImportUnit { steps: puts(&mut layout, &changes), endpoint, shard, commands, associations });
    }
    report.without_device = companions.into_values().map(|records| records.len()).sum();
    for saved in associations.into_values() {
        let shard = saved.id.shard();
        let steps = puts(&mut layout, &[Change::Association(AssociationChange::Put(saved))]);
        units.push(ImportUnit { endpoint: String::new(), shard, steps, commands: 0, associations: 1 });
    }
    let now = monotonic_now();
    let profiles = contents.profiles.into_iter().map(Change::Profile);
    let profiles = profiles.flat_map(|profile| layout.steps(now, &profile)).collect();
    (units, profiles, report)
}

/// Returns the values of changes that only put something.
fn puts(layout: &mut Layout, changes: &[Change]) -> Vec<(RecordHash, Vec<u8>, zeroize::Zeroizing<Vec<u8>>)> {
    layout.note_homes(changes);
    let now = monotonic_now();
    let steps = changes.iter().flat_map(|change| layout.steps(now, change)).collect::<Vec<_>>();
    let put = |step| match step {
        BatchStep::Put { hash, field, value } => Some((hash, field, value)),
        // Of an empty store nothing is removed.
        BatchStep::Remove { .. } | BatchStep::Clear { .. } => None,
    };
    steps.into_iter().filter_map(put).collect()
}

/// Holds what the requests need.
struct Importing<'a> {
    connection: RedisConnection,
    prefix: &'a str,
    fingerprints: String,
    seal: Seal,
    /// The first term of the last process that used the file.
    term: Term,
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
        ];
        let mut values: Vec<(usize, &[u8], Vec<u8>)> = Vec::new();
        for (hash, field, value) in &unit.steps {
            let key = hash.key(prefix);
            let sealed = self.sealed(&key, field, value)?;
            let place = keys.iter().position(|known| *known == key).unwrap_or_else(|| {
                keys.push(key);
                keys.len() - 1
            });
            values.push((place + 1, field, sealed));
        }
        let mut request = eval(&format!("{PRELUDE}{NAMES}{IMPORT}"), &keys);
        request.arg(u8::from(self.mode.is_trial)).arg(u8::from(self.mode.replaces));
        // Its process may have used some terms after its first one.
        let term = self.term.number().saturating_add(Term::AHEAD);
        request.arg(FORMAT).arg(&self.fingerprints).arg(random_text()?).arg(term);
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
