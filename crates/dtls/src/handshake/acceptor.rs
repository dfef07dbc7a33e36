//! The credentials and choices of this side, checked once and kept in OpenSSL's contexts.

use std::fmt;
use std::sync::Arc;

use openssl::error::ErrorStack;
use openssl::pkey::{Id, PKey, Private};
use openssl::ssl::{
    ExtensionContext, SslAlert, SslContext, SslContextBuilder, SslMethod, SslOptions, SslSessionCacheMode,
    SslVerifyMode, SslVersion,
};
use openssl::x509::X509;
use openssl::x509::verify::X509VerifyFlags;

use lwm2m_base::secret::Secret;

use super::acceptor_config::{AcceptorConfig, CredentialError, PemSecret, VerifyMode};
use super::ffi;
use super::negotiation::SharedNegotiation;
use super::suites::{self, Authentication, CipherSuite};
use super::tickets::TicketKey;
use super::trust::Trust;

/// The checked credentials and options of all handshakes. An acceptor is cheap to clone.
#[derive(Clone)]
pub struct Acceptor(Arc<Contexts>);

impl Acceptor {
    pub fn new(config: &AcceptorConfig) -> Result<Self, CredentialError> {
        let credentials = CheckedCredentials::of(config)?;
        let chosen = credentials.suites(config)?;
        let plain: Vec<_> = chosen.iter().copied().filter(|suite| !suite.needs_encrypt_then_mac()).collect();
        let without_encrypt_then_mac = if plain.is_empty() { None } else { Some(credentials.context(config, &plain)?) };
        Ok(Self(Arc::new(Contexts {
            complete: credentials.context(config, &chosen)?,
            without_encrypt_then_mac,
            trust: credentials.trust.clone(),
            tickets: TicketKey::new()?,
            mtu: config.mtu,
        })))
    }

    /// Returns the context for a client. A client that does not offer encrypt-then-MAC is offered no suite that needs
    /// it; `None` if no other suite is left.
    pub(super) fn context(&self, encrypt_then_mac: bool) -> Option<&SslContext> {
        if encrypt_then_mac { Some(&self.0.complete) } else { self.0.without_encrypt_then_mac.as_ref() }
    }

    pub(super) fn trust(&self) -> &Trust {
        &self.0.trust
    }

    pub(super) fn tickets(&self) -> &TicketKey {
        &self.0.tickets
    }

    pub(super) fn mtu(&self) -> usize {
        self.0.mtu.into()
    }
}

struct Contexts {
    complete: SslContext,
    without_encrypt_then_mac: Option<SslContext>,
    trust: Arc<Trust>,
    tickets: TicketKey,
    mtu: u16,
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Acceptor(..)")
    }
}

/// OpenSSL's security level of the chain of a client's certificate: 112 bits, which is RSA of 2,048 bits, curves of
/// 224, and no SHA-1 (SSL_CTX_set_security_level(3)). A pinned certificate has no chain.
const CERTIFICATE_LEVEL: i32 = 2;

/// The signature algorithms of both sides: all except those with SHA-1 and SHA-224.
const SIGNATURES: &str = "ECDSA+SHA256:ECDSA+SHA384:ECDSA+SHA512:ed25519:ed448:RSA-PSS+SHA256:RSA-PSS+SHA384:\
                          RSA-PSS+SHA512:RSA+SHA256:RSA+SHA384:RSA+SHA512";

/// The parsed credentials, which are known to fit together.
struct CheckedCredentials {
    /// Ours first.
    chain: Vec<X509>,
    authorities: Vec<X509>,
    key: Option<PKey<Private>>,
    trust: Arc<Trust>,
}

impl CheckedCredentials {
    fn of(config: &AcceptorConfig) -> Result<Self, CredentialError> {
        let credentials = Self {
            chain: read_chain(config)?,
            authorities: read_authorities(config)?,
            key: read_key(config)?,
            trust: Arc::new(Trust::new(&config.pinned)?),
        };
        credentials.check(config)?;
        Ok(credentials)
    }

    fn check(&self, config: &AcceptorConfig) -> Result<(), CredentialError> {
        if self.key.is_none() && !config.psk && self.chain.is_empty() {
            return Err(CredentialError::Nothing);
        }
        if config.mtu < AcceptorConfig::MIN_MTU {
            return Err(CredentialError::Mtu { mtu: config.mtu });
        }
        self.check_key()?;
        self.check_raw_public_keys(config)?;
        if matches!(config.verify, VerifyMode::Peer { .. }) && self.authorities.is_empty() && self.trust.is_empty() {
            return Err(CredentialError::NobodyToTrust);
        }
        Ok(())
    }

