//! Shards that come and go, in a cluster: a node takes the associations of a shard over from another one, and forgets
//! them when it has the shard no more.

use std::net::SocketAddr;
use std::time::Instant;

use lwm2m_base::{AssociationId, Shard, ShardSet};
use lwm2m_cluster::Term;

use super::DtlsServer;
use super::saved::SavedAssociation;

impl DtlsServer {
    /// Takes a shard in this term, with its stored associations, after [`DtlsServer::restore`] with the terms of the
    /// node. Changes are kept of the records that cannot be restored: they are to be removed.
    pub fn restore_shard(&mut self, now: Instant, (shard, term): (Shard, Term), records: &[SavedAssociation]) {
        self.config.shards.insert(shard);
        self.use_term(shard, term);
        for record in records {
            // Without the node that has lost the shard, this one may have more than its share.
            if let Some(change) = self.restore_one(now, record, usize::MAX) {
                self.changes.push_removed(change.id());
            }
        }
    }

    /// Numbers the records of a shard in this term from now on. This process has not used it for the shard.
    pub fn use_term(&mut self, shard: Shard, term: Term) {
        self.terms.set_term(shard, Some(term));
    }

    /// Replaces the shards whose connection IDs the server gives out.
    pub fn serve_shards(&mut self, shards: ShardSet) {
        self.config.shards = shards;
    }

    /// Marks the associations of a shard as changed, so that their windows are stored as they are.
    pub fn change_shard(&mut self, shard: Shard) {
        for id in self.of_shard(shard) {
            self.changed(id);
        }
    }

    /// Forgets the associations and the handshakes of a shard, without a word to their devices or to the store. Returns
    /// the sockets and the addresses of their devices.
    pub fn forget_shard(&mut self, shard: Shard) -> Vec<(u16, SocketAddr)> {
        self.config.shards.remove(shard);
        self.wanted_terms.remove(shard);
        let mut places = Vec::new();
        for id in self.of_shard(shard) {
            places.extend(self.associations.remove(id).map(|association| association.place));
        }
        for id in self.handshakes.of_shard(shard) {
            places.extend(self.end_handshake(id).map(|handshake| handshake.place));
        }
        self.changes.forget(|id| id.shard() == shard);
        self.terms.set_term(shard, None);
        places
    }

    /// Returns the shards whose associations have used half of the numbers of their term, since the last call.
    pub fn take_wanted_terms(&mut self) -> ShardSet {
        std::mem::replace(&mut self.wanted_terms, ShardSet::EMPTY)
    }

    fn of_shard(&self, shard: Shard) -> Vec<AssociationId> {
        self.associations.ids().filter(|id| id.shard() == shard).collect()
    }
}
