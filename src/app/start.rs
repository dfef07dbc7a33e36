//! Builds the program from its configuration, step by step.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
#[cfg(feature = "embedded")]
use lwm2m_broker::EmbeddedBroker;
#[cfg(not(feature = "embedded"))]
use std::convert::Infallible as EmbeddedBroker;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

use crate::admin::{self, AdminSources};
use crate::bootstrap::LoadedAccounts;
use crate::conditions::{Condition, ConditionState, Conditions};
use crate::config::Config;
#[cfg(feature = "console")]
use crate::console::{Console, ConsoleSources};
use crate::definitions::{self, Definitions};
use crate::descriptors::{Descriptors, DeviceCapacity};
use crate::driver::control::{self, Control, DriverRequest};
use crate::driver::{self, Driver};
use crate::firmware::ImageReader;
use crate::observability::failures::FailureLog;
use crate::observability::metrics::{Metrics, ReloadPart};
use crate::reload::status::ReloadStatus;
use crate::reload::{ReloadableAccounts, ReloadableDefinitions, ReloadableSettings, Reloading};
use crate::runtime_thread::{Priority, RuntimeThread};
use crate::service::Watchdog;
use crate::store::{Confirm, OpenedStore, Store, StoreConfig, StoreContents};
use crate::transport::{Security, UdpListener, UdpSockets};
#[cfg(feature = "embedded")]
use crate::upstream;
use crate::upstream::UpstreamLink;
use lwm2m_core::gateway::Gateway;
use lwm2m_core::lwm2m::model::{BrokenFile, Model};
use lwm2m_dtls::WriteTerms;

use super::dtls::DtlsSetup;
use super::{App, BoundAddresses, random_seed};

/// Builds the program and starts it. With `embedded` the broker runs in this process.
pub async fn start(config: Config, embedded: bool) -> anyhow::Result<App> {
    let unix_time = driver::unix_time()?;
    let prepared = prepare(&config, embedded)?;
    let (config, broker) = begin_broker(config, embedded).await?;
    let parts = driver_parts(&config, embedded, unix_time, &prepared).await?;
    let listeners = listen(&config, embedded, &prepared, &parts).await?;
    let addresses = bound_addresses(&config, &prepared, &parts.sockets, &listeners, broker.as_ref())?;
    let control = parts.control.clone();
    let RunningDriver { thread, task, stop } = start_driver(&config, &prepared, parts)?;
    let Prepared { conditions, metrics, secured, room, reloads, announced, accounts } = prepared;
    let serving = conditions.add("serving");
    serving.set(ConditionState::Up, "devices are served");
    let settings = ReloadableSettings::new(&config, room);
    let accounts = accounts.map(|PreparedAccounts { loaded, condition }| {
        ReloadableAccounts::new(&config.bootstrap, loaded.as_ref(), announced.subscribe(), condition)
    });
    let definitions = ReloadableDefinitions::new(reloads, Arc::clone(&metrics), announced);
    let credentials = secured.and_then(DtlsSetup::reloadable);
    let reloading = Reloading::new(config, settings, definitions, (credentials, accounts), control, metrics);
    let Listeners { admin, sources, .. } = listeners;
    Ok(App {
        addresses,
        stop,
        driver: task,
        _driver_thread: thread,
        serving,
        admin: admin.map(|listener| tokio::spawn(admin::serve(listener, sources))),
        #[cfg(feature = "console")]
        console: listeners.console.map(Console::start).transpose().context("the thread of the console")?,
        reloading: Some(reloading),
        #[cfg(feature = "embedded")]
        broker,
        #[cfg(feature = "embedded")]
        simulated: None,
    })
}

/// Holds what is known before the program listens anywhere.
struct Prepared {
    conditions: Conditions,
    metrics: Arc<Metrics>,
    secured: Option<DtlsSetup>,
    room: DeviceCapacity,
    reloads: ReloadStatus,
    announced: watch::Sender<Arc<Model>>,
    /// The accounts of the bootstrap server; `None` if it is off.
    accounts: Option<PreparedAccounts>,
}

/// The accounts of the bootstrap server with its condition; `None` instead of accounts that cannot be loaded.
struct PreparedAccounts {
    loaded: Option<LoadedAccounts>,
    condition: Condition,
}

