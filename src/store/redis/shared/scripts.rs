//! The scripts of a store that the nodes of a cluster share. Each is one atomic step; [`lwm2m_cluster::engine`] says
//! what each has to do, and the tests of that crate play the same rules in virtual time.
//!
//! Each shard has a lease, of which the owner is a process: number of the node, `:`, incarnation. Times are those of
//! the server, in milliseconds. The field `unknown` of a lease is the end of the wait for an owner that the server may
//! have forgotten.
//!
//! The entry of an endpoint name has one of three forms:
//!
//! - `s SHARD VERSION`: the shard has the device. The version grows with each change, and is never repeated.
//! - `f SHARD VERSION`: the shard has the device, but does not serve it: another one may take it from this version.
//! - `c PROCESS`: a process has claimed the name for the time of a Register.

use super::super::scripts::{PRELUDE, SEAL_KEYS};

/// Reads and writes entries of endpoint names.
pub(super) const NAMES: &str = r"
local function place(key)
  local state, shard, version = string.match(redis.call('GET', key) or '', '^([sf]) (%d+) ?(%d*)$')
  return state, shard, tonumber(version) or 0
end
local function set_place(key, state, shard, version)
  local t = redis.call('TIME')
  local newer = string.format('%.0f', math.max(version + 1, t[1] * 1000 + math.floor(t[2] / 1000)))
  redis.call('SET', key, state .. ' ' .. shard .. ' ' .. newer)
  return newer
end
";

/// Announces a node, renews its leases, and reads the lists. The first node that seals with a new key is refused while
/// a node lives that does not know this key: its report, at the end of its entry, has the fingerprints.
///
/// KEYS: nodes, about, the leases of all shards in order, drains. ARGV: number, incarnation, weight, `1` if the node
/// takes shards, name, address and report, milliseconds of the lease and of the grace, format, a random number for a new
/// database, fingerprints of the keys, number of the last batch; then for each renewal the shard, term, the first 16
/// digits of the run, and `1` if the owner is sure.
///
/// The first round with a new run of the server, or a new database, notes its time: the names may be incomplete since.
///
/// Answers four lists: what became of the announcement with the time, the run, the number of the database, and `1` if an
/// operator has drained this process; the nodes; the leases in order; the renewals. A node that is refused gets `format`
/// with the stored format, `seal` if it does not know a key of the records, or `new_key` with the name of a node that
/// does not know its key.
const ROUND: &str = r"
local about = redis.call('HMGET', KEYS[2], 'format', 'seal', 'created', 'run')
if about[1] and about[1] ~= ARGV[9] then return {{'format', about[1]}, {}, {}, {}} end
if not knows_keys(about[2], ARGV[11]) then return {{'seal'}, {}, {}, {}} end
if about[2] and not string.find(about[2], sealing(ARGV[11]), 1, true) then
  -- The first process that seals with this key.
  local entries = redis.call('HGETALL', KEYS[1])
  for i = 1, #entries, 2 do
    local ending, name = string.match(entries[i + 1], '^(%d+) %d+ %d+ %d %d+ (%S+)')
    local lives = entries[i] ~= ARGV[1] and ending and tonumber(ending) > now
    if lives and not string.find(entries[i + 1], sealing(ARGV[11]), 1, true) then return {{'new_key', name}, {}, {}, {}} end
  end
end
local created = about[3] or ARGV[10]
if not about[3] then redis.call('HSET', KEYS[2], 'format', ARGV[9], 'created', created) end
local run = run_id()
if about[4] ~= run then redis.call('HSET', KEYS[2], 'run', run, 'since', text(now)) end
local me, lease, grace = ARGV[1] .. ':' .. ARGV[2], tonumber(ARGV[7]), tonumber(ARGV[8])
local announced, by, ends = 'done', '0', '0'
local entry = redis.call('HGET', KEYS[1], ARGV[1])
if entry then
  local ending, other = string.match(entry, '^(%d+) (%d+) ')
  if tonumber(ending) > now and tonumber(other) > tonumber(ARGV[2]) then announced = 'replaced' end
  if tonumber(ending) > now and tonumber(other) < tonumber(ARGV[2]) then
    announced, by, ends = 'occupied', other, ending
  end
