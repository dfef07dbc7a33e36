//! The limits on bodies that peers send by Block1, in separate classes: registered and unregistered peers, over DTLS
//! and over plain UDP. One class does not use the room of another.
//!
//! An unregistered peer always gets room, for anybody can claim to be many peers over plain UDP: the oldest body of the
//! class is evicted, one that was never continued before one that was. While less than half of a class is taken, an
//! address may have all of it, for a NAT may hide a whole fleet; beyond that, an address with its share replaces a body
//! of its own.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::coap::PeerClass;
use lwm2m_base::Peer;
use lwm2m_base::deadlines::Deadlines;

/// Divisor for the share of one address: a class of unregistered peers that is half full lets an address have one in
/// this many of its bodies.
const ADDRESS_SHARE: usize = 50;

/// Names the class that a body belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClassId {
    known: bool,
    secured: bool,
}

impl ClassId {
    pub(super) const COUNT: usize = 4;

    pub(super) fn of(peer: Peer, class: PeerClass) -> Self {
        Self { known: class == PeerClass::Registered, secured: peer.association.is_some() }
    }

    pub(super) fn is_known(self) -> bool {
        self.known
    }

    pub(super) fn index(self) -> usize {
        usize::from(self.known) * 2 + usize::from(self.secured)
    }
}

/// The peers of one class that have an incomplete body, in the order in which their bodies expire.
#[derive(Debug)]
pub(crate) struct Class {
    known: bool,
    limit: usize,
    lifetime: Duration,
    /// Bodies of which one block has arrived.
    begun: Deadlines<Peer>,
    /// Bodies of which more blocks have arrived.
    continued: Deadlines<Peer>,
    by_address: HashMap<IpAddr, usize>,
}

impl Class {
    pub(super) fn new(known: bool, limit: usize, lifetime: Duration) -> Self {
        let (begun, continued) = (Deadlines::default(), Deadlines::default());
        Self { known, limit, lifetime, begun, continued, by_address: HashMap::new() }
    }

    pub(super) fn is_known(&self) -> bool {
        self.known
    }

    /// Returns whether there is room for one more peer. If not, [`Class::victim`] returns the peer to evict.
    pub(super) fn has_room(&self, peer: Peer) -> bool {
        let crowded = self.len() >= self.limit.div_ceil(2);
        let too_many = !self.known && crowded && self.of_address(peer) >= self.address_share();
        self.len() < self.limit && !too_many
    }

    /// Returns the peer whose body is evicted for this one; `None` if none is: registered peers keep their room.
    pub(super) fn victim(&self, peer: Peer) -> Option<Peer> {
        if self.known {
            return None;
        }
        if self.of_address(peer) >= self.address_share() {
            let network = peer.network();
            return self.in_order().find(|other| other.network() == network);
        }
        self.oldest()
    }

    /// Returns the peer whose body is evicted first.
    pub(super) fn oldest(&self) -> Option<Peer> {
        self.in_order().next()
    }

    pub(super) fn insert(&mut self, now: Instant, peer: Peer, blocks: usize) {
        let deadlines = if blocks > 1 { &mut self.continued } else { &mut self.begun };
        deadlines.set(peer, now + self.lifetime);
        *self.by_address.entry(peer.network()).or_default() += 1;
    }

    pub(super) fn remove(&mut self, peer: Peer) {
        let there = self.begun.get(peer).or_else(|| self.continued.get(peer)).is_some();
        self.begun.cancel(peer);
        self.continued.cancel(peer);
        let network = peer.network();
        if let Some(count) = self.by_address.get_mut(&network).filter(|_| there) {
            *count -= 1;
            if *count == 0 {
                self.by_address.remove(&network);
            }
        }
    }

    /// Returns a peer whose body has expired.
    pub(super) fn expired(&self, now: Instant) -> Option<Peer> {
        let first = [self.begun.first(), self.continued.first()].into_iter().flatten().min();
        first.filter(|(at, _)| *at <= now).map(|(_, peer)| peer)
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        [self.begun.next(), self.continued.next()].into_iter().flatten().min()
    }

    pub(super) fn len(&self) -> usize {
        self.begun.len() + self.continued.len()
    }

    fn address_share(&self) -> usize {
        self.limit.div_ceil(ADDRESS_SHARE)
    }

    fn of_address(&self, peer: Peer) -> usize {
        self.by_address.get(&peer.network()).copied().unwrap_or_default()
    }

    fn in_order(&self) -> impl Iterator<Item = Peer> {
        self.begun.keys().chain(self.continued.keys())
    }
}
