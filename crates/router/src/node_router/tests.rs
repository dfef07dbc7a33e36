//! The nodes of a cluster in virtual time: their routers, and a network between them that hands frames on at once.

use std::net::SocketAddr;

use lwm2m_base::rate::Rate;
use proptest::prelude::*;

use super::*;

mod handover;

/// An empty message (RFC 7252 section 4.1): it names nothing.
const EMPTY: &[u8] = &[0x40, 0, 0, 1];
const GENEROUS: Rate = Rate { per_second: 1_000_000, burst: 1_000_000 };

/// A non-confirmable notification with a token of this shard.
fn notification(shard: u8) -> Vec<u8> {
    vec![0x54, 0x45, 0, 1, shard, 1, 2, 3]
}

fn node(number: u64) -> NodeNumber {
    NodeNumber::try_from(number).expect("7 bits")
}

fn flow(host: u8) -> Flow {
    Flow { socket: 0, address: SocketAddr::from(([192, 0, 2, host], 5683)) }
}

/// The end of the way of a datagram.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Handled { by: NodeNumber, forwarded: u8 },
    HeldBy(NodeNumber),
    Dropped(ForwardDrop),
}

struct World {
    now: Instant,
    nodes: Vec<(NodeRouter, Surroundings)>,
}

/// A node has the device of the endpoint `own`, and devices at the addresses of host 200 and above.
struct Own;

impl LocalDevices for Own {
    fn has_endpoint(&self, name: &str) -> bool {
        name == "own"
    }

    fn has_device_at(&self, flow: Flow) -> bool {
        matches!(flow.address, SocketAddr::V4(address) if address.ip().octets()[3] >= 200)
    }
}

impl World {
    /// Makes nodes that reach each other. Shard `s` is served by node `s % nodes`, and all of them know it.
    fn new(nodes: u64) -> Self {
        Self::with_unregistered(nodes, RateLimit { total: GENEROUS, address: GENEROUS })
    }

    fn with_unregistered(nodes: u64, unregistered: RateLimit) -> Self {
        let all = (0..nodes).fold(NodeSet::default(), |all, number| all.with(node(number)));
        let owners: ShardMap = Shard::all().map(|shard| (shard, owner_of(shard, nodes))).collect();
        let make = |number| {
            let config = NodeRouterConfig { node: node(number), first_dtls_socket: 1, flows: 100, unregistered };
            let mut router = NodeRouter::new(config);
            router.set_owners(owners.clone());
            let served = Shard::all().filter(|shard| owner_of(*shard, nodes) == node(number)).collect();
            (router, Surroundings { served, connected: all.without(node(number)) })
        };
        Self { now: Instant::now(), nodes: (0..nodes).map(make).collect() }
    }

    fn router(&mut self, number: usize) -> &mut NodeRouter {
        &mut self.nodes[number].0
    }

    /// A datagram comes from the network to a node.
    fn receives(&mut self, entry: usize, flow: Flow, datagram: &[u8]) -> Fate {
        let (router, around) = &mut self.nodes[entry];
        let route = router.route(self.now, flow, datagram, around, &Own);
        self.follow(entry, flow, datagram, route, 0)
    }

    fn follow(&mut self, at: usize, flow: Flow, datagram: &[u8], route: NodeRoute, forwarded: u8) -> Fate {
        let hop = match route {
            NodeRoute::Here => {
                if forwarded == 0 {
                    self.nodes[at].0.heard(self.now, flow, node(at as u64), Sender::Device);
                }
                return Fate::Handled { by: node(at as u64), forwarded };
            }
            NodeRoute::Held => return Fate::HeldBy(node(at as u64)),
            NodeRoute::Dropped(reason) => return Fate::Dropped(reason),
            NodeRoute::Forward(hop) => hop,
        };
        assert!(self.nodes[at].1.connected.contains(hop.to), "there is a connection");
        let Hop { to, shard, entry, hops, is_learned } = hop;
        let (here, next) = (node(at as u64), usize::from(to.number()));
        let forwarded_here = Forwarded { shard, entry, hops, is_learned, flow };
        let (router, around) = &mut self.nodes[next];
        let route = router.route_forwarded(self.now, (here, forwarded_here), datagram, around);
        let served = around.served.contains(shard);
        if route == NodeRoute::Here {
            router.heard(self.now, flow, entry, Sender::Device);
        } else if !served {
            let owner = router.owner(shard);
            self.router(at).handle_not_mine(to, shard, owner);
        }
        assert_ne!(to, here);
        self.follow(next, flow, datagram, route, hops)
    }

