//! `POST /gateways/lwm2m/clients/{clientid}/read`, `/write` and `/observe`, which give a command and do not wait for
//! its answer, and `GET .../lookup`, which looks for the answer.

use std::sync::Arc;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use lwm2m_core::gateway::operators::view::DeviceFilter;
use lwm2m_core::lwm2m::model::Model;
use lwm2m_core::lwm2m::path::Path as ResourcePath;

use super::clients::{name, row};
use super::error::EmqxError;
use crate::clock::monotonic_now;
use crate::console::ConsoleServer;
use crate::console::access::audit::Author;
use crate::console::access::tokens::Access;
use crate::console::commands::{Order, give};
use crate::console::http::problem::ProblemKind;
use crate::console::http::responses::{EmqxCommandErrors, EmqxErrors};

/// The code and the message of a command without an answer, as EMQX has them.
const NO_REPLY: (&str, &str) = ("6.01", "reply_not_received");

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct ReadQuery {
    #[param(example = "/3/0/0")]
    path: String,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct WriteQuery {
    #[param(example = "/1/0/1")]
    path: String,
    /// `Integer`, `Float`, `Time`, `String`, `Boolean`, `Opaque` or `Objlnk`.
    #[serde(rename = "type")]
    #[param(example = "Integer")]
    kind: String,
    #[param(example = "300")]
    value: String,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct ObserveQuery {
    #[param(example = "/3/0/9")]
    path: String,
    /// `true` and `1` observe; everything else ends an observation.
    #[param(example = "true")]
    enable: String,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct LookupQuery {
    /// The path of the command, as it was given.
    #[param(example = "/3/0/0")]
    path: String,
    /// The type of the command, such as `read`.
    #[param(example = "read")]
    action: String,
}

/// The newest answer to a command.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = EmqxLookup)]
pub(crate) struct Lookup {
    clientid: String,
    action: String,
    path: String,
    /// The code of the answer; `6.01` if there is none.
    #[schema(example = "2.05")]
    code: String,
    #[serde(rename = "codeMsg")]
    #[schema(example = "content")]
    message: String,
    /// Values, or for `discover` resources with their names. Absent for an answer without content.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Object>>)]
    content: Option<Value>,
}

/// The parts of an answer that matter here.
#[derive(Deserialize)]
struct PublishedAnswer<'a> {
    #[serde(rename = "msgType")]
    action: String,
    #[serde(borrow)]
    data: &'a RawValue,
}

#[derive(Deserialize)]
struct AnswerData {
    code: String,
    #[serde(rename = "codeMsg")]
    message: String,
    #[serde(rename = "reqPath")]
    path: Option<String>,
    content: Option<Value>,
}

/// Read a path as EMQX does
///
/// For operators. `lookup` has the answer later.
#[utoipa::path(
    post,
    path = "/gateways/lwm2m/clients/{clientid}/read",
    tag = "emqx",
    params(("clientid" = String, Path, description = "Endpoint name, percent-encoded as a whole"), ReadQuery),
    responses(
        (status = 204, description = "The command was sent or waits"),
        EmqxCommandErrors
    )
)]
pub(crate) async fn read(
    State(server): State<Arc<ConsoleServer>>,
    author: Author,
    clientid: Result<Path<String>, PathRejection>,
    query: Result<Query<ReadQuery>, QueryRejection>,
) -> Result<StatusCode, EmqxError> {
    let Query(ReadQuery { path }) = query?;
    let command = json!({ "msgType": "read", "data": { "path": path } });
    hand_over(&server, author, clientid, &command).await
}

/// Write a resource as EMQX does
///
/// For operators. `lookup` has the answer later.
#[utoipa::path(
    post,
    path = "/gateways/lwm2m/clients/{clientid}/write",
    tag = "emqx",
    params(("clientid" = String, Path, description = "Endpoint name, percent-encoded as a whole"), WriteQuery),
    responses(
        (status = 204, description = "The command was sent or waits"),
        EmqxCommandErrors
    )
)]
pub(crate) async fn write(
    State(server): State<Arc<ConsoleServer>>,
    author: Author,
    clientid: Result<Path<String>, PathRejection>,
    query: Result<Query<WriteQuery>, QueryRejection>,
) -> Result<StatusCode, EmqxError> {
    let Query(query) = query?;
    let WriteQuery { path, kind, value } = query;
    let command = json!({ "msgType": "write", "data": { "path": path, "type": kind, "value": value } });
    hand_over(&server, author, clientid, &command).await
}

