//! Forwards the datagrams of devices between the nodes of a cluster: to the node of their shard, and from there back to
//! the node at which they came in.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{mpsc, watch};

use crate::cluster::peers::{PeerHandle, PeerInput};
use crate::observability::metrics::PeerMetrics;
use crate::transport::{BATCH, UdpSockets};
use lwm2m_base::Peer;
use lwm2m_base::rate::RateLimit;
use lwm2m_core::gateway::Gateway;
use lwm2m_router::{Flow, ForwardDrop, Forwarded, NodeRoute, NodeRouter, NodeRouterConfig, ReleasedDatagram};
use lwm2m_router::{ShardMap, Surroundings};

use super::Driver;
use super::threads::flow_of;

/// The connections of a node to the other ones, and what it knows of their shards.
pub struct Forwarding {
    router: NodeRouter,
    peers: PeerHandle,
    pub(super) inputs: mpsc::Receiver<PeerInput>,
    owners: watch::Receiver<Arc<ShardMap>>,
    /// Whether this node sends to a device by itself whose datagrams came in at a node that is not reached.
    is_direct: bool,
}

impl Forwarding {
    pub fn new(
        config: NodeRouterConfig,
        (peers, inputs): (PeerHandle, mpsc::Receiver<PeerInput>),
        owners: watch::Receiver<Arc<ShardMap>>,
        is_direct: bool,
    ) -> Self {
        Self { router: NodeRouter::new(config), peers, inputs, owners, is_direct }
    }

    /// Returns what the node serves and reaches now.
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
        match self.router.route(now, flow_of(peer), datagram, around) {
            NodeRoute::Here => gateway.handle_datagram(now, peer, datagram),
            NodeRoute::Forward(hop) => self.peers.forward(hop, flow_of(peer), datagram),
            NodeRoute::Held => {}
            NodeRoute::Dropped(reason) => self.count(reason),
        }
    }

    /// Sends a datagram to a device, through the node at which its datagrams come in.
    pub(super) fn transmit(&mut self, now: Instant, sockets: &mut UdpSockets, peer: Peer, datagram: Vec<u8>) {
        match self.router.entry(now, flow_of(peer)) {
            // Without a connection the datagram is lost, as in the network, and counted.
            Some(entry) if !self.is_direct || self.peers.connected().contains(entry) => {
                self.peers.reply(entry, flow_of(peer), &datagram);
            }
            Some(_) | None => sockets.queue(peer, datagram),
        }
    }

    /// Replaces the rate of forwarded datagrams from addresses without a device.
    pub(super) fn set_strangers(&mut self, limit: RateLimit) {
        self.router.set_strangers(limit);
    }

    /// Returns the number of addresses that are remembered.
    pub(super) fn flows(&self) -> usize {
        self.router.flows()
    }

    /// Returns how many addresses were forgotten because there were too many.
    pub(super) fn evicted_flows(&self) -> u64 {
        self.router.evicted_flows()
    }

    /// Returns when held datagrams are tried again.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.router.next_deadline()
    }

    /// Reads the owners of shards if they have changed, and hands on what was held.
    fn handle_timeout(&mut self, now: Instant, gateway: &mut Gateway) {
        if self.owners.has_changed().is_ok_and(|has_changed| has_changed) {
            self.router.set_owners(ShardMap::clone(&self.owners.borrow_and_update()));
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

    /// Takes what another node has sent.
    fn take(&mut self, now: Instant, (gateway, sockets): (&mut Gateway, &mut UdpSockets), input: PeerInput) {
        match input {
            PeerInput::Forwarded { from, forwarded, datagram } => {
                let around = self.surroundings(gateway);
                let route = self.router.route_forwarded(now, forwarded, &datagram, &around);
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
            PeerInput::Learn { flow, shard, has_device: false } => self.router.forget(flow, shard),
            PeerInput::NotMine { from, shard, owner } => self.router.handle_not_mine(from, shard, owner),
        }
    }

    /// Handles a datagram that came in at another node or was held, and tells that node of the device.
    fn handle(&mut self, now: Instant, gateway: &mut Gateway, forwarded: Forwarded, datagram: &[u8]) {
        let Forwarded { shard, entry, is_learned, flow, .. } = forwarded;
        gateway.handle_datagram(now, peer_of(flow), datagram);
        let there = gateway.shard_at(peer_of(flow));
        self.router.heard_through(now, flow, entry, there.is_some());
        if there != is_learned.then_some(shard) {
            self.peers.learn(entry, flow, there.unwrap_or(shard), there.is_some());
        }
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

impl Driver {
    /// Takes what other nodes have sent, at most one batch.
    pub(super) fn handle_peers(&mut self, now: Instant, first: PeerInput) {
        let Self { gateway, sockets, cluster: Some(seat), .. } = self else { return };
        let mut next = Some(first);
        for left in (0..BATCH).rev() {
            let Some(input) = next else { return };
            seat.forwarding.take(now, (gateway, sockets), input);
            next = (left > 0).then(|| seat.forwarding.inputs.try_recv().ok()).flatten();
        }
    }

    /// Hands on the datagrams that were held until their shard was known.
    pub(super) fn hand_on_held(&mut self, now: Instant) {
        let Self { gateway, cluster: Some(seat), .. } = self else { return };
        seat.forwarding.handle_timeout(now, gateway);
    }
}

fn peer_of(Flow { socket, address }: Flow) -> Peer {
    Peer::udp(socket, address)
}
