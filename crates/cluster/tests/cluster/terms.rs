//! The rules of terms against an engine as bad as can be: it shows any earlier state at any moment, and processes
//! restart, or go on beside a later process of their node. A term that two processes of one node use in one shard, or
//! that one process uses twice, would repeat the numbers of DTLS records.

use std::collections::{HashMap, HashSet};

use lwm2m_base::Shard;
use lwm2m_cluster::{Floors, Term, WallTime};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const RUNS: u64 = 2_000;
const NODES: usize = 3;
const SHARDS: u8 = 4;
const TICK: u64 = 4_000;

/// The rules as they are, unless a test takes one away.
#[derive(Clone, Copy)]
struct Rules {
    /// A process keeps the floor of a shard for its life. Otherwise the floor ends with the tenure of the shard.
    floors_outlive_tenures: bool,
    /// The ticks that the first term of a process is too low.
    missing_margin: u64,
    /// Own terms follow the time that the engine told last. Otherwise they follow the clock since.
    own_terms_by_told_time: bool,
    /// How far the clocks of engines differ, in milliseconds.
    skew: u64,
    earlier_process: Earlier,
}

/// What becomes of a process when a later one of its node starts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Earlier {
    Ends,
    /// It goes on without the engine.
    Lives,
    /// It goes on, and a second engine answers it.
    LivesWithAnEngine,
}

const RULES: Rules = Rules {
    floors_outlive_tenures: true,
    missing_margin: 0,
    own_terms_by_told_time: true,
    skew: 7_900,
    earlier_process: Earlier::Ends,
};

struct Model {
    rules: Rules,
    random: StdRng,
    now: u64,
    /// All terms that were ever stored for a shard. The engine shows any of them.
    stored: HashMap<Shard, Vec<Term>>,
    used: HashSet<(usize, Shard, Term)>,
    twice: bool,
    taken: u64,
}

struct Owner {
    node: usize,
    floors: Floors,
    first: Term,
    told: WallTime,
    told_at: u64,
    shards: HashSet<Shard>,
    reaches_engine: bool,
}

#[test]
fn no_term_is_used_twice_whatever_the_engine_shows() {
    assert_eq!(repeated(RULES), 0);
}

#[test]
fn no_term_is_used_twice_by_two_living_processes_of_one_node() {
    assert_eq!(repeated(Rules { earlier_process: Earlier::Lives, ..RULES }), 0);
}

#[test]
fn floors_that_end_with_the_tenure_repeat_terms() {
    assert!(repeated(Rules { floors_outlive_tenures: false, ..RULES }) > 0);
}

#[test]
fn a_process_that_begins_one_tick_lower_repeats_terms() {
    assert!(repeated(Rules { missing_margin: 1, ..RULES }) > 0);
}

#[test]
fn clocks_that_differ_by_more_than_8_seconds_repeat_terms() {
    assert!(repeated(Rules { skew: 13_000, ..RULES }) > 0);
}

#[test]
fn own_terms_by_the_clock_repeat_those_of_a_later_process() {
    let rules = Rules { own_terms_by_told_time: false, earlier_process: Earlier::Lives, ..RULES };
    assert!(repeated(rules) > 0);
}

/// This is the limit of the guarantee: two living processes of one number, each with an engine of its own.
#[test]
fn two_processes_of_one_node_with_an_engine_each_repeat_terms() {
    assert!(repeated(Rules { earlier_process: Earlier::LivesWithAnEngine, ..RULES }) > 0);
}

/// Returns the number of runs in which a term was used twice.
fn repeated(rules: Rules) -> u64 {
    let runs: Vec<_> = (0..RUNS).map(|seed| Model::new(rules, seed).run()).collect();
    assert!(runs.iter().map(|(_, taken)| taken).sum::<u64>() > 10 * RUNS, "the model takes terms");
    runs.into_iter().filter(|(twice, _)| *twice).count() as u64
}

impl Model {
    fn new(rules: Rules, seed: u64) -> Self {
        let stored = (0..SHARDS).map(|number| (Shard::new(number), vec![Term::NONE])).collect();
        let random = StdRng::seed_from_u64(seed);
        Self { rules, random, now: 1_000_000_000, stored, used: HashSet::new(), twice: false, taken: 0 }
    }

    fn run(mut self) -> (bool, u64) {
        let mut owners: Vec<Owner> = Vec::new();
        for _ in 0..600 {
            match self.random.random_range(0..20) {
                0..6 => self.now += self.random.random_range(0..2 * TICK),
                6..8 => {
                    let node = self.random.random_range(0..NODES);
                    self.restart(&mut owners, node);
                }
                8..15 => self.with_an_owner(&mut owners, Self::acquire),
                _ => self.with_an_owner(&mut owners, Self::take_own_term),
            }
        }
        (self.twice, self.taken)
    }

    fn with_an_owner(&mut self, owners: &mut [Owner], act: fn(&mut Self, &mut Owner, Shard)) {
        if !owners.is_empty() {
            let index = self.random.random_range(0..owners.len());
            let shard = Shard::new(self.random.random_range(0..SHARDS));
            act(self, &mut owners[index], shard);
        }
    }

    fn restart(&mut self, owners: &mut Vec<Owner>, node: usize) {
        match self.rules.earlier_process {
            Earlier::Ends => owners.retain(|owner| owner.node != node),
            Earlier::Lives => {
                owners.iter_mut().filter(|owner| owner.node == node).for_each(|owner| owner.reaches_engine = false);
            }
            Earlier::LivesWithAnEngine => {}
        }
        let told = self.engine_time();
        let lower = WallTime(told.0 - self.rules.missing_margin * TICK);
        let (floors, first) = (Floors::of_process(lower), Term::first_of_process(lower));
        let (told_at, shards) = (self.now, HashSet::new());
        owners.push(Owner { node, floors, first, told, told_at, shards, reaches_engine: true });
    }

    fn engine_time(&mut self) -> WallTime {
        WallTime(Term::EPOCH.0 + self.now + self.random.random_range(0..=self.rules.skew))
    }

    fn acquire(&mut self, owner: &mut Owner, shard: Shard) {
        if !owner.reaches_engine {
            return;
        }
        let time = self.engine_time();
        (owner.told, owner.told_at) = (time, self.now);
        let known = &self.stored[&shard];
        let shown = known[self.random.random_range(0..known.len())];
        let floor = if self.rules.floors_outlive_tenures { owner.floors.floor(shard) } else { owner.first };
        let mut term = shown.next().max(Term::at(time)).max(floor);
        if self.random.random_range(0..10) < 3 {
            term = term.max(Term::last_at(time));
        }
        if term <= Term::last_at(time) {
            self.take(owner, shard, term);
            self.stored.entry(shard).or_default().push(term);
        }
    }

    fn take_own_term(&mut self, owner: &mut Owner, shard: Shard) {
        let since = if self.rules.own_terms_by_told_time { 0 } else { self.now - owner.told_at };
        let clock = WallTime(owner.told.0 + since);
        let term = owner.floors.floor(shard).max(Term::at(clock));
        if owner.shards.contains(&shard) && term <= Term::last_at(clock) {
            self.take(owner, shard, term);
        }
    }

    fn take(&mut self, owner: &mut Owner, shard: Shard, term: Term) {
        let _ = owner.floors.use_term(shard, term);
        owner.shards.insert(shard);
        self.taken += 1;
        self.twice |= !self.used.insert((owner.node, shard, term));
    }
}
