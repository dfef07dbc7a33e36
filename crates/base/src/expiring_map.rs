//! A map whose entries expire, with a bound on their number.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::time::Instant;

use crate::sparse::ShrinkSparse;

/// Holds at most a fixed number of entries, each until its time. A new entry in a full map evicts the entry that
/// expires first; of several that expire at one moment, the one that was inserted first.
#[derive(Debug)]
pub struct ExpiringMap<K, V> {
    entries: HashMap<K, ExpiringEntry<V>>,
    by_expiry: BTreeMap<Expiry, K>,
    last_serial: u64,
    most: usize,
}

/// The place of an entry in the order in which entries expire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Expiry {
    at: Instant,
    serial: u64,
}

#[derive(Debug)]
struct ExpiringEntry<V> {
    expiry: Expiry,
    value: V,
}

impl<K: Clone + Eq + Hash, V> ExpiringMap<K, V> {
    /// Makes an empty map with room for so many entries. A map without room keeps nothing.
    pub fn new(most: usize) -> Self {
        Self { entries: HashMap::new(), by_expiry: BTreeMap::new(), last_serial: 0, most }
    }

    /// Adds an entry that expires at this time, in place of the one of this key. Returns the entry of another key that
    /// had to be evicted for it.
    pub fn insert(&mut self, key: K, expires: Instant, value: V) -> Option<(K, V)> {
        self.remove(&key);
        if self.most == 0 {
            return Some((key, value));
        }
        let evicted = if self.entries.len() >= self.most { self.pop_first() } else { None };
        self.last_serial += 1;
        let expiry = Expiry { at: expires, serial: self.last_serial };
        self.by_expiry.insert(expiry, key.clone());
        self.entries.insert(key, ExpiringEntry { expiry, value });
        evicted
    }

    pub fn remove<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let ExpiringEntry { expiry, value } = self.entries.remove(key)?;
        self.entries.shrink_sparse();
        self.by_expiry.remove(&expiry);
        Some(value)
    }

    /// Takes out one entry whose time has come, the earliest first.
    pub fn pop_expired(&mut self, now: Instant) -> Option<(K, V)> {
        self.next_expiry().filter(|at| *at <= now)?;
        self.pop_first()
    }

    /// Removes all entries whose time has come.
    pub fn remove_expired(&mut self, now: Instant) {
        while self.pop_expired(now).is_some() {}
    }

    pub fn clear(&mut self) {
        self.entries.clear();
        self.by_expiry.clear();
    }

    /// Returns the value of this key, whose time may have come: it is there until it is removed.
    pub fn get_mut<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        self.entries.get_mut(key).map(|entry| &mut entry.value)
    }

    /// Returns the value of this key unless its time has come.
    pub fn get<Q: Eq + Hash + ?Sized>(&self, now: Instant, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.entries.get(key).filter(|entry| entry.expiry.at > now).map(|entry| &entry.value)
    }

    /// Returns when the first entry expires.
    pub fn next_expiry(&self) -> Option<Instant> {
        self.by_expiry.first_key_value().map(|(expiry, _)| expiry.at)
    }

    /// Returns the keys of all entries, also of those whose time has come, in the order in which they expire.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.by_expiry.values()
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn pop_first(&mut self) -> Option<(K, V)> {
        let (_, key) = self.by_expiry.pop_first()?;
        let (key, entry) = self.entries.remove_entry(&key)?;
        self.entries.shrink_sparse();
        Some((key, entry.value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn clock() -> impl Fn(u64) -> Instant {
        let start = Instant::now();
        move |seconds| start + Duration::from_secs(seconds)
    }

    #[test]
    fn an_entry_is_there_until_its_time() {
        let (at, mut map) = (clock(), ExpiringMap::new(9));
        map.insert("a", at(5), 1);
        map.insert("b", at(3), 2);
        assert_eq!((map.get(at(2), "b"), map.get(at(3), "b")), (Some(&2), None));
        assert_eq!(map.next_expiry(), Some(at(3)));
        assert_eq!(map.pop_expired(at(2)), None);
        assert_eq!(map.pop_expired(at(9)), Some(("b", 2)));
        map.remove_expired(at(9));
        assert!(map.is_empty() && map.next_expiry().is_none());
    }

    #[test]
    fn a_full_map_evicts_what_expires_first_and_of_one_moment_the_oldest() {
        let (at, mut map) = (clock(), ExpiringMap::new(3));
        for (key, time) in [("z", 5), ("a", 5), ("late", 9)] {
            assert_eq!(map.insert(key, at(time), ()), None);
        }
        assert_eq!(map.insert("b", at(5), ()), Some(("z", ())));
        assert_eq!(map.insert("early", at(1), ()), Some(("a", ())));
        assert_eq!(map.insert("c", at(7), ()), Some(("early", ())));
        assert_eq!(map.len(), 3);
    }

    #[test]
    fn an_entry_that_is_replaced_has_the_newer_value_and_time_and_evicts_nothing() {
        let (at, mut map) = (clock(), ExpiringMap::new(1));
        map.insert("a", at(1), 1);
        assert_eq!(map.insert("a", at(5), 2), None);
        assert_eq!(map.pop_expired(at(1)), None);
        assert_eq!(map.get(at(1), "a"), Some(&2));
        assert_eq!((map.remove("a"), map.remove("a"), map.by_expiry.len()), (Some(2), None, 0));
    }

    #[test]
    fn a_map_without_room_keeps_nothing() {
        let (at, mut map) = (clock(), ExpiringMap::new(0));
        assert_eq!(map.insert("a", at(1), 1), Some(("a", 1)));
        assert!(map.is_empty());
    }
}