/// Observe a path as EMQX does, or end that
///
/// For operators. What an application observes stays observed.
#[utoipa::path(
    post,
    path = "/gateways/lwm2m/clients/{clientid}/observe",
    tag = "emqx",
    params(("clientid" = String, Path, description = "Endpoint name, percent-encoded as a whole"), ObserveQuery),
    responses(
        (status = 204, description = "The command was sent or waits, or an application observes the path"),
        EmqxCommandErrors
    )
)]
pub(crate) async fn observe(
    State(server): State<Arc<ConsoleServer>>,
    author: Author,
    clientid: Result<Path<String>, PathRejection>,
    query: Result<Query<ObserveQuery>, QueryRejection>,
) -> Result<StatusCode, EmqxError> {
    let Query(query) = query?;
    let ObserveQuery { path, enable } = query;
    let msg_type = if matches!(enable.as_str(), "true" | "1") { "observe" } else { "cancel-observe" };
    let command = json!({ "msgType": msg_type, "data": { "path": path } });
    hand_over(&server, author, clientid, &command).await
}

/// Look for the answer to a command as EMQX does
///
/// It has the answers to commands that were given by this API.
#[utoipa::path(
    get,
    path = "/gateways/lwm2m/clients/{clientid}/lookup",
    tag = "emqx",
    params(("clientid" = String, Path, description = "Endpoint name, percent-encoded as a whole"), LookupQuery),
    responses(
        (status = 200, description = "The newest answer", body = Lookup),
        EmqxErrors<400>, EmqxErrors<404>, EmqxErrors<503>
    )
)]
pub(crate) async fn lookup(
    State(server): State<Arc<ConsoleServer>>,
    Extension(access): Extension<Access>,
    clientid: Result<Path<String>, PathRejection>,
    query: Result<Query<LookupQuery>, QueryRejection>,
) -> Result<Json<Lookup>, EmqxError> {
    access.unlimited()?;
    let clientid = name(clientid)?;
    let Query(query) = query?;
    let LookupQuery { path, action } = query;
    if row(&server, clientid.clone(), DeviceFilter::default()).await?.is_none() {
        return Err(EmqxError::no_such_client());
    }
    let records = server.commands.of(monotonic_now(), &clientid);
    let ends = records.iter().filter_map(|record| record.end());
    let answer = ends.rev().find_map(|end| answer(end.answer.get(), &action, &path));
    let model = Arc::clone(&server.sources.model.borrow());
    let lookup = match answer {
        None => Lookup {
            clientid,
            action,
            path,
            code: NO_REPLY.0.to_owned(),
            message: NO_REPLY.1.to_owned(),
            content: None,
        },
        Some(AnswerData { code, message, content, .. }) => {
            let is_discover = action == "discover";
            let content = content.map(|content| if is_discover { resources(&model, &content) } else { content });
            Lookup { clientid, action, path, code, message, content }
        }
    };
    Ok(Json(lookup))
}

async fn hand_over(
    server: &Arc<ConsoleServer>,
    author: Author,
    clientid: Result<Path<String>, PathRejection>,
    command: &Value,
) -> Result<StatusCode, EmqxError> {
    author.access.operator()?;
    author.access.unlimited()?;
    let payload = command.to_string().into_bytes();
    let order = Order { endpoint: name(clientid)?, payload, force: false, while_stream: false };
    match give(server, author, order).await {
        Ok(_) => Ok(StatusCode::NO_CONTENT),
        Err(problem) if problem.kind == ProblemKind::ObservedAlready => Ok(StatusCode::NO_CONTENT),
        Err(problem) if problem.kind == ProblemKind::DeviceNotRegistered => Err(EmqxError::no_such_client()),
        Err(problem) => Err(problem.into()),
    }
}

/// Returns the data of an answer to a command of this type and path.
fn answer(text: &str, action: &str, path: &str) -> Option<AnswerData> {
    let answer: PublishedAnswer<'_> = serde_json::from_str(text).ok()?;
    if answer.action != action {
        return None;
    }
    let data: AnswerData = serde_json::from_str(answer.data.get()).ok()?;
    (data.path.as_deref() == Some(path)).then_some(data)
}

/// Returns the resources of links such as `</3/0/9>;pmin=5`, with what their newest definition says of them.
fn resources(model: &Model, links: &Value) -> Value {
    let links = links.as_array().into_iter().flatten().filter_map(Value::as_str);
    let paths = links.filter_map(|link| {
        let (path, _) = link.strip_prefix('<')?.split_once('>')?;
        path.parse::<ResourcePath>().ok().filter(|path| path.resource().is_some())
    });
    paths.map(|path| described(model, path)).collect()
}

fn described(model: &Model, path: ResourcePath) -> Value {
    let mut description = json!({ "path": path.to_string() });
    let object = model.objects().find(|object| Some(object.id) == path.object());
    let Some(resource) = object.zip(path.resource()).and_then(|(object, id)| object.resource(id)) else {
        return description;
    };
    description["name"] = json!(resource.name);
    description["operations"] = json!(resource.operations.to_string());
    if let Some(kind) = resource.resource_type {
        description["dataType"] = json!(kind.to_string());
    }
    description
}
