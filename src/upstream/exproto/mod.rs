//! EMQX by ExProto: one anchor connection per device, the adapter's client, the handler's server.
//!
//! How a device becomes a client of EMQX:
//! 1. `anchor` dials EMQX's exproto listener and sends a line with a random token.
//! 2. EMQX calls our handler, `OnSocketCreated` and `OnReceivedBytes`: the token tells which device its `conn` is.
//! 3. `Authenticate` and `Subscribe` on that `conn`, at the ConnectionAdapter; the device is connected.
//! 4. `Publish` for what it says, `OnReceivedMessages` for what it hears.
//! 5. The anchor ends and `OnSocketClosed` tells why: the client is gone. Where EMQX did not mean it, again from 1.
//!
//! EMQX may have several nodes: a device is at one of them, with its anchor and its calls. A node that fails is left
//! (`nodes`), and all nodes call the one handler.
//!
//! `devices` decides, `anchor`, `adapter` and `handler` do, and [`ExProtoLink`] carries between them, in the one task that polls
//! it. Sockets and calls run in tasks of their own and share nothing with it: they end with a result.

mod adapter;
mod anchor;
mod announcements;
mod devices;
pub mod emqx;
mod handler;
mod nodes;
pub mod v1;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus_client::metrics::histogram::Histogram;
use rand::SeedableRng;
use rand::rngs::{StdRng, SysRng};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tracing::info;

use crate::conditions::{Condition, ConditionState};
use crate::tls::{self, Connector};
use crate::upstream::UpstreamTableSizes;
use crate::upstream::client::device::ConnectionId;
use crate::upstream::client::targets::{TargetId, TargetsHealth};
use crate::upstream::dialer::{DialFailure, Dialer, SECURE, Stream};
use crate::upstream::metrics::UpstreamMetrics;
use lwm2m_core::gateway::broker::{BrokerCommand, BrokerEvent};

use adapter::AdapterClient;
use announcements::AnchorToken;
use devices::{AdapterCall, CallOutcome, ExProtoAction, ExProtoDevices, ExProtoEvent};

/// Calls of one node without an answer, those included for which nobody waits any more. An adapter that takes calls and
/// does not answer them must not fill the memory.
const CALLS_UNDER_WAY: usize = 200_000;

/// Where EMQX is, and how much of it to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExProtoConfig {
    /// At least one. They need not be of one cluster, but all of them call the same handler.
    pub nodes: Vec<Node>,
    /// HTTP/2 connections to the adapter of each node.
    pub adapter_connections: usize,
    /// For listeners that speak TLS.
    pub ssl: tls::TlsConfig,
    /// Where our ConnectionUnaryHandler listens.
    pub handler_bind: SocketAddr,
    /// Source addresses of the anchors; none lets the system choose. A source address is good for about 28,000 anchors to each listener.
    pub source_addresses: Vec<IpAddr>,
    /// `proto_name` of Authenticate: EMQX chooses the authenticators by it.
    pub proto_name: String,
    /// From the Register to the end of Subscribe.
    pub connect_timeout: Duration,
    /// New anchors in a second, when many have to be made again.
    pub anchors_per_second: u32,
    /// Publications that wait for one device, and for all.
    pub queue_per_device: usize,
    pub queue_total: usize,
    /// Events from EMQX that wait for the core.
    pub event_queue: usize,
}

/// One node of EMQX.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its exproto listener, `host:port` for TCP, `ssl://host:port` for TLS; more than one spreads the anchors.
    pub listeners: Vec<String>,
    /// Its ConnectionAdapter: `http://host:port`.
    pub adapter: String,
}

impl ExProtoConfig {
    /// None where no listener speaks TLS: then its files are not looked at.
    fn connector(&self) -> io::Result<Option<Connector>> {
        let mut listeners = self.nodes.iter().flat_map(|node| &node.listeners);
        if !listeners.any(|listener| listener.starts_with(SECURE)) {
            return Ok(None);
        }
        let unusable = |error| io::Error::new(io::ErrorKind::InvalidInput, format!("upstream.exproto.ssl: {error}"));
        Connector::new(&self.ssl).map(Some).map_err(unusable)
    }
}

