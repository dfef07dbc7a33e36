//! Pre-shared keys that the bootstrap server generates for devices.
//!
//! 1. The first bootstrap of a device generates its key, which holds at once. Later ones give the same key again.
//! 2. An account with `rotate` generates a next key. Until the device has proved it in a handshake both hold: a handshake
//!    can try only one key, so they take turns.
//! 3. The proof of the next key removes the former one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;

use crate::bootstrap::secret::SecretBytes;
use lwm2m_base::identity::PskIdentity;
use lwm2m_dtls::credentials::{KeyAnswer, PskKey};

use super::super::record::{Change, GeneratedKeyRecord};

/// The bytes of a generated key.
const LENGTH: usize = 16;

/// The cache time of a key that is the only one. The cache is cleared when a next one is generated.
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

/// A key that the device has not proved yet.
#[derive(Debug)]
struct NextKey {
    key: SecretBytes,
    /// Whether the next handshake tries the former key.
    former_is_due: bool,
}

impl GeneratedKeys {
    /// Keeps what changes from now on for [`GeneratedKeys::take_changes`].
    pub fn keep_changes(&mut self) {
        self.keeps_changes = true;
    }

    pub fn restore(&mut self, records: Vec<GeneratedKeyRecord>) {
        for GeneratedKeyRecord { identity, key, next } in records {
            let next = next.map(|key| NextKey { key, former_is_due: false });
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
                known.next = Some(NextKey { key: key.clone(), former_is_due: false });
                self.changed(identity);
                Some(key)
            }
            None => Some(known.key.clone()),
        }
    }

    /// Returns the key that the next handshake of this identity tries; `None` if none was generated.
    pub fn answer(&mut self, identity: &PskIdentity) -> Option<KeyAnswer> {
        let known = self.keys.get_mut(identity)?;
        let (key, keep_for) = match &mut known.next {
            Some(next) => {
                let is_former = next.former_is_due;
                next.former_is_due = !is_former;
                (if is_former { &known.key } else { &next.key }, Duration::ZERO)
            }
            None => (&known.key, KEEP),
        };
        Some(KeyAnswer::Found { key: PskKey::new(key.reveal())?, keep_for })
    }

    /// Notes that a handshake proved this key: if it is the next one the former one does not hold any more.
    pub fn proved(&mut self, identity: &PskIdentity, key: &PskKey) {
        let Some(known) = self.keys.get_mut(identity) else { return };
        if let Some(next) = known.next.take_if(|next| next.key.reveal() == key.reveal()) {
            known.key = next.key;
            self.changed(identity);
        }
    }

    pub fn contains(&self, identity: &PskIdentity) -> bool {
        self.keys.contains_key(identity)
    }

    pub fn identities(&self) -> impl Iterator<Item = &PskIdentity> {
        self.keys.keys()
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

    fn tried(keys: &mut GeneratedKeys) -> Vec<u8> {
        match keys.answer(&identity("a")) {
            Some(KeyAnswer::Found { key, .. }) => key.reveal().to_vec(),
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
        assert_eq!(tried(&mut keys), first.reveal());
        assert_eq!(keys.answer(&identity("c")), None);
    }

    #[test]
    fn a_rotated_key_and_the_former_one_hold_until_the_device_has_proved_the_new_one() {
        let (mut keys, mut rng) = (GeneratedKeys::default(), StdRng::from_seed([7; 32]));
        keys.keep_changes();
        let former = keys.issue(&identity("a"), true, 9, &mut rng).unwrap();
        let next = keys.issue(&identity("a"), true, 9, &mut rng).unwrap();
        assert_ne!(former, next);
        assert_eq!(keys.issue(&identity("a"), true, 9, &mut rng), Some(next.clone()), "it was not proved yet");
        let turns = [(); 4].map(|()| tried(&mut keys));
        assert_eq!(turns, [next.reveal(), former.reveal(), next.reveal(), former.reveal()]);

        keys.proved(&identity("a"), &PskKey::new(former.reveal()).unwrap());
        let stored = GeneratedKeyRecord { identity: identity("a"), key: former, next: Some(next.clone()) };
        assert_eq!(keys.take_changes(9), [Change::GeneratedKey(stored.clone())]);
        let mut restored = GeneratedKeys::default();
        restored.restore(vec![stored]);
        assert_eq!(tried(&mut restored), next.reveal());

        keys.proved(&identity("a"), &PskKey::new(next.reveal()).unwrap());
        assert_eq!([(); 2].map(|()| tried(&mut keys)), [next.reveal(), next.reveal()]);
        assert_eq!(keys.take_changes(9).len(), 1);
        assert_ne!(keys.issue(&identity("a"), true, 9, &mut rng), Some(next), "each later bootstrap has a new one");
    }
}
