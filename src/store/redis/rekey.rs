//! Seals all records with another key, also while gateways use the store.
//!
//! 1. Each gateway that uses the store notes the key with which it seals in `about`. A gateway that does not know all
//!    noted keys cannot use the store, so that each reads what the others write.
//! 2. All gateways that run seal with the new key: each tells it in its lease or in its report. From then on a gateway
//!    that seals with another key removes the field `rekeying` of `about`.
//! 3. Each record that the old key opens is replaced by the same record, sealed with the new key, unless it was written
//!    meanwhile. That is repeated until no record of the old key is found.
//! 4. If `rekeying` is still there, the old key is not noted any more: gateways need not know it.
//!
//! It may be interrupted after each step, and begun again.

use ::redis::{Cmd, cmd};
use rand::TryRng;
use rand::rngs::SysRng;
use thiserror::Error;

use super::config::RedisConfig;
use super::connection::{ConnectionError, RedisConnection};
use super::layout::{FORMAT, RecordHash};
use super::scripts::SEAL_KEYS;
use super::seal::{Seal, SealKeys};
use super::users::{StoreUser, users};
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

/// Notes the key that seals from now on. KEYS: about. ARGV: fingerprints of the new and the old key. Answers `begun`, or
/// `seal` if records are sealed with yet another key.
const BEGIN: &str = r"
if not knows_keys(redis.call('HGET', KEYS[1], 'seal'), ARGV[1]) then return 'seal' end
note_key(KEYS[1], ARGV[1])
redis.call('HSET', KEYS[1], 'rekeying', sealing(ARGV[1]))
return 'begun'
";

/// Notes that no record is sealed with the old key. KEYS: about. ARGV: fingerprints of the new and the old key. Answers
/// `ended`, or `used` if a gateway has sealed with another key since the beginning.
const END: &str = r"
if redis.call('HGET', KEYS[1], 'rekeying') ~= sealing(ARGV[1]) then return 'used' end
redis.call('HSET', KEYS[1], 'seal', sealing(ARGV[1]))
redis.call('HDEL', KEYS[1], 'rekeying')
return 'ended'
";

/// Fields of a hash, each with its sealed value.
type SealedFields = Vec<(Vec<u8>, Vec<u8>)>;

/// The result, in numbers of records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RekeyReport {
    /// Records that were sealed with the new key now.
    pub replaced: usize,
    /// Records that were sealed with the new key before.
    pub new: usize,
    /// Records that neither key opens.
    pub unreadable: usize,
    /// The nodes that do not run, and did not seal with the new key when they ran last.
    pub behind: Vec<String>,
}

/// Reasons why the records cannot be sealed with another key. None contains a secret.
#[derive(Debug, Error)]
pub(crate) enum RekeyError {
    #[error(transparent)]
    Store(#[from] RedisError),
    #[error("store.redis.other_seal_keyfile: required: the key by which the records are sealed now")]
    NoOtherKey,
    #[error("store.redis.other_seal_keyfile: it is the same key as that of store.redis.seal_keyfile")]
    SameKey,
    #[error("store.redis: there are no records under this prefix")]
    Empty,
    #[error("{0} runs and does not tell its keys: it is of an older version. Upgrade it first")]
    Untold(String),
    #[error(
        "{0} does not know the new key: set store.redis.other_seal_keyfile to the new key at all gateways that use the \
         store, and restart one after the other"
    )]
    NotKnown(String),
    #[error(
        "{0} still seals with the old key: set store.redis.seal_keyfile to the new key and store.redis.other_seal_keyfile \
         to the old one at all gateways that use the store, and restart one after the other"
    )]
    NotUsed(String),
    #[error(
        "a gateway has sealed records with the old key meanwhile. Its store.redis.seal_keyfile has to be the new key; then \
         run `lwm2m-gateway rekey` again"
    )]
    StillUsed,
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
    if new == old {
        return Err(RekeyError::SameKey);
    }
    let mut connection = dialer(config)?.connect().await?;
    let about = format!("{}:about", config.prefix);
    check_format(&mut connection, &about).await?;
    check_users(&users(&mut connection, &config.prefix).await?.0, new)?;
    let begun: String = connection.ask(script(BEGIN, &about).arg(&fingerprints)).await?;
    if begun != "begun" {
        return Err(RedisError::OtherSealKey.into());
    }
    // A gateway may have started in between. A later one removes the note if it seals with another key.
    let (users, _) = users(&mut connection, &config.prefix).await?;
    check_users(&users, new)?;
    let seal = Seal::new(keys.sealing.clone(), 0);
    let mut work = Rekeying { connection, prefix: &config.prefix, seal, keys };
    let report = work.all_passes().await?;
    let ended: String = work.connection.ask(script(END, &about).arg(&fingerprints)).await?;
    if ended != "ended" {
        return Err(RekeyError::StillUsed);
    }
    let is_behind = |user: &&StoreUser| user.is_node && !user.lives && !seals_with(user, new);
    Ok(RekeyReport { behind: users.iter().filter(is_behind).map(|user| user.name.clone()).collect(), ..report })
}

