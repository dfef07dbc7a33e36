//! Rounds, acquisitions and releases of leases.

use std::collections::BTreeMap;
use std::time::Duration;

use ::redis::cmd;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::super::requests::{NodeIdentity, RoundLists, SharedRound, parse_acquisition};
use super::server::ModelledServer;
use lwm2m_base::Shard;
use lwm2m_cluster::engine::{
    Acquisition, Announced, EngineRequest, LeaseState, NodeEntry, Renewal, RoundAnswer, RunId, Timing,
};
use lwm2m_cluster::model::engine::{Acquire, Engine, Rules, Stored};
use lwm2m_cluster::{Incarnation, NodeNumber, NodeProcess, Term, WallTime};
use lwm2m_testkit::scene::beginning as now;

/// Number of shards of the model.
const SHARDS: u8 = 8;
/// Number of schedules. `CLUSTER_SCRIPT_SCHEDULES` plays more of them.
const SCHEDULES: u64 = 20;
/// Number of requests of a schedule.
const REQUESTS: usize = 150;
const SHORT: [u64; 5] = [0, 1, 40, 700, 2_500];
const LONG: [u64; 4] = [4_999, 5_000, 9_999, 20_000];

/// The fields and values of the keys that a failover brings back.
type Dump = BTreeMap<String, BTreeMap<String, String>>;

/// A server and a model of it.
struct Both<'s> {
    server: &'s mut ModelledServer,
    model: Engine,
    random: StdRng,
    /// Milliseconds since the start of the model.
    world: u64,
    identity: NodeIdentity,
    /// Earlier states of both.
    kept: Vec<(Stored, Dump)>,
    /// What was asked, for the message of a failure.
    asked: String,
}

#[tokio::test]
async fn the_scripts_for_leases_answer_as_the_model_does() {
    let Some(mut server) = ModelledServer::start().await else { return };
    let schedules = std::env::var("CLUSTER_SCRIPT_SCHEDULES").map_or(SCHEDULES, |count| count.parse().unwrap());
    let mut seen = BTreeMap::new();
    for seed in 0..schedules {
        let played = Both::new(&mut server, seed, Rules::Correct).await.play(&mut seen).await;
        assert_eq!(played, Ok(()), "seed {seed}");
    }
    println!("{schedules} schedules: {seen:?}");
    for answer in ["Mine", "Restored", "Later", "Fenced", "Acquired", "Busy", "Done", "Occupied", "Replaced"] {
        assert!(seen.contains_key(answer), "no request was answered {answer}: {seen:?}");
    }
}

#[tokio::test]
async fn a_rule_that_the_model_leaves_out_is_noticed() {
    let Some(mut server) = ModelledServer::start().await else { return };
    for rules in [Rules::RenewalByTermOnly, Rules::ForgottenLeaseIsFree, Rules::ReleaseByOwnerOnly] {
        let mut is_noticed = false;
        for seed in 0..SCHEDULES {
            is_noticed |= Both::new(&mut server, seed, rules).await.play(&mut BTreeMap::new()).await.is_err();
            if is_noticed {
                break;
            }
        }
        assert!(is_noticed, "{rules:?}");
    }
}

fn process(node: u64, incarnation: u64) -> NodeProcess {
    NodeProcess { node: NodeNumber::try_from(node).unwrap(), incarnation: Incarnation(incarnation) }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap()
}

impl<'s> Both<'s> {
    async fn new(server: &'s mut ModelledServer, seed: u64, rules: Rules) -> Self {
        let identity = NodeIdentity {
            prefix: "lwm2m".to_owned(),
            process: process(0, 1),
            name: "gw".to_owned(),
            address: "a:1".to_owned(),
            timing: Timing::default(),
            seal: "seal".to_owned(),
        };
        let _: String = server.ask(&cmd("FLUSHALL")).await;
        let mut both = Self {
            server,
            model: Engine::new(SHARDS, Timing::default(), rules),
            random: StdRng::seed_from_u64(seed),
            world: 0,
            identity,
            kept: Vec::new(),
            asked: String::new(),
        };
        both.pass(0).await;
        both
    }

