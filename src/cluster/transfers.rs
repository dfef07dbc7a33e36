//! What becomes of a shard between its lease and the driver, without IO.
//!
//! 1. The records of a shard that the node has acquired are read, and then the driver serves it.
//! 2. A shard that has to be handed over while it is read is wound down at once: the driver has nothing of it. What is
//!    read is kept in case the shard is served after all.
//! 3. A shard that the node has lost is dropped by the driver. It is not read again before: batches of the driver may
//!    still have records of it, which the keeper of the store discards then.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use lwm2m_base::{Shard, ShardSet};
use lwm2m_cluster::{NodeNumber, Term};
use lwm2m_core::gateway::shards::ShardContents;
use lwm2m_router::ShardMap;

use super::ClusterCommand;
use crate::store::redis::shared::EngineAsk;

/// The time after a handover for which the store's list of leases may not show it.
const HANDED_OVER: Duration = Duration::from_secs(5);

/// The shards that the driver does not serve yet, or not any more.
pub(super) struct ShardTransfers {
    /// The shards that the driver was not told to serve yet.
    loading: HashMap<Shard, LoadingShard>,
    /// The shards that the driver was told to drop, and has not yet.
    dropping: ShardSet,
    /// The shards that were handed over lately: to which node, and when.
    handed_over: HashMap<Shard, (NodeNumber, Instant)>,
}

/// A shard whose records are being read.
struct LoadingShard {
    /// The newest term of the shard.
    term: Term,
    acquired: Instant,
    /// The records that were read while the shard is to be handed over. They are not served.
    unserved: Option<Box<ShardContents>>,
    is_handed_over: bool,
}

/// A shard whose records were read, for the driver.
#[derive(Debug)]
pub(super) struct ReadShard {
    pub serve: ClusterCommand,
    /// When the node acquired the shard.
    pub acquired: Instant,
}

/// What is done with a shard that is not handed over any more.
#[derive(Debug)]
pub(super) enum ResumedShard {
    /// The driver has it.
    AtDriver,
    /// Its records are being read.
    BeingRead,
    Read(ReadShard),
}

/// The request that a lost shard leads to.
#[derive(Debug)]
pub(super) enum DroppedShard {
    AtDriver(ClusterCommand),
    AtKeeper(EngineAsk),
    /// The driver is dropping it.
    AlreadyDropped,
}

impl ShardTransfers {
    pub(super) fn new() -> Self {
        Self { loading: HashMap::new(), dropping: ShardSet::EMPTY, handed_over: HashMap::new() }
    }

    /// Takes a shard that was acquired. Returns the request that reads it, unless that has to wait.
    pub(super) fn acquired(&mut self, now: Instant, shard: Shard, term: Term) -> Option<EngineAsk> {
        let loading = LoadingShard { term, acquired: now, unserved: None, is_handed_over: false };
        self.loading.insert(shard, loading);
        (!self.dropping.contains(shard)).then_some(EngineAsk::Load { shard, term })
    }

    /// Takes a newer term of a shard. Returns the command for the driver if that has the shard.
    pub(super) fn use_term(&mut self, shard: Shard, term: Term) -> Option<ClusterCommand> {
        match self.loading.get_mut(&shard) {
            Some(loading) => {
                loading.term = term;
                None
            }
            None => Some(ClusterCommand::UseTerm { shard, term }),
        }
    }

    /// Takes the records of a shard. Returns what the driver serves; `None` if the shard was lost meanwhile, or is to be
    /// handed over.
    pub(super) fn read(&mut self, shard: Shard, contents: Box<ShardContents>) -> Option<ReadShard> {
        let loading = self.loading.get_mut(&shard)?;
        if loading.is_handed_over {
            loading.unserved = Some(contents);
            return None;
        }
        self.serve(shard, contents)
    }

    /// Begins to hand a shard over. Returns whether the driver has it; otherwise there is nothing to wind down.
    pub(super) fn hand_over(&mut self, shard: Shard) -> bool {
        let loading = self.loading.get_mut(&shard);
        loading.map(|loading| loading.is_handed_over = true).is_none()
    }

