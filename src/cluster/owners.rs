//! The owners of shards, as the list of leases tells them and as this node knows better.
//!
//! The list is read with each round. It may be older than a move of a shard of which this node knows by itself, because
//! the answer was on its way meanwhile. Who believed it would send the datagrams of a shard that comes back to the node
//! that has just handed it over.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use lwm2m_base::Shard;
use lwm2m_cluster::NodeNumber;
use lwm2m_router::ShardMap;

/// The time after a handover for which the list may not show the next owner: it has to acquire the shard.
const HANDED_OVER: Duration = Duration::from_secs(5);

/// The moves of shards that a list of leases may not show yet.
#[derive(Debug)]
pub(super) struct RecentMoves {
    node: NodeNumber,
    /// The shards that this node has handed over: to which node, and when.
    given: HashMap<Shard, (NodeNumber, Instant)>,
    /// The shards that come to this node, and when it learned that.
    coming: HashMap<Shard, Instant>,
}

impl RecentMoves {
    pub(super) fn new(node: NodeNumber) -> Self {
        Self { node, given: HashMap::new(), coming: HashMap::new() }
    }

    /// Notes that this node has handed a shard over.
    pub(super) fn given(&mut self, now: Instant, shard: Shard, to: NodeNumber) {
        self.coming.remove(&shard);
        self.given.insert(shard, (to, now));
    }

    /// Notes that the last owner of a shard has released it for this node, or that this node has acquired it.
    pub(super) fn comes(&mut self, now: Instant, shard: Shard) {
        self.given.remove(&shard);
        self.coming.insert(shard, now);
    }

    /// Corrects the owners of a list that was asked for at this time. `holds` tells which shards the node holds.
    pub(super) fn correct(
        &mut self,
        now: Instant,
        asked: Instant,
        owners: &mut ShardMap,
        holds: impl Fn(Shard) -> bool,
    ) {
        self.given.retain(|_, (_, at)| now.saturating_duration_since(*at) < HANDED_OVER);
        for (&shard, &(to, _)) in &self.given {
            let is_of_another = owners.owner(shard).is_some_and(|owner| owner != self.node && owner != to);
            if !is_of_another && !holds(shard) {
                owners.give(shard, to);
            }
        }
        // A list that was asked for after the last owner released the shard does not show that owner.
        self.coming.retain(|_, since| asked < *since);
        for &shard in self.coming.keys() {
            owners.set_owner(shard, Some(self.node));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::monotonic_now;

    const SHARD: Shard = Shard::new(3);
    const SECOND: Duration = Duration::from_secs(1);

    fn node(number: u64) -> NodeNumber {
        NodeNumber::try_from(number).expect("7 bits")
    }

    /// The owner that the node 1 takes from a list that shows this one.
    fn corrected(moves: &mut RecentMoves, (now, asked): (Instant, Instant), listed: Option<NodeNumber>) -> ShardMap {
        let mut owners = ShardMap::default();
        owners.set_owner(SHARD, listed);
        moves.correct(now, asked, &mut owners, |_| false);
        owners
    }

    #[test]
    fn a_list_from_before_a_shard_was_released_for_this_node_does_not_lead_back_to_the_last_owner() {
        let (mut moves, told) = (RecentMoves::new(node(1)), monotonic_now() + SECOND);
        moves.comes(told, SHARD);
        let late = corrected(&mut moves, (told + SECOND, told - SECOND), Some(node(0)));
        assert_eq!(late.owner(SHARD), Some(node(1)));
        let newer = corrected(&mut moves, (told + SECOND, told), Some(node(2)));
        assert_eq!(newer.owner(SHARD), Some(node(2)), "another node has acquired it");
        let next = corrected(&mut moves, (told + SECOND, told - SECOND), Some(node(0)));
        assert_eq!(next.owner(SHARD), Some(node(0)), "nothing is remembered for longer");
    }

    #[test]
    fn a_list_that_still_shows_this_node_leads_to_the_node_to_which_the_shard_was_handed_over() {
        let (mut moves, at) = (RecentMoves::new(node(1)), monotonic_now());
        moves.given(at, SHARD, node(2));
        let listed = Some(node(1));
        let mut given = ShardMap::default();
        given.give(SHARD, node(2));
        for listed in [listed, None, Some(node(2))] {
            assert_eq!(corrected(&mut moves, (at + SECOND, at), listed), given);
        }
        assert_eq!(corrected(&mut moves, (at + SECOND, at), Some(node(3))).owner(SHARD), Some(node(3)));
        let mut owners = ShardMap::default();
        owners.set_owner(SHARD, listed);
        moves.correct(at + SECOND, at, &mut owners, |_| true);
        assert_eq!(owners.owner(SHARD), listed, "it has come back");
        assert_eq!(corrected(&mut moves, (at + HANDED_OVER, at), listed).owner(SHARD), listed);
        moves.given(at, SHARD, node(2));
        moves.comes(at, SHARD);
        assert_eq!(corrected(&mut moves, (at + SECOND, at), listed).owner(SHARD), listed, "it comes back");
    }
}
