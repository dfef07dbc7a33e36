//! The connections to the other nodes of a cluster: messages between members, datagrams of devices that came to
//! another node than the one that has their shard, and moves of devices.
//!
//! 1. A node opens a TCP connection to each other node of the [`Directory`], with mutual TLS. The certificates are of
//!    an authority of the cluster alone, and have the names of the nodes.
//! 2. Both sides begin with a [`Hello`]. A node whose certificate does not have the name in its hello is refused.
//! 3. After that only the node that opened the connection sends: what waits in its [`PeerOutbox`], all of it at once. So
//!    two nodes have two connections.
//! 4. A node that neither the directory lists nor is connected has left: it is not called any more.
//! 5. A connection that ends, or that takes nothing for some seconds, is opened again after a back-off. What waits for
//!    it is dropped and counted. A warning is logged if the node is away for longer than its leases hold.
//!
//! Nothing here waits for a slow node but the task of its connection: whoever sends appends to a bounded buffer.

mod identity;
mod incoming;
mod outage;
mod outbox;
mod outgoing;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lwm2m_base::Shard;
use lwm2m_cluster::endpoint_move::MoveNumber;
use lwm2m_cluster::frame::{DeviceWays, ForwardReply};
use lwm2m_cluster::frame::{Done, FetchResult, Forward, Frame, FrameClock, Hello, Learn, MAX_WAYS, NamedFlow, NotMine};
use lwm2m_cluster::{Directory, NodeNumber, NodeProcess, NodeSet, PeerMessage};
use lwm2m_core::gateway::moves::claims::ClaimQuestion;
use lwm2m_router::{Flow, Forwarded, Hop};
use prometheus_client::metrics::counter::Counter;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::clock::monotonic_now;
use crate::observability::metrics::PeerMetrics;
use crate::tls::{TlsConfig, TlsError};

use super::moves::{self, SourceAnswer};
use identity::PeerTls;
use incoming::ToldNodes;
use outbox::{NotSent, PeerOutbox};

/// The number of nodes that a cluster can have.
const NODES: usize = 1 << NodeNumber::BITS;

/// The configuration of the connections of a node.
#[derive(Clone, Debug)]
pub struct PeerConfig {
    pub process: NodeProcess,
    /// The name of the node, which its certificate has.
    pub name: String,
    /// The address at which the other nodes connect.
    pub bind: SocketAddr,
    /// The host and port by which the other nodes reach that address.
    pub advertise: String,
    /// The length of an outage of a node from which on it is logged. A node that shuts down has left the list of nodes
    /// by then.
    pub patience: Duration,
    /// The authority of the cluster, and the certificate of the node with its key.
    pub tls: TlsConfig,
    /// The keys of the device listeners, in the order of their sockets.
    pub listeners: Vec<String>,
}

