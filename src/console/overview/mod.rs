//! `GET /overview`: the state of the whole gateway, without single devices.

pub(super) mod history;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use serde::Serialize;
use utoipa::ToSchema;

use crate::clock::monotonic_now;
use crate::driver::control::DriverSilent;
use crate::observability::page::MetricsPage;
use crate::observability::snapshot::DriverSnapshot;
use crate::reload::status::ReloadResults;
use crate::upstream::BrokerNodeState;
use lwm2m_core::lwm2m::model::BrokenFile;

use super::ConsoleServer;
use super::access::tokens::Access;
use super::http::problem::{Problem, silent};
use super::http::responses::Problems;
use super::time::Timestamp;

use history::{HistoryDocument, samples};

/// The state of the gateway.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Overview {
    /// Version of the gateway.
    version: &'static str,
    /// Time since the start, in seconds.
    uptime: u64,
    devices: DeviceCounts,
    upstream: UpstreamDocument,
    /// The parts of the gateway by name, as in `/readyz`.
    conditions: BTreeMap<&'static str, ConditionDocument>,
    definitions: DefinitionsState,
    reload: ReloadDocument,
    /// Bounded tables and queues.
    bounds: Vec<BoundState>,
    history: HistoryDocument,
    /// All samples of `/metrics` by name and labels.
    metrics: BTreeMap<String, f64>,
}

/// Registered devices.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct DeviceCounts {
    total: usize,
    awake: usize,
    /// Devices in queue mode that cannot be reached now.
    asleep: usize,
    /// Devices whose registration the broker has not accepted yet.
    joining: usize,
    /// Maximum number of devices.
    limit: usize,
}

/// The connection to the broker.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct UpstreamDocument {
    /// `exproto` or `mqtt`.
    kind: &'static str,
    nodes_up: usize,
    nodes_down: usize,
    nodes: Vec<NodeDocument>,
    /// Publications in the queue for the broker, and the bound of the queue.
    waiting: usize,
    limit: usize,
}

/// A node of the broker.
#[derive(Debug, Serialize, ToSchema)]
struct NodeDocument {
    /// The address, or the addresses.
    name: String,
    /// Whether devices can connect to it.
    up: bool,
    /// Number of the devices that are its clients.
    devices: usize,
    /// The reason why it is not up.
    detail: String,
}

/// The object definitions.
#[derive(Debug, Serialize, ToSchema)]
struct DefinitionsState {
    /// Number of the definitions in force.
    total: usize,
    /// Files that were rejected.
    broken: Vec<BrokenDefinition>,
}

/// A file of object definitions that was rejected.
#[derive(Debug, Serialize, ToSchema)]
struct BrokenDefinition {
    file: String,
    reason: String,
}

/// The result of the last reload of configuration, definitions and credentials.
#[derive(Debug, Serialize, ToSchema)]
struct ReloadDocument {
    /// Time of the last reload; absent if there was none since the start.
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<Timestamp>,
    /// Whether a part could not be reloaded: its previous state is in force.
    failing: bool,
    /// Mistakes that have to be corrected.
    mistakes: Vec<String>,
}

/// The state of a part of the gateway.
#[derive(Debug, Serialize, ToSchema)]
struct ConditionDocument {
    /// `up`, `degraded`, `down` or `off`.
    state: &'static str,
    detail: String,
}

/// A bound and how much of it is in use.
#[derive(Debug, Serialize, ToSchema)]
struct BoundState {
    name: &'static str,
    used: usize,
    limit: usize,
    /// `bytes`, or absent for a count.
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<&'static str>,
}

/// Get the state of the gateway
#[utoipa::path(
    get,
    path = "/overview",
    tag = "gateway",
    responses(
        (status = 200, description = "The state of the gateway", body = Overview),
        Problems<503>
    )
)]
pub(super) async fn overview(
    State(server): State<Arc<ConsoleServer>>,
    Extension(access): Extension<Access>,
) -> Result<Json<Overview>, Problem> {
    access.unlimited()?;
    let admin = &server.sources.admin;
    let snapshot = server.gate.pass(admin.snapshot()).await.ok_or_else(|| silent(DriverSilent))?;
    let page = MetricsPage { metrics: Arc::clone(&admin.metrics), snapshot: Some(snapshot.clone()) };
    let conditions = admin.conditions.statuses().into_iter().map(|(name, status)| {
        let state = status.state.name();
        (name, ConditionDocument { state, detail: status.detail })
    });
    let reloads = server.sources.reloads.results();
    Ok(Json(Overview {
        version: env!("CARGO_PKG_VERSION"),
        uptime: monotonic_now().saturating_duration_since(server.started).as_secs(),
        devices: device_counts(&snapshot),
        upstream: UpstreamDocument {
            kind: server.sources.upstream,
            nodes_up: snapshot.upstream.nodes_available,
            nodes_down: snapshot.upstream.nodes_unavailable,
            nodes: snapshot.upstream.nodes.iter().map(NodeDocument::of).collect(),
            waiting: snapshot.upstream.publications,
            limit: snapshot.upstream.publications_limit,
        },
        conditions: conditions.collect(),
        definitions: DefinitionsState::of(server.sources.model.borrow().objects().count(), &reloads),
        reload: ReloadDocument::of(&reloads),
        bounds: bounds(&snapshot),
        history: server.history.document(),
        metrics: samples(&page.text()),
    }))
}

impl NodeDocument {
    fn of(node: &BrokerNodeState) -> Self {
        let BrokerNodeState { name, is_available, clients, detail } = node.clone();
        Self { name, up: is_available, devices: clients, detail }
    }
}

impl DefinitionsState {
    fn of(total: usize, reloads: &ReloadResults) -> Self {
        let broken = reloads.broken.iter().cloned();
        Self { total, broken: broken.map(|BrokenFile { file, reason }| BrokenDefinition { file, reason }).collect() }
    }
}

impl ReloadDocument {
    fn of(reloads: &ReloadResults) -> Self {
        let failed = reloads.failed.iter().map(|(part, reason)| format!("{part}: {reason}"));
        let broken = reloads.broken.iter().map(|BrokenFile { file, reason }| format!("xml_dir: {file}: {reason}"));
        // A definition file that is broken since the last reload is among the failures.
        let known = |mistake: &String| !reloads.failed.values().any(|reason| mistake.ends_with(reason.as_str()));
        let mistakes = failed.chain(broken.filter(known)).collect();
        Self { at: reloads.at.map(Timestamp), failing: !reloads.failed.is_empty(), mistakes }
    }
}

fn device_counts(snapshot: &DriverSnapshot) -> DeviceCounts {
    let total = snapshot.gateway.devices;
    DeviceCounts {
        total,
        awake: total.saturating_sub(snapshot.asleep),
        asleep: snapshot.asleep,
        joining: snapshot.gateway.pending_registrations,
        limit: snapshot.devices_limit,
    }
}

fn bounds(snapshot: &DriverSnapshot) -> Vec<BoundState> {
    let DriverSnapshot { gateway, upstream, .. } = snapshot;
    vec![
        BoundState { name: "Devices", used: gateway.devices, limit: snapshot.devices_limit, unit: None },
        BoundState {
            name: "Pending commands",
            used: gateway.command_bytes,
            limit: snapshot.command_bytes_limit,
            unit: Some("bytes"),
        },
        BoundState {
            name: "Publications for the broker",
            used: upstream.publications,
            limit: upstream.publications_limit,
            unit: None,
        },
    ]
}
