//! Generates the keys and certificates of tests.

use std::fs;
use std::path::{Path, PathBuf};

use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::ssl::SslContextBuilder;
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::{X509, X509Builder, X509Name};

use super::ffi;

/// The credentials of a test client.
#[derive(Clone)]
pub enum ClientCredentials {
    Psk {
        identity: String,
        key: Vec<u8>,
    },
    Certificate(Certified),
    /// A raw public key without a certificate (RFC 7250). The client asks the server for one, too.
    RawPublicKey(PKey<Private>),
    Nothing,
}

/// A certificate with its key.
#[derive(Clone)]
pub struct Certified {
    pub certificate: X509,
    pub key: PKey<Private>,
}

impl ClientCredentials {
    pub(super) fn install(&self, context: &mut SslContextBuilder) {
        match self {
            Self::Psk { identity, key } => {
                let (identity, key) = (identity.clone(), key.clone());
                context.set_psk_client_callback(move |_, _, identity_out, key_out| {
                    identity_out[..identity.len()].copy_from_slice(identity.as_bytes());
                    identity_out[identity.len()] = 0;
                    key_out[..key.len()].copy_from_slice(&key);
                    Ok(key.len())
                });
            }
            Self::Certificate(Certified { certificate, key }) => {
                context.set_certificate(certificate).expect("a certificate");
                context.set_private_key(key).expect("its key");
            }
            Self::RawPublicKey(key) => {
                context.set_private_key(key).expect("a key");
                ffi::use_raw_public_keys(context);
            }
            Self::Nothing => {}
        }
    }
}

/// Generates a P-256 key.
pub fn ec_key() -> PKey<Private> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).expect("OpenSSL has P-256");
    PKey::from_ec_key(EcKey::generate(&group).expect("randomness")).expect("memory")
}

pub fn rsa_key() -> PKey<Private> {
    PKey::from_rsa(Rsa::generate(2048).expect("randomness")).expect("memory")
}

/// Generates an RSA key that is too short to be secure.
pub fn short_rsa_key() -> PKey<Private> {
    PKey::from_rsa(Rsa::generate(1024).expect("randomness")).expect("memory")
}

impl Certified {
    /// Issues the certificate of an authority, signed by itself.
    pub fn authority(name: &str) -> Self {
        CertificateRequest::new(name).authority().issue(None)
    }

    /// Issues a certificate for this common name, which is a DNS name of it too; `localhost` includes 127.0.0.1.
    pub fn certify(&self, name: &str) -> Self {
        let request = CertificateRequest::new(name).with_dns_name(name);
        let request = if name == "localhost" { request.with_ip_address("127.0.0.1") } else { request };
        request.issue(Some(self))
    }

    /// Writes `NAME.pem` and `NAME-key.pem` into a folder, and returns their paths.
    pub fn write(&self, folder: &Path, name: &str) -> (PathBuf, PathBuf) {
        let (certificate, key) = (folder.join(format!("{name}.pem")), folder.join(format!("{name}-key.pem")));
        fs::write(&certificate, self.certificate_pem()).expect("a folder that can be written");
        fs::write(&key, self.key_pem()).expect("a folder that can be written");
        (certificate, key)
    }

    pub fn certificate_pem(&self) -> Vec<u8> {
        self.certificate.to_pem().expect("a certificate has a form")
    }

    pub fn key_pem(&self) -> Vec<u8> {
        self.key.private_key_to_pem_pkcs8().expect("a key has a form")
    }
}

/// Returns the PEM of a public key, to be pinned.
pub fn public_key_pem(key: &PKey<Private>) -> Vec<u8> {
    key.public_key_to_pem().expect("a key has a form")
}

/// Describes a certificate that is to be issued.
pub struct CertificateRequest {
    name: String,
    key: PKey<Private>,
    dns_names: Vec<String>,
    ip_addresses: Vec<String>,
    /// Days from today, from and to.
    valid: (i64, i64),
    authority: bool,
    digest: MessageDigest,
}

impl CertificateRequest {
    pub fn new(name: &str) -> Self {
        let (name, digest) = (name.to_owned(), MessageDigest::sha256());
        Self {
            name,
            key: ec_key(),
            dns_names: Vec::new(),
            ip_addresses: Vec::new(),
            valid: (-2, 100),
            authority: false,
            digest,
        }
    }

    pub fn with_key(self, key: PKey<Private>) -> Self {
        Self { key, ..self }
    }

    pub fn with_dns_name(mut self, name: &str) -> Self {
        self.dns_names.push(name.to_owned());
        self
    }

    pub(crate) fn with_ip_address(mut self, address: &str) -> Self {
        self.ip_addresses.push(address.to_owned());
        self
    }

    /// Makes a certificate that expired yesterday.
    pub fn expired(self) -> Self {
        Self { valid: (-10, -1), ..self }
    }

    /// Sets the digest of the issuer's signature.
    pub fn signed_with(self, digest: MessageDigest) -> Self {
        Self { digest, ..self }
    }

    fn authority(self) -> Self {
        Self { authority: true, ..self }
    }

    /// Signs the certificate with the key of the issuer, or with its own.
    pub fn issue(self, issuer: Option<&Certified>) -> Certified {
        let subject = name(&self.name);
        let mut builder = X509Builder::new().expect("memory");
        builder.set_version(2).expect("version 3");
        let serial = BigNum::from_u32(self.name.len() as u32 + 1).and_then(|number| number.to_asn1_integer());
        builder.set_serial_number(&serial.expect("memory")).expect("memory");
        builder.set_subject_name(&subject).expect("memory");
        builder.set_pubkey(&self.key).expect("memory");
        builder.set_not_before(&day(self.valid.0)).expect("memory");
        builder.set_not_after(&day(self.valid.1)).expect("memory");
        if self.authority {
            let constraints = BasicConstraints::new().critical().ca().build().expect("memory");
            builder.append_extension(constraints).expect("memory");
        }
        if !self.dns_names.is_empty() || !self.ip_addresses.is_empty() {
            let mut names = SubjectAlternativeName::new();
            for name in &self.dns_names {
                names.dns(name);
            }
            for address in &self.ip_addresses {
                names.ip(address);
            }
            let names = names.build(&builder.x509v3_context(None, None)).expect("names");
            builder.append_extension(names).expect("memory");
        }
        let (issuer_name, issuer_key) =
            issuer.map_or((&*subject, &self.key), |issuer| (issuer.certificate.subject_name(), &issuer.key));
        builder.set_issuer_name(issuer_name).expect("memory");
        builder.sign(issuer_key, self.digest).expect("a signature");
        Certified { certificate: builder.build(), key: self.key }
    }
}

fn name(common_name: &str) -> X509Name {
    let mut name = X509Name::builder().expect("memory");
    name.append_entry_by_nid(Nid::ORGANIZATIONNAME, "test").expect("an entry");
    name.append_entry_by_nid(Nid::COMMONNAME, common_name).expect("an entry");
    name.build()
}

#[expect(clippy::disallowed_methods, reason = "certificates are checked by OpenSSL's clock")]
fn day(from_today: i64) -> Asn1Time {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    Asn1Time::from_unix(now as i64 + from_today * 24 * 3600).expect("a day")
}
