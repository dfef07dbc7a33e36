//! The connections that other nodes open to this one.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use lwm2m_cluster::frame::split_frame;
use lwm2m_cluster::frame::{
    DeviceWays, Done, FetchResult, Forward, ForwardReply, Frame, FrameError, Hello, Learn, NamedFlow, NotMine,
};
use lwm2m_cluster::{Directory, NodeAddress, NodeNumber, PeerMessage};
use lwm2m_router::{Flow, Forwarded};
use prometheus_client::metrics::counter::Counter;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_openssl::SslStream;
use tracing::{debug, info, warn};

use super::super::moves::{self, SourceAnswer};
use super::outage::PeerOutage;
use super::outgoing::{CONNECT_TIMEOUT, prepare, read_frame};
use super::{MoveInput, PeerInput, Shared, identity};
use crate::clock::monotonic_now;

/// Maximum number of connections whose node has not proved its name yet.
const HANDSHAKES: usize = 32;
/// Bytes that are read at once.
const READ_SIZE: usize = 64 << 10;
/// Pause after an error of the listening socket, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections. Never completes. A connection beyond the maximum ends the oldest of those that have not proved
/// a name: a node needs some milliseconds for that, so that silent connections do not keep it out.
pub(super) async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let (mut handshakes, mut connections) = (JoinSet::new(), JoinSet::new());
    let mut oldest_first: VecDeque<AbortHandle> = VecDeque::new();
    let mut outage = PeerOutage::default();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, address)) => {
                    if outage.ended() {
                        info!("connections of other nodes are accepted again");
                    }
                    oldest_first.retain(|handshake| !handshake.is_finished());
                    if oldest_first.len() >= HANDSHAKES && let Some(oldest) = oldest_first.pop_front() {
                        oldest.abort();
                        shared.metrics.refused.inc();
                    }
                    oldest_first.push_back(handshakes.spawn(greet(Arc::clone(&shared), stream, address)));
                }
                Err(error) => {
                    if outage.failed(monotonic_now(), Duration::ZERO) {
                        warn!(%error, "connections of other nodes are not accepted");
                    }
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(greeted) = handshakes.join_next() => {
                if let Ok(Some(connected)) = greeted {
                    let _abort = connections.spawn(serve(Arc::clone(&shared), connected));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// A connection whose node has proved its name.
struct ConnectedNode {
    node: NodeNumber,
    told: NodeAddress,
    stream: SslStream<TcpStream>,
    /// The bytes after the hello of the node.
    received: BytesMut,
    address: SocketAddr,
}

/// Returns the connection if its node proves its name in time.
async fn greet(shared: Arc<Shared>, stream: TcpStream, address: SocketAddr) -> Option<ConnectedNode> {
    let welcomed = timeout(CONNECT_TIMEOUT, welcome(&shared, stream, address)).await;
    match welcomed.unwrap_or_else(|_| Err("it does not say its name".to_owned())) {
        Ok(connected) => Some(connected),
        Err(problem) => {
            shared.metrics.refused.inc();
            warn!(%address, problem, "a connection to the port of the cluster was refused");
            None
        }
    }
}

/// Serves a connection until it ends. Its node is known until then, also if the engine does not list it.
async fn serve(shared: Arc<Shared>, connected: ConnectedNode) {
    let ConnectedNode { node, told, stream, received, address } = connected;
    debug!(%node, %address, "a node has connected");
    shared.told.send_if_modified(|nodes| nodes.connected(node, told));
    let problem = read(&shared, node, stream, received).await;
    shared.told.send_if_modified(|nodes| nodes.disconnected(node));
    debug!(%node, %address, problem, "the connection of a node has ended");
}

/// The nodes that have connected to this one, with the addresses in their hellos.
#[derive(Default)]
pub(super) struct ToldNodes {
    pub(super) directory: Directory,
    connections: BTreeMap<NodeNumber, usize>,
}

impl ToldNodes {
    /// Notes a connection. Returns whether the address of its node is a new one.
    fn connected(&mut self, node: NodeNumber, told: NodeAddress) -> bool {
        *self.connections.entry(node).or_default() += 1;
        let is_new = self.directory.get(node) != Some(&told);
        self.directory.insert(node, told);
        is_new
    }

    /// Notes the end of a connection. Returns whether it was the last one of its node.
    fn disconnected(&mut self, node: NodeNumber) -> bool {
        let left = self.connections.get(&node).map_or(0, |connections| connections - 1);
        match left {
            0 => {
                self.connections.remove(&node);
                self.directory.remove(node);
            }
            _ => drop(self.connections.insert(node, left)),
        }
        left == 0
    }
}

/// Performs the handshake, and checks the name of the node by its certificate.
async fn welcome(shared: &Shared, stream: TcpStream, address: SocketAddr) -> Result<ConnectedNode, String> {
    prepare(&stream).map_err(|error| error.to_string())?;
    let mut stream = shared.tls.accept(stream).await?;
    let (hello, received) = read_frame(&mut stream).await?;
    let Ok(Frame::Hello(Hello { process, name, address: told })) = Frame::decode(&hello, shared.clock) else {
        return Err("it did not begin with its name".to_owned());
    };
    if !identity::is_named(stream.ssl(), name) {
        return Err(format!("its certificate is not that of the node {name:?}"));
    }
    let node = process.node;
    if node == shared.config.process.node {
        return Err(format!("it has the number of this node, {node}"));
    }
    if let Some(listed) = shared.directory.borrow().get(node)
        && listed.name != name
    {
        return Err(format!("the node {node} is {:?}, but it says that it is {name:?}", listed.name));
    }
    let told = NodeAddress { name: name.to_owned(), address: told.to_owned() };
    let mut answer = Vec::new();
    shared.hello().encode(shared.clock, &mut answer).map_err(|error| error.to_string())?;
    stream.write_all(&answer).await.map_err(|error| error.to_string())?;
    Ok(ConnectedNode { node, told, stream, received: BytesMut::from(received.as_slice()), address })
}

/// Passes the frames of a node on, until the connection ends. Returns the reason of its end.
async fn read(shared: &Shared, node: NodeNumber, mut stream: SslStream<TcpStream>, mut received: BytesMut) -> String {
    loop {
        let mut rest = &received[..];
        loop {
            match split_frame(&mut rest) {
                Ok(Some(frame)) => {
                    if let Err(error) = shared.take(node, frame) {
                        return error.to_string();
                    }
                }
                Ok(None) => break,
                Err(error) => return error.to_string(),
            }
        }
        let taken = received.len() - rest.len();
        received.advance(taken);
        received.reserve(READ_SIZE);
        match stream.read_buf(&mut received).await {
            Ok(0) => return "it closed the connection".to_owned(),
            Ok(_) => {}
            Err(error) => return error.to_string(),
        }
    }
}

impl Shared {
    /// Passes a frame on.
    ///
    /// # Errors
    /// Returns an error for a frame that ends the connection.
    fn take(&self, from: NodeNumber, frame: &[u8]) -> Result<(), FrameError> {
        match Frame::decode(frame, self.clock) {
            Ok(Frame::Hello(_)) => return Err(FrameError::Malformed),
            Ok(Frame::Message(message)) => self.take_message(from, message)?,
            Ok(Frame::Forward(forward)) => self.take_forward(from, forward),
            Ok(Frame::Reply(ForwardReply { flow, datagram })) => {
                let datagram = datagram.into();
                self.take_datagram(flow, &self.metrics.answers_in, |flow| PeerInput::Reply { flow, datagram });
            }
            Ok(Frame::Learn(Learn { flow, shard, has_device })) => {
                if let Some(flow) = self.flow(flow) {
                    // The message is repeated after the next datagram.
                    let (Ok(()) | Err(_)) = self.driver.try_send(PeerInput::Learn { flow, shard, has_device });
                }
            }
            Ok(Frame::NotMine(NotMine { shard, owner })) => {
                // The next round brings the owners, too.
                let (Ok(()) | Err(_)) = self.driver.try_send(PeerInput::NotMine { from, shard, owner });
            }
            Ok(Frame::Ways(DeviceWays { entry, listener, addresses })) => {
                let named = addresses.into_iter().map(|address| NamedFlow { listener, address });
                let flows = named.filter_map(|flow| self.flow(flow)).collect();
                // Without the message the devices are reached after their next datagrams.
                let (Ok(()) | Err(_)) = self.driver.try_send(PeerInput::Ways { entry, flows });
            }
            Ok(Frame::Fetch(fetch)) => {
                let question = moves::question(&fetch).ok_or(FrameError::Malformed)?;
                self.take_move(MoveInput::Fetch { from, number: fetch.number, question });
            }
            Ok(Frame::Fetched(FetchResult { number, answer })) => {
                self.take_move(MoveInput::Fetched { from, number, answer: SourceAnswer::read(answer) });
            }
            Ok(Frame::Done(Done { version, endpoint })) => {
                self.take_move(MoveInput::Done { endpoint: endpoint.to_owned(), version });
            }
            Err(FrameError::UnknownKind(kind)) => debug!(%from, kind, "a frame of a newer node was skipped"),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Passes a step of a move on. A move of which a step is lost ends by its time limit.
    fn take_move(&self, input: MoveInput) {
        let (Ok(()) | Err(_)) = self.driver.try_send(PeerInput::Move(input));
    }

    fn take_message(&self, from: NodeNumber, message: PeerMessage) -> Result<(), FrameError> {
        let sender = match &message {
            PeerMessage::Ping { from, .. } | PeerMessage::Pong { from, .. } => from.node,
            PeerMessage::Yours { .. } | PeerMessage::Settled { .. } => from,
        };
        if sender != from {
            return Err(FrameError::Malformed);
        }
        // The message of a member that is too slow is repeated.
        let (Ok(()) | Err(_)) = self.member.try_send((from, message));
        Ok(())
    }

    fn take_forward(&self, from: NodeNumber, forward: Forward<'_>) {
        let Forward { shard, hops, is_learned, entry, flow, datagram } = forward;
        let datagram = datagram.into();
        self.take_datagram(flow, &self.metrics.in_, |flow| PeerInput::Forwarded {
            from,
            forwarded: Forwarded { shard, entry, hops, is_learned, flow },
            datagram,
        });
    }

    fn take_datagram(&self, flow: NamedFlow<'_>, counter: &Counter, input: impl FnOnce(Flow) -> PeerInput) {
        let counter = match self.flow(flow) {
            None => &self.metrics.drops.no_listener,
            Some(flow) => match self.driver.try_send(input(flow)) {
                Ok(()) => counter,
                Err(_) => &self.metrics.drops.driver_full,
            },
        };
        counter.inc();
    }
}
