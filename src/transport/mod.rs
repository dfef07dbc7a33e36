//! The devices' sockets. It knows addresses and datagrams, nothing of what is in them.

mod udp;

pub use udp::{ReceiveBatch, Security, UdpListener, UdpSockets};
