//! What the store costs: the time until a change is stored, and the processor time of a change, in a file and at a Redis
//! server of this machine, if `redis-server` is installed.
//!
//! `cargo bench --bench store -- --folder FOLDER` measures in a folder of the disk that is to hold the file, and the
//! append-only file of the server. Without a folder it measures in that of temporary files.
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use clap::Parser;
use lwm2m_core::gateway::persistence::record::{Change, DeviceRecord};
use lwm2m_core::gateway::{ChangeBatch, Gateway};
use lwm2m_gateway::conditions::Conditions;
use lwm2m_gateway::config::Config;
use lwm2m_gateway::observability::metrics::Metrics;
use lwm2m_gateway::store::{OpenedStore, Store, StoreCommand, StoreConfig, StoreEvent};
use lwm2m_testkit::scene::{QUERY, Scene};
use rustix::time::{ClockId, clock_gettime};
use tempfile::TempDir;

/// The wall clock of the measurement.
const UNIX_TIME: Duration = Duration::from_secs(1_800_000_000);
const PATIENCE: Duration = Duration::from_secs(60);
/// The writes of each measurement.
const WRITES: usize = 300;
/// The devices whose records are written, in turn.
const DEVICES: usize = 20_000;

#[derive(Debug, Parser)]
struct Arguments {
    /// Folder of the disk that is measured
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
    /// Cargo passes this to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> anyhow::Result<()> {
    let Arguments { folder, .. } = Arguments::parse();
    let folder = match folder {
        Some(folder) => TempDir::new_in(folder)?,
        None => TempDir::new()?,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    println!("File, {DEVICES} devices");
    let file = StoreConfig { file: folder.path().join("store.redb"), ..Config::default().store };
    runtime.block_on(measure(file, None))?;
    let Some(server) = RedisServer::start(folder.path())? else {
        println!("Redis: redis-server is not installed");
        return Ok(());
    };
    println!("Redis with an append-only file, {DEVICES} devices");
    runtime.block_on(measure(server.config(folder.path())?, Some(&server)))
}

async fn measure(config: StoreConfig, server: Option<&RedisServer>) -> anyhow::Result<()> {
    let metrics = Arc::new(Metrics::default());
    let (opened, _) = OpenedStore::open(&config, &Config::default().listeners, UNIX_TIME, metrics).await?;
    let store = opened.start(Conditions::default().add("store"))?;
    let mut bench = StoreBench { store, source: Batches::new()?, written: 0, server };
    bench.fill().await?;
    for in_flight in [1, 4, 16, 64] {
        bench.latency(in_flight).await?;
    }
    for size in [16, 64, 256] {
        bench.throughput(size).await?;
    }
    bench.intervals().await?;
    bench.store.close(Instant::now(), Batches::new()?.gateway, PATIENCE).await;
    Ok(())
}

struct StoreBench<'a> {
    store: Store,
    source: Batches,
    written: usize,
    server: Option<&'a RedisServer>,
}

