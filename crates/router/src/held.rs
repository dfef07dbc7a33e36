//! Datagrams that wait until the node that has their shard is known and reached.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use lwm2m_base::Shard;
use lwm2m_cluster::NodeNumber;

use crate::flows::Flow;

/// The time for which a datagram is held. Devices retransmit after 2 to 3 s (RFC 7252 section 4.8).
const HELD_FOR: Duration = Duration::from_secs(3);
/// Maximum number of datagrams that are held for one shard.
const PER_SHARD: usize = 256;
/// Maximum number of bytes that are held for all shards together.
const BYTES: usize = 4 << 20;

/// A datagram that waits for the node that has its shard.
#[derive(Debug, PartialEq, Eq)]
pub struct HeldDatagram {
    pub flow: Flow,
    pub datagram: Box<[u8]>,
    /// The node that received the datagram from the network.
    pub entry: NodeNumber,
    /// The number of nodes that have forwarded it.
    pub hops: u8,
    /// Whether the entry has learned that the shard has a device at this address.
    pub is_learned: bool,
    /// The node that has forwarded it to this one.
    pub from: Option<NodeNumber>,
}

/// The held datagrams of all shards, those of one shard in the order in which they came.
#[derive(Debug)]
pub(crate) struct HeldDatagrams {
    by_shard: Vec<VecDeque<(Instant, HeldDatagram)>>,
    bytes: usize,
}

impl HeldDatagrams {
    pub(crate) fn new() -> Self {
        Self { by_shard: (0..Shard::COUNT).map(|_| VecDeque::new()).collect(), bytes: 0 }
    }

    /// Holds a datagram. Returns whether there was room.
    pub(crate) fn hold(&mut self, now: Instant, shard: Shard, held: HeldDatagram) -> bool {
        let queue = &mut self.by_shard[usize::from(shard)];
        let bytes = self.bytes + held.datagram.len();
        if queue.len() >= PER_SHARD || bytes > BYTES {
            return false;
        }
        self.bytes = bytes;
        queue.push_back((now, held));
        true
    }

    /// Returns the shards for which datagrams are held.
    pub(crate) fn shards(&self) -> impl Iterator<Item = Shard> {
        Shard::all().zip(&self.by_shard).filter(|(_, queue)| !queue.is_empty()).map(|(shard, _)| shard)
    }

    /// Takes those datagrams of a shard that can be handed on. The others wait on.
    pub(crate) fn take(&mut self, shard: Shard, can_go_on: impl Fn(&HeldDatagram) -> bool) -> Vec<HeldDatagram> {
        let queue = &mut self.by_shard[usize::from(shard)];
        let (taken, left): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(queue).into_iter().partition(|(_, held)| can_go_on(held));
        *queue = left;
        self.bytes -= taken.iter().map(|(_, held)| held.datagram.len()).sum::<usize>();
        taken.into_iter().map(|(_, held)| held).collect()
    }

    /// Drops the datagrams that have waited for too long, and returns their number.
    pub(crate) fn drop_expired(&mut self, now: Instant) -> u64 {
        let mut dropped = 0;
        for queue in &mut self.by_shard {
            while let Some((since, held)) = queue.front()
                && now.saturating_duration_since(*since) >= HELD_FOR
            {
                self.bytes -= held.datagram.len();
                queue.pop_front();
                dropped += 1;
            }
        }
        dropped
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_shard.iter().all(VecDeque::is_empty)
    }

    /// Returns the number of datagrams that are held.
    pub(crate) fn len(&self) -> usize {
        self.by_shard.iter().map(VecDeque::len).sum()
    }
}
