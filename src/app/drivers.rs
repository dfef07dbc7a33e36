//! Starts the drivers: binds the devices' sockets, opens the store, connects the upstream, and restores the devices.

use std::net::SocketAddr;
use std::num::NonZero;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tracing::warn;

use crate::clock::{monotonic_now, unix_time};
use crate::cluster::member::RunningMember;
#[cfg(feature = "console")]
use crate::cluster::status::ClusterHandle;
use crate::conditions::{Condition, ConditionState};
use crate::config::Config;
use crate::driver::Driver;
use crate::driver::control::{self, Control, DriverRequest};
use crate::driver::owners::EndpointOwners;
use crate::driver::shares::ThreadShare;
use crate::driver::threads::DriverThread;
use crate::firmware::ImageReader;
use crate::observability::failures::FailureLog;
use crate::observability::metrics::Metrics;
use crate::process::runtime_thread::{Priority, RuntimeThread};
use crate::process::service::Watchdog;
use crate::store::{Confirm, OpenedStore, Store, StoreContents};
use crate::transport::{Security, UdpListener, UdpSockets};
use crate::upstream::UpstreamLink;
use crate::upstream::seat::LinkSeat;
use lwm2m_base::{ShardSet, ThreadShards};
use lwm2m_core::gateway::Gateway;
use lwm2m_core::gateway::config::GatewayConfig;
use lwm2m_dtls::WriteTerms;
use lwm2m_router::{Claims, Flow};

use super::cluster::ClusterNode;
use super::division::{divided, suspended_campaigns};
use super::prepared::{Prepared, PreparedAccounts};
use super::random_seed;

/// The parts of the drivers.
pub(crate) struct DriverParts {
    threads: Vec<ThreadParts>,
    /// The addresses of the listeners.
    pub addresses: Vec<SocketAddr>,
    store: Option<(OpenedStore, StoreContents)>,
    /// The node of a cluster; `None` for a gateway by itself.
    node: Option<ClusterNode>,
    owners: EndpointOwners,
    pub control: Control,
    pub failures: Arc<FailureLog>,
}

impl DriverParts {
    /// Returns the handle of the cluster for other tasks; `None` for a gateway without a cluster.
    #[cfg(feature = "console")]
    pub(crate) fn cluster(&self) -> Option<ClusterHandle> {
        self.node.as_ref().map(ClusterNode::handle)
    }
}

/// Holds what each driver has of its own.
struct ThreadParts {
    runtime: RuntimeThread,
    sockets: UdpSockets,
    link: UpstreamLink,
    requests: mpsc::Receiver<DriverRequest>,
}

/// A driver that runs on its thread.
pub(crate) struct RunningDriver {
    pub task: JoinHandle<()>,
    pub stop: oneshot::Sender<()>,
    pub thread: RuntimeThread,
}

/// Binds the devices' sockets, opens the store and starts the upstream.
pub(crate) async fn driver_parts(
    config: &Config,
    embedded: bool,
    unix_time: Duration,
    prepared: &Prepared,
) -> anyhow::Result<DriverParts> {
    let share = ThreadShare::of_threads(config.threads);
    let runtimes = start_runtimes(share)?;
    let sockets = bind_sockets(&config.listeners, &runtimes, &prepared.conditions.add("sockets"))?;
    let addresses = sockets[0].local_addresses()?;
    let (store, node) = match &config.cluster {
        Some(cluster) => {
            let (store, node) = ClusterNode::open(config, cluster, unix_time, prepared.metrics()).await?;
            (Some(store), Some(node))
        }
        None => (open_store(config, embedded, unix_time, prepared.metrics()).await?, None),
    };
    let owners = share_names(config, share, prepared);
    let (control, requests) = match share {
        ThreadShare::WHOLE => {
            let (control, requests) = control::control();
            (control, vec![requests])
        }
        _ => control::control_of_threads(share.threads().get(), owners.clone()),
    };
    let mut threads = Vec::with_capacity(runtimes.len());
    let upstream = share.upstream(&config.upstream);
    let handler_runtime = (share != ThreadShare::WHOLE).then(Handle::current);
    let seats = LinkSeat::of_threads(config.threads, &upstream, handler_runtime);
    for ((((runtime, sockets), requests), seat), metrics) in
        runtimes.into_iter().zip(sockets).zip(requests).zip(seats).zip(&prepared.metrics)
    {
        let (metrics, condition) = (Arc::clone(&metrics.upstream), prepared.conditions.add("broker"));
        // If the broker is unavailable, all nodes are without it: a balancer that checks it would have no node left.
        let condition = if config.cluster.is_some() { condition.never_down() } else { condition };
        let link = UpstreamLink::start_at(upstream.clone(), seat, metrics, condition);
        let link = runtime.runtime().spawn(link).await.context("the start of the upstream")??;
        threads.push(ThreadParts { runtime, sockets, link: link.with_tls_on(Handle::current()), requests });
    }
    Ok(DriverParts { threads, addresses, store, node, owners, control, failures: Arc::default() })
}