/// Holds what the driver is made of.
struct DriverParts {
    thread: RuntimeThread,
    sockets: UdpSockets,
    link: UpstreamLink,
    store: Option<(OpenedStore, StoreContents)>,
    control: Control,
    requests: mpsc::Receiver<DriverRequest>,
    failures: Arc<FailureLog>,
}

/// Holds the listeners for people and programs, which serve nobody yet.
struct Listeners {
    admin: Option<TcpListener>,
    sources: AdminSources,
    #[cfg(feature = "console")]
    console: Option<Console>,
}

struct RunningDriver {
    thread: RuntimeThread,
    task: JoinHandle<()>,
    stop: oneshot::Sender<()>,
}

/// Reads the credentials and the object definitions, and makes room for the devices.
fn prepare(config: &Config, embedded: bool) -> anyhow::Result<Prepared> {
    let (conditions, metrics) = (Conditions::default(), Arc::new(Metrics::default()));
    let secured = DtlsSetup::prepare(config, &conditions, &metrics)?;
    log_start(config, secured.as_ref());
    let room = raise_descriptor_limit(config, embedded, &conditions);
    config.warnings.iter().for_each(|warning| warn!("{warning}"));
    let (model, broken) = load_definitions(config, &metrics)?;
    let accounts = config.bootstrap.is_enabled.then(|| prepare_accounts(config, &model, &conditions, &metrics));
    let (announced, _) = watch::channel(Arc::new(model));
    let reloads = ReloadStatus::default();
    reloads.set_broken(broken);
    Ok(Prepared { conditions, metrics, secured, room, reloads, announced, accounts })
}

/// Loads the accounts of the bootstrap server. Without valid ones it rejects all devices until the file is valid.
fn prepare_accounts(config: &Config, model: &Model, conditions: &Conditions, metrics: &Metrics) -> PreparedAccounts {
    let condition = conditions.add("bootstrap");
    let loaded = match config.bootstrap.load_accounts(model) {
        Ok(loaded) => {
            condition.set(ConditionState::Up, "accounts are served");
            Some(loaded)
        }
        Err(problem) => {
            let problem = problem.to_string();
            metrics.reload.failed(ReloadPart::Accounts);
            error!(problem, "bootstrap rejects all devices: its accounts are missing or invalid");
            condition.set(ConditionState::Off, problem);
            None
        }
    };
    PreparedAccounts { loaded, condition }
}

