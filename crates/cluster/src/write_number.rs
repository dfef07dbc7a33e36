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

/// Numbers the records that one owner sends for one association.
#[derive(Clone, Debug)]
pub struct WriteNumbers {
    born: Term,
    node: NodeNumber,
    /// The term whose numbers are given out; `None` before the first.
    term: Option<Term>,
    /// The last counter that was given out in this term.
    counter: u16,
    refused: u64,
}

/// Why an association may not send a record now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoNumber {
    #[error("the owner has no term")]
    NoTerm,
    #[error("all numbers of the term are used; the association is silent until the next term")]
    Exhausted,
}

/// Why an association cannot use a term.
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
    /// Returns the numbers of an association that was made in this term, for its owner of this number.
    pub fn new(born: Term, node: NodeNumber) -> Self {
        Self { born, node, term: None, counter: 0, refused: 0 }
    }

    /// Begins to give out the numbers of a term, which the owner has not used for this association.
    pub fn begin(&mut self, term: Term) -> Result<(), TermError> {
        if self.term.is_some_and(|current| term <= current) {
            return Err(TermError::NotNewer(term));
        }
        match term.since(self.born) {
            None => Err(TermError::BeforeBirth(term)),
            Some(distance) if distance > LAST_TERM => Err(TermError::TooOld(term)),
            Some(_) => {
                self.term = Some(term);
                self.counter = 0;
                Ok(())
            }
        }
    }

    /// Returns the number of the next record, of 48 bits, or counts a refusal.
    pub fn next_number(&mut self) -> Result<u64, NoNumber> {
        let number = self.try_next();
        self.refused += u64::from(number.is_err());
        number
    }

    fn try_next(&mut self) -> Result<u64, NoNumber> {
        let distance = self.term.and_then(|term| term.since(self.born)).ok_or(NoNumber::NoTerm)?;
        if self.counter == LAST_COUNTER {
            return Err(NoNumber::Exhausted);
        }
        self.counter += 1;
        let prefix = distance << NodeNumber::BITS | u64::from(self.node.number());
        Ok(prefix << COUNTER_BITS | u64::from(self.counter))
    }

    /// Returns whether half of the numbers of the term are used: the owner asks for the next term.
    pub fn needs_term(&self) -> bool {
        self.counter > LAST_COUNTER / 2
    }

    /// Returns whether this is the last term of the association: its owner sends close_notify.
    pub fn is_last_term(&self) -> bool {
        self.term.and_then(|term| term.since(self.born)) == Some(LAST_TERM)
    }

    /// Returns the number of records that were not sent for want of a number.
    pub fn refused(&self) -> u64 {
        self.refused
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
        assert_eq!(numbers.next_number(), Err(NoNumber::Exhausted));
        assert_eq!(numbers.refused(), 2);
        numbers.begin(Term::new(6)).unwrap();
        assert_eq!(numbers.next_number(), Ok(1 << 21 | 1 << 14 | 1));
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
