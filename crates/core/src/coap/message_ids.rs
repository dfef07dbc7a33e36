//! The message ids of sent messages (RFC 7252 section 4.4). Peers share a fixed number of Message ID variables, as that
//! section proposes, so that a peer costs no memory.

use std::hash::{DefaultHasher, Hash, Hasher};

use rand::RngExt;
use rand::rngs::StdRng;

use lwm2m_base::Peer;

use super::MessageId;

/// The number of variables. With it a million messages in EXCHANGE_LIFETIME, evenly distributed over the peers, have
/// ids that are new to their peers.
const VARIABLES: usize = 4_096;

/// Counts up each variable from a random start. A secret decides which variable a peer has.
#[derive(Debug)]
pub(crate) struct MessageIds {
    next: Box<[u16]>,
    secret: u64,
}

impl MessageIds {
    pub(super) fn new(rng: &mut StdRng) -> Self {
        Self { next: (0..VARIABLES).map(|_| rng.random()).collect(), secret: rng.random() }
    }

    /// Returns the next message id for this peer.
    pub(super) fn next(&mut self, peer: Peer) -> MessageId {
        let place = self.place(peer);
        let id = self.next[place];
        self.next[place] = id.wrapping_add(1);
        MessageId(id)
    }

    fn place(&self, peer: Peer) -> usize {
        let mut hasher = DefaultHasher::new();
        (self.secret, peer).hash(&mut hasher);
        hasher.finish() as usize % VARIABLES
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use rand::SeedableRng;

    use super::*;

    fn peer(port: u16) -> Peer {
        Peer::udp(0, ([192, 0, 2, 1], port).into())
    }

    #[test]
    fn a_peer_is_sent_no_id_twice_before_all_were_used_and_other_peers_begin_elsewhere() {
        let mut ids = MessageIds::new(&mut StdRng::seed_from_u64(1));
        let sent: HashSet<u16> = (0..=u16::MAX).map(|_| ids.next(peer(1)).0).collect();
        assert_eq!(sent.len(), 65_536);
        let begins: HashSet<u16> = (0..1_000).map(|port| ids.next(peer(port)).0).collect();
        assert!(begins.len() > 800, "{}", begins.len());
    }
}
