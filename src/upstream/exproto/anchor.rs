//! Anchors: the TCP connections to EMQX's exproto listener, one for each device. EMQX makes a client only of a socket
//! that it accepted. An anchor carries its token line, and nothing more; its end is EMQX's word that the client is gone.
//!
//! Ports: a TCP connection is told by source address, source port, target address and target port, and Linux gives
//! source ports from 32768 to 60999: about 28,000. Where the system chooses the source address, that many anchors fit to
//! each listener address. Where source addresses are set, the port is chosen before the target is known, so that each
//! source address is good for about 28,000 anchors to all listeners together: name several, such as 127.0.0.2, 127.0.0.3
//! for an EMQX on the same machine.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio_openssl::SslStream;
use tracing::debug;

use crate::tls::{ConnectError, Connector};

use super::announcements::Token;

/// In front of a listener that speaks TLS.
pub const SECURE: &str = "ssl://";

/// A peer that went without a word (power, network) is missed after about a minute and a half.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(10)).with_retries(3);

/// Chooses where each anchor goes from and to.
#[derive(Debug)]
pub struct Dialer {
    listeners: Vec<String>,
    sources: Vec<IpAddr>,
    connector: Option<Connector>,
    dialed: usize,
}

/// An open anchor.
#[derive(Debug)]
pub enum Anchor {
    Plain(TcpStream),
    Secure(Box<SslStream<TcpStream>>),
}

#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("{listener}: {error}")]
    Lookup { listener: String, error: io::Error },
    #[error("{listener} ({address}): {error}")]
    Connect { listener: String, address: SocketAddr, error: io::Error },
    #[error("{listener} ({address}): {error}")]
    Secure { listener: String, address: SocketAddr, error: ConnectError },
    #[error("{listener} has no address that fits to the source addresses")]
    NoAddress { listener: String },
    #[error("no exproto listener is configured")]
    NoListener,
}

impl Dialer {
    /// Listeners whose name begins with [`SECURE`] need the connector.
    pub fn new(listeners: Vec<String>, sources: Vec<IpAddr>, connector: Option<Connector>) -> Self {
        Self { listeners, sources, connector, dialed: 0 }
    }

    /// Opens an anchor and writes its token, to be spawned. Listeners and sources take turns; when one does not work the
    /// next is tried.
    pub fn dial(&mut self, token: &Token) -> impl Future<Output = Result<Anchor, DialError>> + Send + 'static {
        let turn = self.dialed;
        self.dialed = self.dialed.wrapping_add(1);
        let listeners = rotated(&self.listeners, turn);
        // All pairs have their turn, also where there are as many listeners as sources.
        let sources = rotated(&self.sources, turn / self.listeners.len().max(1));
        let line = token.line();
        let connector = self.connector.clone();
        async move {
            let mut failure = DialError::NoListener;
            for listener in listeners {
                let connector = connector.as_ref().filter(|_| listener.starts_with(SECURE));
                match dial_listener(&listener, turn, &sources, connector, &line).await {
                    Ok(anchor) => return Ok(anchor),
                    Err(error) => failure = error,
                }
            }
            Err(failure)
        }
    }
}

/// Waits for the end of the anchor. EMQX has nothing to say on it; what comes is thrown away.
pub async fn watch(anchor: Anchor) {
    match anchor {
        Anchor::Plain(stream) => watch_stream(stream).await,
        Anchor::Secure(stream) => watch_stream(*stream).await,
    }
}

async fn watch_stream(mut stream: impl AsyncRead + Unpin) {
    let mut ignored = [0; 256];
    loop {
        match stream.read(&mut ignored).await {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) => return debug!(%error, "anchor broken"),
        }
    }
}

async fn dial_listener(
    listener: &str,
    turn: usize,
    sources: &[IpAddr],
    connector: Option<&Connector>,
    line: &[u8],
) -> Result<Anchor, DialError> {
    let target = listener.strip_prefix(SECURE).unwrap_or(listener);
    let lookup = lookup_host(target).await;
    let found = lookup.map_err(|error| DialError::Lookup { listener: listener.to_owned(), error })?;
    let addresses: Vec<SocketAddr> = found.collect();
    let mut failure = DialError::NoAddress { listener: listener.to_owned() };
    for address in rotated(&addresses, turn) {
        let broken = |error| DialError::Connect { listener: listener.to_owned(), address, error };
        let stream = match dial_address(address, sources).await {
            Ok(Some(stream)) => stream,
            Ok(None) => continue,
            Err(error) => {
                failure = broken(error);
                continue;
            }
        };
        let secured = match connector {
            None => Ok(Anchor::Plain(stream)),
            Some(connector) => {
                connector.connect(host(target), stream).await.map(|stream| Anchor::Secure(Box::new(stream)))
            }
        };
        match secured {
            Ok(anchor) => return announce(anchor, line).await.map_err(broken),
            Err(error) => failure = DialError::Secure { listener: listener.to_owned(), address, error },
        }
    }
    Err(failure)
}

