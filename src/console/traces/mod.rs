//! Traces: the messages of one device, one address or one identity, decoded and as pcap files.
//!
//! 1. The core copies messages while a trace runs, and the driver passes them on by a bounded queue.
//! 2. `hub` takes them. `covering` and `values` cover what is secret, before `record` keeps a message.
//! 3. `documents` decodes messages when somebody asks for them, and `pcap` writes them for Wireshark. A `follower` has
//!    them as they come.

mod covering;
pub(super) mod documents;
pub(super) mod follower;
pub(super) mod hub;
mod pcap;
mod record;
mod values;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE, LOCATION};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::{Deserialize, Deserializer};
use utoipa::openapi::schema::{AdditionalProperties, OneOfBuilder, Schema};
use utoipa::openapi::{ObjectBuilder, RefOr, Type};
use utoipa::{IntoParams, PartialSchema, ToSchema};

use lwm2m_core::gateway::operators::trace::{TraceId, TraceTarget};
use lwm2m_core::lwm2m::number::whole_of;

use super::ConsoleServer;
use super::access::audit::Author;
use super::access::tokens::Access;
use super::events::feed::EventFeed;
use super::events::{ConnectionCut, respond};
use super::http::parameters::IpAddressText;
use super::http::problem::{Problem, ProblemKind};
use super::http::responses::Problems;

use documents::{TraceDocument, TraceEntryDocument, TraceList, TraceMessages, name_of};
use follower::TraceFollower;
use record::{TraceEntry, TraceRecord};

/// Duration of a trace without `minutes`, and the maximum.
const MINUTES: u64 = 30;
const MOST_MINUTES: u64 = 120;
/// Maximum length of an endpoint name or an identity, in characters.
const LONGEST_NAME: usize = 255;
const PCAP: &str = "application/vnd.tcpdump.pcap";
/// The router cannot tell this end of a path from the ID before it.
const PCAP_SUFFIX: &str = ".pcap";

/// The subject of a trace: one of `endpoint`, `address` and `identity`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewTrace {
    /// The device need not be registered.
    #[serde(default, deserialize_with = "given")]
    endpoint: Option<String>,
    #[serde(default, deserialize_with = "given")]
    address: Option<IpAddr>,
    #[serde(default, deserialize_with = "given")]
    identity: Option<String>,
    /// Duration of the trace in minutes. In JSON 30 and 30.0 are the same number.
    #[serde(default, deserialize_with = "given")]
    minutes: Option<f64>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct MessagesQuery {
    /// Returns only messages with a larger `n`.
    #[param(minimum = 0, maximum = 4294967295_u64, value_type = Option<u64>)]
    after: Option<u32>,
}

/// List the traces
///
/// For operators. The newest first. A token with a prefix lists the traces by endpoint name of its prefix.
#[utoipa::path(
    get,
    path = "/traces",
    tag = "traces",
    responses(
        (status = 200, description = "The traces", body = TraceList)
    )
)]
pub(super) async fn traces(
    State(server): State<Arc<ConsoleServer>>,
    Extension(access): Extension<Access>,
) -> Result<Json<TraceList>, Problem> {
    access.operator()?;
    let visible = |record: &TraceRecord| access.sees_trace(&record.target).then(|| TraceDocument::of(record));
    Ok(Json(TraceList { traces: server.traces.read_all(visible) }))
}

/// Begin a trace
///
/// For operators. It ends by itself. There are 8 traces at most, each with the newest 512 messages or 512 KiB.
#[utoipa::path(
    post,
    path = "/traces",
    tag = "traces",
    request_body = NewTrace,
    responses(
        (status = 201, description = "The trace has begun", body = TraceDocument,
            headers(("Location" = String, description = "Path of the trace"))),
        Problems<400>, Problems<415>, Problems<429>, Problems<503>
    )
)]
pub(super) async fn begin(
    State(server): State<Arc<ConsoleServer>>,
    author: Author,
    body: Result<Json<NewTrace>, JsonRejection>,
) -> Result<Response, Problem> {
    author.access.operator()?;
    let Json(wanted) = body?;
    let lasts = wanted.lasts()?;
    let target = wanted.target()?;
    if !author.access.sees_trace(&target) {
        return Err(limited());
    }
    let (words, by) = (words(&target), author.access.name.clone());
    let control = &server.sources.admin.control;
    let begun = server.traces.begin(control, target, (by, lasts), TraceDocument::of).await;
    server.audit.record(&author, "trace", &words, if begun.is_ok() { "done" } else { "refused" });
    let trace = begun?;
    let location = format!("/api/v1/traces/{}", trace.id());
    Ok((StatusCode::CREATED, [(LOCATION, location)], Json(trace)).into_response())
}

