//! The keys of PSK identities that were looked up, for as long as the answer holds; and the questions under way.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use lwm2m_base::AssociationId;
use lwm2m_base::expiring_map::ExpiringMap;

use super::credentials::{FoundKey, KeyAnswer, KeyQuestion};

/// No answer is believed for longer: a clock cannot be asked for the end of time.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

pub(crate) struct KeyCache {
    found: ExpiringMap<KeyQuestion, FoundKey>,
    /// The unknown identities. They are separate from the keys, because any client can invent identities, and these
    /// must not evict the keys of devices.
    unknown: ExpiringMap<KeyQuestion, ()>,
    /// The handshakes that wait for the key of an identity.
    questions: HashMap<KeyQuestion, Vec<AssociationId>>,
    most_questions: usize,
}

/// The result of a look-up in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum KeyLookup {
    Key(FoundKey),
    Unknown,
    /// The key has to be looked up now.
    Ask,
    /// The identity is already being looked up.
    Asked,
    /// Too many identities are being looked up.
    TooManyQuestions,
}

impl KeyCache {
    pub(crate) fn new(most: usize, most_questions: usize) -> Self {
        let (found, unknown) = (ExpiringMap::new(most), ExpiringMap::new(most));
        Self { found, unknown, questions: HashMap::new(), most_questions }
    }

    /// Looks for the key, for a handshake that waits for it if it is not there.
    pub(crate) fn find(&mut self, now: Instant, question: &KeyQuestion, waiting: AssociationId) -> KeyLookup {
        if let Some(key) = self.found.get(now, question) {
            return KeyLookup::Key(key.clone());
        }
        if self.unknown.get(now, question).is_some() {
            return KeyLookup::Unknown;
        }
        if let Some(others) = self.questions.get_mut(question) {
            others.push(waiting);
            return KeyLookup::Asked;
        }
        if self.questions.len() >= self.most_questions {
            return KeyLookup::TooManyQuestions;
        }
        self.questions.insert(question.clone(), vec![waiting]);
        KeyLookup::Ask
    }

    /// Takes the answer to a question. Returns the handshakes that waited for it.
    pub(crate) fn answered(&mut self, now: Instant, question: &KeyQuestion, answer: &KeyAnswer) -> Vec<AssociationId> {
        let remembered = |keep_for: Duration| now.checked_add(keep_for.min(LONGEST)).filter(|until| *until > now);
        self.forget(question);
        self.handle_timeout(now);
        match answer {
            KeyAnswer::Found { key, keep_for } => {
                if let Some(until) = remembered(*keep_for) {
                    self.found.insert(question.clone(), until, key.clone());
                }
            }
            KeyAnswer::Unknown { keep_for } => {
                if let Some(until) = remembered(*keep_for) {
                    self.unknown.insert(question.clone(), until, ());
                }
            }
            KeyAnswer::Unavailable => {}
        }
        self.questions.remove(question).unwrap_or_default()
    }

    /// Removes a waiting handshake. The lookup stays: its answer will arrive.
    pub(crate) fn leave(&mut self, question: &KeyQuestion, waiting: AssociationId) {
        if let Some(others) = self.questions.get_mut(question) {
            others.retain(|other| *other != waiting);
        }
    }

    pub(crate) fn forget(&mut self, question: &KeyQuestion) {
        self.found.remove(question);
        self.unknown.remove(question);
    }

    pub(crate) fn forget_all(&mut self) {
        self.found.clear();
        self.unknown.clear();
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.found.remove_expired(now);
        self.unknown.remove_expired(now);
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        [self.found.next_expiry(), self.unknown.next_expiry()].into_iter().flatten().min()
    }

    pub(crate) fn remembered(&self) -> usize {
        self.found.len() + self.unknown.len()
    }

    pub(crate) fn questions(&self) -> usize {
        self.questions.len()
    }
}

#[cfg(test)]
mod tests {
    use super::super::credentials::{KeyRealm, PskKey};
    use super::*;
    use lwm2m_base::identity::PskIdentity;

    fn identity(name: &str) -> KeyQuestion {
        PskIdentity::new(name.as_bytes()).unwrap().into()
    }

