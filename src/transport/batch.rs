//! Many datagrams in one call of the system: `recvmmsg` and `sendmmsg`.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd;

use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg};
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, SocketAddrAny, sendmmsg};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// Maximum number of datagrams in one call.
pub const BATCH: usize = 64;
/// The largest datagram of UDP, in bytes.
const LARGEST_DATAGRAM: usize = 65_535;

/// The result of reading a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiveBatch {
    /// No datagram is left.
    Emptied,
    /// The batch is full; there may be more datagrams.
    Full,
}

/// Room for one batch of datagrams of any size. The system provides the memory as far as it is used.
pub(crate) struct ReceiveBuffer(Vec<u8>);

/// A datagram to send, and its destination.
pub(crate) struct OutgoingDatagram {
    pub address: SocketAddr,
    pub datagram: Vec<u8>,
}

impl ReceiveBuffer {
    pub(super) fn new() -> Self {
        Self(vec![0; BATCH * LARGEST_DATAGRAM])
    }

    /// Passes the received datagrams of a socket to `take`, at most one batch.
    pub(super) fn receive(
        &mut self,
        socket: &UdpSocket,
        mut take: impl FnMut(SocketAddr, &[u8]),
    ) -> io::Result<ReceiveBatch> {
        let received = socket.try_io(Interest::READABLE, || {
            let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(BATCH, None);
            let mut slices: Vec<_> =
                self.0.chunks_exact_mut(LARGEST_DATAGRAM).map(|room| [IoSliceMut::new(room)]).collect();
            let fd = socket.as_raw_fd();
            let messages = recvmmsg(fd, &mut headers, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None)?;
            let mut count = 0;
            for message in messages {
                count += 1;
                if let Some(address) = message.address.as_ref().and_then(socket_address) {
                    take(address, message.iovs().next().unwrap_or_default());
                }
            }
            // Only by this error Tokio learns that the socket is empty and waits for the next datagram.
            if count < BATCH { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        match received {
            Ok(()) => Ok(ReceiveBatch::Full),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(ReceiveBatch::Emptied),
            Err(error) => Err(error),
        }
    }
}

/// Sends datagrams, at most one batch, without waiting. Returns how many were sent, from the first one on.
///
/// # Errors
/// The first datagram could not be sent.
pub(super) fn send(socket: &UdpSocket, datagrams: &[OutgoingDatagram]) -> io::Result<usize> {
    if let [OutgoingDatagram { address, datagram }] = datagrams {
        return socket.try_send_to(datagram, *address).map(|_| 1);
    }
    let datagrams = &datagrams[..datagrams.len().min(BATCH)];
    let addresses: Vec<SocketAddrAny> = datagrams.iter().map(|datagram| datagram.address.into()).collect();
    let slices: Vec<_> = datagrams.iter().map(|datagram| [IoSlice::new(&datagram.datagram)]).collect();
    let mut controls: Vec<_> = datagrams.iter().map(|_| SendAncillaryBuffer::default()).collect();
    let mut messages: Vec<_> = addresses
        .iter()
        .zip(&slices)
        .zip(&mut controls)
        .map(|((address, slice), control)| MMsgHdr::new_with_addr(address, slice, control))
        .collect();
    socket.try_io(Interest::WRITABLE, || Ok(sendmmsg(socket, &mut messages, SendFlags::DONTWAIT)?))
}

fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|address| SocketAddrV4::from(*address).into());
    v4.or_else(|| address.as_sockaddr_in6().map(|address| SocketAddrV6::from(*address).into()))
}
