//! The state of the cluster as one node knows it, for operators, and their orders.
//!
//! The state is that of the last round at the store, so that any node that lives tells of all. It decides nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use crate::store::redis::shared::{AnnouncedNode, EngineAsk, StoreContact};
use lwm2m_base::Shard;
use lwm2m_cluster::engine::LeaseState;
use lwm2m_cluster::{NodeNumber, NodeProcess};

/// Maximum time for an answer of the store.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// The state of the cluster, as one node knows it.
#[derive(Clone, Debug, Default)]
pub struct ClusterStatus {
    /// The number of the node that reports; `None` before the first round.
    pub me: Option<NodeNumber>,
    /// The state of this node towards the store.
    pub contact: StoreContact,
    /// The time at which the last answered round was asked for.
    pub asked: Option<Instant>,
    /// The number of shards whose lease no node renews.
    pub without_owner: usize,
    /// The nodes that announced themselves within a day before the last round, in the order of their numbers.
    pub nodes: Vec<NodeStatus>,
}

/// A node at the time of the last round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeStatus {
    pub announced: AnnouncedNode,
    /// The number of shards whose lease it renews.
    pub shards: usize,
}

/// Gives other tasks the state of the cluster, and takes orders of operators.
#[derive(Clone, Debug)]
pub struct ClusterHandle {
    status: watch::Receiver<Arc<ClusterStatus>>,
    asks: UnboundedSender<EngineAsk>,
}

/// Reasons why an operator cannot drain a node.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum DrainError {
    #[error("the cluster has no node {0:?} that answers")]
    NoSuchNode(String),
    #[error("no other node takes shards")]
    LastNode,
    #[error(transparent)]
    Silent(#[from] StoreSilent),
}

/// The store does not answer.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("the store does not answer")]
pub struct StoreSilent;

impl ClusterStatus {
    /// Returns the nodes with the number of their shards, and the number of shards without an owner.
    pub fn count(nodes: &[AnnouncedNode], leases: &[(Shard, LeaseState)]) -> (Vec<NodeStatus>, usize) {
        let holder = |lease: LeaseState| match lease {
            LeaseState::Held(owner) => Some(owner.node),
            LeaseState::Free | LeaseState::Unknown | LeaseState::Expired(_) => None,
        };
        let of = |node: &AnnouncedNode| {
            let node = node.entry.process.node;
            leases.iter().filter(|(_, lease)| holder(*lease) == Some(node)).count()
        };
        let mut counted: Vec<NodeStatus> =
            nodes.iter().map(|node| NodeStatus { announced: node.clone(), shards: of(node) }).collect();
        counted.sort_by_key(|node| node.announced.entry.process.node);
        let without_owner = leases.iter().filter(|(_, lease)| holder(*lease).is_none()).count();
        (counted, without_owner)
    }

    /// Returns the node of this number.
    pub fn node(&self, number: NodeNumber) -> Option<&NodeStatus> {
        self.nodes.iter().find(|node| node.announced.entry.process.node == number)
    }
}

impl ClusterHandle {
    pub fn new(status: watch::Receiver<Arc<ClusterStatus>>, asks: UnboundedSender<EngineAsk>) -> Self {
        Self { status, asks }
    }

    /// Returns the state of the cluster.
    pub fn status(&self) -> Arc<ClusterStatus> {
        Arc::clone(&self.status.borrow())
    }

    /// Returns the other node that has the shard of an endpoint; `None` if this node has it, or none.
    pub async fn elsewhere(&self, endpoint: &str) -> Result<Option<NodeStatus>, StoreSilent> {
        let endpoint = endpoint.to_owned();
        let owner = self.ask(|found| EngineAsk::Locate { endpoint, found }).await?;
        let status = self.status();
        let other = owner.map(|owner: NodeProcess| owner.node).filter(|node| Some(*node) != status.me);
        Ok(other.and_then(|node| status.node(node).cloned()))
    }

    /// Lets a node give its shards to the other nodes, or take shards again. It holds until the process of the node
    /// ends.
    pub async fn drain(&self, name: &str, is_drained: bool) -> Result<(), DrainError> {
        let status = self.status();
        let is_named = |node: &&NodeStatus| node.announced.is_alive && node.announced.address.name == name;
        let node = status.nodes.iter().find(is_named).ok_or_else(|| DrainError::NoSuchNode(name.to_owned()))?;
        let process = node.announced.entry.process;
        let takes = |other: &NodeStatus| {
            let AnnouncedNode { entry, is_alive, .. } = &other.announced;
            *is_alive && entry.takes && entry.weight > 0 && entry.process != process
        };
        if is_drained && !status.nodes.iter().any(takes) {
            return Err(DrainError::LastNode);
        }
        Ok(self.ask(|noted| EngineAsk::Drain { process, is_drained, noted }).await?)
    }

    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> EngineAsk) -> Result<T, StoreSilent> {
        let (answer, answered) = oneshot::channel();
        self.asks.send(ask(answer)).map_err(|_| StoreSilent)?;
        timeout(ANSWER_TIMEOUT, answered).await.map_err(|_| StoreSilent)?.map_err(|_| StoreSilent)
    }
}
