//! UDP sockets with large receive buffers, read in batches. Of DTLS they know only which sockets use it.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::task::Poll;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

use crate::errors::plain;
use lwm2m_base::Peer;

/// The largest datagram of UDP.
const LARGEST_DATAGRAM: usize = 65_535;
/// Maximum number of datagrams that are read from one socket before other inputs have their turn.
const BATCH: usize = 64;

/// The first port that a program may bind without a privilege.
const FIRST_FREE_PORT: u16 = 1024;

/// A UDP socket for devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UdpListener {
    pub name: String,
    pub security: Security,
    /// Port 0 lets the system choose one. On a host with several addresses name the one that devices know: an answer leaves
    /// from the bound address.
    pub bind: SocketAddr,
    /// Size of the system's receive buffer, in bytes; the system may grant less.
    pub recbuf: usize,
}

/// The security of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Security {
    /// CoAP over UDP without DTLS.
    None,
    /// CoAP over DTLS.
    Dtls,
}

impl UdpListener {
    /// Returns the section of the configuration.
    pub fn key(&self) -> String {
        let kind = match self.security {
            Security::None => "udp",
            Security::Dtls => "dtls",
        };
        format!("listeners.{kind}.{}", self.name)
    }
}

/// The result of reading a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiveBatch {
    /// No datagram is left.
    Emptied,
    /// The batch is full; there may be more datagrams.
    Full,
}

/// The listeners; [`Peer::socket`] is the index in the order of the settings.
pub struct UdpSockets {
    sockets: Vec<UdpSocket>,
    /// The socket that is checked first the next time, so that none starves.
    next: usize,
    buffer: Vec<u8>,
}

impl UdpSockets {
    pub fn bind(listeners: &[UdpListener]) -> io::Result<Self> {
        let bind = |listener: &UdpListener| open(listener).map_err(|error| explained(listener, &error));
        let sockets = listeners.iter().map(bind).collect::<io::Result<_>>()?;
        Ok(Self { sockets, next: 0, buffer: vec![0; LARGEST_DATAGRAM] })
    }

    pub fn local_addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.sockets.iter().map(UdpSocket::local_addr).collect()
    }

    /// Waits until one of the sockets is readable, and returns its index. Cancel-safe.
    pub async fn readable(&self) -> usize {
        poll_fn(|context| {
            let count = self.sockets.len();
            for index in (0..count).map(|offset| (self.next + offset) % count) {
                // An error is met again, and told, when the socket is read.
                if self.sockets[index].poll_recv_ready(context).is_ready() {
                    return Poll::Ready(index);
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Passes the received datagrams of a socket to `take`, at most one batch.
    pub fn receive(&mut self, index: usize, mut take: impl FnMut(Peer, &[u8])) -> io::Result<ReceiveBatch> {
        self.next = index + 1;
        for _ in 0..BATCH {
            match self.sockets[index].try_recv_from(&mut self.buffer) {
                Ok((length, address)) => take(Peer::udp(index as u16, address), &self.buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(ReceiveBatch::Emptied),
                Err(error) => return Err(error),
            }
        }
        Ok(ReceiveBatch::Full)
    }

    /// Sends a datagram without waiting. A full buffer of the system counts as a loss in the network.
    pub fn send(&self, peer: Peer, datagram: &[u8]) -> io::Result<()> {
        let socket = &self.sockets[usize::from(peer.socket)];
        socket.try_send_to(datagram, peer.address).map(|_| ())
    }
}

fn open(listener: &UdpListener) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(listener.bind), Type::DGRAM, Some(Protocol::UDP))?;
    if listener.bind.is_ipv6() {
        // So that 0.0.0.0 and [::] can listen side by side on one port.
        socket.set_only_v6(true)?;
    }
    socket.set_recv_buffer_size(listener.recbuf)?;
    socket.set_nonblocking(true)?;
    socket.bind(&listener.bind.into())?;
    UdpSocket::from_std(socket.into())
}

/// Returns the error of a listener with its key and address, and with the next step for a privileged port.
fn explained(listener: &UdpListener, error: &io::Error) -> io::Error {
    let (key, bind) = (listener.key(), listener.bind);
    let privileged = error.kind() == io::ErrorKind::PermissionDenied && bind.port() < FIRST_FREE_PORT;
    let hint = if privileged { "; a port below 1024 needs CAP_NET_BIND_SERVICE" } else { "" };
    io::Error::new(error.kind(), format!("{key}.bind = {bind}: {}{hint}", plain(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_privileged_port_that_may_not_be_bound_names_the_missing_capability() {
        let denied = |port| {
            let bind = SocketAddr::from(([0, 0, 0, 0], port));
            let listener = UdpListener { name: "default".to_owned(), security: Security::None, bind, recbuf: 2048 };
            explained(&listener, &io::Error::from(io::ErrorKind::PermissionDenied)).to_string()
        };
        let below = denied(683);
        assert!(below.starts_with("listeners.udp.default.bind = 0.0.0.0:683: permission denied"), "{below}");
        assert!(below.ends_with("; a port below 1024 needs CAP_NET_BIND_SERVICE"), "{below}");
        assert!(!denied(5683).contains("CAP_NET_BIND_SERVICE"));
    }
}
