//! The router of a node of a cluster.

use std::time::{Duration, Instant};

use lwm2m_base::rate::{Limiter, RateLimit, SourceNetwork};
use lwm2m_base::{Shard, ShardSet};
use lwm2m_cluster::frame::MAX_HOPS;
use lwm2m_cluster::{NodeNumber, NodeSet};

use crate::device_shards::DeviceShards;
use crate::flows::Flow;
use crate::held::{HeldDatagram, HeldDatagrams};
use crate::named::{Named, is_empty_reply};
use crate::shard_map::ShardMap;
use crate::waiting_registers::{WaitingRegister, WaitingRegisters};
use crate::ways::{Sender, WayOut, Ways, is_own};

/// The interval at which held datagrams are tried again.
const RETRY: Duration = Duration::from_millis(50);

/// The settings of the router of a node.
#[derive(Clone, Copy, Debug)]
pub struct NodeRouterConfig {
    /// The node that owns the router.
    pub node: NodeNumber,
    /// The index of the first DTLS listener. All listeners after it are DTLS listeners, too; those before it are for
    /// plain CoAP.
    pub first_dtls_socket: u16,
    /// The maximum number of addresses that the router remembers in each of its tables.
    pub flows: usize,
    /// The rate limit of datagrams that are forwarded from addresses at which their shard has no device. Registers for
    /// which the store is asked for the endpoint name have a limit of the same size, and those from addresses with a
    /// device have another one.
    pub unregistered: RateLimit,
}

/// The shards that a node serves, and the nodes that it reaches now.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings {
    pub served: ShardSet,
    /// The nodes to which there is a connection.
    pub connected: NodeSet,
}

/// The devices of this node.
pub trait LocalDevices {
    /// Returns whether the node has the device of an endpoint name.
    fn has_endpoint(&self, name: &str) -> bool;

    /// Returns whether the node has a device at an address.
    fn has_device_at(&self, flow: Flow) -> bool;
}

/// Decides which node handles each datagram that a node has received, and through which node an answer leaves.
///
/// # How to use it
///
/// 1. [`NodeRouter::route`] decides about a datagram from the network. The shell forwards a datagram of another node
///    to it, and a copy to each node of [`NodeRouter::poll_copy`]. It asks the store for the endpoint names of [`NodeRouter::poll_name`], and passes the answers to
///    [`NodeRouter::handle_name`], which decides about the Registers that have waited for them.
/// 2. [`NodeRouter::route_forwarded`] decides about a datagram that another node has forwarded. If its shard is not
///    here, the shell tells that node which node has it ([`NodeRouter::owner`]), and that node calls
///    [`NodeRouter::handle_not_mine`].
/// 3. After the gateway has handled a datagram, the shell calls [`NodeRouter::heard`]; for one from the network only if
///    [`NodeRouter::has_way`]. A datagram to a device leaves by [`NodeRouter::way_out`].
/// 4. If the gateway has a device at the address, and `is_learned` says otherwise, or the reverse, the shell tells the
///    entry, which calls [`NodeRouter::learn`] or [`NodeRouter::forget`].
/// 5. The shell calls [`NodeRouter::expect`] for the devices of a shard that comes to the node, and now and then
///    [`NodeRouter::review_ways`].
/// 6. When a shard leaves the node, the shell tells the next one by [`NodeRouter::entry`] where the devices were heard,
///    and that one calls [`NodeRouter::told_way`].
/// 7. The shell calls [`NodeRouter::handle_timeout`] when it is due. It returns held datagrams that can be handed on.
#[derive(Debug)]
pub struct NodeRouter {
    config: NodeRouterConfig,
    owners: ShardMap,
    /// The shards that have a device at addresses whose datagrams come in here.
    flows: DeviceShards,
    /// The further nodes that handle the datagram that was routed last.
    copies: Vec<NodeRoute>,
    /// The nodes through which datagrams to this node's devices leave.
    ways: Ways,
    held: HeldDatagrams,
    retry: Option<Instant>,
    registers: WaitingRegisters,
    unregistered: Limiter,
    /// The rate of Registers from addresses with a device for which the store is asked. It is separate from that of
    /// unregistered peers, so that a flood of those keeps no device from registering.
    known: Limiter,
}

