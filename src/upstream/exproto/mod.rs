//! EMQX by ExProto: one anchor connection per device, the client of the ConnectionAdapter, and the server of the
//! handler.
//!
//! How a device becomes a client of EMQX:
//! 1. `anchor` dials EMQX's exproto listener and sends a line with a random token.
//! 2. EMQX calls the handler, `OnSocketCreated` and `OnReceivedBytes`: the token tells which device its `conn` is.
//! 3. The gateway calls `Authenticate` and `Subscribe` on that `conn`, at the ConnectionAdapter. The device is
//!    connected.
//! 4. Its publications go by `Publish`, and its commands come by `OnReceivedMessages`.
//! 5. The anchor ends and `OnSocketClosed` tells why: the client is gone. If EMQX did not mean it, the device
//!    reconnects from 1.
//!
//! EMQX may have several nodes. A device is at one of them, with its anchor and its calls. A node that fails is left
//! (`nodes`), and all nodes call the one handler.
//!
//! `devices` decides, `anchor`, `adapter` and `handler` act, and [`ExProtoLink`] carries between them, in the one task
//! that polls it.

mod adapter;
mod anchor;
mod announcements;
pub(super) mod devices;
pub mod emqx;
mod handler;
mod nodes;
mod routes;
pub mod v1;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use prometheus_client::metrics::histogram::Histogram;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::task::{AbortHandle, JoinSet};
use tracing::info;

use crate::clock::monotonic_now;
use crate::conditions::Condition;
use crate::tls::{self, Connector};
use crate::upstream::LinkConfig;
use crate::upstream::client::device::ConnectionId;
use crate::upstream::client::targets::TargetId;
use crate::upstream::dialer::{DialFailure, Dialer, SECURE, Stream, tls_connector};
use crate::upstream::link::{BrokerLink, LinkIo, random_generator};
use crate::upstream::metrics::UpstreamMetrics;
use crate::upstream::seat::{LinkSeat, ServedHandler};
use lwm2m_base::id_map::IdMap;
use lwm2m_core::gateway::broker::BrokerEvent;

use adapter::AdapterClient;
use announcements::AnchorToken;
use devices::{AdapterCall, CallOutcome, ExProtoAction, ExProtoDevices, ExProtoEvent, ExProtoProtocol};
use routes::EventRoutes;

/// Limits the calls of one node without an answer, including those whose result is no longer needed. An adapter that
/// takes calls and does not answer them must not fill the memory.
const CALLS_UNDER_WAY: usize = 200_000;

/// Configures where EMQX is, and how much of it to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExProtoConfig {
    /// Lists at least one node. They need not be of one cluster, but all of them call the same handler.
    pub nodes: Vec<Node>,
    /// Sets the number of HTTP/2 connections to the adapter of each node.
    pub adapter_connections: usize,
    /// Configures TLS, for listeners that speak it.
    pub ssl: tls::TlsConfig,
    /// The address at which the ConnectionUnaryHandler listens.
    pub handler_bind: SocketAddr,
    /// The `proto_name` of Authenticate, by which EMQX chooses the authenticators.
    pub proto_name: String,
    pub link: LinkConfig,
}

/// Describes one node of EMQX.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Lists its exproto listener: `host:port` for TCP, `ssl://host:port` for TLS. Several share the anchors.
    pub listeners: Vec<String>,
    /// The URI of its ConnectionAdapter: `http://host:port`.
    pub adapter: String,
}

/// The link to EMQX by ExProto.
pub type ExProtoLink = BrokerLink<ExProtoIo>;

/// Holds the anchors and calls of each node.
pub struct ExProtoIo {
    nodes: Vec<NodeLink>,
    handler_address: SocketAddr,
    /// The runtime for the TLS handshakes of anchors, if not the one of the link.
    pub(super) tls_runtime: Option<Handle>,
    anchors: IdMap<ConnectionId, AbortHandle>,
    metrics: Arc<UpstreamMetrics>,
}

/// Holds the connections to one node.
struct NodeLink {
    dialer: Dialer,
    /// Tells that one of its listeners speaks TLS.
    secure: bool,
    adapter: AdapterClient,
    calls_under_way: usize,
}

