//! The built program, on ports that are free, and what the system says of it.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::net::TcpStream;

use crate::broker::Broker;
use crate::fleet;
use tokio::time::sleep;

/// USER_HZ: Linux shows processor time in hundredths of a second on every architecture that has a Rust toolchain.
const TICK: Duration = Duration::from_millis(10);

const START_TIMEOUT: Duration = Duration::from_secs(10);

/// All devices register from one address, as fast as they can.
const UNLIMITED: [(&str, &str); 4] = [
    ("LWM2M_GATEWAY__LIMITS__REGISTERS__PER_SECOND", "1000000"),
    ("LWM2M_GATEWAY__LIMITS__REGISTERS__BURST", "1000000"),
    ("LWM2M_GATEWAY__LIMITS__REGISTERS__ADDRESS_PER_SECOND", "1000000"),
    ("LWM2M_GATEWAY__LIMITS__REGISTERS__ADDRESS_BURST", "1000000"),
];

/// A ping of CoAP (RFC 7252 section 4.3), and the reset that answers it.
const PING: [u8; 4] = [0x40, 0, 0, 1];
const PONG: [u8; 4] = [0x70, 0, 0, 1];

/// Killed when it is dropped.
pub struct Server {
    child: Child,
    pub udp: SocketAddr,
    pub mqtt: SocketAddr,
}

impl Server {
    pub async fn start() -> anyhow::Result<Self> {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let tcp = || -> std::io::Result<SocketAddr> { TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr() };
        let (mqtt, listener, adapter, handler) = (tcp()?, tcp()?, tcp()?, tcp()?);
        let child = Command::new(env!("CARGO_BIN_EXE_lwm2m-gateway"))
            .args(["run", "--embedded"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env("LWM2M_GATEWAY__LISTENERS__UDP__DEFAULT__BIND", udp.to_string())
            .env("LWM2M_GATEWAY__EMBEDDED__MQTT", mqtt.to_string())
            .env("LWM2M_GATEWAY__EMBEDDED__LISTENER", listener.to_string())
            .env("LWM2M_GATEWAY__EMBEDDED__ADAPTER", adapter.to_string())
            .env("LWM2M_GATEWAY__UPSTREAM__EXPROTO__HANDLER_BIND", handler.to_string())
            .envs(UNLIMITED)
            .env("LWM2M_GATEWAY_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("starting the server")?;
        let mut server = Self { child, udp, mqtt };
        server.wait_until_it_listens().await?;
        Ok(server)
    }

    /// Starts it at this address of devices, with a broker of another process and with a store, and waits until it hears.
    pub async fn start_at(broker: &Broker, udp: SocketAddr, store: &Path) -> anyhow::Result<Self> {
        let child = Command::new(env!("CARGO_BIN_EXE_lwm2m-gateway"))
            .arg("run")
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env("LWM2M_GATEWAY__ADMIN__ENABLE", "false")
            .env("LWM2M_GATEWAY__LISTENERS__UDP__DEFAULT__BIND", udp.to_string())
            .env("LWM2M_GATEWAY__UPSTREAM__EXPROTO__LISTENER", broker.listener.to_string())
            .env("LWM2M_GATEWAY__UPSTREAM__EXPROTO__ADAPTER", format!("http://{}", broker.adapter))
            .env("LWM2M_GATEWAY__UPSTREAM__EXPROTO__HANDLER_BIND", broker.handler.to_string())
            .envs(UNLIMITED)
            .env("LWM2M_GATEWAY__QMODE_TIME_WINDOW", "1ms")
            .env("LWM2M_GATEWAY__AUTO_OBSERVE", format!("[{:?}]", fleet::TEMPERATURE))
            .env("LWM2M_GATEWAY__STORE__FILE", store)
            .env("LWM2M_GATEWAY_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("starting the server")?;
        let mut server = Self { child, udp, mqtt: broker.mqtt };
        server.wait_until_it_hears().await?;
        Ok(server)
    }

    /// SIGKILL, as if it had crashed.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Processor time so far.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // proc(5): the name stands in parentheses and may hold anything; utime and stime are the 12th and 13th behind it.
        let (_, fields) = stat.rsplit_once(')').context("no name in stat")?;
        let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u32>);
        Ok(TICK * ticks.sum::<Result<u32, _>>()?)
    }

    /// Resident bytes.
    pub fn memory(&self) -> anyhow::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS in status")?;
        let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kibibytes * 1024)
    }

    async fn wait_until_it_hears(&mut self) -> anyhow::Result<()> {
        let probe = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let pause = Duration::from_millis(5);
        let mut buffer = [0; 16];
        for _ in 0..START_TIMEOUT.as_millis() / pause.as_millis() {
            if let Some(status) = self.child.try_wait()? {
                bail!("the server ended with {status}");
            }
            probe.send_to(&PING, self.udp).await?;
            if let Ok(answer) = tokio::time::timeout(pause, probe.recv(&mut buffer)).await
                && buffer[..answer?] == PONG
            {
                return Ok(());
            }
        }
        bail!("the server does not hear devices on {}", self.udp)
    }

    async fn wait_until_it_listens(&mut self) -> anyhow::Result<()> {
        let pause = Duration::from_millis(20);
        for _ in 0..START_TIMEOUT.as_millis() / pause.as_millis() {
            if let Some(status) = self.child.try_wait()? {
                bail!("the server ended with {status}");
            }
            if TcpStream::connect(self.mqtt).await.is_ok() {
                return Ok(());
            }
            sleep(pause).await;
        }
        bail!("the server does not listen for MQTT on {}", self.mqtt)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let ended = self.child.kill().and_then(|()| self.child.wait());
        if let Err(error) = ended {
            eprintln!("load: the server with process id {} may still run: {error}", self.child.id());
        }
    }
}
