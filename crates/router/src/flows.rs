//! The addresses whose device another thread or node has.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use indexmap::IndexMap;

/// The address of a datagram at one of the listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Index of the listener in the configuration's order.
    pub socket: u16,
    /// The remote address.
    pub address: SocketAddr,
}

/// The time for which an address is remembered without a datagram. It may be twice as long.
const IDLE: Duration = Duration::from_secs(5 * 60);

/// Maps addresses to owners, such as threads or shards. There are two generations: a use moves an address to the
/// younger one, which becomes the older one after [`IDLE`], or when it has half of the addresses. So the addresses that
/// were used last stay, and neither a use nor the end of a generation costs more with more addresses.
#[derive(Debug)]
pub(crate) struct FlowTable<V> {
    young: HashMap<Flow, V>,
    old: HashMap<Flow, V>,
    /// The addresses that do not expire.
    kept: IndexMap<Flow, V>,
    /// The index of the kept address that is looked at next.
    review: usize,
    /// The begin of the younger generation.
    began: Option<Instant>,
    most: usize,
    evicted: u64,
}

impl<V: Copy + PartialEq> FlowTable<V> {
    pub(crate) fn new(most: usize) -> Self {
        let empty = HashMap::new;
        Self { young: empty(), old: empty(), kept: IndexMap::new(), review: 0, began: None, most, evicted: 0 }
    }

    /// Returns the owner of an address, and counts this as a use of the address.
    pub(crate) fn get(&mut self, now: Instant, flow: Flow) -> Option<V> {
        if self.is_empty() {
            return None;
        }
        self.expire(now);
        if let Some(owner) = self.young.get(&flow) {
            return Some(*owner);
        }
        match self.old.get(&flow).copied() {
            Some(owner) => {
                self.insert(now, flow, owner);
                Some(owner)
            }
            None => self.kept.get(&flow).copied(),
        }
    }

    pub(crate) fn insert(&mut self, now: Instant, flow: Flow, owner: V) {
        if self.most < 2 {
            self.evicted += 1;
            return;
        }
        self.expire(now);
        self.kept.swap_remove(&flow);
        self.old.remove(&flow);
        let is_full = self.young.len() >= self.most / 2;
        if is_full && !self.young.contains_key(&flow) {
            self.evicted += self.old.len() as u64;
            self.end_generation(now);
        }
        self.young.insert(flow, owner);
    }

    /// Removes an address if it is that of this owner.
    pub(crate) fn remove(&mut self, flow: Flow, owner: V) {
        for generation in [&mut self.young, &mut self.old] {
            if generation.get(&flow) == Some(&owner) {
                generation.remove(&flow);
            }
        }
        if self.kept.get(&flow) == Some(&owner) {
            self.kept.swap_remove(&flow);
        }
    }

    /// Removes an address of any owner.
    pub(crate) fn clear(&mut self, flow: Flow) {
        if !self.is_empty() {
            self.young.remove(&flow);
            self.old.remove(&flow);
            self.kept.swap_remove(&flow);
        }
    }

    /// Inserts an address that does not expire. Returns whether there was room.
    pub(crate) fn keep(&mut self, flow: Flow, owner: V) -> bool {
        let has_room = self.kept.len() < self.most || self.kept.contains_key(&flow);
        if has_room {
            self.clear(flow);
            self.kept.insert(flow, owner);
        } else {
            self.evicted += 1;
        }
        has_room
    }

    /// Checks at most so many kept addresses, and removes those that need not be kept any more. The next call continues
    /// with the next ones.
    pub(crate) fn review_kept(&mut self, most: usize, is_kept: impl Fn(Flow) -> bool) {
        for _ in 0..most.min(self.kept.len()) {
            if self.review >= self.kept.len() {
                self.review = 0;
            }
            match self.kept.get_index(self.review) {
                Some((flow, _)) if is_kept(*flow) => self.review += 1,
                Some(_) => drop(self.kept.swap_remove_index(self.review)),
                None => return,
            }
        }
    }

    pub(crate) fn contains(&self, flow: Flow) -> bool {
        self.young.contains_key(&flow) || self.old.contains_key(&flow) || self.kept.contains_key(&flow)
    }

    pub(crate) fn len(&self) -> usize {
        self.young.len() + self.old.len() + self.kept.len()
    }

    pub(crate) fn evicted(&self) -> u64 {
        self.evicted
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn expire(&mut self, now: Instant) {
        let age = now.saturating_duration_since(*self.began.get_or_insert(now));
        if age >= IDLE {
            self.end_generation(now);
        }
        if age >= 2 * IDLE {
            self.old.clear();
        }
    }

    fn end_generation(&mut self, now: Instant) {
        self.old = std::mem::take(&mut self.young);
        self.began = Some(now);
    }
}
