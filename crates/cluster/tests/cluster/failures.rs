//! Single failures, each with what devices notice of it.

use lwm2m_base::Shard;
use lwm2m_cluster::model::engine::Rules;
use lwm2m_cluster::{Ended, EngineContact, Incarnation, Isolated};

use crate::world::{Away, SHARDS, World};

fn three_nodes(isolated: Isolated) -> World {
    let mut world = World::new(7, Rules::Correct, isolated);
    for number in 0..3 {
        world.start(number, 0, 0);
    }
    world.run_until(40_000);
    assert!(world.all_shards_owned());
    world
}

fn shards() -> impl Iterator<Item = Shard> {
    (0..SHARDS).map(Shard::new)
}

/// Returns the milliseconds until all shards have an owner.
fn time_to_owners(world: &mut World) -> u64 {
    let begin = world.now;
    while !world.all_shards_owned() {
        world.run_for(20);
        assert!(world.now < begin + 60_000, "no owner\n{}", world.describe());
    }
    world.now - begin
}

#[test]
fn the_shards_of_a_killed_node_have_owners_after_5_to_8_seconds() {
    let mut world = three_nodes(Isolated::Serve);

    world.kill(0);

    let time = time_to_owners(&mut world);
    assert!((4_000..8_000).contains(&time), "{time} ms");
}

/// A failover that takes longer than the leases, after which nodes 1 and 2 reach the engine later than node 0.
fn late_after_a_failover(isolated: Isolated) -> World {
    let mut world = three_nodes(isolated);
    world.away = Away::Gone;
    world.run_for(6_000);
    world.fail_over(5, 0);
    world.cut_from_engine.extend([1, 2]);
    world.come_back();
    world
}

#[test]
fn no_shard_is_suspended_while_the_nodes_reach_the_engine_again_one_after_the_other() {
    for isolated in [Isolated::Serve, Isolated::Suspend] {
        let mut world = late_after_a_failover(isolated);
        for node in [1, 2, 3] {
            for _ in 0..80 {
                world.run_for(25);
                assert!(world.all_shards_served(), "{} ms: {}", world.now, world.describe());
            }
            world.cut_from_engine.remove(&node);
        }
        world.run_for(30_000);
        assert!(world.all_shards_served(), "{}", world.describe());
        assert_eq!(world.audit.violations, Vec::<String>::new());
    }
}

#[test]
fn a_node_that_does_not_reach_the_engine_after_a_failover_suspends_its_shards_before_others_take_them() {
    let mut world = late_after_a_failover(Isolated::Serve);
    world.cut_from_engine.remove(&1);
    let end = world.now + 12_000;
    while world.processes[2].member.state() != EngineContact::Unsure {
        assert!(world.now < end, "{}", world.describe());
        let served = (0..3).map(|id| shards().filter(|shard| world.owners(*shard) == [id]).count()).sum::<usize>();
        assert_eq!(served, usize::from(SHARDS), "{}", world.describe());
        world.run_for(20);
    }
    world.run_for(20_000);
    assert!(world.all_shards_owned(), "{}", world.describe());
    assert_eq!(world.processes[2].member.shards(), 0);
    assert_eq!(world.audit.violations, Vec::<String>::new());
}

#[test]
fn a_drain_hands_all_shards_over_and_the_node_ends() {
    let mut world = three_nodes(Isolated::Serve);

    world.drain(0);
    world.run_for(30_000);

    assert!(world.processes[0].drained);
    assert!(world.all_shards_owned());
    assert_eq!(world.audit.violations, Vec::<String>::new());
}

/// The next shards wait until the devices of the last ones are connected.
#[test]
fn no_more_shards_are_on_their_way_than_may_move_at_once() {
    let mut world = three_nodes(Isolated::Serve);
    world.drain(0);
    let mut most = 0;
    for _ in 0..6_000 {
        world.run_for(5);
        most = most.max(world.on_their_way());
    }
    assert!(world.processes[0].drained);
    assert_eq!(most, 2);
}

#[test]
fn a_drained_node_gives_its_shards_to_the_others_and_takes_none_until_it_is_undrained() {
    let mut world = three_nodes(Isolated::Serve);
    let process = world.processes[0].process;

    world.engine.stored.drained.insert(process);
    world.run_for(30_000);
    assert!(world.all_shards_owned());
    assert_eq!(world.processes[0].member.shards(), 0);
    world.kill(1);
    world.run_for(20_000);
    assert!(world.all_shards_owned());
    assert_eq!(world.processes[0].member.shards(), 0);

    world.engine.stored.drained.clear();
    world.run_for(60_000);
    assert!(world.all_shards_owned());
    assert!(world.processes[0].member.shards() > 0);
    assert_eq!(world.audit.violations, Vec::<String>::new());
}

