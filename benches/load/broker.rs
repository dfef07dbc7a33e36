//! The embedded broker in a process of its own: it outlives the server, and has file descriptors of its own.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};

use anyhow::Context;
use lwm2m_gateway::embedded::{self, Settings};
use lwm2m_gateway::observability::logging::{self, LogFormat, LogSettings};

/// Killed when it is dropped.
pub struct Broker {
    child: Child,
    pub mqtt: SocketAddr,
    pub listener: SocketAddr,
    pub adapter: SocketAddr,
    pub handler: SocketAddr,
}

impl Broker {
    /// Starts this program once more, as a broker.
    pub fn start() -> anyhow::Result<Self> {
        let handler = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--broker", &handler.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting the broker")?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("its output")?).read_line(&mut line)?;
        let addresses: Vec<SocketAddr> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        let [mqtt, listener, adapter] = addresses[..] else { anyhow::bail!("the broker says {line:?}") };
        Ok(Self { child, mqtt, listener, adapter, handler })
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let ended = self.child.kill().and_then(|()| self.child.wait());
        if let Err(error) = ended {
            eprintln!("load: the broker with process id {} may still run: {error}", self.child.id());
        }
    }
}

/// The other process: says where it is, and serves until it is killed.
pub async fn serve(handler: SocketAddr) -> anyhow::Result<()> {
    let filter = logging::filter("warn").map_err(|error| anyhow::anyhow!("{error}"))?;
    logging::start(&LogSettings { filter, format: LogFormat::Text })?;
    rlimit::increase_nofile_limit(u64::MAX).context("the limit of file descriptors")?;
    let broker = embedded::Broker::start(Settings::on_free_ports(format!("http://{handler}"))).await?;
    let addresses = broker.addresses();
    println!("{} {} {}", addresses.mqtt, addresses.listener, addresses.adapter);
    std::future::pending().await
}
