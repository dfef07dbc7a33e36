//! The devices of a fleet: how many, where, and what they do.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use lwm2m_simulator::SimulatedVersion;

/// The resource that each device notifies: a temperature, whose value is the number of the notification.
pub const NOTIFIED_PATH: &str = "/3303/0/5700";

/// The sockets of one loopback address: fewer than Linux has ephemeral ports.
const DEVICES_PER_ADDRESS: u32 = 20_000;

#[derive(Clone, Debug)]
pub struct FleetConfig {
    pub gateway: SocketAddr,
    pub devices: u32,
    /// The number of the first device. Fleets of several processes have different numbers.
    pub first: u32,
    /// An endpoint name is this and the number of the device.
    pub prefix: String,
    pub lifetime: Duration,
    pub version: SimulatedVersion,
    /// Whether notifications are confirmable messages (RFC 7252 section 4.2).
    pub confirmable: bool,
    /// Whether the devices have a firmware update object, and fetch images from the gateway.
    pub pulls: bool,
    /// Whether every tenth device is in queue mode.
    pub sleepers: bool,
    /// Devices that register at once. More than the gateway's socket buffer holds have to repeat themselves.
    pub registering_at_once: usize,
    /// The pre-shared key of all devices, whose identities are their endpoint names. Without it they speak plain UDP.
    #[cfg(feature = "dtls")]
    pub psk: Option<Vec<u8>>,
}

impl FleetConfig {
    /// Returns devices of LwM2M 1.0 over plain UDP, with a lifetime of an hour.
    pub fn new(gateway: SocketAddr, devices: u32) -> Self {
        Self {
            gateway,
            devices,
            first: 0,
            prefix: "load-".to_owned(),
            lifetime: Duration::from_secs(3600),
            version: SimulatedVersion::V1_0,
            confirmable: false,
            pulls: false,
            sleepers: false,
            registering_at_once: 200,
            #[cfg(feature = "dtls")]
            psk: None,
        }
    }

    pub fn endpoint(&self, number: u32) -> String {
        format!("{}{number}", self.prefix)
    }

    /// Returns the local address of a device. Many devices of one machine need several of its loopback addresses.
    pub(crate) fn address(&self, number: u32) -> IpAddr {
        match self.gateway.ip() {
            IpAddr::V4(gateway) if gateway.is_loopback() => {
                let [_, _, _, last] = Ipv4Addr::LOCALHOST.octets();
                let further = u8::try_from(number / DEVICES_PER_ADDRESS).unwrap_or(u8::MAX - last);
                Ipv4Addr::new(127, 0, 0, last.saturating_add(further)).into()
            }
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        }
    }
}

impl FleetConfig {
    pub(crate) fn sleeps(&self, number: u32) -> bool {
        self.sleepers && sleeps(number)
    }
}

/// Returns whether this device is in queue mode, in a fleet that has such: every tenth.
pub fn sleeps(number: u32) -> bool {
    number % 10 == 9
}
