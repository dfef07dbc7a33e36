//! Seals all records anew with another key, also while gateways use the store.
//!
//! 1. Gateways that use the store know both keys, so that each reads what the others write.
//! 2. From then on a gateway that does not know the new key cannot use the store.
//! 3. Each record that the old key opens is replaced by the same record, sealed with the new key, unless it was written
//!    meanwhile. That is repeated until no record of the old key is found.

use ::redis::{Cmd, cmd};
use rand::TryRng;
use rand::rngs::SysRng;
use thiserror::Error;

use super::config::RedisConfig;
use super::connection::{ConnectionError, RedisConnection};
use super::layout::{FORMAT, RecordHash};
use super::seal::{Seal, SealKeys};
use super::shared::NodeReport;
use super::{RedisError, dialer, seal_keys, shared};
use lwm2m_base::Shard;

/// Number of records that are asked for at once.
const PAGE: usize = 64;
/// Maximum number of times that all records are looked at.
const PASSES: usize = 8;

/// Replaces sealed values that were not written meanwhile. KEYS: hash. ARGV: for each value its field, the value, and
/// the new value. Answers how many were replaced.
const REPLACE: &str = r"
local count = 0
for i = 1, #ARGV, 3 do
  if redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[i + 1] then
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 2])
    count = count + 1
  end
end
return count
";

/// Notes the key that seals from now on. KEYS: about. ARGV: fingerprints of the new and the old key. Answers the
/// fingerprint of before.
const NOTE_KEY: &str = r"
local before = redis.call('HGET', KEYS[1], 'seal')
if before == ARGV[2] then redis.call('HSET', KEYS[1], 'seal', ARGV[1]) end
return before
";

/// Fields of a hash, each with its sealed value.
type SealedFields = Vec<(Vec<u8>, Vec<u8>)>;

/// The numbers of records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RekeyReport {
    /// Those that were sealed anew.
    pub replaced: usize,
    /// Those that were sealed with the new key already.
    pub new: usize,
    /// Those that neither key opens.
    pub unreadable: usize,
}

/// Reasons why the records cannot be sealed anew. None contains a secret.
#[derive(Debug, Error)]
pub(crate) enum RekeyError {
    #[error(transparent)]
    Store(#[from] RedisError),
    #[error("store.redis.other_seal_keyfile: required: the key by which the records are sealed now")]
    NoOtherKey,
    #[error("store.redis: there are no records under this prefix")]
    Empty,
    #[error(
        "the node {0} does not know the new key: set store.redis.other_seal_keyfile to the new key at all nodes, and \
         restart one after the other"
    )]
    NotKnown(String),
    #[error("{0} records were sealed with the old key meanwhile: a gateway still has it as store.redis.seal_keyfile")]
    StillUsed(usize),
}

impl From<ConnectionError> for RekeyError {
    fn from(error: ConnectionError) -> Self {
        Self::Store(error.into())
    }
}

/// Seals all records with `seal_keyfile` that `other_seal_keyfile` opens.
pub(crate) async fn rekey(config: &RedisConfig) -> Result<RekeyReport, RekeyError> {
    let keys = seal_keys(config)?;
    let fingerprints = keys.fingerprints().map_err(RedisError::from)?;
    let Some((new, old)) = fingerprints.split_once(' ') else { return Err(RekeyError::NoOtherKey) };
    let mut connection = dialer(config)?.connect().await?;
    let about = format!("{}:about", config.prefix);
    check_format(&mut connection, &about).await?;
    let nodes = shared::living_nodes(&mut connection, &config.prefix).await?;
    let knows = |report: &Option<NodeReport>| {
        report.as_ref().is_some_and(|report| report.keys.iter().any(|known| known == new))
    };
    if let Some(node) = nodes.into_iter().find(|node| !knows(&node.report)) {
        return Err(RekeyError::NotKnown(node.name));
    }
    let before: Option<String> = connection.ask(script(NOTE_KEY, &about).arg(new).arg(old)).await?;
    if before.is_some_and(|before| before != new && before != old) {
        return Err(RedisError::OtherSealKey.into());
    }
    let mut work = Rekeying { connection, prefix: &config.prefix, seal: Seal::new(keys.sealing.clone(), 0), keys };
    let mut replaced = 0;
    for _ in 0..PASSES {
        let (found, report) = work.pass().await?;
        replaced += report.replaced;
        if found == 0 {
            return Ok(RekeyReport { replaced, new: report.new.saturating_sub(replaced), ..report });
        }
    }
    let (found, _) = work.pass().await?;
    Err(RekeyError::StillUsed(found))
}

