//! The sessions over plain UDP. Any peer can begin one, so they may take only a part of the places, and each address
//! has a share of that.

use std::collections::HashMap;

use lwm2m_base::Peer;
use lwm2m_base::rate::SourceNetwork;

/// Divisor for the share of one address: when half of the places are taken, an address may have one in this many of
/// them. Below that, one address may have all: many devices may be behind one NAT.
const ADDRESS_SHARE: usize = 50;

/// Counts the sessions over plain UDP by address.
#[derive(Debug, Default)]
pub(super) struct PlainSessions {
    total: usize,
    by_address: HashMap<SourceNetwork, usize>,
}

impl PlainSessions {
    pub(super) fn insert(&mut self, peer: Peer) {
        if let Some(source) = source_of(peer) {
            self.total += 1;
            *self.by_address.entry(source).or_default() += 1;
        }
    }

    /// Removes a session that was inserted.
    pub(super) fn remove(&mut self, peer: Peer) {
        let Some(source) = source_of(peer) else { return };
        let Some(count) = self.by_address.get_mut(&source) else { return };
        self.total -= 1;
        *count -= 1;
        if *count == 0 {
            self.by_address.remove(&source);
        }
    }

    /// Returns whether a session of this peer has one of `most` places, after the session of `former` has ended. A peer
    /// with DTLS needs none of them.
    pub(super) fn has_room(&self, peer: Peer, former: Option<Peer>, most: usize) -> bool {
        let Some(source) = source_of(peer) else { return true };
        let former = former.and_then(source_of);
        let total = self.total - usize::from(former.is_some());
        let own = self.by_address.get(&source).copied().unwrap_or_default() - usize::from(former == Some(source));
        let is_crowded = total >= most.div_ceil(2);
        total < most && !(is_crowded && own >= most.div_ceil(ADDRESS_SHARE))
    }
}

/// Returns the address of a peer without DTLS.
fn source_of(peer: Peer) -> Option<SourceNetwork> {
    peer.association.is_none().then(|| SourceNetwork::of(peer.address))
}
