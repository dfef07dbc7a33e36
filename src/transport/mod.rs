//! The UDP sockets of devices. This module knows addresses and datagrams, and not their contents.

mod udp;

pub(crate) use udp::ReceiveBatch;
pub use udp::{Security, UdpListener, UdpSockets};