    /// Ends the handover of a shard, which stays here.
    pub(super) fn resume(&mut self, shard: Shard) -> ResumedShard {
        let Some(loading) = self.loading.get_mut(&shard) else { return ResumedShard::AtDriver };
        loading.is_handed_over = false;
        let contents = loading.unserved.take();
        contents.and_then(|contents| self.serve(shard, contents)).map_or(ResumedShard::BeingRead, ResumedShard::Read)
    }

    /// Takes a shard that the node does not have any more, with the node that it was handed over to.
    pub(super) fn drop_shard(&mut self, now: Instant, shard: Shard, to: Option<NodeNumber>) -> DroppedShard {
        if let Some(to) = to {
            self.handed_over.insert(shard, (to, now));
        }
        if self.loading.remove(&shard).is_none() {
            self.dropping.insert(shard);
            DroppedShard::AtDriver(ClusterCommand::Drop(shard))
        } else if self.dropping.contains(shard) {
            DroppedShard::AlreadyDropped
        } else {
            DroppedShard::AtKeeper(EngineAsk::Discard(shard))
        }
    }

    /// Notes that the driver has dropped a shard. Returns the requests that follow: the keeper discards what the driver
    /// has handed over of it, and confirms the batches of that. If the node has got the shard again, it is read now.
    pub(super) fn dropped(&mut self, shard: Shard) -> impl Iterator<Item = EngineAsk> {
        self.dropping.remove(shard);
        let again = self.loading.get(&shard).map(|loading| EngineAsk::Load { shard, term: loading.term });
        [EngineAsk::Discard(shard)].into_iter().chain(again)
    }

    /// Corrects the owners of shards of a round, which may be older than what this node has handed over since. `holds`
    /// tells whether the node has the lease of a shard.
    pub(super) fn correct(
        &mut self,
        now: Instant,
        node: NodeNumber,
        owners: &mut ShardMap,
        holds: impl Fn(Shard) -> bool,
    ) {
        self.handed_over.retain(|_, (_, at)| now.saturating_duration_since(*at) < HANDED_OVER);
        for (&shard, &(to, _)) in &self.handed_over {
            if owners.owner(shard) == Some(node) && !holds(shard) {
                owners.set_owner(shard, Some(to));
            }
        }
    }

    /// Returns the number of shards that are being read.
    pub(super) fn being_read(&self) -> usize {
        self.loading.len()
    }

    fn serve(&mut self, shard: Shard, contents: Box<ShardContents>) -> Option<ReadShard> {
        let LoadingShard { term, acquired, .. } = self.loading.remove(&shard)?;
        Some(ReadShard { serve: ClusterCommand::Serve { shard, term, contents }, acquired })
    }
}

#[cfg(test)]
mod tests {
    use lwm2m_testkit::scene::beginning as now;

    use super::*;

    const SHARD: Shard = Shard::new(7);

    fn term(number: u64) -> Term {
        Term::new(number)
    }

    fn node(number: u64) -> NodeNumber {
        NodeNumber::try_from(number).expect("7 bits")
    }

    fn acquired() -> ShardTransfers {
        let mut transfers = ShardTransfers::new();
        let asked = transfers.acquired(now(), SHARD, term(5));
        assert!(matches!(asked, Some(EngineAsk::Load { shard: SHARD, term: asked }) if asked == term(5)));
        transfers
    }

    fn at_driver() -> ShardTransfers {
        let mut transfers = acquired();
        assert!(transfers.read(SHARD, Box::default()).is_some());
        transfers
    }

    /// Returns the term in which the driver is told to serve the shard.
    fn served(read: Option<ReadShard>) -> Option<Term> {
        match read?.serve {
            ClusterCommand::Serve { shard: SHARD, term, .. } => Some(term),
            other => panic!("it is served, not {other:?}"),
        }
    }

    #[test]
    fn a_shard_is_served_in_its_newest_term_when_it_is_read() {
        let mut transfers = acquired();
        assert_eq!(transfers.being_read(), 1);
        assert!(transfers.use_term(SHARD, term(6)).is_none(), "the driver does not have it");
        assert_eq!(served(transfers.read(SHARD, Box::default())), Some(term(6)));
        assert_eq!(transfers.being_read(), 0);
        let command = transfers.use_term(SHARD, term(7));
        assert!(matches!(command, Some(ClusterCommand::UseTerm { shard: SHARD, term: newer }) if newer == term(7)));
        assert_eq!(served(transfers.read(SHARD, Box::default())), None, "it is served once");
    }