    /// Plays a schedule. Counts the answers by their names.
    async fn play(&mut self, seen: &mut BTreeMap<String, usize>) -> Result<(), String> {
        for _ in 0..REQUESTS {
            let times = if self.random.random_range(0..10) == 0 { &LONG[..] } else { &SHORT[..] };
            let passed = times[self.random.random_range(0..times.len())];
            self.pass(passed).await;
            self.identity.process = process(self.random.random_range(0..3), self.random.random_range(1..4));
            let answers = match self.random.random_range(0..100) {
                0..45 => self.round().await?,
                45..78 => self.acquire().await?,
                78..90 => self.release().await?,
                90..94 => self.drain().await,
                94..97 => self.keep().await,
                97..99 => self.fail_over().await,
                _ => self.empty().await,
            };
            for answer in answers {
                *seen.entry(answer).or_default() += 1;
            }
            self.compare_leases().await?;
        }
        Ok(())
    }

    /// Lets time pass.
    async fn pass(&mut self, milliseconds: u64) {
        self.world += milliseconds;
        let (time, run) = (self.model.time(self.world), self.model.run);
        self.server.set(time, run).await;
    }

    fn same<T: PartialEq + std::fmt::Debug>(&self, script: &T, model: &T) -> Result<(), String> {
        if script == model {
            return Ok(());
        }
        let (asked, time) = (&self.asked, self.model.time(self.world));
        Err(format!("{asked} of {} at {time:?}:\nscript {script:?}\nmodel  {model:?}", self.identity.process))
    }

    fn shard(&mut self) -> Shard {
        Shard::new(self.random.random_range(0..SHARDS))
    }

    /// Returns the term of a lease, one more or one less.
    fn term_near(&mut self, shard: Shard) -> Term {
        let stored = self.model.stored.leases[&shard].term.number();
        Term::new((stored + self.random.random_range(0..3)).saturating_sub(1))
    }

    async fn round(&mut self) -> Result<Vec<String>, String> {
        let process = self.identity.process;
        let takes = self.random.random_bool(0.8);
        let entry = NodeEntry { process, weight: self.random.random_range(0..4), takes };
        let mut renewals = Vec::new();
        for shard in (0..SHARDS).map(Shard::new) {
            if self.random.random_bool(0.5) {
                let run = RunId(self.model.run.0 - u64::from(self.model.run.0 > 1 && self.random.random_bool(0.3)));
                let (term, sure) = (self.term_near(shard), self.random.random_bool(0.5));
                renewals.push(Renewal { shard, term, run, sure });
            }
        }
        self.asked = format!("round {entry:?} {renewals:?}");
        let asked = now();
        let model = self.model.round(asked, entry, &renewals, self.world);
        let request = self.identity.round((&entry, "{}"), &renewals, 1, "database");
        let lists: RoundLists = self.server.ask(&request).await;
        let parsed = SharedRound::parse(asked, lists).map_err(|error| error.to_string())?;
        let SharedRound::Answered { answer: mut script, .. } = parsed else { return Err(format!("{parsed:?}")) };
        let rest = script.leases.split_off(usize::from(SHARDS));
        assert!(rest.iter().all(|(_, lease)| *lease == LeaseState::Unknown), "{rest:?}");
        script.nodes.sort_by_key(|node| node.process);
        script.members.sort();
        self.same(&*script, &model)?;
        if model.announced == Announced::Done {
            // The drain of an earlier process ended with it.
            self.model.stored.drained.retain(|drained| drained.node != process.node || *drained == process);
        }
        Ok(answers(&model))
    }

    async fn acquire(&mut self) -> Result<Vec<String>, String> {
        let (shard, time) = (self.shard(), self.model.time(self.world));
        let (tick, last) = (Term::at(time), Term::last_at(time));
        let floor = [Term::NONE, Term::NONE, tick, last, last.next()][self.random.random_range(0..5)];
        let grace = self.identity.timing.grace;
        let contact = [Duration::ZERO, grace / 2, grace, grace * 6, grace * 6][self.random.random_range(0..5)];
        let late = self.random.random_range(0..8) == 0;
        let not_after = WallTime(time.0 + 1_000 - 2_000 * u64::from(late));
        let ask = Acquire { shard, floor, contact, not_after };
        self.asked = format!("{ask:?}");
        let model = self.model.acquire(self.identity.process, &ask, self.world);
        let request = EngineRequest::Acquire { asked: now(), shard, floor, contact, not_after };
        let request = self.identity.lease_request(&request, 1).expect("it is no round");
        let answer = self.server.ask(&request).await;
        let script = parse_acquisition(answer).map_err(|error| error.to_string())?;
        self.same(&script, &model)?;
        Ok(vec![match model {
            Acquisition::Acquired { .. } => "Acquired".to_owned(),
            Acquisition::Busy => "Busy".to_owned(),
            Acquisition::Later => "not yet".to_owned(),
        }])
    }

