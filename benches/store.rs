//! What the store in a file costs: the time until a change is on the disk, and the processor time of a change.
//!
//! `cargo bench --bench store -- --folder FOLDER` measures in a folder of the disk that is to hold the store. Without a
//! folder it measures in that of temporary files.
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use clap::Parser;
use lwm2m_core::gateway::record::{Change, DeviceRecord};
use lwm2m_core::gateway::{ChangeBatch, Gateway};
use lwm2m_gateway::conditions::Conditions;
use lwm2m_gateway::config::Config;
use lwm2m_gateway::observability::metrics::Metrics;
use lwm2m_gateway::store::{Store, StoreCommand, StoreConfig, StoreEvent};
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
    runtime.block_on(measure(StoreConfig { file: folder.path().join("store.redb"), ..Config::default().store }))
}

async fn measure(settings: StoreConfig) -> anyhow::Result<()> {
    let metrics = Arc::new(Metrics::default());
    let (opened, _) = Store::open(&settings, &Config::default().listeners, UNIX_TIME, metrics)?;
    let store = opened.start(Conditions::default().add("store"))?;
    let mut bench = StoreBench { store, source: Batches::new()?, written: 0 };
    bench.fill().await?;
    println!("{DEVICES} devices in the file");
    for in_flight in [1, 4, 16, 64] {
        bench.latency(in_flight).await?;
    }
    for size in [16, 64, 256] {
        bench.throughput(size).await?;
    }
    bench.store.close(Instant::now(), Batches::new()?.gateway, PATIENCE).await;
    Ok(())
}

struct StoreBench {
    store: Store,
    source: Batches,
    written: usize,
}

impl StoreBench {
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
        let (begin, processor) = (Instant::now(), processor_time());
        for _ in 0..batches {
            self.write(size);
            self.stored().await;
        }
        let changes = (batches * size) as f64;
        let [elapsed, used] = [begin.elapsed(), processor_time() - processor].map(|time| time.as_secs_f64() * 1e6);
        println!(
            "batches of {size:>3}: {:.1} us of processor, {:.1} us elapsed for each change",
            used / changes,
            elapsed / changes
        );
        ensure!(used > 0.0, "the clock of the process stands");
        Ok(())
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

/// Returns the processor time of all threads.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