    /// The shard moves, and only its new owner knows it.
    fn moves(&mut self, shard: Shard, to: usize) {
        for (number, (router, around)) in self.nodes.iter_mut().enumerate() {
            if number == to {
                around.served.insert(shard);
                router.owners.set_owner(shard, Some(node(to as u64)));
            } else {
                around.served.remove(shard);
            }
        }
    }

    fn all_learn_owner(&mut self, shard: Shard, owner: Option<NodeNumber>) {
        for (router, _) in &mut self.nodes {
            let mut owners = router.owners.clone();
            owners.set_owner(shard, owner);
            router.set_owners(owners);
        }
    }

    fn released(&mut self, at: usize) -> Released {
        let (router, around) = &mut self.nodes[at];
        router.handle_timeout(self.now, around)
    }
}

fn owner_of(shard: Shard, nodes: u64) -> NodeNumber {
    node(u64::from(shard.number()) % nodes)
}

#[test]
fn a_datagram_is_handled_by_the_node_of_its_shard_and_the_answer_leaves_where_it_came_in() {
    let mut world = World::new(3);
    for shard in 0..=255 {
        let (by, at) = (owner_of(Shard::new(shard), 3), flow(shard));
        for entry in 0..3_u8 {
            let forwarded = u8::from(by.number() != entry);
            let fate = world.receives(entry.into(), at, &notification(shard));
            assert_eq!(fate, Fate::Handled { by, forwarded });
            let now = world.now;
            let leaves = world.router(by.number().into()).way_out(now, at, EMPTY, || true);
            let expected = if forwarded > 0 { WayOut::Through(node(entry.into())) } else { WayOut::Here };
            assert_eq!(leaves, expected, "shard {shard}, entry {entry}");
        }
    }
}

#[test]
fn a_datagram_that_names_nothing_follows_the_device_that_is_known_at_its_address() {
    let mut world = World::new(2);
    let now = world.now;
    assert_eq!(world.receives(0, flow(1), EMPTY), Fate::Handled { by: node(0), forwarded: 0 });
    world.router(0).learn(now, flow(1), Shard::new(7));
    assert_eq!(world.receives(0, flow(1), EMPTY), Fate::Handled { by: node(1), forwarded: 1 });
    world.moves(Shard::new(7), 0);
    assert_eq!(world.receives(0, flow(1), EMPTY), Fate::Handled { by: node(0), forwarded: 0 }, "the shard came here");
    world.moves(Shard::new(7), 1);
    world.router(0).forget(now, flow(1), Shard::new(7));
    assert_eq!(world.receives(0, flow(1), EMPTY), Fate::Handled { by: node(0), forwarded: 0 });
}

#[test]
fn an_empty_answer_goes_to_each_node_with_a_device_at_its_address_once() {
    const ACK: &[u8] = &[0x60, 0, 0, 1];
    const RESET: &[u8] = &[0x70, 0, 0, 1];
    let mut world = World::new(3);
    let now = world.now;
    let hop = |to, shard| Hop { to: node(to), shard: Shard::new(shard), entry: node(0), hops: 1, is_learned: true };
    let mut ends = |learned: &[u8], host: u8, datagram: &[u8]| {
        let (router, around) = &mut world.nodes[0];
        learned.iter().for_each(|shard| router.learn(now, flow(host), Shard::new(*shard)));
        let first = router.route(now, flow(host), datagram, around, &Own);
        let mut ends = vec![first];
        ends.extend(std::iter::from_fn(|| router.poll_copy()));
        ends
    };
    assert_eq!(ends(&[], 1, ACK), [NodeRoute::Here]);
    assert_eq!(ends(&[1], 1, ACK), [NodeRoute::Forward(hop(1, 1))], "one device at the address");
    // The shards 1 and 4 are of node 1, 2 and 5 of node 2, 3 of this node.
    let two = [NodeRoute::Forward(hop(1, 1)), NodeRoute::Forward(hop(2, 2))];
    for datagram in [ACK, RESET] {
        assert_eq!(ends(&[2, 4, 5], 1, datagram), two);
    }
    assert_eq!(ends(&[], 1, EMPTY), two[..1], "a ping is answered once (RFC 7252 section 4.3)");
    let here = [NodeRoute::Forward(hop(1, 1)), NodeRoute::Here];
    assert_eq!(ends(&[1], 200, ACK), here, "this node has a device there, too");
    assert_eq!(ends(&[1, 3], 2, ACK), here, "a shard has come here");

    let third = [NodeRoute::Forward(hop(2, 2)), NodeRoute::Forward(hop(1, 4))];
    world.router(0).forget(now, flow(1), Shard::new(1));
    let mut ends = |datagram: &[u8]| {
        let (router, around) = &mut world.nodes[0];
        let mut ends = vec![router.route(now, flow(1), datagram, around, &Own)];
        ends.extend(std::iter::from_fn(|| router.poll_copy()));
        ends
    };
    assert_eq!(ends(ACK), third);
    for shard in [4, 5] {
        let NodeRoute::Forward(Hop { is_learned: true, .. }) = ends(&notification(shard))[0] else {
            panic!("shard {shard} has a device there")
        };
    }
}