    #[test]
    fn a_shard_that_is_lost_while_it_is_read_is_never_served() {
        let mut transfers = acquired();
        let dropped = transfers.drop_shard(now(), SHARD, None);
        assert!(matches!(dropped, DroppedShard::AtKeeper(EngineAsk::Discard(SHARD))), "{dropped:?}");
        assert_eq!(served(transfers.read(SHARD, Box::default())), None);
    }

    #[test]
    fn a_shard_that_comes_back_is_read_after_the_driver_has_dropped_it() {
        let mut transfers = at_driver();
        let dropped = transfers.drop_shard(now(), SHARD, None);
        assert!(matches!(dropped, DroppedShard::AtDriver(ClusterCommand::Drop(SHARD))), "{dropped:?}");
        assert!(transfers.acquired(now(), SHARD, term(8)).is_none(), "batches may have records of it");
        let asks: Vec<_> = transfers.dropped(SHARD).collect();
        let is_read = matches!(asks[..], [EngineAsk::Discard(SHARD), EngineAsk::Load { shard: SHARD, term: read }]
            if read == term(8));
        assert!(is_read, "{asks:?}");
        assert_eq!(served(transfers.read(SHARD, Box::default())), Some(term(8)));
    }

    #[test]
    fn a_shard_that_is_lost_again_before_the_driver_has_dropped_it_is_discarded_once() {
        let mut transfers = at_driver();
        transfers.drop_shard(now(), SHARD, None);
        assert!(transfers.acquired(now(), SHARD, term(8)).is_none());
        let dropped = transfers.drop_shard(now(), SHARD, None);
        assert!(matches!(dropped, DroppedShard::AlreadyDropped), "{dropped:?}");
        let asks: Vec<_> = transfers.dropped(SHARD).collect();
        assert!(matches!(asks[..], [EngineAsk::Discard(SHARD)]), "{asks:?}");
    }

    #[test]
    fn what_is_read_of_a_shard_that_is_handed_over_is_served_only_if_it_stays() {
        let mut transfers = at_driver();
        assert!(transfers.hand_over(SHARD), "the driver winds it down");
        assert!(matches!(transfers.resume(SHARD), ResumedShard::AtDriver));

        let mut transfers = acquired();
        assert!(!transfers.hand_over(SHARD), "the driver has nothing of it");
        assert!(matches!(transfers.resume(SHARD), ResumedShard::BeingRead));
        assert!(!transfers.hand_over(SHARD));
        assert_eq!(served(transfers.read(SHARD, Box::default())), None);
        let ResumedShard::Read(read) = transfers.resume(SHARD) else { panic!("it was read") };
        assert_eq!(served(Some(read)), Some(term(5)));

        let mut transfers = acquired();
        assert!(!transfers.hand_over(SHARD));
        assert_eq!(served(transfers.read(SHARD, Box::default())), None);
        let dropped = transfers.drop_shard(now(), SHARD, Some(node(2)));
        assert!(matches!(dropped, DroppedShard::AtKeeper(EngineAsk::Discard(SHARD))), "{dropped:?}");
    }

    #[test]
    fn an_older_list_of_leases_does_not_hide_a_handover() {
        let (mut transfers, start) = (at_driver(), now());
        transfers.drop_shard(start, SHARD, Some(node(2)));
        let mut owner = |after: Duration, listed: u64, holds: bool| {
            let mut owners = ShardMap::default();
            owners.set_owner(SHARD, Some(node(listed)));
            transfers.correct(start + after, node(1), &mut owners, |_| holds);
            owners.owner(SHARD)
        };
        assert_eq!(owner(Duration::ZERO, 1, false), Some(node(2)));
        assert_eq!(owner(Duration::ZERO, 3, false), Some(node(3)), "another node has it by now");
        assert_eq!(owner(Duration::ZERO, 1, true), Some(node(1)), "this node has it again");
        assert_eq!(owner(HANDED_OVER, 1, false), Some(node(1)), "the list is newer");
    }
}
