//! A second gateway, which has as many devices as the first one.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use super::UpdateProbe;
use crate::server::BenchServer;

/// Devices of one loopback address, each at a port of its own. Those of the first gateway have other addresses.
const DEVICES_OF_ADDRESS: u32 = 20_000;
const FIRST_PORT: u16 = 10_000;

/// The running program, and devices that have registered there and are silent since then: whoever lists and searches
/// devices does not notice that, and they need no sockets.
pub(super) struct OtherGateway {
    pub server: BenchServer,
}

impl OtherGateway {
    pub(super) async fn start(devices: u32) -> anyhow::Result<Self> {
        let server = BenchServer::start_swallowing().await?;
        let begin = Instant::now();
        for number in 0..devices {
            UpdateProbe::register_from(address(number), server.udp, &format!("load-{number}")).await?;
        }
        println!("{devices} devices registered at the second gateway in {:.1?}", begin.elapsed());
        Ok(Self { server })
    }
}

fn address(number: u32) -> SocketAddr {
    let (host, port) = (number / DEVICES_OF_ADDRESS + 1, number % DEVICES_OF_ADDRESS);
    (Ipv4Addr::new(127, 200, 0, host as u8), FIRST_PORT + port as u16).into()
}
