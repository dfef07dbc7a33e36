//! The requests of a node to a shared store, and the answers of the scripts, without IO.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use ::redis::{Cmd, Pipeline, cmd};
use openssl::error::ErrorStack;

use lwm2m_base::{AssociationId, Shard};
use lwm2m_cluster::engine::{
    Acquisition, Announced, EngineRequest, LeaseState, NodeEntry, Renewal, Renewed, RoundAnswer, RunId, Timing,
};
use lwm2m_cluster::{Incarnation, NodeAddress, NodeNumber, NodeProcess, Term, WallTime};

use super::super::layout::{BatchStep, RecordHash};
use super::super::lease::AnswerError;
use super::super::seal::Seal;
use super::names::{NAMES_AT_ONCE, Taking};
use super::report::{AnnouncedNode, NodeReport};
use super::scripts::SharedScript;

/// The format of a shared store. It counts up with each change that an older version could not read.
pub(crate) const FORMAT: &str = "cluster-1";
/// The time for which a claim of an endpoint name holds without a record of the device.
const CLAIM: Duration = Duration::from_secs(30);
/// Least number of devices that a node writes in a millisecond when the server has lost their records.
const REWRITTEN_PER_MILLISECOND: u64 = 5;

/// The names and the keys of a node at the store.
#[derive(Clone, Debug)]
pub(crate) struct NodeIdentity {
    pub prefix: String,
    pub process: NodeProcess,
    pub name: String,
    /// The host and port at which the other nodes reach it.
    pub address: String,
    pub timing: Timing,
    /// The fingerprints of the keys that open the records, that of the one that seals first.
    pub seal: String,
}

/// The answer to a round.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum SharedRound {
    Answered {
        answer: Box<RoundAnswer>,
        /// The run of the server and the number of the database.
        database: (String, String),
        nodes: Vec<AnnouncedNode>,
    },
    OtherFormat(String),
    OtherKey,
    /// The named node does not know the new key of this one.
    NewKey(String),
}

impl NodeIdentity {
    /// Returns the request of a round. `report` is what the node tells of itself, without spaces.
    pub(crate) fn round(
        &self,
        (entry, report): (&NodeEntry, &str),
        renewals: &[Renewal],
        seq: u64,
        new_database: &str,
    ) -> Cmd {
        let leases = Shard::all().map(|shard| self.lease(shard));
        let keys = [self.key("nodes"), self.key("about")].into_iter().chain(leases).chain([self.key("drains")]);
        let keys: Vec<String> = keys.collect();
        let mut command = script(SharedScript::Round, &keys);
        let NodeProcess { node, incarnation } = entry.process;
        command.arg(node.number()).arg(incarnation.0).arg(entry.weight).arg(u8::from(entry.takes));
        command
            .arg(&self.name)
            .arg(format!("{} {report}", self.address))
            .arg(milliseconds(self.timing.lease))
            .arg(milliseconds(self.timing.grace));
        command.arg(FORMAT).arg(new_database).arg(&self.seal).arg(seq);
        for Renewal { shard, term, run, sure } in renewals {
            command.arg(shard.number()).arg(term.number()).arg(format!("{:016x}", run.0)).arg(u8::from(*sure));
        }
        command
    }

    /// Returns the command of a request for a lease; `None` for a round.
    pub(crate) fn lease_request(&self, request: &EngineRequest, seq: u64) -> Option<Cmd> {
        match request {
            EngineRequest::Round { .. } => None,
            EngineRequest::Acquire { shard, floor, contact, not_after, .. } => {
                let mut command = script(SharedScript::Acquire, &[self.lease(*shard)]);
                command.arg(self.process.node.number()).arg(self.process.incarnation.0);
                command.arg(milliseconds(self.timing.lease)).arg(milliseconds(self.timing.grace));
                command.arg(floor.number()).arg(milliseconds(*contact)).arg(not_after.0).arg(seq);
                Some(command)
            }
            EngineRequest::Release { shard, term, not_after } => {
                let mut command = script(SharedScript::Release, &[self.lease(*shard)]);
                command.arg(self.owner()).arg(term.number()).arg(not_after.0);
                Some(command)
            }
        }
    }

