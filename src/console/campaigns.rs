//! `GET` and `POST /firmware/campaigns`, `GET /firmware/campaigns/{name}` and below it the devices and the actions:
//! firmware updates of many devices.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::timeout;
use utoipa::{IntoParams, ToSchema};

use crate::driver::campaign_ask::DevicesAsk;
use lwm2m_core::gateway::firmware::campaign::member::MemberState;
use lwm2m_core::gateway::firmware::campaign::view::{CampaignMember, CampaignView, Counts};
use lwm2m_core::gateway::firmware::campaigns::request::{CampaignAction, CampaignRefusal, RefusalKind};
use lwm2m_core::gateway::operators::console_commands::{AnswerOutcome, ConsoleAnswer};

use super::ConsoleServer;
use super::access::audit::Author;
use super::access::tokens::Access;
use super::commands::read_body;
use super::http::problem::{Problem, ProblemKind, silent};
use super::http::responses::Problems;
use super::time::Timestamp;

/// The longest time until an image was looked at: its file is read once.
const DESCRIPTION: Duration = Duration::from_secs(80);
/// Number of devices without `limit`, and the maximum.
const ROWS: usize = 100;
const MOST_ROWS: usize = 1_000;

/// A campaign to begin. The members are those of the file of `lwm2m-gateway firmware campaign`.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "the core reads it; this is its description")]
pub(crate) struct NewCampaign {
    /// Letters, digits, `.`, `_` and `-`, at most 64.
    name: String,
    /// A file of `firmware.dir`.
    image: String,
    /// The version that the devices run afterwards. Those that run it already are skipped.
    version: String,
    /// Endpoint names: `*` stands for any characters, `?` for one.
    pattern: Option<String>,
    /// Endpoint names, in place of a pattern, at most 10,000.
    endpoints: Option<Vec<String>>,
    /// Values that resources must have, by path: a text or several.
    #[schema(value_type = Option<Object>, example = json!({ "/3/0/1": "AX-7" }))]
    filter: Option<Value>,
    /// Updates that run at once; 10 by default.
    concurrency: Option<u32>,
    /// Updates that begin in a minute; 60 by default.
    pace: Option<u32>,
    /// Failures at which the campaign stops: a number, or a percentage such as `"10%"`.
    stop_after: Option<Value>,
    window: Option<Window>,
    /// Time after which no update begins, such as `7d`, which is the default.
    duration: Option<String>,
    /// `auto`, `pull` or `push`.
    method: Option<String>,
    sha256: Option<String>,
    instance: Option<u16>,
    block_size: Option<u16>,
    attempts: Option<u32>,
}

/// The time of the day in which updates begin.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "the core reads it; this is its description")]
pub(super) struct Window {
    #[schema(example = "22:00")]
    start: String,
    #[schema(example = "05:00")]
    end: String,
    /// `UTC`, which is the default, or a distance from it.
    #[schema(example = "+02:00")]
    zone: Option<String>,
}

/// A campaign.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CampaignDocument {
    name: String,
    /// `running`, `paused`, `stopped`, `cancelled` or `completed`.
    #[schema(example = "running")]
    status: &'static str,
    image: String,
    version: String,
    /// Time after which no update begins.
    ends: Timestamp,
    devices: CampaignCounts,
}

/// The devices of a campaign by state.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CampaignCounts {
    total: usize,
    waiting: usize,
    updating: usize,
    succeeded: usize,
    failed: usize,
    up_to_date: usize,
    filter_mismatch: usize,
    cancelled: usize,
    deferred: usize,
    absent: usize,
}

/// A campaign with its settings.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CampaignDetails {
    #[serde(flatten)]
    campaign: CampaignDocument,
    /// The campaign as it was written, with its defaults, but without the list of its devices.
    #[schema(value_type = Object)]
    config: Value,
}

/// Campaigns.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CampaignList {
    campaigns: Vec<CampaignDocument>,
}

/// A device of a campaign.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CampaignDevice {
    endpoint: String,
    /// `waiting`, `updating`, `succeeded`, `failed`, `up_to_date`, `filter_mismatch`, `cancelled`, `deferred` or
    /// `absent`.
    #[schema(example = "failed")]
    state: &'static str,
    /// Reason of a failure: the error of the update, or the code with which it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "integrity")]
    error: Option<String>,
}

/// Devices of a campaign.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CampaignDevices {
    devices: Vec<CampaignDevice>,
    /// Value of `after` for the devices that follow; null if there are none.
    #[schema(required)]
    next: Option<String>,
}

/// A change of a campaign's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CampaignChange {
    Pause,
    Resume,
    Cancel,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct CampaignDevicesQuery {
    /// Maximum number of devices, 1 to 1,000; without it 100.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// Lists only devices whose endpoint names follow this one.
    after: Option<String>,
    /// Lists only devices in this state.
    state: Option<String>,
}