/// Starts the embedded broker, if there is to be one, and points the configuration at it.
#[cfg(feature = "embedded")]
async fn begin_broker(mut config: Config, embedded: bool) -> anyhow::Result<(Config, Option<EmbeddedBroker>)> {
    if !embedded {
        return Ok((config, None));
    }
    if let upstream::UpstreamConfig::ExProto(exproto) = &mut config.upstream
        && exproto.handler_bind.port() == 0
    {
        exproto.handler_bind = free_address(exproto.handler_bind)?;
        config.embedded.handler = format!("http://{}", exproto.handler_bind);
    }
    if let upstream::UpstreamConfig::Mqtt(_) = config.upstream {
        config.embedded.devices = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    }
    let broker = EmbeddedBroker::start(config.embedded.clone()).await.context("the embedded broker")?;
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

#[cfg(not(feature = "embedded"))]
async fn begin_broker(config: Config, embedded: bool) -> anyhow::Result<(Config, Option<EmbeddedBroker>)> {
    if embedded {
        return Err(anyhow::anyhow!(
            "this program was built without the embedded broker (the Cargo feature `embedded`)"
        ));
    }
    Ok((config, None))
}

/// Binds the devices' sockets, opens the store and starts the upstream.
async fn driver_parts(
    config: &Config,
    embedded: bool,
    unix_time: Duration,
    Prepared { conditions, metrics, .. }: &Prepared,
) -> anyhow::Result<DriverParts> {
    let thread = RuntimeThread::start("driver", Priority::Normal).context("the thread of the driver")?;
    let sockets = {
        let _registered_there = thread.runtime().enter();
        bind_sockets(&config.listeners, &conditions.add("sockets"))?
    };
    let store = open_store(config, embedded, unix_time, metrics)?;
    let link = UpstreamLink::start(config.upstream.clone(), Arc::clone(&metrics.upstream), conditions.add("broker"));
    let link = thread.runtime().spawn(link).await.context("the start of the upstream")??;
    let link = link.with_tls_on(Handle::current());
    let (control, requests) = control::control();
    Ok(DriverParts { thread, sockets, link, store, control, requests, failures: Arc::default() })
}

/// Binds the admin listener and the console.
async fn listen(
    config: &Config,
    embedded: bool,
    prepared: &Prepared,
    parts: &DriverParts,
) -> anyhow::Result<Listeners> {
    let admin = admin_listener(&config.admin, embedded).await?;
    let Prepared { conditions, metrics, .. } = prepared;
    let sources = AdminSources::new(Arc::clone(metrics), conditions.clone(), parts.control.clone());
    #[cfg(feature = "console")]
    let console = bind_console(config, &sources, prepared, parts).await?;
    Ok(Listeners {
        admin,
        sources,
        #[cfg(feature = "console")]
        console,
    })
}

/// Makes the gateway, with the devices of the store, and runs it on its thread.
fn start_driver(config: &Config, prepared: &Prepared, parts: DriverParts) -> anyhow::Result<RunningDriver> {
    let DriverParts { thread, sockets, link, store, requests, failures, .. } = parts;
    let Prepared { conditions, metrics, secured, room, announced, accounts, .. } = prepared;
    let (now, unix_time) = (driver::monotonic_now(), driver::unix_time()?);
    let mut settings = config.gateway.clone();
    settings.limits = room.bound(&settings.limits);
    let mut gateway = Gateway::new(settings, Arc::clone(&announced.borrow()), random_seed()?, now, unix_time);
    if let Some(PreparedAccounts { loaded: Some(loaded), .. }) = accounts {
        gateway.set_bootstrap_accounts(now, loaded.accounts.clone());
    }
    let store = (&config.store, store);
    let (gateway, store) =
        install_restored_state(gateway, (now, unix_time), secured.as_ref(), store, conditions.add("store"))?;
    let (stop, stopped) = oneshot::channel();
    let stopped = async { stopped.await.unwrap_or_default() };
    let images = ImageReader::start(config.images.clone(), Arc::clone(metrics));
    let images = images.context("the threads that read firmware images")?;
    let watchdog = Watchdog::from_environment(now).context("the watchdog of the service manager")?;
    let driver = Driver::new(gateway, sockets, link, store, requests, Arc::clone(metrics))
        .watched_by(watchdog)
        .with_failures(failures)
        .with_images(images)
        .with_keys(secured.as_ref().map(DtlsSetup::keys));
    let task = thread.runtime().spawn(driver.run(stopped, config.shutdown_timeout));
    Ok(RunningDriver { thread, task, stop })
}

/// Returns where the program listens.
fn bound_addresses(
    config: &Config,
    prepared: &Prepared,
    sockets: &UdpSockets,
    listeners: &Listeners,
    broker: Option<&EmbeddedBroker>,
) -> std::io::Result<BoundAddresses> {
    let (udp, dtls) = device_addresses(&config.listeners, sockets)?;
    Ok(BoundAddresses {
        udp,
        dtls,
        dtls_off: prepared.secured.as_ref().and_then(DtlsSetup::problem).map(str::to_owned),
        #[cfg(feature = "embedded")]
        mqtt: broker.map(|broker| broker.addresses().mqtt),
        #[cfg(not(feature = "embedded"))]
        mqtt: broker.map(|broker| match *broker {}),
        upstream: config.upstream.clone(),
        objects: prepared.announced.borrow().objects().count(),
        admin: listeners.admin.as_ref().map(TcpListener::local_addr).transpose()?,
        #[cfg(feature = "console")]
        console: console_url(listeners.console.as_ref())?,
        #[cfg(not(feature = "console"))]
        console: None,
        #[cfg(feature = "console")]
        trial_token: config.console.trial_token.clone(),
        #[cfg(not(feature = "console"))]
        trial_token: None,
        simulated: 0,
    })
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

/// Raises the limit of open files and returns how many devices it allows: each device needs one connection to the
/// broker.
fn raise_descriptor_limit(config: &Config, embedded: bool, conditions: &Conditions) -> DeviceCapacity {
    let descriptors = Descriptors::raise().unwrap_or_else(|error| {
        warn!(%error, "the limit of open files could not be raised");
        Descriptors::of_process()
    });
    // The upstream of benchmarks has no connections.
    #[cfg(feature = "swallow")]
    let descriptors = Descriptors { limit: descriptors.limit.max(u64::from(u32::MAX)) };
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

fn bind_sockets(listeners: &[UdpListener], condition: &Condition) -> anyhow::Result<UdpSockets> {
    let sockets = UdpSockets::bind(listeners)?;
    let addresses = sockets.local_addresses()?;
    let addresses: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
    condition.set(ConditionState::Up, addresses.join(", "));
    Ok(sockets)
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
    (now, unix_time): (Instant, Duration),
    secured: Option<&DtlsSetup>,
    (settings, store): (&StoreConfig, Option<(OpenedStore, StoreContents)>),
    condition: Condition,
) -> anyhow::Result<(Gateway, Option<Store>)> {
    let (store, contents) = match store {
        Some((store, contents)) => (Some(store), contents),
        None => (None, StoreContents::default()),
    };
    let StoreContents {
        term,
        devices,
        associations,
        retained_commands,
        profiles,
        generated_keys,
        awaited_bootstraps,
        firmware_jobs,
        campaigns,
    } = contents;
    // Before the keys of associations are compared with those that are known.
    gateway.restore_generated_keys(generated_keys);
    if let Some(secured) = secured {
        let terms = WriteTerms::new(term, now, unix_time);
        let stored = store.as_ref().map(|store| (store, terms, associations));
        gateway = secured.join(gateway, now, random_seed()?, stored);
    }
    let Some(store) = store else {
        condition.set(ConditionState::Off, "there is none (store.enable): a restart forgets the devices");
        return Ok((gateway, None));
    };
    gateway.restore(now, devices);
    gateway.restore_retained_commands(retained_commands);
    gateway.restore_profiles(profiles);
    gateway.restore_awaited_bootstraps(now, awaited_bootstraps);
    gateway.restore_firmware_jobs(now, firmware_jobs);
    gateway.restore_campaigns(now, campaigns);
    match settings.confirm {
        Confirm::Stored => gateway.tell_when_stored(settings.patience),
        Confirm::Behind => {}
    }
    Ok((gateway, Some(store.start(condition)?)))
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
    prepared: &Prepared,
    parts: &DriverParts,
) -> anyhow::Result<Option<Console>> {
    let upstream = match &config.upstream {
        upstream::UpstreamConfig::ExProto(_) => "exproto",
        upstream::UpstreamConfig::Mqtt(_) => "mqtt",
    };
    let (admin, failures, reloads) = (sources.clone(), Arc::clone(&parts.failures), prepared.reloads.clone());
    let (model, sockets) = (prepared.announced.subscribe(), parts.sockets.local_addresses()?);
    let sources = ConsoleSources { admin, model, failures, reloads, upstream, sockets };
    Ok(Console::bind(&config.console, sources).await?)
}

#[cfg(feature = "console")]
fn console_url(console: Option<&Console>) -> std::io::Result<Option<String>> {
    let address = console.map(Console::address).transpose()?.flatten();
    Ok(address.map(|(address, tls)| format!("{}://{address}/", if tls { "https" } else { "http" })))
}

/// Returns the addresses of the plain UDP listeners and of the DTLS listeners.
fn device_addresses(
    listeners: &[UdpListener],
    sockets: &UdpSockets,
) -> std::io::Result<(Vec<SocketAddr>, Vec<SocketAddr>)> {
    let mut addresses = sockets.local_addresses()?;
    let plain = listeners.iter().filter(|listener| listener.security == Security::None).count();
    let secured = addresses.split_off(plain);
    Ok((addresses, secured))
}

/// Returns an address with a free port: the embedded broker needs the handler's address before the handler is bound.
#[cfg(feature = "embedded")]
fn free_address(near: SocketAddr) -> std::io::Result<SocketAddr> {
    std::net::TcpListener::bind(near)?.local_addr()
}
