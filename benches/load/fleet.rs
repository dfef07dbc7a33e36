//! The devices: one socket and one task each, all on one thread.

use std::cell::Cell;
use std::future::pending;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lwm2m_core::lwm2m::path::Path;
use lwm2m_simulator::{DeviceEvent, SimulatedDevice, SimulatedDeviceConfig, SimulatedDeviceOutput, SimulatedValue};
use tokio::net::UdpSocket;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::spawn_local;
use tokio::time::sleep_until;

pub const TEMPERATURE: &str = "/3303/0/5700";

/// Devices that register at once: more would overflow the server's socket, and wait for their retransmissions.
const REGISTERING_AT_ONCE: usize = 200;

/// Counts the events of all devices.
#[derive(Debug, Default)]
pub struct FleetCounts {
    pub registered: Cell<u64>,
    pub observed: Cell<u64>,
    pub notified: Cell<u64>,
    pub updated: Cell<u64>,
    /// Datagrams that the system did not take.
    pub unsent: Cell<u64>,
}

pub struct Fleet {
    counts: Rc<FleetCounts>,
    /// Each device waits this long between two notifications.
    interval: watch::Sender<Option<Duration>>,
    interval_of_sleepers: watch::Sender<Option<Duration>>,
}

impl Fleet {
    /// The devices register by themselves from now on; with `sleepers` some are in queue mode.
    pub async fn start(devices: u32, lifetime: Duration, server: SocketAddr, sleepers: bool) -> anyhow::Result<Self> {
        let fleet = Self {
            counts: Rc::default(),
            interval: watch::Sender::new(None),
            interval_of_sleepers: watch::Sender::new(None),
        };
        let registering = Arc::new(Semaphore::new(REGISTERING_AT_ONCE));
        for number in 0..devices {
            let asleep = sleepers && sleeps(number);
            let member = FleetDevice::new(number, devices, lifetime, server, asleep, &fleet).await?;
            let registering = Arc::clone(&registering);
            spawn_local(async move {
                let permit = registering.acquire_owned().await.expect("nobody closes the semaphore");
                FleetDevice { registering: Some(permit), ..member }.live().await;
            });
        }
        Ok(fleet)
    }

    pub fn counts(&self) -> &FleetCounts {
        &self.counts
    }

    pub fn notify_every(&self, interval: Option<Duration>) {
        self.interval.send_replace(interval);
        self.interval_of_sleepers.send_replace(interval);
    }

    /// The devices in queue mode stay silent.
    pub fn notify_while_awake(&self, interval: Duration) {
        self.interval.send_replace(Some(interval));
    }
}

/// Whether this device is in queue mode, where there are such: every tenth.
pub fn sleeps(number: u32) -> bool {
    number % 10 == 9
}

pub fn endpoint(number: u32) -> String {
    format!("load-{number}")
}

/// A device of the fleet.
struct FleetDevice {
    device: SimulatedDevice,
    socket: UdpSocket,
    counts: Rc<FleetCounts>,
    interval: watch::Receiver<Option<Duration>>,
    /// The share of the interval that this device waits before its first notification, so that they do not come at once.
    phase: f64,
    temperature: Path,
    /// Given back when the device is registered.
    registering: Option<OwnedSemaphorePermit>,
    next_notification: Option<Instant>,
    sent: u32,
}

impl FleetDevice {
    async fn new(
        number: u32,
        devices: u32,
        lifetime: Duration,
        server: SocketAddr,
        asleep: bool,
        fleet: &Fleet,
    ) -> anyhow::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        socket.connect(server).await?;
        // Before its first look at a socket the runtime takes it for full, and the Register would be lost.
        socket.writable().await?;
        let settings = SimulatedDeviceConfig {
            lifetime,
            binding: if asleep { "UQ" } else { "U" }.to_owned(),
            wave: None,
            notification_interval: None,
            ..SimulatedDeviceConfig::new(endpoint(number))
        };
        Ok(Self {
            device: SimulatedDevice::new(settings, number.into()),
            socket,
            counts: Rc::clone(&fleet.counts),
            interval: if asleep { &fleet.interval_of_sleepers } else { &fleet.interval }.subscribe(),
            phase: f64::from(number) / f64::from(devices),
            temperature: TEMPERATURE.parse()?,
            registering: None,
            next_notification: None,
            sent: 0,
        })
    }

    /// Ends with the fleet.
    async fn live(mut self) {
        let mut buffer = [0; 2048];
        self.device.start(Instant::now());
        loop {
            let deadline = self.drain();
            tokio::select! {
                received = self.socket.recv(&mut buffer) => {
                    // A refused datagram is one lost: the device repeats what matters.
                    if let Ok(length) = received {
                        self.device.handle_datagram(Instant::now(), &buffer[..length]);
                    }
                }
                () = wait_until(deadline) => self.device.handle_timeout(Instant::now()),
                () = wait_until(self.next_notification) => self.notify(),
                changed = self.interval.changed() => match changed {
                    Ok(()) => self.pace(),
                    Err(_) => return,
                },
            }
        }
    }

    fn drain(&mut self) -> Option<Instant> {
        let count = |counter: &Cell<u64>| counter.set(counter.get() + 1);
        loop {
            match self.device.poll_output() {
                SimulatedDeviceOutput::Transmit(datagram) => {
                    if self.socket.try_send(&datagram).is_err() {
                        count(&self.counts.unsent);
                    }
                }
                SimulatedDeviceOutput::Event(DeviceEvent::Registered { .. }) => {
                    count(&self.counts.registered);
                    drop(self.registering.take());
                }
                SimulatedDeviceOutput::Event(DeviceEvent::ObservationBegan { .. }) => count(&self.counts.observed),
                SimulatedDeviceOutput::Event(DeviceEvent::Updated) => count(&self.counts.updated),
                SimulatedDeviceOutput::Event(DeviceEvent::Notified { .. }) => count(&self.counts.notified),
                SimulatedDeviceOutput::Event(_) => {}
                SimulatedDeviceOutput::Idle(deadline) => return deadline,
            }
        }
    }

    /// Takes the new interval.
    fn pace(&mut self) {
        let interval = *self.interval.borrow_and_update();
        self.next_notification = interval.map(|interval| Instant::now() + interval.mul_f64(self.phase));
    }

    fn notify(&mut self) {
        let Some(interval) = *self.interval.borrow() else { return };
        self.sent += 1;
        self.device.notify(Instant::now(), self.temperature, SimulatedValue::Float(self.sent.into()));
        // Counted from when it was due: what comes late is made up for.
        self.next_notification = self.next_notification.map(|due| due + interval);
    }
}

async fn wait_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline.into()).await,
        None => pending().await,
    }
}
