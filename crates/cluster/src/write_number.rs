//! The numbers of the DTLS records that an association sends.
//!
//! The epoch of an association never changes, so each of its 48-bit sequence numbers (RFC 6347 section 4.1) may be used
//! once only: with AES-CCM and AES-GCM a repeated number reveals plaintext and, for GCM, the key of authentication. In
//! a cluster an association outlives its owners, and the store of leases may forget. The number is therefore made of
//!
//! ```text
//! | 27 bits: term - born | 7 bits: number of the node | 14 bits: counter |
//! ```
//!
//! where `born` is the term in which the association was made. The counter begins at 1 in each term.
//!
//! # Why no number is used twice
//!
//! 1. Two nodes differ in the 7 bits. This needs one node for each number.
//! 2. One process uses each term of a shard once ([`Floors`](crate::Floors)).
//! 3. Two processes of one node use different terms. By itself a process takes no term above the engine's last time
//!    that it was told plus 4 ticks, and it is told none while the entry of another process has its number. It acquires
//!    a term at most 5 s after its last renewal. The next process begins 7 ticks above the engine's time at its start,
//!    and ends if it sees the earlier one renew its entry. This needs that the clocks of engines differ by at most 3 s,
//!    and that two living processes of one number do not each reach an engine of their own for more than 8 s.
//! 4. Within a term the owner keeps the counter in memory. This needs that an owner which drops an association from
//!    memory and loads it again does so in a new term.
//!
//! Nothing is written for a record, and nothing that an engine forgets makes a number come again.

use crate::node::NodeNumber;
use crate::term::Term;

const COUNTER_BITS: u32 = 14;
const TERM_BITS: u32 = 27;
/// The greatest counter of a term. Zero is not used.
const LAST_COUNTER: u16 = (1 << COUNTER_BITS) - 1;
/// The greatest distance of a term from the one in which the association was made: 17 years of ticks.
const LAST_TERM: u64 = (1 << TERM_BITS) - 1;

/// The distance of an owner without a term.
const NO_TERM: u32 = u32::MAX;

/// Numbers the records that one owner sends for one association. It is small, because there is one for each
/// association.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteNumbers {
    born: Term,
    /// The number of terms from `born` to the one whose numbers are given out, or [`NO_TERM`].
    distance: u32,
    /// The last counter that was given out in this term.
    counter: u16,
    node: NodeNumber,
}

/// The reason for which an association may not send a record now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoNumber {
    #[error("the owner has no term")]
    NoTerm,
    #[error("all numbers of the term are used; the association is silent until the next term")]
    Exhausted,
}

/// The reason for which an association cannot use a term.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TermError {
    /// The term is not above the term in use, so its numbers may have been used.
    #[error("term {0} is not above the term in use")]
    NotNewer(Term),
    /// The engine forgot the term in which the association was made. The association waits until terms pass it.
    #[error("term {0} is before the one in which the association was made")]
    BeforeBirth(Term),
    /// The association is more than 17 years old. Its owner closes it while a number is left.
    #[error("term {0} is too far from the one in which the association was made")]
    TooOld(Term),
}

impl WriteNumbers {
    /// The distance between the numbers of one term and those of the next one.
    pub const PER_TERM: u64 = 1 << (COUNTER_BITS + NodeNumber::BITS);

    /// Returns the numbers of an association that was made in this term, for its owner of this number.
    pub fn new(born: Term, node: NodeNumber) -> Self {
        Self { born, distance: NO_TERM, counter: 0, node }
    }

    /// Returns the numbers of an association that its owner makes in this term, which has begun.
    pub fn born_in(term: Term, node: NodeNumber) -> Self {
        Self { born: term, distance: 0, counter: 0, node }
    }

    /// Returns numbers of which all of this term are used: the owner sends nothing before a later term.
    pub fn used_up(born: Term, term: Term, node: NodeNumber) -> Self {
        let distance = term.since(born).and_then(|distance| u32::try_from(distance).ok()).unwrap_or(NO_TERM);
        Self { born, distance, counter: LAST_COUNTER, node }
    }

    /// Gives out no number below this one, which the handshake has used up to there.
    pub fn skip_below(&mut self, number: u64) {
        let used = number.saturating_sub(1).saturating_sub(self.prefix().unwrap_or(0));
        self.counter = self.counter.max(u16::try_from(used).unwrap_or(LAST_COUNTER).min(LAST_COUNTER));
    }

    /// Begins to give out the numbers of a term, which the owner has not used for this association.
    pub fn begin(&mut self, term: Term) -> Result<(), TermError> {
        if self.term().is_some_and(|current| term <= current) {
            return Err(TermError::NotNewer(term));
        }
        match term.since(self.born) {
            None => Err(TermError::BeforeBirth(term)),
            Some(distance) => match u32::try_from(distance) {
                Ok(distance) if u64::from(distance) <= LAST_TERM => {
                    self.distance = distance;
                    self.counter = 0;
                    Ok(())
                }
                Ok(_) | Err(_) => Err(TermError::TooOld(term)),
            },
        }
    }

    /// Returns the number of the next record, of 48 bits.
    pub fn next_number(&mut self) -> Result<u64, NoNumber> {
        let prefix = self.prefix().ok_or(NoNumber::NoTerm)?;
        if self.counter == LAST_COUNTER {
            return Err(NoNumber::Exhausted);
        }
        self.counter += 1;
        Ok(prefix | u64::from(self.counter))
    }

