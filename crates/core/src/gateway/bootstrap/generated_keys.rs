//! Pre-shared keys that the bootstrap server generates for devices.
//!
//! 1. The first bootstrap of a device generates its key, which holds at once. Later ones give the same key again. A key
//!    is written to a device when the store has it: nothing else knows it after a crash.
//! 2. An account with `rotate` generates a next key. Both hold until the device has registered with the next one.
//! 3. The registration removes the former key, and ends the DTLS sessions that were made with it.
//! 4. When no account generates the key any more, it ends at once. It is kept for some time, so that a mistake in the
//!    accounts can be corrected, and then removed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rand::RngExt;
use rand::rngs::StdRng;

use crate::bootstrap::secret::SecretBytes;
use lwm2m_base::identity::PskIdentity;
use lwm2m_dtls::credentials::{FoundKey, KeyAnswer, KeyKind, KeyUse, PskKey};

use crate::gateway::persistence::change_batch::BatchNumber;
use crate::gateway::persistence::record::{Change, GeneratedKeyRecord, KeyPairRecord};

/// The bytes of a generated key.
const LENGTH: usize = 16;

/// The cache time of a key. The cache is cleared when a next key is generated, and when the former one ends.
const CACHE_TIME: Duration = Duration::from_secs(3600);

/// The time for which a key is kept that no account generates any more.
const KEPT_WITHDRAWN: Duration = Duration::from_secs(3600);

#[derive(Debug, Default)]
pub(in crate::gateway) struct GeneratedKeys {
    keys: BTreeMap<PskIdentity, GeneratedKey>,
    /// The keys that no account generates any more, by the time of their removal.
    withdrawn: BTreeSet<(Instant, PskIdentity)>,
    /// Whether there is a store.
    keeps_changes: bool,
    /// The identities whose record in the store is out of date.
    changes: BTreeSet<PskIdentity>,
    /// The identities whose record is in a batch that the store has not confirmed, with the newest batch.
    unconfirmed: BTreeMap<PskIdentity, BatchNumber>,
}

#[derive(Debug)]
struct GeneratedKey {
    key: SecretBytes,
    /// A key that the device has not registered with yet.
    next: Option<SecretBytes>,
    /// The time at which the key is removed, if no account generates it any more.
    removed_at: Option<Instant>,
}

impl GeneratedKey {
    fn new(key: SecretBytes, next: Option<SecretBytes>) -> Self {
        Self { key, next, removed_at: None }
    }
}

impl GeneratedKeys {
    /// Keeps what changes from now on for [`GeneratedKeys::take_changes`].
    pub(crate) fn keep_changes(&mut self) {
        self.keeps_changes = true;
    }

    /// Marks every key as changed.
    pub(crate) fn change_all(&mut self) {
        if self.keeps_changes {
            self.changes.extend(self.keys.keys().cloned());
        }
    }

    pub(crate) fn restore(&mut self, records: Vec<GeneratedKeyRecord>) {
        for GeneratedKeyRecord { identity, keys } in records {
            if let Some(KeyPairRecord { key, next }) = keys {
                self.keys.insert(identity, GeneratedKey::new(key, next));
            }
        }
    }

    /// Returns the key for a device, which is generated if there is none; `None` if there are `most` keys already.
    pub(crate) fn issue(
        &mut self,
        identity: &PskIdentity,
        rotate: bool,
        most: usize,
        rng: &mut StdRng,
    ) -> Option<SecretBytes> {
        let mut generate = || SecretBytes::new(rng.random::<[u8; LENGTH]>());
        if !self.keys.contains_key(identity) {
            if self.keys.len() >= most && !self.remove_withdrawn() {
                return None;
            }
            let key = generate();
            self.keys.insert(identity.clone(), GeneratedKey::new(key.clone(), None));
            self.changed(identity);
            return Some(key);
        }
        self.restore_withdrawn(identity);
        let known = self.keys.get_mut(identity)?;
        match &known.next {
            Some(next) => Some(next.clone()),
            None if rotate => {
                let key = generate();
                known.next = Some(key.clone());
                self.changed(identity);
                Some(key)
            }
            None => Some(known.key.clone()),
        }
    }

