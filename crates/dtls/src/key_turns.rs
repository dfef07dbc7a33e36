//! Chooses which of two keys of an identity a full handshake tries: the new or the former one. A handshake can try one
//! only.
//!
//! 1. The first handshake from an address tries the new key, and the next one from there the other key. Handshakes from
//!    elsewhere do not change this order, so that nobody can keep a device from its key by asking for it.
//! 2. A device may come from another address each time. Where handshakes of several addresses have failed, a handshake
//!    from one more address tries either key at random.
//! 3. The first finished handshake ends the count.

use std::time::{Duration, Instant};

use rand::RngExt;
use rand::rngs::StdRng;
use smallvec::SmallVec;

use lwm2m_base::expiring_map::ExpiringMap;
use lwm2m_base::rate::SourceNetwork;

use super::credentials::KeyQuestion;

/// Time for which a failed handshake is remembered.
const MEMORY: Duration = Duration::from_secs(3600);

/// The addresses that are remembered for one identity.
const MOST_SOURCES: usize = 4;

/// The key that a full handshake tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyTurn {
    New,
    Former,
}

/// The addresses whose handshakes have not finished, with the key that each tried last.
type TriedKeys = SmallVec<[(SourceNetwork, KeyTurn); 1]>;

pub(crate) struct KeyTurns(ExpiringMap<KeyQuestion, TriedKeys>);

impl KeyTurns {
    /// Creates an empty memory for so many identities.
    pub(crate) fn new(most: usize) -> Self {
        Self(ExpiringMap::new(most))
    }

    /// Returns the key that a handshake from this address tries now.
    pub(crate) fn next(
        &mut self,
        now: Instant,
        question: &KeyQuestion,
        source: SourceNetwork,
        rng: &mut StdRng,
    ) -> KeyTurn {
        let mut tried = self.0.remove(question).unwrap_or_default();
        let has_room = tried.len() < MOST_SOURCES;
        let turn = match tried.iter_mut().find(|(other, _)| *other == source) {
            Some((_, last)) => {
                *last = last.other();
                *last
            }
            None if has_room => {
                tried.push((source, KeyTurn::New));
                KeyTurn::New
            }
            None if rng.random() => KeyTurn::New,
            None => KeyTurn::Former,
        };
        self.0.insert(question.clone(), now + MEMORY, tried);
        turn
    }

    /// Ends the count of an identity whose handshake has finished.
    pub(crate) fn forget(&mut self, question: &KeyQuestion) {
        self.0.remove(question);
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.0.remove_expired(now);
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.0.next_expiry()
    }
}

impl KeyTurn {
    fn other(self) -> Self {
        match self {
            Self::New => Self::Former,
            Self::Former => Self::New,
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;
    use lwm2m_base::identity::PskIdentity;

    fn source(number: u8) -> SourceNetwork {
        SourceNetwork::of(([192, 0, 2, number], 5000).into())
    }

    #[test]
    fn handshakes_from_elsewhere_do_not_change_which_key_a_device_tries() {
        let (now, mut rng) = (Instant::now(), StdRng::from_seed([1; 32]));
        let question = KeyQuestion::from(PskIdentity::new(b"a").unwrap());
        let mut turns = KeyTurns::new(10);
        assert_eq!(turns.next(now, &question, source(1), &mut rng), KeyTurn::New);
        for number in 2..20 {
            turns.next(now, &question, source(number), &mut rng);
        }
        assert_eq!(turns.next(now, &question, source(1), &mut rng), KeyTurn::Former);
        assert_eq!(turns.next(now, &question, source(1), &mut rng), KeyTurn::New);
        turns.forget(&question);
        assert_eq!(turns.next(now, &question, source(1), &mut rng), KeyTurn::New);
    }

    #[test]
    fn a_device_that_comes_from_a_new_address_each_time_tries_both_keys() {
        let (now, mut rng) = (Instant::now(), StdRng::from_seed([1; 32]));
        let question = KeyQuestion::from(PskIdentity::new(b"a").unwrap());
        let mut turns = KeyTurns::new(10);
        let tried: Vec<_> = (1..40).map(|number| turns.next(now, &question, source(number), &mut rng)).collect();
        assert!(tried.contains(&KeyTurn::New) && tried.contains(&KeyTurn::Former), "{tried:?}");
    }
}
