//! Sets up a node of a cluster: the shared store, the connections to the other nodes, and the member task beside the
//! driver.

#[cfg(feature = "console")]
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::{mpsc, watch};

use crate::cluster::config::ClusterConfig;
use crate::cluster::gate;
use crate::cluster::member::{MemberParts, MemberPeers, RunningMember};
use crate::cluster::peers::{PeerConfig, PeerInput, PeerLink, PeerReceivers};
#[cfg(feature = "console")]
use crate::cluster::status::ClusterHandle;
use crate::cluster::status::ClusterStatus;
use crate::config::Config;
use crate::driver::clustered::ClusterSeat;
use crate::driver::forwarding::Forwarding;
use crate::observability::metrics::Metrics;
use crate::store::redis::shared::{self, EngineChannel, StoreNode};
use crate::store::{OpenedStore, StoreContents};
use crate::transport::UdpListener;
use lwm2m_cluster::{Directory, Incarnation, MemberConfig, NodeNumber, NodeProcess, PeerMessage};
use lwm2m_router::{NodeRouterConfig, Router};

use super::prepared::Prepared;

/// Maximum number of messages of other nodes that wait for the member task.
const MESSAGES: usize = 1_024;
/// Maximum number of datagrams of other nodes that wait for the driver.
const DATAGRAMS: usize = 4_096;

/// A node whose store is open, before its driver has started.
pub(crate) struct ClusterNode {
    member: MemberConfig,
    name: String,
    engine: EngineChannel,
    peers: BoundPeers,
    status: watch::Sender<Arc<ClusterStatus>>,
    /// The URL of the console, if other machines may reach it.
    console: Option<String>,
}

/// The port for the other nodes, and the ends of what comes by it.
struct BoundPeers {
    link: PeerLink,
    messages: mpsc::Receiver<(NodeNumber, PeerMessage)>,
    inputs: mpsc::Receiver<PeerInput>,
    directory: watch::Sender<Arc<Directory>>,
}

impl ClusterNode {
    /// Connects to the store that the nodes share. `unix_time` is the wall clock time: it distinguishes the processes
    /// of a node.
    pub(crate) async fn open(
        config: &Config,
        cluster: &ClusterConfig,
        unix_time: Duration,
        metrics: &Arc<Metrics>,
    ) -> anyhow::Result<((OpenedStore, StoreContents), Self)> {
        let ClusterConfig { node, number, weight, timing, isolated, moves_at_once, advertise, .. } = cluster.clone();
        let incarnation = Incarnation(u64::try_from(unix_time.as_millis()).unwrap_or(u64::MAX));
        let process = NodeProcess { node: number, incarnation };
        let member = MemberConfig { process, weight, timing, isolated, moves_at_once };
        let peers = BoundPeers::bind(config, cluster, process, metrics).await?;
        let console = console_url(config, &advertise);
        let in_store = StoreNode { process, name: node.clone(), address: advertise, timing };
        let opening = shared::open(&config.store, in_store, &config.listeners, Arc::clone(metrics));
        let (opened, engine, contents) = opening.await?;
        let status = watch::Sender::default();
        let node = Self { member, name: node, engine, peers, status, console };
        Ok(((OpenedStore::Shared(opened), contents), node))
    }

    /// Returns the handle of the cluster for other tasks.
    #[cfg(feature = "console")]
    pub(crate) fn handle(&self) -> ClusterHandle {
        ClusterHandle::new(self.status.subscribe(), self.engine.asks.clone())
    }

    /// Starts the member task on the current runtime, and returns the place of the driver.
    pub(crate) fn start(
        self,
        (config, cluster): (&Config, &ClusterConfig),
        first_dtls_socket: u16,
        prepared: &Prepared,
    ) -> (RunningMember, ClusterSeat) {
        let Self { member, name, engine, peers, status, console } = self;
        let BoundPeers { link, messages, inputs, directory } = peers;
        let (running, (owners, known_owners)) = (link.start(), watch::channel(Arc::default()));
        let routing = NodeRouterConfig {
            node: member.process.node,
            first_dtls_socket,
            flows: Router::FLOWS,
            unregistered: config.gateway.limits.unregistered,
        };
        let forwarding = Forwarding::new(
            routing,
            (running.handle(), inputs),
            (known_owners, engine.asks.clone()),
            cluster.is_direct,
        );
        let (gate_keeper, gate) = gate::gate();
        let (commands, commanded) = mpsc::unbounded_channel();
        let (report, reports) = mpsc::unbounded_channel();
        let seat = ClusterSeat::new(gate, (commanded, report), engine.asks.clone(), forwarding);
        let member = RunningMember::start(MemberParts {
            config: member,
            name,
            engine,
            peers: MemberPeers { running, messages, directory, owners },
            commands,
            reports,
            gate: gate_keeper,
            condition: prepared.conditions.add("cluster"),
            metrics: Arc::clone(prepared.metrics()),
            linger: cluster.linger,
            status,
            console,
        });
        (member, seat)
    }
}

/// Returns the URL of the console if other machines may reach it: by the host of the address for the other nodes.
#[cfg(feature = "console")]
fn console_url(config: &Config, advertise: &str) -> Option<String> {
    let console = &config.console;
    let (host, _) = advertise.rsplit_once(':')?;
    let is_local = |ip: IpAddr| ip.is_loopback();
    let is_reached = !is_local(console.bind.ip()) || host.parse().is_ok_and(is_local);
    let scheme = if console.certificate.is_some() { "https" } else { "http" };
    (console.tokens.is_some() && is_reached).then(|| format!("{scheme}://{host}:{}", console.bind.port()))
}

#[cfg(not(feature = "console"))]
fn console_url(_: &Config, _: &str) -> Option<String> {
    None
}

impl BoundPeers {
    async fn bind(
        config: &Config,
        cluster: &ClusterConfig,
        process: NodeProcess,
        metrics: &Arc<Metrics>,
    ) -> anyhow::Result<Self> {
        let (directory, listed) = watch::channel(Arc::default());
        let (member, messages) = mpsc::channel(MESSAGES);
        let (driver, inputs) = mpsc::channel(DATAGRAMS);
        let peers = PeerConfig {
            process,
            name: cluster.node.clone(),
            bind: cluster.bind,
            advertise: cluster.advertise.clone(),
            patience: cluster.timing.lease,
            tls: cluster.tls.clone(),
            listeners: config.listeners.iter().map(UdpListener::key).collect(),
        };
        let receivers = PeerReceivers { member, driver };
        let link = PeerLink::bind(peers, listed, receivers, Arc::clone(&metrics.peers)).await;
        Ok(Self { link: link.context("the port for the other nodes of the cluster")?, messages, inputs, directory })
    }
}