#[test]
fn drained_nodes_serve_what_no_other_node_takes() {
    let mut world = three_nodes(Isolated::Serve);

    for id in 0..3 {
        let process = world.processes[id].process;
        world.engine.stored.drained.insert(process);
    }
    world.run_for(30_000);

    assert!(world.all_shards_owned());
    assert!(world.processes[..3].iter().all(|process| process.member.gives_up_shards()));
}

#[test]
fn a_node_that_joins_gets_its_share() {
    let mut world = three_nodes(Isolated::Serve);
    let joined = world.start(3, 0, 0);

    world.run_for(60_000);

    assert!(world.all_shards_owned());
    assert!(shards().any(|shard| world.owners(shard) == [joined]));
}

#[test]
fn while_the_engine_is_away_all_nodes_serve_from_memory_and_no_shard_moves() {
    let mut world = three_nodes(Isolated::Suspend);
    let before: Vec<_> = shards().map(|shard| world.owners(shard)).collect();

    world.away = Away::Gone;
    for _ in 0..600 {
        world.run_for(100);
        assert!(world.all_shards_owned(), "at {} ms\n{}", world.now, world.describe());
    }
    assert_eq!(world.processes[0].member.state(), EngineContact::AllWithout);
    world.come_back();
    world.run_for(20_000);

    assert_eq!(shards().map(|shard| world.owners(shard)).collect::<Vec<_>>(), before);
}

#[test]
fn a_shard_that_is_being_handed_over_when_the_engine_goes_away_is_served_from_memory() {
    // At the one the handover ends before the nodes know that the engine is away, at the other after that.
    for long_handovers in [0, 20_000] {
        handed_over_when_the_engine_goes_away(long_handovers);
    }
}

fn handed_over_when_the_engine_goes_away(long_handovers: u64) {
    let mut world = three_nodes(Isolated::Suspend);
    world.long_handovers = long_handovers;
    world.start(3, 0, 0);
    while !world.is_handing_over() {
        world.run_for(20);
        assert!(world.now < 100_000, "the node that joined gets its share");
    }

    world.away = Away::Gone;
    world.run_for(8_000);

    assert_eq!(world.processes[0].member.state(), EngineContact::AllWithout);
    assert!(world.all_shards_served(), "{}", world.describe());
    world.come_back();
    world.long_handovers = 0;
    world.run_for(60_000);
    assert!(world.all_shards_owned() && shards().any(|shard| world.owners(shard) == [3]), "and it gets its share");
    assert_eq!(world.audit.violations, Vec::<String>::new());
}

#[test]
fn a_node_without_the_engine_suspends_its_shards_before_others_acquire_them() {
    let mut world = three_nodes(Isolated::Serve);

    world.cut_from_engine.insert(0);
    world.run_for(4_900);

    assert_eq!(world.processes[0].member.state(), EngineContact::Unsure);
    assert!(shards().all(|shard| !world.owners(shard).contains(&0)));
    assert!(time_to_owners(&mut world) < 4_000);
}

#[test]
fn an_isolated_node_serves_or_suspends_as_it_is_set() {
    let state_and_shards = |isolated| {
        let mut world = three_nodes(isolated);
        world.cut_from_engine.insert(0);
        world.cut_pairs.extend([(0, 1), (0, 2)]);
        world.run_for(8_000);
        let serves = shards().any(|shard| world.owners(shard).contains(&0));
        (world.processes[0].member.state(), serves)
    };

    assert_eq!(state_and_shards(Isolated::Serve), (EngineContact::Alone, true));
    assert_eq!(state_and_shards(Isolated::Suspend), (EngineContact::Alone, false));
}

#[test]
fn a_process_that_was_stopped_serves_nothing_that_another_node_acquired() {
    let mut world = three_nodes(Isolated::Serve);

    world.stop(0);
    world.run_for(20_000);
    assert!(world.all_shards_owned());
    world.go_on(0);
    world.run_for(30_000);

    assert!(world.all_shards_owned());
    assert_eq!(world.audit.violations, Vec::<String>::new());
}

/// The engine went away after others had acquired the shards: no peer reaches it, but peers know the later terms.
#[test]
fn a_process_that_was_stopped_serves_nothing_when_the_engine_is_away_as_it_goes_on() {
    let mut world = three_nodes(Isolated::Serve);

    world.stop(0);
    world.run_for(16_000);
    world.away = Away::Gone;
    world.run_for(5_000);
    world.go_on(0);
    world.run_for(20_000);

    assert!(shards().all(|shard| !world.owners(shard).contains(&0)));
    assert_eq!(world.audit.violations, Vec::<String>::new());
}

