//! The scripts that Redis runs. Each is one atomic step, and each checks who uses the store.
//!
//! One process uses the store: the owner of the lease. It renews the lease each second; after 5 seconds without a
//! renewal another process may take it. A process that another one has replaced can write nothing more (it is
//! *fenced*), whatever it sent before. Times are those of the server, in milliseconds.
//!
//! The **term** of the owner numbers DTLS records ([`lwm2m_dtls`]). It is above the stored one and follows the clock,
//! at most 4 ticks of 4 seconds ahead. A server that was restarted or took over from another one (its `run_id` is new)
//! may have forgotten a term. Then the first term is above all that an earlier process can have used, which may take 12
//! seconds to come.

/// Begins each of the scripts.
pub(super) const PRELUDE: &str = r"
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local function run_id() return string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') end
local function text(number) return string.format('%.0f', number) end
";

/// Compares and notes the keys of the records. The field `seal` of `about` has the fingerprints of all keys with which
/// records may be sealed, with spaces between them: a process that does not know one of them cannot use the store. The
/// field `rekeying` is there while all records are sealed anew; a process that seals with another key removes it.
/// `fingerprints` are those of the keys that a process knows, that of the one with which it seals first.
pub(super) const SEAL_KEYS: &str = r"
local function sealing(fingerprints) return string.match(fingerprints, '^%S+') end
local function knows_keys(noted, fingerprints)
  for key in string.gmatch(noted or '', '%S+') do
    if not string.find(fingerprints, key, 1, true) then return false end
  end
  return true
end
local function note_key(about, fingerprints)
  local mine, noted = sealing(fingerprints), redis.call('HMGET', about, 'seal', 'rekeying')
  if not noted[1] then redis.call('HSET', about, 'seal', mine)
  elseif not string.find(noted[1], mine, 1, true) then redis.call('HSET', about, 'seal', noted[1] .. ' ' .. mine) end
  if noted[2] and noted[2] ~= mine then redis.call('HDEL', about, 'rekeying') end
end
";

/// Takes the lease, and notes in its field `keys` the owner and the keys that it knows. KEYS: lease, about. ARGV: owner, milliseconds of the lease, the least term, format, a random number
/// for a new database, the fingerprints of the keys.
///
/// Answers `acquired` with the time, the term, the run and the number of the database; `busy` with the owner and the
/// rest of its lease; `unknown` with the time if the server may have forgotten a term; `later` with the milliseconds
/// until the term may be taken; `format` with the stored format; or `seal`.
const ACQUIRE: &str = r"
local about = redis.call('HMGET', KEYS[2], 'format', 'seal', 'created')
if about[1] and about[1] ~= ARGV[4] then return {'format', about[1]} end
if not knows_keys(about[2], ARGV[6]) then return {'seal'} end
local lease = redis.call('HMGET', KEYS[1], 'owner', 'term', 'until', 'run')
local owner = lease[1]
local left = (tonumber(lease[3]) or 0) - now
if owner and owner ~= '' and owner ~= ARGV[1] and left > 0 then return {'busy', owner, text(left)} end
local run = run_id()
local floor = tonumber(ARGV[3])
if about[3] and lease[4] ~= run and floor == 0 then return {'unknown', text(now)} end
local into = now - 1735689600000
local tick = math.floor(into / 4000)
local term = math.max((tonumber(lease[2]) or 0) + 1, tick, floor)
if term > tick + 4 then return {'later', text((term - tick - 4) * 4000 - into % 4000)} end
local created = about[3] or ARGV[5]
if not about[3] then redis.call('HSET', KEYS[2], 'format', ARGV[4], 'created', created) end
note_key(KEYS[2], ARGV[6])
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'term', text(term), 'until', text(now + ARGV[2]), 'run', run, 'seq', '0')
redis.call('HSET', KEYS[1], 'keys', ARGV[1] .. ' ' .. ARGV[6])
return {'acquired', text(now), text(term), run, created}
";

/// Renews the lease. KEYS: lease, about. ARGV: owner, its term, the run of its last renewal, milliseconds of the lease,
/// format, a random number for a new database, the fingerprints of the keys, the number of its last batch.
///
/// Answers `mine` with the run and the number of the database, or `fenced` with the owner. A lease that the server has
/// lost is put back.
const RENEW: &str = r"
local lease = redis.call('HMGET', KEYS[1], 'owner', 'term')
local run = run_id()
local lost = not lease[1] or (run ~= ARGV[3] and (tonumber(lease[2]) or 0) < tonumber(ARGV[2]))
if lease[1] ~= ARGV[1] and not lost then return {'fenced', lease[1]} end
local created = redis.call('HGET', KEYS[2], 'created')
if not created then
  created = ARGV[6]
  redis.call('HSET', KEYS[2], 'format', ARGV[5], 'created', created)
end
note_key(KEYS[2], ARGV[7])
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'term', ARGV[2], 'until', text(now + ARGV[4]), 'run', run)
redis.call('HSET', KEYS[1], 'keys', ARGV[1] .. ' ' .. ARGV[7])
if lease[1] ~= ARGV[1] then redis.call('HSET', KEYS[1], 'seq', ARGV[8]) end
return {'mine', run, created}
";

/// Writes a batch, all of it or nothing. KEYS: lease, hashes. ARGV: owner, the number of the batch, and for each step
/// the number of its hash, `p` with field and value, `r` with a field, or `c`.
///
/// Answers `stored`, also if this batch was written before, or `fenced`. A request that comes late, by a former
/// connection, changes nothing.
const WRITE: &str = r"
local lease = redis.call('HMGET', KEYS[1], 'owner', 'seq')
if lease[1] ~= ARGV[1] then return 'fenced' end
if tonumber(ARGV[2]) <= (tonumber(lease[2]) or 0) then return 'stored' end
local i = 3
while i <= #ARGV do
  local hash, step = KEYS[tonumber(ARGV[i])], ARGV[i + 1]
  if step == 'p' then
    redis.call('HSET', hash, ARGV[i + 2], ARGV[i + 3])
    i = i + 4
  elseif step == 'r' then
    redis.call('HDEL', hash, ARGV[i + 2])
    i = i + 3
  else
    redis.call('DEL', hash)
    i = i + 2
  end
end
redis.call('HSET', KEYS[1], 'seq', ARGV[2])
return 'stored'
";

/// Gives the lease up. KEYS: lease. ARGV: owner.
const RELEASE: &str = r"
if redis.call('HGET', KEYS[1], 'owner') == ARGV[1] then redis.call('HSET', KEYS[1], 'owner', '') end
return 'released'
";

/// A script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Script {
    Acquire,
    Renew,
    Write,
    Release,
}

impl Script {
    pub(super) fn text(self) -> String {
        match self {
            Self::Acquire => format!("{PRELUDE}{SEAL_KEYS}{ACQUIRE}"),
            Self::Renew => format!("{PRELUDE}{SEAL_KEYS}{RENEW}"),
            Self::Write => WRITE.to_owned(),
            Self::Release => RELEASE.to_owned(),
        }
    }
}
