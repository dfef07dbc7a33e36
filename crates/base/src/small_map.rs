//! A map that has few entries most of the time.

use std::borrow::Borrow;

/// Keeps its entries in one sorted list. A `BTreeMap` of one entry has the memory of eleven, and keeps it when the
/// entry leaves; this map has the memory of its entries, and none while it is empty. Each insertion moves the entries
/// behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SmallMap<K, V> {
    entries: Vec<(K, V)>,
}

impl<K, V> Default for SmallMap<K, V> {
    fn default() -> Self {
        Self { entries: Vec::new() }
    }
}

impl<K: Ord, V> SmallMap<K, V> {
    /// Sets the value of this key, and returns the one that it had.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        match self.place(&key) {
            Ok(place) => Some(std::mem::replace(&mut self.entries[place].1, value)),
            Err(place) => {
                if self.entries.is_empty() {
                    self.entries.reserve_exact(1);
                }
                self.entries.insert(place, (key, value));
                None
            }
        }
    }

    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let place = self.place(key).ok()?;
        Some(self.take(place).1)
    }

    /// Removes and returns the entry with the lowest key.
    pub fn pop_first(&mut self) -> Option<(K, V)> {
        (!self.is_empty()).then(|| self.take(0))
    }

    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.place(key).ok().map(|place| &self.entries[place].1)
    }

    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.place(key).is_ok()
    }

    /// Returns the keys in their order.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.entries.iter().map(|(key, _)| key)
    }

    /// Returns the values in the order of their keys.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.entries.iter().map(|(_, value)| value)
    }

    /// Returns the values in the order of their keys.
    pub fn into_values(self) -> impl Iterator<Item = V> {
        self.entries.into_iter().map(|(_, value)| value)
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn take(&mut self, place: usize) -> (K, V) {
        let entry = self.entries.remove(place);
        if self.entries.is_empty() {
            self.entries = Vec::new();
        }
        entry
    }

    /// Returns the index of the entry with this key, or the one at which it belongs.
    fn place<Q: Ord + ?Sized>(&self, key: &Q) -> Result<usize, usize>
    where
        K: Borrow<Q>,
    {
        self.entries.binary_search_by(|(other, _)| other.borrow().cmp(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_in_the_order_of_their_keys_and_each_key_has_its_last_value() {
        let mut map = SmallMap::default();
        for (key, value) in [(5, 'a'), (1, 'b'), (9, 'c'), (5, 'd')] {
            map.insert(key, value);
        }
        assert_eq!(map.keys().copied().collect::<Vec<_>>(), [1, 5, 9]);
        assert_eq!(map.values().copied().collect::<Vec<_>>(), ['b', 'd', 'c']);
        assert_eq!((map.get(&5), map.get(&6), map.contains_key(&9)), (Some(&'d'), None, true));
        assert_eq!((map.remove(&5), map.remove(&5)), (Some('d'), None));
        assert_eq!((map.pop_first(), map.len()), (Some((1, 'b')), 1));
    }

    #[test]
    fn an_empty_map_has_no_memory() {
        let mut map = SmallMap::default();
        map.insert(1, "one");
        assert_eq!(map.entries.capacity(), 1);
        assert_eq!(map.pop_first(), Some((1, "one")));
        assert_eq!((map.entries.capacity(), map.pop_first()), (0, None));
    }
}
