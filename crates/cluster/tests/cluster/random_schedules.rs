//! Random schedules of failures. A failure prints its seed; `CLUSTER_SEED` runs that seed alone.

use std::env;

use lwm2m_cluster::Isolated;
use lwm2m_cluster::model::engine::Rules;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::world::{Away, World};

const NODES: u8 = 3;
const SCHEDULES: u64 = 2_000;
/// The time after the last failure in which each shard has an owner again.
const OWNED_AFTER: u64 = 13_000;
/// The time in which a shard that is handed over has no owner, at the most.
const HANDOVER: u64 = 1_500;

#[derive(Clone, Copy, Debug)]
enum Action {
    Kill(u8),
    Start(u8),
    /// A second process of a node whose first one may live.
    StartAnother(u8),
    /// The newest process of a node does not reach the engine any more, but a later one may.
    CutProcess(u8),
    JoinProcesses,
    Stop(u8),
    GoOn(u8),
    Drain(u8),
    CutEngine(u8),
    JoinEngine(u8),
    CutPair(u8, u8),
    JoinPair(u8, u8),
    FailOver {
        lost: usize,
        offset: i64,
    },
    Empty,
    Away(Away),
    Back,
    Slow(u64),
    Records(u8, u16),
}

#[test]
fn numbers_owners_and_writes_are_right_in_random_schedules() {
    let isolated = |seed| if seed % 2 == 0 { Isolated::Serve } else { Isolated::Suspend };
    if let Some(seed) = env::var("CLUSTER_SEED").ok().and_then(|seed| seed.parse().ok()) {
        run(seed, isolated(seed), true);
        return;
    }
    let number = env::var("CLUSTER_SCHEDULES").ok().and_then(|number| number.parse().ok()).unwrap_or(SCHEDULES);
    let longest = (0..number).map(|seed| (run(seed, isolated(seed), false), seed)).max();
    println!("longest time to owners after the last failure, in ms, and its seed: {longest:?}");
}

/// Returns the milliseconds between the last failure and the moment at which each shard has an owner.
fn run(seed: u64, isolated: Isolated, verbose: bool) -> u64 {
    let mut random = StdRng::seed_from_u64(seed);
    let mut world = World::new(seed, Rules::Correct, isolated);
    world.verbose = verbose;
    for number in 0..NODES {
        start(&mut world, &mut random, number);
    }
    world.run_until(30_000);
    assert!(time_to_owners(&mut world) < HANDOVER, "seed {seed}: not all shards have an owner after the start");

    for (at, action) in schedule(&mut random) {
        world.run_until(at);
        if verbose {
            eprintln!("{at} ms: {action:?}");
        }
        perform(&mut world, &mut random, action);
        check(&world, seed, isolated);
    }
    heal(&mut world, &mut random);
    let healed = world.now;
    if verbose {
        eprintln!("{healed} ms: all is well again");
    }
    let waited = time_to_owners(&mut world);
    assert!(waited <= OWNED_AFTER, "seed {seed} ({isolated:?}): no owner after {waited} ms\n{}", world.describe());
    world.run_for(30_000);
    check(&world, seed, isolated);
    assert!(time_to_owners(&mut world) < HANDOVER, "seed {seed} ({isolated:?}): a shard lost its owner");
    waited
}

/// Returns the milliseconds until each shard has an owner.
fn time_to_owners(world: &mut World) -> u64 {
    let begin = world.now;
    while !world.all_shards_owned() && world.now < begin + 60_000 {
        world.run_for(50);
    }
    world.now - begin
}

fn check(world: &World, seed: u64, isolated: Isolated) {
    let violations = &world.audit.violations;
    assert!(violations.is_empty(), "seed {seed} ({isolated:?}): {}", violations.join("\n"));
}

fn start(world: &mut World, random: &mut StdRng, number: u8) {
    let (offset, drift) = (random.random_range(-700..=700), random.random_range(-200..=200));
    world.start(number, offset, drift);
}

