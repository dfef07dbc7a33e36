//! The nodes that have the shards, as far as a node knows.

use lwm2m_base::{Shard, ShardSet};
use lwm2m_cluster::NodeNumber;

/// Maps each shard to the node that has it. It is a hint: the node that is asked knows whether it has the shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardMap {
    owners: [Option<NodeNumber>; Shard::COUNT],
    /// The shards that this node has handed over to their owner, which may not know that yet.
    given: ShardSet,
}

impl ShardMap {
    /// Returns the node that has a shard; `None` if it is not known.
    pub fn owner(&self, shard: Shard) -> Option<NodeNumber> {
        self.owners[usize::from(shard)]
    }

    pub fn set_owner(&mut self, shard: Shard, owner: Option<NodeNumber>) {
        self.owners[usize::from(shard)] = owner;
        self.given.remove(shard);
    }

    /// Notes that this node has handed a shard over.
    pub fn give(&mut self, shard: Shard, to: NodeNumber) {
        self.set_owner(shard, Some(to));
        self.given.insert(shard);
    }

    /// Returns whether this node has handed the shard over to its owner.
    pub(crate) fn is_given(&self, shard: Shard) -> bool {
        self.given.contains(shard)
    }
}

impl Default for ShardMap {
    /// Returns the map of a node that knows no owner.
    fn default() -> Self {
        Self { owners: [None; Shard::COUNT], given: ShardSet::EMPTY }
    }
}

impl FromIterator<(Shard, NodeNumber)> for ShardMap {
    fn from_iter<I: IntoIterator<Item = (Shard, NodeNumber)>>(owners: I) -> Self {
        let mut map = Self::default();
        owners.into_iter().for_each(|(shard, owner)| map.set_owner(shard, Some(owner)));
        map
    }
}