async fn check_format(connection: &mut RedisConnection, about: &str) -> Result<(), RekeyError> {
    let stored: Option<String> = connection.ask(cmd("HGET").arg(about).arg("format")).await?;
    match stored {
        None => Err(RekeyError::Empty),
        Some(stored) if stored == FORMAT || stored == shared::FORMAT => Ok(()),
        Some(stored) => Err(RedisError::OtherFormat { stored, expected: shared::FORMAT }.into()),
    }
}

/// Holds what a pass needs.
struct Rekeying<'a> {
    connection: RedisConnection,
    prefix: &'a str,
    seal: Seal,
    keys: SealKeys,
}

impl Rekeying<'_> {
    /// Looks at all records once. Returns how many the old key opened, and what was done.
    async fn pass(&mut self) -> Result<(usize, RekeyReport), RekeyError> {
        let campaigns = RecordHash::Campaigns.key(self.prefix);
        let campaigns: Vec<String> = self.connection.ask(cmd("HKEYS").arg(campaigns)).await?;
        let of_shards =
            Shard::all().flat_map(|shard| [RecordHash::RetainedOf(shard), RecordHash::FirmwareJobsOf(shard)]);
        let hashes = RecordHash::all().into_iter().chain(of_shards);
        let hashes = hashes.chain(campaigns.into_iter().map(RecordHash::Campaign)).collect::<Vec<_>>();
        let (mut found, mut report) = (0, RekeyReport::default());
        for hash in hashes {
            let key = hash.key(self.prefix);
            let mut cursor = 0_u64;
            loop {
                let mut question = cmd("HSCAN");
                question.arg(&key).arg(cursor).arg("COUNT").arg(PAGE);
                let (next, page): (u64, SealedFields) = self.connection.ask(&question).await?;
                found += self.replace(&key, page, &mut report).await?;
                cursor = next;
                if cursor == 0 {
                    break;
                }
            }
        }
        Ok((found, report))
    }

    /// Replaces the values of a page. Returns how many of them the old key opened.
    async fn replace(&mut self, hash: &str, page: SealedFields, report: &mut RekeyReport) -> Result<usize, RekeyError> {
        let (mut request, mut found) = (script(REPLACE, hash), 0);
        for (field, value) in page {
            if Seal::open(&self.keys.sealing, hash, &field, &value).is_some() {
                report.new += 1;
                continue;
            }
            let Some((term, opened)) = Seal::term(&value).zip(self.keys.open(hash, &field, &value)) else {
                report.unreadable += 1;
                continue;
            };
            let mut nonce = [0; 12];
            SysRng.try_fill_bytes(&mut nonce).map_err(|_| RedisError::Random)?;
            let sealed = self.seal.seal_in_term(term, hash, &field, nonce, &opened).map_err(RedisError::from)?;
            request.arg(field).arg(value).arg(sealed);
            found += 1;
        }
        if found > 0 {
            report.replaced += self.connection.ask::<usize>(&request).await?;
        }
        Ok(found)
    }
}

fn script(text: &str, key: &str) -> Cmd {
    let mut command = cmd("EVAL");
    command.arg(text).arg(1).arg(key);
    command
}