    /// Finds the holder of a name, and claims it if it is free. `rewrite` is the time in which the nodes write the names
    /// that the server has lost.
    pub(crate) fn claim(&self, endpoint: &str, rewrite: Duration) -> Cmd {
        self.claim_for(endpoint, CLAIM, rewrite)
    }

    /// Finds the holder of a name.
    pub(crate) fn find(&self, endpoint: &str, rewrite: Duration) -> Cmd {
        self.claim_for(endpoint, Duration::ZERO, rewrite)
    }

    fn claim_for(&self, endpoint: &str, time: Duration, rewrite: Duration) -> Cmd {
        let mut command = script(SharedScript::Claim, &[self.name_key(endpoint.as_bytes()), self.key("about")]);
        command.arg(self.owner()).arg(milliseconds(time)).arg(&self.prefix).arg(milliseconds(rewrite));
        command
    }

    /// Returns the maximum time in which all nodes find out that the server has lost records, and write theirs again. A
    /// node that does not find out within the grace loses its leases.
    pub(crate) fn rewrite_time(&self, nodes: &[AnnouncedNode]) -> Duration {
        let devices = nodes.iter().filter_map(|node| Some(node.report.as_ref()?.devices)).max().unwrap_or(0);
        self.timing.grace + Duration::from_millis(devices as u64 / REWRITTEN_PER_MILLISECOND)
    }

    /// Compares the records of a shard with their names, in as many requests as that takes.
    pub(crate) fn check(&self, shard: Shard, endpoints: &[Vec<u8>]) -> Pipeline {
        let mut requests = Pipeline::new();
        for endpoints in endpoints.chunks(NAMES_AT_ONCE) {
            let names = endpoints.iter().map(|endpoint| self.name_key(endpoint));
            let devices = RecordHash::Devices(shard).key(&self.prefix);
            let keys: Vec<String> = [self.lease(shard), devices].into_iter().chain(names).collect();
            let mut command = script(SharedScript::Check, &keys);
            command.arg(self.owner()).arg(shard.number()).arg(&self.prefix).arg(endpoints);
            requests.add_command(command);
        }
        requests
    }

    pub(crate) fn unclaim(&self, endpoint: &str) -> Cmd {
        let mut command = script(SharedScript::Unclaim, &[self.name_key(endpoint.as_bytes())]);
        command.arg(self.owner());
        command
    }

    pub(crate) fn locate(&self, endpoint: &str) -> Cmd {
        let mut command = script(SharedScript::Locate, &[self.name_key(endpoint.as_bytes())]);
        command.arg(&self.prefix);
        command
    }

    pub(crate) fn drain(&self, process: NodeProcess, is_drained: bool) -> Cmd {
        let mut command = script(SharedScript::Drain, &[self.key("drains")]);
        command.arg(process.node.number()).arg(process.incarnation.0).arg(u8::from(is_drained));
        command
    }

    pub(crate) fn leave(&self) -> Cmd {
        let mut command = script(SharedScript::Leave, &[self.key("nodes")]);
        command.arg(self.process.node.number()).arg(self.process.incarnation.0);
        command
    }

    /// Returns the commands that read the records of a shard, each with its hash. Commands come before devices.
    pub(crate) fn load(&self, shard: Shard) -> Vec<(RecordHash, Cmd)> {
        let read = |hash: RecordHash| {
            let mut command = cmd("HGETALL");
            command.arg(hash.key(&self.prefix));
            (hash, command)
        };
        RecordHash::of_shard(shard).map(read).into()
    }

