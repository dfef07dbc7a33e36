//! Compares the gateway with the bare echo, by bursts of datagrams through sockets.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use lwm2m_core::gateway::config::SocketRole;
use lwm2m_dtls::test_client::DtlsClient;
use lwm2m_gateway::transport::{Security, UdpListener, UdpSockets};
use tokio::runtime::Runtime;

use crate::bare::BareEcho;
use crate::devices::{BenchDevice, SUITE};
use crate::gateway::{SECURED, SwallowingGateway};
use crate::{median, processor_time};

/// The devices, each with a socket of its own. One burst is one datagram of each.
const DEVICES: u32 = 200;
/// The time after which an answer is missing.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs all loads by turns, since what else the machine does changes all the time, and prints the median of each.
pub(crate) fn compare(rounds: u32) -> anyhow::Result<()> {
    let mut bare = BareEcho::bind()?;
    let echoed = Clients::connect(bare.address()?)?;
    let mut server = SocketServer::bind()?;
    let mut plain = Fleet::register(&mut server, Security::None)?;
    let mut secured = Fleet::register(&mut server, Security::Dtls)?;
    let sample = plain.devices[0].notification();

    let mut spent = [const { Vec::new() }; 4];
    for _ in 0..rounds {
        echoed.send(std::iter::repeat_n(sample.clone(), DEVICES as usize))?;
        spent[0].push(timed(|| bare.serve(DEVICES as usize))?);
        echoed.receive()?;
        spent[1].push(plain.burst(&mut server, BenchDevice::notification)?);
        spent[2].push(plain.burst(&mut server, BenchDevice::update)?);
        spent[3].push(secured.burst(&mut server, BenchDevice::notification)?);
    }
    let [bare, notifications, updates, secured] = spent.map(median);
    println!("processor time for a datagram and its answer, bursts of {DEVICES}, kernel included:");
    println!("  bare echo                            {bare:.2} us");
    for (name, time) in [("notifications", notifications), ("Updates", updates)] {
        println!("  {name:<36} {time:.2} us, {:.0} % of the echo's datagrams", bare / time * 100.0);
    }
    let share = notifications / secured * 100.0;
    println!("  notifications, {SUITE}, CID  {secured:.2} us, {share:.0} % of the datagrams of plain UDP");
    Ok(())
}

/// Returns the processor time of this thread in microseconds, for one datagram of a burst.
fn timed(work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let before = processor_time();
    work()?;
    Ok((processor_time() - before).as_secs_f64() * 1e6 / f64::from(DEVICES))
}

/// The sockets of the devices.
struct Clients {
    sockets: Vec<UdpSocket>,
}

impl Clients {
    fn connect(server: SocketAddr) -> io::Result<Self> {
        let connect = |_| {
            let socket = UdpSocket::bind("127.0.0.1:0")?;
            socket.connect(server)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            Ok(socket)
        };
        Ok(Self { sockets: (0..DEVICES).map(connect).collect::<io::Result<_>>()? })
    }

    fn send(&self, datagrams: impl Iterator<Item = Vec<u8>>) -> io::Result<()> {
        for (socket, datagram) in self.sockets.iter().zip(datagrams) {
            socket.send(&datagram)?;
        }
        Ok(())
    }

    /// Waits for one datagram for each device.
    fn receive(&self) -> io::Result<Vec<Vec<u8>>> {
        let mut buffer = [0; 2048];
        let receive = |socket: &UdpSocket| {
            let length = socket.recv(&mut buffer)?;
            Ok(buffer[..length].to_vec())
        };
        self.sockets.iter().map(receive).collect()
    }
}

/// The gateway behind the sockets of the program, run as its driver runs it.
struct SocketServer {
    gateway: SwallowingGateway,
    sockets: UdpSockets,
    runtime: Runtime,
}