async fn check_format(connection: &mut RedisConnection, about: &str) -> Result<(), RekeyError> {
    let stored: Option<String> = connection.ask(cmd("HGET").arg(about).arg("format")).await?;
    match stored {
        None => Err(RekeyError::Empty),
        Some(stored) if stored == FORMAT || stored == shared::FORMAT => Ok(()),
        Some(stored) => Err(RedisError::OtherFormat { stored, expected: shared::FORMAT }.into()),
    }
}

/// Checks that all gateways that run seal with the new key, of this fingerprint.
fn check_users(users: &[StoreUser], new: &str) -> Result<(), RekeyError> {
    for user in users.iter().filter(|user| user.lives) {
        let name = if user.is_node { format!("the node {}", user.name) } else { format!("the gateway {}", user.name) };
        match &user.keys {
            None => return Err(RekeyError::Untold(name)),
            Some(keys) if keys.opens_with.iter().all(|key| key != new) => return Err(RekeyError::NotKnown(name)),
            Some(_) if !seals_with(user, new) => return Err(RekeyError::NotUsed(name)),
            Some(_) => {}
        }
    }
    Ok(())
}

fn seals_with(user: &StoreUser, key: &str) -> bool {
    user.keys.as_ref().is_some_and(|keys| keys.seals_with == key)
}

/// The connection and the keys of a pass.
struct Rekeying<'a> {
    connection: RedisConnection,
    prefix: &'a str,
    seal: Seal,
    keys: SealKeys,
}

impl Rekeying<'_> {
    /// Repeats passes over all records until the old key opens none.
    async fn all_passes(&mut self) -> Result<RekeyReport, RekeyError> {
        let mut replaced = 0;
        for _ in 0..PASSES {
            let (found, report) = self.pass().await?;
            replaced += report.replaced;
            if found == 0 {
                return Ok(RekeyReport { replaced, new: report.new.saturating_sub(replaced), ..report });
            }
        }
        Err(RekeyError::StillUsed)
    }

    /// Makes one pass over all records. Returns how many the old key opened, and the result.
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
    command.arg(format!("{SEAL_KEYS}{text}")).arg(1).arg(key);
    command
}

#[cfg(test)]
mod tests {
    use super::super::users::UserKeys;
    use super::*;

    #[test]
    fn every_gateway_that_runs_has_to_seal_with_the_new_key() {
        let user = |name: &str, lives, keys: &[&str]| {
            let opens_with: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
            let keys = opens_with.first().cloned().map(|seals_with| UserKeys { seals_with, opens_with });
            StoreUser { name: name.to_owned(), is_node: true, lives, keys }
        };
        let check = |user: StoreUser| {
            let seals = StoreUser { name: "gw-0".to_owned(), ..user.clone() };
            let seals = StoreUser {
                keys: Some(UserKeys { seals_with: "new".into(), opens_with: vec!["new".into()] }),
                ..seals
            };
            check_users(&[seals, user], "new").map_err(|error| error.to_string())
        };
        let refused = |user, why: &str| assert!(check(user).is_err_and(|error| error.contains(why)), "{why}");
        assert_eq!(check(user("gw-1", true, &["new", "old"])), Ok(()));
        refused(user("gw-1", true, &["old", "new"]), "the node gw-1 still seals with the old key");
        refused(user("gw-1", true, &["old"]), "the node gw-1 does not know the new key");
        refused(user("gw-1", true, &[]), "the node gw-1 runs and does not tell its keys");
        let gateway = StoreUser { is_node: false, ..user("host:1", true, &["old", "new"]) };
        refused(gateway, "the gateway host:1 still seals");
        assert_eq!(check(user("gw-1", false, &["old"])), Ok(()), "it does not run");
    }
}
