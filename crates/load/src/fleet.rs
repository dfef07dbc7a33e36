//! The devices together: their configuration, their pace and their counts.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use lwm2m_simulator::SimulatedVersion;
use tokio::sync::{Semaphore, watch};
use tokio::task::spawn_local;

use crate::device::FleetDevice;
use crate::{Journal, Latencies};

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

/// Counts the events of all devices.
#[derive(Debug, Default)]
pub struct FleetCounts {
    pub registered: Cell<u64>,
    pub observed: Cell<u64>,
    pub notified: Cell<u64>,
    pub updated: Cell<u64>,
    /// The time from an Update that was ordered to its answer.
    pub updates: RefCell<Latencies>,
    /// Firmware images that were fetched to their end, and those that failed.
    pub downloaded: Cell<u64>,
    pub failed_downloads: Cell<u64>,
    pub stopped: Cell<u64>,
    /// Notifications that were due while the one before them waited for its acknowledgement; they are not sent.
    pub delayed: Cell<u64>,
    /// Datagrams that the system did not take.
    pub unsent: Cell<u64>,
    /// Registers and Updates that were refused, by the response code; `no answer` when there was none.
    pub refused: RefCell<BTreeMap<String, u64>>,
    /// The time from the first datagram of a device to the answer to its Register, a DTLS handshake included.
    pub registrations: RefCell<Latencies>,
}

impl FleetCounts {
    pub(crate) fn add(counter: &Cell<u64>) {
        counter.set(counter.get() + 1);
    }
}

/// Simulated devices, which live until the fleet is dropped.
#[derive(Debug)]
pub struct Fleet {
    counts: Rc<FleetCounts>,
    /// Each device waits this long between two notifications.
    interval: watch::Sender<Option<Duration>>,
    interval_of_sleepers: watch::Sender<Option<Duration>>,
    /// Each device waits this long between two Updates.
    update_interval: watch::Sender<Option<Duration>>,
    stopping: watch::Sender<bool>,
}

/// The orders that a device follows.
#[derive(Debug)]
pub(crate) struct Orders {
    pub interval: watch::Receiver<Option<Duration>>,
    pub update_interval: watch::Receiver<Option<Duration>>,
    pub stopping: watch::Receiver<bool>,
}

impl Fleet {
    /// Starts the devices, which register by themselves from now on. It needs a `LocalSet`.
    ///
    /// # Errors
    ///
    /// The system has no socket for a device.
    pub async fn start(config: FleetConfig, journal: &Rc<RefCell<Journal>>) -> anyhow::Result<Self> {
        let fleet = Self {
            counts: Rc::default(),
            interval: watch::Sender::new(None),
            interval_of_sleepers: watch::Sender::new(None),
            update_interval: watch::Sender::new(None),
            stopping: watch::Sender::new(false),
        };
        let registering = Arc::new(Semaphore::new(config.registering_at_once));
        for number in config.first..config.first + config.devices {
            let interval = if config.sleeps(number) { &fleet.interval_of_sleepers } else { &fleet.interval };
            let orders = Orders {
                interval: interval.subscribe(),
                update_interval: fleet.update_interval.subscribe(),
                stopping: fleet.stopping.subscribe(),
            };
            let member =
                FleetDevice::new(number, &config, orders, Rc::clone(&fleet.counts), Rc::clone(journal)).await?;
            let registering = Arc::clone(&registering);
            spawn_local(async move {
                let permit = registering.acquire_owned().await.expect("nobody closes the semaphore");
                member.live(permit).await;
            });
        }
        Ok(fleet)
    }

    pub fn counts(&self) -> &FleetCounts {
        &self.counts
    }

    /// Lets each device notify at this interval, or not at all.
    pub fn notify_every(&self, interval: Option<Duration>) {
        self.interval.send_replace(interval);
        self.interval_of_sleepers.send_replace(interval);
    }

    /// Lets each device send an Update at this interval, beside those that its lifetime needs.
    pub fn update_every(&self, interval: Option<Duration>) {
        self.update_interval.send_replace(interval);
    }

    /// The devices in queue mode stay silent.
    pub fn notify_while_awake(&self, interval: Duration) {
        self.interval.send_replace(Some(interval));
    }

    /// Lets all devices de-register; [`FleetCounts::stopped`] tells how many have.
    pub fn stop(&self) {
        self.notify_every(None);
        self.update_every(None);
        self.stopping.send_replace(true);
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
