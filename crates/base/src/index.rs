//! An index that finds values by a key which their owner keeps.

use std::fmt;
use std::hash::{BuildHasher, Hash, RandomState};

use hashbrown::HashTable;

use crate::sparse::is_sparse;

/// Finds values, which are small ids, by a key that is not kept here: a table of keys of 60 bytes that is half full
/// would need 130 bytes for each. The caller says of a candidate whether it has the key; others with its digest are
/// improbable. Keys may be chosen by peers, since the digests have a secret. Several values may have one key.
pub struct Index<V> {
    /// Digests of keys, so that a table that grows asks nobody for them.
    values: HashTable<(u64, V)>,
    digests: RandomState,
}

impl<V> Default for Index<V> {
    fn default() -> Self {
        Self { values: HashTable::new(), digests: RandomState::new() }
    }
}

impl<V> fmt::Debug for Index<V> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Index").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl<V> Index<V> {
    /// Adds a value, also if another one has this key.
    pub fn insert(&mut self, key: &(impl Hash + ?Sized), value: V) {
        let digest = self.digests.hash_one(key);
        self.values.insert_unique(digest, (digest, value), |(digest, _)| *digest);
    }

    /// Returns the values that probably have this key.
    pub fn candidates(&self, key: &(impl Hash + ?Sized)) -> impl Iterator<Item = &V> {
        let digest = self.digests.hash_one(key);
        self.values.iter_hash(digest).filter(move |(own, _)| *own == digest).map(|(_, value)| value)
    }

    /// Returns a value of this key.
    pub fn get_mut(&mut self, key: &(impl Hash + ?Sized), mut has_key: impl FnMut(&V) -> bool) -> Option<&mut V> {
        let digest = self.digests.hash_one(key);
        self.values.find_mut(digest, |(own, value)| *own == digest && has_key(value)).map(|(_, value)| value)
    }

    /// Removes the value of this key that `is_it` recognises.
    pub fn remove(&mut self, key: &(impl Hash + ?Sized), mut is_it: impl FnMut(&V) -> bool) -> Option<V> {
        let digest = self.digests.hash_one(key);
        let found = self.values.find_entry(digest, |(own, value)| *own == digest && is_it(value)).ok()?;
        let ((_, value), _) = found.remove();
        if is_sparse(self.values.len(), self.values.capacity()) {
            self.values.shrink_to(2 * self.values.len(), |(digest, _)| *digest);
        }
        Some(value)
    }

    pub fn len(&self) -> usize {
        self.values.len()
    }

    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_the_key_of_their_owner_and_several_may_have_one() {
        let names = ["a", "b", "a"];
        let mut index = Index::default();
        names.iter().enumerate().for_each(|(place, name)| index.insert(*name, place));
        let found = |index: &Index<usize>, name: &str| {
            let mut found: Vec<_> = index.candidates(name).copied().filter(|place| names[*place] == name).collect();
            found.sort();
            found
        };
        assert_eq!((found(&index, "a"), found(&index, "b"), found(&index, "c")), (vec![0, 2], vec![1], vec![]));
        assert_eq!(index.remove("a", |place| *place == 2), Some(2));
        assert_eq!(index.remove("a", |place| *place == 2), None);
        assert_eq!((found(&index, "a"), index.len()), (vec![0], 2));
    }

    #[test]
    fn an_index_that_was_large_gives_its_memory_back() {
        let mut index = Index::default();
        (0..100_000).for_each(|number| index.insert(&number, number));
        (10..100_000).for_each(|number| assert_eq!(index.remove(&number, |own| *own == number), Some(number)));
        assert!(index.values.capacity() < 2_000, "{}", index.values.capacity());
        assert!((0..10).all(|number| index.candidates(&number).any(|own| *own == number)));
    }
}