/// The node that handles a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeRoute {
    /// This node.
    Here,
    Forward(Hop),
    /// The router keeps the datagram until it knows a node that has the shard, or the shard of an endpoint name.
    Held,
    Dropped(ForwardDrop),
}

/// The next node on the way of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    pub to: NodeNumber,
    pub shard: Shard,
    pub entry: NodeNumber,
    /// The number of nodes that have forwarded the datagram, this one included.
    pub hops: u8,
    pub is_learned: bool,
}

/// The reason for which a datagram of another node is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardDrop {
    /// Too many datagrams came from addresses at which their shard has no device, or too many Registers came whose
    /// endpoint name the store has to be asked for.
    RateLimited,
    /// The node that has the shard is not known or not reached, and too many datagrams are held.
    NotHeld,
    /// Two nodes have forwarded it already.
    Hops,
}

/// A datagram that another node has forwarded, without its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forwarded {
    pub shard: Shard,
    pub entry: NodeNumber,
    pub hops: u8,
    pub is_learned: bool,
    pub flow: Flow,
}

impl NodeRouter {
    pub fn new(config: NodeRouterConfig) -> Self {
        Self {
            config,
            owners: ShardMap::default(),
            flows: DeviceShards::new(config.flows),
            copies: Vec::new(),
            ways: Ways::new(config.node, config.flows),
            held: HeldDatagrams::new(),
            retry: None,
            registers: WaitingRegisters::new(),
            unregistered: Limiter::new(config.unregistered),
            known: Limiter::new(config.unregistered),
        }
    }

    /// Replaces the owners of shards.
    pub fn set_owners(&mut self, owners: ShardMap) {
        self.owners = owners;
    }

    /// Replaces [`NodeRouterConfig::unregistered`].
    pub fn set_unregistered(&mut self, limit: RateLimit) {
        self.unregistered.set_limit(limit);
        self.known.set_limit(limit);
    }

    /// Decides which node handles a datagram from the network.
    pub fn route(
        &mut self,
        now: Instant,
        flow: Flow,
        datagram: &[u8],
        around: &Surroundings,
        local: &impl LocalDevices,
    ) -> NodeRoute {
        let named = if self.is_dtls(flow) { Named::by_record(datagram) } else { Named::by_message(datagram) };
        let named = match named {
            Named::Shard(shard) if around.served.contains(shard) => return NodeRoute::Here,
            Named::Shard(shard) => Some(shard),
            Named::Endpoint(name) if local.has_endpoint(name) => return NodeRoute::Here,
            Named::Endpoint(name) => return self.wait_for_name(now, flow, name, datagram),
            Named::Nothing => {
                if !self.is_dtls(flow) && is_empty_reply(datagram) {
                    self.copy(now, flow, around, local);
                }
                None
            }
        };
        self.route_to(now, flow, (named, datagram), around)
    }

    /// Returns a further node that gets the datagram for which [`NodeRouter::route`] was called last.
    pub fn poll_copy(&mut self) -> Option<NodeRoute> {
        self.copies.pop()
    }

    /// Finds the nodes with devices at the address of a datagram that names nothing, except the one to which
    /// [`NodeRouter::route_to`] leads.
    fn copy(&mut self, now: Instant, flow: Flow, around: &Surroundings, local: &impl LocalDevices) {
        let Some(first) = self.flows.get(now, flow) else { return };
        let others = self.flows.several(now, flow);
        let here = self.config.node;
        let place = |shard| match around.served.contains(shard) {
            true => Some(here),
            false => self.reached_owner(shard, around),
        };
        let mut reached: NodeSet = place(first).into_iter().fold(NodeSet::default(), NodeSet::with);
        let mut copies = Vec::new();
        for shard in others.iter().flat_map(ShardSet::iter) {
            let Some(to) = place(shard).filter(|to| !reached.contains(*to)) else { continue };
            reached = reached.with(to);
            copies.push(match to == here {
                true => NodeRoute::Here,
                false => NodeRoute::Forward(Hop { to, shard, entry: here, hops: 1, is_learned: true }),
            });
        }
        if !reached.contains(here) && local.has_device_at(flow) {
            copies.push(NodeRoute::Here);
        }
        self.copies = copies;
    }