/// Makes the gateways, with the devices of the store, and runs each of them on its thread. A node of a cluster begins
/// without devices; its member task runs, too.
pub(crate) fn start_drivers(
    config: &Config,
    prepared: &Prepared,
    parts: DriverParts,
) -> anyhow::Result<(Vec<RunningDriver>, Option<RunningMember>)> {
    let DriverParts { threads, store, node, owners, failures, .. } = parts;
    let (now, unix_time) = (monotonic_now(), unix_time()?);
    let (opened, contents) = store.unzip();
    let contents = contents.unwrap_or_default();
    warn_of_suspended_campaigns(&contents, config.threads);
    let contents = divided(contents, config.threads);
    let start = GatewayStart { config, prepared, now, unix_time, store: opened.as_ref() };
    let gateways = (0..).zip(contents).map(|(thread, contents)| start.gateway(thread, contents));
    let gateways = gateways.collect::<anyhow::Result<Vec<_>>>()?;
    let stores = start_store(opened, threads.len(), prepared.conditions.add("store"))?;
    let neighbours = introduce(config, &owners, &gateways);
    let watchdog = Watchdog::from_environment(now).context("the watchdog of the service manager")?;
    let watchdogs: Vec<_> =
        (1..config.threads.get()).map(|thread| watchdog.as_ref().map(|one| one.of_thread(thread))).collect();
    let watchdogs = std::iter::once(watchdog).chain(watchdogs);
    let (member, seat) = node
        .zip(config.cluster.as_ref())
        .map(|(node, cluster)| node.start((config, cluster), first_dtls_socket(config), prepared))
        .unzip();
    let mut seat = seat;
    let with_gateways = threads.into_iter().zip(gateways).zip(stores).zip(neighbours).zip(watchdogs);
    let mut running = Vec::new();
    for (((((parts, gateway), store), neighbour), watchdog), metrics) in with_gateways.zip(&prepared.metrics) {
        let ThreadParts { runtime, sockets, link, requests } = parts;
        let images = ImageReader::start(config.images.clone(), Arc::clone(metrics));
        let images = images.context("the threads that read firmware images")?;
        let share = ThreadShare::of_threads(config.threads);
        let driver = Driver::new(gateway, sockets, link, store, requests, Arc::clone(metrics))
            .beside(neighbour)
            .in_cluster(seat.take())
            .watched_by(watchdog)
            .with_failures(Arc::clone(&failures))
            .with_images(images)
            .with_keys(prepared.secured.as_ref().map(|secured| secured.keys(share, metrics)));
        // A node of a cluster gives its shards up in the first half of the time.
        let patience = config.shutdown_timeout / if member.is_some() { 2 } else { 1 };
        let (stop, stopped) = oneshot::channel();
        let stopped = async { stopped.await.unwrap_or_default() };
        let task = runtime.runtime().spawn(driver.run(stopped, patience));
        running.push(RunningDriver { task, stop, thread: runtime });
    }
    Ok((running, member))
}

fn warn_of_suspended_campaigns(contents: &StoreContents, threads: NonZero<u8>) {
    let suspended = suspended_campaigns(contents, threads);
    if !suspended.is_empty() {
        warn!(
            campaigns = suspended.into_iter().collect::<Vec<_>>().join(", "),
            "firmware campaigns are suspended while driver.threads is more than 1: they stay in the store, and a start \
             with one thread resumes them"
        );
    }
}

fn start_runtimes(share: ThreadShare) -> anyhow::Result<Vec<RuntimeThread>> {
    let name = |thread: u8| match share {
        ThreadShare::WHOLE => "driver".to_owned(),
        _ => format!("driver-{thread}"),
    };
    let start = |thread| RuntimeThread::start(&name(thread), Priority::Normal).context("the thread of a driver");
    (0..share.threads().get()).map(start).collect()
}

/// Makes the table of endpoint names, which only several threads need.
fn share_names(config: &Config, share: ThreadShare, prepared: &Prepared) -> EndpointOwners {
    let most = prepared.room.bound(&config.gateway.limits).devices;
    let shards = ThreadShards::new(0, share.threads().get()).filter(|_| share != ThreadShare::WHOLE);
    shards.map_or_else(EndpointOwners::default, |shards| EndpointOwners::new(Claims::new(shards, most)))
}

/// Binds the sockets of all threads.
fn bind_sockets(
    listeners: &[UdpListener],
    runtimes: &[RuntimeThread],
    condition: &Condition,
) -> anyhow::Result<Vec<UdpSockets>> {
    let mut bound: Vec<UdpSockets> = Vec::with_capacity(runtimes.len());
    for runtime in runtimes {
        let _registered_there = runtime.runtime().enter();
        let sockets = match bound.first() {
            Some(first) => first.bind_beside(listeners)?,
            None => UdpSockets::bind(listeners)?,
        };
        bound.push(sockets);
    }
    let addresses = bound[0].local_addresses()?;
    let addresses: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
    condition.set(ConditionState::Up, addresses.join(", "));
    Ok(bound)
}

