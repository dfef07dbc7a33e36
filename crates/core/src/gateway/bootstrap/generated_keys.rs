//! Pre-shared keys that the bootstrap server generates for devices.
//!
//! 1. The first bootstrap of a device generates its key, which holds at once. Later ones give the same key again.
//! 2. An account with `rotate` generates a next key. Both hold until the device has registered with the next one.
//! 3. The registration removes the former key, and ends the DTLS sessions that were made with it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;

use crate::bootstrap::secret::SecretBytes;
use lwm2m_base::identity::PskIdentity;
use lwm2m_dtls::credentials::{FoundKey, KeyAnswer, KeyKind, KeyUse, PskKey};

use super::super::record::{Change, GeneratedKeyRecord};

/// The bytes of a generated key.
const LENGTH: usize = 16;

/// The cache time of a key. The cache is cleared when a next one is generated, and when the former one holds no longer.
const KEEP: Duration = Duration::from_secs(3600);

#[derive(Debug, Default)]
pub(in super::super) struct GeneratedKeys {
    keys: BTreeMap<PskIdentity, GeneratedKey>,
    /// Whether there is a store.
    keeps_changes: bool,
    /// The identities whose record in the store is out of date.
    changes: BTreeSet<PskIdentity>,
}

#[derive(Debug)]
struct GeneratedKey {
    key: SecretBytes,
    /// A key that the device has not registered with yet.
    next: Option<SecretBytes>,
}

impl GeneratedKeys {
    /// Keeps what changes from now on for [`GeneratedKeys::take_changes`].
    pub fn keep_changes(&mut self) {
        self.keeps_changes = true;
    }

    pub fn restore(&mut self, records: Vec<GeneratedKeyRecord>) {
        for GeneratedKeyRecord { identity, key, next } in records {
            self.keys.insert(identity, GeneratedKey { key, next });
        }
    }

    /// Returns the key that a device is given now, and generates it if it has to; `None` if there are `most` already.
    pub fn issue(
        &mut self,
        identity: &PskIdentity,
        rotate: bool,
        most: usize,
        rng: &mut StdRng,
    ) -> Option<SecretBytes> {
        let mut generate = || SecretBytes::new(rng.random::<[u8; LENGTH]>());
        if !self.keys.contains_key(identity) {
            if self.keys.len() >= most {
                return None;
            }
            let generated = GeneratedKey { key: generate(), next: None };
            let key = generated.key.clone();
            self.keys.insert(identity.clone(), generated);
            self.changed(identity);
            return Some(key);
        }
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

    /// Returns the key of this identity, and the former one while it holds; `None` if none was generated.
    pub fn answer(&self, identity: &PskIdentity) -> Option<KeyAnswer> {
        let known = self.keys.get(identity)?;
        let current = PskKey::new(known.key.reveal())?;
        let (key, former) = match &known.next {
            Some(next) => (PskKey::new(next.reveal())?, Some(current)),
            None => (current, None),
        };
        Some(KeyAnswer::Found { key: FoundKey { key, former, kind: KeyKind::Generated }, keep_for: KEEP })
    }

    /// Notes that a device has registered over an association that was made with this key. If it is the next key, the
    /// former one holds no longer; returns whether it is so.
    pub fn registered(&mut self, used: KeyUse<'_>) -> bool {
        let Some(known) = self.keys.get_mut(used.identity) else { return false };
        let is_of_next = |next: &mut SecretBytes| is_of(used, next) == Some(true);
        let Some(next) = known.next.take_if(is_of_next) else { return false };
        known.key = next;
        self.changed(used.identity);
        true
    }

    /// Returns whether an association was made with a generated key that holds no longer.
    pub fn is_former(&self, used: KeyUse<'_>) -> bool {
        let is_known = |known: &GeneratedKey| {
            let mut keys = [Some(&known.key), known.next.as_ref()].into_iter().flatten();
            // An association of an earlier version does not tell its key.
            keys.any(|key| is_of(used, key) != Some(false))
        };
        used.kind == KeyKind::Generated && !self.keys.get(used.identity).is_some_and(is_known)
    }

    pub fn contains(&self, identity: &PskIdentity) -> bool {
        self.keys.contains_key(identity)
    }

    pub fn len(&self) -> usize {
        self.keys.len()
    }

    pub fn has_changes(&self) -> bool {
        !self.changes.is_empty()
    }

    /// Returns at most so many records that have changed.
    pub fn take_changes(&mut self, most: usize) -> Vec<Change> {
        let mut changes = Vec::new();
        while changes.len() < most
            && let Some(identity) = self.changes.pop_first()
        {
            if let Some(GeneratedKey { key, next }) = self.keys.get(&identity) {
                let (key, next) = (key.clone(), next.clone());
                changes.push(Change::GeneratedKey(GeneratedKeyRecord { identity, key, next }));
            }
        }
        changes
    }

    fn changed(&mut self, identity: &PskIdentity) {
        if self.keeps_changes {
            self.changes.insert(identity.clone());
        }
    }
}

/// Returns whether a key in use is this one; `None` if it is not known.
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
        let stored = GeneratedKeyRecord { identity: identity("a"), key: former, next: Some(next.clone()) };
        assert_eq!(keys.take_changes(9), [Change::GeneratedKey(stored.clone())]);
        let mut restored = GeneratedKeys::default();
        restored.restore(vec![stored]);
        assert_eq!(held(&restored), both);

        assert!(!keys.is_former(used(&of_former)));
        assert!(keys.registered(used(&of_next)));
        assert!(keys.is_former(used(&of_former)));
        assert_eq!(held(&keys), (next.reveal().to_vec(), None));
        assert_eq!(keys.take_changes(9).len(), 1);
        assert_ne!(keys.issue(&identity("a"), true, 9, &mut rng), Some(next), "each later bootstrap has a new one");
    }
}
