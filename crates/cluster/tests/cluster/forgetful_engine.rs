//! Schedules in which an engine forgets or a request is late, each with the rule that it needs and without it.

use std::time::{Duration, Instant};

use lwm2m_base::Shard;
use lwm2m_cluster::engine::{Acquisition, NodeEntry, Renewal, Timing};
use lwm2m_cluster::model::engine::{Acquire, Engine, Rules};
use lwm2m_cluster::{EngineContact, Incarnation, Isolated, NodeNumber, NodeProcess, Term, WallTime};

use crate::world::{SHARDS, World};

const SHARD: Shard = Shard::new(3);

fn process(number: u64) -> NodeProcess {
    NodeProcess { node: NodeNumber::try_from(number).unwrap(), incarnation: Incarnation(1) }
}

fn acquire(engine: &mut Engine, number: u64, world: u64) -> Option<Term> {
    let not_after = WallTime(engine.time(world).0 + 2_000);
    let ask = Acquire { shard: SHARD, floor: Term::NONE, contact: Duration::from_secs(60), not_after };
    match engine.acquire(process(number), &ask, world) {
        Acquisition::Acquired { term, .. } => Some(term),
        Acquisition::Busy | Acquisition::Later => None,
    }
}

fn renew(engine: &mut Engine, number: u64, term: Term, world: u64) {
    let entry = NodeEntry { process: process(number), weight: 1, takes: true };
    let renewal = Renewal { shard: SHARD, term, run: engine.run, sure: true };
    engine.round(Instant::now(), entry, &[renewal], world);
}

/// Returns an engine in which node 1 owns the shard, and its term.
fn owned_by_1(rules: Rules) -> (Engine, Term) {
    let mut engine = Engine::new(SHARDS, Timing::default(), rules);
    acquire(&mut engine, 1, 0);
    let term = acquire(&mut engine, 1, 10_000).expect("the engine has waited for forgotten owners");
    (engine, term)
}

#[test]
fn an_owner_whose_own_terms_ran_ahead_does_not_take_back_what_another_acquired() {
    let owner = |rules| {
        let (mut engine, term) = owned_by_1(rules);
        let acquired = acquire(&mut engine, 2, 15_000).expect("the lease has expired");
        renew(&mut engine, 1, acquired.next().max(term), 15_100);
        engine.stored.leases[&SHARD].owner
    };

    assert_eq!(owner(Rules::Correct), Some(process(2)));
    assert_eq!(owner(Rules::RenewalByTermOnly), Some(process(1)));
}

#[test]
fn a_late_release_does_not_end_a_later_tenure_of_the_same_process() {
    let owner = |rules| {
        let (mut engine, term) = owned_by_1(rules);
        acquire(&mut engine, 1, 14_500).expect("the lease is its own");
        assert!(engine.release(process(1), (SHARD, term), WallTime(u64::MAX), 0));
        engine.stored.leases[&SHARD].owner
    };

    assert_eq!(owner(Rules::Correct), Some(process(1)));
    assert_eq!(owner(Rules::ReleaseByOwnerOnly), None);
}

/// Three nodes that have shared the shards.
fn three_nodes(seed: u64, rules: Rules) -> World {
    let mut world = World::new(seed, rules, Isolated::Serve);
    for number in 0..3 {
        world.start(number, 0, 0);
    }
    world.run_until(40_000);
    assert!(world.all_shards_owned());
    world
}

#[test]
fn a_lease_that_the_engine_forgot_is_not_acquired_before_its_owner_had_time_to_come_back() {
    let violations = |rules| {
        let mut world = three_nodes(1, rules);
        world.cut_from_engine.insert(0);
        world.run_for(500);
        world.empty();
        world.run_for(2_000);
        world.cut_from_engine.clear();
        world.run_for(20_000);
        world.audit.violations.len()
    };

    assert_eq!(violations(Rules::Correct), 0);
    assert!(violations(Rules::ForgottenLeaseIsFree) > 0);
}

/// The engine forgets that node 0 lost its shards, while their new owners cannot reach it. They are sure for 4 s from
/// their last renewal, so that a wait of 2 s would be too short.
#[test]
fn an_owner_that_the_engine_brings_back_waits_until_no_other_one_can_be_sure() {
    let mut world = three_nodes(2, Rules::Correct);
    let shards: Vec<_> =
        (0..SHARDS).map(Shard::new).filter(|&shard| world.owners(shard) == [world.current(0).unwrap()]).collect();
    world.cut_from_engine.insert(0);
    let before = world.engine.writes();
    while !shards.iter().all(|&shard| world.owners(shard).iter().any(|&owner| owner != 0)) {
        world.run_for(20);
    }
    world.fail_over(world.engine.writes() - before, 0);
    world.cut_from_engine.extend([1, 2]);
    world.cut_from_engine.remove(&0);

    let mut sure_since = None;
    let mut longest = 0;
    for _ in 0..500 {
        world.run_for(20);
        let serving = |number: usize| shards.iter().any(|&shard| world.owners(shard).contains(&number));
        assert!(!(serving(0) && (serving(1) || serving(2))), "two owners");
        if world.processes[0].member.state() == EngineContact::Sure {
            let since = *sure_since.get_or_insert(world.now);
            longest = if serving(1) || serving(2) { world.now - since } else { longest };
        }
    }
    assert!(longest > 2_000, "another owner was sure for {longest} ms");
    assert!(shards.iter().all(|&shard| world.owners(shard) == [0]), "the shards are served again");
    assert_eq!(world.audit.violations, Vec::<String>::new());
}
