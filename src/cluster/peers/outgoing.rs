//! The connections that this node opens: one to each other node.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use lwm2m_cluster::frame::{Frame, FrameError, split_frame};
use lwm2m_cluster::{Directory, NodeAddress, NodeNumber};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_openssl::SslStream;
use tracing::{info, warn};

use super::Shared;
use super::outage::PeerOutage;
use super::outbox::Batch;
use crate::clock::monotonic_now;

/// Maximum time for a connection, its handshake and the hello.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Maximum time in which a node takes a batch of at most 4 MiB.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
const BACK_OFF_MIN: Duration = Duration::from_millis(100);
const BACK_OFF_MAX: Duration = Duration::from_secs(5);

/// Keeps a connection to each other node that is listed or has connected. Never completes.
pub(super) async fn connect_all(shared: Arc<Shared>) {
    let (mut listed, mut told) = (shared.directory.clone(), shared.told.subscribe());
    let mut peers: BTreeMap<NodeNumber, (NodeAddress, JoinSet<()>)> = BTreeMap::new();
    loop {
        let known = all_nodes(&listed.borrow_and_update(), &told.borrow_and_update().directory);
        let have_left: Vec<NodeNumber> = peers.keys().copied().filter(|node| known.get(*node).is_none()).collect();
        for node in have_left {
            if let Some((NodeAddress { name, .. }, mut task)) = peers.remove(&node) {
                task.shutdown().await;
                shared.metrics.away.dec();
                info!(node = name, "the node has left the cluster");
            }
        }
        for (node, address) in known.iter() {
            let is_new = peers.get(&node).is_none_or(|(before, _)| before != address);
            if node == shared.config.process.node || !is_new {
                continue;
            }
            match peers.remove(&node) {
                // The former connection has to end before another one begins.
                Some((_, mut former)) => former.shutdown().await,
                None => drop(shared.metrics.away.inc()),
            }
            let mut task = JoinSet::new();
            task.spawn(stay_connected(Arc::clone(&shared), node, address.clone()));
            peers.insert(node, (address.clone(), task));
        }
        tokio::select! {
            Ok(()) = listed.changed() => {}
            Ok(()) = told.changed() => {}
            else => std::future::pending().await,
        }
    }
}

/// Joins the nodes of the engine's list and those that have connected. For a node in both, the list counts.
fn all_nodes(listed: &Directory, told: &Directory) -> Directory {
    told.iter().chain(listed.iter()).map(|(node, address)| (node, address.clone())).collect()
}

/// Keeps a connection to a node, and opens it again when it ends.
async fn stay_connected(shared: Arc<Shared>, node: NodeNumber, peer: NodeAddress) {
    let (mut back_off, mut outage) = (BACK_OFF_MIN, PeerOutage::default());
    let NodeAddress { name, address } = &peer;
    loop {
        let connecting = timeout(CONNECT_TIMEOUT, connect(&shared, node, &peer)).await;
        let problem = match connecting.unwrap_or_else(|_| Err("it does not answer".to_owned())) {
            Ok(stream) => {
                info!(node = name, address, "connected to the node");
                (back_off, outage) = (BACK_OFF_MIN, PeerOutage::default());
                let connection = OutgoingConnection::begin(&shared, node);
                let problem = connection.write(stream).await;
                drop(connection);
                info!(node = name, address, problem, "the connection to the node has ended");
                problem
            }
            Err(problem) => problem,
        };
        if outage.failed(monotonic_now(), shared.config.patience) {
            warn!(node = name, address, problem, "cannot connect to the node; retrying");
        }
        sleep(back_off).await;
        back_off = (back_off * 2).min(BACK_OFF_MAX);
    }
}

/// Opens a connection, and waits for the hello of the node.
async fn connect(shared: &Shared, node: NodeNumber, peer: &NodeAddress) -> Result<SslStream<TcpStream>, String> {
    let stream = TcpStream::connect(&peer.address).await.map_err(|error| error.to_string())?;
    prepare(&stream).map_err(|error| error.to_string())?;
    let mut stream = shared.tls.connect(&peer.name, stream).await?;
    let mut hello = Vec::new();
    shared.hello().encode(shared.clock, &mut hello).map_err(|error| error.to_string())?;
    stream.write_all(&hello).await.map_err(|error| error.to_string())?;
    let (answer, _) = read_frame(&mut stream).await?;
    match Frame::decode(&answer, shared.clock) {
        Ok(Frame::Hello(hello)) if hello.process.node == node => Ok(stream),
        Ok(Frame::Hello(hello)) => Err(format!("its number is {}, but {node} was expected", hello.process.node)),
        Ok(_) => Err("it did not begin with its name".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Sets the options of a connection between nodes: no delay of small frames, and probes that detect a lost network.
pub(super) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let probes = TcpKeepalive::new().with_time(Duration::from_secs(5)).with_interval(Duration::from_secs(1));
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&probes.with_retries(3))?;
    socket.set_tcp_user_timeout(Some(WRITE_TIMEOUT))
}

/// Reads the first frame of a connection, without its length, and what was received after it.
pub(super) async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> Result<(Vec<u8>, Vec<u8>), String> {
    let mut received = Vec::new();
    loop {
        let mut rest = received.as_slice();
        if let Some(frame) = split_frame(&mut rest).map_err(|error: FrameError| error.to_string())? {
            return Ok((frame.to_vec(), rest.to_vec()));
        }
        match stream.read_buf(&mut received).await {
            Ok(0) => return Err("it closed the connection".to_owned()),
            Ok(_) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// An open connection. Frames that wait are dropped with it.
struct OutgoingConnection<'s> {
    shared: &'s Shared,
    node: NodeNumber,
}

impl<'s> OutgoingConnection<'s> {
    fn begin(shared: &'s Shared, node: NodeNumber) -> Self {
        shared.outbox(node).open();
        shared.set_connected(node, true);
        shared.metrics.connected.inc();
        shared.metrics.away.dec();
        Self { shared, node }
    }

    /// Writes the frames that wait until the connection ends, and returns the reason of its end.
    async fn write(&self, stream: SslStream<TcpStream>) -> String {
        let (mut reader, mut writer) = tokio::io::split(stream);
        // The other node sends nothing after its hello.
        let mut nothing = [0];
        let closed = reader.read(&mut nothing);
        tokio::pin!(closed);
        loop {
            let Batch { bytes, datagrams } = tokio::select! {
                batch = self.shared.outbox(self.node).next_batch() => batch,
                _ = &mut closed => return "it closed the connection".to_owned(),
            };
            let written = timeout(WRITE_TIMEOUT, async {
                writer.write_all(&bytes).await?;
                writer.flush().await
            });
            let problem = match written.await {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("it took nothing for {WRITE_TIMEOUT:?}"),
            };
            self.shared.metrics.drops.connection_lost.inc_by(datagrams);
            return problem;
        }
    }
}

impl Drop for OutgoingConnection<'_> {
    fn drop(&mut self) {
        let Self { shared, node } = self;
        shared.set_connected(*node, false);
        shared.metrics.drops.connection_lost.inc_by(shared.outbox(*node).close());
        shared.metrics.connected.dec();
        shared.metrics.away.inc();
    }
}
