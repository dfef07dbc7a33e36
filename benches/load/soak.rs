//! The same devices for a long time: what the memory of the server does.

use std::time::{Duration, Instant};

use lwm2m_load::{Application, Fleet};
use tokio::time::{interval, sleep_until};

use crate::server::BenchServer;

/// The lifetime of each device, which makes it send an Update every minute.
pub(crate) const LIFETIME: Duration = Duration::from_secs(120);
/// Between two notifications of one device.
const NOTIFICATIONS: Duration = Duration::from_secs(10);
/// Between two reads of an application.
const READS: Duration = Duration::from_millis(100);
/// Between two lines.
const LINES: Duration = Duration::from_secs(30);

/// Prints a line each half minute: time, memory, processor time, and what was done so far.
pub(crate) async fn soak(
    devices: u32,
    seconds: u64,
    server: &BenchServer,
    application: &mut Application,
    fleet: &Fleet,
) -> anyhow::Result<()> {
    let begin = Instant::now();
    fleet.notify_every(Some(NOTIFICATIONS));
    let mut reads: u64 = 0;
    for line in 0..=seconds / LINES.as_secs() {
        let due = begin + LINES * u32::try_from(line)?;
        let mut pace = interval(READS);
        while Instant::now() < due {
            pace.tick().await;
            let id = u64::from(devices) + 1_000 + reads;
            application.command((reads % u64::from(devices)) as u32, id, "read", "/3/0/0").await?;
            application.answer(id).await?;
            reads += 1;
        }
        sleep_until(due.into()).await;
        let counts = fleet.counts();
        println!(
            "{:>6.0} s: {:>6.1} MiB, {:>6.1} cpu-s; {} notifications sent, {} received, {} updates, {reads} reads",
            begin.elapsed().as_secs_f64(),
            server.memory()? as f64 / 1_048_576.0,
            server.cpu()?.as_secs_f64(),
            counts.notified.get(),
            application.notifications(),
            counts.updated.get(),
        );
    }
    Ok(())
}
