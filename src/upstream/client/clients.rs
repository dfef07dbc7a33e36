//! The registrations of each client of the broker. A device that registers again has two registrations with one
//! client ID for a while, and the broker keeps one connection of a client ID: it closes the older one when it has
//! authenticated a newer one.
//!
//! Therefore only the newest registration of a client ID may connect. An older one may use its connection until the
//! newer one has its own. It connects again only when all newer ones have ended.

use smallvec::SmallVec;

use lwm2m_base::id_map::IdMap;
use lwm2m_base::index::Index;
use lwm2m_base::sparse::ShrinkSparse;
use lwm2m_core::gateway::broker::RegistrationId;

/// Identifies a client ID for as long as something of it is known. A key is never used again in the life of the
/// process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientKey(u64);

/// Keeps the registrations of each client ID, and what they share.
#[derive(Debug)]
pub(crate) struct Clients<Shared> {
    keys: Index<ClientKey>,
    /// Boxed, so that the free places of the table are small.
    clients: IdMap<ClientKey, Box<Client<Shared>>>,
    next: u64,
}

#[derive(Debug)]
struct Client<Shared> {
    clientid: Box<str>,
    /// Lists the registrations, the oldest first.
    registrations: SmallVec<[RegistrationId; 2]>,
    shared: Shared,
}

impl<Shared> Default for Clients<Shared> {
    fn default() -> Self {
        Self { keys: Index::default(), clients: IdMap::default(), next: 0 }
    }
}

impl<Shared: Default> Clients<Shared> {
    /// Adds a registration, which is the newest of its client ID from now on.
    pub(crate) fn add(&mut self, clientid: &str, registration: RegistrationId) -> ClientKey {
        let key = self.key(clientid);
        let client = self.clients.get_mut(&key).expect("a key that is given out has its client");
        client.registrations.push(registration);
        key
    }

    /// Removes a registration. Returns whether it was the last one of its client ID.
    pub(crate) fn remove(&mut self, key: ClientKey, registration: RegistrationId) -> bool {
        let Some(client) = self.clients.get_mut(&key) else { return true };
        client.registrations.retain(|other| *other != registration);
        client.registrations.is_empty()
    }

    /// Forgets a client ID that has no registration, with all that its registrations shared.
    pub(crate) fn forget(&mut self, key: ClientKey) {
        if self.clients.get(&key).is_some_and(|client| client.registrations.is_empty())
            && let Some(client) = self.clients.remove(&key)
        {
            self.clients.shrink_sparse();
            self.keys.remove(&client.clientid, |own| *own == key);
        }
    }

    pub(crate) fn shared_mut(&mut self, key: ClientKey) -> Option<&mut Shared> {
        self.clients.get_mut(&key).map(|client| &mut client.shared)
    }

    pub(crate) fn shared(&self, key: ClientKey) -> Option<&Shared> {
        self.clients.get(&key).map(|client| &client.shared)
    }

    /// Lists the registrations, the oldest first.
    pub(crate) fn registrations(&self, key: ClientKey) -> &[RegistrationId] {
        self.clients.get(&key).map_or(&[], |client| &client.registrations)
    }

    pub(crate) fn newest(&self, key: ClientKey) -> Option<RegistrationId> {
        self.registrations(key).last().copied()
    }

    /// Returns the registrations before this one, the oldest first.
    pub(crate) fn older(&self, key: ClientKey, registration: RegistrationId) -> Vec<RegistrationId> {
        self.registrations(key).iter().copied().take_while(|other| *other != registration).collect()
    }

    /// Returns the registrations after this one, the newest first.
    pub(crate) fn newer(
        &self,
        key: ClientKey,
        registration: RegistrationId,
    ) -> impl Iterator<Item = RegistrationId> + '_ {
        self.registrations(key).iter().rev().copied().take_while(move |other| *other != registration)
    }

    /// Returns whether a newer registration of the client ID exists.
    pub(crate) fn is_superseded(&self, key: ClientKey, registration: RegistrationId) -> bool {
        self.newer(key, registration).next().is_some()
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.clients.len()
    }

    fn key(&mut self, clientid: &str) -> ClientKey {
        let has_id = |key: &ClientKey| self.clients.get(key).is_some_and(|client| &*client.clientid == clientid);
        if let Some(key) = self.keys.candidates(clientid).copied().find(has_id) {
            return key;
        }
        let key = ClientKey(self.next);
        self.next += 1;
        let client = Client { clientid: clientid.into(), registrations: SmallVec::new(), shared: Shared::default() };
        self.keys.insert(clientid, key);
        self.clients.insert(key, Box::new(client));
        key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: RegistrationId = RegistrationId(1);
    const B: RegistrationId = RegistrationId(2);
    const C: RegistrationId = RegistrationId(3);

    #[test]
    fn each_registration_supersedes_those_before_it() {
        let mut clients = Clients::<u32>::default();
        let key = clients.add("ep", A);
        assert!(!clients.is_superseded(key, A));
        assert_eq!((clients.add("ep", B), clients.add("ep", C)), (key, key));
        assert_ne!(clients.add("other", RegistrationId(4)), key);
        assert_eq!(clients.newest(key), Some(C));
        assert_eq!(clients.older(key, C), [A, B]);
        assert_eq!(clients.newer(key, A).collect::<Vec<_>>(), [C, B]);
        assert!(clients.is_superseded(key, A) && clients.is_superseded(key, B) && !clients.is_superseded(key, C));

        assert!(!clients.remove(key, C));
        assert!(!clients.is_superseded(key, B));
        assert!(!clients.remove(key, A));
        assert!(clients.remove(key, B));
    }

    #[test]
    fn what_registrations_have_in_common_is_kept_until_it_is_forgotten() {
        let mut clients = Clients::<u32>::default();
        let key = clients.add("ep", A);
        *clients.shared_mut(key).unwrap() = 7;
        clients.forget(key);
        assert_eq!(clients.shared(key), Some(&7), "a registration is there");
        clients.remove(key, A);
        assert_eq!(clients.add("ep", B), key);
        assert_eq!(clients.shared(key), Some(&7));
        clients.remove(key, B);
        clients.forget(key);
        assert_eq!((clients.shared(key), clients.len()), (None, 0));
        assert_ne!(clients.add("ep", C), key);
    }
}
