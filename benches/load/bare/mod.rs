//! The yardstick: a client that does nothing but publish, in a process of its own, as fast as the broker takes it. What the
//! gateway reaches is compared with it, in one run.

mod exproto;
mod mqtt;

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use lwm2m_load::Application;

use crate::WARM_UP;
use crate::process;
use crate::site::{BenchSite, Upstream};

/// Publishes like a notification of the simulated devices.
const PAYLOAD: &[u8] = br#"{"msgType":"notify","seqNum":12345,"data":{"reqPath":"/3303/0/5700","code":"2.05","codeMsg":"content","content":[{"path":"/3303/0/5700","value":12345.0}]}}"#;

/// The other process: how it publishes, and where.
#[derive(Clone, Debug, Args)]
pub struct BareArguments {
    /// Be the bare client of this upstream
    #[arg(long, hide = true, value_enum)]
    bare: Option<Upstream>,
    /// The addresses of the broker: listener, adapter and handler, or MQTT
    #[arg(long, hide = true, value_delimiter = ',')]
    bare_at: Vec<SocketAddr>,
    /// The QoS of the publications
    #[arg(long, hide = true, default_value_t = 0)]
    bare_qos: u8,
}

/// The work of all connections: until when, and how much is done.
#[derive(Debug, Default)]
pub struct BareWork {
    stopped: AtomicBool,
    done: AtomicU64,
}

/// What a bare client has reached.
pub struct BareRate {
    /// Publications in a second that reached the application.
    pub received: f64,
    /// Processor time of the client for each publication, in microseconds.
    pub cpu: f64,
    /// Processor time of the broker for each publication, in microseconds.
    pub broker: f64,
}

/// Runs a bare client for so long, and counts what reaches the application.
pub async fn measure(
    upstream: Upstream,
    (devices, qos, duration): (u32, u8, Duration),
    site: &BenchSite,
    application: &Application,
) -> anyhow::Result<BareRate> {
    let addresses: Vec<String> = site.bare_addresses(upstream)?.iter().map(SocketAddr::to_string).collect();
    let seconds = (duration + WARM_UP).as_secs().to_string();
    let child = Command::new(std::env::current_exe()?)
        .args(["--bare", &upstream.to_string(), "--bare-at", &addresses.join(","), "--bare-qos", &qos.to_string()])
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
    let cpu = String::from_utf8(output.stdout)?.trim().parse().context("the figure of the bare client")?;
    let broker = broker.as_secs_f64() * 1e6 / received.max(1.0);
    Ok(BareRate { received: received / duration.as_secs_f64(), cpu, broker })
}

impl BareArguments {
    pub fn upstream(&self) -> Option<Upstream> {
        self.bare
    }

    /// The other process: publishes for so many seconds on so many connections, and prints the processor time of each
    /// publication in microseconds.
    pub fn run(&self, upstream: Upstream, devices: u32, seconds: u64) -> anyhow::Result<()> {
        rlimit::increase_nofile_limit(u64::MAX).context("the limit of file descriptors")?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(async {
            let work: &BareWork = Box::leak(Box::default());
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
            println!("{:.1}", cpu.as_secs_f64() * 1e6 / done as f64);
            Ok(())
        })
    }
}

impl BareWork {
    pub fn goes_on(&self) -> bool {
        !self.stopped.load(Ordering::Relaxed)
    }

    pub fn count(&self, publications: u64) {
        self.done.fetch_add(publications, Ordering::Relaxed);
    }
}

/// The client ID of a connection, and its topic.
pub fn names(number: u32) -> (String, String) {
    let endpoint = format!("load-{number}");
    let topic = format!("lwm2m/{endpoint}/up/notify");
    (endpoint, topic)
}
