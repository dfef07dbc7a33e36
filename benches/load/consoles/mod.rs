//! What onlookers cost the devices: the time of Updates and of reads, and the memory of the server, without consoles
//! and with them.
//!
//! Each console lists all devices page by page or searches them all, again and again; it reads the events of a
//! device or of all devices as well, and eight devices are traced. Rounds without and with consoles take turns, so that
//! the other load of the machine meets both. The consoles have the lowest priority: real ones run on other machines,
//! and what is measured is what the gateway does for them. The upstream swallows what devices publish (the Cargo
//! feature `swallow`), so that neither a broker nor the connections to it take part.
//!
//! The control (`--elsewhere`) is a third kind of rounds, in which the same consoles look at a second gateway with as
//! many devices. These rounds and those with consoles differ only in the process that answers the consoles, so that
//! the difference is what the consoles do to the gateway itself, and not what they take of a shared machine.

mod clients;
mod commands;
mod other;

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use lwm2m_core::coap::options::{format, number};
use lwm2m_core::coap::{Code, Kind, Message, MessageId, Options, Token};
use lwm2m_load::{FleetConfig, Journal, NOTIFIED_PATH};
use tokio::net::UdpSocket;
use tokio::time::{sleep, timeout};

use crate::crowd::Crowd;
use crate::process;
use crate::server::BenchServer;

use clients::{ConsoleCounts, Consoles, LOOK, driver_seconds};
use commands::CommandSocket;
use other::OtherGateway;

/// Notifications in a second of all devices, beside the messages that are timed.
const NOTIFICATIONS: f64 = 500.0;
/// The time between two timed messages.
const PAUSE: Duration = Duration::from_millis(3);
/// An Update that is not answered by then was lost.
const LOST: Duration = Duration::from_secs(1);
/// The device whose Updates are timed.
const PROBE: &str = "update-probe";

/// The devices that notify, and whose commands are timed. The others send Updates, in processes of their own.
const NOTIFYING: u32 = 10_000;

/// The size of a run.
pub(crate) struct ConsoleLoad {
    pub devices: u32,
    pub consoles: usize,
    /// Rounds of each kind.
    pub rounds: u32,
    /// The length of a round.
    pub seconds: u64,
    /// Adds rounds with the consoles at a second gateway.
    pub elsewhere: bool,
}

/// The times of the rounds of each kind.
#[derive(Default)]
struct Rounds {
    without: Times,
    with: Times,
    elsewhere: Times,
}

/// The times of one kind of rounds.
#[derive(Default)]
struct Times {
    updates: Sample,
    reads: Sample,
    cpu: Duration,
}

/// The times of one kind of message, round by round.
#[derive(Default)]
struct Sample(Vec<Vec<Duration>>);

/// A device whose Updates are timed, one after the other.
struct UpdateProbe {
    socket: UdpSocket,
    location: Vec<Vec<u8>>,
    next_id: u16,
}

/// The messages that are timed.
struct Scene<'s> {
    server: &'s BenchServer,
    commands: CommandSocket,
    probe: UpdateProbe,
    /// The devices that are commanded, by their numbers from 0.
    devices: u32,
    next_id: u64,
}

/// Prints the times of each kind of rounds, and what the consoles cost the server.
pub(crate) async fn run(load: &ConsoleLoad) -> anyhow::Result<()> {
    println!("upstream that swallows; {} cores, load average {}", thread::available_parallelism()?, process::load()?);
    let server = BenchServer::start_swallowing().await?;
    let notifying = load.devices.min(NOTIFYING);
    let journal = Rc::new(RefCell::new(Journal::new(notifying)));
    let fleet = crate::register_fleet(FleetConfig::new(server.udp, notifying), &server, &journal).await?;
    let begin = Instant::now();
    let _crowd = Crowd::start(server.udp, notifying, load.devices - notifying)?;
    println!("{} further devices registered in {:.1?}", load.devices - notifying, begin.elapsed());
    let other = if load.elsewhere { Some(OtherGateway::start(load.devices).await?) } else { None };
    let mut scene = Scene::begin(&server, notifying).await?;
    fleet.notify_every(Some(Duration::from_secs_f64(f64::from(notifying) / NOTIFICATIONS)));
    measure(load, &mut scene, other.as_ref()).await
}

