//! Records of DTLS 1.2 (RFC 6347 section 4.1, RFC 9146 section 4).

/// The connection id that a client puts into its records to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OwnCid(pub [u8; 8]);

/// The connection id that we put into our records to a client. Not empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCid(Box<[u8]>);

impl PeerCid {
    /// None for an empty one (our records are without then) and for one that does not fit into the extension.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        (1..=255).contains(&bytes.len()).then(|| Self(bytes.into()))
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}
