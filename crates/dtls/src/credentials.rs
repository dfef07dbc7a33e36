//! Identities of devices and the keys that prove them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

/// The identity of a device as the handshake proved it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Identity {
    Psk(PskIdentity),
    Certificate {
        /// CN of the subject.
        common_name: Option<String>,
        /// DNS names and URIs among the subject's alternative names, in their order.
        alternative_names: Vec<String>,
    },
    RawPublicKey {
        /// The name of the key in the configuration.
        name: String,
    },
    /// The device proved no identity, which the configuration allows.
    Unknown,
}

impl Identity {
    /// Returns the name that is compared with the endpoint name: the PSK identity, the common name (or the first
    /// alternative name if there is none), or the name of the key.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Psk(identity) => Some(identity.as_str()),
            Self::Certificate { common_name: Some(name), .. } | Self::RawPublicKey { name } => Some(name),
            Self::Certificate { common_name: None, alternative_names } => alternative_names.first().map(String::as_str),
            Self::Unknown => None,
        }
    }
}

/// RFC 4279 section 5.1: it is UTF-8. Ours is neither empty nor longer than [`PskIdentity::MAX`].
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PskIdentity(Arc<str>);

impl PskIdentity {
    /// Bytes. RFC 4279 section 5.3 asks for at least 128.
    pub const MAX: usize = 255;

    pub fn new(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let fits = !text.is_empty() && text.len() <= Self::MAX && !text.contains('\0');
        fits.then(|| Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PskIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for PskIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

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
}

impl fmt::Debug for PskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PskKey(..)")
    }
}

/// The result of a key look-up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyAnswer {
    Found {
        key: PskKey,
        keep_for: Duration,
    },
    Unknown {
        keep_for: Duration,
    },
    /// The look-up failed. The device gets no answer, so that it tries again.
    Unavailable,
}