    /// Returns the key of this identity, and the former one while it is valid; `None` if none was generated.
    pub(crate) fn answer(&self, identity: &PskIdentity) -> Option<KeyAnswer> {
        let known = self.in_force(identity)?;
        let current = PskKey::new(known.key.reveal())?;
        let (key, former) = match &known.next {
            Some(next) => (PskKey::new(next.reveal())?, Some(current)),
            None => (current, None),
        };
        Some(KeyAnswer::Found { key: FoundKey { key, former, kind: KeyKind::Generated }, keep_for: CACHE_TIME })
    }

    /// Notes that a device has registered over an association that was made with this key. If it is the next key, the
    /// former one ends; returns whether that is so.
    pub(crate) fn registered(&mut self, used: KeyUse<'_>) -> bool {
        let Some(known) = self.keys.get_mut(used.identity) else { return false };
        let is_of_next = |next: &mut SecretBytes| is_of(used, next) == Some(true);
        let Some(next) = known.next.take_if(is_of_next) else { return false };
        known.key = next;
        self.changed(used.identity);
        true
    }

    /// Returns whether an association was made with a generated key that is no longer valid.
    pub(crate) fn is_former(&self, used: KeyUse<'_>) -> bool {
        let is_known = |known: &GeneratedKey| {
            let mut keys = [Some(&known.key), known.next.as_ref()].into_iter().flatten();
            // The record of an association of an earlier version does not contain the kind of its key.
            keys.any(|key| is_of(used, key) != Some(false))
        };
        used.kind == KeyKind::Generated && !self.in_force(used.identity).is_some_and(is_known)
    }

    /// Compares a key with the accounts. `is_generated` is whether an account generates it. Returns whether the key
    /// ends with that.
    pub(crate) fn review(&mut self, now: Instant, identity: &PskIdentity, is_generated: bool) -> bool {
        if is_generated {
            self.restore_withdrawn(identity);
            return false;
        }
        let Some(known) = self.keys.get_mut(identity).filter(|known| known.removed_at.is_none()) else { return false };
        let at = now + KEPT_WITHDRAWN;
        known.removed_at = Some(at);
        self.withdrawn.insert((at, identity.clone()))
    }

    /// Removes a key, and returns whether there was one.
    pub(crate) fn remove(&mut self, identity: &PskIdentity) -> bool {
        let Some(GeneratedKey { removed_at, .. }) = self.keys.remove(identity) else { return false };
        if let Some(at) = removed_at {
            self.withdrawn.remove(&(at, identity.clone()));
        }
        self.changed(identity);
        true
    }