    /// Returns an endpoint name that the shell has to ask the store for.
    pub fn poll_name(&mut self) -> Option<Box<str>> {
        self.registers.poll_name()
    }

    /// Takes the shard of an endpoint name; `None` if no shard has it, or if that is not known. Returns the Registers
    /// that have waited for it, each with the node that handles it.
    pub fn handle_name(
        &mut self,
        now: Instant,
        name: &str,
        shard: Option<Shard>,
        around: &Surroundings,
    ) -> Vec<(WaitingRegister, NodeRoute)> {
        let registers = self.registers.take(name);
        let route = |register: WaitingRegister| {
            let (flow, datagram) = (register.flow, &register.datagram);
            let route = match shard {
                Some(shard) if around.served.contains(shard) => NodeRoute::Here,
                Some(shard) => {
                    let is_learned = self.flows.has(now, flow, shard);
                    let forwarded = Forwarded { shard, entry: self.config.node, hops: 0, is_learned, flow };
                    self.hand_on(now, forwarded, datagram, around)
                }
                None if around.served.is_empty() => self.route_to(now, flow, (None, datagram), around),
                None => NodeRoute::Here,
            };
            (register, route)
        };
        registers.into_iter().map(route).collect()
    }

    fn wait_for_name(&mut self, now: Instant, flow: Flow, name: &str, datagram: &[u8]) -> NodeRoute {
        let limiter = match self.flows.get(now, flow) {
            Some(_) => &mut self.known,
            None => &mut self.unregistered,
        };
        if limiter.take(now, SourceNetwork::of(flow.address)).is_err() {
            return NodeRoute::Dropped(ForwardDrop::RateLimited);
        }
        match self.registers.keep(now, name, WaitingRegister { flow, datagram: datagram.into() }) {
            true => NodeRoute::Held,
            false => NodeRoute::Dropped(ForwardDrop::NotHeld),
        }
    }

    /// Decides about a datagram of this shard; `None` for one that names no shard.
    fn route_to(
        &mut self,
        now: Instant,
        flow: Flow,
        (named, datagram): (Option<Shard>, &[u8]),
        around: &Surroundings,
    ) -> NodeRoute {
        let learned = self.flows.get(now, flow);
        let is_unregistered = named.is_none() && learned.is_none() && !around.served.is_empty();
        let shard = named.or(learned).unwrap_or_else(|| any_shard(flow));
        if is_unregistered || around.served.contains(shard) {
            return NodeRoute::Here;
        }
        let is_learned = self.flows.has(now, flow, shard);
        if !is_learned && self.unregistered.take(now, SourceNetwork::of(flow.address)).is_err() {
            return NodeRoute::Dropped(ForwardDrop::RateLimited);
        }
        let entry = self.config.node;
        self.hand_on(now, Forwarded { shard, entry, hops: 0, is_learned, flow }, datagram, around)
    }

    /// Decides which node handles a datagram that another node has forwarded.
    ///
    /// A shard that this node does not serve may be about to come here: the node that forwards is its last owner, and
    /// knows that before this one. Then the datagram is held, also one that two nodes have forwarded.
    pub fn route_forwarded(
        &mut self,
        now: Instant,
        (from, forwarded): (NodeNumber, Forwarded),
        datagram: &[u8],
        around: &Surroundings,
    ) -> NodeRoute {
        if around.served.contains(forwarded.shard) {
            return NodeRoute::Here;
        }
        let owner = self.owners.owner(forwarded.shard).filter(|owner| *owner != self.config.node && *owner != from);
        match owner {
            Some(_) if forwarded.hops >= MAX_HOPS => NodeRoute::Dropped(ForwardDrop::Hops),
            Some(to) if around.connected.contains(to) => self.forward(to, forwarded),
            Some(_) | None => self.hold(now, (Some(from), forwarded), datagram),
        }
    }

