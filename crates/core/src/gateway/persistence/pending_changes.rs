//! The endpoints whose changes the store does not have yet.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use lwm2m_base::Shard;

/// The endpoints whose stored record is out of date, each once, in the order of their first mark.
#[derive(Debug, Default)]
pub(in crate::gateway) struct PendingChanges {
    /// Whether marks are kept, because there is a store.
    kept: bool,
    marked: HashSet<Arc<str>>,
    order: VecDeque<Arc<str>>,
    /// The shards in which registrations that have left are stored.
    left: HashMap<Arc<str>, Shard>,
}

impl PendingChanges {
    /// Keeps the marks from now on. Before this call there is no store, and marks are ignored.
    pub(in crate::gateway) fn keep(&mut self) {
        self.kept = true;
    }

    pub(in crate::gateway) fn mark(&mut self, endpoint: &str) {
        if self.kept && !self.marked.contains(endpoint) {
            let endpoint: Arc<str> = endpoint.into();
            self.marked.insert(Arc::clone(&endpoint));
            self.order.push_back(endpoint);
        }
    }

    /// Marks an endpoint whose registration has left, and whose record the store has in this shard.
    pub(crate) fn mark_left(&mut self, endpoint: &str, stored_in: Option<Shard>) {
        self.mark(endpoint);
        if let (Some(shard), Some(endpoint)) = (stored_in, self.marked.get(endpoint)) {
            self.left.insert(Arc::clone(endpoint), shard);
        }
    }

    /// Returns the shard in which the store has the record of a registration of this endpoint that has left.
    pub(super) fn take_left(&mut self, endpoint: &str) -> Option<Shard> {
        self.left.remove(endpoint)
    }

    /// Forgets the records of a shard that another gateway has now, so that none of them is removed.
    pub(in crate::gateway) fn forget_shard(&mut self, shard: Shard) {
        self.left.retain(|_, stored_in| *stored_in != shard);
    }

    /// Takes the endpoint that was marked first.
    pub(in crate::gateway) fn take(&mut self) -> Option<Arc<str>> {
        // Endpoints that were taken out of turn are still in the order.
        std::iter::from_fn(|| self.order.pop_front()).find(|endpoint| self.marked.remove(endpoint))
    }

    /// Takes this endpoint out of turn. Returns whether it was marked.
    pub(crate) fn take_one(&mut self, endpoint: &str) -> bool {
        let was_marked = self.marked.remove(endpoint);
        if self.marked.is_empty() {
            self.order.clear();
        }
        was_marked
    }

    pub(crate) fn is_marked(&self, endpoint: &str) -> bool {
        self.marked.contains(endpoint)
    }

    pub(in crate::gateway) fn is_empty(&self) -> bool {
        self.marked.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_taken_once_however_often_it_was_marked() {
        let mut changes = PendingChanges::default();
        changes.keep();
        ["a", "b", "a"].into_iter().for_each(|endpoint| changes.mark(endpoint));
        assert_eq!(std::iter::from_fn(|| changes.take()).collect::<Vec<_>>(), ["a".into(), "b".into()]);
        assert!(changes.is_empty());
        changes.mark("a");
        assert_eq!(changes.take().as_deref(), Some("a"), "it changed again");
    }

    #[test]
    fn an_endpoint_that_was_taken_out_of_turn_is_taken_again_only_if_it_is_marked_again() {
        let mut changes = PendingChanges::default();
        changes.keep();
        ["a", "b", "c"].into_iter().for_each(|endpoint| changes.mark(endpoint));
        assert!(changes.take_one("b") && !changes.take_one("b"));
        changes.mark("b");
        assert_eq!(std::iter::from_fn(|| changes.take()).collect::<Vec<_>>(), ["a".into(), "b".into(), "c".into()]);
        assert!(changes.is_empty() && changes.take().is_none());
    }

    #[test]
    fn of_a_shard_that_is_another_gateways_no_record_is_removed() {
        let mut changes = PendingChanges::default();
        changes.keep();
        changes.mark_left("a", Some(Shard::new(1)));
        changes.mark_left("b", Some(Shard::new(2)));
        changes.forget_shard(Shard::new(1));
        assert_eq!((changes.take_left("a"), changes.take_left("b")), (None, Some(Shard::new(2))));
    }

    #[test]
    fn without_a_store_nothing_is_marked() {
        let mut changes = PendingChanges::default();
        changes.mark("a");
        assert!(changes.is_empty() && changes.take().is_none());
    }
}
