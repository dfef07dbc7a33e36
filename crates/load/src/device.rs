//! A device: its socket, its state machine, its security, and the requests of the fleet to it.

use std::cell::RefCell;
use std::future::pending;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context;
use lwm2m_core::lwm2m::path::Path;
#[cfg(feature = "dtls")]
use lwm2m_dtls::test_client::{DtlsClient, DtlsClientConfig};
use lwm2m_simulator::{
    DeviceEvent, SimulatedDevice, SimulatedDeviceConfig, SimulatedDeviceOutput, SimulatedFirmwareConfig, SimulatedValue,
};
use tokio::net::UdpSocket;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::sleep_until;

use crate::fleet_config::{FleetConfig, NOTIFIED_PATH};
use crate::fleet_counts::FleetCounts;
use crate::journal::Journal;

/// State of the firmware update when the image is there (LwM2M Core 1.1 appendix E.6).
const DOWNLOADED: i64 = 2;

pub(crate) struct FleetDevice {
    number: u32,
    device: SimulatedDevice,
    socket: UdpSocket,
    #[cfg(feature = "dtls")]
    dtls: Option<Box<Dtls>>,
    counts: Rc<FleetCounts>,
    journal: Rc<RefCell<Journal>>,
    orders: Orders,
    /// The share of the interval that this device waits before its first notification, so that they do not come at
    /// once.
    phase: f64,
    notified: Path,
    /// Whether the server observes the notified path.
    observed: bool,
    /// Whether the last notification has left: a confirmable one waits for the acknowledgement of the one before it.
    sent: bool,
    /// The time of the first datagram, and the permit to register, until the device is registered.
    registering: Option<(Instant, OwnedSemaphorePermit)>,
    next_notification: Option<Instant>,
    next_update: Option<Instant>,
    /// The time of an Update that was ordered and is not answered.
    updating: Option<Instant>,
}

/// The orders that a device follows.
#[derive(Debug)]
pub(crate) struct Orders {
    pub interval: watch::Receiver<Option<Duration>>,
    pub update_interval: watch::Receiver<Option<Duration>>,
    pub stopping: watch::Receiver<bool>,
}

/// The device's end of DTLS.
#[cfg(feature = "dtls")]
struct Dtls {
    config: DtlsClientConfig,
    client: Option<DtlsClient>,
    device_started: bool,
}

impl FleetDevice {
    pub(crate) async fn new(
        number: u32,
        config: &FleetConfig,
        orders: Orders,
        counts: Rc<FleetCounts>,
        journal: Rc<RefCell<Journal>>,
    ) -> anyhow::Result<Self> {
        let socket = UdpSocket::bind((config.address(number), 0)).await.context("a socket of a device")?;
        socket.connect(config.gateway).await?;
        // Before its first look at a socket the runtime takes it for full, and the Register would be lost.
        socket.writable().await?;
        let asleep = config.sleeps(number);
        let mut device_config = SimulatedDeviceConfig {
            lifetime: config.lifetime,
            binding: if asleep { "UQ" } else { "U" }.to_owned(),
            wave: None,
            notification_interval: None,
            confirmable_notifications: config.confirmable,
            firmware: config.pulls.then(SimulatedFirmwareConfig::default),
            ..SimulatedDeviceConfig::of_version(config.endpoint(number), config.version)
        };
        let notified: Path = NOTIFIED_PATH.parse()?;
        device_config.objects.set(notified, SimulatedValue::Float(0.0));
        Ok(Self {
            number,
            #[cfg(feature = "dtls")]
            dtls: config.psk.as_ref().map(|key| Box::new(Dtls::new(&config.endpoint(number), key))),
            device: SimulatedDevice::new(device_config, number.into()),
            socket,
            counts,
            journal,
            orders,
            phase: f64::from(number - config.first) / f64::from(config.devices),
            notified,
            observed: false,
            sent: true,
            registering: None,
            next_notification: None,
            next_update: None,
            updating: None,
        })
    }

