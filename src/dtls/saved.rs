//! What is kept of an association over a restart.

use std::fmt;

use zeroize::Zeroizing;

use crate::coap::AssociationId;

/// The record of an association. It has its keys in it: its `Debug` does not say them.
#[derive(Clone, PartialEq, Eq)]
pub struct SavedAssociation {
    pub id: AssociationId,
    /// Opaque; for [`super::Server::restore`].
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
