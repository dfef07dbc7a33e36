//! The associations, by what their records are found with.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use lwm2m_base::AssociationId;
use lwm2m_base::deadlines::IdDeadlines;
use lwm2m_base::rate::SourceNetwork;

use super::association::Association;
use super::credentials::{KeyRealm, KeyUse};
use super::record::OwnCid;
use lwm2m_base::identity::Identity;

/// The index of a socket and the remote address.
pub(crate) type PeerAddress = (u16, SocketAddr);

/// An identity with more associations than this loses its own oldest one when there is no room.
const OWN_EVICTION_ABOVE: usize = 4;

#[derive(Default)]
pub(crate) struct Associations {
    /// Our connection id is the association's id.
    by_id: HashMap<AssociationId, Box<Association>>,
    /// An association without our connection id has its place for itself. Of those with one it is the last to come
    /// there: behind a NAT an address is given to one device after the other.
    by_place: HashMap<PeerAddress, AssociationId>,
    /// The associations of each identity, the oldest first.
    by_identity: HashMap<Arc<Identity>, SmallVec<[AssociationId; 1]>>,
    /// The number of associations at each address whose devices have proved an identity.
    by_source: HashMap<SourceNetwork, usize>,
    /// The time at which each association is checked: it is forgotten if nothing was received since the last check.
    silence: IdDeadlines<AssociationId>,
}

impl Associations {
    pub(crate) fn insert(&mut self, mut association: Association, idle: Duration) {
        let id = association.id;
        if let Some((known, _)) = self.by_identity.get_key_value(&association.identity) {
            association.identity = Arc::clone(known);
        }
        self.by_identity.entry(Arc::clone(&association.identity)).or_default().push(id);
        self.silence.set(id, association.last_heard() + idle);
        let place = association.place;
        let by_cid = association.has_own_cid;
        self.add_identified(&association.identity, place);
        self.by_id.insert(id, Box::new(association));
        self.claim_address(id, by_cid, place);
    }