/// Get a trace with its messages
///
/// For operators. Stars stand for passwords, Locations, and payloads of paths that are never shown.
#[utoipa::path(
    get,
    path = "/traces/{id}",
    tag = "traces",
    params(("id" = String, Path, description = "ID of the trace"), MessagesQuery),
    responses(
        (status = 200, description = "The trace", body = TraceMessages),
        Problems<400>, Problems<404>
    )
)]
pub(super) async fn trace(
    State(server): State<Arc<ConsoleServer>>,
    Extension(access): Extension<Access>,
    id: Result<Path<String>, PathRejection>,
    query: Result<Query<MessagesQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    if let Ok(Path(name)) = &id
        && let Some(name) = name.strip_suffix(PCAP_SUFFIX)
    {
        return file(State(server), Extension(access), Ok(Path(name.to_owned()))).await;
    }
    let id = visible_trace(&server, &access, id)?;
    let Query(query) = query?;
    let after = query.after.map_or(0, u64::from);
    let read = |record: &TraceRecord| {
        let entries: Vec<TraceEntry> = record.entries(after).cloned().collect();
        (TraceDocument::of(record), entries)
    };
    let (trace, entries) = server.traces.read(id, read).ok_or_else(no_such_trace)?;
    let model = Arc::clone(&server.sources.model.borrow());
    let messages = entries.iter().map(|entry| TraceEntryDocument::of(entry, &model)).collect();
    Ok(Json(TraceMessages { trace, messages }).into_response())
}

/// Get a trace as a pcap file
///
/// For operators. Wireshark shows its decrypted messages. The link type is 252 (WIRESHARK_UPPER_PDU), the dissector
/// `coap`. Bytes are covered as in the JSON.
#[utoipa::path(
    get,
    path = "/api/v1/traces/{id}.pcap",
    tag = "traces",
    params(("id" = String, Path, description = "ID of the trace")),
    responses(
        (status = 200, description = "The file", content_type = "application/vnd.tcpdump.pcap", body = Vec<u8>),
        Problems<404>
    )
)]
pub(super) async fn file(
    State(server): State<Arc<ConsoleServer>>,
    Extension(access): Extension<Access>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let id = visible_trace(&server, &access, id)?;
    let read = |record: &TraceRecord| record.entries(0).cloned().collect::<Vec<_>>();
    let entries = server.traces.read(id, read).ok_or_else(no_such_trace)?;
    let file = pcap::file(entries.iter(), &server.sources.sockets);
    let disposition = format!("attachment; filename=\"trace-{}.pcap\"", name_of(id));
    Ok(([(CONTENT_TYPE, PCAP.to_owned()), (CONTENT_DISPOSITION, disposition)], file).into_response())
}

/// Follow a trace
///
/// For operators. A stream of server-sent events: `coap` and `dtls` with the messages, `lost` with the number of
/// messages that were evicted before they were read. It ends with the trace.
#[utoipa::path(
    get,
    path = "/traces/{id}/events",
    tag = "traces",
    params(("id" = String, Path, description = "ID of the trace"), MessagesQuery),
    responses(
        (status = 200, description = "Messages", content_type = "text/event-stream", body = TraceEntryDocument),
        Problems<400>, Problems<404>, Problems<429>
    )
)]
pub(crate) async fn trace_events(
    State(server): State<Arc<ConsoleServer>>,
    Extension(access): Extension<Access>,
    Extension(cut): Extension<ConnectionCut>,
    id: Result<Path<String>, PathRejection>,
    query: Result<Query<MessagesQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let id = visible_trace(&server, &access, id)?;
    let Query(query) = query?;
    let open = server.streams.open(&access.name, None)?;
    let follower = TraceFollower::of_trace(&server.traces, id, query.after.map_or(0, u64::from));
    let feed = EventFeed::of_trace(&server, follower);
    Ok(respond(access, cut, open, feed))
}

