//! The shards of other nodes that have devices at an address whose datagrams come in at this node.

use std::time::Instant;

use lwm2m_base::{Shard, ShardSet};

use crate::flows::{Flow, FlowTable};

/// The number of addresses for each of which one can have devices of several shards.
const PER_SHARED: usize = 8;

/// Maps addresses to shards. Nearly every address has devices of one shard. One behind which several devices share an
/// IP address and a port, such as a proxy or a simulator, is also in a second table.
#[derive(Debug)]
pub(crate) struct DeviceShards {
    one: FlowTable<Shard>,
    /// All shards of the addresses that have several.
    several: FlowTable<ShardSet>,
}

impl DeviceShards {
    pub(crate) fn new(flows: usize) -> Self {
        Self { one: FlowTable::new(flows), several: FlowTable::new(flows / PER_SHARED) }
    }

    /// Returns a shard that has a device at the address.
    pub(crate) fn get(&mut self, now: Instant, flow: Flow) -> Option<Shard> {
        self.one.get(now, flow)
    }

    /// Returns whether this shard has a device at the address.
    pub(crate) fn has(&mut self, now: Instant, flow: Flow, shard: Shard) -> bool {
        self.one.get(now, flow) == Some(shard)
            || self.several.get(now, flow).is_some_and(|shards| shards.contains(shard))
    }

    /// Returns all shards with a device at the address; `None` if they are not several.
    pub(crate) fn several(&mut self, now: Instant, flow: Flow) -> Option<ShardSet> {
        self.several.get(now, flow)
    }

    pub(crate) fn contains(&self, flow: Flow) -> bool {
        self.one.contains(flow)
    }

    pub(crate) fn insert(&mut self, now: Instant, flow: Flow, shard: Shard) {
        match self.one.get(now, flow) {
            Some(other) if other != shard => {
                let mut shards = self.several(now, flow).unwrap_or(ShardSet::EMPTY);
                shards.insert(other);
                shards.insert(shard);
                self.several.insert(now, flow, shards);
            }
            Some(_) => {}
            None => self.one.insert(now, flow, shard),
        }
    }

    pub(crate) fn remove(&mut self, now: Instant, flow: Flow, shard: Shard) {
        self.one.remove(flow, shard);
        let Some(mut left) = self.several(now, flow) else { return };
        left.remove(shard);
        let Some(other) = left.iter().next() else { return };
        if left.len() > 1 {
            self.several.insert(now, flow, left);
        } else {
            self.several.clear(flow);
        }
        if self.one.get(now, flow).is_none() {
            self.one.insert(now, flow, other);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.one.len() + self.several.len()
    }

    pub(crate) fn evicted(&self) -> u64 {
        self.one.evicted() + self.several.evicted()
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    #[test]
    fn an_address_has_the_shards_that_were_learned_and_not_forgotten() {
        let (mut shards, now) = (DeviceShards::new(100), Instant::now());
        let flow = Flow { socket: 0, address: SocketAddr::from(([192, 0, 2, 1], 5683)) };
        let [a, b, c] = [1, 2, 3].map(Shard::new);
        for (is_learned, shard, expected) in [
            (true, a, &[a][..]),
            (true, a, &[a]),
            (true, b, &[a, b]),
            (true, c, &[a, b, c]),
            (false, a, &[b, c]),
            (false, a, &[b, c]),
            (false, c, &[b]),
            (true, a, &[a, b]),
            (false, a, &[b]),
            (false, b, &[]),
            (true, c, &[c]),
        ] {
            match is_learned {
                true => shards.insert(now, flow, shard),
                false => shards.remove(now, flow, shard),
            }
            let known: Vec<_> = [a, b, c].into_iter().filter(|shard| shards.has(now, flow, *shard)).collect();
            assert_eq!(known, expected);
            let several: Vec<_> = shards.several(now, flow).iter().flat_map(ShardSet::iter).collect();
            assert_eq!(several, if expected.len() > 1 { expected } else { &[] });
            assert_eq!(shards.contains(flow), !expected.is_empty());
            assert!(shards.get(now, flow).is_none_or(|shard| expected.contains(&shard)));
        }
    }
}
