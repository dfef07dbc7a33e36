//! Forwards the datagrams of devices between the nodes of a cluster: to the node of their shard, and answers to their
//! entry, the node that received them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{mpsc, watch};

use crate::clock::monotonic_now;
use crate::cluster::peers::{MoveInput, PeerHandle, PeerInput};
use crate::observability::metrics::PeerMetrics;
use crate::store::redis::shared::EngineAsk;
use crate::store::redis::shared::names::{NameAsk, NameHolder};
use crate::transport::{BATCH, UdpSockets};
use lwm2m_base::rate::RateLimit;
use lwm2m_base::{Peer, Shard};
use lwm2m_cluster::NodeNumber;
use lwm2m_core::gateway::Gateway;
use lwm2m_router::{Flow, ForwardDrop, Forwarded, LocalDevices, NodeRoute, NodeRouter, NodeRouterConfig};
use lwm2m_router::{ReleasedDatagram, Sender, ShardMap, Surroundings, WaitingRegister, WayOut};

use super::Driver;
use super::threads::flow_of;

/// The interval at which some of the ways to devices are checked.
const REVIEW: Duration = Duration::from_secs(1);

/// The connections of a node to the other ones, and its knowledge of their shards.
pub struct Forwarding {
    node: NodeNumber,
    router: NodeRouter,
    peers: PeerHandle,
    pub(super) inputs: mpsc::Receiver<PeerInput>,
    owners: watch::Receiver<Arc<ShardMap>>,
    asks: UnboundedSender<EngineAsk>,
    /// Whether this node sends to a device from its own address if it cannot reach the device's entry.
    is_direct: bool,
    /// The time at which some of the ways to devices are checked.
    next_review: Instant,
}

impl Forwarding {
    pub fn new(
        config: NodeRouterConfig,
        (peers, inputs): (PeerHandle, mpsc::Receiver<PeerInput>),
        (owners, asks): (watch::Receiver<Arc<ShardMap>>, UnboundedSender<EngineAsk>),
        is_direct: bool,
    ) -> Self {
        let (node, next_review) = (config.node, monotonic_now() + REVIEW);
        Self { node, router: NodeRouter::new(config), peers, inputs, owners, asks, is_direct, next_review }
    }

    /// Returns the shards that the node serves, and the nodes that it reaches now.
    pub(super) fn surroundings(&self, gateway: &Gateway) -> Surroundings {
        Surroundings { served: gateway.shards(), connected: self.peers.connected() }
    }

    /// Takes a datagram from the network.
    pub(super) fn receive(
        &mut self,
        now: Instant,
        gateway: &mut Gateway,
        (peer, datagram): (Peer, &[u8]),
        around: &Surroundings,
    ) {
        let route = self.router.route(now, flow_of(peer), datagram, around, &DevicesOf(gateway));
        self.follow(now, gateway, (peer, datagram), route);
        while let Some(copy) = self.router.poll_copy() {
            self.follow(now, gateway, (peer, datagram), copy);
        }
        while let Some(name) = self.router.poll_name() {
            // Without a keeper the node shuts down, and the Register is dropped when it has waited for too long.
            let (Ok(()) | Err(_)) = self.asks.send(EngineAsk::Name(NameAsk::Find(name)));
        }
    }

    /// Takes the holder of an endpoint name, and continues with the Registers that have waited for it.
    pub(super) fn handle_name(&mut self, now: Instant, gateway: &mut Gateway, name: &str, holder: NameHolder) {
        let shard = match holder {
            NameHolder::Shard { shard, .. } => Some(shard),
            NameHolder::Free | NameHolder::Claimed | NameHolder::Unknown => None,
        };
        let around = self.surroundings(gateway);
        for (WaitingRegister { flow, datagram }, route) in self.router.handle_name(now, name, shard, &around) {
            self.follow(now, gateway, (peer_of(flow), &datagram), route);
        }
    }

    fn follow(&mut self, now: Instant, gateway: &mut Gateway, (peer, datagram): (Peer, &[u8]), route: NodeRoute) {
        match route {
            NodeRoute::Here => {
                let entry = self.node;
                self.hear(now, gateway, (flow_of(peer), entry), datagram);
            }
            NodeRoute::Forward(hop) => self.peers.forward(hop, flow_of(peer), datagram),
            NodeRoute::Held => {}
            NodeRoute::Dropped(reason) => self.count(reason),
        }
    }