/// The token goes at once: EMQX closes a connection that says nothing for 30 s, authenticated or not.
async fn announce(mut anchor: Anchor, line: &[u8]) -> io::Result<Anchor> {
    match &mut anchor {
        Anchor::Plain(stream) => write(stream, line).await?,
        Anchor::Secure(stream) => write(stream, line).await?,
    }
    Ok(anchor)
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), line: &[u8]) -> io::Result<()> {
    stream.write_all(line).await?;
    stream.flush().await
}

/// Nothing, if no source address is of the target's kind.
async fn dial_address(target: SocketAddr, sources: &[IpAddr]) -> io::Result<Option<TcpStream>> {
    if sources.is_empty() {
        return open(None, target).await.map(Some);
    }
    let mut exhausted = None;
    for source in sources.iter().filter(|source| source.is_ipv4() == target.is_ipv4()) {
        match open(Some(*source), target).await {
            Ok(stream) => return Ok(Some(stream)),
            Err(error) if is_out_of_ports(&error) => exhausted = Some(error),
            Err(error) => return Err(error),
        }
    }
    exhausted.map_or(Ok(None), Err)
}

async fn open(source: Option<IpAddr>, target: SocketAddr) -> io::Result<TcpStream> {
    let socket = if target.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(source) = source {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    let stream = socket.connect(target).await?;
    // A port of this machine that nobody listens on can be given as the source port too: TCP then connects it to itself.
    if stream.local_addr()? == target {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    stream.set_nodelay(true)?;
    SockRef::from(&stream).set_tcp_keepalive(&KEEPALIVE)?;
    Ok(stream)
}

/// The host of `host:port`, an IPv6 address without its brackets.
fn host(target: &str) -> &str {
    let host = target.rsplit_once(':').map_or(target, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

/// Also for a source address that this machine does not have; the next one may work.
fn is_out_of_ports(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse)
}

fn rotated<T: Clone>(items: &[T], turn: usize) -> Vec<T> {
    let mut items = items.to_vec();
    if !items.is_empty() {
        let first = turn % items.len();
        items.rotate_left(first);
    }
    items
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;
    use tokio::net::TcpListener;

    use super::*;

    fn token() -> Token {
        Token::random(&mut StdRng::seed_from_u64(1))
    }

    #[tokio::test]
    async fn an_anchor_says_its_token_and_nothing_more_until_the_other_side_ends_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let mut dialer = Dialer::new(vec![address.to_string()], Vec::new(), None);

        let anchor = dialer.dial(&token()).await.expect("an anchor");
        let (mut accepted, _) = listener.accept().await.expect("the anchor");
        let mut line = vec![0; token().line().len()];
        accepted.read_exact(&mut line).await.expect("the token");
        assert_eq!(line, token().line());

        accepted.write_all(b"ignored").await.expect("an open anchor");
        drop(accepted);
        watch(anchor).await;
    }

    #[tokio::test]
    async fn sources_and_listeners_take_turns_and_those_that_do_not_work_are_passed_over() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let closed = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let listeners = [&closed, &listener].map(|one| one.local_addr().expect("an address").to_string());
        drop(closed);
        // 192.0.2.0/24 is for documentation (RFC 5737): no machine has it.
        let sources = ["192.0.2.1", "127.0.0.2", "::1", "127.0.0.3"].map(|source| source.parse().expect("an address"));
        let mut dialer = Dialer::new(listeners.to_vec(), sources.to_vec(), None);

        let mut seen = Vec::new();
        for _ in 0..8 {
            let anchor = dialer.dial(&token()).await.expect("an anchor");
            let (_, peer) = listener.accept().await.expect("the anchor");
            seen.push(peer.ip().to_string());
            drop(anchor);
        }
        assert_eq!(
            seen,
            ["127.0.0.2", "127.0.0.2", "127.0.0.2", "127.0.0.2", "127.0.0.3", "127.0.0.3", "127.0.0.3", "127.0.0.3"]
        );
    }

    #[tokio::test]
    async fn an_anchor_that_cannot_be_opened_tells_where_it_was_to_go() {
        let closed = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = closed.local_addr().expect("an address").to_string();
        drop(closed);
        let error = Dialer::new(vec![address.clone()], Vec::new(), None).dial(&token()).await.expect_err("no listener");
        assert!(error.to_string().contains(&address), "{error}");

        let sources = vec!["::1".parse().expect("an address")];
        let error = Dialer::new(vec![address], sources, None).dial(&token()).await.expect_err("no source");
        assert!(matches!(error, DialError::NoAddress { .. }), "{error}");
    }
}
