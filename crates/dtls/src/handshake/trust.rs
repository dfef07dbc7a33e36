//! Verifies clients against pinned certificates and keys, in addition to OpenSSL's authorities.

use std::collections::{HashMap, HashSet};

use openssl::error::ErrorStack;
use openssl::nid::Nid;
use openssl::pkey::{PKey, PKeyRef, Public};
use openssl::ssl::SslRef;
use openssl::x509::{X509, X509NameRef, X509Ref, X509StoreContextRef, X509VerifyResult};
use sha2::{Digest, Sha256};

use lwm2m_base::identity::Identity;

use super::acceptor_config::{CredentialError, Pinned};
#[cfg(raw_public_keys)]
use super::ffi;

type Sha256Fingerprint = [u8; 32];

/// Bytes of a name, and names, that are taken from a certificate: the association keeps them as long as it lives.
const MAX_NAME: usize = 255;
const MAX_ALTERNATIVE_NAMES: usize = 8;

/// The pinned certificates and keys, by SHA-256.
#[derive(Debug, Default)]
pub(super) struct Trust {
    /// Whole certificates.
    certificates: HashSet<Sha256Fingerprint>,
    /// The pinned public keys (SubjectPublicKeyInfo), with their names in the configuration.
    keys: HashMap<Sha256Fingerprint, String>,
}

impl Trust {
    pub(super) fn new(pinned: &[Pinned]) -> Result<Self, CredentialError> {
        let mut trust = Self::default();
        pinned.iter().try_for_each(|pinned| trust.pin(pinned))?;
        Ok(trust)
    }

    fn pin(&mut self, Pinned { name, pem }: &Pinned) -> Result<(), CredentialError> {
        let unreadable = || CredentialError::Pinned { name: name.clone() };
        let certificates = X509::stack_from_pem(pem).unwrap_or_default();
        if certificates.is_empty() {
            let key = PKey::public_key_from_pem(pem).map_err(|_| unreadable())?;
            self.keys.insert(key_fingerprint(&key).map_err(|_| unreadable())?, name.clone());
        }
        for certificate in certificates {
            self.certificates.insert(certificate_fingerprint(&certificate).map_err(|_| unreadable())?);
        }
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.certificates.is_empty() && self.keys.is_empty()
    }

    #[cfg_attr(not(raw_public_keys), expect(dead_code, reason = "there are no raw public keys"))]
    pub(crate) fn has_keys(&self) -> bool {
        !self.keys.is_empty()
    }

    /// Decides for OpenSSL whether what a client showed is trusted; `ok` is OpenSSL's own result. The CertificateVerify
    /// proves separately that the client has the private key.
    ///
    /// A pin is the whole of the trust: neither the dates nor the issuer of a pinned certificate matter, it is trusted
    /// until it is no longer configured.
    pub(super) fn verify(&self, ok: bool, context: &mut X509StoreContextRef) -> bool {
        let trusted = ok || self.holds_leaf(context) || self.holds_raw_key(context);
        if trusted {
            context.set_error(X509VerifyResult::OK);
        }
        trusted
    }

    fn holds_leaf(&self, context: &X509StoreContextRef) -> bool {
        let leaf = context.chain().and_then(|chain| chain.get(0));
        leaf.is_some_and(|leaf| self.holds_certificate(leaf).unwrap_or(false))
    }

    fn holds_certificate(&self, certificate: &X509Ref) -> Result<bool, ErrorStack> {
        let whole = certificate_fingerprint(certificate)?;
        let key = certificate.public_key()?;
        Ok(self.certificates.contains(&whole) || self.keys.contains_key(&key_fingerprint(&key)?))
    }

    #[cfg(raw_public_keys)]
    fn holds_raw_key(&self, context: &X509StoreContextRef) -> bool {
        ffi::raw_public_key_to_verify(context).is_some_and(|key| self.key_identity(key).is_some())
    }

    #[cfg(not(raw_public_keys))]
    fn holds_raw_key(&self, _context: &X509StoreContextRef) -> bool {
        false
    }

    /// Returns the identity of the client after a finished handshake without PSK.
    ///
    /// A client with a pinned key gets the name of the pin, whatever certificate it shows: nobody vouches for the
    /// names in that certificate, and the client could write those of another device.
    pub(super) fn identity(&self, ssl: &SslRef) -> Identity {
        let Some(certificate) = ssl.peer_certificate() else {
            return self.raw_key_identity(ssl).unwrap_or(Identity::Unknown);
        };
        let pinned = certificate.public_key().ok().and_then(|key| self.key_identity(&key));
        pinned.unwrap_or_else(|| certificate_identity(&certificate))
    }

    #[cfg(raw_public_keys)]
    fn raw_key_identity(&self, ssl: &SslRef) -> Option<Identity> {
        self.key_identity(ffi::peer_raw_public_key(ssl)?)
    }

    #[cfg(not(raw_public_keys))]
    fn raw_key_identity(&self, _ssl: &SslRef) -> Option<Identity> {
        None
    }

    fn key_identity(&self, key: &PKeyRef<Public>) -> Option<Identity> {
        let name = self.keys.get(&key_fingerprint(key).ok()?)?;
        Some(Identity::RawPublicKey { name: name.clone() })
    }
}

fn certificate_identity(certificate: &X509Ref) -> Identity {
    let alternative_names = certificate.subject_alt_names();
    let alternative_names = alternative_names
        .iter()
        .flatten()
        .filter_map(|name| name.dnsname().or_else(|| name.uri()))
        .filter(|name| is_plain(name))
        .take(MAX_ALTERNATIVE_NAMES)
        .map(str::to_owned)
        .collect();
    Identity::Certificate { common_name: common_name(certificate.subject_name()), alternative_names }
}

/// Returns the last common name, which is the most specific (RFC 6125 section 2.3.1, X.520).
fn common_name(subject: &X509NameRef) -> Option<String> {
    let name = subject.entries_by_nid(Nid::COMMONNAME).last()?;
    name.data().to_string().ok().filter(|name| is_plain(name))
}

/// Returns whether a name has no NUL: issuer and reader would understand it differently.
fn is_plain(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len()) && !name.contains('\0')
}

fn certificate_fingerprint(certificate: &X509Ref) -> Result<Sha256Fingerprint, ErrorStack> {
    Ok(Sha256::digest(certificate.to_der()?).into())
}

fn key_fingerprint(key: &PKeyRef<Public>) -> Result<Sha256Fingerprint, ErrorStack> {
    Ok(Sha256::digest(key.public_key_to_der()?).into())
}