/// A Register of an endpoint over plain UDP: `POST /rd?ep=NAME`.
fn register(name: &str) -> Vec<u8> {
    let query = [b"ep=", name.as_bytes()].concat();
    let length = u8::try_from(query.len()).ok().filter(|length| *length < 13).expect("a short name");
    [&[0x40, 0x02, 0, 1, 0xb2], b"rd".as_slice(), &[0x40 | length], &query].concat()
}

#[test]
fn a_register_waits_for_the_shard_of_its_endpoint_and_is_handled_by_the_node_that_has_it() {
    let mut world = World::new(3);
    assert_eq!(world.receives(0, flow(1), &register("own")), Fate::Handled { by: node(0), forwarded: 0 });
    assert_eq!(world.router(0).poll_name(), None);

    assert_eq!(world.receives(0, flow(1), &register("a")), Fate::HeldBy(node(0)));
    assert_eq!(world.receives(0, flow(2), &register("a")), Fate::HeldBy(node(0)), "from two addresses");
    assert_eq!(world.router(0).poll_name().as_deref(), Some("a"));
    assert_eq!(world.router(0).poll_name(), None, "a name is asked for once");
    let mut ends = |name: &str, shard: Option<u8>| {
        let (router, around) = &mut world.nodes[0];
        let ends = router.handle_name(world.now, name, shard.map(Shard::new), around).into_iter();
        ends.map(|(register, route)| (register.flow, route)).collect::<Vec<_>>()
    };
    let hop = Hop { to: node(1), shard: Shard::new(1), entry: node(0), hops: 1, is_learned: false };
    assert_eq!(ends("a", Some(1)), [1, 2].map(|host| (flow(host), NodeRoute::Forward(hop))));
    assert_eq!(ends("a", Some(1)), [], "the second answer finds none");

    assert_eq!(world.receives(0, flow(1), &register("b")), Fate::HeldBy(node(0)));
    let mut ends = |shard: Option<u8>| {
        let (router, around) = &mut world.nodes[0];
        let ends = router.handle_name(world.now, "b", shard.map(Shard::new), around).into_iter();
        ends.map(|(_, route)| route).collect::<Vec<_>>()
    };
    assert_eq!(ends(None), [NodeRoute::Here], "a new endpoint");
    assert_eq!(world.receives(0, flow(1), &register("b")), Fate::HeldBy(node(0)));
    let (router, around) = &mut world.nodes[0];
    let [(_, route)] = router.handle_name(world.now, "b", Some(Shard::new(3)), around).try_into().expect("one");
    assert_eq!(route, NodeRoute::Here, "a shard of this node");
}