    /// Sends a datagram to a device through its entry.
    pub(super) fn transmit(
        &mut self,
        now: Instant,
        (gateway, sockets): (&Gateway, &mut UdpSockets),
        peer: Peer,
        datagram: Vec<u8>,
    ) {
        let flow = flow_of(peer);
        match self.router.way_out(now, flow, &datagram, || gateway.shard_at(peer).is_some()) {
            // Without a connection the datagram is lost, as in the network, and counted.
            WayOut::Through(entry) if !self.is_direct || self.peers.connected().contains(entry) => {
                self.peers.reply(entry, flow, &datagram);
            }
            WayOut::Unknown if !self.is_direct => drop(self.metrics().drops.no_way.inc()),
            WayOut::Here | WayOut::Through(_) | WayOut::Unknown => sockets.queue(peer, datagram),
        }
    }

    /// Notes a device of a shard that comes to this node. Returns whether this node can send to it before it sends a
    /// message.
    pub(super) fn expect(&mut self, now: Instant, device: Peer) -> bool {
        let flow = flow_of(device);
        self.router.expect(flow);
        self.is_direct || self.router.entry(now, flow).is_some()
    }

    /// Tells the next node of a shard through which nodes the devices at these addresses are reached.
    pub(super) fn hand_ways_over(&mut self, now: Instant, to: NodeNumber, places: impl Iterator<Item = Peer>) {
        let mut by_entry: HashMap<NodeNumber, Vec<Flow>> = HashMap::new();
        for flow in places.map(flow_of) {
            if let Some(entry) = self.router.entry(now, flow) {
                by_entry.entry(entry).or_default().push(flow);
            }
        }
        by_entry.iter().for_each(|(entry, flows)| self.peers.tell_ways(to, *entry, flows));
    }

    /// Replaces the rate of forwarded datagrams from addresses without a device.
    pub(super) fn set_unregistered(&mut self, limit: RateLimit) {
        self.router.set_unregistered(limit);
    }

    /// Returns the number of addresses that are remembered.
    pub(super) fn flows(&self) -> usize {
        self.router.flows()
    }

    /// Returns how many addresses were forgotten because there were too many.
    pub(super) fn evicted_flows(&self) -> u64 {
        self.router.evicted_flows()
    }

    /// Returns the connections to the other nodes.
    pub(super) fn peers(&self) -> &PeerHandle {
        &self.peers
    }

    /// Returns the number of this node.
    pub(super) fn node(&self) -> NodeNumber {
        self.node
    }

    /// Returns the node that has a shard, as far as this node knows.
    pub(super) fn owner(&self, shard: Shard) -> Option<NodeNumber> {
        self.router.owner(shard)
    }