    async fn release(&mut self) -> Result<Vec<String>, String> {
        let shard = self.shard();
        // Mostly the owner.
        if let Some(owner) = self.model.stored.leases[&shard].owner
            && self.random.random_bool(0.7)
        {
            self.identity.process = owner;
        }
        let term = self.term_near(shard);
        let late = u64::from(self.random.random_range(0..8) == 0);
        let not_after = WallTime(self.model.time(self.world).0 + 1_000 - 2_000 * late);
        self.asked = format!("release of {shard} in {term} until {not_after:?}");
        let model = self.model.release(self.identity.process, (shard, term), not_after, self.world);
        let request = EngineRequest::Release { shard, term, not_after };
        let request = self.identity.lease_request(&request, 1).expect("it is no round");
        let script: Vec<String> = self.server.ask(&request).await;
        self.same(&script[0].as_str(), &if model { "released" } else { "late" })?;
        Ok(script)
    }

    /// An operator drains a process, in place of another one of its node. The model has no such request.
    async fn drain(&mut self) -> Vec<String> {
        let process = self.identity.process;
        self.model.stored.drained.retain(|drained| drained.node != process.node);
        self.model.stored.drained.insert(process);
        let request = self.identity.drain(process, true);
        self.server.ask(&request).await
    }

    /// Compares owners and terms.
    async fn compare_leases(&mut self) -> Result<(), String> {
        for shard in (0..SHARDS).map(Shard::new) {
            let key = format!("lwm2m:{{{}}}:lease", shard.number());
            let script: Vec<Option<String>> = self.server.ask(cmd("HMGET").arg(key).arg(&["owner", "term"])).await;
            let lease = &self.model.stored.leases[&shard];
            let owner = lease.owner.map(|owner| owner.to_string()).unwrap_or_default();
            let [script_owner, term] = [0, 1].map(|index| script[index].clone().unwrap_or_default());
            let term = Term::new(term.parse().unwrap_or(0));
            self.same(&(shard, script_owner, term), &(shard, owner, lease.term))?;
        }
        Ok(())
    }

    /// Keeps the state, to which a failover may come back.
    async fn keep(&mut self) -> Vec<String> {
        let mut dump = Dump::new();
        let keys: Vec<String> = self.server.ask(cmd("KEYS").arg("lwm2m:*")).await;
        for key in keys {
            let fields = self.server.ask(cmd("HGETALL").arg(&key)).await;
            dump.insert(key, fields);
        }
        self.kept.push((self.model.stored.clone(), dump));
        Vec::new()
    }

    /// Another server takes over, perhaps with an earlier state and another clock.
    async fn fail_over(&mut self) -> Vec<String> {
        let offset = [0, -1_000, 1_000][self.random.random_range(0..3)];
        self.model.fail_over(0, offset);
        if self.random.random_bool(0.8)
            && let Some((stored, dump)) = self.kept.pop()
        {
            self.model.stored = stored;
            let _: String = self.server.ask(&cmd("FLUSHALL")).await;
            for (key, fields) in dump {
                let mut put = cmd("HSET");
                put.arg(&key);
                for (field, value) in fields {
                    put.arg(field).arg(value);
                }
                let _: u64 = self.server.ask(&put).await;
            }
        }
        self.pass(0).await;
        vec!["failed over".to_owned()]
    }

    async fn empty(&mut self) -> Vec<String> {
        self.model.empty();
        let _: String = self.server.ask(&cmd("FLUSHALL")).await;
        self.pass(milliseconds(Duration::ZERO)).await;
        vec!["emptied".to_owned()]
    }
}

/// Names what a round has answered.
fn answers(round: &RoundAnswer) -> Vec<String> {
    let announced = match round.announced {
        Announced::Done => "Done",
        Announced::Occupied { .. } => "Occupied",
        Announced::Replaced => "Replaced",
    };
    let renewals = round.renewals.iter().map(|(_, _, renewed)| format!("{renewed:?}"));
    renewals.chain([announced.to_owned()]).collect()
}
