//! Measures a start with stored devices: from the file to a core that serves them. The broker is not part of it.

use std::time::Instant;

use anyhow::ensure;
use lwm2m_gateway::config::Config;
use lwm2m_gateway::observability::metrics::Metrics;
use lwm2m_gateway::store::{Store, StoreConfig};
use tempfile::TempDir;

use crate::crowd::Crowd;
use crate::gateway::{SwallowingGateway, UNIX_TIME};

/// The changes that are written together while the file is made.
const BATCH: usize = 10_000;
/// Starts from the same file; the last one is printed too, when the system has the file in its memory.
const STARTS: usize = 3;

pub(crate) fn measure(devices: u32) -> anyhow::Result<()> {
    let folder = TempDir::new()?;
    let config = StoreConfig { file: folder.path().join("store.redb"), ..Config::default().store };
    write(&config, devices)?;
    let size = std::fs::metadata(&config.file)?.len();
    println!("{devices} stored devices, {:.0} MiB", size as f64 / f64::from(1 << 20));
    for _ in 0..STARTS {
        start(&config, devices)?;
    }
    Ok(())
}

/// Fills a new store with devices that have one observation each.
fn write(config: &StoreConfig, devices: u32) -> anyhow::Result<()> {
    let (store, _) = open(config)?;
    let mut crowd = Crowd::new()?;
    crowd.gateway.restore(crowd.now, Default::default());
    crowd.register_up_to(devices)?;
    loop {
        let changes = crowd.gateway.take_changes(crowd.now, BATCH);
        if changes.is_empty() {
            return Ok(());
        }
        store.write_now(&changes)?;
    }
}

fn start(config: &StoreConfig, devices: u32) -> anyhow::Result<()> {
    let begin = Instant::now();
    let (_store, contents) = open(config)?;
    let opened = begin.elapsed();
    ensure!(contents.devices.len() == devices as usize, "{} devices are stored", contents.devices.len());
    let mut gateway = SwallowingGateway::new(begin)?;
    gateway.restore(begin, contents);
    gateway.carry_out(begin, |_| {});
    let ready = begin.elapsed();
    ensure!(gateway.resumed == u64::from(devices), "{} devices are restored", gateway.resumed);
    println!("  ready after {:.2} s, of which {:.2} s read the file", ready.as_secs_f64(), opened.as_secs_f64());
    Ok(())
}

fn open(
    config: &StoreConfig,
) -> anyhow::Result<(lwm2m_gateway::store::OpenedStore, lwm2m_gateway::store::StoreContents)> {
    Ok(Store::open(config, &Config::default().listeners, UNIX_TIME, Metrics::default().into())?)
}
