//! An ordered set of deadlines: one for each key.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, Hash, RandomState};
use std::time::Instant;

use crate::sparse::ShrinkSparse;

#[derive(Debug)]
pub struct Deadlines<K, S = RandomState> {
    ordered: BTreeSet<(Instant, K)>,
    by_key: HashMap<K, Instant, S>,
}

/// Deadlines of keys that this program counts up. As with [`IdMap`](crate::id_map::IdMap) a fast hash function is
/// enough.
pub type IdDeadlines<K> = Deadlines<K, foldhash::fast::RandomState>;

impl<K, S: Default> Default for Deadlines<K, S> {
    fn default() -> Self {
        Self { ordered: BTreeSet::new(), by_key: HashMap::default() }
    }
}

impl<K: Copy + Ord + Hash, S: BuildHasher> Deadlines<K, S> {
    /// Sets the deadline of `key`, in place of the one that it had.
    pub fn set(&mut self, key: K, at: Instant) {
        match self.by_key.insert(key, at) {
            Some(former) if former == at => return,
            Some(former) => {
                self.ordered.remove(&(former, key));
            }
            None => {}
        }
        self.ordered.insert((at, key));
    }

    /// Returns the deadline of `key`.
    pub fn get(&self, key: K) -> Option<Instant> {
        self.by_key.get(&key).copied()
    }

    pub fn cancel(&mut self, key: K) {
        if let Some(at) = self.by_key.remove(&key) {
            self.ordered.remove(&(at, key));
            self.by_key.shrink_sparse();
        }
    }

    /// Removes and returns a key whose deadline is not after `now`, the earliest first.
    pub fn pop_expired(&mut self, now: Instant) -> Option<K> {
        self.ordered.first().filter(|(at, _)| *at <= now)?;
        let (_, key) = self.ordered.pop_first()?;
        self.by_key.remove(&key);
        self.by_key.shrink_sparse();
        Some(key)
    }

    pub fn next(&self) -> Option<Instant> {
        self.first().map(|(at, _)| at)
    }

    /// Returns the earliest deadline and its key.
    pub fn first(&self) -> Option<(Instant, K)> {
        self.ordered.first().copied()
    }

    /// Returns every key, the one with the earliest deadline first.
    pub fn keys(&self) -> impl Iterator<Item = K> {
        self.ordered.iter().map(|(_, key)| *key)
    }

    pub fn len(&self) -> usize {
        self.ordered.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ordered.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn keys_come_out_in_the_order_of_their_last_deadline_and_only_once() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut deadlines = Deadlines::<char>::default();
        deadlines.set('a', after(1));
        deadlines.set('b', after(2));
        deadlines.set('c', after(3));
        deadlines.set('a', after(4));
        deadlines.cancel('c');

        assert_eq!(deadlines.next(), Some(after(2)));
        assert_eq!(deadlines.pop_expired(after(1)), None);
        assert_eq!(deadlines.pop_expired(after(9)), Some('b'));
        assert_eq!(deadlines.pop_expired(after(9)), Some('a'));
        assert_eq!(deadlines.pop_expired(after(9)), None);
        assert!(deadlines.is_empty());
    }
}
