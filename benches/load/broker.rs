//! The embedded broker in a process of its own: it outlives the server, and has file descriptors of its own. It takes
//! orders line by line, and answers each with a line.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;

use anyhow::Context;
use lwm2m_broker::{self as embedded, BrokerConfig, BrokerControl};
use lwm2m_gateway::observability::logging::{self, LogConfig, LogFormat};
use tokio::sync::mpsc;

/// A process, which is killed on drop.
pub(crate) struct BenchBroker {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    pub mqtt: SocketAddr,
    pub devices: SocketAddr,
    pub listener: SocketAddr,
    pub adapter: SocketAddr,
    pub handler: SocketAddr,
}

impl BenchBroker {
    /// Starts this program once more, as a broker.
    pub(crate) fn start() -> anyhow::Result<Self> {
        let handler = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--broker-of", &handler.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting the broker")?;
        let orders = child.stdin.take().context("its input")?;
        let mut answers = BufReader::new(child.stdout.take().context("its output")?);
        let mut line = String::new();
        answers.read_line(&mut line)?;
        let addresses: Vec<SocketAddr> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        let [mqtt, devices, listener, adapter] = addresses[..] else { anyhow::bail!("the broker says {line:?}") };
        Ok(Self { child, orders, answers, mqtt, devices, listener, adapter, handler })
    }

    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    /// Configures the exproto gateway of the server.
    pub(crate) fn exproto(&self) -> [(&'static str, String); 3] {
        exproto(self.listener, self.adapter, self.handler)
    }

    /// Stops its exproto gateway; applications stay connected.
    pub(crate) fn stop_gateway(&mut self) -> anyhow::Result<()> {
        self.order("stop").map(drop)
    }

    pub(crate) fn start_gateway(&mut self) -> anyhow::Result<()> {
        self.order("start").map(drop)
    }

    /// Devices that are its clients now.
    pub(crate) fn clients(&mut self) -> anyhow::Result<usize> {
        Ok(self.order("clients")?.trim().parse()?)
    }

    fn order(&mut self, order: &str) -> anyhow::Result<String> {
        writeln!(self.orders, "{order}")?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        Ok(answer)
    }
}

impl Drop for BenchBroker {
    fn drop(&mut self) {
        let ended = self.child.kill().and_then(|()| self.child.wait());
        if let Err(error) = ended {
            eprintln!("load: the broker with process id {} may still run: {error}", self.child.id());
        }
    }
}

/// Configures the exproto gateway of the server.
pub(crate) fn exproto(listener: SocketAddr, adapter: SocketAddr, handler: SocketAddr) -> [(&'static str, String); 3] {
    [
        ("LWM2M_GATEWAY__UPSTREAM__EXPROTO__LISTENER", listener.to_string()),
        ("LWM2M_GATEWAY__UPSTREAM__EXPROTO__ADAPTER", format!("http://{adapter}")),
        ("LWM2M_GATEWAY__UPSTREAM__EXPROTO__HANDLER_BIND", handler.to_string()),
    ]
}

/// The other process: says where it is, and serves until it is killed or has nobody to serve.
pub(crate) async fn serve(handler: SocketAddr) -> anyhow::Result<()> {
    let filter = logging::filter("warn").map_err(|error| anyhow::anyhow!("{error}"))?;
    logging::start(&LogConfig { filter, format: LogFormat::Text })?;
    rlimit::increase_nofile_limit(u64::MAX).context("the limit of file descriptors")?;
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let config = BrokerConfig { devices: Some(any), ..BrokerConfig::on_free_ports(format!("http://{handler}")) };
    let broker = embedded::EmbeddedBroker::start(config).await?;
    let addresses = broker.addresses();
    let devices = addresses.devices.context("its listener for devices")?;
    println!("{} {devices} {} {}", addresses.mqtt, addresses.listener, addresses.adapter);
    let (sender, mut orders) = mpsc::unbounded_channel();
    thread::spawn(move || std::io::stdin().lines().map_while(Result::ok).try_for_each(|order| sender.send(order)));
    while let Some(order) = orders.recv().await {
        println!("{}", obey(&broker.control(), &order).await?);
    }
    Ok(())
}

async fn obey(control: &BrokerControl, order: &str) -> anyhow::Result<usize> {
    match order {
        "stop" => control.stop().await,
        "start" => control.start().await?,
        _ => {}
    }
    Ok(control.clients().len())
}