    /// Returns the time at which held datagrams are tried again, or ways are checked.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.router.next_deadline().into_iter().chain([self.next_review]).min()
    }

    /// Reads the owners of shards if they have changed, and routes the held datagrams again.
    fn handle_timeout(&mut self, now: Instant, gateway: &mut Gateway) {
        if self.owners.has_changed().is_ok_and(|has_changed| has_changed) {
            self.router.set_owners(ShardMap::clone(&self.owners.borrow_and_update()));
        }
        if self.next_review <= now {
            self.next_review = now + REVIEW;
            self.router.review_ways(|flow| gateway.shard_at(peer_of(flow)).is_some());
        }
        if self.router.next_deadline().is_none_or(|deadline| deadline > now) {
            return;
        }
        let around = self.surroundings(gateway);
        let released = self.router.handle_timeout(now, &around);
        self.metrics().drops.expired.inc_by(released.expired);
        for ReleasedDatagram { held, shard, hop } in released.datagrams {
            match hop {
                Some(hop) => self.peers.forward(hop, held.flow, &held.datagram),
                None => {
                    let (entry, hops, is_learned, flow) = (held.entry, held.hops, held.is_learned, held.flow);
                    self.handle(now, gateway, Forwarded { shard, entry, hops, is_learned, flow }, &held.datagram);
                }
            }
        }
    }

    /// Takes a message of another node.
    fn take(
        &mut self,
        now: Instant,
        (gateway, sockets): (&mut Gateway, &mut UdpSockets),
        input: PeerInput,
    ) -> Option<MoveInput> {
        match input {
            PeerInput::Forwarded { from, forwarded, datagram } => {
                let around = self.surroundings(gateway);
                let route = self.router.route_forwarded(now, (from, forwarded), &datagram, &around);
                if route != NodeRoute::Here {
                    self.peers.not_mine(from, forwarded.shard, self.router.owner(forwarded.shard));
                }
                match route {
                    NodeRoute::Here => self.handle(now, gateway, forwarded, &datagram),
                    NodeRoute::Forward(hop) => self.peers.forward(hop, forwarded.flow, &datagram),
                    NodeRoute::Held => {}
                    NodeRoute::Dropped(reason) => self.count(reason),
                }
            }
            PeerInput::Reply { flow, datagram } => sockets.queue(peer_of(flow), datagram.into()),
            PeerInput::Learn { flow, shard, has_device: true } => self.router.learn(now, flow, shard),
            PeerInput::Learn { flow, shard, has_device: false } => self.router.forget(now, flow, shard),
            PeerInput::NotMine { from, shard, owner } => self.router.handle_not_mine(from, shard, owner),
            PeerInput::Ways { entry, flows } => {
                flows.into_iter().for_each(|flow| self.router.told_way(now, flow, entry));
            }
            PeerInput::Move(input) => return Some(input),
        }
        None
    }

    /// Handles a datagram that came in at another node or was held, and tells that node which devices are here.
    fn handle(&mut self, now: Instant, gateway: &mut Gateway, forwarded: Forwarded, datagram: &[u8]) {
        let Forwarded { shard, entry, is_learned, flow, .. } = forwarded;
        self.hear(now, gateway, (flow, entry), datagram);
        if entry == self.node {
            return;
        }
        let is_there = gateway.has_device_of(peer_of(flow), shard);
        if is_there != is_learned {
            self.peers.learn(entry, flow, shard, is_there);
        }
        if let Some(other) = gateway.shard_at(peer_of(flow)).filter(|_| !is_there) {
            self.peers.learn(entry, flow, other, true);
        }
    }

    /// Handles a datagram that came in at this node or at another one, which becomes the way to its device.
    fn hear(&mut self, now: Instant, gateway: &mut Gateway, (flow, entry): (Flow, NodeNumber), datagram: &[u8]) {
        let peer = peer_of(flow);
        gateway.handle_datagram(now, peer, datagram);
        if entry == self.node && !self.router.has_way(flow) {
            return;
        }
        let sender = match gateway.last_heard_at(peer) {
            None => Sender::Unregistered,
            Some(heard) if heard == now => Sender::Device,
            Some(_) => Sender::Unproven,
        };
        self.router.heard(now, flow, entry, sender);
    }

    fn count(&self, reason: ForwardDrop) {
        let drops = &self.metrics().drops;
        let counter = match reason {
            ForwardDrop::RateLimited => &drops.rate_limited,
            ForwardDrop::NotHeld => &drops.not_held,
            ForwardDrop::Hops => &drops.hops,
        };
        counter.inc();
    }

    fn metrics(&self) -> &PeerMetrics {
        self.peers.metrics()
    }
}

/// The devices of a gateway, as the router asks for them.
struct DevicesOf<'g>(&'g Gateway);

impl LocalDevices for DevicesOf<'_> {
    fn has_endpoint(&self, name: &str) -> bool {
        self.0.has_endpoint(name)
    }

    fn has_device_at(&self, flow: Flow) -> bool {
        self.0.has_device_at(peer_of(flow))
    }
}

impl Driver {
    /// Takes the messages of other nodes, at most one batch.
    pub(super) fn handle_peers(&mut self, now: Instant, first: PeerInput) {
        let mut next = Some(first);
        for left in (0..BATCH).rev() {
            let Some(input) = next else { return };
            self.handle_peer(now, input);
            let inputs = self.cluster.as_mut().map(|seat| &mut seat.forwarding.inputs);
            next = inputs.filter(|_| left > 0).and_then(|inputs| inputs.try_recv().ok());
        }
    }

    fn handle_peer(&mut self, now: Instant, input: PeerInput) {
        let Self { gateway, sockets, cluster: Some(seat), .. } = self else { return };
        match seat.forwarding.take(now, (gateway, sockets), input) {
            Some(MoveInput::Fetch { from, number, question }) => self.handle_fetch(now, from, number, &question),
            Some(MoveInput::Fetched { from, number, answer }) => self.handle_fetched(from, number, answer),
            Some(MoveInput::Done { endpoint, version }) => self.handle_done(now, &endpoint, version),
            None => {}
        }
    }

    /// Routes the datagrams that were held until their shard was known.
    pub(super) fn hand_on_held(&mut self, now: Instant) {
        let Self { gateway, cluster: Some(seat), .. } = self else { return };
        seat.forwarding.handle_timeout(now, gateway);
    }
}

fn peer_of(Flow { socket, address }: Flow) -> Peer {
    Peer::udp(socket, address)
}