    /// Ends with the fleet.
    pub(crate) async fn live(mut self, registering: OwnedSemaphorePermit) {
        let mut buffer = [0; 2048];
        self.registering = Some((Instant::now(), registering));
        self.start();
        loop {
            let deadline = self.drain();
            tokio::select! {
                received = self.socket.recv(&mut buffer) => {
                    // A refused datagram is one lost: the device repeats what matters.
                    if let Ok(length) = received {
                        self.receive(&buffer[..length]);
                    }
                }
                () = wait_until(deadline) => self.handle_timeout(),
                () = wait_until(self.next_notification) => self.notify(),
                () = wait_until(self.next_update) => self.update(),
                changed = self.orders.update_interval.changed() => match changed {
                    Ok(()) => self.pace_updates(),
                    Err(_) => return,
                },
                changed = self.orders.interval.changed() => match changed {
                    Ok(()) => self.pace(),
                    Err(_) => return,
                },
                changed = self.orders.stopping.changed() => match changed {
                    Ok(()) => self.device.stop(Instant::now()),
                    Err(_) => return,
                },
            }
        }
    }

    #[cfg(not(feature = "dtls"))]
    fn start(&mut self) {
        self.device.start(Instant::now());
    }

    #[cfg(not(feature = "dtls"))]
    fn receive(&mut self, datagram: &[u8]) {
        self.device.handle_datagram(Instant::now(), datagram);
    }

    #[cfg(not(feature = "dtls"))]
    fn handle_timeout(&mut self) {
        self.device.handle_timeout(Instant::now());
    }

    #[cfg(not(feature = "dtls"))]
    fn transmit(&mut self, datagram: &[u8]) {
        self.send(datagram);
    }

    /// Handles the outputs of the device, and returns its deadline.
    fn drain(&mut self) -> Option<Instant> {
        loop {
            match self.device.poll_output() {
                SimulatedDeviceOutput::Transmit(datagram) => self.transmit(&datagram),
                SimulatedDeviceOutput::Event(event) => self.count(&event),
                SimulatedDeviceOutput::Idle(deadline) => return self.with_deadline_of_dtls(deadline),
            }
        }
    }

    #[cfg(not(feature = "dtls"))]
    fn with_deadline_of_dtls(&mut self, deadline: Option<Instant>) -> Option<Instant> {
        deadline
    }

    fn count(&mut self, event: &DeviceEvent) {
        match event {
            DeviceEvent::Registered { .. } => {
                FleetCounts::add(&self.counts.registered);
                if let Some((begin, _permit)) = self.registering.take() {
                    self.counts.registrations.borrow_mut().record(begin.elapsed());
                }
            }
            DeviceEvent::Refused { code, .. } => {
                let code = code.map_or_else(|| "no answer".to_owned(), |code| code.to_string());
                *self.counts.refused.borrow_mut().entry(code).or_default() += 1;
            }
            DeviceEvent::ObservationBegan { paths } => {
                self.observed |= paths.contains(&self.notified);
                FleetCounts::add(&self.counts.observed);
            }
            DeviceEvent::ObservationEnded { paths } => self.observed &= !paths.contains(&self.notified),
            DeviceEvent::Updated => {
                FleetCounts::add(&self.counts.updated);
                if let Some(begin) = self.updating.take() {
                    self.counts.updates.borrow_mut().record(begin.elapsed());
                }
            }
            DeviceEvent::FirmwareChanged { state: DOWNLOADED, .. } => FleetCounts::add(&self.counts.downloaded),
            DeviceEvent::FirmwareChanged { result, .. } if *result > 1 => {
                FleetCounts::add(&self.counts.failed_downloads);
            }
            DeviceEvent::Notified { .. } => {
                self.sent = true;
                FleetCounts::add(&self.counts.notified);
            }
            DeviceEvent::Stopped => FleetCounts::add(&self.counts.stopped),
            DeviceEvent::Answered { .. }
            | DeviceEvent::SendAnswered { .. }
            | DeviceEvent::FirmwareChanged { .. }
            | DeviceEvent::Bootstrapped { .. }
            | DeviceEvent::Rebooted => {}
        }
    }

    fn send(&self, datagram: &[u8]) {
        if self.socket.try_send(datagram).is_err() {
            FleetCounts::add(&self.counts.unsent);
        }
    }