/// The link to EMQX. Its state lives where it is polled; calls and sockets run beside it and report back.
pub struct ExProtoLink {
    devices: ExProtoDevices,
    ways: Vec<NodeLink>,
    events: mpsc::Receiver<ExProtoEvent>,
    handler_address: SocketAddr,
    anchors: HashMap<ConnectionId, AbortHandle>,
    tasks: JoinSet<ExProtoTaskEnd>,
    metrics: Arc<UpstreamMetrics>,
    condition: Condition,
}

/// The way to one node.
struct NodeLink {
    dialer: Dialer,
    adapter: AdapterClient,
    calls_under_way: usize,
}

/// How a task ended.
enum ExProtoTaskEnd {
    Dial { anchor: ConnectionId, result: Result<Stream, DialFailure> },
    Anchor { anchor: ConnectionId },
    Call { node: TargetId, anchor: ConnectionId, outcome: CallOutcome },
    Handler,
}

/// What can happen to the link.
enum LinkInput {
    Ended(Result<ExProtoTaskEnd, JoinError>),
    Event(ExProtoEvent),
    Deadline,
}

impl ExProtoLink {
    /// Binds the handler, and looks whether EMQX is there. One that is away is no error; `condition` says so.
    ///
    /// # Errors
    /// If `handler_bind` cannot be bound, an `adapter` is no URI, the files of `ssl` are of no use, or the system has no
    /// randomness.
    pub async fn start(
        mut settings: ExProtoConfig,
        metrics: Arc<UpstreamMetrics>,
        condition: Condition,
    ) -> io::Result<Self> {
        let rng = StdRng::try_from_rng(&mut SysRng).map_err(io::Error::other)?;
        let connector = settings.connector()?;
        let way = |node: &Node| NodeLink::new(node, &settings, connector.clone());
        let ways = settings.nodes.iter().map(way).collect::<io::Result<_>>()?;
        let bind = settings.handler_bind;
        let socket = TcpListener::bind(bind).await.map_err(|error| {
            io::Error::new(error.kind(), format!("upstream.exproto.handler_bind = {bind}: {error}"))
        })?;
        let handler_address = socket.local_addr()?;
        settings.handler_bind = handler_address;
        let mut devices = ExProtoDevices::new(&settings, rng, Arc::clone(&metrics));
        devices.probe_all(now());
        let (sender, events) = mpsc::channel(settings.event_queue.max(1));
        let mut tasks = JoinSet::new();
        let serving = handler::serve(socket, sender, Arc::clone(&metrics));
        tasks.spawn(async {
            serving.await;
            ExProtoTaskEnd::Handler
        });
        info!(%handler_address, "ExProto handler listens");
        Ok(Self { devices, ways, events, handler_address, anchors: HashMap::new(), tasks, metrics, condition })
    }

    /// Where the handler listens: `handler_bind`, with the port that the system chose if it was 0.
    pub fn handler_address(&self) -> SocketAddr {
        self.handler_address
    }

    /// Takes a command; never waits.
    pub fn submit(&mut self, command: BrokerCommand) {
        self.devices.command(now(), command);
    }

    /// How full it is; it looks at every device.
    pub fn table_sizes(&self) -> UpstreamTableSizes {
        self.devices.table_sizes()
    }

    /// The next event for the core. Drives the link: it has to be polled all the time. Cancel-safe.
    pub async fn event(&mut self) -> BrokerEvent {
        loop {
            if let Some(event) = self.poll_event() {
                return event;
            }
            let input = self.input().await;
            self.take(input);
        }
    }

    /// Publishes what is queued, then closes the anchors; gives up at the deadline.
    pub async fn shut_down(mut self, deadline: Duration) {
        self.devices.disconnect_all(now());
        let leaving = async {
            loop {
                while self.poll_event().is_some() {}
                if self.devices.is_empty() {
                    return;
                }
                let input = self.input().await;
                self.take(input);
            }
        };
        if tokio::time::timeout(deadline, leaving).await.is_err() {
            info!("publications left unsent at shutdown");
        }
    }

    /// Does what the devices want done, up to the next event for the core.
    pub fn poll_event(&mut self) -> Option<BrokerEvent> {
        if let Some(TargetsHealth { serving, detail }) = self.devices.take_health() {
            self.condition.set(if serving { ConditionState::Up } else { ConditionState::Down }, detail);
        }
        while let Some(action) = self.devices.poll_action() {
            match action {
                ExProtoAction::Dial { anchor, node, token } => self.dial(anchor, node, token),
                ExProtoAction::HangUp { anchor } => self.hang_up(anchor),
                ExProtoAction::Call { anchor, node, call } => self.call(anchor, node, call),
                ExProtoAction::Emit(event) => return Some(event),
            }
        }
        None
    }

