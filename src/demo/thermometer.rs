//! Runs the simulated device on a UDP socket.

use std::future::pending;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use tokio::net::UdpSocket;
use tokio::time::sleep_until;

use crate::driver::monotonic_now as now;
use lwm2m_simulator::{
    DeviceEvent, SimulatedDevice, SimulatedDeviceConfig, SimulatedDeviceOutput, SimulatedSend, SimulatedSendError,
};

/// Size of the receive buffer, in bytes: the largest UDP datagram.
const LARGEST_DATAGRAM: usize = 65_535;

/// A simulated device. It runs while [`Thermometer::next_event`] is polled.
pub struct Thermometer {
    device: SimulatedDevice,
    socket: UdpSocket,
    buffer: Vec<u8>,
    stopped: bool,
}

impl Thermometer {
    /// Starts a device that registers at this gateway. The number is the seed of its message ids and tokens.
    pub async fn start(server: SocketAddr, settings: SimulatedDeviceConfig, number: u64) -> io::Result<Self> {
        let any: SocketAddr =
            if server.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
        let socket = UdpSocket::bind(any).await?;
        socket.connect(server).await?;
        // Before its first look at a socket the runtime takes it for full, and the Register would be lost.
        socket.writable().await?;
        // The gateway is as new as the device: nobody remembers the message ids of an earlier demonstration.
        let mut device = SimulatedDevice::new(settings, number);
        device.start(now());
        Ok(Self { device, socket, buffer: vec![0; LARGEST_DATAGRAM], stopped: false })
    }

    /// Sends values to the gateway that it did not ask for.
    pub fn send(&mut self, values: &SimulatedSend) -> Result<(), SimulatedSendError> {
        self.device.send(now(), values)
    }

    pub fn stop(&mut self) {
        self.device.stop(now());
    }

    /// Waits for the next event of the device; `None` after it has stopped. Cancel-safe.
    pub async fn next_event(&mut self) -> Option<DeviceEvent> {
        while !self.stopped {
            let deadline = match self.device.poll_output() {
                SimulatedDeviceOutput::Transmit(datagram) => {
                    self.transmit(&datagram);
                    continue;
                }
                SimulatedDeviceOutput::Event(event) => {
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

    /// Sends a datagram. A failure counts as a loss: the device retransmits.
    fn transmit(&self, datagram: &[u8]) {
        if let Err(error) = self.socket.try_send(datagram) {
            tracing::debug!(%error, "a datagram of the simulated device was not sent");
        }
    }

    fn receive(&mut self, received: io::Result<usize>) {
        match received {
            Ok(length) => self.device.handle_datagram(now(), self.buffer.get(..length).unwrap_or(&self.buffer)),
            // What the network says of an earlier datagram: that nobody listens at the port.
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