#[test]
fn a_second_process_of_a_living_node_ends_and_the_first_goes_on() {
    let mut world = three_nodes(Isolated::Serve);
    let second = world.start(0, 0, 0);

    world.run_for(20_000);

    assert_eq!(world.processes[second].ended, Some(Ended::Occupied(Incarnation(1))));
    assert!(world.processes[0].alive);
    assert!(world.all_shards_owned());
}

#[test]
fn a_stopped_process_ends_when_it_finds_a_later_one_of_its_node() {
    let mut world = three_nodes(Isolated::Serve);

    world.stop(0);
    world.run_for(6_000);
    let later = world.start(0, 0, 0);
    world.run_for(30_000);
    world.go_on(0);
    world.run_for(5_000);

    assert_eq!(world.processes[0].ended, Some(Ended::Replaced));
    assert!(world.processes[later].alive);
    assert!(world.all_shards_owned());
    assert_eq!(world.audit.violations, Vec::<String>::new());
}

#[test]
fn an_association_that_sends_much_gets_another_term_and_is_never_silent_with_the_engine() {
    let mut world = three_nodes(Isolated::Serve);

    world.processes[0].records = 400;
    world.run_for(60_000);

    assert!(world.audit.own_terms > 0);
    assert_eq!(world.audit.silent, 0);
}

#[test]
fn without_the_engine_an_association_that_sends_much_is_silent_after_five_terms() {
    let mut world = three_nodes(Isolated::Serve);

    world.processes[0].records = 2_000;
    world.away = Away::Gone;
    world.run_for(60_000);

    assert!(world.audit.silent > 0);
    assert_eq!(world.audit.violations, Vec::<String>::new());
    world.come_back();
    world.processes[0].records = 1;
    world.run_for(2_000);
    let silent = world.audit.silent;
    world.run_for(20_000);
    assert_eq!(world.audit.silent, silent, "the engine's time gives new terms");
}

#[test]
fn two_living_processes_of_one_node_never_use_a_number_twice() {
    let mut world = three_nodes(Isolated::Serve);

    world.processes[0].records = 2_000;
    world.cut_processes.insert(0);
    world.cut_pairs.extend([(0, 1), (0, 2)]);
    let later = world.start(0, 0, 0);
    world.processes[later].records = 2_000;
    world.run_for(120_000);

    assert!(world.processes[0].alive && world.processes[later].alive);
    assert!(world.audit.allowed_doubles > 0, "both serve the same shards");
    assert_eq!(world.audit.violations, Vec::<String>::new());
}

/// The newer process has the leases. After an outage of the engine they are expired and it serves from memory, when the
/// older one is the first to reach the engine again.
#[test]
fn an_older_process_ends_where_it_sees_a_lease_of_a_newer_one_of_its_number() {
    let mut world = three_nodes(Isolated::Serve);
    world.cut_processes.insert(0);
    world.cut_pairs.extend([(0, 1), (0, 2)]);
    let newer = world.start(0, 0, 0);
    world.run_for(40_000);
    assert!(shards().any(|shard| world.processes[newer].member.holds(shard).is_some()));
    world.away = Away::Gone;
    world.run_for(10_000);

    world.cut_processes = [newer].into();
    world.come_back();
    world.run_for(3_000);

    assert_eq!(world.processes[0].ended, Some(Ended::Replaced));
    assert!(world.processes[newer].alive);
    assert_eq!(world.audit.violations, Vec::<String>::new());
}

#[test]
fn a_node_whose_clock_is_wrong_takes_no_shards() {
    let mut world = three_nodes(Isolated::Serve);
    let wrong = world.start(3, 5_000, 0);

    world.run_for(60_000);

    assert_eq!(world.processes[wrong].member.state(), EngineContact::Sure);
    assert!(shards().all(|shard| !world.owners(shard).contains(&wrong)));
}

/// Nodes 0 and 1 lose the engine after node 2 has gone, and do not know that it is back.
#[test]
fn nodes_without_the_engine_learn_of_a_node_that_starts_meanwhile() {
    let mut world = three_nodes(Isolated::Suspend);

    world.kill(2);
    world.run_for(8_000);
    world.cut_from_engine.extend([0, 1]);
    world.run_for(6_000);
    let back = world.start(2, 0, 0);
    world.run_for(30_000);

    assert!(shards().all(|shard| world.owners(shard) == [back]));
    assert_eq!(world.audit.violations, Vec::<String>::new());
}
