//! Deferred requests for blocks of images: they wait until all other messages are handled.
//!
//! Thousands of devices may fetch an image at the same time, each as fast as it gets blocks. The gateway answers a few
//! requests at once, and the others in turns, between which it reads its sockets: a message of another device never
//! waits for more than one turn. Those who fetch share what is left.

use std::collections::VecDeque;
use std::time::Instant;

use lwm2m_base::Peer;

/// Requests that are answered in one turn.
const REQUESTS_PER_TURN: usize = 32;

/// Requests that wait, at the most. A device repeats a request that is dropped, some seconds later (RFC 7252 section
/// 4.2).
const MOST_DEFERRED: usize = 20_000;

/// Owns the requests that wait for their turn, as the datagrams that they came in.
#[derive(Debug, Default)]
pub(in crate::gateway) struct DeferredPulls {
    waiting: VecDeque<(Peer, Box<[u8]>)>,
    /// The time of the present turn, and the requests that were answered in it.
    turn: Option<Instant>,
    answered: usize,
}

/// The decision about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gateway) enum PullTurn {
    Now,
    Later,
    /// Too many requests wait already.
    Never,
}

impl DeferredPulls {
    /// Decides about a request that has come, and keeps it if it has to wait. Everything that comes at one time is one
    /// turn.
    pub(crate) fn admit(&mut self, now: Instant, peer: Peer, datagram: &[u8]) -> PullTurn {
        if self.turn != Some(now) {
            (self.turn, self.answered) = (Some(now), 0);
        }
        if self.waiting.is_empty() && self.answered < REQUESTS_PER_TURN {
            self.answered += 1;
            return PullTurn::Now;
        }
        if self.waiting.len() >= MOST_DEFERRED {
            return PullTurn::Never;
        }
        self.waiting.push_back((peer, datagram.into()));
        PullTurn::Later
    }

    /// Returns the requests of the next turn.
    pub(crate) fn take_turn(&mut self) -> Vec<(Peer, Box<[u8]>)> {
        let count = self.waiting.len().min(REQUESTS_PER_TURN);
        self.waiting.drain(..count).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::gateway::fixtures::address;

    #[test]
    fn a_turn_has_a_bound_and_the_rest_follows_in_order() {
        let (mut pulls, mut now) = (DeferredPulls::default(), Instant::now());
        let admit = |pulls: &mut DeferredPulls, now, number: usize| pulls.admit(now, address(1), &number.to_be_bytes());
        let decided: Vec<_> = (0..100).map(|number| admit(&mut pulls, now, number)).collect();
        assert_eq!(
            (&decided[..REQUESTS_PER_TURN], &decided[REQUESTS_PER_TURN..]),
            (&[PullTurn::Now; REQUESTS_PER_TURN][..], &[PullTurn::Later; 68][..])
        );
        now += Duration::from_millis(1);
        assert_eq!(admit(&mut pulls, now, 100), PullTurn::Later, "others wait already");
        let numbers = |turn: Vec<(Peer, Box<[u8]>)>| -> Vec<usize> {
            turn.into_iter().map(|(_, datagram)| usize::from_be_bytes(datagram[..].try_into().unwrap())).collect()
        };
        assert_eq!(numbers(pulls.take_turn()), (32..64).collect::<Vec<_>>());
        assert_eq!(numbers(pulls.take_turn()), (64..96).collect::<Vec<_>>());
        assert_eq!(numbers(pulls.take_turn()), (96..=100).collect::<Vec<_>>());
        assert!(pulls.is_empty());
        assert_eq!(admit(&mut pulls, now, 101), PullTurn::Now);
    }

    #[test]
    fn requests_beyond_the_bound_are_dropped() {
        let (mut pulls, now) = (DeferredPulls::default(), Instant::now());
        let last = (0..=REQUESTS_PER_TURN + MOST_DEFERRED).map(|_| pulls.admit(now, address(1), b"")).last();
        assert_eq!((last, pulls.len()), (Some(PullTurn::Never), MOST_DEFERRED));
    }
}
