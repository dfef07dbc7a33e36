//! Connections to the broker, one for each device, over TCP or TLS: from which address each comes, and to which it
//! goes.
//!
//! Ports: a TCP connection is identified by source address, source port, target address and target port, and Linux has
//! about 28,000 source ports (32768 to 60999). That many connections fit between one source address and one target
//! address. With more devices, configure several source addresses, such as 127.0.0.2 and 127.0.0.3 for a broker on the
//! same machine.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio_openssl::SslStream;

use crate::errors::plain;
use crate::process::descriptors::{self, Descriptors};
use crate::tls::{Connector, TlsConfig, TlsConnectError};

use super::source_port;

/// Marks an address that speaks TLS.
pub(crate) const SECURE: &str = "ssl://";

/// Detects a peer that disappeared without a word (power, network) after about a minute and a half.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(10)).with_retries(3);

/// Chooses where each connection goes from and to.
#[derive(Debug)]
pub(crate) struct Dialer {
    targets: Vec<String>,
    sources: Vec<IpAddr>,
    connector: Option<Connector>,
    descriptors: Descriptors,
    dialed: usize,
}

/// An open connection.
#[derive(Debug)]
pub enum Stream {
    Plain(TcpStream),
    Secure(Box<SslStream<TcpStream>>),
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("{target}: {}", plain(.error))]
    Lookup { target: String, error: io::Error },
    #[error("{}: {}", place(.target, .address), plain(.error))]
    Connect { target: String, address: SocketAddr, error: io::Error },
    #[error("{}: {error}", place(.target, .address))]
    Secure { target: String, address: SocketAddr, error: TlsConnectError },
    #[error("{target} has no address of the IP version of source_addresses")]
    NoAddress { target: String },
    #[error("no address of the broker is configured")]
    NoTarget,
    /// No file descriptor is left in this process; the broker has no part in it.
    #[error("no file descriptor is left: raise the limit of open files (LimitNOFILE, ulimit -n)")]
    NoDescriptor,
}

/// Says why a connection was not opened, for the state machine that decides what follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DialFailure {
    /// The broker, or the network on the way to it, did not accept the connection.
    NotReached(String),
    /// This process has no file descriptor or port left. That says nothing of the broker.
    Local(String),
}

const NO_PORT: &str = "no source port is left, or this machine does not have an address of source_addresses. A source \
                       address is good for about 28,000 connections to each address of the broker: add some";

impl From<DialError> for DialFailure {
    fn from(error: DialError) -> Self {
        match &error {
            DialError::NoDescriptor => Self::Local(error.to_string()),
            DialError::Connect { error: cause, .. } if is_out_of_ports(cause) => Self::Local(NO_PORT.to_owned()),
            DialError::Lookup { .. }
            | DialError::Connect { .. }
            | DialError::Secure { .. }
            | DialError::NoAddress { .. }
            | DialError::NoTarget => Self::NotReached(error.to_string()),
        }
    }
}

/// Returns the TLS connector for these addresses, or nothing if none of them speaks TLS: its files are not read then.
/// `section` names the section of the configuration for error texts.
///
/// # Errors
/// A file of the TLS configuration is missing or invalid.
pub(crate) fn tls_connector<'a>(
    addresses: impl IntoIterator<Item = &'a String>,
    config: &TlsConfig,
    section: &str,
) -> io::Result<Option<Connector>> {
    if !addresses.into_iter().any(|address| address.starts_with(SECURE)) {
        return Ok(None);
    }
    let invalid = |error| io::Error::new(io::ErrorKind::InvalidInput, format!("{section}: {error}"));
    Connector::new(config).map(Some).map_err(invalid)
}

impl Dialer {
    /// Creates a dialer. Targets are `host:port`; those that begin with [`SECURE`] need the connector.
    pub(super) fn new(targets: Vec<String>, sources: Vec<IpAddr>, connector: Option<Connector>) -> Self {
        Self { targets, sources, connector, descriptors: Descriptors::of_process(), dialed: 0 }
    }

    /// Opens a connection; the caller spawns the future. Targets and sources take turns, and when one fails the next is
    /// tried.
    pub(super) fn dial(&mut self) -> impl Future<Output = Result<Stream, DialError>> + Send + 'static {
        let turn = self.dialed;
        self.dialed = self.dialed.wrapping_add(1);
        let targets = rotated(&self.targets, turn);
        // All pairs have their turn, also where there are as many targets as sources.
        let sources = rotated(&self.sources, turn / self.targets.len().max(1));
        let connector = self.connector.clone();
        let descriptors = self.descriptors;
        async move {
            let mut failure = DialError::NoTarget;
            for target in targets {
                let connector = connector.as_ref().filter(|_| target.starts_with(SECURE));
                match dial_target(&target, turn, &sources, connector, descriptors).await {
                    Ok(stream) => return Ok(stream),
                    // No other target is reached without one.
                    Err(DialError::NoDescriptor) => return Err(DialError::NoDescriptor),
                    Err(error) => failure = error,
                }
            }
            Err(failure)
        }
    }
}

