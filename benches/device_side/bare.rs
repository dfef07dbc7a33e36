//! The yardstick: returns datagrams as they come, in batches, and does nothing else.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use lwm2m_gateway::transport::BATCH;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg};

/// Bytes of the largest datagram.
const ROOM: usize = 2048;

pub(crate) struct BareEcho {
    socket: UdpSocket,
    buffer: Vec<u8>,
    received: MultiHeaders<SockaddrIn>,
    sent: MultiHeaders<SockaddrIn>,
}

impl BareEcho {
    pub(crate) fn bind() -> io::Result<Self> {
        Ok(Self {
            socket: UdpSocket::bind("127.0.0.1:0")?,
            buffer: vec![0; BATCH * ROOM],
            received: MultiHeaders::preallocate(BATCH, None),
            sent: MultiHeaders::preallocate(BATCH, None),
        })
    }

    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Returns so many datagrams.
    pub(crate) fn serve(&mut self, datagrams: usize) -> anyhow::Result<()> {
        let fd = self.socket.as_raw_fd();
        let mut served = 0;
        while served < datagrams {
            let mut rooms: Vec<_> = self.buffer.chunks_exact_mut(ROOM).map(|room| [IoSliceMut::new(room)]).collect();
            let messages = recvmmsg(fd, &mut self.received, rooms.iter_mut(), MsgFlags::MSG_WAITFORONE, None)?;
            let (slices, addresses): (Vec<_>, Vec<_>) = messages
                .map(|message| ([IoSlice::new(message.iovs().next().unwrap_or_default())], message.address))
                .unzip();
            sendmmsg(fd, &mut self.sent, &slices, &addresses, [], MsgFlags::empty())?;
            served += slices.len();
        }
        Ok(())
    }
}
