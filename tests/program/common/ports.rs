//! Ports for what the tests start. Systems give ports of 32,768 and above to sockets that ask for any (Linux; IANA:
//! 49,152). These lie below, so that no other socket takes a port between the choice and the gateway's bind. None
//! is given twice in one process: what is still on its way to a device that is gone reaches nobody else.

use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::process;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

const FIRST: u32 = 15_000;
const COUNT: u32 = 17_000;

/// Counts on from another port in each process.
static NEXT: LazyLock<AtomicU32> = LazyLock::new(|| AtomicU32::new(process::id().wrapping_mul(101)));

/// Returns an address of 127.0.0.1 that nobody listens at. It is not bound for a trial: a program that another test
/// starts in that moment has a copy of the socket until it runs, and the port is taken as long as that.
pub(crate) fn free_address() -> SocketAddr {
    candidates().find(|address| TcpStream::connect(address).is_err()).expect("a port of thousands is free")
}

/// Returns a UDP socket at a port that this process has not used before.
pub(crate) fn udp_socket() -> UdpSocket {
    candidates().find_map(|address| UdpSocket::bind(address).ok()).expect("a port of thousands is free")
}

fn candidates() -> impl Iterator<Item = SocketAddr> {
    (0..COUNT).map(|_| {
        let offset = NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        SocketAddr::from((Ipv4Addr::LOCALHOST, u16::try_from(FIRST + offset).expect("they end below 32,768")))
    })
}
