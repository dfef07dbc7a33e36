//! The devices' sockets. It knows addresses and datagrams, nothing of what is in them.

mod udp;

pub(crate) use udp::ReceiveBatch;
pub use udp::{Security, UdpListener, UdpSockets};
