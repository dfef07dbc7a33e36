//! The message ids of what leaves: for each peer from a random start, one more each time (RFC 7252 section 4.4).

use std::time::{Duration, Instant};

use rand::RngExt;
use rand::rngs::StdRng;

use lwm2m_base::Peer;
use lwm2m_base::expiring_map::ExpiringMap;

use super::{MessageId, Parameters};

/// A peer is forgotten when its last id may be used again, and a new random start is as good.
#[derive(Debug)]
pub struct MessageIds {
    /// Each peer until the time to look at it again: whether it was sent something meanwhile.
    peers: ExpiringMap<Peer, Last>,
    lifetime: Duration,
}

#[derive(Debug)]
struct Last {
    next: MessageId,
    used: Instant,
}

impl MessageIds {
    pub fn new(parameters: &Parameters) -> Self {
        Self { peers: ExpiringMap::new(parameters.deduplication_entries), lifetime: parameters.exchange_lifetime() }
    }

    /// Returns the next message id for this peer.
    pub fn next(&mut self, now: Instant, peer: Peer, rng: &mut StdRng) -> MessageId {
        if let Some(last) = self.peers.get_mut(&peer) {
            last.used = now;
            let id = last.next;
            last.next.0 = id.0.wrapping_add(1);
            return id;
        }
        let id = MessageId(rng.random());
        let last = Last { next: MessageId(id.0.wrapping_add(1)), used: now };
        self.peers.insert(peer, now + self.lifetime, last);
        id
    }

    /// Forgets peers. Nobody has to be woken for it: what is due waits for the next time.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((peer, last)) = self.peers.pop_expired(now) {
            if last.used + self.lifetime > now {
                self.peers.insert(peer, now + self.lifetime, last);
            }
        }
    }

    pub fn len(&self) -> usize {
        self.peers.len()
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn peer(port: u16) -> Peer {
        Peer::udp(0, ([192, 0, 2, 1], port).into())
    }

    #[test]
    fn ids_count_up_for_each_peer_and_a_silent_peer_is_forgotten() {
        let (start, mut rng) = (Instant::now(), StdRng::seed_from_u64(1));
        let mut ids = MessageIds::new(&Parameters::default());
        let first = ids.next(start, peer(1), &mut rng);
        ids.next(start, peer(2), &mut rng);
        assert_eq!(ids.next(start + Duration::from_secs(200), peer(1), &mut rng).0, first.0.wrapping_add(1));
        ids.handle_timeout(start + Duration::from_secs(250));
        assert_eq!(ids.len(), 1);
        ids.handle_timeout(start + Duration::from_secs(500));
        assert_eq!(ids.len(), 0);
    }

    #[test]
    fn no_more_peers_are_known_than_the_bound_says() {
        let (start, mut rng) = (Instant::now(), StdRng::seed_from_u64(1));
        let mut ids = MessageIds::new(&Parameters { deduplication_entries: 10, ..Parameters::default() });
        for port in 0..100 {
            ids.next(start, peer(port), &mut rng);
        }
        assert_eq!(ids.len(), 10);
    }
}
