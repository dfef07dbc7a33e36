//! The entry of an endpoint name, and the records of its device, while it moves.

use std::collections::HashMap;

use ::redis::cmd;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::super::super::layout::{BatchStep, RecordHash};
use super::super::super::seal::Seal;
use super::super::names::{self as names_at_store, NameAnswer, NameAsk, Taking, superseded};
use super::super::requests::NodeIdentity;
use super::super::scripts::SharedScript;
use super::server::ModelledServer;
use lwm2m_base::{AssociationId, Peer, Shard};
use lwm2m_cluster::endpoint_move::{Frozen, MoveNumber, Thawed};
use lwm2m_cluster::engine::{RunId, Timing};
use lwm2m_cluster::model::names::{Flaw, Names, SHARDS};
use lwm2m_cluster::{Incarnation, NodeNumber, NodeProcess, Term, WallTime};

const ENDPOINT: &str = "a";
/// Number of schedules. `CLUSTER_SCRIPT_SCHEDULES` plays more of them.
const SCHEDULES: u64 = 20;
/// Number of requests of a schedule.
const REQUESTS: usize = 200;

/// A server and a model of it. The node of each shard is that of its number.
struct Both<'s> {
    server: &'s mut ModelledServer,
    model: Names,
    random: StdRng,
    seal: Seal,
    time: u64,
    seq: u64,
    /// The newest process of each node, which has the lease of its shard.
    processes: [u64; SHARDS],
    /// The versions in which the name was frozen, of the model and of the server, with the shard.
    frozen: Vec<(usize, u64, u64)>,
}

#[tokio::test]
async fn the_scripts_for_moves_answer_as_the_model_does() {
    let Some(mut server) = ModelledServer::start().await else { return };
    let schedules = std::env::var("CLUSTER_SCRIPT_SCHEDULES").map_or(SCHEDULES, |count| count.parse().unwrap());
    let mut moves = 0;
    for seed in 0..schedules {
        let mut both = Both::new(&mut server, seed, Flaw::None).await;
        assert_eq!(both.play(&mut moves).await, Ok(()), "seed {seed}");
    }
    println!("{schedules} schedules, {moves} moves");
    assert!(moves > schedules, "{moves} moves");
}

#[tokio::test]
async fn a_rule_of_moves_that_the_model_leaves_out_is_noticed() {
    let Some(mut server) = ModelledServer::start().await else { return };
    for flaw in [Flaw::SameVersion, Flaw::LoadKeepsFrozen, Flaw::TakeIsNotFenced] {
        let mut is_noticed = false;
        for seed in 0..SCHEDULES {
            is_noticed |= Both::new(&mut server, seed, flaw).await.play(&mut 0).await.is_err();
        }
        assert!(is_noticed, "{flaw:?}");
    }
}

fn shard(number: usize) -> Shard {
    Shard::new(u8::try_from(number).unwrap())
}

fn devices(number: usize) -> RecordHash {
    RecordHash::Devices(shard(number))
}

/// A peer whose association is of this shard.
fn peer(number: usize) -> Peer {
    let association = Some(AssociationId((number as u64) << 56 | 1));
    Peer { socket: 0, address: "192.0.2.1:5684".parse().unwrap(), association }
}

impl<'s> Both<'s> {
    async fn new(server: &'s mut ModelledServer, seed: u64, flaw: Flaw) -> Self {
        let _: String = server.ask(&cmd("FLUSHALL")).await;
        let seal = Seal::new(Seal::parse_key(&"01".repeat(32)).expect("a key"), 0);
        let (model, random) = (Names::new(flaw), StdRng::seed_from_u64(seed));
        let time = Term::EPOCH.0 + 1_000_000_000;
        let mut both = Self { server, model, random, seal, time, seq: 0, processes: [1; SHARDS], frozen: Vec::new() };
        both.server.set(WallTime(time), RunId(1)).await;
        for number in 0..SHARDS {
            both.take_lease(number).await;
        }
        let put = BatchStep::Put { hash: devices(0), field: ENDPOINT.into(), value: b"record".to_vec().into() };
        both.write(0, put).await;
        both
    }

