//! The devices' sockets. It knows addresses and datagrams, nothing of what is in them.

mod udp;

pub use udp::{Batch, Security, Sockets, UdpListener};