/// Returns failures of 60 s, most of which end after some seconds.
fn schedule(random: &mut StdRng) -> Vec<(u64, Action)> {
    let mut actions = Vec::new();
    for _ in 0..random.random_range(1..=10) {
        let at = random.random_range(30_000..75_000);
        let end = at + [300, 1_500, 4_500, 7_000, 12_000, 20_000][random.random_range(0..6)];
        let node = random.random_range(0..NODES);
        let other = (node + random.random_range(1..NODES)) % NODES;
        let lost = [0, 1, 3, 10, 30, 100, 300][random.random_range(0..7)];
        let offset = random.random_range(-700..=700);
        match random.random_range(0..14) {
            0 => actions.extend([(at, Action::Kill(node)), (end, Action::Start(node))]),
            1 => actions.extend([(at, Action::Stop(node)), (end, Action::GoOn(node))]),
            2 => actions.extend([(at, Action::CutEngine(node)), (end, Action::JoinEngine(node))]),
            3 => actions.extend([(at, Action::CutPair(node, other)), (end, Action::JoinPair(node, other))]),
            4 => actions.extend([(at, Action::Drain(node)), (end, Action::Start(node))]),
            5 => actions.push((at, Action::FailOver { lost, offset })),
            6 => actions.extend([(at, Action::Away(Away::Gone)), (end, Action::FailOver { lost, offset })]),
            7 => actions.push((at, Action::Empty)),
            8 => actions.extend([(at, Action::Away(Away::Stopped)), (end, Action::Back)]),
            9 => actions.extend([(at, Action::Slow(400)), (end, Action::Slow(0))]),
            10 => actions.push((at, Action::StartAnother(node))),
            11 => actions.extend([
                (at, Action::CutProcess(node)),
                (at, Action::Records(node, 900)),
                (at + 100, Action::StartAnother(node)),
                (end, Action::JoinProcesses),
                (end, Action::Records(node, 1)),
            ]),
            12 => actions.extend([(at, Action::Start(NODES)), (end, Action::Drain(NODES))]),
            _ => actions.extend([(at, Action::Records(node, 300)), (end, Action::Records(node, 1))]),
        }
    }
    actions.sort_by_key(|(at, _)| *at);
    actions
}

fn pair(one: u8, other: u8) -> (u8, u8) {
    (one.min(other), one.max(other))
}

fn perform(world: &mut World, random: &mut StdRng, action: Action) {
    match action {
        Action::Kill(node) => world.current(node).into_iter().for_each(|id| world.kill(id)),
        Action::Start(node) if world.current(node).is_none() => start(world, random, node),
        Action::Start(_) => {}
        Action::StartAnother(node) => start(world, random, node),
        Action::CutProcess(node) => world.cut_processes.extend(world.current(node)),
        Action::JoinProcesses => world.cut_processes.clear(),
        Action::Stop(node) => world.current(node).into_iter().for_each(|id| world.stop(id)),
        Action::GoOn(node) => all_of(world, node).into_iter().for_each(|id| world.go_on(id)),
        Action::Drain(node) => world.current(node).into_iter().for_each(|id| world.drain(id)),
        Action::CutEngine(node) => drop(world.cut_from_engine.insert(node)),
        Action::JoinEngine(node) => drop(world.cut_from_engine.remove(&node)),
        Action::CutPair(one, other) => drop(world.cut_pairs.insert(pair(one, other))),
        Action::JoinPair(one, other) => drop(world.cut_pairs.remove(&pair(one, other))),
        Action::FailOver { lost, offset } => {
            world.fail_over(lost, offset);
            world.away = Away::No;
        }
        Action::Empty => world.empty(),
        Action::Away(how) => world.away = how,
        Action::Back => world.come_back(),
        Action::Slow(slowness) => world.slowness = slowness,
        Action::Records(node, records) => {
            for id in all_of(world, node) {
                world.processes[id].records = records;
            }
        }
    }
}

fn all_of(world: &World, node: u8) -> Vec<usize> {
    (0..world.processes.len()).filter(|&id| world.processes[id].process.node.number() == node).collect()
}

fn heal(world: &mut World, random: &mut StdRng) {
    world.cut_pairs.clear();
    world.cut_from_engine.clear();
    world.cut_processes.clear();
    world.slowness = 0;
    world.come_back();
    for id in 0..world.processes.len() {
        world.go_on(id);
        // All nodes may have been told to drain while the engine was away: then nobody would be left.
        if world.processes[id].draining {
            world.kill(id);
        }
    }
    for number in 0..NODES {
        if world.current(number).is_none() {
            start(world, random, number);
        }
    }
}
