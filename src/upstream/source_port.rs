//! The choice of the source port of a connection.
//!
//! By default Linux first gives connections one half of its ports, the even ones, and searches all of them before it
//! takes one of the other half: beyond about 14,000 connections from one address to one target, each costs more than a
//! millisecond of processor time. A port that `bind` chooses is worse: it must be free for all targets.

use std::os::fd::AsFd;

use nix::libc::{self, IPPROTO_IP, c_int};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::IpBindAddressNoPort;
use nix::{getsockopt_impl, setsockopt_impl, sockopt_impl};
use tracing::trace;

/// The number of the option in linux/in.h, since Linux 6.3.
const IP_LOCAL_PORT_RANGE: c_int = 51;

/// A range of all ports, the highest in the upper half. The system's own range still applies. Since Linux 6.8 a
/// socket with a range is not given one half first.
const ALL_PORTS: u32 = 0xffff_0001;

sockopt_impl!(LocalPortRange, Both, IPPROTO_IP, IP_LOCAL_PORT_RANGE, u32);

/// Makes the system choose the port when the target is known, among all ports that are free for this target. An older
/// system refuses that, and chooses in its own way.
pub(crate) fn choose_late(socket: &impl AsFd) {
    let late = setsockopt(socket, IpBindAddressNoPort, &true);
    if let Err(error) = late.and_then(|()| setsockopt(socket, LocalPortRange, &ALL_PORTS)) {
        trace!(%error, "the system chooses source ports in its own way");
    }
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;
    use nix::sys::socket::getsockopt;
    use tokio::net::TcpSocket;

    use super::*;

    #[tokio::test]
    async fn a_port_is_chosen_when_the_target_is_known_of_both_halves() {
        for (socket, source) in [
            (TcpSocket::new_v4().expect("a socket"), "127.0.0.2:0"),
            (TcpSocket::new_v6().expect("a socket"), "[::1]:0"),
        ] {
            choose_late(&socket);
            match getsockopt(&socket, LocalPortRange) {
                Ok(range) => assert_eq!(range, ALL_PORTS),
                Err(error) => assert_eq!(error, Errno::ENOPROTOOPT),
            }
            socket.bind(source.parse().expect("an address")).expect("an address of this machine");
            assert_eq!(socket.local_addr().expect("it is bound").port(), 0);
        }
    }
}
