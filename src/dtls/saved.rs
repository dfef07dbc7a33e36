//! What is kept of an association over a restart.

use std::fmt;

use zeroize::Zeroizing;

use crate::coap::AssociationId;

/// The record of an association. It has its keys in it: its `Debug` does not say them.
///
/// Sockets are numbers of a configuration, and the next process may have another one: they stand here, and not in `bytes`,
/// so that who keeps the record can keep the names of the listeners.
#[derive(Clone, PartialEq, Eq)]
pub struct SavedAssociation {
    pub id: AssociationId,
    /// The socket that it was made at: a part of its name, [`crate::coap::Peer`].
    pub made_at: u16,
    /// The socket that it is reached by.
    pub reached_by: u16,
    /// All the rest. Opaque; for [`super::Server::restore`].
    pub bytes: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for SavedAssociation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SavedAssociation({:?}, ..)", self.id)
    }
}

/// The news of one association, for the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AssociationChange {
    /// In the place of what was kept of it.
    Put(SavedAssociation),
    Remove(AssociationId),
}

impl AssociationChange {
    pub fn id(&self) -> AssociationId {
        match self {
            Self::Put(saved) => saved.id,
            Self::Remove(id) => *id,
        }
    }
}