/// Says which task has ended.
pub enum ExProtoTaskEnd {
    Dial { anchor: ConnectionId, result: Result<Stream, DialFailure> },
    Anchor { anchor: ConnectionId },
    Call { node: TargetId, anchor: ConnectionId, outcome: CallOutcome },
    Handler,
}

impl ExProtoLink {
    /// Binds the handler, if the link is that of the first thread, and begins to probe the nodes. A node that is
    /// unavailable is no error: `condition` reports it.
    ///
    /// # Errors
    /// `handler_bind` cannot be bound, an `adapter` is no URI, a file of `ssl` cannot be used, or the system has no
    /// randomness.
    pub async fn start(
        mut config: ExProtoConfig,
        seat: LinkSeat,
        metrics: Arc<UpstreamMetrics>,
        condition: Condition,
    ) -> io::Result<Self> {
        let LinkSeat { shards, exproto_events: events, serves_handler } = seat;
        let rng = random_generator()?;
        let listeners = config.nodes.iter().flat_map(|node| &node.listeners);
        let connector = tls_connector(listeners, &config.ssl, "upstream.exproto.ssl")?;
        let node = |node: &Node| NodeLink::new(node, &config, connector.clone());
        let nodes = config.nodes.iter().map(node).collect::<io::Result<_>>()?;
        let mut tasks = JoinSet::new();
        if let Some(ServedHandler { links, runtime }) = serves_handler {
            let bind = config.handler_bind;
            let socket = TcpListener::bind(bind).await.map_err(|error| {
                io::Error::new(error.kind(), format!("upstream.exproto.handler_bind = {bind}: {error}"))
            })?;
            config.handler_bind = socket.local_addr()?;
            let serving = handler::serve(socket, EventRoutes::new(links), Arc::clone(&metrics));
            let serving = async {
                serving.await;
                ExProtoTaskEnd::Handler
            };
            match runtime {
                Some(runtime) => tasks.spawn_on(serving, &runtime),
                None => tasks.spawn(serving),
            };
            info!(handler_address = %config.handler_bind, "ExProto handler listens");
        }
        let handler_address = config.handler_bind;
        let mut devices = ExProtoDevices::new(&config, rng, Arc::clone(&metrics)).of_thread(shards);
        devices.probe_all(monotonic_now());
        let io = ExProtoIo { nodes, handler_address, tls_runtime: None, anchors: IdMap::default(), metrics };
        Ok(Self::new(io, devices, events, tasks, condition))
    }

    /// Returns where the handler listens: `handler_bind`, with the port that the system chose if that was 0.
    pub fn handler_address(&self) -> SocketAddr {
        self.io.handler_address
    }
}

impl LinkIo for ExProtoIo {
    type Protocol = ExProtoProtocol;
    type Event = ExProtoEvent;
    type TaskEnd = ExProtoTaskEnd;

    fn perform(
        &mut self,
        devices: &mut ExProtoDevices,
        tasks: &mut JoinSet<ExProtoTaskEnd>,
        action: ExProtoAction,
    ) -> Option<BrokerEvent> {
        match action {
            ExProtoAction::Dial { anchor, node, token } => self.dial(tasks, anchor, node, token),
            ExProtoAction::HangUp { anchor } => self.hang_up(anchor),
            ExProtoAction::Call { anchor, node, call } => self.call(devices, tasks, anchor, node, call),
            ExProtoAction::Emit(event) => return Some(event),
        }
        None
    }

    fn arrived(&mut self, now: Instant, devices: &mut ExProtoDevices, event: ExProtoEvent) {
        devices.heard(now, event);
    }