end
local renewed = {}
if announced == 'done' then
  note_key(KEYS[2], ARGV[11])
  local fields = {text(now + lease), ARGV[2], ARGV[3], ARGV[4], text(now), ARGV[5], ARGV[6]}
  redis.call('HSET', KEYS[1], ARGV[1], table.concat(fields, ' '))
  for i = 13, #ARGV, 4 do
    local key, term, its_run, sure = KEYS[3 + ARGV[i]], tonumber(ARGV[i + 1]), ARGV[i + 2], ARGV[i + 3] == '1'
    local l = redis.call('HMGET', key, 'owner', 'term', 'run', 'unknown')
    local result
    if l[1] ~= me or (tonumber(l[2]) or 0) > term then
      local forgot = not l[1] or l[1] == '' or string.sub(run, 1, 16) ~= its_run
      if (tonumber(l[2]) or 0) >= term or not forgot then
        result = 'fenced'
      elseif not sure then
        if l[3] == run and not l[4] then
          result = 'fenced'
        else
          local unknown = tonumber(l[4])
          if not unknown then unknown = now + grace end
          redis.call('HSET', key, 'run', run, 'unknown', text(unknown))
          if now + grace / 2 < unknown then result = 'later' end
        end
      end
    end
    if not result then
      result = l[1] == me and 'mine' or 'restored'
      redis.call('HSET', key, 'owner', me, 'term', ARGV[i + 1], 'until', text(now + lease), 'run', run)
      redis.call('HDEL', key, 'unknown')
      if result == 'restored' then redis.call('HSET', key, 'seq', ARGV[12]) end
    end
    renewed[#renewed + 1] = ARGV[i] .. ' ' .. ARGV[i + 1] .. ' ' .. result
  end
end
local nodes = {}
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local ending, incarnation, weight, takes, seen, rest = string.match(all[i + 1], '^(%d+) (%d+) (%d+) (%d) (%d+) (.*)$')
  if not ending or tonumber(seen) + 86400000 < now then
    redis.call('HDEL', KEYS[1], all[i])
  else
    local alive = tonumber(ending) > now and '1' or '0'
    local age = text(math.max(0, now - tonumber(seen)))
    nodes[#nodes + 1] = table.concat({all[i], incarnation, weight, takes, alive, age, rest}, ' ')
  end
end
local leases = {}
for shard = 0, 255 do
  local l = redis.call('HMGET', KEYS[3 + shard], 'owner', 'until', 'run', 'unknown')
  if l[3] ~= run or l[4] then leases[shard + 1] = 'unknown'
  elseif not l[1] or l[1] == '' then leases[shard + 1] = 'free'
  elseif tonumber(l[2]) > now then leases[shard + 1] = 'held ' .. l[1]
  else leases[shard + 1] = 'expired ' .. l[1] end
end
local drained = redis.call('HGET', KEYS[259], ARGV[1])
if drained and drained ~= ARGV[2] then
  -- The drain of an earlier process ended with it.
  if announced == 'done' then redis.call('HDEL', KEYS[259], ARGV[1]) end
  drained = false
end
return {{announced, text(now), run, created, by, ends, drained and '1' or '0'}, nodes, leases, renewed}
";

/// Takes a lease. KEYS: lease. ARGV: number, incarnation, milliseconds of the lease and of the grace, the least term,
/// milliseconds of contact, the time after which the request is too late, the number of the last batch.
///
/// Answers `acquired` with the term and the run, `busy`, or `later`.
const ACQUIRE: &str = r"
local run = run_id()
local me, grace = ARGV[1] .. ':' .. ARGV[2], tonumber(ARGV[4])
local l = redis.call('HMGET', KEYS[1], 'owner', 'term', 'until', 'run', 'unknown')
if now > tonumber(ARGV[7]) then return {'later'} end
if l[4] ~= run then
  redis.call('HSET', KEYS[1], 'run', run, 'unknown', text(now + grace))
  return {'later'}
end
local is_held = l[1] and l[1] ~= ''
if is_held and l[1] ~= me and (tonumber(l[3]) or 0) > now then return {'busy'} end
local unknown = tonumber(l[5])
local is_over = false
if is_held then
  local node, incarnation = string.match(l[1], '^(%d+):(%d+)$')
  is_over = node == ARGV[1] and tonumber(incarnation) <= tonumber(ARGV[2])
end
local is_young = (unknown or (is_held and not is_over)) and tonumber(ARGV[6]) < grace
if (unknown and unknown > now) or is_young then return {'later'} end
local tick = math.floor((now - 1735689600000) / 4000)
local term = math.max((tonumber(l[2]) or 0) + 1, tick, tonumber(ARGV[5]))
if unknown then term = math.max(term, tick + 4) end
if term > tick + 4 then return {'later'} end
redis.call('HSET', KEYS[1], 'owner', me, 'term', text(term), 'until', text(now + ARGV[3]), 'run', run, 'seq', ARGV[8])
redis.call('HDEL', KEYS[1], 'unknown')
return {'acquired', text(term), run}
";

/// Gives a lease up. KEYS: lease. ARGV: owner, term, the time after which the request is too late.
///
/// Answers `released`, also if the lease has another owner, or `late`.
const RELEASE: &str = r"
if now > tonumber(ARGV[3]) then return {'late'} end
local l = redis.call('HMGET', KEYS[1], 'owner', 'term')
if l[1] == ARGV[1] and l[2] == ARGV[2] then redis.call('HSET', KEYS[1], 'owner', '', 'run', run_id()) end
return {'released'}
";

/// Writes a batch, all of it or nothing. KEYS: the leases of the shards, the hashes, the names. ARGV: owner, number of
/// the batch, number of leases; then the steps, each with the number of its key: `p` with field and value, `r` with a
/// field, `n` with the shard that has the name from now on, `u` with the shard that had it. A frozen name stays frozen.
///
/// Answers `stored`, also if this batch was written before, or `fenced` with the numbers of the leases that have
/// another owner.
const WRITE: &str = r"
local count, seq = tonumber(ARGV[3]), tonumber(ARGV[2])
local fenced, is_old = {'fenced'}, count > 0
for i = 1, count do
  local l = redis.call('HMGET', KEYS[i], 'owner', 'seq')
  if l[1] ~= ARGV[1] then fenced[#fenced + 1] = tostring(i) end
  if seq > (tonumber(l[2]) or 0) then is_old = false end
end
if #fenced > 1 then return fenced end
if is_old then return {'stored'} end
local i = 4
while i <= #ARGV do
  local key, step = KEYS[tonumber(ARGV[i])], ARGV[i + 1]
  if step == 'p' then
    redis.call('HSET', key, ARGV[i + 2], ARGV[i + 3])
    i = i + 4
  elseif step == 'r' then
    redis.call('HDEL', key, ARGV[i + 2])
    i = i + 3
  elseif step == 'n' then
    local _, shard, version = place(key)
    if shard ~= ARGV[i + 2] then set_place(key, 's', ARGV[i + 2], version) end
    i = i + 3
  else
    local _, shard = place(key)
    if shard == ARGV[i + 2] then redis.call('DEL', key) end
    i = i + 3
  end
end
for i = 1, count do redis.call('HSET', KEYS[i], 'seq', ARGV[2]) end
return {'stored'}
";

/// Finds the shard of an endpoint name, and claims a free name. KEYS: name, about. ARGV: owner, milliseconds of the claim,
/// 0 to claim nothing, prefix, milliseconds in which the nodes write the names that the server has lost.
///
/// Answers `at` with the shard and the owner of its lease; `unknown` if a shard may have the name, and the server may have
/// lost it; `claimed` if another process has claimed it; or `free`.
const CLAIM: &str = r"
local _, shard = place(KEYS[1])
if shard then return {'at', shard, redis.call('HGET', ARGV[3] .. ':{' .. shard .. '}:lease', 'owner') or ''} end
local about = redis.call('HMGET', KEYS[2], 'run', 'since')
if about[1] ~= run_id() or now < (tonumber(about[2]) or now) + ARGV[4] then return {'unknown'} end
local value, mine = redis.call('GET', KEYS[1]), 'c ' .. ARGV[1]
if value and value ~= mine then return {'claimed'} end
if ARGV[2] ~= '0' then redis.call('SET', KEYS[1], mine, 'PX', ARGV[2]) end
return {'free'}
";

/// Gives a claim back. KEYS: name. ARGV: owner.
const UNCLAIM: &str = r"
if redis.call('GET', KEYS[1]) == 'c ' .. ARGV[1] then redis.call('DEL', KEYS[1]) end
return {'unclaimed'}
";

/// Compares the records of a shard with the names, when the shard is read. KEYS: lease, devices of the shard, names.
/// ARGV: owner, shard, prefix, the endpoints.
///
/// A record whose name another shard has, with a record of its own, is superseded. Every other record gets its name:
/// also one that was frozen, which nobody can take from now on. Answers `checked` with the numbers of the superseded
/// ones, or `fenced`.
const CHECK: &str = r"
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then return {'fenced'} end
local checked = {'checked'}
for i = 4, #ARGV do
  local key, endpoint = KEYS[i - 1], ARGV[i]
  local state, shard, version = place(key)
  local is_elsewhere = shard and shard ~= ARGV[2]
  if is_elsewhere and redis.call('HEXISTS', ARGV[3] .. ':{' .. shard .. '}:d', endpoint) == 1 then
    checked[#checked + 1] = tostring(i - 3)
  elseif (state ~= 's' or is_elsewhere) and redis.call('HEXISTS', KEYS[2], endpoint) == 1 then
    set_place(key, 's', ARGV[2], version)
  end
end
return checked
";

/// Freezes the name of a device that another shard may take. KEYS: lease, name. ARGV: owner, shard.
///
/// Answers `frozen` with the version; `gone` if another shard has the name; or `fenced`.
const FREEZE: &str = r"
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then return {'fenced'} end
local _, shard, version = place(KEYS[2])
if shard and shard ~= ARGV[2] then return {'gone'} end
return {'frozen', set_place(KEYS[2], 'f', ARGV[2], version)}
";

/// Ends the freezing of a name, so that nobody can take the device from the frozen version. KEYS: lease, name. ARGV:
/// owner, shard.
///
/// Answers `back`; `gone` if another shard has the name; or `fenced`.
const THAW: &str = r"
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then return {'fenced'} end
local _, shard, version = place(KEYS[2])
if shard and shard ~= ARGV[2] then return {'gone'} end
set_place(KEYS[2], 's', ARGV[2], version)
return {'back'}
";

/// Takes a device from a frozen name: writes its record, and gives the name to its new shard. KEYS: lease, name, the
/// hashes. ARGV: owner, shard, the former shard, its version; then the steps as of a batch, without those for names.
///
/// Answers `taken`, also if this request was executed before, and then ends the freezing of the name; `gone` if the name
/// is not frozen in this version any more; or `fenced`.
const TAKE: &str = r"
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then return {'fenced'} end
local state, shard, version = place(KEYS[2])
if shard == ARGV[2] then
  if state == 'f' then set_place(KEYS[2], 's', shard, version) end
  return {'taken'}
end
if state ~= 'f' or shard ~= ARGV[3] or version ~= tonumber(ARGV[4]) then return {'gone'} end
local i = 5
while i <= #ARGV do
  local key = KEYS[tonumber(ARGV[i])]
  if ARGV[i + 1] == 'p' then
    redis.call('HSET', key, ARGV[i + 2], ARGV[i + 3])
    i = i + 4
  else
    redis.call('HDEL', key, ARGV[i + 2])
    i = i + 3
  end
end
set_place(KEYS[2], 's', ARGV[2], version)
return {'taken'}
";

/// Takes a node out of the list. KEYS: nodes. ARGV: number, incarnation.
const LEAVE: &str = r"
local entry = redis.call('HGET', KEYS[1], ARGV[1])
if entry and string.match(entry, '^%d+ (%d+) ') == ARGV[2] then redis.call('HDEL', KEYS[1], ARGV[1]) end
return {'left'}
";

/// Returns who has an endpoint. KEYS: name. ARGV: prefix.
///
/// Answers `at` with the owner of the shard that has the name, or `nowhere`.
const LOCATE: &str = r"
local shard = string.match(redis.call('GET', KEYS[1]) or '', '^[sf] (%d+)')
local owner = shard and redis.call('HGET', ARGV[1] .. ':{' .. shard .. '}:lease', 'owner')
if not owner or owner == '' then return {'nowhere'} end
return {'at', owner}
";

/// Drains a process, or ends that. KEYS: drains. ARGV: number, incarnation, `1` to drain.
const DRAIN: &str = r"
if ARGV[3] == '1' then redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
elseif redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then redis.call('HDEL', KEYS[1], ARGV[1]) end
return {'noted'}
";

/// A script of a shared store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SharedScript {
    Round,
    Acquire,
    Release,
    Write,
    Claim,
    Unclaim,
    Check,
    Freeze,
    Thaw,
    Take,
    Leave,
    Locate,
    Drain,
}

impl SharedScript {
    pub(crate) fn text(self) -> String {
        match self {
            Self::Round => format!("{PRELUDE}{SEAL_KEYS}{ROUND}"),
            Self::Acquire => format!("{PRELUDE}{ACQUIRE}"),
            Self::Release => format!("{PRELUDE}{RELEASE}"),
            Self::Write => format!("{NAMES}{WRITE}"),
            Self::Claim => format!("{PRELUDE}{NAMES}{CLAIM}"),
            Self::Check => format!("{NAMES}{CHECK}"),
            Self::Freeze => format!("{NAMES}{FREEZE}"),
            Self::Thaw => format!("{NAMES}{THAW}"),
            Self::Take => format!("{NAMES}{TAKE}"),
            Self::Unclaim => UNCLAIM.to_owned(),
            Self::Leave => LEAVE.to_owned(),
            Self::Locate => LOCATE.to_owned(),
            Self::Drain => DRAIN.to_owned(),
        }
    }
}
