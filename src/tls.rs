//! TLS over TCP: clients of the broker and of the key service, the server of the console, and the nodes of a cluster.
//! The settings have EMQX's names.
//!
//! A connection is made only to whom the settings trust: without a `cacertfile` that is whom the system trusts, and the
//! certificate has to be that of the host that was asked for.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;

use openssl::error::ErrorStack;
use openssl::pkey::{PKey, Private};
use openssl::ssl::{
    ConnectConfiguration, SslAcceptor, SslConnector, SslConnectorBuilder, SslContextBuilder, SslMethod,
};
use openssl::ssl::{SslOptions, SslSessionCacheMode, SslVerifyMode, SslVersion};
use openssl::x509::verify::X509CheckFlags;
use openssl::x509::{X509, X509VerifyResult};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_openssl::SslStream;

/// Files of trusted certificates by operating system: a bundled OpenSSL does not know them.
const SYSTEM_BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The configuration of a TLS client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsConfig {
    /// Trusted certificates, as PEM; `None` for those of the system.
    pub cacertfile: Option<PathBuf>,
    /// Certificate of the client with its chain, and its key.
    pub certfile: Option<PathBuf>,
    pub keyfile: Option<PathBuf>,
    pub verify: Verify,
    /// The name that the server's certificate must have, if it differs from the host.
    pub server_name: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verify {
    #[default]
    Peer,
    /// Accepts every certificate: for tests.
    None,
}

/// Opens connections by these settings. Cheap to clone.
#[derive(Clone)]
pub struct Connector {
    connector: SslConnector,
    verify: Verify,
    server_name: Option<String>,
}

/// Reasons why TLS settings cannot be used. They name files and never show their contents.
#[derive(Debug, Error)]
pub enum TlsError {
    #[error("{}: {error}", .file.display())]
    Unreadable { file: PathBuf, error: io::Error },
    #[error("{}: no certificate in it (PEM)", .0.display())]
    NoCertificate(PathBuf),
    #[error("{}: no private key in it that can be read (PEM, without a passphrase)", .0.display())]
    NoKey(PathBuf),
    #[error("{}: not the key of the certificate in {}", .key.display(), .certificate.display())]
    Mismatch { key: PathBuf, certificate: PathBuf },
    #[error("a certificate needs its key, and a key its certificate")]
    HalfPair,
    #[error("{0}")]
    Library(#[from] ErrorStack),
}

/// The reason of a failed connection, as text for the log.
#[derive(Debug, Error)]
#[error("TLS: {0}")]
pub struct TlsConnectError(String);

impl Connector {
    /// Reads the files.
    pub fn new(config: &TlsConfig) -> Result<Self, TlsError> {
        let TlsConfig { verify, server_name, .. } = config;
        Ok(Self { connector: builder(config)?.build(), verify: *verify, server_name: server_name.clone() })
    }

    /// Performs the handshake on a stream that is connected to this host.
    pub async fn connect<S>(&self, host: &str, stream: S) -> Result<SslStream<S>, TlsConnectError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut stream = self.prepare(host, stream).map_err(|error| TlsConnectError(error.to_string()))?;
        match Pin::new(&mut stream).connect().await {
            Ok(()) => Ok(stream),
            Err(error) => Err(TlsConnectError(match stream.ssl().verify_result() {
                X509VerifyResult::OK => error.to_string(),
                refused => format!("the certificate of {host}: {refused}"),
            })),
        }
    }

    fn prepare<S: AsyncRead + AsyncWrite>(&self, host: &str, stream: S) -> Result<SslStream<S>, ErrorStack> {
        let mut configuration = self.connector.configure()?;
        configuration.set_verify_hostname(self.verify == Verify::Peer);
        let ssl = configuration.into_ssl(self.server_name.as_deref().unwrap_or(host))?;
        SslStream::new(ssl, stream)
    }
}

// The debug output of OpenSSL's type shows addresses of memory only.
impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connector(..)")
    }
}

/// Returns a builder with these settings, for callers that open their connections themselves.
pub(crate) fn builder(config: &TlsConfig) -> Result<SslConnectorBuilder, TlsError> {
    let mut builder = SslConnector::builder(SslMethod::tls_client())?;
    builder.set_min_proto_version(Some(SslVersion::TLS1_2))?;
    match &config.cacertfile {
        Some(file) => trust(&mut builder, file)?,
        None => trust_the_system(&mut builder)?,
    }
    if config.verify == Verify::None {
        builder.set_verify(SslVerifyMode::NONE);
    }
    match (&config.certfile, &config.keyfile) {
        (Some(certificate), Some(key)) => identify(&mut builder, certificate, key)?,
        (None, None) => {}
        (Some(_), None) | (None, Some(_)) => return Err(TlsError::HalfPair),
    }
    Ok(builder)
}