    fn check_key(&self) -> Result<(), CredentialError> {
        let Some(certificate) = self.chain.first() else { return Ok(()) };
        let key = self.key.as_ref().ok_or(CredentialError::CertificateWithoutKey)?;
        let fits = certificate.public_key().map_err(CredentialError::Certificate)?.public_eq(key);
        if fits { Ok(()) } else { Err(CredentialError::KeyDoesNotFit) }
    }

    fn check_raw_public_keys(&self, config: &AcceptorConfig) -> Result<(), CredentialError> {
        if !config.raw_public_keys {
            return Ok(());
        }
        if cfg!(not(raw_public_keys)) {
            return Err(CredentialError::RawPublicKeys { version: openssl::version::version() });
        }
        if self.key.is_none() { Err(CredentialError::RawPublicKeysWithoutKey) } else { Ok(()) }
    }

    /// Returns the configured suites that these credentials support, in the order of the configuration.
    fn suites(&self, config: &AcceptorConfig) -> Result<Vec<&'static CipherSuite>, CredentialError> {
        let named = if config.cipher_suites.is_empty() {
            suites::ALL.iter().collect()
        } else {
            named_suites(&config.cipher_suites)?
        };
        let possible: Vec<_> = named.into_iter().filter(|suite| self.can_do(suite, config)).collect();
        if possible.is_empty() { Err(CredentialError::NoCipherSuite) } else { Ok(possible) }
    }

    fn can_do(&self, suite: &CipherSuite, config: &AcceptorConfig) -> bool {
        match suite.authentication {
            Authentication::PreSharedKey => config.psk,
            Authentication::Ecdsa => self.has_key(Id::EC) || self.has_key(Id::ED25519) || self.has_key(Id::ED448),
            Authentication::Rsa => self.has_key(Id::RSA),
        }
    }

    fn has_key(&self, kind: Id) -> bool {
        self.key.as_ref().is_some_and(|key| key.id() == kind)
    }

    fn context(&self, config: &AcceptorConfig, suites: &[&CipherSuite]) -> Result<SslContext, CredentialError> {
        let mut context = SslContext::builder(SslMethod::dtls())?;
        context.set_min_proto_version(Some(SslVersion::DTLS1_2))?;
        context.set_max_proto_version(Some(SslVersion::DTLS1_2))?;
        context.set_options(SslOptions::NO_RENEGOTIATION | SslOptions::NO_QUERY_MTU | SslOptions::NO_COMPRESSION);
        context.set_session_cache_mode(SslSessionCacheMode::OFF);
        context.set_session_id_context(b"lwm2m-gateway")?;
        // Security level 0, for the 64-bit tags of CCM_8, which OpenSSL has at no other one since 3.2. It would allow
        // SHA-1 and short keys, too: so suites and signatures are said by name, and `ask` raises the level of
        // certificates.
        let names: Vec<_> = suites.iter().map(|suite| suite.name).collect();
        context.set_cipher_list(&format!("{}:@SECLEVEL=0", names.join(":")))?;
        context.set_sigalgs_list(SIGNATURES)?;
        // The record with the cookie was verified before it came here.
        context.set_cookie_verify_cb(|_, _| true);
        self.show(&mut context, config)?;
        self.ask(&mut context, config)?;
        set_psk(&mut context, config);
        set_tickets(&mut context, config)?;
        set_connection_ids(&mut context, config)?;
        Ok(context.build())
    }

    /// Adds the certificates and keys that prove the identity of the server.
    fn show(&self, context: &mut SslContextBuilder, config: &AcceptorConfig) -> Result<(), ErrorStack> {
        if let Some(certificate) = self.chain.first() {
            context.set_certificate(certificate)?;
        }
        for certificate in self.chain.iter().skip(1) {
            context.add_extra_chain_cert(certificate.clone())?;
        }
        if let Some(key) = &self.key {
            context.set_private_key(key)?;
        }
        if config.raw_public_keys {
            self.set_certificate_types(context)?;
        }
        Ok(())
    }

    /// Sets the certificate types (RFC 7250): the gateway prefers to send its raw key, which is smaller, and accepts
    /// the types of the client that can be verified.
    #[cfg(raw_public_keys)]
    fn set_certificate_types(&self, context: &mut SslContextBuilder) -> Result<(), ErrorStack> {
        const CERTIFICATE: u8 = 0;
        const RAW_PUBLIC_KEY: u8 = 2;
        let ours: &[u8] = if self.chain.is_empty() { &[RAW_PUBLIC_KEY] } else { &[RAW_PUBLIC_KEY, CERTIFICATE] };
        let theirs: &[u8] = if self.trust.has_keys() { &[RAW_PUBLIC_KEY, CERTIFICATE] } else { &[CERTIFICATE] };
        ffi::set_certificate_types(context, ours, theirs)
    }

    #[cfg(not(raw_public_keys))]
    fn set_certificate_types(&self, _context: &mut SslContextBuilder) -> Result<(), ErrorStack> {
        Ok(())
    }

    /// Sets the verification of client certificates.
    fn ask(&self, context: &mut SslContextBuilder, config: &AcceptorConfig) -> Result<(), ErrorStack> {
        let mode = match config.verify {
            VerifyMode::None => SslVerifyMode::NONE,
            VerifyMode::Peer { required: false } => SslVerifyMode::PEER,
            VerifyMode::Peer { required: true } => SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT,
        };
        context.verify_param_mut().set_auth_level(CERTIFICATE_LEVEL);
        let trust = Arc::clone(&self.trust);
        context.set_verify_callback(mode, move |ok, verification| trust.verify(ok, verification));
        for authority in &self.authorities {
            context.cert_store_mut().add_cert(authority.clone())?;
        }
        context.verify_param_mut().set_flags(X509VerifyFlags::PARTIAL_CHAIN)
    }
}

