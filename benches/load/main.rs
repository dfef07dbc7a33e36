//! Load for the built program: many simulated devices over UDP, a broker, one application.
//!
//! `cargo bench --bench load -- --devices 1000 --seconds 5`. It starts the server and the broker on free ports, each in
//! a process of its own (`--upstream exproto|mqtt`, `--broker embedded|mosquitto`), and prints
//!
//! 1. how many devices it registers in a second, and the memory that each of them costs,
//! 2. how long an application waits for the answer to a read,
//! 3. how many notifications in a second reach one subscriber, at rising rates, until it loses some.
//!
//! With `--soak SECONDS` the devices do little for a long time instead, and the memory of the server is printed.
//!
//! `--restart` shows something else: the server is killed under load and started again, and what is lost by it.
//!
//! So does `--outage SECONDS`: the broker's exproto gateway is stopped under load for so long, and what is lost by it.
//!
//! With `--consoles N` so many onlookers list, search and listen, and what Updates and reads take is compared with the
//! same without them; with `--elsewhere` also with the same while they look at a second gateway.
//!
//! And so does `--yardstick`: the best rate of the server is compared with that of a client that does nothing but
//! publish (tonic's own for ExProto, plain sockets for MQTT), which is measured before and after. With `--broker emqx`
//! all of this meets an EMQX that runs already; the server has to be stopped there.
//!
//! Load, server and broker share the machine: processor time of the server is the figure to compare.
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

mod bare;
mod broker;
mod consoles;
mod crowd;
mod mosquitto;
mod outage;
mod process;
mod restart;
mod server;
mod site;
mod soak;
mod stage;
mod yardstick;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use clap::Parser;
use lwm2m_load::{Application, ApplicationConfig, Fleet, FleetConfig, Journal, NOTIFIED_PATH};
use tokio::task::LocalSet;
use tokio::time::{sleep, timeout};

use bare::BareArguments;
use consoles::ConsoleLoad;
use server::BenchServer;
use site::{BenchSite, BrokerKind, Upstream};
use stage::Stage;

/// Notifications in a second that the devices offer together, one stage after the other.
const RATES: [u32; 8] = [1_000, 2_000, 5_000, 10_000, 20_000, 40_000, 80_000, 160_000];

/// Pauses between the beginning of a load and its measurement.
const WARM_UP: Duration = Duration::from_secs(1);

/// The share of lost notifications that ends the stages.
const TOO_MANY_LOST: f64 = 0.05;

/// Commands whose answers are timed, one after the other.
const READS: usize = 500;

/// Commands on their way at once while the devices are told to observe.
const COMMANDS_AT_ONCE: usize = 64;

/// A step of the preparation fails after this time.
const PATIENCE: Duration = Duration::from_secs(300);