    /// Removes the keys that no account has generated for long enough.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        while self.next_deadline().is_some_and(|at| at <= now) {
            self.remove_withdrawn();
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.withdrawn.first().map(|(at, _)| *at)
    }

    /// Returns all identities that have a key, also those whose key no account generates any more.
    pub(crate) fn identities(&self) -> impl Iterator<Item = &PskIdentity> {
        self.keys.keys()
    }

    /// Returns whether an identity has a valid key.
    pub(crate) fn contains(&self, identity: &PskIdentity) -> bool {
        self.in_force(identity).is_some()
    }

    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Returns whether the store has the current key of an identity. Without a store this is always true.
    pub(crate) fn is_stored(&self, identity: &PskIdentity) -> bool {
        !self.changes.contains(identity) && !self.unconfirmed.contains_key(identity)
    }

    pub(crate) fn has_changes(&self) -> bool {
        !self.changes.is_empty()
    }

    /// Returns at most so many records that have changed, for this batch.
    pub(crate) fn take_changes(&mut self, batch: BatchNumber, most: usize) -> Vec<Change> {
        let mut changes = Vec::new();
        while changes.len() < most
            && let Some(identity) = self.changes.pop_first()
        {
            self.unconfirmed.insert(identity.clone(), batch);
            let pair = |known: &GeneratedKey| KeyPairRecord { key: known.key.clone(), next: known.next.clone() };
            let keys = self.keys.get(&identity).map(pair);
            changes.push(Change::GeneratedKey(GeneratedKeyRecord { identity, keys }));
        }
        changes
    }

    /// Takes the confirmation of a batch and of all before it. Returns whether keys were in them.
    pub(crate) fn handle_stored(&mut self, batch: BatchNumber) -> bool {
        let before = self.unconfirmed.len();
        self.unconfirmed.retain(|_, waits_for| *waits_for > batch);
        self.unconfirmed.len() < before
    }

    fn in_force(&self, identity: &PskIdentity) -> Option<&GeneratedKey> {
        self.keys.get(identity).filter(|known| known.removed_at.is_none())
    }

    fn restore_withdrawn(&mut self, identity: &PskIdentity) {
        if let Some(at) = self.keys.get_mut(identity).and_then(|known| known.removed_at.take()) {
            self.withdrawn.remove(&(at, identity.clone()));
        }
    }

    /// Removes the key that no account has generated for the longest time, and returns whether there was one.
    fn remove_withdrawn(&mut self) -> bool {
        let Some((_, identity)) = self.withdrawn.pop_first() else { return false };
        self.keys.remove(&identity);
        self.changed(&identity);
        true
    }

    fn changed(&mut self, identity: &PskIdentity) {
        if self.keeps_changes {
            self.changes.insert(identity.clone());
        }
    }
}