fn set_psk(context: &mut SslContextBuilder, config: &AcceptorConfig) {
    if config.psk {
        context.set_psk_server_callback(|ssl, _identity, out| {
            let key = SharedNegotiation::of(ssl).and_then(|negotiation| negotiation.lock().key.clone());
            Ok(key.map_or(0, |key| copy_key(key.reveal(), out)))
        });
    }
}

/// Copies a key and returns its length; 0, as for an unknown identity, if there is no room for it.
fn copy_key(key: &[u8], out: &mut [u8]) -> usize {
    let Some(place) = out.get_mut(..key.len()) else { return 0 };
    place.copy_from_slice(key);
    key.len()
}

fn set_tickets(context: &mut SslContextBuilder, config: &AcceptorConfig) -> Result<(), ErrorStack> {
    if config.tickets {
        return ffi::set_tickets(context);
    }
    context.set_options(SslOptions::NO_TICKET);
    Ok(())
}

fn set_connection_ids(context: &mut SslContextBuilder, config: &AcceptorConfig) -> Result<(), ErrorStack> {
    /// RFC 9146 section 3.
    const CONNECTION_ID: u16 = 54;
    if !config.connection_ids {
        return Ok(());
    }
    context.add_custom_ext(
        CONNECTION_ID,
        ExtensionContext::CLIENT_HELLO | ExtensionContext::TLS1_2_SERVER_HELLO,
        |ssl, _, _| Ok(SharedNegotiation::of(ssl).and_then(|negotiation| negotiation.lock().answer_connection_id())),
        |ssl, _, extension, _| {
            let negotiation = SharedNegotiation::of(ssl).ok_or(SslAlert::INTERNAL_ERROR)?;
            let offered = negotiation.lock().offer_connection_id(extension);
            if offered { Ok(()) } else { Err(SslAlert::DECODE_ERROR) }
        },
    )
}

fn read_chain(config: &AcceptorConfig) -> Result<Vec<X509>, CredentialError> {
    let Some(pem) = &config.certificate_chain else { return Ok(Vec::new()) };
    let chain = X509::stack_from_pem(pem).map_err(CredentialError::Certificate)?;
    if chain.is_empty() { Err(CredentialError::NoCertificate) } else { Ok(chain) }
}

fn read_authorities(config: &AcceptorConfig) -> Result<Vec<X509>, CredentialError> {
    let Some(pem) = &config.authorities else { return Ok(Vec::new()) };
    let authorities = X509::stack_from_pem(pem).map_err(CredentialError::Authority)?;
    if authorities.is_empty() { Err(CredentialError::NoAuthority) } else { Ok(authorities) }
}

fn read_key(config: &AcceptorConfig) -> Result<Option<PKey<Private>>, CredentialError> {
    let Some(pem) = config.private_key.as_ref().map(PemSecret::pem) else { return Ok(None) };
    // A password is always given: without one OpenSSL would ask for it at the terminal.
    let password = config.private_key_password.as_ref().map_or("", Secret::reveal);
    PKey::private_key_from_pem_passphrase(pem, password.as_bytes()).map(Some).map_err(|_| CredentialError::PrivateKey)
}

/// Looks up suites by name. An error lists all unknown names at once, because a list is often copied as a whole.
fn named_suites(names: &[String]) -> Result<Vec<&'static CipherSuite>, CredentialError> {
    let unknown = names.iter().filter(|name| CipherSuite::by_name(name).is_none());
    let unknown: Vec<String> = unknown.cloned().collect();
    if unknown.is_empty() {
        return Ok(names.iter().filter_map(|name| CipherSuite::by_name(name)).collect());
    }
    Err(CredentialError::CipherSuites { names: unknown })
}