#[test]
fn registers_that_wait_have_a_bound_a_rate_and_an_end() {
    let mut world = World::new(2);
    let fates: Vec<_> = (0..10).map(|_| world.receives(0, flow(1), &register("a"))).collect();
    assert_eq!(fates.iter().filter(|fate| **fate == Fate::HeldBy(node(0))).count(), 8);
    assert_eq!(fates.last(), Some(&Fate::Dropped(ForwardDrop::NotHeld)));
    assert_eq!(world.receives(0, flow(1), &register("b")), Fate::HeldBy(node(0)), "of another endpoint");
    let end = world.router(0).next_deadline().expect("they expire");
    world.now = end;
    assert_eq!(world.released(0), Released { expired: 9, ..Released::default() });
    assert_eq!(world.router(0).next_deadline(), None);

    let few = Rate { per_second: 1, burst: 2 };
    let mut world = World::with_unregistered(2, RateLimit { total: few, address: few });
    let fates: Vec<_> = ["a", "b", "c"].map(|name| world.receives(0, flow(1), &register(name))).into();
    assert_eq!(fates.last(), Some(&Fate::Dropped(ForwardDrop::RateLimited)), "each name is a request to the store");
}

#[test]
fn registers_of_ever_new_names_have_a_rate_also_from_an_address_with_a_device_of_another_node() {
    let few = Rate { per_second: 1, burst: 2 };
    let mut world = World::with_unregistered(2, RateLimit { total: few, address: few });
    let now = world.now;
    for name in ["a", "b", "c"] {
        world.receives(0, flow(1), &register(name));
    }
    world.router(0).learn(now, flow(2), Shard::new(1));
    let fates: Vec<_> = ["d", "e", "f"].map(|name| world.receives(0, flow(2), &register(name))).into();
    assert_eq!(fates[..2], [Fate::HeldBy(node(0)), Fate::HeldBy(node(0))], "unregistered do not use its rate up");
    assert_eq!(fates[2], Fate::Dropped(ForwardDrop::RateLimited));
    assert_eq!(world.receives(0, flow(2), &notification(1)), Fate::Handled { by: node(1), forwarded: 1 });
}

#[test]
fn the_last_owner_forwards_once_more_and_the_entry_learns_the_new_one() {
    let mut world = World::new(3);
    let shard = Shard::new(1);
    world.moves(shard, 2);
    world.nodes[1].0.owners.set_owner(shard, Some(node(2)));
    assert_eq!(world.receives(0, flow(1), &notification(1)), Fate::Handled { by: node(2), forwarded: 2 });
    assert_eq!(world.receives(0, flow(1), &notification(1)), Fate::Handled { by: node(2), forwarded: 1 });
}

#[test]
fn a_third_node_does_not_forward() {
    let mut world = World::new(4);
    let shard = Shard::new(1);
    world.moves(shard, 3);
    world.nodes[1].0.owners.set_owner(shard, Some(node(2)));
    world.nodes[2].0.owners.set_owner(shard, Some(node(3)));
    assert_eq!(world.receives(0, flow(1), &notification(1)), Fate::Dropped(ForwardDrop::Hops));
}

/// The last owner of a shard knows where it goes before the next owner does.
#[test]
fn a_datagram_that_comes_before_its_shard_is_held_whoever_has_forwarded_it() {
    let shard = Shard::new(1);
    // Node 2 may know already that the shard comes, or may have read an old list of leases.
    for entry in [0, 1] {
        for believed in [None, Some(node(1)), Some(node(2))] {
            let mut world = World::new(3);
            world.nodes[1].1.served.remove(shard);
            world.nodes[1].0.owners.give(shard, node(2));
            world.nodes[2].0.owners.set_owner(shard, believed);
            assert_eq!(world.receives(entry, flow(1), &notification(1)), Fate::HeldBy(node(2)), "entry {entry}");
            assert_eq!(world.router(1).owner(shard), Some(node(2)), "the last owner still knows it");
            world.now += RETRY;
            assert_eq!(world.released(2), Released::default(), "it does not go back");
            world.moves(shard, 2);
            let [released] = world.released(2).datagrams.try_into().expect("one datagram");
            assert_eq!(released.hop, None);
        }
    }
}

/// Node 0 has been told of the next owner of the shard, which has not, and asks the last one.
#[test]
fn the_last_owner_gives_a_datagram_back_to_the_node_to_which_it_has_handed_the_shard_over() {
    let mut world = World::new(3);
    let shard = Shard::new(1);
    world.nodes[1].1.served.remove(shard);
    world.nodes[0].0.owners.set_owner(shard, Some(node(2)));
    world.nodes[1].0.owners.set_owner(shard, Some(node(2)));
    assert_eq!(world.receives(0, flow(1), &notification(1)), Fate::HeldBy(node(1)));
    assert_eq!(world.released(1), Released::default(), "the other node may have handed the shard over to this one");
    world.nodes[1].0.owners.give(shard, node(2));
    let [released] = world.released(1).datagrams.try_into().expect("one datagram");
    let hop = Hop { to: node(2), shard, entry: node(0), hops: 2, is_learned: false };
    assert_eq!(released.hop, Some(hop));
}

