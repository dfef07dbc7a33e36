//! The connections that other nodes open to this one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use lwm2m_cluster::frame::{Forward, Frame, FrameError, Hello, Learn, NamedFlow, NotMine, Reply, split_frame};
use lwm2m_cluster::{NodeNumber, PeerAddress, PeerMessage};
use lwm2m_router::{Flow, Forwarded};
use prometheus_client::metrics::counter::Counter;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_openssl::SslStream;
use tracing::{debug, warn};

use super::outgoing::{CONNECT_TIMEOUT, prepare, read_frame};
use super::{PeerInput, Shared, identity};

/// Maximum number of connections whose node has not proved its name yet.
const HANDSHAKES: usize = 32;
/// Bytes that are read at once.
const READ_SIZE: usize = 64 << 10;
/// Pause after an error of the listening socket, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections. Never completes.
pub(super) async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    let mut tasks = JoinSet::new();
    loop {
        while tasks.try_join_next().is_some() {}
        let Ok(permit) = Arc::clone(&handshakes).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, address)) => {
                let shared = Arc::clone(&shared);
                let _abort = tasks.spawn(async move { serve(&shared, stream, address, permit).await });
            }
            Err(error) => {
                warn!(%error, "a connection of another node was not accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves a connection until it ends.
async fn serve(shared: &Shared, stream: TcpStream, address: SocketAddr, permit: OwnedSemaphorePermit) {
    let welcomed = timeout(CONNECT_TIMEOUT, welcome(shared, stream)).await;
    drop(permit);
    let (node, stream, received) = match welcomed.unwrap_or_else(|_| Err("it does not say its name".to_owned())) {
        Ok(welcomed) => welcomed,
        Err(problem) => {
            shared.metrics.refused.inc();
            return warn!(%address, problem, "a connection to the port of the cluster was refused");
        }
    };
    debug!(%node, %address, "a node has connected");
    let problem = read(shared, node, stream, received).await;
    debug!(%node, %address, problem, "the connection of a node has ended");
}

/// Performs the handshake, and checks the name of the node by its certificate. Returns the node, and what was received
/// after its hello.
async fn welcome(shared: &Shared, stream: TcpStream) -> Result<(NodeNumber, SslStream<TcpStream>, BytesMut), String> {
    prepare(&stream).map_err(|error| error.to_string())?;
    let mut stream = shared.tls.accept(stream).await?;
    let (hello, received) = read_frame(&mut stream).await?;
    let Ok(Frame::Hello(Hello { process, name, address })) = Frame::decode(&hello, shared.clock) else {
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
    let address = PeerAddress { name: name.to_owned(), address: address.to_owned() };
    shared.told.send_if_modified(|told| {
        let is_new = told.get(node) != Some(&address);
        told.insert(node, address);
        is_new
    });
    let mut answer = Vec::new();
    shared.hello().encode(shared.clock, &mut answer).map_err(|error| error.to_string())?;
    stream.write_all(&answer).await.map_err(|error| error.to_string())?;
    Ok((node, stream, BytesMut::from(received.as_slice())))
}

/// Hands on what a node sends, until the connection ends. Returns the reason of its end.
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
    /// Hands on a frame.
    ///
    /// # Errors
    /// Returns an error for a frame that ends the connection.
    fn take(&self, from: NodeNumber, frame: &[u8]) -> Result<(), FrameError> {
        match Frame::decode(frame, self.clock) {
            Ok(Frame::Hello(_)) => return Err(FrameError::Malformed),
            Ok(Frame::Message(message)) => self.take_message(from, message)?,
            Ok(Frame::Forward(forward)) => self.take_forward(from, forward),
            Ok(Frame::Reply(Reply { flow, datagram })) => {
                let datagram = datagram.into();
                self.take_datagram(flow, &self.metrics.answers_in, |flow| PeerInput::Reply { flow, datagram });
            }
            Ok(Frame::Learn(Learn { flow, shard, has_device })) => {
                if let Some(flow) = self.flow(flow) {
                    // It is repeated after the next datagram.
                    let (Ok(()) | Err(_)) = self.driver.try_send(PeerInput::Learn { flow, shard, has_device });
                }
            }
            Ok(Frame::NotMine(NotMine { shard, owner })) => {
                // The next round tells the owners, too.
                let (Ok(()) | Err(_)) = self.driver.try_send(PeerInput::NotMine { from, shard, owner });
            }
            Err(FrameError::UnknownKind(kind)) => debug!(%from, kind, "a frame of a newer node was skipped"),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn take_message(&self, from: NodeNumber, message: PeerMessage) -> Result<(), FrameError> {
        let sender = match &message {
            PeerMessage::Ping { from, .. } | PeerMessage::Pong { from, .. } => from.node,
            PeerMessage::Yours { .. } => from,
        };
        if sender != from {
            return Err(FrameError::Malformed);
        }
        // A member that is too slow is asked again.
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
