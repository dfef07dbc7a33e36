//! More devices than one process has file descriptors for, in processes of their own: they register and send Updates.

use std::cell::RefCell;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, ensure};
use lwm2m_load::{Fleet, FleetConfig, Journal};

use crate::wait_until;

/// The devices of one process. Systems often allow a process 20,000 file descriptors.
const DEVICES_OF_PROCESS: u32 = 15_000;
/// Between two Updates of one device.
const UPDATES: Duration = Duration::from_secs(180);
/// The line by which a process says that its devices are registered.
const REGISTERED: &str = "registered";

/// Processes, which are killed on drop.
#[derive(Default)]
pub(crate) struct Crowd(Vec<Child>);

impl Crowd {
    /// Registers so many devices, whose numbers begin at `first`.
    pub(crate) fn start(gateway: SocketAddr, first: u32, devices: u32) -> anyhow::Result<Self> {
        let mut crowd = Self::default();
        let end = first + devices;
        let mut from = first;
        while from < end {
            let devices = DEVICES_OF_PROCESS.min(end - from);
            // One after the other: more Registers at once than the gateway's socket buffer holds are lost.
            crowd.add(gateway, from, devices)?;
            from += devices;
        }
        Ok(crowd)
    }

    fn add(&mut self, gateway: SocketAddr, first: u32, devices: u32) -> anyhow::Result<()> {
        let mut child = Command::new(std::env::current_exe()?)
            .args([
                "--crowd-of",
                &gateway.to_string(),
                "--first",
                &first.to_string(),
                "--devices",
                &devices.to_string(),
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting a process of the crowd")?;
        let output = child.stdout.take().context("its output")?;
        self.0.push(child);
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        ensure!(line.trim() == REGISTERED, "a process of the crowd says {line:?}");
        Ok(())
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        for child in &mut self.0 {
            if let Err(error) = child.kill().and_then(|()| child.wait()) {
                eprintln!("load: the crowd's process {} may still run: {error}", child.id());
            }
        }
    }
}

/// The other process: registers devices, says so, and lets them send Updates until it is killed.
pub(crate) async fn serve(gateway: SocketAddr, first: u32, devices: u32) -> anyhow::Result<()> {
    rlimit::increase_nofile_limit(u64::MAX).context("the limit of file descriptors")?;
    let journal = Rc::new(RefCell::new(Journal::new(first + devices)));
    let config = FleetConfig { first, ..FleetConfig::new(gateway, devices) };
    let fleet = Fleet::start(config, &journal).await?;
    wait_until("the crowd is registered", || fleet.counts().registered.get() == u64::from(devices)).await?;
    println!("{REGISTERED}");
    fleet.update_every(Some(UPDATES));
    std::future::pending().await
}
