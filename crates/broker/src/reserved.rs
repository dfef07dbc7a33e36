//! Addresses of listeners that come and go.

use std::net::SocketAddr;

use anyhow::Context as _;
use tokio::net::{TcpListener, TcpSocket};

/// Connections that wait to be accepted (EMQX: `backlog`).
const BACKLOG: u32 = 1_024;

/// An address that stays ours while nobody listens on it.
pub(super) struct Reserved {
    pub(super) address: SocketAddr,
    /// The socket, bound but not listening: connections are refused, and the system gives the port to no other socket.
    _socket: TcpSocket,
}

impl Reserved {
    pub(super) fn new(wanted: SocketAddr) -> anyhow::Result<Self> {
        let socket = bind(wanted)?;
        Ok(Self { address: socket.local_addr()?, _socket: socket })
    }

    pub(super) fn listen(&self) -> anyhow::Result<TcpListener> {
        bind(self.address)?.listen(BACKLOG).with_context(|| format!("listening on {}", self.address))
    }
}

fn bind(address: SocketAddr) -> anyhow::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address).with_context(|| format!("binding {address}"))?;
    Ok(socket)
}
