//! Assembles the program from its configuration, runs it and shuts it down.

mod cluster;
mod division;
mod drivers;
mod dtls;
mod prepared;
mod start;

use std::fmt;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use anyhow::{Context, anyhow};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::cluster::member::RunningMember;
use crate::conditions::{Condition, ConditionState};
use crate::config::Config;
#[cfg(feature = "console")]
use crate::console::RunningConsole;
#[cfg(feature = "console")]
use crate::console::access::tokens::{NewToken, Role};
use crate::observability::logging::LogFormat;
use crate::process::service;
use crate::reload::Reloading;
#[cfg(feature = "embedded")]
use crate::simulation::SimulatedDevices;
use crate::upstream;
use lwm2m_base::secret::Secret;

use drivers::RunningDriver;
pub(crate) use start::start;

/// The running program.
pub(crate) struct App {
    addresses: BoundAddresses,
    drivers: Vec<RunningDriver>,
    /// The member task of a node of a cluster, and how long it may take to give up its shards.
    member: Option<(RunningMember, Duration)>,
    /// The condition of the program itself: it goes down at the shutdown.
    serving: Condition,
    /// The admin listener, which serves until the driver has ended.
    admin: Option<JoinHandle<()>>,
    /// The console, which serves until the driver has ended.
    #[cfg(feature = "console")]
    console: Option<RunningConsole>,
    /// The reloading of files; `None` once its task has started.
    reloading: Option<Reloading>,
    #[cfg(feature = "embedded")]
    broker: Option<lwm2m_broker::EmbeddedBroker>,
    #[cfg(feature = "embedded")]
    simulated: Option<SimulatedDevices>,
}

/// The surroundings of a trial, which run in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "embedded"), allow(dead_code, reason = "a program without the broker has no trial"))]
pub(crate) struct Trial {
    /// Number of simulated devices beside the embedded broker.
    pub simulated: u16,
}

/// The addresses at which the program listens.
#[derive(Clone, Debug)]
pub(crate) struct BoundAddresses {
    pub udp: Vec<SocketAddr>,
    pub dtls: Vec<SocketAddr>,
    /// The reason why the DTLS listeners accept no handshakes.
    pub dtls_off: Option<String>,
    /// The MQTT listener of the embedded broker.
    pub mqtt: Option<SocketAddr>,
    pub upstream: upstream::UpstreamConfig,
    pub objects: usize,
    /// The listener for metrics and health.
    pub admin: Option<SocketAddr>,
    /// The URL of the console.
    pub console: Option<String>,
    /// The token of the console that the banner shows.
    pub trial_token: Option<Secret>,
    /// Number of simulated devices.
    pub simulated: u16,
}

/// Serves until Ctrl-C, SIGTERM or `parent`, the end of the parent process. A second signal ends the program at once,
/// and is an error. A trial has an embedded broker and a console.
pub(crate) async fn run(
    config: Config,
    trial: Option<Trial>,
    parent: Option<oneshot::Receiver<()>>,
) -> anyhow::Result<()> {
    let embedded = trial.is_some();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    // With the embedded broker, SIGHUP ends the program, as when its terminal is closed; otherwise it reloads the
    // files.
    let hangup = (!embedded).then(|| signal(SignalKind::hangup())).transpose()?;
    let format = config.log.format;
    #[cfg(feature = "console")]
    let config = if embedded { with_trial_token(config)? } else { config };
    let mut app = start(config, embedded).await?;
    #[cfg(feature = "embedded")]
    app.simulate(trial.map_or(0, |trial| trial.simulated)).await?;
    match format {
        LogFormat::Text => println!("{}", app.addresses()),
        // Where both outputs go to one place every line is JSON.
        LogFormat::Json => {
            app.addresses().log();
            app.addresses().trial_link().inspect(|link| println!("{}", json!({ "console": link })));
        }
    }
    service::ready();
    let reloading = app.reloading.take().map(|reloading| tokio::spawn(reloading.run(hangup)));
    tokio::select! {
        _ = interrupt.recv() => info!("SIGINT received, shutting down"),
        _ = terminate.recv() => info!("SIGTERM received, shutting down"),
        () = ended(parent) => info!("the parent process has ended or asked for the end, shutting down"),
        () = app.driver_ended() => return Err(anyhow!("the event loop has ended: the log tells why")),
    }
    if let Some(reloading) = reloading {
        reloading.abort();
    }
    service::stopping();
    tokio::select! {
        stopped = app.stop() => stopped,
        _ = interrupt.recv() => Err(anyhow!("second SIGINT received, stopped at once")),
        _ = terminate.recv() => Err(anyhow!("second SIGTERM received, stopped at once")),
    }
}

