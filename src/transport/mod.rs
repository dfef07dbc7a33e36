//! The UDP sockets of devices. This module knows addresses and datagrams, and not their contents.

mod batch;
mod udp;

pub use batch::{BATCH, ReceiveBatch};
pub use udp::{Security, UdpListener, UdpSockets};
