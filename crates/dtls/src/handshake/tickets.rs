//! Session tickets (RFC 5077) that a changed or revoked key makes worthless.
//!
//! OpenSSL asks for no key when a session is resumed. So a ticket carries a keyed digest of the identity and its key,
//! and the handshake compares that with the key of today before anything of the resumption leaves. The tickets' own
//! keys live as long as the [`Acceptor`](super::Acceptor): with new credentials no ticket of before is read.

use hmac::{Hmac, KeyInit, Mac};
use openssl::error::ErrorStack;
use openssl::rand::rand_bytes;
use openssl::ssl::SslRef;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::credentials::PskKey;
use lwm2m_base::identity::PskIdentity;

use super::negotiation::SharedNegotiation;

/// The key of those digests: without it a stolen ticket would reveal a guessable key.
pub(super) struct TicketKey(Zeroizing<[u8; 32]>);

impl TicketKey {
    pub(super) fn new() -> Result<Self, ErrorStack> {
        let mut secret = Zeroizing::new([0; 32]);
        rand_bytes(secret.as_mut_slice())?;
        Ok(Self(secret))
    }

    pub(super) fn note(&self, identity: &PskIdentity, key: &PskKey) -> Vec<u8> {
        self.digest(identity, key).finalize().into_bytes().to_vec()
    }

    pub(crate) fn belongs_to(&self, note: &[u8], identity: &PskIdentity, key: &PskKey) -> bool {
        self.digest(identity, key).verify_slice(note).is_ok()
    }

    fn digest(&self, identity: &PskIdentity, key: &PskKey) -> Hmac<Sha256> {
        let mut digest = Hmac::<Sha256>::new_from_slice(self.0.as_slice()).expect("HMAC takes keys of every length");
        digest.update(identity.as_str().as_bytes());
        // An identity has no NUL.
        digest.update(&[0]);
        digest.update(key.reveal());
        digest
    }
}

/// Returns the note that is written into the ticket of this session, if there is one.
pub(super) fn note(ssl: &SslRef) -> Option<Vec<u8>> {
    SharedNegotiation::of(ssl)?.lock().ticket_note.clone()
}

/// Returns whether this handshake may resume the session of a ticket.
pub(super) fn are_accepted(ssl: &SslRef) -> bool {
    SharedNegotiation::of(ssl).is_some_and(|negotiation| negotiation.lock().tickets_accepted)
}
