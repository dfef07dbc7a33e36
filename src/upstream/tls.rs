//! TLS over TCP on the way up to the broker.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;

use openssl::ssl::{SslConnector, SslFiletype, SslMethod, SslMode, SslVersion};
use tokio::net::TcpStream;
use tokio_openssl::SslStream;

/// How the broker is known, and how we are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The certificates of who may sign the broker's, PEM; without one those of the system.
    pub ca_file: Option<PathBuf>,
    /// Our own certificate with its chain, and its key, PEM.
    pub identity: Option<Identity>,
    /// What the broker's certificate has to name, in place of the host that is dialed.
    pub server_name: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
}

/// Makes TLS streams of TCP streams.
#[derive(Clone)]
pub struct Connector {
    connector: SslConnector,
    server_name: Option<String>,
}

impl Connector {
    /// # Errors
    /// A file that cannot be read, or has no certificate or key in it; the text names it.
    pub fn new(settings: &Settings) -> io::Result<Self> {
        let mut builder = SslConnector::builder(SslMethod::tls_client())?;
        builder.set_min_proto_version(Some(SslVersion::TLS1_2))?;
        // Buffers are there only while there is something in them: there is one stream for each device.
        builder.set_mode(SslMode::RELEASE_BUFFERS);
        if let Some(file) = &settings.ca_file {
            builder.set_ca_file(file).map_err(|error| named(file, &error))?;
        }
        if let Some(Identity { cert_file, key_file }) = &settings.identity {
            builder.set_certificate_chain_file(cert_file).map_err(|error| named(cert_file, &error))?;
            builder.set_private_key_file(key_file, SslFiletype::PEM).map_err(|error| named(key_file, &error))?;
            builder.check_private_key().map_err(|error| named(key_file, &error))?;
        }
        Ok(Self { connector: builder.build(), server_name: settings.server_name.clone() })
    }

    /// `target` is the `host:port` that was dialed.
    ///
    /// # Errors
    /// What the handshake came to.
    pub async fn connect(&self, target: &str, stream: TcpStream) -> io::Result<SslStream<TcpStream>> {
        let host = target.rsplit_once(':').map_or(target, |(host, _)| host).trim_matches(['[', ']']);
        let name = self.server_name.as_deref().unwrap_or(host);
        let ssl = self.connector.configure()?.into_ssl(name)?;
        let mut stream = SslStream::new(ssl, stream)?;
        Pin::new(&mut stream).connect().await.map_err(io::Error::other)?;
        Ok(stream)
    }
}

fn named(file: &std::path::Path, error: &openssl::error::ErrorStack) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{}: {error}", file.display()))
}