    /// Returns the request that writes a batch, and the shards of its leases in their order. `terms` are those of the
    /// shards; `nonce` returns random numbers.
    pub(crate) fn write(
        &self,
        seq: u64,
        steps: &[BatchStep],
        (seal, terms): (&mut Seal, &HashMap<Shard, Term>),
        mut nonce: impl FnMut() -> [u8; 12],
    ) -> Result<(Cmd, Vec<Shard>), ErrorStack> {
        let mut shards: Vec<Shard> = steps.iter().filter_map(|step| step.hash().shard()).collect();
        shards.sort_unstable();
        shards.dedup();
        let leases = shards.iter().map(|shard| self.lease(*shard)).collect();
        let mut arguments = StepArguments { identity: self, keys: leases, numbers: HashMap::new(), parts: Vec::new() };
        for step in steps {
            let term = step.hash().shard().and_then(|shard| terms.get(&shard)).copied();
            arguments.step(step, (&mut *seal, term), &mut nonce)?;
            arguments.name(step);
        }
        let mut command = script(SharedScript::Write, &arguments.keys);
        command.arg(self.owner()).arg(seq).arg(shards.len()).arg(arguments.parts);
        Ok((command, shards))
    }

    /// Returns the request that takes a device from a frozen name. The steps are those of its record in the new shard.
    pub(crate) fn take(
        &self,
        Taking { endpoint, from, version, peer, .. }: &Taking,
        steps: &[BatchStep],
        (seal, term): (&mut Seal, Term),
        mut nonce: impl FnMut() -> [u8; 12],
    ) -> Result<Option<Cmd>, ErrorStack> {
        let Some(shard) = peer.association.map(AssociationId::shard) else { return Ok(None) };
        let keys = vec![self.lease(shard), self.name_key(endpoint.as_bytes())];
        let mut arguments = StepArguments { identity: self, keys, numbers: HashMap::new(), parts: Vec::new() };
        for step in steps {
            arguments.step(step, (&mut *seal, Some(term)), &mut nonce)?;
        }
        let mut command = script(SharedScript::Take, &arguments.keys);
        command.arg(self.owner()).arg(shard.number()).arg(from.number()).arg(*version).arg(arguments.parts);
        Ok(Some(command))
    }

    /// Returns the requests that read the record of a device: commands and answers need their serials.
    pub(crate) fn read_device(&self, shard: Shard, endpoint: &str) -> [(RecordHash, Cmd); 3] {
        [RecordHash::Devices(shard), RecordHash::RetainedOf(shard), RecordHash::FirmwareJobsOf(shard)].map(|hash| {
            let mut command = cmd("HGET");
            command.arg(hash.key(&self.prefix)).arg(endpoint);
            (hash, command)
        })
    }

    /// Returns the request that reads fields of a hash.
    pub(crate) fn read_fields(&self, hash: &RecordHash, fields: &[Vec<u8>]) -> Cmd {
        let mut command = cmd("HMGET");
        command.arg(hash.key(&self.prefix)).arg(fields);
        command
    }

    /// Freezes or thaws the name of an endpoint of this shard.
    pub(crate) fn freeze_or_thaw(&self, which: SharedScript, shard: Shard, endpoint: &str) -> Cmd {
        let mut command = script(which, &[self.lease(shard), self.name_key(endpoint.as_bytes())]);
        command.arg(self.owner()).arg(shard.number());
        command
    }

    fn owner(&self) -> String {
        self.process.to_string()
    }

    fn lease(&self, shard: Shard) -> String {
        format!("{}:{{{}}}:lease", self.prefix, shard.number())
    }

    fn name_key(&self, endpoint: &[u8]) -> String {
        // Fields that are no endpoint names are not written.
        format!("{}:ep:{}", self.prefix, String::from_utf8_lossy(endpoint))
    }

    fn key(&self, last: &str) -> String {
        format!("{}:{last}", self.prefix)
    }
}