#[test]
fn a_datagram_that_two_nodes_have_forwarded_waits_if_its_shard_goes_to_a_further_one() {
    let mut world = World::new(4);
    let shard = Shard::new(1);
    world.nodes[1].1.served.remove(shard);
    world.nodes[1].0.owners.set_owner(shard, Some(node(2)));
    world.nodes[2].0.owners.set_owner(shard, None);
    assert_eq!(world.receives(0, flow(1), &notification(1)), Fate::HeldBy(node(2)));
    world.all_learn_owner(shard, Some(node(3)));
    assert_eq!(world.released(2), Released::default());
    world.now += Duration::from_secs(3);
    assert_eq!(world.released(2), Released { expired: 1, ..Released::default() });
    assert_eq!(world.router(2).held(), 0);
}

#[test]
fn a_datagram_that_comes_back_to_its_entry_is_handled_there() {
    let mut world = World::new(2);
    let shard = Shard::new(1);
    let (router, around) = &mut world.nodes[0];
    around.served.insert(shard);
    let back = Forwarded { shard, entry: node(0), hops: 2, is_learned: false, flow: flow(1) };
    assert_eq!(router.route_forwarded(world.now, (node(1), back), EMPTY, around), NodeRoute::Here);
    router.heard(world.now, flow(1), node(0), Sender::Device);
    assert_eq!(router.way_out(world.now, flow(1), EMPTY, || true), WayOut::Here);
}

#[test]
fn only_the_node_that_is_taken_for_the_owner_says_that_it_is_not() {
    let mut world = World::new(3);
    let (shard, router) = (Shard::new(1), world.router(0));
    router.handle_not_mine(node(2), shard, Some(node(2)));
    assert_eq!(router.owner(shard), Some(node(1)));
    for no_other in [Some(node(1)), None] {
        router.handle_not_mine(node(1), shard, no_other);
        assert_eq!(router.owner(shard), Some(node(1)), "it may be about to serve the shard");
    }
    router.handle_not_mine(node(1), shard, Some(node(2)));
    assert_eq!(router.owner(shard), Some(node(2)));
}

#[test]
fn what_has_no_known_owner_is_held_until_there_is_one() {
    let mut world = World::new(2);
    let shard = Shard::new(1);
    world.all_learn_owner(shard, None);
    assert_eq!(world.receives(0, flow(1), &notification(1)), Fate::HeldBy(node(0)));
    assert_eq!(world.router(0).next_deadline(), Some(world.now + RETRY));
    world.now += RETRY;
    assert_eq!(world.released(0), Released::default());
    world.all_learn_owner(shard, Some(node(1)));
    let [released] = world.released(0).datagrams.try_into().expect("one datagram");
    let hop = Hop { to: node(1), shard, entry: node(0), hops: 1, is_learned: false };
    assert_eq!((&*released.held.datagram, released.hop), (&*notification(1), Some(hop)));
    assert_eq!(world.router(0).next_deadline(), None);
}

#[test]
fn what_is_held_for_a_shard_is_handled_here_if_the_shard_comes_here() {
    let mut world = World::new(2);
    let shard = Shard::new(1);
    world.nodes[0].1.connected = NodeSet::default();
    assert_eq!(world.receives(0, flow(1), &notification(1)), Fate::HeldBy(node(0)), "the owner is not reached");
    world.moves(shard, 0);
    let [released] = world.released(0).datagrams.try_into().expect("one datagram");
    assert_eq!((released.shard, released.hop), (shard, None));
}