    async fn input(&mut self) -> LinkInput {
        let deadline = self.devices.next_deadline().map(tokio::time::Instant::from_std);
        let timer = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(ended) = self.tasks.join_next() => LinkInput::Ended(ended),
            Some(event) = self.events.recv() => LinkInput::Event(event),
            () = timer => LinkInput::Deadline,
        }
    }

    fn take(&mut self, input: LinkInput) {
        let now = now();
        match input {
            LinkInput::Ended(Ok(ended)) => self.ended(now, ended),
            // An anchor that was hung up.
            LinkInput::Ended(Err(error)) if error.is_cancelled() => {}
            LinkInput::Ended(Err(error)) => std::panic::resume_unwind(error.into_panic()),
            LinkInput::Event(event) => self.devices.heard(now, event),
            LinkInput::Deadline => self.devices.handle_timeout(now),
        }
    }

    fn ended(&mut self, now: Instant, ended: ExProtoTaskEnd) {
        match ended {
            ExProtoTaskEnd::Dial { anchor, result: Ok(stream) } => {
                self.devices.dialed(now, anchor, Ok(()));
                self.watch(anchor, stream);
            }
            ExProtoTaskEnd::Dial { anchor, result: Err(error) } => {
                self.anchors.remove(&anchor);
                self.devices.dialed(now, anchor, Err(error));
            }
            ExProtoTaskEnd::Anchor { anchor } => {
                self.anchors.remove(&anchor);
                self.devices.anchor_ended(now, anchor);
            }
            ExProtoTaskEnd::Call { node, anchor, outcome } => {
                self.ways[node.0].calls_under_way -= 1;
                self.devices.called(now, node, anchor, outcome);
            }
            ExProtoTaskEnd::Handler => {}
        }
    }

    fn dial(&mut self, anchor: ConnectionId, node: TargetId, token: AnchorToken) {
        let dial = anchor::open(self.ways[node.0].dialer.dial(), token);
        let task = self.tasks.spawn(async move { ExProtoTaskEnd::Dial { anchor, result: dial.await } });
        self.anchors.insert(anchor, task);
    }

    /// An anchor that was hung up meanwhile ends here, with its socket.
    fn watch(&mut self, anchor: ConnectionId, stream: Stream) {
        let Some(task) = self.anchors.get_mut(&anchor) else { return };
        *task = self.tasks.spawn(async move {
            anchor::watch(stream).await;
            ExProtoTaskEnd::Anchor { anchor }
        });
    }

    fn hang_up(&mut self, anchor: ConnectionId) {
        if let Some(task) = self.anchors.remove(&anchor) {
            task.abort();
        }
    }

    fn call(&mut self, anchor: ConnectionId, node: TargetId, call: AdapterCall) {
        let way = &mut self.ways[node.0];
        if way.calls_under_way >= CALLS_UNDER_WAY {
            let outcome = CallOutcome::Unreachable("too many calls without an answer".to_owned());
            return self.devices.called(now(), node, anchor, outcome);
        }
        way.calls_under_way += 1;
        let (time, begun) = (time_of(&call, &self.metrics).clone(), now());
        let call = way.adapter.call(anchor, call);
        self.tasks.spawn(async move {
            let outcome = call.await;
            time.observe(now().saturating_duration_since(begun).as_secs_f64());
            ExProtoTaskEnd::Call { node, anchor, outcome }
        });
    }
}

impl NodeLink {
    fn new(node: &Node, settings: &ExProtoConfig, connector: Option<Connector>) -> io::Result<Self> {
        let ExProtoConfig { adapter_connections, proto_name, connect_timeout, .. } = settings;
        let adapter = AdapterClient::new(&node.adapter, *adapter_connections, proto_name.clone(), *connect_timeout);
        let adapter = adapter.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let dialer = Dialer::new(node.listeners.clone(), settings.source_addresses.clone(), connector);
        Ok(Self { dialer, adapter, calls_under_way: 0 })
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

/// The link's clock: the one place here that reads it.
#[expect(clippy::disallowed_methods, reason = "the driver of the devices' state machine; it gets the time as argument")]
fn now() -> Instant {
    Instant::now()
}
