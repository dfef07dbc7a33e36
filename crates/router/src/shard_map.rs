//! The nodes that have the shards, as far as a node knows.

use lwm2m_base::Shard;
use lwm2m_cluster::NodeNumber;

/// Maps each shard to the node that has it. It is a hint: the node that is asked knows whether it has the shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardMap([Option<NodeNumber>; Shard::COUNT]);

impl ShardMap {
    /// Returns the node that has a shard; `None` if it is not known.
    pub fn owner(&self, shard: Shard) -> Option<NodeNumber> {
        self.0[usize::from(shard)]
    }

    pub fn set_owner(&mut self, shard: Shard, owner: Option<NodeNumber>) {
        self.0[usize::from(shard)] = owner;
    }
}

impl Default for ShardMap {
    /// Returns the map of a node that knows no owner.
    fn default() -> Self {
        Self([None; Shard::COUNT])
    }
}

impl FromIterator<(Shard, NodeNumber)> for ShardMap {
    fn from_iter<I: IntoIterator<Item = (Shard, NodeNumber)>>(owners: I) -> Self {
        let mut map = Self::default();
        owners.into_iter().for_each(|(shard, owner)| map.set_owner(shard, Some(owner)));
        map
    }
}