    /// Returns the term in which the association was made.
    pub fn born(&self) -> Term {
        self.born
    }

    /// Returns the term whose numbers are given out; `None` before the first.
    pub fn term(&self) -> Option<Term> {
        (self.distance != NO_TERM).then(|| Term::new(self.born.number() + u64::from(self.distance)))
    }

    /// Returns how many numbers of the term are left.
    pub fn left(&self) -> u16 {
        LAST_COUNTER - self.counter
    }

    /// Returns whether half of the numbers of the term are used: the owner asks for the next term.
    pub fn needs_term(&self) -> bool {
        self.counter > LAST_COUNTER / 2
    }

    /// Returns whether this is the last term of the association: its owner sends close_notify.
    #[cfg(test)]
    pub(crate) fn is_last_term(&self) -> bool {
        u64::from(self.distance) == LAST_TERM
    }

    /// Returns the number of the record before the first one of this term.
    fn prefix(&self) -> Option<u64> {
        let distance = u64::from(self.distance);
        let prefix = distance << NodeNumber::BITS | u64::from(self.node.number());
        (self.distance != NO_TERM).then_some(prefix << COUNTER_BITS)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn node(number: u64) -> NodeNumber {
        NodeNumber::try_from(number).unwrap()
    }

    fn numbers(born: u64, number: u64, term: u64) -> WriteNumbers {
        let mut numbers = WriteNumbers::new(Term::new(born), node(number));
        numbers.begin(Term::new(term)).unwrap();
        numbers
    }

    #[test]
    fn a_number_has_27_bits_of_term_7_of_node_and_14_of_counter() {
        assert_eq!(numbers(1_000, 0, 1_000).next_number(), Ok(1));
        assert_eq!(numbers(1_000, 127, 1_002).next_number(), Ok(2 << 21 | 127 << 14 | 1));
        assert_eq!(numbers(0, 127, LAST_TERM).next_number(), Ok((1 << 48) - (1 << 14) + 1));
    }

    #[test]
    fn an_association_is_silent_when_the_numbers_of_its_term_are_used() {
        let mut numbers = numbers(5, 1, 5);
        let given: HashSet<_> = std::iter::from_fn(|| numbers.next_number().ok()).collect();

        assert_eq!(given.len(), 16_383);
        assert_eq!((numbers.next_number(), numbers.left()), (Err(NoNumber::Exhausted), 0));
        numbers.begin(Term::new(6)).unwrap();
        assert_eq!(numbers.next_number(), Ok(1 << 21 | 1 << 14 | 1));
    }

    #[test]
    fn the_numbers_of_the_handshake_are_left_out() {
        let node = node(0);
        let mut numbers = WriteNumbers::born_in(Term::new(5), node);
        numbers.skip_below(3);
        assert_eq!((numbers.next_number(), numbers.term()), (Ok(3), Some(Term::new(5))));
        numbers.skip_below(1 << 20);
        assert_eq!(numbers.next_number(), Err(NoNumber::Exhausted));
        numbers.begin(Term::new(6)).unwrap();
        numbers.skip_below(3);
        assert_eq!(numbers.next_number(), Ok(WriteNumbers::PER_TERM + 1));
        assert!(size_of::<WriteNumbers>() <= 16);
    }

    #[test]
    fn an_owner_asks_for_a_term_at_half_of_the_counter() {
        let mut numbers = numbers(5, 1, 5);
        let before = (0..16_383).take_while(|_| !numbers.needs_term() && numbers.next_number().is_ok()).count();

        assert_eq!(before, 8_192);
    }

    #[test]
    fn a_term_that_was_used_or_is_too_early_or_too_late_is_rejected() {
        let mut numbers = numbers(5, 1, 9);

        assert_eq!(numbers.begin(Term::new(9)), Err(TermError::NotNewer(Term::new(9))));
        let mut early = WriteNumbers::new(Term::new(5), node(1));
        assert_eq!(early.begin(Term::new(4)), Err(TermError::BeforeBirth(Term::new(4))));
        assert_eq!(early.next_number(), Err(NoNumber::NoTerm));
        let late = Term::new(5 + LAST_TERM + 1);
        assert_eq!(numbers.begin(late), Err(TermError::TooOld(late)));
        numbers.begin(Term::new(5 + LAST_TERM)).unwrap();
        assert!(numbers.is_last_term());
    }

    proptest! {
        #[test]
        fn no_two_records_of_an_association_have_the_same_number(
            born in 0_u64..1_000,
            tenures in prop::collection::hash_set((0_u64..128, 0_u64..1_000), 1..20),
            records in 1_usize..200,
        ) {
            let mut used = HashSet::new();
            for (number, later) in tenures {
                let mut numbers = numbers(born, number, born + later);
                for _ in 0..records {
                    let number = numbers.next_number().unwrap();
                    prop_assert!(number < 1 << 48);
                    prop_assert!(used.insert(number), "{number:#x} came twice");
                }
            }
        }

        #[test]
        fn a_later_term_has_greater_numbers_whoever_is_the_owner(
            early in (0_u64..128, 0_u64..1_000_000), late in (0_u64..128, 1_u64..1_000_000), records in 1_usize..100,
        ) {
            let mut first = numbers(0, early.0, early.1);
            let last = (0..records).map(|_| first.next_number().unwrap()).last();
            let next = numbers(0, late.0, early.1 + late.1).next_number().ok();

            prop_assert!(next > last);
        }
    }
}