/// Waits for the end of the parent process; for ever where there is none to follow.
async fn ended(parent: Option<oneshot::Receiver<()>>) {
    match parent {
        // A thread that failed cannot follow the parent any more.
        Some(parent) => parent.await.unwrap_or_default(),
        None => std::future::pending().await,
    }
}

impl App {
    pub(crate) fn addresses(&self) -> &BoundAddresses {
        &self.addresses
    }

    /// Adds simulated devices to the first plain UDP listener.
    #[cfg(feature = "embedded")]
    async fn simulate(&mut self, count: u16) -> anyhow::Result<()> {
        if count == 0 {
            return Ok(());
        }
        let listener = self.addresses.udp.first().context("simulated devices need a listener without DTLS")?;
        self.simulated = Some(SimulatedDevices::start(*listener, count).await?);
        self.addresses.simulated = count;
        Ok(())
    }

    /// Waits until a driver ends by itself. Then [`App::stop`] may not be called.
    async fn driver_ended(&mut self) {
        poll_fn(|context| {
            let mut tasks = self.drivers.iter_mut().map(|driver| Pin::new(&mut driver.task).poll(context));
            // A driver that failed has ended, too.
            if tasks.any(|task| task.is_ready()) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Stops accepting registrations, waits for the answers to commands in flight, publishes what is queued, and shuts
    /// down.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.serving.set(ConditionState::Down, "the program is about to end");
        #[cfg(feature = "embedded")]
        drop(self.simulated);
        if let Some((member, patience)) = &self.member {
            member.drain(*patience).await;
        }
        // The result of the driver, below, says why it ended.
        let stop = |RunningDriver { task, stop, thread }: RunningDriver| {
            if stop.send(()).is_err() {
                warn!("the event loop ended before the shutdown");
            }
            (task, thread)
        };
        let stopping: Vec<_> = self.drivers.into_iter().map(stop).collect();
        for (task, _thread) in stopping {
            task.await.map_err(|error| anyhow!("the event loop failed: {error}"))?;
        }
        if let Some((member, _)) = self.member {
            member.stop();
        }
        if let Some(admin) = self.admin {
            admin.abort();
        }
        #[cfg(feature = "console")]
        if let Some(console) = self.console {
            console.stop().await;
        }
        #[cfg(feature = "embedded")]
        drop(self.broker);
        Ok(())
    }
}

impl BoundAddresses {
    /// Returns the URL that opens the console with the token of this process; `None` if there is no such token. It is
    /// for the standard output and never for the log.
    fn trial_link(&self) -> Option<String> {
        let (console, token) = self.console.as_ref().zip(self.trial_token.as_ref())?;
        Some(format!("{console}#token={}", token.reveal()))
    }

    /// Logs the addresses in place of the banner, for logs in JSON.
    fn log(&self) {
        let addresses =
            |addresses: &[SocketAddr]| addresses.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(", ");
        let (udp, dtls) = (addresses(&self.udp), addresses(&self.dtls));
        let (dtls_off, objects) = (self.dtls_off.as_deref(), self.objects);
        let admin = self.admin.map(|admin| admin.to_string());
        let console = self.console.as_deref();
        info!(udp, dtls, dtls_off, admin, console, objects, "devices are served");
    }
}

/// Formats the banner: the listeners and the next steps.
impl fmt::Display for BoundAddresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "lwm2m-gateway {}", env!("CARGO_PKG_VERSION"))?;
        for address in &self.udp {
            writeln!(f, "  devices (LwM2M, CoAP over UDP)   {address}")?;
        }
        for address in &self.dtls {
            match &self.dtls_off {
                None => writeln!(f, "  devices (LwM2M, CoAP over DTLS)  {address}")?,
                Some(problem) => writeln!(f, "  devices (LwM2M, CoAP over DTLS)  {address}   OFF: {problem}")?,
            }
        }
        writeln!(f, "  object definitions               {}", self.objects)?;
        if let Some(admin) = self.admin {
            writeln!(f, "  metrics and health               http://{admin}/metrics, /healthz, /readyz")?;
        }
        if let Some(console) = self.trial_link().as_ref().or(self.console.as_ref()) {
            writeln!(f, "  console                          {console}")?;
        }
        match self.mqtt {
            Some(mqtt) => {
                let (host, port) = (mqtt.ip(), mqtt.port());
                writeln!(f, "  applications (MQTT)              {mqtt}   embedded broker, not for production")?;
                if self.simulated > 0 {
                    writeln!(f, "  simulated devices                {}", self.simulated)?;
                }
                writeln!(f)?;
                writeln!(f, "Try it, each in a terminal of its own:")?;
                writeln!(f, "  mosquitto_sub -h {host} -p {port} -t 'lwm2m/#' -v")?;
                let device = self.udp.first().map_or(5683, SocketAddr::port);
                writeln!(f, "  lwm2mclient -n ep1 -h 127.0.0.1 -p {device} -4      (a device: wakaama's client)")?;
                writeln!(
                    f,
                    "  mosquitto_pub -h {host} -p {port} -t lwm2m/ep1/dn -m \
                     '{{\"reqID\":1,\"msgType\":\"discover\",\"data\":{{\"path\":\"/3/0\"}}}}'"
                )?;
                match self.simulated {
                    0 => write!(f, "No device at hand? `--simulate 5` adds simulated devices. Ctrl-C stops."),
                    _ => write!(f, "Ctrl-C stops."),
                }
            }
            None => write_upstream(f, &self.upstream),
        }
    }
}

