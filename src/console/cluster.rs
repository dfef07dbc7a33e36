//! `GET /cluster`, and `PUT` and `DELETE /cluster/nodes/{node}/drain`: the nodes of the cluster, as this one knows them
//! by the store.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::Serialize;
use utoipa::ToSchema;

use crate::clock::monotonic_now;
use crate::cluster::status::{ClusterHandle, ClusterStatus, DrainError, NodeStatus, StoreSilent};
use crate::store::redis::shared::StoreContact;
use lwm2m_base::Shard;

use super::ConsoleServer;
use super::access::audit::Author;
use super::access::tokens::Access;
use super::http::problem::{Problem, ProblemKind};
use super::http::responses::Problems;

/// The state of the cluster, as this node knows it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ClusterDocument {
    /// Name of the node that answers.
    node: String,
    store: StoreContact,
    /// Time since the last answer of the store, in seconds; absent before the first one. The nodes are as they were then.
    #[serde(skip_serializing_if = "Option::is_none")]
    age: Option<f64>,
    /// Number of shards.
    shards: usize,
    /// Number of shards whose lease no node renews: nobody serves their devices, or a node without the store does.
    without_owner: usize,
    /// Nodes that announced themselves within the last day, in the order of their numbers.
    nodes: Vec<ClusterNodeDocument>,
}

/// A node of the cluster.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ClusterNodeDocument {
    name: String,
    number: u8,
    state: NodeState,
    /// Version of the gateway; absent if the node does not tell it.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    /// Share of the devices, relative to the other nodes.
    weight: u16,
    /// Number of shards whose leases the node renews.
    shards: usize,
    /// Number of registered devices, as the node told it last.
    #[serde(skip_serializing_if = "Option::is_none")]
    devices: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    store: Option<StoreContact>,
    /// Names of the other nodes that answer it.
    peers: Vec<String>,
    /// Names of the other nodes that announce themselves and do not answer it.
    silent_peers: Vec<String>,
    /// Time since the node announced itself at the store, in seconds.
    seen: f64,
    /// Host and port at which the other nodes reach it.
    address: String,
    /// URL of its console, if other machines may reach it.
    #[serde(skip_serializing_if = "Option::is_none")]
    console: Option<String>,
}

/// The state of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum NodeState {
    Up,
    /// It takes shards that no other node takes (`weight = 0`).
    Standby,
    /// It takes no shards yet.
    Starting,
    /// It gives its shards to the other nodes.
    Draining,
    /// It does not announce itself any more: it has ended, or does not reach the store.
    Silent,
}

/// Get the state of the cluster
///
/// Every node knows all nodes, as long as it reaches the store.
#[utoipa::path(
    get,
    path = "/cluster",
    tag = "cluster",
    responses(
        (status = 200, description = "The nodes", body = ClusterDocument),
        Problems<404>
    )
)]
pub(super) async fn cluster(
    State(server): State<Arc<ConsoleServer>>,
    Extension(access): Extension<Access>,
) -> Result<Json<ClusterDocument>, Problem> {
    access.unlimited()?;
    Ok(Json(ClusterDocument::of(&of_cluster(&server)?.status())))
}