#[derive(Debug, Parser)]
struct Arguments {
    /// Simulated devices, each with a socket of its own; only with `--consoles` more than 20,000
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=200_000))]
    devices: u32,
    /// Seconds of each rate of notifications
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// The way of the server to the broker
    #[arg(long, value_enum, default_value_t = Upstream::Exproto)]
    upstream: Upstream,
    /// mosquitto has to be installed, and needs `--upstream mqtt`
    #[arg(long = "broker", value_enum, default_value_t = BrokerKind::Embedded)]
    broker_kind: BrokerKind,
    /// Notifies, updates and reads at a slow rate for so many seconds, and prints the memory of the server
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(30..=86_400))]
    soak: Option<u64>,
    /// Kill the server under load and start it again, in the place of all else
    #[arg(long)]
    restart: bool,
    /// Stop the broker's exproto gateway under load for so long, in the place of all else
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=600))]
    outage: Option<u64>,
    /// Let so many consoles look on, in the place of all else: rounds of so many `--seconds` without them and with
    /// them. It needs `--features swallow`
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=32))]
    consoles: Option<u16>,
    /// Rounds of each kind, with `--consoles`
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
    /// Add rounds in which the consoles look at a second gateway, with `--consoles`
    #[arg(long)]
    elsewhere: bool,
    /// Compare with a client that only publishes, in the place of the stages
    #[arg(long)]
    yardstick: bool,
    /// The QoS of notifications, with `--upstream mqtt`
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=1))]
    qos: u8,
    #[command(flatten)]
    bare: BareArguments,
    /// Be the broker of a server at this address
    #[arg(long, hide = true)]
    broker_of: Option<SocketAddr>,
    /// Be the crowd of a server at this address
    #[arg(long, hide = true)]
    crowd_of: Option<SocketAddr>,
    /// The number of the crowd's first device
    #[arg(long, hide = true, default_value_t = 0)]
    first: u32,
    /// Cargo passes this to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.bare.upstream() {
        Some(upstream) => arguments.bare.run(upstream, arguments.devices, arguments.seconds),
        None => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            LocalSet::new().block_on(&runtime, run(&arguments))
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    if let Some(handler) = arguments.broker_of {
        return broker::serve(handler).await;
    }
    if let Some(gateway) = arguments.crowd_of {
        return crowd::serve(gateway, arguments.first, arguments.devices).await;
    }
    if let Some(consoles) = arguments.consoles {
        ensure!(cfg!(feature = "swallow"), "--consoles needs another upstream: cargo bench --features swallow ...");
        rlimit::increase_nofile_limit(u64::MAX).context("the limit of file descriptors")?;
        let Arguments { devices, rounds, seconds, elsewhere, .. } = *arguments;
        return consoles::run(&ConsoleLoad { devices, consoles: consoles.into(), rounds, seconds, elsewhere }).await;
    }
    let descriptors = rlimit::increase_nofile_limit(u64::MAX).context("the limit of file descriptors")?;
    ensure!(descriptors > u64::from(arguments.devices) + 64, "{descriptors} file descriptors are too few");
    let is_default = (arguments.upstream, arguments.broker_kind) == (Upstream::Exproto, BrokerKind::Embedded);
    let needs_default = arguments.restart || arguments.outage.is_some();
    ensure!(is_default || !needs_default, "--restart and --outage are for exproto and the embedded broker");
    if arguments.restart {
        return restart::run(arguments).await;
    }
    if let Some(seconds) = arguments.outage {
        return outage::run(arguments.devices, Duration::from_secs(seconds)).await;
    }
    let (upstream, kind) = (arguments.upstream, arguments.broker_kind);
    let site = BenchSite::start(kind)?;
    let cores = thread::available_parallelism()?;
    println!("upstream {upstream}, broker {kind}; {cores} cores, load average {}", process::load()?);
    let journal = Rc::new(RefCell::new(Journal::new(arguments.devices)));
    let mut application = Application::connect(ApplicationConfig::new(site.mqtt()), Rc::clone(&journal)).await?;
    let bare = match arguments.yardstick {
        true => Some(yardstick::bare(arguments, None, &site, &application).await?),
        false => None,
    };
    let server = BenchServer::start(upstream, arguments.qos, &site).await?;
    let fleet = register(arguments, &server, &journal).await?;
    if let Some(seconds) = arguments.soak {
        observe(arguments, &application, &fleet).await?;
        return soak::soak(arguments.devices, seconds, &server, &mut application, &fleet).await;
    }
    read(arguments, &mut application).await?;
    observe(arguments, &application, &fleet).await?;
    if let Some(before) = bare {
        let gateway = yardstick::gateway(arguments, before, (&server, &site), &application, &fleet).await?;
        drop((server, fleet));
        let after = yardstick::bare(arguments, Some(before), &site, &application).await?;
        yardstick::compare(arguments.upstream, [before, after], gateway);
        return Ok(());
    }
    for rate in RATES {
        let stage = notify(arguments, rate, (&server, &site), &application, &fleet).await?;
        stage.print("server");
        if stage.lost > TOO_MANY_LOST {
            break;
        }
    }
    println!("datagrams of the devices that the system did not take: {}", fleet.counts().unsent.get());
    println!("load average at the end: {}", process::load()?);
    Ok(())
}