    pub(crate) fn remove(&mut self, id: AssociationId) -> Option<Box<Association>> {
        let association = self.by_id.remove(&id)?;
        self.silence.cancel(id);
        self.release_address(id, association.place);
        self.remove_identified(&association.identity, association.place);
        if let Some(ids) = self.by_identity.get_mut(&association.identity) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.by_identity.remove(&association.identity);
            }
        }
        Some(association)
    }

    /// Changes the address of an association, and returns the one before.
    pub(crate) fn moved(&mut self, id: AssociationId, to: PeerAddress) -> Option<PeerAddress> {
        let association = self.by_id.get_mut(&id)?;
        let by_cid = association.has_own_cid;
        let from = std::mem::replace(&mut association.place, to);
        let identity = Arc::clone(&association.identity);
        self.remove_identified(&identity, from);
        self.add_identified(&identity, to);
        self.release_address(id, from);
        self.claim_address(id, by_cid, to);
        Some(from)
    }

    /// Takes one out that was silent for too long, if there is one.
    pub(crate) fn pop_silent(&mut self, now: Instant, idle: Duration) -> Option<Box<Association>> {
        while let Some(id) = self.silence.pop_expired(now) {
            let Some(association) = self.by_id.get(&id) else { continue };
            let until = association.last_heard() + idle;
            if until <= now {
                return self.remove(id);
            }
            self.silence.set(id, until);
        }
        None
    }

    /// Removes an association to make room for one of this identity: the oldest one of the identity, if it has more
    /// than a few, so that a device that makes handshake after handshake evicts no other device; otherwise the
    /// association that was silent longest.
    pub(crate) fn pop_for(&mut self, identity: &Identity, idle: Duration) -> Option<Box<Association>> {
        let own = self
            .by_identity
            .get(identity)
            .filter(|own| own.len() > OWN_EVICTION_ABOVE)
            .and_then(|own| own.first().copied());
        match own {
            Some(oldest) => self.remove(oldest),
            None => self.pop_most_silent(idle),
        }
    }

    pub(crate) fn get_mut(&mut self, id: AssociationId) -> Option<&mut Association> {
        self.by_id.get_mut(&id).map(Box::as_mut)
    }

    pub(crate) fn get(&self, id: AssociationId) -> Option<&Association> {
        self.by_id.get(&id).map(Box::as_ref)
    }

    /// Returns the association whose records carry this connection id of ours. A record with a connection id is never
    /// looked up by its address, which may belong to another device by now (RFC 9146 section 3).
    pub(crate) fn by_cid(&self, cid: OwnCid) -> Option<AssociationId> {
        let id = AssociationId(u64::from_be_bytes(cid.0));
        self.get(id).filter(|association| association.has_own_cid).map(|association| association.id)
    }

    /// Returns the association at this address whose records carry no connection id.
    pub(crate) fn by_place(&self, place: PeerAddress) -> Option<AssociationId> {
        self.at(place).filter(|association| !association.has_own_cid).map(|association| association.id)
    }

    /// Returns the association that was seen last at an address.
    pub(crate) fn at(&self, place: PeerAddress) -> Option<&Association> {
        self.by_place.get(&place).and_then(|id| self.get(*id))
    }

    /// Returns the associations that were established with a matching key.
    pub(crate) fn with_keys(
        &self,
        realm_of: impl Fn(u16) -> KeyRealm,
        wanted: impl Fn(KeyUse<'_>) -> bool,
    ) -> Vec<AssociationId> {
        let is_wanted = |association: &Association| association.key_use(&realm_of).is_some_and(&wanted);
        self.by_id.values().filter(|association| is_wanted(association)).map(|association| association.id).collect()
    }

    /// Returns the associations of an identity.
    pub(crate) fn of(&self, identity: &Identity) -> &[AssociationId] {
        self.by_identity.get(identity).map_or(&[], |ids| ids.as_slice())
    }

    /// Returns whether a device that has proved its identity was seen last at this address.
    pub(crate) fn is_known(&self, source: SourceNetwork) -> bool {
        self.by_source.contains_key(&source)
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.silence.next()
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = AssociationId> {
        self.by_id.keys().copied()
    }

    /// Iterates over the sockets and addresses of associations without connection ID.
    pub(crate) fn places_without_id(&self) -> impl Iterator<Item = PeerAddress> {
        let without = self.by_id.values().filter(|association| !association.has_own_cid);
        without.map(|association| association.place)
    }

    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    fn pop_most_silent(&mut self, idle: Duration) -> Option<Box<Association>> {
        while let Some((at, id)) = self.silence.first() {
            let until = self.by_id.get(&id)?.last_heard() + idle;
            if until <= at {
                return self.remove(id);
            }
            // Something was heard since: it is not the first any more. Each record makes this happen once at most.
            self.silence.set(id, until);
        }
        None
    }

    fn add_identified(&mut self, identity: &Identity, (_, address): PeerAddress) {
        if *identity != Identity::Unknown {
            *self.by_source.entry(SourceNetwork::of(address)).or_default() += 1;
        }
    }

    fn remove_identified(&mut self, identity: &Identity, (_, address): PeerAddress) {
        let source = SourceNetwork::of(address);
        if *identity != Identity::Unknown
            && let Some(count) = self.by_source.get_mut(&source)
        {
            *count -= 1;
            if *count == 0 {
                self.by_source.remove(&source);
            }
        }
    }

    fn claim_address(&mut self, id: AssociationId, by_cid: bool, place: PeerAddress) {
        let taken = self.by_place(place).is_some();
        if !(by_cid && taken) {
            self.by_place.insert(place, id);
        }
    }

    fn release_address(&mut self, id: AssociationId, place: PeerAddress) {
        if self.by_place.get(&place) == Some(&id) {
            self.by_place.remove(&place);
        }
    }
}
