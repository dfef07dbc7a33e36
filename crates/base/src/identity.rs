//! The identity that a device proves in a DTLS handshake. The DTLS layer establishes it, and a registration is bound to
//! it.

use std::fmt;
use std::sync::Arc;

/// The identity of a device as a handshake proved it.
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