#[test]
fn what_is_held_expires_and_has_a_bound_for_each_shard_and_for_all() {
    let mut world = World::new(2);
    Shard::all().for_each(|shard| world.all_learn_owner(shard, None));
    let large = |shard| [notification(shard), vec![0; 40_000]].concat();
    let held = (0..300).filter(|_| world.receives(0, flow(1), &notification(1)) == Fate::HeldBy(node(0))).count();
    assert_eq!(held, 256);
    let fates = (1..255).step_by(2).map(|shard| world.receives(0, flow(1), &large(shard)));
    let not_held = Fate::Dropped(ForwardDrop::NotHeld);
    assert!(fates.collect::<Vec<_>>().contains(&not_held), "more than 4 MiB");
    let all = world.router(0).held() as u64;
    world.now += Duration::from_secs(3);
    assert_eq!(world.released(0), Released { expired: all, ..Released::default() });
    assert_eq!(world.receives(0, flow(1), &notification(1)), Fate::HeldBy(node(0)));
}

#[test]
fn a_request_leaves_where_the_device_was_heard_and_an_answer_where_the_last_datagram_came_in() {
    const GET: &[u8] = &[0x40, 1, 0, 1];
    let mut world = World::new(3);
    let (now, router) = (world.now, world.router(1));
    router.heard(now, flow(1), node(0), Sender::Device);
    router.heard(now, flow(1), node(2), Sender::Unproven);
    let [request, answer] = [GET, EMPTY].map(|datagram| router.way_out(now, flow(1), datagram, || true));
    assert_eq!((request, answer), (WayOut::Through(node(0)), WayOut::Through(node(2))));
    // A Register comes in at another node, and a command follows its answer.
    router.heard(now, flow(2), node(0), Sender::Unregistered);
    assert_eq!(router.way_out(now, flow(2), EMPTY, || false), WayOut::Through(node(0)));
    assert_eq!(router.way_out(now, flow(2), EMPTY, || true), WayOut::Through(node(0)));
    assert_eq!(router.way_out(now, flow(2), GET, || true), WayOut::Through(node(0)));
    router.review_ways(|flow| flow == self::flow(1));
    assert!(router.has_way(flow(1)) && !router.has_way(flow(2)), "the second device has left");
}

#[test]
fn a_device_that_comes_to_the_node_at_which_its_datagrams_come_in_is_reached_at_once() {
    const GET: &[u8] = &[0x40, 1, 0, 1];
    let mut world = World::new(2);
    let (now, router) = (world.now, world.router(0));
    router.learn(now, flow(1), Shard::new(1));
    for (host, entry, way) in [(1, Some(node(0)), WayOut::Here), (2, None, WayOut::Unknown)] {
        router.expect(flow(host));
        assert_eq!(router.entry(now, flow(host)), entry);
        assert_eq!(router.way_out(now, flow(host), GET, || true), way);
    }
}

#[test]
fn tables_of_addresses_are_bounded() {
    let mut world = World::new(2);
    let now = world.now;
    let router = world.router(1);
    for port in 0..1_000 {
        let flow = Flow { socket: 0, address: SocketAddr::from(([192, 0, 2, 1], port)) };
        router.heard(now, flow, node(0), Sender::Device);
        router.learn(now, flow, Shard::new(0));
    }
    assert!(router.flows() <= 300, "{}", router.flows());
    assert!(router.evicted_flows() > 1_000);
}

#[test]
fn strangers_are_limited_where_they_come_in_and_devices_are_not() {
    let few = Rate { per_second: 1, burst: 3 };
    let mut world = World::with_unregistered(2, RateLimit { total: GENEROUS, address: few });
    let now = world.now;
    let fates: Vec<_> = (0..4).map(|_| world.receives(0, flow(1), &notification(1))).collect();
    assert_eq!(fates[3], Fate::Dropped(ForwardDrop::RateLimited));
    assert!(fates[..3].iter().all(|fate| *fate == Fate::Handled { by: node(1), forwarded: 1 }));
    world.router(0).learn(now, flow(1), Shard::new(1));
    for _ in 0..100 {
        assert_eq!(world.receives(0, flow(1), &notification(1)), Fate::Handled { by: node(1), forwarded: 1 });
    }
    let other = world.receives(0, flow(1), &notification(3));
    assert_eq!(other, Fate::Dropped(ForwardDrop::RateLimited), "no device of that shard is there");
}

