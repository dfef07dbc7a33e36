//! Commands for devices: `POST /devices/{endpoint}/commands`, `GET` and `DELETE /commands/{id}`, and
//! `DELETE /devices/{endpoint}/queue/{number}`.
//!
//! 1. A command is the JSON of the MQTT interface, and goes the same way through the core: `giving`.
//! 2. Its record has the answer when it comes: `records`. A request may wait for it; the end of the wait ends nothing.
//! 3. What still waits in the queue of a device can be withdrawn, whoever gave it.

mod body;
pub(super) mod command_id;
mod documents;
mod giving;
mod rates;
mod records;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::Deserialize;
use tokio::time::timeout;
use utoipa::{IntoParams, ToSchema};

use crate::clock::monotonic_now;
use crate::driver::control::DriverSilent;
use lwm2m_core::gateway::operators::console_commands::{CommandState, Withdrawal};

use super::ConsoleServer;
use super::access::audit::Author;
use super::access::tokens::Access;
use super::devices::endpoints::{absent, check_prefix, visible_endpoint};
use super::http::problem::{Problem, ProblemKind, silent};
use super::http::responses::Problems;

use command_id::CommandId;

pub(crate) use body::{LARGE_BODIES, read as read_body};
pub(crate) use documents::{CommandDocument, CommandRequest};
pub(super) use giving::{Order, give};
pub(crate) use rates::CommandRates;
pub(crate) use records::{GivenCommand, GivenCommands};

/// Maximum time that a request waits for an answer.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Time from the head of a request to its answer. It is shorter than the listener's maximum.
const REQUEST: Duration = Duration::from_secs(85);
/// Time in which the answer to a command that has left its device reaches its record.
const ANSWER_ON_ITS_WAY: Duration = Duration::from_millis(100);

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct CommandQuery {
    /// Maximum time to wait for the answer, in seconds, 0 to 60; without it 0.
    #[param(minimum = 0, maximum = 60)]
    wait: Option<f64>,
    /// Whether the command may replace or end an observation of an application or of `auto_observe`.
    #[param(value_type = Option<bool>)]
    force: Option<String>,
    /// `stream`: an observation ends 60 s after the last event stream of this token and device was closed.
    #[serde(rename = "while")]
    #[param(inline, rename = "while")]
    lasts: Option<Lasts>,
}

/// The duration of an observation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Lasts {
    Stream,
}

/// Send a command to a device
///
/// For operators. The body is a command of the MQTT interface. The answer has status 200 if the device has answered
/// within `wait`, with whatever code, or if the command has ended otherwise. It has status 202 if the command continues:
/// `Location` is the path of the command.
#[utoipa::path(
    post,
    path = "/devices/{endpoint}/commands",
    tag = "commands",
    params(("endpoint" = String, Path, description = "Endpoint name, percent-encoded as a whole"), CommandQuery),
    request_body(content = CommandRequest, content_type = "application/json"),
    responses(
        (status = 200, description = "The command has ended", body = CommandDocument),
        (status = 202, description = "The command goes on", body = CommandDocument,
            headers(("Location" = String, description = "Path of the command"))),
        Problems<400>, Problems<404>, Problems<409>, Problems<413>, Problems<415>, Problems<429>, Problems<503>
    )
)]
pub(super) async fn command(
    State(server): State<Arc<ConsoleServer>>,
    author: Author,
    endpoint: Result<Path<String>, PathRejection>,
    query: Result<Query<CommandQuery>, QueryRejection>,
    body: Body,
) -> Result<Response, Problem> {
    let begun = monotonic_now();
    let (wait, order) = match order_without_body(&author.access, endpoint, query) {
        Ok(order) => order,
        Err(problem) => {
            body::discard(body).await;
            return Err(problem);
        }
    };
    let body = body::read(&server.large_bodies, body).await?;
    let order = Order { payload: body.payload, ..order };
    let (record, state) = give(&server, author, order).await?;
    drop(body.permit);
    if wait.is_zero() {
        return Ok(answer(&record, Some(state)));
    }
    let left = REQUEST.saturating_sub(monotonic_now() - begun);
    match timeout(wait.min(left), record.ended()).await {
        Ok(_) => Ok(answer(&record, None)),
        Err(_) => Ok(answer(&record, present_state(&server, &record).await?)),
    }
}