/// The keys and arguments of the steps of a batch.
struct StepArguments<'i> {
    identity: &'i NodeIdentity,
    keys: Vec<String>,
    /// The numbers of the keys of hashes and names.
    numbers: HashMap<String, usize>,
    parts: Vec<Vec<u8>>,
}

impl StepArguments<'_> {
    /// Adds a step, whose value is sealed in this term.
    fn step(
        &mut self,
        step: &BatchStep,
        (seal, term): (&mut Seal, Option<Term>),
        nonce: impl FnOnce() -> [u8; 12],
    ) -> Result<(), ErrorStack> {
        let hash = step.hash().key(&self.identity.prefix);
        match step {
            BatchStep::Put { field, value, .. } => {
                let term = term.map_or(0, |term| term.number());
                let sealed = seal.seal_in_term(term, &hash, field, nonce(), value)?;
                self.add(hash, &[b"p", field, &sealed]);
            }
            BatchStep::Remove { field, .. } => self.add(hash, &[b"r", field]),
            // Only campaigns are cleared, which a cluster does not have.
            BatchStep::Clear { .. } => {}
        }
        Ok(())
    }

    /// Adds the step for the name of the device of a step, if it has one.
    fn name(&mut self, step: &BatchStep) {
        let RecordHash::Devices(shard) = step.hash() else { return };
        let (word, field) = match step {
            BatchStep::Put { field, .. } => (b"n".as_slice(), field),
            BatchStep::Remove { field, .. } => (b"u".as_slice(), field),
            BatchStep::Clear { .. } => return,
        };
        self.add(self.identity.name_key(field), &[word, shard.number().to_string().as_bytes()]);
    }

    fn add(&mut self, key: String, parts: &[&[u8]]) {
        let keys = &mut self.keys;
        let number = *self.numbers.entry(key).or_insert_with_key(|key| {
            keys.push(key.clone());
            keys.len()
        });
        self.parts.push(number.to_string().into_bytes());
        self.parts.extend(parts.iter().map(|part| part.to_vec()));
    }
}

/// The four lists of an answer to a round.
pub(crate) type RoundLists = (Vec<String>, Vec<String>, Vec<String>, Vec<String>);

impl SharedRound {
    /// Reads the answer to the round that was asked at this time.
    pub(crate) fn parse(asked: Instant, lists: RoundLists) -> Result<Self, AnswerError> {
        let (head, nodes, leases, renewals) = &lists;
        match head.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["format", format] => return Ok(Self::OtherFormat(format.to_owned())),
            ["seal"] => return Ok(Self::OtherKey),
            ["new_key", node] => return Ok(Self::NewKey(node.to_owned())),
            _ => {}
        }
        let read = || {
            let [announced, time, run, created, by, until, drained] = head.as_slice() else { return None };
            let announced = match announced.as_str() {
                "done" => Announced::Done,
                "replaced" => Announced::Replaced,
                "occupied" => {
                    Announced::Occupied { by: Incarnation(by.parse().ok()?), until: WallTime(until.parse().ok()?) }
                }
                _ => return None,
            };
            let known: Vec<AnnouncedNode> = nodes.iter().map(|node| parse_node(node)).collect::<Option<_>>()?;
            let answer = RoundAnswer {
                asked,
                time: WallTime(time.parse().ok()?),
                run: run_number(run)?,
                announced,
                nodes: known.iter().filter(|node| node.is_alive).map(|node| node.entry).collect(),
                members: known.iter().map(|node| node.entry.process.node).collect(),
                leases: Shard::all()
                    .zip(leases)
                    .map(|(shard, lease)| Some((shard, parse_lease(lease)?)))
                    .collect::<Option<_>>()?,
                renewals: renewals.iter().map(|renewal| parse_renewal(renewal)).collect::<Option<_>>()?,
                is_drained: drained == "1",
            };
            Some(Self::Answered { answer: Box::new(answer), database: (run.clone(), created.clone()), nodes: known })
        };
        let parsed = read();
        let (head, ..) = lists;
        parsed.ok_or_else(|| AnswerError::new(head))
    }
}

