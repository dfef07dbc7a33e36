//! The pre-shared keys of devices, and the answers to look-ups of them. Whose keys they are: [`lwm2m_base::identity`].

use std::fmt;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use lwm2m_base::AssociationId;
use lwm2m_base::identity::PskIdentity;

/// A pre-shared key. Overwritten when it goes; its `Debug` says nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct PskKey(Zeroizing<Box<[u8]>>);

impl PskKey {
    /// Bytes. RFC 4279 section 5.3 asks for at least 64.
    pub const MAX: usize = 256;

    /// Creates a key; `None` if it is empty or longer than [`PskKey::MAX`].
    pub fn new(bytes: impl Into<Box<[u8]>>) -> Option<Self> {
        let bytes = Zeroizing::new(bytes.into());
        (1..=Self::MAX).contains(&bytes.len()).then(|| Self(bytes))
    }

    /// Returns the key, for the handshake.
    pub fn reveal(&self) -> &[u8] {
        &self.0
    }

    /// Returns what an association that is made with this key remembers of it.
    pub(super) fn tag(&self, association: AssociationId) -> KeyTag {
        let mut digest = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of every length");
        digest.update(&association.0.to_be_bytes());
        let digest = digest.finalize().into_bytes();
        let mut tag = [0; KeyTag::LENGTH];
        tag.copy_from_slice(&digest[..KeyTag::LENGTH]);
        KeyTag(tag)
    }
}

/// A digest by which an association knows the pre-shared key that made it, after the key was changed too. It differs
/// from one association to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeyTag(pub [u8; Self::LENGTH]);

impl KeyTag {
    pub(crate) const LENGTH: usize = 8;
}

/// The mark by which an association recognizes the pre-shared key that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeyMark {
    pub kind: KeyKind,
    /// `None` for an association that an earlier version of the program saved.
    pub tag: Option<KeyTag>,
}

impl KeyMark {
    pub(crate) fn new(key: &PskKey, kind: KeyKind, association: AssociationId) -> Self {
        Self { kind, tag: Some(key.tag(association)) }
    }
}

impl fmt::Debug for PskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PskKey(..)")
    }
}

/// The list that a pre-shared key is from, which decides how the key may be used. An association keeps the kind of the
/// key that made it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum KeyKind {
    /// The key is for registrations.
    #[default]
    Registration,
    /// The bootstrap server generated the key, for registrations.
    Generated,
    /// The key is for bootstrap only.
    Bootstrap,
}

/// The key of an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundKey {
    pub key: PskKey,
    /// The key before this one, which holds until the device is known to use the new one.
    pub former: Option<PskKey>,
    pub kind: KeyKind,
}

impl FoundKey {
    /// Creates the only key of an identity.
    pub fn new(key: PskKey, kind: KeyKind) -> Self {
        Self { key, former: None, kind }
    }
}

impl From<PskKey> for FoundKey {
    /// Creates the only key of an identity, which is for registrations.
    fn from(key: PskKey) -> Self {
        Self::new(key, KeyKind::Registration)
    }
}

/// Describes the pre-shared key of an association or of a handshake in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyUse<'a> {
    pub identity: &'a PskIdentity,
    pub kind: KeyKind,
    /// The realm of the socket that the handshake came to.
    pub realm: KeyRealm,
    pub(super) key: UsedKey<'a>,
}

/// The present state of a key that an association uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UsedKey<'a> {
    /// The key of a handshake.
    Key(&'a PskKey),
    /// The mark of the key of an association.
    Marked(AssociationId, KeyTag),
    /// The key of an association that an earlier version of the program saved.
    Unknown,
}

impl<'a> KeyUse<'a> {
    /// Describes the use of a key in a handshake at the default realm.
    pub fn of_handshake(identity: &'a PskIdentity, kind: KeyKind, key: &'a PskKey) -> Self {
        Self { identity, kind, realm: KeyRealm::default(), key: UsedKey::Key(key) }
    }

    /// Returns whether this key is the one that is used; `None` for an association that an earlier version of the
    /// program saved without a mark of its key.
    pub fn is_of(&self, key: &PskKey) -> Option<bool> {
        match self.key {
            UsedKey::Key(used) => Some(used == key),
            UsedKey::Marked(association, tag) => Some(key.tag(association) == tag),
            UsedKey::Unknown => None,
        }
    }
}

/// A set of keys. Each socket has one ([`super::DtlsConfig::realms`]): the same identity may have another key, or none,
/// at a socket of another realm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyRealm(pub u8);

/// Names the key that a handshake needs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyQuestion {
    pub identity: PskIdentity,
    /// The realm of the socket that the handshake came to.
    pub realm: KeyRealm,
}

impl From<PskIdentity> for KeyQuestion {
    /// Names the key of an identity in the default realm.
    fn from(identity: PskIdentity) -> Self {
        Self { identity, realm: KeyRealm::default() }
    }
}

impl fmt::Display for KeyQuestion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.identity, f)
    }
}

/// The result of a key look-up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyAnswer {
    Found {
        key: FoundKey,
        keep_for: Duration,
    },
    Unknown {
        keep_for: Duration,
    },
    /// The look-up failed. The device gets no answer, so that it tries again.
    Unavailable,
}