    /// Takes the new interval.
    fn pace(&mut self) {
        let interval = *self.orders.interval.borrow_and_update();
        self.next_notification = interval.map(|interval| Instant::now() + interval.mul_f64(self.phase));
    }

    fn pace_updates(&mut self) {
        let interval = *self.orders.update_interval.borrow_and_update();
        self.next_update = interval.map(|interval| Instant::now() + interval.mul_f64(self.phase));
    }

    fn update(&mut self) {
        let Some(interval) = *self.orders.update_interval.borrow() else { return };
        let now = Instant::now();
        if self.device.update_now(now) {
            self.updating = Some(now);
        }
        self.next_update = self.next_update.map(|due: Instant| due + interval);
    }

    /// Notifies the next number, if the server observes.
    fn notify(&mut self) {
        let Some(interval) = *self.orders.interval.borrow() else { return };
        let now = Instant::now();
        if !self.sent {
            FleetCounts::add(&self.counts.delayed);
        } else if self.observed {
            self.sent = false;
            let number = self.journal.borrow_mut().sent(self.number, now);
            self.device.notify(now, self.notified, SimulatedValue::Float(number as f64));
        }
        // Counted from when it was due: what comes late is made up for.
        self.next_notification = self.next_notification.map(|due: Instant| due + interval);
    }
}

#[cfg(feature = "dtls")]
impl FleetDevice {
    fn start(&mut self) {
        match &mut self.dtls {
            None => self.device.start(Instant::now()),
            Some(dtls) => {
                let now = Instant::now();
                dtls.client = Some(DtlsClient::new(now, dtls.config.clone()));
                self.exchange();
            }
        }
    }

    fn receive(&mut self, datagram: &[u8]) {
        let now = Instant::now();
        match self.dtls.as_mut().and_then(|dtls| dtls.client.as_mut()) {
            None => self.device.handle_datagram(now, datagram),
            Some(client) => {
                client.handle_datagram(now, datagram);
                self.exchange();
            }
        }
    }

    fn handle_timeout(&mut self) {
        let now = Instant::now();
        self.device.handle_timeout(now);
        if let Some(client) = self.dtls.as_mut().and_then(|dtls| dtls.client.as_mut()) {
            client.handle_timeout(now);
            self.exchange();
        }
    }

    fn transmit(&mut self, datagram: &[u8]) {
        match self.dtls.as_mut().and_then(|dtls| dtls.client.as_mut()) {
            None => self.send(datagram),
            Some(client) if client.is_established() => {
                client.send(datagram);
                self.exchange();
            }
            // The association is gone; the device repeats what matters.
            Some(_) => FleetCounts::add(&self.counts.unsent),
        }
    }

    /// Moves what DTLS has for either side.
    fn exchange(&mut self) {
        let Some(dtls) = &mut self.dtls else { return };
        let Some(client) = &mut dtls.client else { return };
        let now = Instant::now();
        while let Some(record) = client.poll_transmit() {
            if self.socket.try_send(&record).is_err() {
                FleetCounts::add(&self.counts.unsent);
            }
        }
        if client.is_established() && !dtls.device_started {
            dtls.device_started = true;
            self.device.start(now);
        }
        while let Some(datagram) = client.poll_plaintext() {
            self.device.handle_datagram(now, &datagram);
        }
    }

    fn with_deadline_of_dtls(&mut self, deadline: Option<Instant>) -> Option<Instant> {
        let dtls = self.dtls.as_ref().and_then(|dtls| dtls.client.as_ref()).and_then(DtlsClient::next_deadline);
        deadline.into_iter().chain(dtls).min()
    }
}

#[cfg(feature = "dtls")]
impl Dtls {
    /// The connection id is empty: the gateway asks for one, and gets none (RFC 9146 section 3).
    fn new(identity: &str, key: &[u8]) -> Self {
        let config = DtlsClientConfig::psk(identity, key).with_cid(&[]);
        Self { config, client: None, device_started: false }
    }
}

async fn wait_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline.into()).await,
        None => pending().await,
    }
}