    fn found(seconds: u64) -> KeyAnswer {
        KeyAnswer::Found { key: PskKey::new(*b"key").unwrap().into(), keep_for: Duration::from_secs(seconds) }
    }

    fn unknown(seconds: u64) -> KeyAnswer {
        KeyAnswer::Unknown { keep_for: Duration::from_secs(seconds) }
    }

    const ONE: AssociationId = AssociationId(1);
    const TWO: AssociationId = AssociationId(2);

    #[test]
    fn an_identity_is_asked_about_once_and_all_who_wait_hear_of_it() {
        let now = Instant::now();
        let mut keys = KeyCache::new(10, 10);
        assert_eq!(keys.find(now, &identity("a"), ONE), KeyLookup::Ask);
        assert_eq!(keys.find(now, &identity("a"), TWO), KeyLookup::Asked);
        assert_eq!(keys.answered(now, &identity("a"), &KeyAnswer::Unavailable), [ONE, TWO]);
        assert_eq!(keys.find(now, &identity("a"), ONE), KeyLookup::Ask);
        keys.leave(&identity("a"), ONE);
        assert_eq!(keys.find(now, &identity("a"), TWO), KeyLookup::Asked);
        assert_eq!(keys.answered(now, &identity("a"), &found(9)), [TWO]);
        assert_eq!(keys.find(now, &identity("a"), ONE), KeyLookup::Key(PskKey::new(*b"key").unwrap().into()));
        assert_eq!(keys.questions(), 0);
    }

    #[test]
    fn an_identity_has_a_key_of_its_own_in_each_realm() {
        let now = Instant::now();
        let mut keys = KeyCache::new(10, 10);
        let elsewhere = KeyQuestion { realm: KeyRealm(1), ..identity("a") };
        keys.answered(now, &identity("a"), &found(9));
        assert_eq!(keys.find(now, &elsewhere, ONE), KeyLookup::Ask);
        assert_eq!(keys.answered(now, &elsewhere, &unknown(9)), [ONE]);
        assert!(matches!(keys.find(now, &identity("a"), ONE), KeyLookup::Key(_)));
        assert_eq!(keys.find(now, &elsewhere, ONE), KeyLookup::Unknown);
        keys.forget(&elsewhere);
        assert!(matches!(keys.find(now, &identity("a"), ONE), KeyLookup::Key(_)));
    }

    #[test]
    fn answers_hold_for_their_time_and_until_they_are_forgotten() {
        let now = Instant::now();
        let later = now + Duration::from_secs(9);
        let mut keys = KeyCache::new(10, 10);
        for (name, answer) in [("a", found(9)), ("b", unknown(9)), ("c", unknown(0)), ("d", found(u64::MAX))] {
            assert_eq!(keys.answered(now, &identity(name), &answer), []);
        }
        assert_eq!(keys.remembered(), 3);
        assert_eq!(keys.find(now, &identity("b"), ONE), KeyLookup::Unknown);
        assert_eq!(keys.next_deadline(), Some(later));
        keys.handle_timeout(later);
        assert_eq!(keys.remembered(), 1);
        assert_eq!(keys.find(later, &identity("a"), ONE), KeyLookup::Ask);
        keys.forget(&identity("d"));
        assert_eq!(keys.find(later, &identity("d"), ONE), KeyLookup::Ask);
        keys.answered(now, &identity("d"), &found(9));
        keys.forget_all();
        assert_eq!(keys.remembered(), 0);
    }

    #[test]
    fn unknown_identities_do_not_drive_out_keys_and_questions_are_bounded() {
        let now = Instant::now();
        let mut keys = KeyCache::new(2, 2);
        keys.answered(now, &identity("device"), &found(9));
        for name in ["x", "y", "z"] {
            keys.answered(now, &identity(name), &unknown(99));
        }
        assert_eq!(keys.remembered(), 3);
        assert!(matches!(keys.find(now, &identity("device"), ONE), KeyLookup::Key(_)));
        keys.find(now, &identity("1"), ONE);
        keys.find(now, &identity("2"), ONE);
        assert_eq!(keys.find(now, &identity("3"), ONE), KeyLookup::TooManyQuestions);
        assert_eq!(keys.find(now, &identity("2"), TWO), KeyLookup::Asked);
    }
}
