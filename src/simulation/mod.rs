//! Runs simulated devices in this process: for the demonstration, and for a first look with `run --embedded
//! --simulate`.
//!
//! They are thermometers, which are always awake, and meters, which sleep. The last of three or more is faulty, so that
//! the console has failures to show.

mod device;
mod kinds;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Context;
use tokio::task::JoinSet;
use tokio::time::interval;
use tracing::debug;

use crate::clock::unix_time;

use kinds::{DeviceKind, HABIT_INTERVAL};

pub(crate) use device::RunningDevice;

/// The tasks of the simulated devices. They end when it is dropped.
pub(crate) struct SimulatedDevices(#[expect(dead_code, reason = "it is held until it is dropped")] JoinSet<()>);

impl SimulatedDevices {
    /// Starts this number of devices, which register at the gateway's UDP listener.
    pub(crate) async fn start(listener: SocketAddr, count: u16) -> anyhow::Result<Self> {
        let server = reachable(listener);
        let mut tasks = JoinSet::new();
        for number in 1..=count {
            let kind = DeviceKind::of(number, count);
            let device = RunningDevice::start(server, kind.config(number), number.into());
            let device = device.await.with_context(|| format!("the socket of the simulated device {number}"))?;
            let device = match kind {
                DeviceKind::Thermometer(_) | DeviceKind::Meter => device,
                DeviceKind::Faulty => device.losing_one_of(kinds::FAULTY_LOSES_ONE_OF),
            };
            tasks.spawn(run(device, kind, number));
        }
        Ok(Self(tasks))
    }
}

/// Runs a device, and does at intervals what its kind does by itself.
async fn run(mut device: RunningDevice, kind: DeviceKind, number: u16) {
    let mut due = interval(HABIT_INTERVAL);
    let mut turn = 0;
    loop {
        tokio::select! {
            event = device.next_event() => match event {
                Some(event) => debug!(number, ?event, "simulated device"),
                None => return,
            },
            _ = due.tick() => {
                act(&mut device, kind, turn);
                turn += 1;
            }
        }
    }
}

fn act(device: &mut RunningDevice, kind: DeviceKind, turn: usize) {
    match kind {
        DeviceKind::Thermometer(_) => {
            let Some(report) = unix_time().ok().and_then(|time| kind.report(time)) else { return };
            if let Err(error) = device.send(&report) {
                debug!(%error, "the simulated device sends no report");
            }
        }
        DeviceKind::Meter => {}
        DeviceKind::Faulty => device.send_stray(&kinds::broken_datagram(turn)),
    }
}

/// Returns the address by which a device on this machine reaches a listener.
pub(crate) fn reachable(bound: SocketAddr) -> SocketAddr {
    let mut address = bound;
    if bound.ip().is_unspecified() {
        address.set_ip(if bound.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
    }
    address
}
