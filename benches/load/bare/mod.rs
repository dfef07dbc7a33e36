//! A client that does nothing but publish at a given rate, in a process of its own.

mod exproto;
mod mqtt;

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use lwm2m_load::Application;
use tokio::time::{Instant, Interval, interval_at};

use crate::process;
use crate::site::{BenchSite, Upstream};
use crate::stage::Stage;
use crate::{WARM_UP, settle};

/// The payload of a notification of the simulated devices.
const PAYLOAD: &[u8] = concat!(
    r#"{"msgType":"notify","seqNum":12345,"data":{"reqPath":"/3303/0/5700","code":"2.05","codeMsg":"content","#,
    r#""content":[{"path":"/3303/0/5700","value":12345.0}]}}"#
)
.as_bytes();

/// The parts of the time between two publications at which connections publish.
const TURNS: u32 = 50;

/// The other process: how it publishes, and where.
#[derive(Clone, Debug, Args)]
pub(crate) struct BareArguments {
    /// Be the bare client of this upstream
    #[arg(long, hide = true, value_enum)]
    bare: Option<Upstream>,
    /// The addresses of the broker: listener, adapter and handler, or MQTT
    #[arg(long, hide = true, value_delimiter = ',')]
    bare_at: Vec<SocketAddr>,
    /// The QoS of the publications
    #[arg(long, hide = true, default_value_t = 0)]
    bare_qos: u8,
    /// The publications in a second of all connections
    #[arg(long, hide = true, default_value_t = 1_000)]
    bare_rate: u32,
}

/// The work of all connections: until when, how fast, and how much is done.
#[derive(Debug)]
pub(crate) struct BareWork {
    stopped: AtomicBool,
    done: AtomicU64,
    /// The time between two publications of one connection.
    pause: Duration,
}

/// The load of a bare client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BareLoad {
    pub devices: u32,
    pub qos: u8,
    pub duration: Duration,
    /// Publications in a second of all connections.
    pub rate: u32,
}

/// Runs a bare client, and counts what reaches the application.
pub(crate) async fn measure(
    upstream: Upstream,
    load: BareLoad,
    site: &BenchSite,
    application: &Application,
) -> anyhow::Result<Stage> {
    let BareLoad { devices, qos, duration, rate } = load;
    let addresses: Vec<String> = site.bare_addresses(upstream)?.iter().map(SocketAddr::to_string).collect();
    let seconds = (duration + WARM_UP).as_secs().to_string();
    let child = Command::new(std::env::current_exe()?)
        .args(["--bare", &upstream.to_string(), "--bare-at", &addresses.join(","), "--bare-qos", &qos.to_string()])
        .args(["--bare-rate", &rate.to_string()])
        .args(["--devices", &devices.to_string(), "--seconds", &seconds])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting the bare client")?;
    let before = application.notifications();
    while application.notifications() == before {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(WARM_UP).await;
    let (first, broker) = (application.notifications(), site.cpu()?);
    tokio::time::sleep(duration).await;
    let (received, broker) = ((application.notifications() - first) as f64, site.cpu()? - broker);
    let output = tokio::task::spawn_blocking(|| child.wait_with_output()).await??;
    settle(application).await;
    let output = String::from_utf8(output.stdout)?;
    let (cpu, sent) = output.trim().split_once(' ').context("the figures of the bare client")?;
    let arrived = (application.notifications() - before) as f64;
    Ok(Stage {
        wanted: rate,
        received: received / duration.as_secs_f64(),
        lost: (1.0 - arrived / sent.parse::<f64>()?.max(1.0)).max(0.0),
        cpu: cpu.parse()?,
        broker: broker.as_secs_f64() * 1e6 / received.max(1.0),
    })
}

impl BareArguments {
    pub(crate) fn upstream(&self) -> Option<Upstream> {
        self.bare
    }

    /// The other process: publishes for so many seconds on so many connections, and prints the processor time of each
    /// publication in microseconds, and the number of publications.
    pub(crate) fn run(&self, upstream: Upstream, devices: u32, seconds: u64) -> anyhow::Result<()> {
        rlimit::increase_nofile_limit(u64::MAX).context("the limit of file descriptors")?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(async {
            let pause = Duration::from_secs_f64(f64::from(devices) / f64::from(self.bare_rate));
            let work = BareWork { stopped: AtomicBool::new(false), done: AtomicU64::new(0), pause };
            let work: &BareWork = Box::leak(Box::new(work));
            match (upstream, &self.bare_at[..]) {
                (Upstream::Exproto, [listener, adapter, handler]) => {
                    exproto::begin(work, devices, [*listener, *adapter, *handler]).await?;
                }
                (Upstream::Mqtt, [broker]) => mqtt::begin(work, devices, self.bare_qos, *broker).await?,
                _ => anyhow::bail!("addresses of the broker that do not fit: {:?}", self.bare_at),
            }
            let (me, done) = (std::process::id(), work.done.load(Ordering::Relaxed));
            let before = process::processor_time(me)?;
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            let (cpu, done) = (process::processor_time(me)? - before, work.done.load(Ordering::Relaxed) - done);
            work.stopped.store(true, Ordering::Relaxed);
            tokio::time::sleep(WARM_UP).await;
            let all = work.done.load(Ordering::Relaxed);
            println!("{:.1} {all}", cpu.as_secs_f64() * 1e6 / done.max(1) as f64);
            Ok(())
        })
    }
}

impl BareWork {
    pub(crate) fn goes_on(&self) -> bool {
        !self.stopped.load(Ordering::Relaxed)
    }

    /// Ticks whenever a connection has to publish. A connection that is late makes up for it.
    pub(crate) fn pace(&self, number: u32) -> Interval {
        // The connections take turns, so that they do not publish all at once.
        let turn = self.pause.mul_f64(f64::from(number % TURNS) / f64::from(TURNS));
        interval_at(Instant::now() + turn, self.pause)
    }

    pub(crate) fn count(&self, publications: u64) {
        self.done.fetch_add(publications, Ordering::Relaxed);
    }
}

/// The client ID of a connection, and its topic.
pub(crate) fn names(number: u32) -> (String, String) {
    let endpoint = format!("load-{number}");
    let topic = format!("lwm2m/{endpoint}/up/notify");
    (endpoint, topic)
}