/// Get a command
///
/// The record is kept until ten minutes after the end of the command. A restart drops the record, not the command.
#[utoipa::path(
    get,
    path = "/commands/{id}",
    tag = "commands",
    params(("id" = String, Path, description = "ID of the command")),
    responses(
        (status = 200, description = "The command, with its answer if it has ended", body = CommandDocument),
        Problems<404>, Problems<503>
    )
)]
pub(super) async fn given(
    State(server): State<Arc<ConsoleServer>>,
    Extension(access): Extension<Access>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<CommandDocument>, Problem> {
    let record = visible_record(&server, &access, id)?;
    let state = present_state(&server, &record).await?;
    Ok(Json(document(&record, state)))
}

/// Withdraw a command that still waits
///
/// For operators.
#[utoipa::path(
    delete,
    path = "/commands/{id}",
    tag = "commands",
    params(("id" = String, Path, description = "ID of the command")),
    responses(
        (status = 204, description = "The command is withdrawn"),
        Problems<404>, Problems<409>, Problems<503>
    )
)]
pub(crate) async fn withdraw_given(
    State(server): State<Arc<ConsoleServer>>,
    author: Author,
    id: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, Problem> {
    author.access.operator()?;
    let record = visible_record(&server, &author.access, id)?;
    match withdraw(server, author, record.endpoint.clone(), record.number).await? {
        Withdrawal::Withdrawn => Ok(StatusCode::NO_CONTENT),
        Withdrawal::NotPending | Withdrawal::NotRegistered => {
            Err(ProblemKind::NotPending.because("the command was sent, or it has ended"))
        }
    }
}

/// Withdraw a pending command of a device
///
/// For operators. The sender of the command gets its final answer: 4.00, withdrawn by an operator.
#[utoipa::path(
    delete,
    path = "/devices/{endpoint}/queue/{number}",
    tag = "commands",
    params(
        ("endpoint" = String, Path, description = "Endpoint name, percent-encoded as a whole"),
        ("number" = u64, Path, description = "Number of the command in the queue of the device")
    ),
    responses(
        (status = 204, description = "The command is withdrawn"),
        Problems<400>, Problems<404>, Problems<503>
    )
)]
pub(crate) async fn withdraw_pending(
    State(server): State<Arc<ConsoleServer>>,
    author: Author,
    path: Result<Path<(String, u64)>, PathRejection>,
) -> Result<StatusCode, Problem> {
    author.access.operator()?;
    let invalid = |_| ProblemKind::InvalidRequest.because("expected a percent-encoded endpoint name and a number");
    let Path((endpoint, number)) = path.map_err(invalid)?;
    check_prefix(&author.access, &endpoint)?;
    match withdraw(Arc::clone(&server), author, endpoint.clone(), number).await? {
        Withdrawal::Withdrawn => Ok(StatusCode::NO_CONTENT),
        Withdrawal::NotPending => {
            Err(ProblemKind::NoSuchCommand.because(format!("no command {number} waits for {endpoint:?}")))
        }
        Withdrawal::NotRegistered => Err(absent(&server, &endpoint).await),
    }
}

impl CommandQuery {
    fn wait(&self) -> Result<Duration, Problem> {
        let wait = Duration::try_from_secs_f64(self.wait.unwrap_or(0.0)).ok().filter(|wait| *wait <= LONGEST_WAIT);
        wait.ok_or_else(|| ProblemKind::InvalidRequest.because("wait is a number of seconds from 0 to 60"))
    }

    fn force(&self) -> Result<bool, Problem> {
        match self.force.as_deref() {
            None | Some("false") => Ok(false),
            Some("" | "true") => Ok(true),
            Some(_) => Err(ProblemKind::InvalidRequest.because("force is true or false")),
        }
    }
}

/// Returns the time to wait, and the command without its body.
fn order_without_body(
    access: &Access,
    endpoint: Result<Path<String>, PathRejection>,
    query: Result<Query<CommandQuery>, QueryRejection>,
) -> Result<(Duration, Order), Problem> {
    access.operator()?;
    let endpoint = visible_endpoint(access, endpoint)?;
    let Query(query) = query?;
    let (wait, force, while_stream) = (query.wait()?, query.force()?, query.lasts == Some(Lasts::Stream));
    Ok((wait, Order { endpoint, payload: Vec::new(), force, while_stream }))
}

/// Withdraws a command. That continues, and is recorded, if the client does not wait for it.
async fn withdraw(
    server: Arc<ConsoleServer>,
    author: Author,
    endpoint: String,
    number: u64,
) -> Result<Withdrawal, Problem> {
    let working = tokio::spawn(async move {
        let withdrawn = server.gate.pass(server.sources.admin.control.withdraw(endpoint.clone(), number)).await;
        let result = match withdrawn {
            Ok(Withdrawal::Withdrawn) => "done",
            Ok(Withdrawal::NotPending) => "not pending",
            Ok(Withdrawal::NotRegistered) => "not registered",
            Err(DriverSilent) => "no answer",
        };
        server.audit.record(&author, "withdraw", &endpoint, result);
        withdrawn.map_err(silent)
    });
    working.await.map_err(|error| ProblemKind::Internal.because(error.to_string()))?
}

fn visible_record(
    server: &ConsoleServer,
    access: &Access,
    id: Result<Path<String>, PathRejection>,
) -> Result<Arc<GivenCommand>, Problem> {
    let no_such = || ProblemKind::NoSuchCommand.because("the gateway knows no command with this ID, or not any more");
    let id = id.ok().and_then(|Path(id)| CommandId::parse(&id)).ok_or_else(no_such)?;
    let record = server.commands.get(monotonic_now(), id).ok_or_else(no_such)?;
    check_prefix(access, &record.endpoint)?;
    Ok(record)
}

/// Asks for the state of a command that has not ended.
async fn present_state(server: &ConsoleServer, record: &GivenCommand) -> Result<Option<CommandState>, Problem> {
    if record.end().is_some() {
        return Ok(None);
    }
    let asked = server.sources.admin.control.command_state(record.endpoint.clone(), record.number);
    let state = server.gate.pass(asked).await.map_err(silent)?;
    if state.is_none() {
        let until: Instant = monotonic_now() + ANSWER_ON_ITS_WAY;
        let _in_time = tokio::time::timeout_at(until.into(), record.ended()).await;
    }
    Ok(state)
}

fn answer(record: &GivenCommand, state: Option<CommandState>) -> Response {
    let document = document(record, state);
    if document.has_ended() {
        return Json(document).into_response();
    }
    let location = format!("{}/commands/{}", super::api::BASE, record.id);
    (StatusCode::ACCEPTED, [(LOCATION, location)], Json(document)).into_response()
}

fn document(record: &GivenCommand, state: Option<CommandState>) -> CommandDocument {
    match record.end() {
        Some(end) => CommandDocument::done(record, &end),
        None => CommandDocument::pending(record, state),
    }
}