fn write_upstream(f: &mut fmt::Formatter<'_>, upstream: &upstream::UpstreamConfig) -> fmt::Result {
    match upstream {
        upstream::UpstreamConfig::ExProto(exproto) => {
            for node in &exproto.nodes {
                writeln!(f, "  EMQX, exproto listener           {}", node.listeners.join(", "))?;
                writeln!(f, "  EMQX, ConnectionAdapter          {}", node.adapter)?;
            }
            writeln!(f, "  our ConnectionUnaryHandler       {}", exproto.handler_bind)?;
            write!(f, "In EMQX `emqx ctl gateway list` shows exproto running, with each device as a client.")
        }
        upstream::UpstreamConfig::Mqtt(mqtt) => {
            writeln!(f, "  broker (MQTT)                    {}", mqtt.brokers.join(", "))?;
            write!(f, "Each device is a client of the broker, with the client ID that clientinfo.clientid sets.")
        }
    }
}

/// Adds a random token of an operator, unless the configuration names tokens.
#[cfg(feature = "console")]
fn with_trial_token(mut config: Config) -> anyhow::Result<Config> {
    if config.console.tokens.is_none() {
        let NewToken { token, .. } = NewToken::new(random_seed()?, "trial", Role::Operator, None)?;
        config.console.trial_token = Some(token);
    }
    Ok(config)
}

fn random_seed() -> anyhow::Result<[u8; 32]> {
    let mut seed = [0; 32];
    rand::TryRng::try_fill_bytes(&mut rand::rngs::SysRng, &mut seed).context("the system's randomness")?;
    Ok(seed)
}