    fn task_ended(
        &mut self,
        now: Instant,
        devices: &mut ExProtoDevices,
        tasks: &mut JoinSet<ExProtoTaskEnd>,
        end: ExProtoTaskEnd,
    ) {
        match end {
            ExProtoTaskEnd::Dial { anchor, result: Ok(stream) } => {
                devices.dialed(now, anchor, Ok(()));
                self.watch(tasks, anchor, stream);
            }
            ExProtoTaskEnd::Dial { anchor, result: Err(error) } => {
                self.anchors.remove(&anchor);
                devices.dialed(now, anchor, Err(error));
            }
            ExProtoTaskEnd::Anchor { anchor } => {
                self.anchors.remove(&anchor);
                devices.anchor_ended(now, anchor);
            }
            ExProtoTaskEnd::Call { node, anchor, outcome } => {
                self.nodes[node.0].calls_under_way -= 1;
                devices.called(now, node, anchor, outcome);
            }
            ExProtoTaskEnd::Handler => {}
        }
    }

    /// An anchor has nothing to write after its token, and EMQX removes the client when the socket is closed.
    fn has_bytes_to_write(&self, _tasks: &JoinSet<ExProtoTaskEnd>) -> bool {
        false
    }
}

impl ExProtoIo {
    fn dial(&mut self, tasks: &mut JoinSet<ExProtoTaskEnd>, anchor: ConnectionId, node: TargetId, token: AnchorToken) {
        let node = &mut self.nodes[node.0];
        let dial = anchor::open(node.dialer.dial(), token);
        let dial = async move { ExProtoTaskEnd::Dial { anchor, result: dial.await } };
        let task = match self.tls_runtime.as_ref().filter(|_| node.secure) {
            Some(runtime) => tasks.spawn_on(dial, runtime),
            None => tasks.spawn(dial),
        };
        self.anchors.insert(anchor, task);
    }

    /// Watches an open anchor. One that was hung up while it was dialed ends here, with its socket.
    fn watch(&mut self, tasks: &mut JoinSet<ExProtoTaskEnd>, anchor: ConnectionId, stream: Stream) {
        let Some(task) = self.anchors.get_mut(&anchor) else { return };
        *task = tasks.spawn(async move {
            anchor::watch(stream).await;
            ExProtoTaskEnd::Anchor { anchor }
        });
    }

    fn hang_up(&mut self, anchor: ConnectionId) {
        if let Some(task) = self.anchors.remove(&anchor) {
            task.abort();
        }
    }

    fn call(
        &mut self,
        devices: &mut ExProtoDevices,
        tasks: &mut JoinSet<ExProtoTaskEnd>,
        anchor: ConnectionId,
        node: TargetId,
        call: AdapterCall,
    ) {
        let link = &mut self.nodes[node.0];
        if link.calls_under_way >= CALLS_UNDER_WAY {
            let outcome = CallOutcome::Unreachable("too many calls without an answer".to_owned());
            return devices.called(monotonic_now(), node, anchor, outcome);
        }
        link.calls_under_way += 1;
        let (time, begun) = (time_of(&call, &self.metrics).clone(), monotonic_now());
        let call = link.adapter.call(anchor, call);
        tasks.spawn(async move {
            let outcome = call.await;
            time.observe(monotonic_now().saturating_duration_since(begun).as_secs_f64());
            ExProtoTaskEnd::Call { node, anchor, outcome }
        });
    }
}

impl NodeLink {
    fn new(node: &Node, config: &ExProtoConfig, connector: Option<Connector>) -> io::Result<Self> {
        let ExProtoConfig { adapter_connections, proto_name, link, .. } = config;
        let adapter = AdapterClient::new(&node.adapter, *adapter_connections, proto_name.clone(), link.connect_timeout);
        let adapter = adapter.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let dialer = Dialer::new(node.listeners.clone(), config.link.source_addresses.clone(), connector);
        let secure = node.listeners.iter().any(|listener| listener.starts_with(SECURE));
        Ok(Self { dialer, secure, adapter, calls_under_way: 0 })
    }
}

fn time_of<'a>(call: &AdapterCall, metrics: &'a UpstreamMetrics) -> &'a Histogram {
    match call {
        AdapterCall::Authenticate { .. } => &metrics.times.authenticate,
        AdapterCall::Subscribe { .. } => &metrics.times.subscribe,
        AdapterCall::Publish { .. } => &metrics.times.publish,
        AdapterCall::Ping { .. } => &metrics.times.probe,
    }
}