/// Returns the server side of TLS 1.2 and 1.3 with this certificate, its chain, and its key.
#[cfg(feature = "console")]
pub(crate) fn acceptor(certificate: &Path, key: &Path) -> Result<SslAcceptor, TlsError> {
    let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server())?;
    identify(&mut builder, certificate, key)?;
    Ok(builder.build())
}

/// Returns the server side of TLS 1.2 and 1.3 with the certificate of these settings. It accepts clients with a
/// certificate of the authority of these settings, and no others. Whose certificate it is, the caller checks.
pub(crate) fn mutual_acceptor(config: &TlsConfig) -> Result<SslAcceptor, TlsError> {
    let TlsConfig { cacertfile: Some(authority), certfile: Some(certificate), keyfile: Some(key), .. } = config else {
        return Err(TlsError::HalfPair);
    };
    let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server())?;
    identify(&mut builder, certificate, key)?;
    trust(&mut builder, authority)?;
    builder.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
    // Each connection proves its name again.
    builder.set_session_cache_mode(SslSessionCacheMode::OFF);
    builder.set_options(SslOptions::NO_TICKET);
    Ok(builder.build())
}

/// Sets the name that the server's certificate must have, on a connection of such a builder.
pub(crate) fn expect_name(configuration: &mut ConnectConfiguration, config: &TlsConfig) -> Result<(), ErrorStack> {
    let verifies = config.verify == Verify::Peer;
    configuration.set_verify_hostname(verifies && config.server_name.is_none());
    let Some(name) = &config.server_name else { return Ok(()) };
    configuration.set_use_server_name_indication(false);
    configuration.set_hostname(name)?;
    if verifies {
        configuration.param_mut().set_hostflags(X509CheckFlags::NO_PARTIAL_WILDCARDS);
        configuration.param_mut().set_host(name)?;
    }
    Ok(())
}

/// Reads the certificates of a PEM file, at least one.
fn read_certificates(file: &Path) -> Result<Vec<X509>, TlsError> {
    let certificates = X509::stack_from_pem(&read(file)?).unwrap_or_default();
    if certificates.is_empty() {
        return Err(TlsError::NoCertificate(file.to_owned()));
    }
    Ok(certificates)
}

/// Reads the first private key of a PEM file.
fn read_key(file: &Path) -> Result<PKey<Private>, TlsError> {
    let pem = zeroize::Zeroizing::new(read(file)?);
    // With a passphrase of our own, or OpenSSL would ask for one at the terminal.
    PKey::private_key_from_pem_passphrase(&pem, b"").map_err(|_| TlsError::NoKey(file.to_owned()))
}

fn trust(builder: &mut SslContextBuilder, file: &Path) -> Result<(), TlsError> {
    let mut store = openssl::x509::store::X509StoreBuilder::new()?;
    for certificate in read_certificates(file)? {
        store.add_cert(certificate)?;
    }
    builder.set_cert_store(store.build());
    Ok(())
}

fn trust_the_system(builder: &mut SslConnectorBuilder) -> Result<(), TlsError> {
    // SSL_CERT_FILE and SSL_CERT_DIR are looked at already, by OpenSSL.
    match SYSTEM_BUNDLES.iter().find(|bundle| Path::new(bundle).exists()) {
        Some(bundle) => Ok(builder.load_verify_locations(Some(Path::new(bundle)), None)?),
        None => Ok(()),
    }
}

fn identify(builder: &mut SslContextBuilder, certificate: &Path, key: &Path) -> Result<(), TlsError> {
    let mut chain = read_certificates(certificate)?.into_iter();
    let own = chain.next().ok_or_else(|| TlsError::NoCertificate(certificate.to_owned()))?;
    builder.set_certificate(&own)?;
    chain.try_for_each(|issuer| builder.add_extra_chain_cert(issuer))?;
    let mismatch = |_| TlsError::Mismatch { key: key.to_owned(), certificate: certificate.to_owned() };
    builder.set_private_key(&*read_key(key)?).map_err(mismatch)?;
    builder.check_private_key().map_err(mismatch)
}

fn read(file: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(file).map_err(|error| TlsError::Unreadable { file: file.to_owned(), error })
}