/// Returns whether this key made an association; `None` if that is unknown.
fn is_of(used: KeyUse<'_>, secret: &SecretBytes) -> Option<bool> {
    used.is_of(&PskKey::new(secret.reveal())?)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn identity(name: &str) -> PskIdentity {
        PskIdentity::new(name.as_bytes()).unwrap()
    }

    /// Returns the key of the identity `a`, and the former one.
    fn held(keys: &GeneratedKeys) -> (Vec<u8>, Option<Vec<u8>>) {
        match keys.answer(&identity("a")) {
            Some(KeyAnswer::Found { key: FoundKey { key, former, kind: KeyKind::Generated }, .. }) => {
                (key.reveal().to_vec(), former.map(|former| former.reveal().to_vec()))
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_device_is_given_the_same_key_again_and_another_device_another_one() {
        let (mut keys, mut rng) = (GeneratedKeys::default(), StdRng::from_seed([7; 32]));
        let first = keys.issue(&identity("a"), false, 2, &mut rng).unwrap();
        assert_eq!(first.reveal().len(), 16);
        assert_eq!(keys.issue(&identity("a"), false, 2, &mut rng), Some(first.clone()));
        assert_ne!(keys.issue(&identity("b"), false, 2, &mut rng), Some(first.clone()));
        assert_eq!(keys.issue(&identity("c"), false, 2, &mut rng), None, "there are two already");
        assert_eq!(held(&keys), (first.reveal().to_vec(), None));
        assert_eq!(keys.answer(&identity("c")), None);
    }

    #[test]
    fn a_rotated_key_and_the_former_one_hold_until_the_device_has_registered_with_the_new_one() {
        let (mut keys, mut rng) = (GeneratedKeys::default(), StdRng::from_seed([7; 32]));
        keys.keep_changes();
        let former = keys.issue(&identity("a"), true, 9, &mut rng).unwrap();
        let next = keys.issue(&identity("a"), true, 9, &mut rng).unwrap();
        assert_ne!(former, next);
        assert_eq!(keys.issue(&identity("a"), true, 9, &mut rng), Some(next.clone()), "it was not used yet");
        let both = (next.reveal().to_vec(), Some(former.reveal().to_vec()));
        assert_eq!(held(&keys), both);

        let name = identity("a");
        let [of_former, of_next] = [&former, &next].map(|key| PskKey::new(key.reveal()).unwrap());
        let used = |key| KeyUse::of_handshake(&name, KeyKind::Generated, key);
        assert!(!keys.registered(used(&of_former)), "it is the former key");
        let pair = KeyPairRecord { key: former, next: Some(next.clone()) };
        let stored = GeneratedKeyRecord { identity: identity("a"), keys: Some(pair) };
        assert_eq!(keys.take_changes(BatchNumber::default(), 9), [Change::GeneratedKey(stored.clone())]);
        let mut restored = GeneratedKeys::default();
        restored.restore(vec![stored]);
        assert_eq!(held(&restored), both);

        assert!(!keys.is_former(used(&of_former)));
        assert!(keys.registered(used(&of_next)));
        assert!(keys.is_former(used(&of_former)));
        assert_eq!(held(&keys), (next.reveal().to_vec(), None));
        assert_eq!(keys.take_changes(BatchNumber::default(), 9).len(), 1);
        assert_ne!(keys.issue(&identity("a"), true, 9, &mut rng), Some(next), "each later bootstrap has a new one");
    }

    #[test]
    fn a_key_is_stored_when_the_newest_batch_with_it_is_confirmed() {
        let (mut keys, mut rng) = (GeneratedKeys::default(), StdRng::from_seed([7; 32]));
        keys.keep_changes();
        let (first, second) = (BatchNumber::default().next(), BatchNumber::default().next().next());
        keys.issue(&identity("a"), true, 9, &mut rng).unwrap();
        assert!(!keys.is_stored(&identity("a")));
        keys.take_changes(first, 9);
        keys.issue(&identity("a"), true, 9, &mut rng).unwrap();
        assert!(keys.handle_stored(first));
        assert!(!keys.is_stored(&identity("a")), "the next key is not in it");
        keys.take_changes(second, 9);
        assert!(!keys.handle_stored(first) && !keys.is_stored(&identity("a")));
        assert!(keys.handle_stored(second) && keys.is_stored(&identity("a")));
    }

    #[test]
    fn a_key_that_no_account_generates_ends_at_once_and_is_removed_later_unless_it_is_generated_again() {
        let (mut keys, mut rng) = (GeneratedKeys::default(), StdRng::from_seed([7; 32]));
        keys.keep_changes();
        let (now, name) = (Instant::now(), identity("a"));
        let key = keys.issue(&name, false, 1, &mut rng).unwrap();
        assert!(!keys.review(now, &name, true) && keys.contains(&name));
        assert!(keys.review(now, &name, false));
        assert!(!keys.review(now, &name, false), "it has ended already");
        assert!(!keys.contains(&name) && keys.answer(&name).is_none());
        keys.handle_timeout(now + KEPT_WITHDRAWN - Duration::from_secs(1));
        assert!(!keys.review(now, &name, true));
        assert_eq!(held(&keys), (key.reveal().to_vec(), None));
        assert_eq!(keys.next_deadline(), None);

        keys.review(now, &name, false);
        keys.take_changes(BatchNumber::default(), 9);
        keys.handle_timeout(now + KEPT_WITHDRAWN);
        assert_eq!(keys.len(), 0);
        let removed = GeneratedKeyRecord { identity: name.clone(), keys: None };
        assert_eq!(keys.take_changes(BatchNumber::default(), 9), [Change::GeneratedKey(removed)]);
        assert_ne!(keys.issue(&name, false, 1, &mut rng), Some(key));

        keys.review(now, &name, false);
        assert!(keys.issue(&identity("b"), false, 1, &mut rng).is_some(), "it takes the place of one that has ended");
        assert_eq!(keys.len(), 1);
    }
}