    /// Returns the node that has a shard, as far as this node knows.
    pub fn owner(&self, shard: Shard) -> Option<NodeNumber> {
        self.owners.owner(shard)
    }

    /// Takes the answer of a node that does not serve a shard. If that node knows no other owner, it may be about to
    /// serve the shard, and holds the datagrams.
    pub fn handle_not_mine(&mut self, from: NodeNumber, shard: Shard, owner: Option<NodeNumber>) {
        // This node does not serve the shard: it has forwarded a datagram.
        if let Some(owner) = owner.filter(|owner| *owner != from && *owner != self.config.node)
            && self.owners.owner(shard) == Some(from)
        {
            self.owners.set_owner(shard, Some(owner));
        }
    }

    /// Notes that a shard of another node has a device at this address.
    pub fn learn(&mut self, now: Instant, flow: Flow, shard: Shard) {
        self.flows.insert(now, flow, shard);
    }

    /// Notes that this shard has no device at this address any more.
    pub fn forget(&mut self, now: Instant, flow: Flow, shard: Shard) {
        self.flows.remove(now, flow, shard);
    }

    /// Returns whether a datagram to this address does not simply leave here.
    pub fn has_way(&self, flow: Flow) -> bool {
        self.ways.has(flow)
    }

    /// Notes at which node a datagram of an address came in. For an address with a device it is remembered until the
    /// device comes in elsewhere, for others as long as an answer may take.
    pub fn heard(&mut self, now: Instant, flow: Flow, entry: NodeNumber, sender: Sender) {
        self.ways.heard(now, flow, entry, sender);
    }

    /// Notes a device of a shard that came to this node, which has not heard it. A device whose datagrams came in here
    /// before, for the node that had its shard, is reached from here.
    pub fn expect(&mut self, flow: Flow) {
        if !self.flows.contains(flow) {
            self.ways.expect(flow);
        }
    }

    /// Notes where another node heard a device of a shard that comes to this node.
    pub fn told_way(&mut self, now: Instant, flow: Flow, entry: NodeNumber) {
        self.ways.told(now, flow, entry);
    }

    /// Returns the node at which the device at this address was heard; `None` if that is not known.
    pub fn entry(&mut self, now: Instant, flow: Flow) -> Option<NodeNumber> {
        self.ways.entry(now, flow)
    }

    /// Returns the way of a datagram to an address. `has_device` tells whether there is a device.
    pub fn way_out(&mut self, now: Instant, flow: Flow, datagram: &[u8], has_device: impl FnOnce() -> bool) -> WayOut {
        if !self.ways.has(flow) {
            return WayOut::Here;
        }
        if self.ways.is_unregistered(now, flow) && has_device() {
            self.ways.registered(now, flow);
        }
        self.ways.out(now, flow, is_own(self.is_dtls(flow), datagram))
    }

    /// Forgets the ways to some of the devices that are not there any more.
    pub fn review_ways(&mut self, is_there: impl Fn(Flow) -> bool) {
        self.ways.review(is_there);
    }

