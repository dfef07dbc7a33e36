//! Mosquitto, with a configuration of its own and nothing on disk.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, bail};
use tempfile::TempDir;

/// Debian has it beside the paths of users.
const PROGRAMS: [&str; 2] = ["mosquitto", "/usr/sbin/mosquitto"];

const START_TIMEOUT: Duration = Duration::from_secs(10);

/// A process, which is killed on drop.
pub(crate) struct Mosquitto {
    child: Child,
    /// Mosquitto reads this configuration again on SIGHUP.
    _folder: TempDir,
    pub mqtt: SocketAddr,
}

impl Mosquitto {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let mqtt = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let folder = TempDir::new()?;
        let file = folder.path().join("mosquitto.conf");
        // Without bounds on what waits: what is lost is lost elsewhere.
        let config = format!(
            "user root\nallow_anonymous true\npersistence false\nmax_queued_messages 0\nset_tcp_nodelay true\n\
             log_type error\nlistener {} {}\n",
            mqtt.port(),
            mqtt.ip(),
        );
        fs::write(&file, config)?;
        let run = |program: &&str| Command::new(program).arg("-c").arg(&file).stdin(Stdio::null()).spawn().ok();
        let child = PROGRAMS.iter().find_map(run).context("there is no mosquitto")?;
        let mut mosquitto = Self { child, _folder: folder, mqtt };
        mosquitto.wait_until_it_listens()?;
        Ok(mosquitto)
    }

    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    fn wait_until_it_listens(&mut self) -> anyhow::Result<()> {
        let pause = Duration::from_millis(20);
        for _ in 0..START_TIMEOUT.as_millis() / pause.as_millis() {
            if let Some(status) = self.child.try_wait()? {
                bail!("mosquitto ended with {status}");
            }
            if TcpStream::connect(self.mqtt).is_ok() {
                return Ok(());
            }
            sleep(pause);
        }
        bail!("mosquitto does not listen on {}", self.mqtt)
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let ended = self.child.kill().and_then(|()| self.child.wait());
        if let Err(error) = ended {
            eprintln!("load: mosquitto with process id {} may still run: {error}", self.child.id());
        }
    }
}
