//! The store that the nodes of a cluster share: leases of shards, the records of each shard, endpoint names.
//!
//! 1. At the start the node connects. It has no shards, and reads only what belongs to no shard.
//! 2. Its keeper, a task on a thread of its own, carries out what the member task asks ([`EngineAsk`]): rounds, which
//!    announce the node and renew its leases, acquisitions and releases of leases, the reading of shards, and claims of
//!    endpoint names.
//! 3. The keeper writes the batches of the driver. A batch is written if the node has the leases of all its shards.
//!    Otherwise it waits until the member task has given up the shards that another node has.
//! 4. A shard that is read is compared with the endpoint names: a record whose endpoint another shard has is dropped.
//! 5. A server that has lost records is written anew from memory, as far as this node has the shards.
//!
//! One request is on its way at a time, so that acquisitions, reads, writes and releases happen in order.
//! `requests`, `names` and `scripts` are without IO.

mod import;
mod keeper;
pub mod names;
mod report;
mod requests;
mod scripts;
#[cfg(test)]
mod scripts_and_model;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tracing::{info, warn};

use crate::conditions::Condition;
use crate::observability::metrics::Metrics;
use crate::process::runtime_thread::{Priority, RuntimeThread};
use crate::transport::UdpListener;
use lwm2m_base::Shard;
use lwm2m_cluster::engine::{EngineRequest, Timing};
use lwm2m_cluster::{MemberEvent, NodeProcess, Term};
use lwm2m_core::gateway::moves::shards::ShardContents;

use super::super::handle::{HandleParts, PendingWrite, Sleeper, Store};
use super::super::listeners::ListenerNames;
use super::super::{StoreConfig, StoreContents, StoreError};
use super::health::KeeperStart;
use super::layout::{Layout, RecordHash, RestoredContents};
use super::seal::Seal;
use super::users::{check_new_key, users};
use super::{BATCH, RedisError, check_about, connect_at_start, dialer, read_hashes, seal_keys};
use keeper::{SharedKeeper, SharedParts};
use names::{NameAnswer, NameAsk};
use requests::NodeIdentity;

pub(crate) use import::{ImportMode, ImportReport, import};
pub use report::{AnnouncedNode, NodeReport, StoreContact};
pub(crate) use requests::FORMAT;

/// The node of a cluster, as the store knows it.
#[derive(Clone, Debug)]
pub struct StoreNode {
    pub process: NodeProcess,
    pub name: String,
    /// The host and port at which the other nodes reach it.
    pub address: String,
    pub timing: Timing,
}

/// A request of the member task, or of the driver, to the keeper.
#[derive(Debug)]
pub enum EngineAsk {
    Request(EngineRequest),
    /// Reads the records of a shard, which the node has acquired in this term.
    Load {
        shard: Shard,
        term: Term,
    },
    /// The node does not have this shard any more: what waits to be written of it is dropped.
    Discard(Shard),
    Name(NameAsk),
    /// Gives back a claim that no record has followed.
    Unclaim(String),
    /// What the node tells of itself with the next rounds.
    Report(Box<NodeReport>),
    /// Asks which process has the shard of an endpoint; `None` if no shard has it.
    Locate {
        endpoint: String,
        found: oneshot::Sender<Option<NodeProcess>>,
    },
    /// Drains a process by order of an operator, or ends that. Answered when the store has noted it.
    Drain {
        process: NodeProcess,
        is_drained: bool,
        noted: oneshot::Sender<()>,
    },
    /// Takes the node out of the list of nodes, since it has given up all its shards. Answered when that is done.
    Leave(oneshot::Sender<()>),
}

/// An answer of the keeper to the member task.
#[derive(Debug)]
pub enum EngineAnswer {
    Event(MemberEvent),
    /// The nodes that announced themselves in the last day, from a round.
    Nodes(Vec<AnnouncedNode>),
    Loaded {
        shard: Shard,
        contents: Box<ShardContents>,
    },
    Name(Box<NameAnswer>),
}

/// The way by which the member task reaches the keeper.
pub struct EngineChannel {
    pub asks: mpsc::UnboundedSender<EngineAsk>,
    pub answers: mpsc::UnboundedReceiver<EngineAnswer>,
}

