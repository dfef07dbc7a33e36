//! UDP sockets with large receive buffers, read in batches. Of DTLS they know only which sockets use it.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::task::Poll;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::UdpSocket;

use crate::errors::plain;
use lwm2m_base::Peer;
use lwm2m_core::gateway::config::SocketRole;

use super::batch::{self, OutgoingDatagram, ReceiveBatch, ReceiveBuffer};

/// The first port that a program may bind without a privilege.
const FIRST_FREE_PORT: u16 = 1024;

/// A UDP socket for devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UdpListener {
    pub name: String,
    pub security: Security,
    /// The requests that devices may send to this socket.
    pub role: SocketRole,
    /// Port 0 lets the system choose one. On a host with several addresses name the one that devices know: an answer
    /// leaves from the bound address.
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

/// The listeners; [`Peer::socket`] is the index in the order of the settings.
pub struct UdpSockets {
    sockets: Vec<DeviceSocket>,
    /// The socket that is checked first the next time, so that none starves.
    next: usize,
    buffer: ReceiveBuffer,
}

struct DeviceSocket {
    socket: UdpSocket,
    /// The datagrams that the next [`UdpSockets::flush`] sends.
    outgoing: Vec<OutgoingDatagram>,
}

impl UdpSockets {
    pub fn bind(listeners: &[UdpListener]) -> io::Result<Self> {
        let bind = |listener: &UdpListener| open(listener).map_err(|error| explained(listener, &error));
        Ok(Self::of(listeners.iter().map(bind).collect::<io::Result<_>>()?))
    }

    /// Binds one more socket at the address of each of these, for another thread. The kernel keeps the datagrams of a
    /// remote address with one of the sockets.
    // The first socket of a listener is bound without SO_REUSEPORT, so that a second process still finds its address in
    // use.
    pub(crate) fn bind_beside(&self, listeners: &[UdpListener]) -> io::Result<Self> {
        let bind = |(listener, DeviceSocket { socket, .. }): (&UdpListener, &DeviceSocket)| {
            SockRef::from(socket).set_reuse_port(true)?;
            let another = unbound(listener)?;
            another.set_reuse_port(true)?;
            another.bind(&socket.local_addr()?.into())?;
            UdpSocket::from_std(another.into())
        };
        let pairs = listeners.iter().zip(&self.sockets);
        let bound = pairs.map(|pair| bind(pair).map_err(|error| explained(pair.0, &error)));
        Ok(Self::of(bound.collect::<io::Result<_>>()?))
    }

    fn of(sockets: Vec<UdpSocket>) -> Self {
        let sockets = sockets.into_iter().map(|socket| DeviceSocket { socket, outgoing: Vec::new() });
        Self { sockets: sockets.collect(), next: 0, buffer: ReceiveBuffer::new() }
    }

    pub fn local_addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.sockets.iter().map(|DeviceSocket { socket, .. }| socket.local_addr()).collect()
    }

    /// Waits until one of the sockets is readable, and returns its index. Cancel-safe.
    pub async fn readable(&self) -> usize {
        poll_fn(|context| {
            let count = self.sockets.len();
            for index in (0..count).map(|offset| (self.next + offset) % count) {
                // An error is met again, and told, when the socket is read.
                if self.sockets[index].socket.poll_recv_ready(context).is_ready() {
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
        let Self { sockets, buffer, .. } = self;
        buffer.receive(&sockets[index].socket, |address, datagram| take(Peer::udp(index as u16, address), datagram))
    }

    /// Keeps a datagram until the next [`UdpSockets::flush`].
    pub fn queue(&mut self, peer: Peer, datagram: Vec<u8>) {
        let DeviceSocket { outgoing, .. } = &mut self.sockets[usize::from(peer.socket)];
        outgoing.push(OutgoingDatagram { address: peer.address, datagram });
    }

    /// Sends the queued datagrams without waiting, those of one socket in their order, and returns how many were sent.
    /// The others are lost, and their errors go to `lost`: a full buffer of the system counts as a loss in the network.
    pub fn flush(&mut self, mut lost: impl FnMut(&io::Error)) -> usize {
        let mut total = 0;
        for DeviceSocket { socket, outgoing } in &mut self.sockets {
            let mut left = &outgoing[..];
            while !left.is_empty() {
                let passed = match batch::send(socket, left) {
                    Ok(sent) => {
                        total += sent;
                        sent
                    }
                    Err(error) => {
                        lost(&error);
                        1
                    }
                };
                left = &left[passed..];
            }
            outgoing.clear();
        }
        total
    }
}

fn open(listener: &UdpListener) -> io::Result<UdpSocket> {
    let socket = unbound(listener)?;
    socket.bind(&listener.bind.into())?;
    UdpSocket::from_std(socket.into())
}

fn unbound(listener: &UdpListener) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(listener.bind), Type::DGRAM, Some(Protocol::UDP))?;
    if listener.bind.is_ipv6() {
        // So that 0.0.0.0 and [::] can listen side by side on one port.
        socket.set_only_v6(true)?;
    }
    socket.set_recv_buffer_size(listener.recbuf)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
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
            let listener = UdpListener {
                name: "default".to_owned(),
                security: Security::None,
                role: SocketRole::All,
                bind,
                recbuf: 2048,
            };
            explained(&listener, &io::Error::from(io::ErrorKind::PermissionDenied)).to_string()
        };
        let below = denied(683);
        assert!(below.starts_with("listeners.udp.default.bind = 0.0.0.0:683: permission denied"), "{below}");
        assert!(below.ends_with("; a port below 1024 needs CAP_NET_BIND_SERVICE"), "{below}");
        assert!(!denied(5683).contains("CAP_NET_BIND_SERVICE"));
    }
}