/// End a trace and remove its messages
///
/// For operators.
#[utoipa::path(
    delete,
    path = "/traces/{id}",
    tag = "traces",
    params(("id" = String, Path, description = "ID of the trace")),
    responses(
        (status = 204, description = "The trace has ended"),
        Problems<404>
    )
)]
pub(super) async fn end(
    State(server): State<Arc<ConsoleServer>>,
    author: Author,
    id: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, Problem> {
    let id = visible_trace(&server, &author.access, id)?;
    let words = server.traces.read(id, |record| words(&record.target)).ok_or_else(no_such_trace)?;
    // The action continues if the client does not wait for it.
    let working = tokio::spawn(async move {
        server.traces.remove(&server.sources.admin.control, id).await;
        server.audit.record(&author, "endTrace", &words, "done");
    });
    working.await.map_err(|error| ProblemKind::Internal.because(error.to_string()))?;
    Ok(StatusCode::NO_CONTENT)
}

impl PartialSchema for NewTrace {
    fn schema() -> RefOr<Schema> {
        let name = |about| {
            let text = ObjectBuilder::new().schema_type(Type::String).description(Some(about));
            RefOr::from(text.min_length(Some(1)).max_length(Some(LONGEST_NAME)))
        };
        let minutes = || {
            let number = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1)).maximum(Some(MOST_MINUTES));
            number.description(Some(format!("Duration in minutes; without it {MINUTES}"))).default(Some(MINUTES.into()))
        };
        let variants = [
            ("endpoint", name("Endpoint name. The device need not be registered.")),
            ("address", IpAddressText::schema()),
            ("identity", name("Identity of a DTLS handshake")),
        ];
        let variants = variants.into_iter().map(|(member, schema)| {
            let object = ObjectBuilder::new().property(member, schema).property("minutes", minutes());
            object.required(member).additional_properties(Some(AdditionalProperties::FreeForm(false)))
        });
        variants.fold(OneOfBuilder::new(), OneOfBuilder::item).into()
    }
}

impl ToSchema for NewTrace {}

impl NewTrace {
    fn lasts(&self) -> Result<Duration, Problem> {
        let Some(minutes) = self.minutes else { return Ok(Duration::from_secs(60 * MINUTES)) };
        let minutes = whole_of(minutes).and_then(|minutes| u64::try_from(minutes).ok());
        let minutes = minutes.filter(|minutes| (1..=MOST_MINUTES).contains(minutes)).ok_or_else(|| {
            let detail = format!("minutes is a whole number from 1 to {MOST_MINUTES}");
            ProblemKind::InvalidRequest.because(detail)
        })?;
        Ok(Duration::from_secs(60 * minutes))
    }

    fn target(self) -> Result<TraceTarget, Problem> {
        let target = match (self.endpoint, self.address, self.identity) {
            (Some(endpoint), None, None) => TraceTarget::Endpoint(endpoint),
            (None, Some(address), None) => TraceTarget::Address(address.to_canonical()),
            (None, None, Some(identity)) => TraceTarget::Identity(identity),
            _ => return Err(ProblemKind::InvalidRequest.because("expected one of endpoint, address and identity")),
        };
        match &target {
            TraceTarget::Endpoint(name) | TraceTarget::Identity(name)
                if name.is_empty() || name.chars().count() > LONGEST_NAME =>
            {
                let detail = format!("an endpoint name or an identity has 1 to {LONGEST_NAME} characters");
                Err(ProblemKind::InvalidRequest.because(detail))
            }
            TraceTarget::Endpoint(_) | TraceTarget::Identity(_) | TraceTarget::Address(_) => Ok(target),
        }
    }
}

impl Access {
    /// Returns whether the token may have this trace: with a prefix only one by an endpoint name that begins so.
    fn sees_trace(&self, target: &TraceTarget) -> bool {
        match (&self.prefix, target) {
            (None, _) => true,
            (Some(prefix), TraceTarget::Endpoint(endpoint)) => endpoint.starts_with(prefix.as_str()),
            (Some(_), TraceTarget::Address(_) | TraceTarget::Identity(_)) => false,
        }
    }
}

/// Reads a member that may be absent, but not null.
fn given<'d, T: Deserialize<'d>, D: Deserializer<'d>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// Returns the ID of a trace in a path, if the token is that of an operator and may have the trace.
fn visible_trace(
    server: &ConsoleServer,
    access: &Access,
    id: Result<Path<String>, PathRejection>,
) -> Result<TraceId, Problem> {
    access.operator()?;
    let Path(id) = id.map_err(|_| no_such_trace())?;
    let id = u64::from_str_radix(&id, 16).ok().map(TraceId).filter(|number| name_of(*number) == id);
    let id = id.ok_or_else(no_such_trace)?;
    match server.traces.read(id, |record| access.sees_trace(&record.target)) {
        Some(true) => Ok(id),
        Some(false) => Err(limited()),
        None => Err(no_such_trace()),
    }
}

fn words(target: &TraceTarget) -> String {
    match target {
        TraceTarget::Endpoint(endpoint) => endpoint.clone(),
        TraceTarget::Address(address) => format!("address {address}"),
        TraceTarget::Identity(identity) => format!("identity {identity}"),
    }
}

fn no_such_trace() -> Problem {
    ProblemKind::NoSuchTrace.because("there is no trace with this ID; it may have ended more than an hour ago")
}

fn limited() -> Problem {
    ProblemKind::NotAllowed.because("the token is limited to traces by endpoint name of its prefix")
}
