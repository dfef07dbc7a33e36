//! Mutual TLS between nodes: the authority of the cluster, and the names in certificates.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use openssl::ssl::{Ssl, SslAcceptor, SslRef};
use openssl::x509::X509Ref;
use tokio::net::TcpStream;
use tokio_openssl::SslStream;
use tracing::warn;

use crate::clock::monotonic_now;
use crate::tls::{self, Connector, TlsConfig, TlsError};

/// The interval at which the certificates are read from their files again, if they are used. Connections are long, so
/// that reading them costs nothing.
const READ_EVERY: Duration = Duration::from_secs(60);

/// The certificates of a node and of the cluster's authority, read again when they are used after some time.
pub(super) struct PeerTls {
    config: TlsConfig,
    read: Mutex<ReadTls>,
}

struct ReadTls {
    at: Instant,
    connector: Connector,
    acceptor: SslAcceptor,
    /// Whether the last attempt to read the files failed.
    has_failed: bool,
}

impl PeerTls {
    pub(super) fn new(config: TlsConfig) -> Result<Self, TlsError> {
        let read = Mutex::new(ReadTls::new(&config)?);
        Ok(Self { config, read })
    }

    /// Performs the handshake with the node of this name.
    pub(super) async fn connect(&self, name: &str, stream: TcpStream) -> Result<SslStream<TcpStream>, String> {
        let connector = self.current(|read| read.connector.clone());
        connector.connect(name, stream).await.map_err(|error| error.to_string())
    }

    /// Performs the handshake with a node that has connected, whose name is not known yet.
    pub(super) async fn accept(&self, stream: TcpStream) -> Result<SslStream<TcpStream>, String> {
        let ssl = self.current(|read| Ssl::new(read.acceptor.context())).map_err(|error| error.to_string())?;
        let mut stream = SslStream::new(ssl, stream).map_err(|error| error.to_string())?;
        match std::pin::Pin::new(&mut stream).accept().await {
            Ok(()) => Ok(stream),
            Err(error) => Err(error.to_string()),
        }
    }

    // A panic while the lock is held cannot leave the certificates half changed.
    fn current<T>(&self, take: impl FnOnce(&ReadTls) -> T) -> T {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let now = monotonic_now();
        if now.saturating_duration_since(read.at) >= READ_EVERY {
            read.at = now;
            match ReadTls::new(&self.config) {
                Ok(newer) => *read = newer,
                Err(error) if !read.has_failed => {
                    warn!(%error, "certificates of the cluster rejected; the old ones stay in force");
                    read.has_failed = true;
                }
                Err(_) => {}
            }
        }
        take(&read)
    }
}

impl ReadTls {
    fn new(config: &TlsConfig) -> Result<Self, TlsError> {
        let (connector, acceptor) = (Connector::new(config)?, tls::mutual_acceptor(config)?);
        Ok(Self { at: monotonic_now(), connector, acceptor, has_failed: false })
    }
}

/// Returns whether the certificate of the other side has this DNS name. Wildcards do not count: each node is named.
pub(super) fn is_named(ssl: &SslRef, name: &str) -> bool {
    ssl.peer_certificate().is_some_and(|certificate| has_name(&certificate, name))
}

fn has_name(certificate: &X509Ref, name: &str) -> bool {
    let names = certificate.subject_alt_names();
    let mut names = names.iter().flatten().filter_map(|general| general.dnsname());
    names.any(|dns_name| dns_name.eq_ignore_ascii_case(name))
}
