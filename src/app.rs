//! Assembles the program from its configuration, runs it and shuts it down.

mod driver_thread;
mod dtls;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::admin::{self, AdminSources};
use crate::conditions::{Condition, ConditionState, Conditions};
use crate::config::Config;
#[cfg(feature = "console")]
use crate::console::tokens::{NewToken, Role};
#[cfg(feature = "console")]
use crate::console::{Console, ConsoleSources, RunningConsole};
use crate::definitions::{self, Definitions};
use crate::descriptors::{Descriptors, DeviceCapacity};
use crate::driver::{self, Driver, control};
use crate::observability::failures::FailureLog;
use crate::observability::logging::LogFormat;
use crate::observability::metrics::Metrics;
use crate::reload::{ReloadableDefinitions, ReloadableSettings, Reloading};
use crate::service::{self, Watchdog};
#[cfg(feature = "embedded")]
use crate::simulation::SimulatedDevices;
use crate::store::{OpenedStore, Store, StoreContents};
use crate::transport::{Security, UdpListener, UdpSockets};
use crate::upstream::{self, UpstreamLink};
use lwm2m_base::secret::Secret;
use lwm2m_core::gateway::Gateway;
use lwm2m_core::lwm2m::model::{BrokenFile, Model};

use driver_thread::DriverThread;
use dtls::DtlsSetup;