#[test]
fn a_node_without_shards_forwards_all() {
    let mut world = World::new(3);
    for shard in Shard::all() {
        world.nodes[0].1.served.remove(shard);
        let owner = node(1 + u64::from(shard.number()) % 2);
        world.moves(shard, owner.number().into());
        world.all_learn_owner(shard, Some(owner));
    }
    let fates: Vec<_> = (0..200).map(|host| world.receives(0, flow(host), EMPTY)).collect();
    for by in [node(1), node(2)] {
        let share = fates.iter().filter(|fate| **fate == Fate::Handled { by, forwarded: 1 }).count();
        assert!((50..150).contains(&share), "{share}");
    }
}

/// A step of a random schedule.
#[derive(Clone, Debug)]
enum Step {
    Receive { entry: usize, shard: u8 },
    Move { shard: u8, to: usize },
    Cut { one: usize, other: usize },
    Heal,
    ReadMap { at: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Few shards, so that steps meet.
    let (nodes, shards) = (0..4_usize, 0..4_u8);
    let step = prop_oneof![
        6 => (nodes.clone(), shards.clone()).prop_map(|(entry, shard)| Step::Receive { entry, shard }),
        2 => (shards, nodes.clone()).prop_map(|(shard, to)| Step::Move { shard, to }),
        1 => (nodes.clone(), nodes.clone()).prop_map(|(one, other)| Step::Cut { one, other }),
        1 => Just(Step::Heal),
        2 => nodes.prop_map(|at| Step::ReadMap { at }),
    ];
    prop::collection::vec(step, 0..60)
}

proptest! {
    /// Each datagram is handled by the owner of its shard, after at most two nodes have forwarded it, or it is dropped
    /// and counted. When all nodes know the owners and reach each other, none is dropped.
    #[test]
    fn a_datagram_has_one_fate_whatever_nodes_believe_of_each_other(steps in steps()) {
        let mut world = World::new(4);
        let (mut sent, mut handled, mut dropped) = (0, 0, 0);
        let whole = world.nodes.iter().map(|(_, around)| around.connected).collect::<Vec<_>>();
        for step in steps {
            match step {
                Step::Receive { entry, shard } => {
                    sent += 1;
                    match world.receives(entry, flow(shard), &notification(shard)) {
                        Fate::Handled { by, forwarded } => {
                            handled += 1;
                            let (_, around) = &world.nodes[usize::from(by.number())];
                            prop_assert!(around.served.contains(Shard::new(shard)) && forwarded <= MAX_HOPS);
                        }
                        Fate::HeldBy(_) => {}
                        Fate::Dropped(_) => dropped += 1,
                    }
                }
                Step::Move { shard, to } => world.moves(Shard::new(shard), to),
                Step::Cut { one, other } => {
                    for (at, to) in [(one, other), (other, one)] {
                        let (_, around) = &mut world.nodes[at];
                        around.connected = around.connected.without(node(to as u64));
                    }
                }
                Step::Heal => world.nodes.iter_mut().zip(&whole).for_each(|(node, all)| node.1.connected = *all),
                Step::ReadMap { at } => {
                    let owners = true_owners(&world);
                    world.router(at).set_owners(owners);
                }
            }
            let held = (0..4).map(|at| world.router(at).held()).sum::<usize>();
            prop_assert_eq!(sent, handled + dropped + held);
        }
        world.nodes.iter_mut().zip(&whole).for_each(|(node, all)| node.1.connected = *all);
        let owners = true_owners(&world);
        (0..4).for_each(|at| world.router(at).set_owners(owners.clone()));
        for at in 0..4 {
            for ReleasedDatagram { held, shard, hop } in world.released(at).datagrams {
                let served = world.nodes[at].1.served.contains(shard);
                let next = owners.owner(shard).filter(|_| !served);
                prop_assert_eq!(hop.map(|hop| hop.to), next);
                prop_assert!(hop.is_none_or(|hop| hop.hops <= MAX_HOPS && hop.entry == held.entry));
            }
        }
        // What two nodes have forwarded, or what its owner has forwarded, may wait for a shard that does not come.
        world.now += Duration::from_secs(3);
        for at in 0..4 {
            prop_assert_eq!(world.released(at).datagrams, []);
            prop_assert_eq!(world.router(at).held(), 0);
        }
    }
}

fn true_owners(world: &World) -> ShardMap {
    let served = |(number, (_, around)): (usize, &(NodeRouter, Surroundings))| {
        around.served.iter().map(move |shard| (shard, node(number as u64))).collect::<Vec<_>>()
    };
    world.nodes.iter().enumerate().flat_map(served).collect()
}