impl StoreBench<'_> {
    async fn fill(&mut self) -> anyhow::Result<()> {
        for _ in 0..DEVICES / 200 {
            self.write(200);
            self.stored().await;
        }
        Ok(())
    }

    /// Writes single changes, of which so many wait at any time, as devices do that register at the same time.
    async fn latency(&mut self, in_flight: usize) -> anyhow::Result<()> {
        let (mut waited, mut begun) = (Vec::new(), std::collections::VecDeque::new());
        let begin = Instant::now();
        while waited.len() < WRITES {
            while begun.len() < in_flight {
                let version = self.write(1);
                begun.push_back((version, Instant::now()));
            }
            let version = self.stored().await;
            while let Some((_, at)) = begun.front().filter(|(waiting, _)| *waiting <= version) {
                waited.push(at.elapsed());
                begun.pop_front();
            }
        }
        let per_second = waited.len() as f64 / begin.elapsed().as_secs_f64();
        while !begun.is_empty() {
            self.stored().await;
            begun.pop_front();
        }
        waited.sort();
        let [median, late] = [50, 99].map(|percent| waited[(waited.len() - 1) * percent / 100].as_secs_f64() * 1e3);
        println!("{in_flight:>3} waiting: stored after {median:.2} ms (p99 {late:.2} ms), {per_second:.0} changes/s");
        Ok(())
    }

    /// Writes batches, one after the other.
    async fn throughput(&mut self, size: usize) -> anyhow::Result<()> {
        let batches = 20;
        let (begin, processor, server) = (Instant::now(), processor_time(), self.server_time()?);
        for _ in 0..batches {
            self.write(size);
            self.stored().await;
        }
        let elapsed = begin.elapsed();
        self.tell_cost(&format!("batches of {size:>3}"), batches * size, (processor, server))?;
        println!("{:>16} {:.1} us elapsed for each change", "", elapsed.as_secs_f64() * 1e6 / (batches * size) as f64);
        Ok(())
    }

    /// Writes 100 changes in each 100 ms, as a gateway does that collects changes for that long.
    async fn intervals(&mut self) -> anyhow::Result<()> {
        let (interval, changes, batches) = (Duration::from_millis(100), 100, 20);
        let (mut waited, processor, server) = (Vec::new(), processor_time(), self.server_time()?);
        for _ in 0..batches {
            let begin = Instant::now();
            self.write(changes);
            self.stored().await;
            waited.push(begin.elapsed());
            tokio::time::sleep(interval.saturating_sub(begin.elapsed())).await;
        }
        self.tell_cost("100 each 100 ms", batches * changes, (processor, server))?;
        waited.sort();
        println!("{:>16} stored after {:.2} ms (median)", "", waited[batches / 2].as_secs_f64() * 1e3);
        Ok(())
    }

    /// Prints the processor time of each change, of this process and of the server, since these times.
    fn tell_cost(&self, what: &str, changes: usize, since: (Duration, Duration)) -> anyhow::Result<()> {
        let used = [processor_time() - since.0, self.server_time()? - since.1];
        let [own, server] = used.map(|time| time.as_secs_f64() * 1e6 / changes as f64);
        let server = self.server.map_or(String::new(), |_| format!(", {server:.1} us of the server's"));
        println!("{what:>15}: {own:.1} us of processor{server} for each change");
        ensure!(own > 0.0, "the clock of the process stands");
        Ok(())
    }

    fn server_time(&self) -> anyhow::Result<Duration> {
        self.server.map_or(Ok(Duration::ZERO), RedisServer::processor_time)
    }

    fn write(&mut self, changes: usize) -> lwm2m_core::gateway::BatchNumber {
        let ChangeBatch { version, .. } = self.source.gateway.take_batch(Instant::now(), 0);
        let changes = (0..changes).map(|_| self.next()).collect();
        self.store.submit(StoreCommand::Write { version, changes });
        version
    }

    fn next(&mut self) -> Change {
        self.written += 1;
        // Devices do not speak in the order of their names.
        let device = self.written * 7_919 % DEVICES;
        let mut record = self.source.record.clone();
        record.registration.endpoint = format!("urn:imei:{device:015}");
        Change::Put(Box::new(record))
    }

    /// Waits until a batch is stored.
    async fn stored(&mut self) -> lwm2m_core::gateway::BatchNumber {
        loop {
            if let StoreEvent::Stored { version } = self.store.event().await {
                return version;
            }
        }
    }
}

/// A gateway that numbers batches, and the record of one of its devices.
struct Batches {
    gateway: Gateway,
    record: DeviceRecord,
}

impl Batches {
    fn new() -> anyhow::Result<Self> {
        let mut scene = Scene::new();
        scene.gateway.restore(scene.now, Vec::new());
        scene.register(QUERY);
        let changes = scene.gateway.take_changes(scene.now, 1);
        let Some(Change::Put(record)) = changes.into_iter().next() else { anyhow::bail!("no record of a device") };
        Ok(Self { gateway: scene.gateway, record: *record })
    }
}

/// A server of Debian's package `redis-server` with an append-only file.
struct RedisServer {
    child: Child,
    port: u16,
}

impl RedisServer {
    /// Starts the server; `None` where none is installed.
    fn start(folder: &Path) -> anyhow::Result<Option<Self>> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--port", &port.to_string()]);
        let Ok(child) = command.arg("--dir").arg(folder).stdout(Stdio::null()).spawn() else { return Ok(None) };
        Ok(Some(Self { child, port }))
    }

    fn config(&self, folder: &Path) -> anyhow::Result<StoreConfig> {
        let seal = folder.join("seal");
        fs::write(&seal, "00".repeat(32))?;
        let lines = format!(
            "store.kind = \"redis\"\nstore.redis.urls = [\"redis://127.0.0.1:{}\"]\nstore.redis.seal_keyfile = {seal:?}",
            self.port
        );
        let file = folder.join("gateway.toml");
        fs::write(&file, lines)?;
        Ok(Config::load(Some(&file), [])?.store)
    }

    /// Returns the processor time of the server's main thread, which runs the scripts (proc(5), `schedstat`).
    fn processor_time(&self) -> anyhow::Result<Duration> {
        let times = fs::read_to_string(format!("/proc/{}/schedstat", self.child.id()))?;
        let time = times.split(' ').next().unwrap_or_default();
        Ok(Duration::from_nanos(time.parse()?))
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.child.kill().expect("a child of ours");
        self.child.wait().expect("a child of ours");
    }
}

/// Returns the processor time of all threads.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