/// The running program.
pub struct App {
    addresses: BoundAddresses,
    stop: oneshot::Sender<()>,
    driver: JoinHandle<()>,
    _driver_thread: DriverThread,
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
pub struct Trial {
    /// Number of simulated devices beside the embedded broker.
    pub simulated: u16,
}

/// The addresses at which the program listens.
#[derive(Clone, Debug)]
pub struct BoundAddresses {
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

/// Serves until Ctrl-C or SIGTERM. A second one ends the program at once, and is an error. A trial has an embedded broker
/// and a console.
pub async fn run(config: Config, trial: Option<Trial>) -> anyhow::Result<()> {
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
        LogFormat::Json => app.addresses().log(),
    }
    service::ready();
    let reloading = app.reloading.take().map(|reloading| tokio::spawn(reloading.run(hangup)));
    tokio::select! {
        _ = interrupt.recv() => info!("SIGINT received, shutting down"),
        _ = terminate.recv() => info!("SIGTERM received, shutting down"),
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

/// Builds the program and starts it. With `embedded` the broker runs in this process.
pub async fn start(config: Config, embedded: bool) -> anyhow::Result<App> {
    let unix_time = driver::unix_time()?;
    let (conditions, metrics) = (Conditions::default(), Arc::new(Metrics::default()));
    let secured = DtlsSetup::prepare(&config, &conditions, &metrics)?;
    log_start(&config, secured.as_ref());
    let room = raise_descriptor_limit(&config, embedded, &conditions);
    config.warnings.iter().for_each(|warning| warn!("{warning}"));
    let (model, broken) = load_definitions(&config, &metrics)?;
    let objects = model.objects().count();
    let (announced, _) = watch::channel(Arc::new(model));

    #[cfg(feature = "embedded")]
    let (config, broker) = if embedded { with_broker(config).await? } else { (config, None) };
    #[cfg(not(feature = "embedded"))]
    if embedded {
        return Err(anyhow!("this program was built without the embedded broker (the Cargo feature `embedded`)"));
    }

    let driver_thread = DriverThread::start().context("the thread of the driver")?;
    let sockets = {
        let _registered_there = driver_thread.runtime().enter();
        bind_sockets(&config.listeners, &conditions.add("sockets"))?
    };
    let store = open_store(&config, embedded, unix_time, &metrics)?;
    let link = UpstreamLink::start(config.upstream.clone(), Arc::clone(&metrics.upstream), conditions.add("broker"));
    let link = driver_thread.runtime().spawn(link).await.context("the start of the upstream")??;
    let link = link.with_tls_on(Handle::current());
    let listener = admin_listener(&config.admin, embedded).await?;
    let (udp, dtls) = bound_addresses(&config.listeners, &sockets)?;
    let (control, requests) = control::control();
    let sources = AdminSources::new(Arc::clone(&metrics), conditions.clone(), control.clone());
    let failures: Arc<FailureLog> = Arc::default();
    #[cfg(feature = "console")]
    let listening = [udp.as_slice(), &dtls].concat();
    #[cfg(feature = "console")]
    let console = bind_console(&config, &sources, &failures, &announced, listening).await?;
    let addresses = BoundAddresses {
        udp,
        dtls,
        dtls_off: secured.as_ref().and_then(DtlsSetup::problem).map(str::to_owned),
        #[cfg(feature = "embedded")]
        mqtt: broker.as_ref().map(|broker| broker.addresses().mqtt),
        #[cfg(not(feature = "embedded"))]
        mqtt: None,
        upstream: config.upstream.clone(),
        objects,
        admin: listener.as_ref().map(TcpListener::local_addr).transpose()?,
        #[cfg(feature = "console")]
        console: console_url(console.as_ref())?,
        #[cfg(not(feature = "console"))]
        console: None,
        #[cfg(feature = "console")]
        trial_token: config.console.trial_token.clone(),
        #[cfg(not(feature = "console"))]
        trial_token: None,
        simulated: 0,
    };
    let now = driver::monotonic_now();
    let mut settings = config.gateway.clone();
    settings.limits = room.bound(&settings.limits);
    let gateway = Gateway::new(settings, Arc::clone(&announced.borrow()), random_seed()?, now, driver::unix_time()?);
    let (gateway, store) = install_restored_state(gateway, now, secured.as_ref(), store, conditions.add("store"))?;
    let (stop, stopped) = oneshot::channel();
    let stopped = async { stopped.await.unwrap_or_default() };
    let watchdog = Watchdog::from_environment(now).context("the watchdog of the service manager")?;
    let driver = Driver::new(gateway, sockets, link, store, requests, Arc::clone(&metrics))
        .watched_by(watchdog)
        .with_failures(failures)
        .with_keys(secured.as_ref().map(DtlsSetup::keys));
    let driver = driver_thread.runtime().spawn(driver.run(stopped, config.shutdown_timeout));
    let serving = conditions.add("serving");
    serving.set(ConditionState::Up, "devices are served");
    let settings = ReloadableSettings::new(&config, room);
    let definitions = ReloadableDefinitions::new(&broken, Arc::clone(&metrics), announced);
    let credentials = secured.and_then(DtlsSetup::reloadable);
    let reloading = Reloading::new(config, settings, definitions, credentials, control, metrics);
    let admin = listener.map(|listener| tokio::spawn(admin::serve(listener, sources)));
    Ok(App {
        addresses,
        stop,
        driver,
        _driver_thread: driver_thread,
        serving,
        admin,
        #[cfg(feature = "console")]
        console: console.map(Console::start),
        reloading: Some(reloading),
        #[cfg(feature = "embedded")]
        broker,
        #[cfg(feature = "embedded")]
        simulated: None,
    })
}

impl App {
    pub fn addresses(&self) -> &BoundAddresses {
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

    /// Stops accepting registrations, waits for the answers to commands in flight, publishes what is queued, and shuts
    /// down.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.serving.set(ConditionState::Down, "the program is about to end");
        #[cfg(feature = "embedded")]
        drop(self.simulated);
        // The result of the driver, below, says why it ended.
        if self.stop.send(()).is_err() {
            warn!("the event loop ended before the shutdown");
        }
        self.driver.await.map_err(|error| anyhow!("the event loop failed: {error}"))?;
        if let Some(admin) = self.admin {
            admin.abort();
        }
        #[cfg(feature = "console")]
        drop(self.console);
        #[cfg(feature = "embedded")]
        drop(self.broker);
        Ok(())
    }
}

/// Reads the object definitions, and logs the files that were rejected.
fn load_definitions(config: &Config, metrics: &Metrics) -> anyhow::Result<(Model, Vec<BrokenFile>)> {
    let Definitions { model, broken, warnings, .. } = definitions::read(&config.xml_dir)
        .with_context(|| format!("xml_dir: cannot read the folder {}", config.xml_dir.display()))?;
    for BrokenFile { file, reason } in &broken {
        warn!(file, reason, "object definition rejected");
    }
    warnings.iter().for_each(|warning| warn!("{warning}"));
    metrics.reload.definitions.set(model.objects().count() as i64);
    Ok((model, broken))
}

/// Opens the store; `None` if it is disabled, as it is by default beside an embedded broker.
fn open_store(
    config: &Config,
    embedded: bool,
    unix_time: Duration,
    metrics: &Arc<Metrics>,
) -> anyhow::Result<Option<(OpenedStore, StoreContents)>> {
    if !config.store.enable.unwrap_or(!embedded) {
        return Ok(None);
    }
    let (settings, listeners) = (&config.store, &config.listeners);
    Ok(Some(Store::open(settings, listeners, unix_time, Arc::clone(metrics))?))
}

/// Gives the gateway its DTLS layer and the stored devices, and starts the store.
fn install_restored_state(
    mut gateway: Gateway,
    now: Instant,
    secured: Option<&DtlsSetup>,
    store: Option<(OpenedStore, StoreContents)>,
    condition: Condition,
) -> anyhow::Result<(Gateway, Option<Store>)> {
    let (store, StoreContents { devices, associations, retained_commands, profiles }) = match store {
        Some((store, contents)) => (Some(store), contents),
        None => (None, StoreContents::default()),
    };
    if let Some(secured) = secured {
        gateway = secured.join(gateway, now, random_seed()?, store.as_ref().map(|store| (store, associations)));
    }
    let Some(store) = store else {
        condition.set(ConditionState::Off, "there is none (store.enable): a restart forgets the devices");
        return Ok((gateway, None));
    };
    gateway.restore(now, devices);
    gateway.restore_retained_commands(retained_commands);
    gateway.restore_profiles(profiles);
    Ok((gateway, Some(store.start(condition)?)))
}

impl BoundAddresses {
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
        if let Some(console) = &self.console {
            let token = self.trial_token.as_ref().map(|token| format!("#token={}", token.reveal()));
            writeln!(f, "  console                          {console}{}", token.unwrap_or_default())?;
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

/// Returns the addresses of the plain UDP listeners and of the DTLS listeners.
fn bound_addresses(
    listeners: &[UdpListener],
    sockets: &UdpSockets,
) -> std::io::Result<(Vec<SocketAddr>, Vec<SocketAddr>)> {
    let mut addresses = sockets.local_addresses()?;
    let plain = listeners.iter().filter(|listener| listener.security == Security::None).count();
    let secured = addresses.split_off(plain);
    Ok((addresses, secured))
}

fn bind_sockets(listeners: &[UdpListener], condition: &Condition) -> anyhow::Result<UdpSockets> {
    let sockets = UdpSockets::bind(listeners)?;
    let addresses = sockets.local_addresses()?;
    let addresses: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
    condition.set(ConditionState::Up, addresses.join(", "));
    Ok(sockets)
}

async fn admin_listener(settings: &admin::AdminConfig, embedded: bool) -> anyhow::Result<Option<TcpListener>> {
    if !settings.enable.unwrap_or(!embedded) {
        return Ok(None);
    }
    let listener = TcpListener::bind(settings.bind).await;
    let listener =
        listener.with_context(|| format!("admin.bind = {} (`admin.enable = false` needs none)", settings.bind))?;
    Ok(Some(listener))
}

#[cfg(feature = "console")]
async fn bind_console(
    config: &Config,
    sources: &AdminSources,
    failures: &Arc<FailureLog>,
    announced: &watch::Sender<Arc<Model>>,
    sockets: Vec<SocketAddr>,
) -> anyhow::Result<Option<Console>> {
    let upstream = match &config.upstream {
        upstream::UpstreamConfig::ExProto(_) => "exproto",
        upstream::UpstreamConfig::Mqtt(_) => "mqtt",
    };
    let (admin, failures) = (sources.clone(), Arc::clone(failures));
    let sources = ConsoleSources { admin, model: announced.subscribe(), failures, upstream, sockets };
    Ok(Console::bind(&config.console, sources).await?)
}

#[cfg(feature = "console")]
fn console_url(console: Option<&Console>) -> std::io::Result<Option<String>> {
    let address = console.map(Console::address).transpose()?.flatten();
    Ok(address.map(|(address, tls)| format!("{}://{address}/", if tls { "https" } else { "http" })))
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

#[cfg(feature = "embedded")]
async fn with_broker(config: Config) -> anyhow::Result<(Config, Option<lwm2m_broker::EmbeddedBroker>)> {
    let mut config = config;
    if let upstream::UpstreamConfig::ExProto(exproto) = &mut config.upstream
        && exproto.handler_bind.port() == 0
    {
        exproto.handler_bind = free_address(exproto.handler_bind)?;
        config.embedded.handler = format!("http://{}", exproto.handler_bind);
    }
    if let upstream::UpstreamConfig::Mqtt(_) = config.upstream {
        config.embedded.devices = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    }
    let broker = lwm2m_broker::EmbeddedBroker::start(config.embedded.clone()).await.context("the embedded broker")?;
    let addresses = broker.addresses();
    match &mut config.upstream {
        upstream::UpstreamConfig::ExProto(exproto) => {
            let adapter = format!("http://{}", addresses.adapter);
            exproto.nodes = vec![upstream::exproto::Node { listeners: vec![addresses.listener.to_string()], adapter }];
        }
        upstream::UpstreamConfig::Mqtt(mqtt) => {
            mqtt.brokers = addresses.devices.iter().map(SocketAddr::to_string).collect();
        }
    }
    Ok((config, Some(broker)))
}

/// Returns an address with a free port: the embedded broker needs the handler's address before the handler is bound.
#[cfg(feature = "embedded")]
fn free_address(near: SocketAddr) -> std::io::Result<SocketAddr> {
    std::net::TcpListener::bind(near)?.local_addr()
}

/// Logs the version, the configuration file and the listeners.
fn log_start(config: &Config, secured: Option<&DtlsSetup>) {
    let version = env!("CARGO_PKG_VERSION");
    let file = config.file.as_ref().map_or("none, all defaults".into(), |file| file.display().to_string());
    let off = secured.and_then(DtlsSetup::problem).map_or("", |_| " (off)");
    let listener = |listener: &UdpListener| match listener.security {
        Security::None => format!("udp {}", listener.bind),
        Security::Dtls => format!("dtls {}{off}", listener.bind),
    };
    let listeners: Vec<String> = config.listeners.iter().map(listener).collect();
    info!(version, configuration = file, listeners = listeners.join(", "), "lwm2m-gateway starts");
    if let Some(secured) = secured {
        secured.tell();
    }
}

/// Raises the limit of open files and returns how many devices it allows: each device needs one connection to the
/// broker.
fn raise_descriptor_limit(config: &Config, embedded: bool, conditions: &Conditions) -> DeviceCapacity {
    let descriptors = Descriptors::raise().unwrap_or_else(|error| {
        warn!(%error, "the limit of open files could not be raised");
        Descriptors::of_process()
    });
    let room = DeviceCapacity { descriptors, embedded };
    let (limit, devices, configured) = (descriptors.limit, room.devices(), config.gateway.limits.devices);
    if devices < configured {
        warn!(
            open_files = limit,
            devices,
            limits.devices = configured,
            "the limit of open files allows fewer devices than limits.devices: raise it (LimitNOFILE, ulimit -n)"
        );
    } else {
        info!(open_files = limit, devices = configured, "room for all devices");
    }
    let detail = format!("{limit} open files are allowed: room for {devices} devices");
    conditions.add("descriptors").set(ConditionState::Up, detail);
    room
}

fn random_seed() -> anyhow::Result<[u8; 32]> {
    let mut seed = [0; 32];
    rand::TryRng::try_fill_bytes(&mut rand::rngs::SysRng, &mut seed).context("the system's randomness")?;
    Ok(seed)
}