    /// Returns the held datagrams whose place is known now: they are handled here, or forwarded.
    ///
    /// A datagram waits on that would go back to the node from which it came: that node does not have the shard, so
    /// what is known here is older. It does go back if this node has handed the shard over to that node, which does
    /// not know it yet. One that two nodes have forwarded waits for its shard, too.
    pub fn handle_timeout(&mut self, now: Instant, around: &Surroundings) -> Released {
        let expired = self.held.drop_expired(now) + self.registers.drop_expired(now);
        let mut released = Released { expired, ..Released::default() };
        for shard in self.held.shards().collect::<Vec<_>>() {
            let here = around.served.contains(shard);
            let to = self.reached_owner(shard, around);
            let is_given = self.owners.is_given(shard);
            let can_go_on = |held: &HeldDatagram| match to {
                _ if here => true,
                Some(to) if held.from == Some(to) => is_given,
                Some(_) => held.hops < MAX_HOPS,
                None => false,
            };
            for held in self.held.take(shard, can_go_on) {
                let (entry, is_learned) = (held.entry, held.is_learned);
                // The way back is no further node.
                let hops = held.hops + u8::from(held.from != to);
                let hop = to.filter(|_| !here).map(|to| Hop { to, shard, entry, hops, is_learned });
                released.datagrams.push(ReleasedDatagram { held, shard, hop });
            }
        }
        self.retry = (!self.held.is_empty()).then(|| now + RETRY);
        released
    }

    /// Returns when [`NodeRouter::handle_timeout`] has to be called.
    pub fn next_deadline(&self) -> Option<Instant> {
        [self.retry, self.registers.next_deadline()].into_iter().flatten().min()
    }

    /// Returns the number of addresses that the router remembers.
    pub fn flows(&self) -> usize {
        self.flows.len() + self.ways.len()
    }

    /// Returns how many addresses were forgotten because there were too many.
    pub fn evicted_flows(&self) -> u64 {
        self.flows.evicted() + self.ways.evicted()
    }

    /// Returns the number of datagrams that are held for a shard.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    fn is_dtls(&self, flow: Flow) -> bool {
        flow.socket >= self.config.first_dtls_socket
    }

    fn hand_on(&mut self, now: Instant, forwarded: Forwarded, datagram: &[u8], around: &Surroundings) -> NodeRoute {
        match self.reached_owner(forwarded.shard, around) {
            Some(to) => self.forward(to, forwarded),
            None => self.hold(now, (None, forwarded), datagram),
        }
    }

    fn forward(&self, to: NodeNumber, forwarded: Forwarded) -> NodeRoute {
        let Forwarded { shard, entry, hops, is_learned, .. } = forwarded;
        NodeRoute::Forward(Hop { to, shard, entry, hops: hops + 1, is_learned })
    }

    fn hold(&mut self, now: Instant, (from, forwarded): (Option<NodeNumber>, Forwarded), datagram: &[u8]) -> NodeRoute {
        let Forwarded { shard, entry, hops, is_learned, flow } = forwarded;
        let held = HeldDatagram { flow, datagram: datagram.into(), entry, hops, is_learned, from };
        if !self.held.hold(now, shard, held) {
            return NodeRoute::Dropped(ForwardDrop::NotHeld);
        }
        self.retry.get_or_insert(now + RETRY);
        NodeRoute::Held
    }

    fn reached_owner(&self, shard: Shard, around: &Surroundings) -> Option<NodeNumber> {
        self.owners.owner(shard).filter(|owner| *owner != self.config.node && around.connected.contains(*owner))
    }
}

/// The held datagrams that can be handed on, and the number of those that are dropped.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Released {
    pub datagrams: Vec<ReleasedDatagram>,
    /// Datagrams that were held for too long.
    pub expired: u64,
}

/// A datagram that was held.
#[derive(Debug, PartialEq, Eq)]
pub struct ReleasedDatagram {
    pub held: HeldDatagram,
    pub shard: Shard,
    /// The next node; `None` if this node handles the datagram.
    pub hop: Option<Hop>,
}

/// Chooses a shard for an address of which nothing is known, at a node that serves no shard.
fn any_shard(flow: Flow) -> Shard {
    let mix = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    let octets = match flow.address.ip() {
        std::net::IpAddr::V4(ip) => ip.octets().to_vec(),
        std::net::IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    // FNV-1a. Nothing depends on the choice but the evenness of the load.
    let hash = octets.iter().chain(&flow.address.port().to_be_bytes()).fold(0x811c_9dc5, mix);
    Shard::new((hash >> 24 ^ hash >> 16 ^ hash >> 8 ^ hash) as u8)
}

#[cfg(test)]
mod tests;
