//! Pre-shared keys that the bootstrap server generates for devices.
//!
//! 1. The first bootstrap of a device generates its key, which holds at once. Later ones give the same key again.
//! 2. An account with `rotate` generates a next key. Both hold until the device has registered with the next one.
//! 3. The registration removes the former key.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;

use crate::bootstrap::secret::SecretBytes;
use lwm2m_base::AssociationId;
use lwm2m_base::identity::PskIdentity;
use lwm2m_dtls::credentials::{FoundKey, KeyAnswer, KeyKind, PskKey};

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
    next: Option<NextKey>,
}

/// A key that the device has not registered with yet.
#[derive(Debug)]
struct NextKey {
    key: SecretBytes,
    /// The newest association that was made with this key.
    association: Option<AssociationId>,
}

impl GeneratedKeys {
    /// Keeps what changes from now on for [`GeneratedKeys::take_changes`].
    pub fn keep_changes(&mut self) {
        self.keeps_changes = true;
    }

    pub fn restore(&mut self, records: Vec<GeneratedKeyRecord>) {
        for GeneratedKeyRecord { identity, key, next } in records {
            let next = next.map(|key| NextKey { key, association: None });
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
            Some(next) => Some(next.key.clone()),
            None if rotate => {
                let key = generate();
                known.next = Some(NextKey { key: key.clone(), association: None });
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
            Some(next) => (PskKey::new(next.key.reveal())?, Some(current)),
            None => (current, None),
        };
        Some(KeyAnswer::Found { key: FoundKey { key, former, kind: KeyKind::Generated }, keep_for: KEEP })
    }

    /// Notes that a handshake proved this key.
    pub fn proved(&mut self, identity: &PskIdentity, key: &PskKey, association: AssociationId) {
        let next = self.keys.get_mut(identity).and_then(|known| known.next.as_mut());
        if let Some(next) = next.filter(|next| next.key.reveal() == key.reveal()) {
            next.association = Some(association);
        }
    }

    /// Notes that a device has registered over this association. If the association was made with the next key, the former
    /// one holds no longer; returns whether it is so.
    pub fn registered(&mut self, identity: &PskIdentity, association: AssociationId) -> bool {
        let Some(known) = self.keys.get_mut(identity) else { return false };
        let Some(next) = known.next.take_if(|next| next.association == Some(association)) else { return false };
        known.key = next.key;
        self.changed(identity);
        true
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
                let (key, next) = (key.clone(), next.as_ref().map(|next| next.key.clone()));
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

        keys.proved(&identity("a"), &PskKey::new(former.reveal()).unwrap(), AssociationId(1));
        assert!(!keys.registered(&identity("a"), AssociationId(1)), "it is the former key");
        let stored = GeneratedKeyRecord { identity: identity("a"), key: former, next: Some(next.clone()) };
        assert_eq!(keys.take_changes(9), [Change::GeneratedKey(stored.clone())]);
        let mut restored = GeneratedKeys::default();
        restored.restore(vec![stored]);
        assert_eq!(held(&restored), both);

        keys.proved(&identity("a"), &PskKey::new(next.reveal()).unwrap(), AssociationId(2));
        assert_eq!(held(&keys), both, "the device has not registered");
        assert!(keys.registered(&identity("a"), AssociationId(2)));
        assert_eq!(held(&keys), (next.reveal().to_vec(), None));
        assert_eq!(keys.take_changes(9).len(), 1);
        assert_ne!(keys.issue(&identity("a"), true, 9, &mut rng), Some(next), "each later bootstrap has a new one");
    }
}