/// Reads the answer to an acquisition.
pub(crate) fn parse_acquisition(answer: Vec<String>) -> Result<Acquisition, AnswerError> {
    let parsed = match answer.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["acquired", term, run] => term
            .parse()
            .ok()
            .zip(run_number(run))
            .map(|(term, run)| Acquisition::Acquired { term: Term::new(term), run }),
        ["busy"] => Some(Acquisition::Busy),
        ["later"] => Some(Acquisition::Later),
        _ => None,
    };
    parsed.ok_or_else(|| AnswerError::new(answer))
}

/// Reads the process that has a device; `None` if no shard has it.
pub(crate) fn parse_location(answer: Vec<String>) -> Result<Option<NodeProcess>, AnswerError> {
    let parsed = match answer.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["at", owner] => parse_process(owner).map(Some),
        ["nowhere"] => Some(None),
        _ => None,
    };
    parsed.ok_or_else(|| AnswerError::new(answer))
}

/// Reads a node: number, incarnation, weight, whether it takes shards, whether its entry holds, its age in
/// milliseconds, name, address, and the report, which an older version does not have.
fn parse_node(text: &str) -> Option<AnnouncedNode> {
    let mut fields = text.splitn(9, ' ');
    let mut next = || fields.next()?.parse::<u64>().ok();
    let node = NodeNumber::try_from(next()?).ok()?;
    let process = NodeProcess { node, incarnation: Incarnation(next()?) };
    let entry = NodeEntry { process, weight: next()?.try_into().ok()?, takes: next()? == 1 };
    let is_alive = next()? == 1;
    let age = Duration::from_millis(next()?);
    let address = NodeAddress { name: fields.next()?.to_owned(), address: fields.next()?.to_owned() };
    let report = fields.next().and_then(NodeReport::parse);
    Some(AnnouncedNode { entry, is_alive, age, address, report })
}

fn parse_lease(text: &str) -> Option<LeaseState> {
    match text.split_once(' ') {
        None if text == "free" => Some(LeaseState::Free),
        None if text == "unknown" => Some(LeaseState::Unknown),
        Some(("held", owner)) => parse_process(owner).map(LeaseState::Held),
        Some(("expired", owner)) => parse_process(owner).map(LeaseState::Expired),
        Some(_) | None => None,
    }
}

fn parse_renewal(text: &str) -> Option<(Shard, Term, Renewed)> {
    let mut fields = text.split(' ');
    let shard = Shard::new(fields.next()?.parse().ok()?);
    let term = Term::new(fields.next()?.parse().ok()?);
    let renewed = match fields.next()? {
        "mine" => Renewed::Mine,
        "restored" => Renewed::Restored,
        "later" => Renewed::Later,
        "fenced" => Renewed::Fenced,
        _ => return None,
    };
    Some((shard, term, renewed))
}

pub(super) fn parse_process(text: &str) -> Option<NodeProcess> {
    let (node, incarnation) = text.split_once(':')?;
    let node = NodeNumber::try_from(node.parse::<u64>().ok()?).ok()?;
    Some(NodeProcess { node, incarnation: Incarnation(incarnation.parse().ok()?) })
}

/// Returns the first 64 bits of a run id, which is written in hexadecimal digits.
fn run_number(run: &str) -> Option<RunId> {
    u64::from_str_radix(run.get(..16)?, 16).ok().map(RunId)
}

fn script(name: SharedScript, keys: &[String]) -> Cmd {
    eval(&name.text(), keys)
}

/// Returns the request that runs a script with these keys.
pub(super) fn eval(text: &str, keys: &[String]) -> Cmd {
    let mut command = cmd("EVAL");
    command.arg(text).arg(keys.len());
    for key in keys {
        command.arg(key);
    }
    command
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
