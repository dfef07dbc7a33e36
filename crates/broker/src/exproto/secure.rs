//! TLS of a listener.

use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use openssl::ssl::{Ssl, SslAcceptor, SslFiletype, SslMethod, SslVerifyMode};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_openssl::SslStream;
use tracing::debug;

use crate::config::SslListener;

/// Limits the time of a TLS handshake (EMQX: `handshake_timeout`).
const HANDSHAKE: Duration = Duration::from_secs(15);

#[derive(Clone)]
pub(super) struct TlsAcceptor(SslAcceptor);

impl TlsAcceptor {
    pub(super) fn new(listener: &SslListener) -> anyhow::Result<Self> {
        let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server())?;
        builder.set_certificate_chain_file(&listener.certfile)?;
        builder.set_private_key_file(&listener.keyfile, SslFiletype::PEM)?;
        if let Some(file) = &listener.cacertfile {
            builder.set_ca_file(file)?;
            builder.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
        }
        Ok(Self(builder.build()))
    }

    /// Performs the handshake; `None` if it fails.
    pub(super) async fn accept(&self, socket: TcpStream, peer: SocketAddr) -> Option<SslStream<TcpStream>> {
        let stream = Ssl::new(self.0.context()).and_then(|ssl| SslStream::new(ssl, socket));
        let mut stream = stream.inspect_err(|error| debug!(%peer, %error, "no TLS connection")).ok()?;
        match timeout(HANDSHAKE, Pin::new(&mut stream).accept()).await {
            Ok(Ok(())) => Some(stream),
            Ok(Err(error)) => {
                debug!(%peer, %error, "TLS handshake failed");
                None
            }
            Err(_) => {
                debug!(%peer, "TLS handshake took too long");
                None
            }
        }
    }
}
