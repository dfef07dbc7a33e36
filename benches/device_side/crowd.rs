//! Compares few devices with many: memory, and the time of one operation when each comes from another device.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use lwm2m_base::Peer;
use lwm2m_core::coap::Transmit;
use lwm2m_core::gateway::broker::RegistrationId;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::devices::BenchDevice;
use crate::gateway::SwallowingGateway;
use crate::{median, processor_time};

/// The socket that speaks plain UDP.
const PLAIN: u16 = 0;
const FEW: u32 = 1_000;
/// Operations in one round, each of a device that chance chooses.
const OPERATIONS: u32 = 1_000;
/// Between two operations, so that tables that remember messages have the size of a busy minute.
const PAUSE: Duration = Duration::from_millis(1);
const READ: &str = r#"{"reqID":1,"msgType":"read","data":{"path":"/3303/0/5700"}}"#;

pub(crate) fn compare(devices: u32, rounds: u32) -> anyhow::Result<()> {
    let mut crowd = Crowd::new()?;
    let few = crowd.measure(FEW, rounds)?;
    let many = crowd.measure(devices, rounds)?;
    for (name, few, many) in [
        ("notification", few.notification, many.notification),
        ("Update", few.update, many.update),
        ("read", few.read, many.read),
    ] {
        println!("{name:<12} {few:6.2} us at {FEW}, {many:6.2} us at {devices}: {:.2} times", many / few);
    }
    Ok(())
}

pub(crate) struct Crowd {
    pub gateway: SwallowingGateway,
    pub now: Instant,
    devices: Vec<(BenchDevice, RegistrationId)>,
    rng: StdRng,
}

/// Microseconds of processor time.
struct Times {
    notification: f64,
    update: f64,
    read: f64,
}

impl Crowd {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let now = Instant::now();
        Ok(Self { gateway: SwallowingGateway::new(now)?, now, devices: Vec::new(), rng: StdRng::seed_from_u64(7) })
    }

    /// Registers devices up to this number, and measures.
    fn measure(&mut self, devices: u32, rounds: u32) -> anyhow::Result<Times> {
        let before = self.devices.len();
        self.devices.reserve_exact(devices as usize - before);
        let (memory, time) = (resident_bytes()?, processor_time());
        self.register_up_to(devices)?;
        let count = f64::from(devices - before as u32);
        let each = (resident_bytes()? - memory) / count;
        let time = (processor_time() - time).as_secs_f64() * 1e6 / count;
        println!("{devices} devices: {each:.0} bytes each, {time:.1} us for a Register and an Observe");

        let mut spent = [const { Vec::new() }; 3];
        for _ in 0..rounds {
            spent[0].push(self.round(|crowd, device| crowd.sent(device, BenchDevice::notification))?);
            spent[1].push(self.round(|crowd, device| crowd.sent(device, BenchDevice::update))?);
            spent[2].push(self.round(Self::read)?);
        }
        let [notification, update, read] = spent.map(median);
        Ok(Times { notification, update, read })
    }

    /// Registers devices until there are so many.
    pub(crate) fn register_up_to(&mut self, devices: u32) -> anyhow::Result<()> {
        (self.devices.len() as u32..devices).try_for_each(|number| self.register(number))
    }

    fn register(&mut self, number: u32) -> anyhow::Result<()> {
        let device = self.registered(number)?;
        self.devices.push(device);
        Ok(())
    }

    /// Lets a device register and be observed.
    pub(crate) fn registered(&mut self, number: u32) -> anyhow::Result<(BenchDevice, RegistrationId)> {
        self.now += PAUSE;
        let mut device = BenchDevice::new(number);
        let mut next = vec![device.register()];
        while let Some(datagram) = next.pop() {
            let (_, answers) = self.exchange(number, &datagram);
            next.extend(answers.iter().filter_map(|transmit| device.handle_datagram(&transmit.datagram)));
        }
        ensure!(device.is_observed(), "device {number} is not observed");
        let registration = self.gateway.last_connected.context("no device was connected")?;
        Ok((device, registration))
    }

    /// Returns the processor time of the gateway for one operation.
    fn round(&mut self, operation: impl Fn(&mut Self, u32) -> Duration) -> anyhow::Result<f64> {
        let published = self.gateway.published;
        let mut spent = Duration::ZERO;
        for _ in 0..OPERATIONS {
            self.now += PAUSE;
            let device = self.rng.random_range(0..self.devices.len() as u32);
            spent += operation(self, device);
        }
        ensure!(self.gateway.published - published <= u64::from(OPERATIONS), "more was published than expected");
        Ok(spent.as_secs_f64() * 1e6 / f64::from(OPERATIONS))
    }

    /// Lets a device send a message.
    fn sent(&mut self, device: u32, message: impl Fn(&mut BenchDevice) -> Vec<u8>) -> Duration {
        let datagram = message(&mut self.devices[device as usize].0);
        let (spent, answers) = self.exchange(device, &datagram);
        assert_eq!(answers.len(), 1, "a message is acknowledged");
        spent
    }

    /// Reads from a device, both ways.
    fn read(&mut self, device: u32) -> Duration {
        let registration = self.devices[device as usize].1;
        let (command, mut requests) = self.timed(|gateway, now| gateway.command(now, registration, READ));
        let request = requests.pop().expect("the device is awake");
        let answer = self.devices[device as usize].0.handle_datagram(&request.datagram).expect("a request");
        let (answered, _) = self.exchange(device, &answer);
        command + answered
    }

    fn exchange(&mut self, device: u32, datagram: &[u8]) -> (Duration, Vec<Transmit>) {
        self.exchange_at(PLAIN, device, datagram)
    }

    /// Passes a datagram of a device to this socket of the gateway. Returns the time that it took and what was sent.
    pub(crate) fn exchange_at(&mut self, socket: u16, device: u32, datagram: &[u8]) -> (Duration, Vec<Transmit>) {
        let [_, a, b, c] = device.to_be_bytes();
        let peer = Peer::udp(socket, ([10, a, b, c], 5683).into());
        self.timed(|gateway, now| gateway.handle_datagram(now, peer, datagram))
    }

    fn timed(&mut self, input: impl FnOnce(&mut SwallowingGateway, Instant)) -> (Duration, Vec<Transmit>) {
        let mut transmits = Vec::new();
        let begin = Instant::now();
        self.gateway.handle_timeout(self.now);
        input(&mut self.gateway, self.now);
        self.gateway.carry_out(self.now, |transmit| transmits.push(transmit));
        (begin.elapsed(), transmits)
    }
}

/// Returns the resident bytes of this process.
pub(crate) fn resident_bytes() -> anyhow::Result<f64> {
    const PAGE: f64 = 4096.0;
    let statm = fs::read_to_string("/proc/self/statm")?;
    let pages: f64 = statm.split(' ').nth(1).context("the form of statm")?.parse()?;
    Ok(pages * PAGE)
}
