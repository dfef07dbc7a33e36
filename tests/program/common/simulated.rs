//! A simulated device on a socket of its own, over plain UDP or DTLS. It lives in a thread until it is dropped.
#![expect(clippy::disallowed_methods, reason = "a device on a socket lives in real time")]

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use lwm2m_dtls::test_client::{DtlsClient, DtlsClientConfig};
use lwm2m_simulator::{DeviceEvent, SimulatedDevice, SimulatedDeviceConfig, SimulatedDeviceOutput};

use super::device::PATIENCE;
use super::ports;

/// The longest wait for a datagram, so that an order to end is obeyed soon.
const LOOK: Duration = Duration::from_millis(20);

pub(crate) struct RunningSimulator {
    events: Receiver<DeviceEvent>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl RunningSimulator {
    /// Starts a device, which registers at once. With a key it speaks DTLS, and its identity is its endpoint name.
    pub(crate) fn start(gateway: SocketAddr, config: SimulatedDeviceConfig, key: Option<&[u8]>) -> Self {
        let socket = ports::udp_socket();
        socket.connect(gateway).expect("an address of the gateway");
        let now = Instant::now();
        let dtls = key.map(|key| DtlsClient::new(now, DtlsClientConfig::psk(&config.endpoint, key)));
        let line = SimulatorLine { device: SimulatedDevice::new(config, 7), socket, dtls, started: false };
        let (sender, events) = channel();
        let ends = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&ends);
        let thread = thread::spawn(move || line.run(&ended, &sender));
        Self { events, ends, thread: Some(thread) }
    }

    /// Waits for an event that fulfils the condition, and forgets those before it.
    #[track_caller]
    pub(crate) fn wait_for(&self, condition: impl Fn(&DeviceEvent) -> bool) -> DeviceEvent {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let event = self.events.recv_timeout(left).expect("the device gets there");
            if condition(&event) {
                return event;
            }
        }
    }
}

impl Drop for RunningSimulator {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the device has not failed");
        }
    }
}

/// The device with what it speaks over.
struct SimulatorLine {
    device: SimulatedDevice,
    socket: UdpSocket,
    dtls: Option<DtlsClient>,
    started: bool,
}

impl SimulatorLine {
    fn run(mut self, ended: &AtomicBool, events: &std::sync::mpsc::Sender<DeviceEvent>) {
        let mut buffer = [0; 4096];
        if self.dtls.is_none() {
            self.start();
        }
        while !ended.load(Ordering::Relaxed) {
            let deadline = self.drain(events);
            let wait = deadline.map_or(LOOK, |deadline| deadline.saturating_duration_since(Instant::now())).min(LOOK);
            self.socket.set_read_timeout(Some(wait.max(Duration::from_millis(1)))).expect("a time that is not zero");
            // An error is a time-out, or that the gateway is away.
            match self.socket.recv(&mut buffer) {
                Ok(length) => self.receive(&buffer[..length]),
                Err(_) => self.handle_timeout(),
            }
        }
    }

    fn start(&mut self) {
        self.started = true;
        self.device.start(Instant::now());
    }

    fn receive(&mut self, datagram: &[u8]) {
        let now = Instant::now();
        match &mut self.dtls {
            Some(dtls) => dtls.handle_datagram(now, datagram),
            None => self.device.handle_datagram(now, datagram),
        }
        self.device.handle_timeout(now);
    }

    fn handle_timeout(&mut self) {
        let now = Instant::now();
        self.device.handle_timeout(now);
        if let Some(dtls) = &mut self.dtls {
            dtls.handle_timeout(now);
        }
    }

    /// Sends what there is to send, and returns when something is due.
    fn drain(&mut self, events: &std::sync::mpsc::Sender<DeviceEvent>) -> Option<Instant> {
        let now = Instant::now();
        if !self.started && self.dtls.as_ref().is_some_and(DtlsClient::is_established) {
            self.start();
        }
        while let Some(plaintext) = self.dtls.as_mut().and_then(DtlsClient::poll_plaintext) {
            self.device.handle_datagram(now, &plaintext);
        }
        let deadline = loop {
            match self.device.poll_output() {
                SimulatedDeviceOutput::Transmit(datagram) => match &mut self.dtls {
                    Some(dtls) => dtls.send(&datagram),
                    None => drop(self.socket.send(&datagram)),
                },
                // A test that has seen enough does not listen any more.
                SimulatedDeviceOutput::Event(event) => drop(events.send(event)),
                SimulatedDeviceOutput::Idle(deadline) => break deadline,
            }
        };
        while let Some(record) = self.dtls.as_mut().and_then(DtlsClient::poll_transmit) {
            drop(self.socket.send(&record));
        }
        let of_dtls = self.dtls.as_ref().and_then(DtlsClient::next_deadline);
        deadline.into_iter().chain(of_dtls).min()
    }
}