/// Reasons why the connections of a node cannot be started.
#[derive(Debug, Error)]
pub enum PeerLinkError {
    #[error("{bind}: {error}")]
    Bind { bind: SocketAddr, error: io::Error },
    #[error("{0}")]
    Tls(#[from] TlsError),
}

/// The bound port of a node, which is not served yet.
pub struct PeerLink {
    listener: TcpListener,
    shared: Arc<Shared>,
}

/// The connections of a node. They end when it is dropped.
pub struct RunningPeers {
    handle: PeerHandle,
    _tasks: JoinSet<()>,
}

/// Sends to the other nodes, without waiting.
#[derive(Clone)]
pub struct PeerHandle(Arc<Shared>);

/// A message of another node to the driver.
#[derive(Debug, PartialEq, Eq)]
pub enum PeerInput {
    /// A datagram of a device. `from` is the node that forwarded it last.
    Forwarded {
        from: NodeNumber,
        forwarded: Forwarded,
        datagram: Box<[u8]>,
    },
    /// A datagram to a device that leaves here.
    Reply {
        flow: Flow,
        datagram: Box<[u8]>,
    },
    /// Reports whether a shard of another node has a device at an address.
    Learn {
        flow: Flow,
        shard: Shard,
        has_device: bool,
    },
    NotMine {
        from: NodeNumber,
        shard: Shard,
        owner: Option<NodeNumber>,
    },
    /// Reports through which node devices are reached whose shard comes to this node.
    Ways {
        entry: NodeNumber,
        flows: Vec<Flow>,
    },
    Move(MoveInput),
}

/// A message of another node about the move of a device.
#[derive(Debug, PartialEq, Eq)]
pub enum MoveInput {
    /// The node asks for a device.
    Fetch { from: NodeNumber, number: MoveNumber, question: ClaimQuestion },
    /// The node was asked for a device.
    Fetched { from: NodeNumber, number: MoveNumber, answer: SourceAnswer },
    /// The node has taken a device from this version of its endpoint name.
    Done { endpoint: String, version: u64 },
}

/// The state that all tasks of the connections share.
struct Shared {
    config: PeerConfig,
    tls: PeerTls,
    clock: FrameClock,
    metrics: Arc<PeerMetrics>,
    /// The outboxes by the number of the node.
    outboxes: Vec<PeerOutbox>,
    connected: watch::Sender<NodeSet>,
    directory: watch::Receiver<Arc<Directory>>,
    /// The nodes that have connected, with the addresses in their hellos. A node may not be in the directory yet.
    told: watch::Sender<ToldNodes>,
    member: mpsc::Sender<(NodeNumber, PeerMessage)>,
    driver: mpsc::Sender<PeerInput>,
}

/// The receivers of the messages of other nodes.
pub struct PeerReceivers {
    pub member: mpsc::Sender<(NodeNumber, PeerMessage)>,
    pub driver: mpsc::Sender<PeerInput>,
}

impl PeerLink {
    /// Reads the certificates and binds the port.
    ///
    /// # Errors
    /// Returns an error if the port cannot be bound or if a certificate or key cannot be used.
    pub async fn bind(
        config: PeerConfig,
        directory: watch::Receiver<Arc<Directory>>,
        PeerReceivers { member, driver }: PeerReceivers,
        metrics: Arc<PeerMetrics>,
    ) -> Result<Self, PeerLinkError> {
        let tls = PeerTls::new(config.tls.clone())?;
        let bind = config.bind;
        let listener = TcpListener::bind(bind).await.map_err(|error| PeerLinkError::Bind { bind, error })?;
        let shared = Shared {
            config,
            tls,
            clock: FrameClock::new(monotonic_now()),
            metrics,
            outboxes: (0..NODES).map(|_| PeerOutbox::default()).collect(),
            connected: watch::Sender::default(),
            directory,
            told: watch::Sender::default(),
            member,
            driver,
        };
        Ok(Self { listener, shared: Arc::new(shared) })
    }

    /// Returns the address of the bound port.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves the port and connects to the other nodes, on the current runtime.
    pub fn start(self) -> RunningPeers {
        let Self { listener, shared } = self;
        let mut tasks = JoinSet::new();
        tasks.spawn(incoming::accept(listener, Arc::clone(&shared)));
        tasks.spawn(outgoing::connect_all(Arc::clone(&shared)));
        RunningPeers { handle: PeerHandle(shared), _tasks: tasks }
    }
}

impl RunningPeers {
    pub fn handle(&self) -> PeerHandle {
        self.handle.clone()
    }
}

impl PeerHandle {
    /// Returns the nodes to which there is a connection.
    pub fn connected(&self) -> NodeSet {
        *self.0.connected.borrow()
    }

    /// Returns the metrics of the connections.
    pub fn metrics(&self) -> &PeerMetrics {
        &self.0.metrics
    }

    /// Sends a message of the member. It is lost if there is no connection: the member repeats important messages.
    pub fn send(&self, to: NodeNumber, message: PeerMessage) {
        let (Ok(()) | Err(NotSent::Away | NotSent::Full)) = self.0.push(to, &Frame::Message(message));
    }

    /// Forwards a datagram of a device to the next node.
    pub fn forward(&self, hop: Hop, flow: Flow, datagram: &[u8]) {
        let Hop { to, shard, entry, hops, is_learned } = hop;
        let Some(flow) = self.0.named(flow) else { return };
        let sent = self.0.push(to, &Frame::Forward(Forward { shard, hops, is_learned, entry, flow, datagram }));
        self.0.count(sent, &self.0.metrics.out);
    }

    /// Sends a datagram to a device through its entry, the node that receives the device's datagrams.
    pub fn reply(&self, entry: NodeNumber, flow: Flow, datagram: &[u8]) {
        let Some(flow) = self.0.named(flow) else { return };
        let sent = self.0.push(entry, &Frame::Reply(ForwardReply { flow, datagram }));
        self.0.count(sent, &self.0.metrics.answers_out);
    }

    /// Tells the entry of an address whether a shard has a device there. A lost message is repeated after the next
    /// datagram.
    pub fn learn(&self, entry: NodeNumber, flow: Flow, shard: Shard, has_device: bool) {
        let Some(flow) = self.0.named(flow) else { return };
        let learn = Frame::Learn(Learn { flow, shard, has_device });
        let (Ok(()) | Err(NotSent::Away | NotSent::Full)) = self.0.push(entry, &learn);
    }