/// Drain a node
///
/// For operators whose token is not limited to some devices. The node gives its shards to the other nodes and takes
/// none, until this is undone or its process ends. `GET /cluster` shows how many shards it has left.
#[utoipa::path(
    put,
    path = "/cluster/nodes/{node}/drain",
    tag = "cluster",
    params(("node" = String, Path, description = "Name of the node, percent-encoded as a whole")),
    responses(
        (status = 204, description = "The node begins within seconds"),
        Problems<400>, Problems<404>, Problems<409>, Problems<503>
    )
)]
pub(super) async fn drain(
    State(server): State<Arc<ConsoleServer>>,
    author: Author,
    node: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, Problem> {
    order_drain(server, author, node, true).await
}

/// Make a drained node take shards again
///
/// For operators whose token is not limited to some devices.
#[utoipa::path(
    delete,
    path = "/cluster/nodes/{node}/drain",
    tag = "cluster",
    params(("node" = String, Path, description = "Name of the node, percent-encoded as a whole")),
    responses(
        (status = 204, description = "The node takes shards again within seconds"),
        Problems<400>, Problems<404>, Problems<503>
    )
)]
pub(super) async fn undrain(
    State(server): State<Arc<ConsoleServer>>,
    author: Author,
    node: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, Problem> {
    order_drain(server, author, node, false).await
}

async fn order_drain(
    server: Arc<ConsoleServer>,
    author: Author,
    node: Result<Path<String>, PathRejection>,
    is_drained: bool,
) -> Result<StatusCode, Problem> {
    author.access.operator()?;
    author.access.unlimited()?;
    let Path(node) =
        node.map_err(|_| ProblemKind::InvalidRequest.because("the name of the node is not percent-encoded text"))?;
    let cluster = of_cluster(&server)?.clone();
    // The action continues, and is recorded, if the client does not wait for it.
    let working = tokio::spawn(async move {
        let ordered = cluster.drain(&node, is_drained).await;
        let result = match &ordered {
            Ok(()) => "done",
            Err(DrainError::NoSuchNode(_)) => "no such node",
            Err(DrainError::LastNode) => "last node",
            Err(DrainError::Silent(StoreSilent)) => "no answer",
        };
        server.audit.record(&author, if is_drained { "drain" } else { "undrain" }, &node, result);
        ordered.map_err(problem_of)
    });
    working.await.map_err(|error| ProblemKind::Internal.because(error.to_string()))??;
    Ok(StatusCode::NO_CONTENT)
}

fn of_cluster(server: &ConsoleServer) -> Result<&ClusterHandle, Problem> {
    let cluster = server.sources.cluster.as_ref();
    cluster.ok_or_else(|| ProblemKind::NotFound.because("the gateway is not a node of a cluster (cluster.enable)"))
}

fn problem_of(error: DrainError) -> Problem {
    let kind = match &error {
        DrainError::NoSuchNode(_) => ProblemKind::NoSuchNode,
        DrainError::LastNode => ProblemKind::LastNode,
        DrainError::Silent(StoreSilent) => ProblemKind::StoreSilent,
    };
    kind.because(error.to_string())
}

impl ClusterDocument {
    fn of(status: &ClusterStatus) -> Self {
        let since = status.asked.map(|asked| monotonic_now().saturating_duration_since(asked));
        let node = status.me.and_then(|me| status.node(me)).map(|me| me.announced.address.name.clone());
        let of = |node| ClusterNodeDocument::of(node, status, since.unwrap_or_default());
        Self {
            node: node.unwrap_or_default(),
            store: status.contact,
            age: since.map(seconds),
            shards: Shard::COUNT,
            without_owner: status.without_owner,
            nodes: status.nodes.iter().map(of).collect(),
        }
    }
}

impl ClusterNodeDocument {
    fn of(node: &NodeStatus, status: &ClusterStatus, since: Duration) -> Self {
        let NodeStatus { announced, shards } = node;
        let report = announced.report.as_ref();
        let number = announced.entry.process.node;
        let hears = |other: &NodeStatus| {
            let other = other.announced.entry.process.node.number();
            report.is_some_and(|report| report.peers.contains(&other))
        };
        let others = status.nodes.iter().filter(|other| other.announced.entry.process.node != number);
        let (peers, silent): (Vec<_>, Vec<_>) =
            others.filter(|other| other.announced.is_alive).partition(|other| hears(other));
        let names =
            |nodes: Vec<&NodeStatus>| nodes.into_iter().map(|node| node.announced.address.name.clone()).collect();
        Self {
            name: announced.address.name.clone(),
            number: number.number(),
            state: NodeState::of(node),
            version: report.map(|report| report.version.clone()),
            weight: announced.entry.weight,
            shards: *shards,
            devices: report.map(|report| report.devices),
            store: report.map(|report| report.engine),
            peers: names(peers),
            silent_peers: names(silent),
            seen: seconds(announced.age + since),
            address: announced.address.address.clone(),
            console: report.and_then(|report| report.console.clone()),
        }
    }
}

impl NodeState {
    fn of(NodeStatus { announced, .. }: &NodeStatus) -> Self {
        match &announced.report {
            _ if !announced.is_alive => Self::Silent,
            Some(report) if report.draining => Self::Draining,
            _ if !announced.entry.takes => Self::Starting,
            _ if announced.entry.weight == 0 => Self::Standby,
            _ => Self::Up,
        }
    }
}

/// Returns a time in seconds with one digit after the point.
fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 10.0).round() / 10.0
}
