//! A model of the engine: what each request does, and how the engine forgets.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use crate::engine::{Acquisition, Announced, LeaseState, NodeEntry, Renewal, Renewed, RoundAnswer, RunId, Timing};
use crate::{NodeNumber, NodeProcess, Term, WallTime};
use lwm2m_base::Shard;

/// The scripts of the engine, as they are or without one of their rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    Correct,
    /// A renewal takes the lease back from everybody with a lower term.
    RenewalByTermOnly,
    /// A lease that the engine may have forgotten is acquired at once.
    ForgottenLeaseIsFree,
    /// A release is executed whatever its term is.
    ReleaseByOwnerOnly,
}

#[derive(Clone, Default)]
pub struct Stored {
    nodes: BTreeMap<NodeNumber, (NodeEntry, u64)>,
    pub leases: BTreeMap<Shard, Lease>,
    /// The processes that an operator has drained.
    pub drained: BTreeSet<NodeProcess>,
}

#[derive(Clone)]
pub struct Lease {
    pub owner: Option<NodeProcess>,
    pub term: Term,
    until: u64,
    run: Option<RunId>,
    unknown_until: Option<u64>,
}

pub struct Engine {
    rules: Rules,
    timing: Timing,
    shards: u8,
    pub stored: Stored,
    /// Earlier states, the newest last.
    history: VecDeque<Stored>,
    writes: usize,
    pub run: RunId,
    /// The clock of the engine against that of the world.
    pub offset: i64,
}

impl Engine {
    pub fn new(shards: u8, timing: Timing, rules: Rules) -> Self {
        let (stored, history) = (Stored::default(), VecDeque::new());
        let mut engine = Self { rules, timing, shards, stored, history, writes: 0, run: RunId(1), offset: 0 };
        engine.add_leases();
        engine
    }

    fn add_leases(&mut self) {
        for number in 0..self.shards {
            let lease = Lease { owner: None, term: Term::NONE, until: 0, run: None, unknown_until: None };
            self.stored.leases.entry(Shard::new(number)).or_insert(lease);
        }
    }

    /// Restarts with the state of so many writes ago.
    pub fn fail_over(&mut self, lost: usize, offset: i64) {
        for _ in 0..lost {
            if let Some(earlier) = self.history.pop_back() {
                self.stored = earlier;
            }
        }
        self.run = RunId(self.run.0 + 1);
        self.offset = offset;
    }

    pub fn empty(&mut self) {
        self.keep();
        self.stored = Stored::default();
        self.add_leases();
    }

    /// Returns the number of writes since the first start.
    pub fn writes(&self) -> usize {
        self.writes
    }

    fn keep(&mut self) {
        self.writes += 1;
        self.history.push_back(self.stored.clone());
        if self.history.len() > 400 {
            self.history.pop_front();
        }
    }

    pub fn time(&self, world: u64) -> WallTime {
        WallTime((Term::EPOCH.0 + 1_000_000_000 + world).saturating_add_signed(self.offset))
    }

    pub fn round(&mut self, asked: Instant, entry: NodeEntry, renewals: &[Renewal], world: u64) -> RoundAnswer {
        let now = self.time(world).0;
        let process = entry.process;
        let announced = match self.stored.nodes.get(&process.node) {
            Some(&(other, until)) if until > now && other.process.incarnation > process.incarnation => {
                Announced::Replaced
            }
            Some(&(other, until)) if until > now && other.process.incarnation < process.incarnation => {
                Announced::Occupied { by: other.process.incarnation, until: WallTime(until) }
            }
            Some(_) | None => Announced::Done,
        };
        let mut renewed = Vec::new();
        if announced == Announced::Done {
            self.keep();
            self.stored.nodes.insert(process.node, (entry, now + millis(self.timing.lease)));
            for renewal in renewals {
                renewed.push((renewal.shard, renewal.term, self.renew(process, renewal, now)));
            }
        }
        let nodes = self.stored.nodes.values().filter(|(_, until)| *until > now).map(|(entry, _)| *entry).collect();
        let members = self.stored.nodes.keys().copied().collect();
        let leases = self.stored.leases.iter().map(|(&shard, lease)| (shard, self.view(lease, now))).collect();
        RoundAnswer {
            asked,
            time: WallTime(now),
            run: self.run,
            announced,
            nodes,
            members,
            leases,
            renewals: renewed,
            is_drained: self.stored.drained.contains(&process),
        }
    }