/// Plays the rounds in turns.
async fn measure(load: &ConsoleLoad, scene: &mut Scene<'_>, other: Option<&OtherGateway>) -> anyhow::Result<()> {
    let server = scene.server;
    let before = server.memory()?;
    let (mut rounds, mut most) = (Rounds::default(), before);
    let (counts, counts_elsewhere) = (Arc::<ConsoleCounts>::default(), Arc::<ConsoleCounts>::default());
    let (mut looking, mut looking_elsewhere) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..load.rounds {
        scene.measure(&mut rounds.without, load.seconds).await?;
        let begin = Instant::now();
        let running = Consoles::start(load.consoles, server, &counts);
        scene.measure(&mut rounds.with, load.seconds).await?;
        most = most.max(server.memory()?);
        running.end()?;
        looking += begin.elapsed();
        if let Some(other) = other {
            let begin = Instant::now();
            let running = Consoles::start(load.consoles, &other.server, &counts_elsewhere);
            scene.measure(&mut rounds.elsewhere, load.seconds).await?;
            running.end()?;
            looking_elsewhere += begin.elapsed();
        }
    }
    print_counts(load.consoles, looking.as_secs_f64(), &counts);
    if other.is_some() {
        print!("at the second gateway: ");
        print_counts(load.consoles, looking_elsewhere.as_secs_f64(), &counts_elsewhere);
    }
    rounds.print("Update", |times| &times.updates);
    rounds.print("read", |times| &times.reads);
    let seconds = (u64::from(load.rounds) * load.seconds) as f64;
    println!(
        "event loop for consoles: {:.2} % of the time; cpu of the server: {:.1} % without, {:.1} % with; \
         memory: {:.1} MiB before, {:.1} MiB at most; load average {}",
        driver_seconds(&server.console)? / looking.as_secs_f64() * 100.0,
        rounds.without.cpu.as_secs_f64() / seconds * 100.0,
        rounds.with.cpu.as_secs_f64() / seconds * 100.0,
        before as f64 / 1_048_576.0,
        most as f64 / 1_048_576.0,
        process::load()?,
    );
    Ok(())
}

fn print_counts(consoles: usize, seconds: f64, counts: &ConsoleCounts) {
    let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
    println!(
        "{consoles} consoles for {seconds:.0} s: {} rows listed, {} devices searched, {} streams opened with {} KiB, \
         {} traces at once, {} consoles ended early",
        count(&counts.listed),
        count(&counts.searched),
        count(&counts.streams),
        count(&counts.stream_bytes) / 1024,
        count(&counts.traces),
        count(&counts.refused),
    );
}

impl Rounds {
    /// Prints the times of one kind of message, and how those of the rounds with consoles compare.
    fn print(&self, name: &str, sample: impl Fn(&Times) -> &Sample) {
        let without = sample(&self.without);
        let (with, elsewhere) = (sample(&self.with), sample(&self.elsewhere));
        without.print(name, "without");
        with.print(name, "with");
        if !elsewhere.0.is_empty() {
            elsewhere.print(name, "elsewhere");
            print_change(name, "elsewhere against without", without, elsewhere);
            print_change(name, "with against elsewhere", elsewhere, with);
        }
        print_change(name, "with against without", without, with);
    }
}

fn print_change(name: &str, kind: &str, from: &Sample, to: &Sample) {
    let change = |percent| (to.at(percent).as_secs_f64() / from.at(percent).as_secs_f64() - 1.0) * 100.0;
    println!(
        "{name:<7} {kind}: p50 {:+.1} %, p90 {:+.1} %, p99 {:+.1} %, median of the rounds' p99 {:+.1} %",
        change(50),
        change(90),
        change(99),
        (to.median_p99() / from.median_p99() - 1.0) * 100.0,
    );
}

impl Sample {
    fn print(&self, name: &str, kind: &str) {
        let rounds = self.rounds(99);
        println!(
            "{name:<7} {kind:<9} p50 {:>8.2?}, p90 {:>8.2?}, p99 {:>8.2?} of {} \
             (p99 of single rounds {:.2?} to {:.2?})",
            self.at(50),
            self.at(90),
            self.at(99),
            self.0.iter().map(Vec::len).sum::<usize>(),
            rounds.first().copied().unwrap_or_default(),
            rounds.last().copied().unwrap_or_default(),
        );
    }

    /// Returns the median of the p99 of single rounds, in seconds.
    fn median_p99(&self) -> f64 {
        let rounds = self.rounds(99);
        rounds.get(rounds.len() / 2).copied().unwrap_or_default().as_secs_f64()
    }

    /// Returns a percentile of all rounds together.
    fn at(&self, percent: usize) -> Duration {
        percentile(self.0.concat(), percent)
    }

