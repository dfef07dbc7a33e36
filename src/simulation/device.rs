//! Runs the simulated device on a UDP socket.

use std::future::pending;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use tokio::net::UdpSocket;
use tokio::time::sleep_until;

use crate::clock::monotonic_now as now;
use lwm2m_simulator::{
    DeviceEvent, SimulatedDevice, SimulatedDeviceConfig, SimulatedDeviceOutput, SimulatedSend, SimulatedSendError,
    SimulatedServer,
};

/// Size of the receive buffer, in bytes. The gateway divides larger messages into blocks of 1,024 bytes at most.
const LARGEST_DATAGRAM: usize = 4096;

/// A simulated device with its socket. It runs while [`RunningDevice::next_event`] is polled.
pub(crate) struct RunningDevice {
    device: SimulatedDevice,
    socket: UdpSocket,
    buffer: Vec<u8>,
    stopped: bool,
    /// Number of datagrams of which one is lost on the way to the gateway; `None` on a good network.
    loses_one_of: Option<u64>,
    /// Number of datagrams that were sent or lost.
    datagrams: u64,
}

impl RunningDevice {
    /// Starts a device that registers at this gateway. The number is the seed of its message ids and tokens.
    pub(crate) async fn start(server: SocketAddr, config: SimulatedDeviceConfig, number: u64) -> io::Result<Self> {
        let any: SocketAddr =
            if server.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
        let socket = UdpSocket::bind(any).await?;
        socket.connect(server).await?;
        // Before its first look at a socket the runtime takes it for full, and the Register would be lost.
        socket.writable().await?;
        // The gateway is as new as the device: nobody remembers the message ids of an earlier demonstration.
        let mut device = SimulatedDevice::new(config, number);
        device.start(now());
        Ok(Self { device, socket, buffer: vec![0; LARGEST_DATAGRAM], stopped: false, loses_one_of: None, datagrams: 0 })
    }

    /// Puts the device behind a bad network, which loses one of so many datagrams to the gateway.
    pub(crate) fn losing_one_of(self, datagrams: u64) -> Self {
        Self { loses_one_of: Some(datagrams), ..self }
    }

    /// Sends a datagram that is none of the device's own messages.
    pub(crate) fn send_stray(&mut self, datagram: &[u8]) {
        self.transmit(datagram);
    }

    /// Sends values to the gateway that it did not ask for.
    pub(crate) fn send(&mut self, values: &SimulatedSend) -> Result<(), SimulatedSendError> {
        self.device.send(now(), values)
    }

    pub(crate) fn stop(&mut self) {
        self.device.stop(now());
    }

    /// Waits for the next event of the device; `None` after it has stopped. Cancel-safe.
    pub(crate) async fn next_event(&mut self) -> Option<DeviceEvent> {
        while !self.stopped {
            let deadline = match self.device.poll_output() {
                SimulatedDeviceOutput::Transmit(datagram) => {
                    self.transmit(&datagram);
                    continue;
                }
                SimulatedDeviceOutput::Event(event) => {
                    if let DeviceEvent::Bootstrapped { servers } = &event {
                        self.register_at(servers).await;
                    }
                    self.stopped = event == DeviceEvent::Stopped;
                    return Some(event);
                }
                SimulatedDeviceOutput::Idle(deadline) => deadline,
            };
            tokio::select! {
                received = self.socket.recv(&mut self.buffer) => self.receive(received),
                () = wait_until(deadline) => self.device.handle_timeout(now()),
            }
        }
        None
    }

    /// Registers at the first server that the device was given, if its address is known and needs no DTLS.
    async fn register_at(&mut self, servers: &[SimulatedServer]) {
        let Some(server) = servers.first() else { return };
        let authority = server.uri.strip_prefix("coap://").unwrap_or_default();
        let Ok(address) = authority.parse::<SocketAddr>() else {
            return tracing::warn!(uri = server.uri, "the simulated device does not know the address of its server");
        };
        match self.socket.connect(address).await {
            Ok(()) => self.device.register_at(now(), server),
            Err(error) => tracing::warn!(%error, "the simulated device does not reach its server"),
        }
    }

    /// Sends a datagram. A failure counts as a loss: the device retransmits.
    fn transmit(&mut self, datagram: &[u8]) {
        self.datagrams += 1;
        if self.loses_one_of.is_some_and(|many| self.datagrams.is_multiple_of(many)) {
            return;
        }
        if let Err(error) = self.socket.try_send(datagram) {
            tracing::debug!(%error, "a datagram of the simulated device was not sent");
        }
    }

    fn receive(&mut self, received: io::Result<usize>) {
        match received {
            Ok(length) => self.device.handle_datagram(now(), self.buffer.get(..length).unwrap_or(&self.buffer)),
            // The network reports that the receiver of an earlier datagram did not listen at its port.
            Err(error) => tracing::debug!(%error, "the simulated device received nothing"),
        }
    }
}

async fn wait_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline.into()).await,
        None => pending().await,
    }
}