    fn view(&self, lease: &Lease, now: u64) -> LeaseState {
        match lease.owner {
            _ if lease.run != Some(self.run) || lease.unknown_until.is_some() => LeaseState::Unknown,
            None => LeaseState::Free,
            Some(owner) if lease.until > now => LeaseState::Held(owner),
            Some(owner) => LeaseState::Expired(owner),
        }
    }

    fn renew(&mut self, me: NodeProcess, renewal: &Renewal, now: u64) -> Renewed {
        let (run, rules) = (self.run, self.rules);
        let Some(lease) = self.stored.leases.get_mut(&renewal.shard) else { return Renewed::Fenced };
        if lease.owner != Some(me) || lease.term > renewal.term {
            let forgot = lease.owner.is_none() || run != renewal.run || rules == Rules::RenewalByTermOnly;
            if lease.term >= renewal.term || !forgot {
                return Renewed::Fenced;
            }
            if !renewal.sure && rules != Rules::RenewalByTermOnly {
                if lease.run == Some(run) && lease.unknown_until.is_none() {
                    return Renewed::Fenced;
                }
                lease.run = Some(run);
                let until = *lease.unknown_until.get_or_insert(now + millis(self.timing.grace));
                if now + millis(self.timing.grace) / 2 < until {
                    return Renewed::Later;
                }
            }
        }
        let renewed = if lease.owner == Some(me) { Renewed::Mine } else { Renewed::Restored };
        let until = now + millis(self.timing.lease);
        *lease = Lease { owner: Some(me), term: renewal.term, until, run: Some(run), unknown_until: None };
        renewed
    }

    pub fn acquire(&mut self, me: NodeProcess, ask: &Acquire, world: u64) -> Acquisition {
        let time = self.time(world);
        let (now, run, rules) = (time.0, self.run, self.rules);
        let Some(lease) = self.stored.leases.get(&ask.shard).cloned() else { return Acquisition::Later };
        if time > ask.not_after {
            return Acquisition::Later;
        }
        if lease.run != Some(run) && rules != Rules::ForgottenLeaseIsFree {
            self.keep();
            let unknown_until = Some(now + millis(self.timing.grace));
            self.stored.leases.insert(ask.shard, Lease { run: Some(run), unknown_until, ..lease });
            return Acquisition::Later;
        }
        if lease.owner.is_some_and(|owner| owner != me) && lease.until > now {
            return Acquisition::Busy;
        }
        let is_over = |owner: NodeProcess| owner.node == me.node && owner.incarnation <= me.incarnation;
        let may_come_back = lease.unknown_until.is_some() || lease.owner.is_some_and(|owner| !is_over(owner));
        let young = may_come_back && ask.contact < self.timing.grace;
        if lease.unknown_until.is_some_and(|until| until > now) || young {
            return Acquisition::Later;
        }
        let mut term = lease.term.next().max(Term::at(time)).max(ask.floor);
        if lease.unknown_until.is_some() || lease.run != Some(run) {
            term = term.max(Term::last_at(time));
        }
        if term > Term::last_at(time) {
            return Acquisition::Later;
        }
        self.keep();
        let until = now + millis(self.timing.lease);
        let lease = Lease { owner: Some(me), term, until, run: Some(run), unknown_until: None };
        self.stored.leases.insert(ask.shard, lease);
        Acquisition::Acquired { term, run }
    }

    /// Returns whether the release was not too late.
    pub fn release(&mut self, me: NodeProcess, (shard, term): (Shard, Term), not_after: WallTime, now: u64) -> bool {
        if self.time(now) > not_after {
            return false;
        }
        let any_term = self.rules == Rules::ReleaseByOwnerOnly;
        let run = self.run;
        self.keep();
        if let Some(lease) = self.stored.leases.get_mut(&shard)
            && lease.owner == Some(me)
            && (lease.term == term || any_term)
        {
            (lease.owner, lease.run) = (None, Some(run));
        }
        true
    }

    /// Executes a write that is fenced by owner and term, and returns whether it came through.
    pub fn write(&self, me: NodeProcess, shard: Shard, term: Term) -> bool {
        self.stored.leases.get(&shard).is_some_and(|lease| lease.owner == Some(me) && lease.term == term)
    }
}

/// The arguments of an acquisition.
#[derive(Clone, Copy, Debug)]
pub struct Acquire {
    pub shard: Shard,
    pub floor: Term,
    pub contact: Duration,
    pub not_after: WallTime,
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).expect("a lease takes fewer than 2^64 milliseconds")
}