    /// Returns this percentile of each round, the smallest first.
    fn rounds(&self, percent: usize) -> Vec<Duration> {
        let mut rounds: Vec<_> = self.0.iter().map(|times| percentile(times.clone(), percent)).collect();
        rounds.sort();
        rounds
    }
}

fn percentile(mut times: Vec<Duration>, percent: usize) -> Duration {
    times.sort();
    times.get(times.len().saturating_sub(1) * percent / 100).copied().unwrap_or_default()
}

impl<'s> Scene<'s> {
    /// Registers the probe, and observes the devices.
    async fn begin(server: &'s BenchServer, devices: u32) -> anyhow::Result<Self> {
        let swallow = server.swallow.as_deref().context("the server has another upstream")?;
        let commands = CommandSocket::connect(swallow)?;
        for device in 0..devices {
            commands.command(&format!("load-{device}"), device.into(), "observe", NOTIFIED_PATH).await?;
        }
        let probe = UpdateProbe::register(server.udp).await?;
        Ok(Self { server, commands, probe, devices, next_id: 1 << 32 })
    }

    /// Times Updates and reads, one after the other, for one round.
    async fn measure(&mut self, times: &mut Times, seconds: u64) -> anyhow::Result<()> {
        // The consoles have connected by then.
        sleep(LOOK * 3).await;
        let cpu = self.server.cpu()?;
        let (mut updates, mut reads) = (Vec::new(), Vec::new());
        let end = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < end {
            updates.extend(self.probe.update().await?);
            sleep(PAUSE).await;
            reads.push(self.read().await?);
            sleep(PAUSE).await;
        }
        times.updates.0.push(updates);
        times.reads.0.push(reads);
        times.cpu += self.server.cpu()? - cpu;
        Ok(())
    }

    async fn read(&mut self) -> anyhow::Result<Duration> {
        self.next_id += 1;
        let endpoint = format!("load-{}", self.next_id % u64::from(self.devices));
        let begin = Instant::now();
        self.commands.command(&endpoint, self.next_id, "read", "/3/0/0").await?;
        Ok(begin.elapsed())
    }
}

impl UpdateProbe {
    async fn register(gateway: SocketAddr) -> anyhow::Result<Self> {
        Self::register_from((Ipv4Addr::LOCALHOST, 0).into(), gateway, PROBE).await
    }

    /// Registers a device with this name and address.
    async fn register_from(address: SocketAddr, gateway: SocketAddr, endpoint: &str) -> anyhow::Result<Self> {
        let socket = UdpSocket::bind(address).await?;
        socket.connect(gateway).await?;
        let mut probe = Self { socket, location: vec![b"rd".to_vec()], next_id: 0 };
        let mut register = probe.request();
        for item in [&format!("ep={endpoint}"), "lt=3600", "lwm2m=1.0", "b=U"] {
            register.options.add_text(number::URI_QUERY, item);
        }
        register.options.add_uint(number::CONTENT_FORMAT, format::LINK_FORMAT.into());
        register.payload = b"</1/0>,</3/0>".to_vec();
        let created = probe.ask(&register).await?.context("the Register of a probe was not answered")?;
        ensure!(created.code == Code::CREATED, "the Register of a probe was answered {:?}", created.code);
        probe.location = created.options.all(number::LOCATION_PATH).map(<[u8]>::to_vec).collect();
        Ok(probe)
    }

    /// Returns how long the answer to an Update took; `None` if it was lost.
    async fn update(&mut self) -> anyhow::Result<Option<Duration>> {
        let update = self.request();
        let begin = Instant::now();
        let Some(answer) = self.ask(&update).await? else { return Ok(None) };
        ensure!(answer.code == Code::CHANGED, "an Update was answered {:?}", answer.code);
        Ok(Some(begin.elapsed()))
    }

    async fn ask(&self, request: &Message) -> anyhow::Result<Option<Message>> {
        self.socket.send(&request.encode()).await?;
        let mut buffer = [0; 1500];
        loop {
            let Ok(length) = timeout(LOST, self.socket.recv(&mut buffer)).await else { return Ok(None) };
            let answer = Message::decode(&buffer[..length?]).ok().context("the gateway sent no message")?;
            if answer.id == request.id {
                return Ok(Some(answer));
            }
        }
    }

    fn request(&mut self) -> Message {
        self.next_id = self.next_id.wrapping_add(1);
        let mut options = Options::new();
        self.location.iter().for_each(|segment| options.add(number::URI_PATH, segment));
        let (id, token) = (MessageId(self.next_id), Token::new(&self.next_id.to_be_bytes()));
        Message { kind: Kind::Confirmable, code: Code::POST, id, token, options, payload: Vec::new() }
    }
}
