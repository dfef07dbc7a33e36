//! The terms that one process may use.

use lwm2m_base::Shard;

use crate::term::{Term, WallTime};

/// The least term of each shard that a process may still use. It outlives the tenure of a shard: a process that gets a
/// shard again after another node had it uses none of its earlier terms, even if the engine forgot them.
#[derive(Clone, Debug)]
pub struct Floors(Box<[Term; Shard::COUNT]>);

impl Floors {
    /// Returns the floors of a process, for the engine's time at its start.
    pub fn of_process(started: WallTime) -> Self {
        Self(Box::new([Term::first_of_process(started); Shard::COUNT]))
    }

    /// Records that the process uses this term of the shard. Returns `false`, and records nothing, if the term is below
    /// the floor: the process must not use it.
    #[must_use]
    pub fn use_term(&mut self, shard: Shard, term: Term) -> bool {
        let floor = &mut self.0[usize::from(shard)];
        if term < *floor {
            return false;
        }
        *floor = term.next();
        true
    }

    /// Returns the least term of the shard that the process may use.
    pub fn floor(&self, shard: Shard) -> Term {
        self.0[usize::from(shard)]
    }

    /// Returns the term that an owner may give its shard by itself, or `None` while all terms that may be taken by the
    /// engine's last known time are used up. The time is not extrapolated: a later process of the same node begins
    /// above all terms of that time, but not above those of a clock that nobody confirmed.
    pub(crate) fn own_term(&self, shard: Shard, told: WallTime) -> Option<Term> {
        let term = self.floor(shard).max(Term::at(told));
        (term <= Term::last_at(told)).then_some(term)
    }

    /// Returns whether the process may take a term of any shard at this time.
    pub(crate) fn are_reached(&self, told: WallTime) -> bool {
        let last = Term::last_at(told);
        self.0.iter().any(|&floor| floor <= last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: WallTime = WallTime(Term::EPOCH.0 + 400_000_000);

    fn seconds_later(seconds: u64) -> WallTime {
        WallTime(START.0 + seconds * 1_000)
    }

    #[test]
    fn a_process_takes_no_term_in_the_first_12_seconds_after_its_start() {
        let floors = Floors::of_process(START);

        assert_eq!(floors.own_term(Shard::new(3), seconds_later(11)), None);
        assert_eq!(floors.own_term(Shard::new(3), seconds_later(12)), Some(Term::first_of_process(START)));
        assert!(!floors.are_reached(seconds_later(11)));
        assert!(floors.are_reached(seconds_later(12)));
    }

    #[test]
    fn a_term_is_used_once_in_each_shard() {
        let mut floors = Floors::of_process(START);
        let term = Term::first_of_process(START);

        assert!(floors.use_term(Shard::new(3), term));
        assert!(!floors.use_term(Shard::new(3), term), "twice in one shard");
        assert!(floors.use_term(Shard::new(4), term), "in another shard");
        assert_eq!(floors.floor(Shard::new(3)), term.next());
    }

    #[test]
    fn an_owner_without_the_engine_has_five_terms_and_then_none() {
        let mut floors = Floors::of_process(START);
        let told = seconds_later(1_000);
        let mut terms = Vec::new();

        while let Some(term) = floors.own_term(Shard::new(0), told) {
            assert!(floors.use_term(Shard::new(0), term));
            terms.push(term.number() - Term::at(told).number());
        }

        assert_eq!(terms, [0, 1, 2, 3, 4]);
    }
}