async fn register(
    arguments: &Arguments,
    server: &BenchServer,
    journal: &Rc<RefCell<Journal>>,
) -> anyhow::Result<Fleet> {
    let mut config = FleetConfig::new(server.udp, arguments.devices);
    if arguments.soak.is_some() {
        config.lifetime = soak::LIFETIME;
    }
    register_fleet(config, server, journal).await
}

/// Starts devices, and prints what their registrations cost.
async fn register_fleet(
    config: FleetConfig,
    server: &BenchServer,
    journal: &Rc<RefCell<Journal>>,
) -> anyhow::Result<Fleet> {
    let registered = config.devices;
    let (begin, cpu, memory) = (Instant::now(), server.cpu()?, server.memory()?);
    let fleet = Fleet::start(config, journal).await?;
    wait_until("every device is registered", || fleet.counts().registered.get() == u64::from(registered)).await?;
    let (seconds, cpu) = (begin.elapsed().as_secs_f64(), (server.cpu()? - cpu).as_secs_f64());
    let devices = f64::from(registered);
    let each = server.memory()?.saturating_sub(memory) as f64 / devices / 1024.0;
    println!("{devices} devices registered in {seconds:.2} s: {:.0}/s", devices / seconds);
    println!("  server: {cpu:.2} cpu-s, {:.0} registers/cpu-s, {each:.1} KiB a device", devices / cpu.max(0.01));
    Ok(fleet)
}

async fn read(arguments: &Arguments, application: &mut Application) -> anyhow::Result<()> {
    let mut times = Vec::new();
    for number in 0..READS as u64 {
        let device = (number % u64::from(arguments.devices)) as u32;
        let begin = Instant::now();
        application.command(device, number, "read", "/3/0/0").await?;
        application.answer(number).await?;
        times.push(begin.elapsed());
    }
    times.sort();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    println!("{READS} reads, one after the other: p50 {:.2?}, p99 {:.2?}", at(50), at(99));
    Ok(())
}

async fn observe(arguments: &Arguments, application: &Application, fleet: &Fleet) -> anyhow::Result<()> {
    let observed = || fleet.counts().observed.get() as usize;
    for number in 0..arguments.devices {
        let command = u64::from(number) + READS as u64;
        application.command(number, command, "observe", NOTIFIED_PATH).await?;
        wait_until("the devices are observed", || observed() + COMMANDS_AT_ONCE > number as usize).await?;
    }
    wait_until("every device is observed", || observed() == arguments.devices as usize).await
}

/// Runs the load at a single rate.
async fn notify(
    arguments: &Arguments,
    rate: u32,
    (server, site): (&BenchServer, &BenchSite),
    application: &Application,
    fleet: &Fleet,
) -> anyhow::Result<Stage> {
    let (sent, before) = (fleet.counts().notified.get(), application.notifications());
    let (cpu, broker) = (server.cpu()?, site.cpu()?);
    fleet.notify_every(Some(Duration::from_secs_f64(f64::from(arguments.devices) / f64::from(rate))));
    sleep(WARM_UP).await;
    let (warm, at_warm) = (Instant::now(), application.notifications());
    sleep(Duration::from_secs(arguments.seconds)).await;
    let received = (application.notifications() - at_warm) as f64 / warm.elapsed().as_secs_f64();
    fleet.notify_every(None);
    settle(application).await;

    let sent = (fleet.counts().notified.get() - sent) as f64;
    let arrived = (application.notifications() - before) as f64;
    let each = |time: Duration| time.as_secs_f64() * 1e6 / arrived.max(1.0);
    Ok(Stage {
        wanted: rate,
        received,
        lost: (1.0 - arrived / sent.max(1.0)).max(0.0),
        cpu: each(server.cpu()? - cpu),
        broker: each(site.cpu()? - broker),
    })
}

/// Waits until nothing comes any more.
async fn settle(application: &Application) {
    loop {
        let before = application.notifications();
        sleep(Duration::from_millis(500)).await;
        if application.notifications() == before {
            return;
        }
    }
}

async fn wait_until(what: &str, condition: impl Fn() -> bool) -> anyhow::Result<()> {
    let reached = async {
        while !condition() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    if timeout(PATIENCE, reached).await.is_err() {
        bail!("waited in vain until {what}");
    }
    Ok(())
}