/// Opens the store; `None` if it is disabled, as it is by default beside an embedded broker.
async fn open_store(
    config: &Config,
    embedded: bool,
    unix_time: Duration,
    metrics: &Arc<Metrics>,
) -> anyhow::Result<Option<(OpenedStore, StoreContents)>> {
    if !config.store.enable.unwrap_or(!embedded) {
        return Ok(None);
    }
    let (store, listeners) = (&config.store, &config.listeners);
    Ok(Some(OpenedStore::open(store, listeners, unix_time, Arc::clone(metrics)).await?))
}

/// Starts the store, and returns the end of each driver.
fn start_store(
    opened: Option<OpenedStore>,
    drivers: usize,
    condition: Condition,
) -> anyhow::Result<Vec<Option<Store>>> {
    match opened {
        Some(opened) => Ok(opened.start_for(drivers, condition)?.into_iter().map(Some).collect()),
        None => {
            condition.set(ConditionState::Off, "there is none (store.enable): a restart forgets the devices");
            Ok((0..drivers).map(|_| None).collect())
        }
    }
}

/// Tells each thread which devices the others have restored. A single thread has no others.
fn introduce(config: &Config, owners: &EndpointOwners, gateways: &[Gateway]) -> Vec<Option<DriverThread>> {
    if gateways.len() < 2 {
        return vec![None];
    }
    let mut threads = DriverThread::all(config.threads, first_dtls_socket(config), owners);
    for (number, gateway) in (0..).zip(gateways) {
        for (endpoint, location) in gateway.registered_names() {
            owners.place(endpoint, location, number);
        }
        for (socket, address) in gateway.unnamed_addresses() {
            threads.iter_mut().for_each(|thread| thread.restore(Flow { socket, address }, number));
        }
    }
    threads.into_iter().map(Some).collect()
}

/// Returns the number of the first listener that speaks DTLS.
fn first_dtls_socket(config: &Config) -> u16 {
    let plain = config.listeners.iter().filter(|listener| listener.security == Security::None).count();
    u16::try_from(plain).expect("there are fewer listeners than ports")
}

/// The parts of the gateways.
struct GatewayStart<'a> {
    config: &'a Config,
    prepared: &'a Prepared,
    now: Instant,
    unix_time: Duration,
    store: Option<&'a OpenedStore>,
}

impl GatewayStart<'_> {
    /// Returns the configuration of a gateway with this share of the limits.
    fn gateway_config(&self, share: ThreadShare, shards: ThreadShards) -> GatewayConfig {
        let mut gateway_config = self.config.gateway.clone();
        gateway_config.limits = share.limits(&self.prepared.room.bound(&gateway_config.limits));
        gateway_config.coap = share.coap(gateway_config.coap);
        gateway_config.coap.shards = match self.config.cluster {
            Some(_) => ShardSet::EMPTY,
            None => shards.into(),
        };
        gateway_config.coap.tokens_of_device = self.config.cluster.is_some();
        gateway_config
    }

    /// Makes the gateway of a thread, with its DTLS layer and its part of the stored state.
    fn gateway(&self, thread: u8, contents: StoreContents) -> anyhow::Result<Gateway> {
        let Self { config, prepared, now, unix_time, store } = *self;
        let share = ThreadShare::of_threads(config.threads);
        let shards = ThreadShards::new(thread, config.threads.get()).context("the configuration bounds the threads")?;
        let gateway_config = self.gateway_config(share, shards);
        let model = Arc::clone(&prepared.announced.borrow());
        let gateway_shards = gateway_config.coap.shards;
        let mut gateway = Gateway::new(gateway_config, model, random_seed()?, now, unix_time);
        if share != ThreadShare::WHOLE || config.cluster.is_some() {
            gateway.share_endpoints();
        }
        if let Some(PreparedAccounts { loaded: Some(loaded), .. }) = &prepared.accounts {
            gateway.set_bootstrap_accounts(now, loaded.accounts.clone());
        }
        let StoreContents {
            term,
            store_clock,
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
        if let Some(secured) = &prepared.secured {
            let terms = match &config.cluster {
                Some(cluster) => WriteTerms::of_node(cluster.number),
                None => WriteTerms::new(term, now, store_clock.unwrap_or(unix_time)),
            };
            let stored = store.map(|store| (store, terms, associations));
            gateway = secured.join(gateway, (now, random_seed()?), (share, gateway_shards), stored);
        }
        if store.is_none() {
            return Ok(gateway);
        }
        gateway.restore(now, devices);
        gateway.restore_retained_commands(retained_commands);
        gateway.restore_profiles(profiles);
        gateway.restore_awaited_bootstraps(now, awaited_bootstraps);
        gateway.restore_firmware_jobs(now, firmware_jobs);
        gateway.restore_campaigns(now, campaigns);
        if config.store.confirm == Confirm::Stored {
            gateway.tell_when_stored(config.store.patience);
        }
        Ok(gateway)
    }
}
