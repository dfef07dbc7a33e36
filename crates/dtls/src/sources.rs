//! The handshakes under way by the address that they come from, and which of them loses its place to a newer one.
//!
//! A client that completes the cookie exchange and then goes silent keeps a place until the deadline of its handshake.
//! Its handshake is overdue long before that. If room is needed, the address with the most overdue handshakes loses the
//! oldest of them: a slow device at an address of its own stays while an attacker has more than one. If none is
//! overdue, the address with the most handshakes makes room for one with fewer. Addresses at which devices have proved
//! their keys are exempt from that: a NAT may have many.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use lwm2m_base::AssociationId;
use lwm2m_base::rate::SourceNetwork;

/// The position of a handshake in the order in which all of them began.
pub(crate) type HandshakeNumber = u64;

/// The last one of a set has the most handshakes of a kind, and of several with as many, the oldest of these.
type EvictionRank = (usize, Reverse<HandshakeNumber>, SourceNetwork);

#[derive(Default)]
pub(crate) struct HandshakeSources {
    by_source: HashMap<SourceNetwork, SourceHandshakes>,
    /// The addresses that have overdue handshakes.
    by_overdue: BTreeSet<EvictionRank>,
    /// The addresses that have handshakes which began when the address was unknown, by the number of these.
    by_count: BTreeSet<EvictionRank>,
}

/// The handshakes of one address.
#[derive(Default)]
struct SourceHandshakes {
    count: usize,
    /// The handshakes that began when no device had proved its key at this address.
    unknown: BTreeMap<HandshakeNumber, AssociationId>,
    overdue: BTreeMap<HandshakeNumber, AssociationId>,
}

impl HandshakeSources {
    /// Counts a new handshake. `unknown` is its id if no device has proved its key at this address.
    pub(crate) fn begun(&mut self, source: SourceNetwork, number: HandshakeNumber, unknown: Option<AssociationId>) {
        self.change(source, |handshakes| {
            handshakes.count += 1;
            handshakes.unknown.extend(unknown.map(|id| (number, id)));
        });
    }

    /// Marks a handshake whose client has not answered for too long.
    pub(crate) fn overdue(&mut self, source: SourceNetwork, number: HandshakeNumber, id: AssociationId) {
        self.change(source, |handshakes| {
            handshakes.overdue.insert(number, id);
        });
    }

    /// Clears the mark of a handshake whose client has answered after all.
    pub(crate) fn answered(&mut self, source: SourceNetwork, number: HandshakeNumber) {
        self.change(source, |handshakes| {
            handshakes.overdue.remove(&number);
        });
    }

    /// Forgets a handshake that has ended.
    pub(crate) fn ended(&mut self, source: SourceNetwork, number: HandshakeNumber) {
        self.change(source, |handshakes| {
            handshakes.overdue.remove(&number);
            handshakes.unknown.remove(&number);
            handshakes.count = handshakes.count.saturating_sub(1);
        });
    }

    pub(crate) fn count(&self, source: SourceNetwork) -> usize {
        self.by_source.get(&source).map_or(0, |handshakes| handshakes.count)
    }

    /// Returns the oldest overdue handshake of the address that has the most of them.
    pub(crate) fn victim(&self) -> Option<AssociationId> {
        self.by_overdue.last().and_then(|(.., source)| self.victim_of(*source))
    }

    /// Returns the oldest overdue handshake of this address.
    pub(crate) fn victim_of(&self, source: SourceNetwork) -> Option<AssociationId> {
        self.by_source.get(&source)?.overdue.values().next().copied()
    }

    /// Returns the oldest handshake of the unknown address that has the most of them, if it has more than so many.
    pub(crate) fn oldest_of_more_than(&self, count: usize) -> Option<AssociationId> {
        let (.., source) = self.by_count.last().filter(|(most, ..)| *most > count)?;
        self.by_source.get(source)?.unknown.values().next().copied()
    }

    fn change(&mut self, source: SourceNetwork, change: impl FnOnce(&mut SourceHandshakes)) {
        let handshakes = self.by_source.entry(source).or_default();
        let before = handshakes.ranks(source);
        change(handshakes);
        let (after, is_empty) = (handshakes.ranks(source), handshakes.count == 0);
        for (ranks, before, after) in
            [(&mut self.by_overdue, before.0, after.0), (&mut self.by_count, before.1, after.1)]
        {
            if let Some(before) = before {
                ranks.remove(&before);
            }
            ranks.extend(after);
        }
        if is_empty {
            self.by_source.remove(&source);
        }
    }
}

impl SourceHandshakes {
    /// Returns the ranks by the overdue handshakes, and by those that began when the address was unknown.
    fn ranks(&self, source: SourceNetwork) -> (Option<EvictionRank>, Option<EvictionRank>) {
        let rank = |of: &BTreeMap<HandshakeNumber, AssociationId>| {
            let oldest = *of.keys().next()?;
            Some((of.len(), Reverse(oldest), source))
        };
        (rank(&self.overdue), rank(&self.unknown))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn source(number: u8) -> SourceNetwork {
        SourceNetwork::V4(Ipv4Addr::new(192, 0, 2, number))
    }

    /// Address and number of each handshake, in this order; its id is its number. All are overdue.
    fn overdue(begun: &[(u8, HandshakeNumber)]) -> HandshakeSources {
        let mut sources = HandshakeSources::default();
        for (of, number) in begun {
            sources.begun(source(*of), *number, Some(AssociationId(*number)));
            sources.overdue(source(*of), *number, AssociationId(*number));
        }
        sources
    }

    #[test]
    fn the_address_with_the_most_overdue_handshakes_loses_the_oldest_of_them() {
        let mut sources = overdue(&[(1, 1), (2, 2), (2, 3), (3, 4), (3, 5), (3, 6)]);
        assert_eq!(sources.victim(), Some(AssociationId(4)));
        // Two here and two there: the older of the two goes.
        sources.answered(source(3), 4);
        assert_eq!(sources.victim(), Some(AssociationId(2)));
        assert_eq!((sources.count(source(2)), sources.count(source(3))), (2, 3));
    }

    #[test]
    fn a_handshake_that_is_not_overdue_is_no_victim() {
        let mut sources = overdue(&[(1, 1)]);
        sources.begun(source(2), 2, None);
        sources.answered(source(1), 1);
        assert_eq!((sources.victim(), sources.victim_of(source(1))), (None, None));
        assert_eq!(sources.count(source(1)), 1);
    }

    #[test]
    fn the_address_with_the_most_handshakes_has_the_oldest_for_one_with_fewer() {
        let mut sources = HandshakeSources::default();
        for (of, number) in [(1, 1), (2, 2), (2, 3), (1, 4), (2, 5)] {
            sources.begun(source(of), number, Some(AssociationId(number)));
        }
        (6..9).for_each(|number| sources.begun(source(3), number, None));
        assert_eq!(sources.oldest_of_more_than(2), Some(AssociationId(2)));
        assert_eq!(sources.oldest_of_more_than(3), None);
        sources.ended(source(2), 2);
        sources.ended(source(2), 5);
        assert_eq!(sources.oldest_of_more_than(1), Some(AssociationId(1)));
    }

    #[test]
    fn nothing_is_left_of_a_handshake_that_is_over() {
        let mut sources = overdue(&[(1, 1), (2, 2)]);
        sources.answered(source(2), 2);
        sources.ended(source(1), 1);
        sources.ended(source(2), 2);
        assert_eq!((sources.by_source.len(), sources.by_overdue.len(), sources.by_count.len()), (0, 0, 0));
    }
}