    /// Tells the next node of a shard that these devices are reached through `entry`. If the message is lost, they are
    /// reached after their next datagrams.
    pub fn tell_ways(&self, to: NodeNumber, entry: NodeNumber, flows: &[Flow]) {
        let mut by_socket: BTreeMap<u16, Vec<SocketAddr>> = BTreeMap::new();
        for Flow { socket, address } in flows {
            by_socket.entry(*socket).or_default().push(*address);
        }
        for (socket, addresses) in by_socket {
            let Some(listener) = self.0.config.listeners.get(usize::from(socket)) else { continue };
            for addresses in addresses.chunks(MAX_WAYS) {
                let ways = Frame::Ways(DeviceWays { entry, listener, addresses: addresses.to_vec() });
                let (Ok(()) | Err(NotSent::Away | NotSent::Full)) = self.0.push(to, &ways);
            }
        }
    }

    /// Asks a node for a device. Returns whether the question is on its way.
    pub fn fetch(&self, to: NodeNumber, number: MoveNumber, shard: Shard, question: &ClaimQuestion) -> bool {
        let identity = moves::identity_text(question);
        let fetch = identity.as_deref().and_then(|identity| moves::fetch(number, shard, question, identity));
        fetch.is_some_and(|fetch| self.0.push(to, &Frame::Fetch(fetch)).is_ok())
    }

    /// Answers the question for a device. If the answer is lost, the node that asked gives up after some seconds.
    pub fn fetched(&self, to: NodeNumber, number: MoveNumber, answer: &SourceAnswer) {
        let fetched = Frame::Fetched(FetchResult { number, answer: answer.to_frame() });
        let (Ok(()) | Err(NotSent::Away | NotSent::Full)) = self.0.push(to, &fetched);
    }

    /// Tells a node that its device was taken. If this is lost the node asks the store.
    pub fn done(&self, to: NodeNumber, endpoint: &str, version: u64) {
        let done = Frame::Done(Done { version, endpoint });
        let (Ok(()) | Err(NotSent::Away | NotSent::Full)) = self.0.push(to, &done);
    }

    /// Tells a node that forwarded a datagram that its shard is not here. If the message is lost, the node learns it
    /// from the next round.
    pub fn not_mine(&self, to: NodeNumber, shard: Shard, owner: Option<NodeNumber>) {
        let not_mine = Frame::NotMine(NotMine { shard, owner });
        let (Ok(()) | Err(NotSent::Away | NotSent::Full)) = self.0.push(to, &not_mine);
    }
}

impl Shared {
    fn push(&self, to: NodeNumber, frame: &Frame<'_>) -> Result<(), NotSent> {
        self.outbox(to).push(frame, self.clock)
    }

    fn outbox(&self, node: NodeNumber) -> &PeerOutbox {
        &self.outboxes[usize::from(node.number())]
    }

    /// Counts a datagram as sent, or as dropped.
    fn count(&self, sent: Result<(), NotSent>, counter: &Counter) {
        let counter = match sent {
            Ok(()) => counter,
            Err(NotSent::Away) => &self.metrics.drops.peer_away,
            Err(NotSent::Full) => &self.metrics.drops.queue_full,
        };
        counter.inc();
    }

    /// Names the listener of an address. The sockets of the driver are those of the listeners.
    fn named(&self, Flow { socket, address }: Flow) -> Option<NamedFlow<'_>> {
        let listener = self.config.listeners.get(usize::from(socket))?;
        Some(NamedFlow { listener, address })
    }

    /// Finds the socket of a listener; `None` if this node does not have the listener.
    fn flow(&self, NamedFlow { listener, address }: NamedFlow<'_>) -> Option<Flow> {
        let socket = self.config.listeners.iter().position(|key| key == listener)?;
        Some(Flow { socket: u16::try_from(socket).ok()?, address })
    }

    fn hello(&self) -> Frame<'_> {
        let PeerConfig { process, name, advertise, .. } = &self.config;
        Frame::Hello(Hello { process: *process, name, address: advertise })
    }

    fn set_connected(&self, node: NodeNumber, is_connected: bool) {
        self.connected.send_modify(|nodes| {
            *nodes = if is_connected { nodes.with(node) } else { nodes.without(node) };
        });
    }
}

#[cfg(test)]
mod tests;