    /// Returns a process of a node: its newest one, or an earlier one.
    fn identity(&self, node: usize, is_owner: bool) -> NodeIdentity {
        let incarnation = Incarnation(self.processes[node] + u64::from(!is_owner) * 1_000);
        let process = NodeProcess { node: NodeNumber::try_from(node as u64).unwrap(), incarnation };
        NodeIdentity {
            prefix: "lwm2m".to_owned(),
            process,
            name: "gw".to_owned(),
            address: "a:1".to_owned(),
            timing: Timing::default(),
            seal: "seal".to_owned(),
        }
    }

    async fn take_lease(&mut self, node: usize) {
        let owner = self.identity(node, true).process.to_string();
        let _: u64 = self.server.ask(cmd("HSET").arg(format!("lwm2m:{{{node}}}:lease")).arg("owner").arg(owner)).await;
    }

    async fn write(&mut self, node: usize, step: BatchStep) {
        self.seq += 1;
        let terms = HashMap::from([(shard(node), Term::new(1))]);
        let identity = self.identity(node, true);
        let (request, _) = identity.write(self.seq, &[step], (&mut self.seal, &terms), || [7; 12]).unwrap();
        let answer: Vec<String> = self.server.ask(&request).await;
        assert_eq!(answer, ["stored"]);
    }

    async fn play(&mut self, moves: &mut u64) -> Result<(), String> {
        for _ in 0..REQUESTS {
            self.time += [0, 0, 1, 2_000][self.random.random_range(0..4)];
            self.server.set(WallTime(self.time), RunId(1)).await;
            let (node, is_owner) = (self.random.random_range(0..SHARDS), self.random.random_bool(0.9));
            let before = self.model.entry;
            let asked = match self.random.random_range(0..100) {
                0..30 => self.freeze(node, is_owner).await?,
                30..45 => self.thaw(node, is_owner).await?,
                45..85 => self.take(node, is_owner).await?,
                85..93 => self.load(node).await?,
                _ => self.remove(node).await,
            };
            *moves += u64::from(before.shard != self.model.entry.shard);
            self.compare(&format!("{asked} of node {node}, owner {is_owner}, after {before:?}")).await?;
        }
        Ok(())
    }

    async fn freeze(&mut self, node: usize, is_owner: bool) -> Result<String, String> {
        let model = self.model.freeze(node, is_owner);
        let request = self.identity(node, is_owner).freeze_or_thaw(SharedScript::Freeze, shard(node), ENDPOINT);
        let answer = self.server.ask(&request).await;
        let script = read(NameAsk::Freeze(ENDPOINT.to_owned(), shard(node)), answer)?;
        match (model, script) {
            (Frozen::Version(model), NameAnswer::Frozen(_, Frozen::Version(script))) => {
                // A version of the model names one of the server.
                if self.frozen.iter().any(|(_, known, _)| *known == model) {
                    return Err(format!("version {model} of the model came twice"));
                }
                if self.frozen.last().is_some_and(|(_, _, last)| *last >= script) {
                    return Err(format!("version {script} of the server is not above {:?}", self.frozen.last()));
                }
                self.frozen.push((node, model, script));
            }
            (model, script) => same(script, NameAnswer::Frozen(ENDPOINT.to_owned(), model))?,
        }
        Ok("freeze".to_owned())
    }

    async fn thaw(&mut self, node: usize, is_owner: bool) -> Result<String, String> {
        let model: Thawed = self.model.thaw(node, is_owner);
        let request = self.identity(node, is_owner).freeze_or_thaw(SharedScript::Thaw, shard(node), ENDPOINT);
        let answer = self.server.ask(&request).await;
        let script = read(NameAsk::Thaw(ENDPOINT.to_owned(), shard(node)), answer)?;
        same(script, NameAnswer::Thawed(ENDPOINT.to_owned(), model))?;
        Ok("thaw".to_owned())
    }

