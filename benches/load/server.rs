//! The built program, on ports that are free, and what the system says of it.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use lwm2m_load::NOTIFIED_PATH;

use crate::broker::BenchBroker;
use crate::process;
use crate::site::{BenchSite, Upstream};

/// Tokens of the console; each has 8 event streams.
const TOKENS: usize = 4;

const START_TIMEOUT: Duration = Duration::from_secs(10);

/// All devices register from one address, as fast as they can.
const UNLIMITED: [(&str, &str); 4] = [
    ("LWM2M_GATEWAY__LIMITS__REGISTERS__PER_SECOND", "1000000"),
    ("LWM2M_GATEWAY__LIMITS__REGISTERS__BURST", "1000000"),
    ("LWM2M_GATEWAY__LIMITS__REGISTERS__ADDRESS_PER_SECOND", "1000000"),
    ("LWM2M_GATEWAY__LIMITS__REGISTERS__ADDRESS_BURST", "1000000"),
];

/// Names another build of the program, to compare the two.
const PROGRAM: &str = "LOAD_PROGRAM";

/// A ping of CoAP (RFC 7252 section 4.3), and the reset that answers it.
const PING: [u8; 4] = [0x40, 0, 0, 1];
const PONG: [u8; 4] = [0x70, 0, 0, 1];

/// A process, which is killed on drop.
pub(crate) struct BenchServer {
    child: Child,
    pub udp: SocketAddr,
    /// The socket of its console.
    pub console: PathBuf,
    /// Tokens of its console: each may have a few event streams only.
    pub tokens: Vec<String>,
    /// The socket of an upstream that swallows.
    pub swallow: Option<PathBuf>,
}

impl BenchServer {
    /// Starts it with this way up to this broker and without a store, and waits until it hears.
    pub(crate) async fn start(upstream: Upstream, qos: u8, site: &BenchSite) -> anyhow::Result<Self> {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let console = console(udp);
        let child = command(udp)
            .envs(site.environment(upstream)?)
            .env("LWM2M_GATEWAY__TRANSLATORS__NOTIFY__QOS", qos.to_string())
            .env("LWM2M_GATEWAY__STORE__ENABLE", "false")
            .spawn()
            .context("starting the server")?;
        let mut server = Self { child, udp, console, tokens: Vec::new(), swallow: None };
        server.wait_until_it_hears().await?;
        Ok(server)
    }

    /// Starts it with an upstream that swallows what devices publish, room for many devices, and tokens of its console.
    pub(crate) async fn start_swallowing() -> anyhow::Result<Self> {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let console = console(udp);
        let tokens = make_tokens(&tokens_file(&console))?;
        let swallow = console.with_extension("swallow");
        let child = command(udp)
            .env("LWM2M_SWALLOW", &swallow)
            .env("LWM2M_GATEWAY__LIMITS__DEVICES", "1000000")
            .env("LWM2M_GATEWAY__CONSOLE__TOKENS", tokens_file(&console))
            .env("LWM2M_GATEWAY__CONSOLE__BIND", "127.0.0.1:0")
            .env("LWM2M_GATEWAY__STORE__ENABLE", "false")
            .spawn()
            .context("starting the server")?;
        let mut server = Self { child, udp, console, tokens, swallow: Some(swallow) };
        server.wait_until_it_hears().await?;
        Ok(server)
    }

    /// The same at this address of devices, by ExProto and with a store.
    pub(crate) async fn start_at(broker: &BenchBroker, udp: SocketAddr, store: &Path) -> anyhow::Result<Self> {
        let console = console(udp);
        let child = command(udp)
            .envs(broker.exproto())
            .env("LWM2M_GATEWAY__QMODE_TIME_WINDOW", "1ms")
            .env("LWM2M_GATEWAY__AUTO_OBSERVE", format!("[{:?}]", NOTIFIED_PATH))
            .env("LWM2M_GATEWAY__STORE__FILE", store)
            .spawn()
            .context("starting the server")?;
        let mut server = Self { child, udp, console, tokens: Vec::new(), swallow: None };
        server.wait_until_it_hears().await?;
        Ok(server)
    }

    /// SIGKILL, as if it had crashed.
    pub(crate) fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        process::processor_time(self.child.id())
    }

    /// Resident bytes.
    pub(crate) fn memory(&self) -> anyhow::Result<u64> {
        process::resident(self.child.id())
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
}

impl Drop for BenchServer {
    fn drop(&mut self) {
        let ended = self.child.kill().and_then(|()| self.child.wait());
        let tokens = (!self.tokens.is_empty()).then(|| tokens_file(&self.console));
        for file in [Some(self.console.clone()), tokens, self.swallow.take()].into_iter().flatten() {
            if let Err(error) = fs::remove_file(&file) {
                eprintln!("load: {} is left: {error}", file.display());
            }
        }
        if let Err(error) = ended {
            eprintln!("load: the server with process id {} may still run: {error}", self.child.id());
        }
    }
}

/// Returns the place of the console's socket of the server at this address.
fn console(udp: SocketAddr) -> PathBuf {
    env::temp_dir().join(format!("lwm2m-load-{}.sock", udp.port()))
}

fn tokens_file(console: &Path) -> PathBuf {
    console.with_extension("tokens")
}

/// Writes a file with tokens of viewers, and returns the tokens.
fn make_tokens(file: &Path) -> anyhow::Result<Vec<String>> {
    let make = |number: usize| {
        let name = format!("console-{number}");
        let output = Command::new(program()).args(["token", &name, "--file"]).arg(file).output()?;
        let text = String::from_utf8(output.stdout)?;
        text.lines().nth(1).map(|line| line.trim().to_owned()).context("the program prints no token")
    };
    (0..TOKENS).map(make).collect()
}

fn program() -> OsString {
    env::var_os(PROGRAM).unwrap_or_else(|| env!("CARGO_BIN_EXE_lwm2m-gateway").into())
}

fn command(udp: SocketAddr) -> Command {
    let mut command = Command::new(program());
    command
        .arg("run")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("LWM2M_GATEWAY__ADMIN__ENABLE", "false")
        .env("LWM2M_GATEWAY__LISTENERS__UDP__DEFAULT__BIND", udp.to_string())
        .env("LWM2M_GATEWAY__CONSOLE__SOCKET", console(udp))
        .envs(UNLIMITED)
        .env("LWM2M_GATEWAY_LOG", "warn")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}