/// List the firmware campaigns
#[utoipa::path(
    get,
    path = "/firmware/campaigns",
    tag = "firmware",
    responses((status = 200, description = "All campaigns", body = CampaignList), Problems<503>)
)]
pub(super) async fn campaigns(
    State(server): State<Arc<ConsoleServer>>,
    Extension(access): Extension<Access>,
) -> Result<Json<CampaignList>, Problem> {
    access.unlimited()?;
    let views = server.gate.pass(server.sources.admin.control.campaigns()).await.map_err(silent)?;
    Ok(Json(CampaignList { campaigns: views.into_iter().map(CampaignDocument::from).collect() }))
}

/// Begin a firmware campaign
///
/// For operators. The answer comes when the image was looked at.
#[utoipa::path(
    post,
    path = "/firmware/campaigns",
    tag = "firmware",
    request_body(content = NewCampaign, content_type = "application/json"),
    responses(
        (status = 201, description = "The campaign runs", body = CampaignDetails),
        Problems<400>, Problems<409>, Problems<413>, Problems<415>, Problems<503>
    )
)]
pub(super) async fn begin_campaign(
    State(server): State<Arc<ConsoleServer>>,
    author: Author,
    body: Body,
) -> Result<(StatusCode, Json<CampaignDetails>), Problem> {
    author.access.operator()?;
    author.access.unlimited()?;
    let payload = read_body(&server.large_bodies, body).await?.payload;
    // The action continues, and is recorded, if the client does not wait for it.
    let working = tokio::spawn(async move {
        let name = serde_json::from_slice::<Value>(&payload).ok();
        let name = name.and_then(|campaign| campaign["name"].as_str().map(str::to_owned)).unwrap_or_default();
        let begun = start(&server, &name, payload).await;
        let result = begun.as_ref().map_or_else(|problem| problem.kind.name(), |_| "done");
        server.audit.record(&author, "campaign", shown(&name), result);
        begun
    });
    let begun = working.await.map_err(|error| ProblemKind::Internal.because(error.to_string()))?;
    Ok((StatusCode::CREATED, Json(CampaignDetails::from(begun?))))
}

/// Get a firmware campaign
#[utoipa::path(
    get,
    path = "/firmware/campaigns/{name}",
    tag = "firmware",
    params(("name" = String, Path, description = "Name of the campaign")),
    responses((status = 200, description = "The campaign", body = CampaignDetails), Problems<404>, Problems<503>)
)]
pub(super) async fn campaign(
    State(server): State<Arc<ConsoleServer>>,
    Extension(access): Extension<Access>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<CampaignDetails>, Problem> {
    access.unlimited()?;
    let Path(name) = name.map_err(|_| no_name())?;
    let view = server.gate.pass(server.sources.admin.control.campaign(name)).await.map_err(silent)?;
    Ok(Json(CampaignDetails::from(view.map_err(problem_of)?)))
}

/// List the devices of a firmware campaign
///
/// The order is that of the endpoint names.
#[utoipa::path(
    get,
    path = "/firmware/campaigns/{name}/devices",
    tag = "firmware",
    params(("name" = String, Path, description = "Name of the campaign"), CampaignDevicesQuery),
    responses(
        (status = 200, description = "Some devices", body = CampaignDevices),
        Problems<400>, Problems<404>, Problems<503>
    )
)]
pub(super) async fn campaign_devices(
    State(server): State<Arc<ConsoleServer>>,
    Extension(access): Extension<Access>,
    name: Result<Path<String>, PathRejection>,
    query: Result<Query<CampaignDevicesQuery>, QueryRejection>,
) -> Result<Json<CampaignDevices>, Problem> {
    access.unlimited()?;
    let Path(name) = name.map_err(|_| no_name())?;
    let invalid = |text: String| ProblemKind::InvalidRequest.because(text);
    let Query(query) = query?;
    let most = query.limit.unwrap_or(ROWS);
    if !(1..=MOST_ROWS).contains(&most) {
        return Err(invalid(format!("limit is a number from 1 to {MOST_ROWS}")));
    }
    let state = query.state.as_deref().map(|state| {
        let known = MemberState::ALL.into_iter().find(|known| known.name() == state);
        known.ok_or_else(|| invalid("state is none of a device in a campaign".to_owned()))
    });
    let ask = DevicesAsk { name, after: query.after, state: state.transpose()?, most };
    let members = server.gate.pass(server.sources.admin.control.campaign_devices(ask)).await.map_err(silent)?;
    let members = members.map_err(problem_of)?;
    let next = members.last().filter(|_| members.len() == most).map(|member| member.endpoint.clone());
    Ok(Json(CampaignDevices { devices: members.into_iter().map(CampaignDevice::from).collect(), next }))
}