async fn dial_target(
    target: &str,
    turn: usize,
    sources: &[IpAddr],
    connector: Option<&Connector>,
    descriptors: Descriptors,
) -> Result<Stream, DialError> {
    let address_text = target.strip_prefix(SECURE).unwrap_or(target);
    let found = match lookup_host(address_text).await {
        Ok(found) => found,
        // A resolver that can open nothing says that the name is not known.
        Err(_) if descriptors.are_used_up() => return Err(DialError::NoDescriptor),
        Err(error) => return Err(DialError::Lookup { target: target.to_owned(), error }),
    };
    let addresses: Vec<SocketAddr> = found.collect();
    let mut failure = DialError::NoAddress { target: target.to_owned() };
    for address in rotated(&addresses, turn) {
        let broken = |error| DialError::Connect { target: target.to_owned(), address, error };
        let stream = match dial_address(address, sources, descriptors).await {
            Ok(Some(stream)) => stream,
            Ok(None) => continue,
            Err(error) if descriptors::is_used_up(&error) => return Err(DialError::NoDescriptor),
            Err(error) => {
                failure = broken(error);
                continue;
            }
        };
        let secured = match connector {
            None => Ok(Stream::Plain(stream)),
            Some(connector) => {
                connector.connect(host(address_text), stream).await.map(|stream| Stream::Secure(Box::new(stream)))
            }
        };
        match secured {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = DialError::Secure { target: target.to_owned(), address, error },
        }
    }
    Err(failure)
}

/// Dials one address. Returns nothing if no source address is of the target's family.
async fn dial_address(
    target: SocketAddr,
    sources: &[IpAddr],
    descriptors: Descriptors,
) -> io::Result<Option<TcpStream>> {
    if sources.is_empty() {
        return open(None, target, descriptors).await.map(Some);
    }
    let mut exhausted = None;
    for source in sources.iter().filter(|source| source.is_ipv4() == target.is_ipv4()) {
        match open(Some(*source), target, descriptors).await {
            Ok(stream) => return Ok(Some(stream)),
            Err(error) if is_out_of_ports(&error) => exhausted = Some(error),
            Err(error) => return Err(error),
        }
    }
    exhausted.map_or(Ok(None), Err)
}

async fn open(source: Option<IpAddr>, target: SocketAddr, descriptors: Descriptors) -> io::Result<TcpStream> {
    let socket = if target.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if descriptors.keeps(&socket) {
        return Err(descriptors::used_up());
    }
    source_port::choose_late(&socket);
    if let Some(source) = source {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    let stream = socket.connect(target).await?;
    // A port of this machine that nobody listens on can be given as the source port too: TCP then connects it to
    // itself.
    if stream.local_addr()? == target {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    stream.set_nodelay(true)?;
    SockRef::from(&stream).set_tcp_keepalive(&KEEPALIVE)?;
    Ok(stream)
}

/// Names a target, with the address that it stands for if that differs.
fn place(target: &str, address: &SocketAddr) -> String {
    let written = address.to_string();
    if target.strip_prefix(SECURE).unwrap_or(target) == written {
        return target.to_owned();
    }
    format!("{target} ({written})")
}

/// Returns the host of `host:port`, an IPv6 address without its brackets.
fn host(target: &str) -> &str {
    let host = target.rsplit_once(':').map_or(target, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

/// Returns whether no port is left. That is also true for a source address that this machine does not have: the next
/// one may work.
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
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn sources_and_targets_take_turns_and_those_that_do_not_work_are_passed_over() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let closed = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let targets = [&closed, &listener].map(|one| one.local_addr().expect("an address").to_string());
        drop(closed);
        // 192.0.2.0/24 is for documentation (RFC 5737): no machine has it.
        let sources = ["192.0.2.1", "127.0.0.2", "::1", "127.0.0.3"].map(|source| source.parse().expect("an address"));
        let mut dialer = Dialer::new(targets.to_vec(), sources.to_vec(), None);

        let mut seen = Vec::new();
        for _ in 0..8 {
            let connection = dialer.dial().await.expect("a connection");
            let (_, peer) = listener.accept().await.expect("the connection");
            seen.push(peer.ip().to_string());
            drop(connection);
        }
        assert_eq!(
            seen,
            ["127.0.0.2", "127.0.0.2", "127.0.0.2", "127.0.0.2", "127.0.0.3", "127.0.0.3", "127.0.0.3", "127.0.0.3"]
        );
    }

    #[tokio::test]
    async fn a_connection_that_cannot_be_opened_tells_where_it_was_to_go() {
        let closed = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = closed.local_addr().expect("an address").to_string();
        drop(closed);
        let error = Dialer::new(vec![address.clone()], Vec::new(), None).dial().await.expect_err("no target");
        assert!(error.to_string().contains(&address), "{error}");

        assert_eq!(error.to_string(), format!("{address}: connection refused"));

        let sources = vec!["::1".parse().expect("an address")];
        let error = Dialer::new(vec![address], sources, None).dial().await.expect_err("no source");
        assert!(matches!(error, DialError::NoAddress { .. }), "{error}");
    }

    #[tokio::test]
    async fn the_last_descriptors_are_no_devices_and_the_broker_is_not_to_blame() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        for target in [format!("127.0.0.1:{port}"), format!("localhost:{port}")] {
            let mut dialer = Dialer::new(vec![target], Vec::new(), None);
            dialer.descriptors = Descriptors { limit: 0 };
            let error = dialer.dial().await.expect_err("a descriptor of those that are kept");
            assert!(matches!(DialFailure::from(error), DialFailure::Local(_)));
        }
    }

    #[test]
    fn a_want_of_source_ports_is_not_the_fault_of_the_broker_either() {
        let failure = |number| {
            let (target, address) = ("broker:1883".to_owned(), ([10, 0, 0, 1], 1883).into());
            DialFailure::from(DialError::Connect { target, address, error: io::Error::from_raw_os_error(number) })
        };
        // EADDRINUSE and EADDRNOTAVAIL; then ECONNREFUSED, ETIMEDOUT, EHOSTUNREACH.
        for number in [98, 99] {
            assert!(matches!(failure(number), DialFailure::Local(_)), "{number}");
        }
        for number in [111, 110, 113] {
            assert!(matches!(failure(number), DialFailure::NotReached(_)), "{number}");
        }
    }
}