/// A shared store, before its driver has started.
pub struct OpenedShared {
    writes: mpsc::UnboundedSender<PendingWrite>,
    started: oneshot::Sender<KeeperStart>,
    sleeper: Arc<Notify>,
    closing: Arc<AtomicBool>,
    closed: watch::Receiver<()>,
    interval: Duration,
    metrics: Arc<Metrics>,
}

/// Connects to the server, and starts the keeper on a thread of its own.
pub async fn open(
    store: &StoreConfig,
    node: StoreNode,
    listeners: &[UdpListener],
    metrics: Arc<Metrics>,
) -> Result<(OpenedShared, EngineChannel, StoreContents), StoreError> {
    let thread = RuntimeThread::start("store", Priority::Normal).map_err(RedisError::Thread)?;
    let opening = open_there(store.clone(), node, ListenerNames::new(listeners));
    let opened = thread.runtime().spawn(opening).await;
    let (parts, contents) = opened.expect("the task of the store does not fail")?;
    let (writes, pending) = mpsc::unbounded_channel();
    let (asks, asked) = mpsc::unbounded_channel();
    let (answer, answers) = mpsc::unbounded_channel();
    let (started, starting) = oneshot::channel();
    let (open, closed) = watch::channel(());
    let (sleeper, closing) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
    let keeper = SharedKeeper::new(parts, (pending, asked, answer), Arc::clone(&closing), Arc::clone(&metrics));
    let runtime = thread.runtime().clone();
    drop(runtime.spawn(async move {
        keeper.run(starting).await;
        drop(open);
        drop(thread);
    }));
    let interval = store.flush_interval;
    let opened = OpenedShared { writes, started, sleeper, closing, closed, interval, metrics };
    Ok((opened, EngineChannel { asks, answers }, contents))
}

async fn open_there(
    store: StoreConfig,
    node: StoreNode,
    listeners: ListenerNames,
) -> Result<(SharedParts, StoreContents), RedisError> {
    let config = &store.redis;
    let keys = seal_keys(config)?;
    let seal = keys.fingerprints()?;
    let StoreNode { process, name, address, timing } = node;
    let identity = NodeIdentity { prefix: config.prefix.clone(), process, name, address, timing, seal };
    let dialer = dialer(config)?;
    let mut connection = connect_at_start(&dialer).await?;
    let noted = check_about(&mut connection, (&identity.prefix, &identity.seal), FORMAT).await?;
    let (users, _) = users(&mut connection, &identity.prefix).await?;
    check_new_key(&users, (noted.as_deref(), &identity.seal), &identity.name)?;
    let server = connection.server.clone();
    if !connection.is_persistent {
        warn!(server, "the server of the store writes no append-only file: its restart loses the registrations");
    }
    let mut layout = Layout::shared(listeners);
    let mut restored = RestoredContents::default();
    let hashes = [RecordHash::Profiles];
    read_hashes(&mut connection, &config.prefix, (&keys, &hashes), &mut layout, &mut restored).await?;
    info!(server, node = identity.name, "store of the cluster opened");
    let parts = SharedParts {
        dialer,
        connection: Some(connection),
        identity,
        layout,
        seal: Seal::new(keys.sealing.clone(), 0),
        keys,
    };
    Ok((parts, restored.contents))
}

impl OpenedShared {
    /// Returns the ends of so many drivers. The condition shows whether the store can be written.
    pub fn start_for(self, drivers: usize, condition: Condition) -> Vec<Store> {
        let Self { writes, started, sleeper, closing, closed, interval, metrics } = self;
        let sleeper = Sleeper::Task(sleeper);
        let parts = HandleParts { writes, sleeper, closed, closing, interval, batch: BATCH, metrics };
        let stores: Vec<Store> = std::iter::repeat_with(|| Store::new(parts.clone())).take(drivers).collect();
        let ends = stores.iter().map(Store::replies).collect();
        // A keeper that has ended confirms nothing, and its thread has logged why.
        let (Ok(()) | Err(_)) = started.send(KeeperStart { ends, condition });
        stores
    }
}