/// Pause, resume or cancel a firmware campaign
///
/// For operators. A paused campaign begins no update; updates in progress continue. A cancelled campaign cancels them, too.
#[utoipa::path(
    post,
    path = "/firmware/campaigns/{name}/{action}",
    tag = "firmware",
    params(
        ("name" = String, Path, description = "Name of the campaign"),
        ("action" = inline(CampaignChange), Path, description = "What is done")
    ),
    responses(
        (status = 200, description = "The campaign", body = CampaignDetails),
        Problems<404>, Problems<409>, Problems<503>
    )
)]
pub(super) async fn act(
    State(server): State<Arc<ConsoleServer>>,
    author: Author,
    path: Result<Path<(String, CampaignChange)>, PathRejection>,
) -> Result<Json<CampaignDetails>, Problem> {
    author.access.operator()?;
    author.access.unlimited()?;
    let Path((name, action)) = path.map_err(|_| ProblemKind::NotFound.because("the API has no such resource"))?;
    let (action, audited) = match action {
        CampaignChange::Pause => (CampaignAction::Pause, "campaign pause"),
        CampaignChange::Resume => (CampaignAction::Resume, "campaign resume"),
        CampaignChange::Cancel => (CampaignAction::Cancel, "campaign cancel"),
    };
    let working = tokio::spawn(async move {
        let asked = server.sources.admin.control.control_campaign(name.clone(), action);
        let done = server.gate.pass(asked).await.map_err(silent).and_then(|done| done.map_err(problem_of));
        let result = done.as_ref().map_or_else(|problem| problem.kind.name(), |_| "done");
        server.audit.record(&author, audited, shown(&name), result);
        done
    });
    let done = working.await.map_err(|error| ProblemKind::Internal.because(error.to_string()))?;
    Ok(Json(CampaignDetails::from(done?)))
}

/// Begins a campaign, and waits until its image was looked at.
async fn start(server: &ConsoleServer, name: &str, payload: Vec<u8>) -> Result<CampaignView, Problem> {
    let control = &server.sources.admin.control;
    let (admitted, answer) = server.gate.pass(control.start_campaign(payload)).await.map_err(silent)?;
    admitted.map_err(problem_of)?;
    let answer = timeout(DESCRIPTION, answer).await;
    let late = "the image is still looked at; look for the campaign in the list later";
    let ConsoleAnswer { outcome, payload, .. } =
        answer.ok().and_then(Result::ok).ok_or_else(|| ProblemKind::DriverSilent.because(late))?;
    if outcome != AnswerOutcome::Answered {
        return Err(ProblemKind::CampaignInvalid.because(String::from_utf8_lossy(&payload)));
    }
    control.campaign(name.to_owned()).await.map_err(silent)?.map_err(problem_of)
}

fn problem_of(refusal: CampaignRefusal) -> Problem {
    let kind = match refusal.kind {
        RefusalKind::Invalid => ProblemKind::CampaignInvalid,
        RefusalKind::NotFound => ProblemKind::NoSuchCampaign,
        RefusalKind::Conflict => ProblemKind::CampaignConflict,
        RefusalKind::Busy => ProblemKind::TooManyCampaigns,
    };
    kind.because(refusal.reason)
}

fn no_name() -> Problem {
    ProblemKind::InvalidRequest.because("the name of the campaign is not percent-encoded text")
}

/// Returns the part of a name that the audit log has.
fn shown(name: &str) -> &str {
    name.char_indices().nth(64).map_or(name, |(end, _)| &name[..end])
}

impl From<CampaignView> for CampaignDocument {
    fn from(view: CampaignView) -> Self {
        let CampaignView { name, status, image, version, ends, counts, .. } = view;
        let devices = CampaignCounts::from(counts);
        Self { name, status: status.name(), image, version, ends: Timestamp(ends), devices }
    }
}

impl From<Counts> for CampaignCounts {
    fn from(counts: Counts) -> Self {
        Self {
            total: counts.total(),
            waiting: counts.of(MemberState::Waiting),
            updating: counts.of(MemberState::Updating),
            succeeded: counts.of(MemberState::Succeeded),
            failed: counts.of(MemberState::Failed),
            up_to_date: counts.of(MemberState::UpToDate),
            filter_mismatch: counts.of(MemberState::FilterMismatch),
            cancelled: counts.of(MemberState::Cancelled),
            deferred: counts.of(MemberState::Deferred),
            absent: counts.of(MemberState::Absent),
        }
    }
}

impl From<CampaignView> for CampaignDetails {
    fn from(mut view: CampaignView) -> Self {
        let mut config = std::mem::take(&mut view.spec);
        if let Some(config) = config.as_object_mut() {
            config.remove("endpoints");
        }
        Self { campaign: CampaignDocument::from(view), config }
    }
}

impl From<CampaignMember> for CampaignDevice {
    fn from(CampaignMember { endpoint, state, error }: CampaignMember) -> Self {
        Self { endpoint, state: state.name(), error }
    }
}