    /// Takes the device in one of the last versions in which it was frozen.
    async fn take(&mut self, node: usize, is_owner: bool) -> Result<String, String> {
        let last = self.frozen.len().saturating_sub(3);
        let known: Vec<_> = self.frozen[last..].iter().copied().filter(|(from, ..)| *from != node).collect();
        if known.is_empty() {
            return Ok("nothing to take".to_owned());
        }
        let (from, model_version, version) = known[self.random.random_range(0..known.len())];
        let is_taken = self.model.take(node, is_owner, from, model_version);
        let taking = Taking {
            number: MoveNumber(1),
            endpoint: ENDPOINT.to_owned(),
            from: shard(from),
            version,
            peer: peer(node),
            device: None,
        };
        let put = BatchStep::Put { hash: devices(node), field: ENDPOINT.into(), value: b"record".to_vec().into() };
        let identity = self.identity(node, is_owner);
        let request = identity.take(&taking, &[put], (&mut self.seal, Term::new(1)), || [7; 12]).unwrap();
        let answer = self.server.ask(&request.expect("the peer has an association")).await;
        same(names_at_store::is_taken(answer).map_err(|error| error.to_string())?, is_taken)?;
        Ok(format!("take from {from} in version {model_version}"))
    }

    /// A new process acquires the shard, and reads it.
    async fn load(&mut self, node: usize) -> Result<String, String> {
        self.processes[node] += 1;
        self.take_lease(node).await;
        let has_record = self.model.records[node];
        self.model.load(node);
        if has_record {
            let endpoints = [ENDPOINT.as_bytes().to_vec()];
            let requests = self.identity(node, true).check(shard(node), &endpoints);
            let mut answers = Vec::new();
            for request in requests.cmd_iter() {
                answers.push(self.server.ask(request).await);
            }
            let superseded = superseded(&endpoints, answers).map_err(|error| error.to_string())?;
            same(superseded.is_empty(), self.model.records[node])?;
            if !superseded.is_empty() {
                self.write(node, BatchStep::Remove { hash: devices(node), field: ENDPOINT.into() }).await;
            }
        }
        Ok("load".to_owned())
    }

    /// The former owner removes its record once it knows that the device has gone.
    async fn remove(&mut self, node: usize) -> String {
        if self.model.entry.shard != node && self.model.records[node] {
            self.model.remove_superseded(node);
            self.write(node, BatchStep::Remove { hash: devices(node), field: ENDPOINT.into() }).await;
        }
        "removal".to_owned()
    }

    /// Compares the entry of the name and the records.
    async fn compare(&mut self, asked: &str) -> Result<(), String> {
        let entry: String = self.server.ask(cmd("GET").arg("lwm2m:ep:a")).await;
        let state = if self.model.entry.is_frozen { 'f' } else { 's' };
        let expected = format!("{state} {} ", self.model.entry.shard);
        if !entry.starts_with(&expected) {
            return Err(format!("{asked}: the entry is {entry}, but {:?} was expected", self.model.entry));
        }
        for number in 0..SHARDS {
            let exists = cmd("HEXISTS").arg(devices(number).key("lwm2m")).arg(ENDPOINT).to_owned();
            let exists: bool = self.server.ask(&exists).await;
            if exists != self.model.records[number] {
                return Err(format!("{asked}: shard {number} has a record: {exists}"));
            }
        }
        Ok(())
    }
}

fn same<T: PartialEq + std::fmt::Debug>(script: T, model: T) -> Result<(), String> {
    if script == model { Ok(()) } else { Err(format!("script {script:?}, model {model:?}")) }
}

fn read(asked: NameAsk, answer: Vec<String>) -> Result<NameAnswer, String> {
    let (answer, is_known) = asked.read(answer);
    is_known.map(|()| answer).map_err(|error| error.to_string())
}
