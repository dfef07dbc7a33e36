//! `GET /failures`: the newest failures of devices, with their reasons in words.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use serde::Serialize;
use utoipa::ToSchema;

use crate::observability::failures::{CountedFailure, Failure};

use super::ConsoleServer;
use super::access::tokens::Access;
use super::hide::HiddenPaths;
use super::http::problem::Problem;
use super::time::Timestamp;

/// The newest failures.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FailureList {
    /// The failures; the one that occurred last comes first.
    failures: Vec<FailureDocument>,
}

/// A failure and the number of its occurrences.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Failure)]
pub(crate) struct FailureDocument {
    /// `register`, `forbidden`, `bootstrap`, `handshake`, `timeout`, `undecodable`, `publish`, `transfer` or
    /// `notRestored`.
    #[schema(example = "register")]
    kind: &'static str,
    /// Time of the last occurrence.
    at: Timestamp,
    /// Time of the first occurrence.
    first: Timestamp,
    count: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "10.0.0.9:56830")]
    address: Option<String>,
    /// The DTLS identity that the peer has proved or, in a handshake, has named.
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<String>,
    /// The code that the peer was answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "4.03")]
    code: Option<String>,
    /// Path of the resource, or the topic.
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    reason: String,
}

/// List the newest failures of devices
///
/// Equal failures are counted in one entry.
#[utoipa::path(
    get,
    path = "/failures",
    tag = "gateway",
    responses(
        (status = 200, description = "At most 512 failures", body = FailureList)
    )
)]
pub(super) async fn failures(
    State(server): State<Arc<ConsoleServer>>,
    Extension(access): Extension<Access>,
) -> Result<Json<FailureList>, Problem> {
    access.unlimited()?;
    let newest = server.sources.failures.newest_first().into_iter();
    let failures = newest.map(|failure| FailureDocument::of(failure, &server.hidden)).collect();
    Ok(Json(FailureList { failures }))
}

impl FailureDocument {
    pub(super) fn of(counted: CountedFailure, hidden: &HiddenPaths) -> Self {
        let CountedFailure { failure, first, at, count } = counted;
        let Failure { kind, endpoint, address, identity, code, path, reason } = failure;
        let resource = path.as_ref().and_then(|path| path.parse().ok());
        Self {
            kind: kind.name(),
            at: Timestamp(at),
            first: Timestamp(first),
            count,
            endpoint,
            address: address.map(|address| address.to_string()),
            identity,
            code: code.map(|code| code.to_string()),
            path,
            reason: hidden.reason(resource.as_ref(), &reason).to_owned(),
        }
    }
}
