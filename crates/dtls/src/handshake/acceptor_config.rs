//! The configuration of an acceptor, and the errors in it.

use std::fmt;

use openssl::error::ErrorStack;
use zeroize::Zeroizing;

use lwm2m_base::secret::Secret;

/// The configuration of an [`Acceptor`](super::Acceptor). It holds the content of files, never their paths.
#[derive(Clone, Debug)]
pub struct AcceptorConfig {
    /// PEM: ours, then those of the authorities between it and the root.
    pub certificate_chain: Option<Vec<u8>>,
    /// PEM, of the certificate; or alone, as a raw public key.
    pub private_key: Option<PemSecret>,
    /// The password of an encrypted private key.
    pub private_key_password: Option<Secret>,
    /// PEM: the authorities that client certificates are of. Any one of these ends a chain, not only a root.
    pub authorities: Option<Vec<u8>>,
    pub pinned: Vec<Pinned>,
    pub verify: VerifyMode,
    /// Whether pre-shared keys are looked up with `FindKey`.
    pub psk: bool,
    /// RFC 7250, both ways: our key without a certificate for clients that want that, and clients with a pinned key.
    pub raw_public_keys: bool,
    /// Names of OpenSSL (EMQX's) or of IANA; empty: all that are possible.
    pub cipher_suites: Vec<String>,
    /// RFC 9146, for clients that offer it.
    pub connection_ids: bool,
    /// A client may resume a session of the last two hours by a ticket (RFC 5077).
    pub tickets: bool,
    /// Bytes of a datagram that a flight is cut into.
    pub mtu: u16,
}

impl AcceptorConfig {
    /// Bytes. OpenSSL cuts no flight into smaller pieces.
    pub const MIN_MTU: u16 = 256;
}

/// Controls whether clients have to show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifyMode {
    /// `verify_none`: no certificate is asked for.
    None,
    /// `verify_peer`.
    Peer {
        /// `fail_if_no_peer_cert`
        required: bool,
    },
}

/// A certificate or a public key that is trusted by itself.
#[derive(Clone, Debug)]
pub struct Pinned {
    /// The name in the configuration, which is also the name of a device with this public key.
    pub name: String,
    /// `CERTIFICATE`: that very certificate. `PUBLIC KEY`: any certificate of that key, or the raw public key.
    pub pem: Vec<u8>,
}

/// A private key in PEM. Overwritten when it goes; its `Debug` says nothing.
#[derive(Clone)]
pub struct PemSecret(Zeroizing<Vec<u8>>);

/// An error in the credentials or options of the server.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    #[error("neither pre-shared keys nor a private key: no handshake is possible")]
    Nothing,
    #[error("no certificate in PEM in the certificate file (certfile)")]
    NoCertificate,
    #[error("the certificate file (certfile) contains an unreadable certificate: {0}")]
    Certificate(#[source] ErrorStack),
    #[error("a certificate (certfile) without its private key (keyfile)")]
    CertificateWithoutKey,
    #[error("no private key in PEM in the key file (keyfile), or its password is wrong")]
    PrivateKey,
    #[error("the private key (keyfile) is not that of the certificate (certfile)")]
    KeyDoesNotFit,
    #[error("no certificate in PEM in the authorities' file (cacertfile)")]
    NoAuthority,
    #[error("the authorities' file (cacertfile) has an unreadable certificate: {0}")]
    Authority(#[source] ErrorStack),
    #[error("verify_peer needs authorities (cacertfile) or pinned certificates or keys")]
    NobodyToTrust,
    #[error("pinned {name}: neither a certificate nor a public key in PEM")]
    Pinned { name: String },
    #[error(
        "no such cipher suites, or none that this can do (DTLS 1.2 with PSK or ECDHE, AES in CCM, CCM_8, GCM, or CBC \
         with SHA-2): {}",
        names.join(", ")
    )]
    CipherSuites { names: Vec<String> },
    #[error("none of the cipher suites (ciphers, psk_ciphers) can be used with the credentials")]
    NoCipherSuite,
    #[error("raw public keys need OpenSSL 3.2, and this is {version}")]
    RawPublicKeys { version: &'static str },
    #[error("raw public keys need a private key (keyfile)")]
    RawPublicKeysWithoutKey,
    #[error("mtu is {mtu} bytes: OpenSSL needs at least {min}", min = AcceptorConfig::MIN_MTU)]
    Mtu { mtu: u16 },
    #[error("OpenSSL refused: {0}")]
    Library(#[from] ErrorStack),
}

impl Default for AcceptorConfig {
    /// Returns a configuration with pre-shared keys only.
    fn default() -> Self {
        Self {
            certificate_chain: None,
            private_key: None,
            private_key_password: None,
            authorities: None,
            pinned: Vec::new(),
            verify: VerifyMode::None,
            psk: true,
            raw_public_keys: false,
            cipher_suites: Vec::new(),
            connection_ids: true,
            tickets: true,
            // Under the 1,280 that every path of IPv6 carries, with its headers.
            mtu: 1200,
        }
    }
}

impl PemSecret {
    pub fn new(pem: Vec<u8>) -> Self {
        Self(Zeroizing::new(pem))
    }

    pub(super) fn pem(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for PemSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PemSecret(..)")
    }
}
