//! Weighted rendezvous hashing: each node computes which nodes a shard prefers, and all of them come to the same order.
//!
//! A node that joins or leaves changes the place of its own share of the shards only.

use lwm2m_base::Shard;

use crate::engine::NodeEntry;
use crate::node::NodeNumber;

/// Returns the nodes that take shards, in the order in which this shard prefers them.
pub(crate) fn order(shard: Shard, nodes: impl IntoIterator<Item = NodeEntry>) -> Vec<NodeNumber> {
    let takers = nodes.into_iter().filter(|node| node.takes && node.weight > 0);
    let mut scores: Vec<_> =
        takers.map(|node| (score(shard, node.process.node, node.weight), node.process.node)).collect();
    scores.sort_by(|one, other| other.0.total_cmp(&one.0).then(one.1.cmp(&other.1)));
    scores.into_iter().map(|(_, node)| node).collect()
}

/// The share of a node is in proportion to its weight if the greatest -weight / ln(hash in (0, 1)) wins.
fn score(shard: Shard, node: NodeNumber, weight: u16) -> f64 {
    let hash = mix(u64::from(node.number()) << 8 | u64::from(shard.number()));
    let uniform = ((hash >> 12) as f64 + 0.5) / (1_u64 << 52) as f64;
    -f64::from(weight) / uniform.ln()
}

/// The finalizer of SplitMix64 (Steele, Lea and Flood 2014), over its increment. All versions of the program have to
/// agree on it.
fn mix(number: u64) -> u64 {
    let mut bits = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::{Incarnation, NodeProcess};

    fn nodes(weights: &[u16]) -> Vec<NodeEntry> {
        let entry = |(number, &weight): (usize, &u16)| NodeEntry {
            process: NodeProcess { node: NodeNumber::try_from(number as u64).unwrap(), incarnation: Incarnation(1) },
            weight,
            takes: true,
        };
        weights.iter().enumerate().map(entry).collect()
    }

    fn owners(nodes: &[NodeEntry]) -> Vec<NodeNumber> {
        Shard::all().filter_map(|shard| order(shard, nodes.iter().copied()).first().copied()).collect()
    }

    #[test]
    fn shares_follow_the_weights() {
        let owners = owners(&nodes(&[1, 1, 2]));
        let share = |number| owners.iter().filter(|node| node.number() == number).count();

        assert!((45..=85).contains(&share(0)), "{}", share(0));
        assert!((45..=85).contains(&share(1)), "{}", share(1));
        assert!((100..=155).contains(&share(2)), "{}", share(2));
    }

    #[test]
    fn a_node_that_drains_loses_its_shards_and_no_other_shard_moves() {
        let mut nodes = nodes(&[1, 1, 1]);
        let before = owners(&nodes);
        nodes[1].takes = false;
        let after = owners(&nodes);

        for (before, after) in before.into_iter().zip(after) {
            assert!(after != nodes[1].process.node);
            assert!(before == after || before == nodes[1].process.node);
        }
    }

    #[test]
    fn the_order_of_the_list_does_not_matter() {
        let nodes = nodes(&[3, 1, 2]);
        for shard in Shard::all() {
            assert_eq!(order(shard, nodes.iter().copied()), order(shard, nodes.iter().rev().copied()));
        }
    }
}