impl SocketServer {
    fn bind() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = |name: &str, security| UdpListener {
            name: name.to_owned(),
            security,
            role: SocketRole::All,
            bind: SocketAddr::from(([127, 0, 0, 1], 0)),
            recbuf: 4 * 1024 * 1024,
        };
        let listeners = [listener("plain", Security::None), listener("secured", Security::Dtls)];
        let entered = runtime.enter();
        let sockets = UdpSockets::bind(&listeners)?;
        drop(entered);
        Ok(Self { gateway: SwallowingGateway::new(Instant::now())?, sockets, runtime })
    }

    fn address(&self, security: Security) -> anyhow::Result<SocketAddr> {
        let index = match security {
            Security::None => 0,
            Security::Dtls => usize::from(SECURED),
        };
        Ok(self.sockets.local_addresses()?[index])
    }

    /// Serves until so many datagrams have come.
    fn serve(&mut self, datagrams: usize) -> anyhow::Result<()> {
        let Self { gateway, sockets, runtime } = self;
        runtime.block_on(async {
            let mut served = 0;
            while served < datagrams {
                let index = sockets.readable().await;
                let now = Instant::now();
                sockets.receive(index, |peer, datagram| {
                    served += 1;
                    gateway.handle_datagram(now, peer, datagram);
                })?;
                gateway.handle_timeout(now);
                gateway.carry_out(now, |transmit| sockets.queue(transmit.peer, transmit.datagram));
                sockets.flush(|error| panic!("a datagram was not sent: {error}"));
            }
            Ok(())
        })
    }
}

/// Registered and observed devices.
struct Fleet {
    clients: Clients,
    devices: Vec<BenchDevice>,
    /// The DTLS clients of the devices, if they use DTLS.
    secured: Vec<DtlsClient>,
}

impl Fleet {
    fn register(server: &mut SocketServer, security: Security) -> anyhow::Result<Self> {
        let clients = Clients::connect(server.address(security)?)?;
        let first = match security {
            Security::None => 0,
            Security::Dtls => DEVICES,
        };
        let devices = (first..first + DEVICES).map(BenchDevice::new).collect();
        let mut fleet = Self { clients, devices, secured: Vec::new() };
        if security == Security::Dtls {
            fleet.shake_hands(server)?;
        }
        for device in 0..DEVICES as usize {
            let register = fleet.devices[device].register();
            fleet.talk(server, device, register)?;
        }
        Ok(fleet)
    }

    fn shake_hands(&mut self, server: &mut SocketServer) -> anyhow::Result<()> {
        for (device, socket) in self.devices.iter().zip(&self.clients.sockets) {
            let mut client = device.dtls_client(Instant::now());
            let mut buffer = [0; 2048];
            while !client.is_established() {
                let records = client.transmits();
                for record in &records {
                    socket.send(record)?;
                }
                server.serve(records.len())?;
                socket.set_nonblocking(true)?;
                while let Ok(length) = socket.recv(&mut buffer) {
                    client.handle_datagram(Instant::now(), &buffer[..length]);
                }
                socket.set_nonblocking(false)?;
            }
            self.secured.push(client);
        }
        Ok(())
    }

    /// Lets a device send this and answer what comes, until it is observed.
    fn talk(&mut self, server: &mut SocketServer, device: usize, first: Vec<u8>) -> anyhow::Result<()> {
        let mut outgoing = Some(first);
        let mut buffer = [0; 2048];
        while let Some(plaintext) = outgoing.take() {
            let datagram = self.sealed(device, plaintext);
            self.clients.sockets[device].send(&datagram)?;
            server.serve(1)?;
            while outgoing.is_none() && !self.devices[device].is_observed() {
                let length = self.clients.sockets[device].recv(&mut buffer)?;
                outgoing = self.opened(device, &buffer[..length]);
            }
        }
        Ok(())
    }

    /// Lets each device send one message, and returns the processor time of the gateway for each.
    fn burst(
        &mut self,
        server: &mut SocketServer,
        message: impl Fn(&mut BenchDevice) -> Vec<u8>,
    ) -> anyhow::Result<f64> {
        let messages: Vec<_> = self.devices.iter_mut().map(message).collect();
        let datagrams: Vec<_> =
            messages.into_iter().enumerate().map(|(device, message)| self.sealed(device, message)).collect();
        self.clients.send(datagrams.into_iter())?;
        let spent = timed(|| server.serve(DEVICES as usize))?;
        for (device, datagram) in self.clients.receive()?.iter().enumerate() {
            self.opened(device, datagram);
        }
        Ok(spent)
    }

    fn sealed(&mut self, device: usize, plaintext: Vec<u8>) -> Vec<u8> {
        let Some(client) = self.secured.get_mut(device) else { return plaintext };
        client.send(&plaintext);
        client.poll_transmit().expect("a record")
    }

    /// Passes a datagram to a device, and returns its answer.
    fn opened(&mut self, device: usize, datagram: &[u8]) -> Option<Vec<u8>> {
        let Some(client) = self.secured.get_mut(device) else {
            return self.devices[device].handle_datagram(datagram);
        };
        client.handle_datagram(Instant::now(), datagram);
        let plaintext = client.poll_plaintext()?;
        self.devices[device].handle_datagram(&plaintext)
    }
}
