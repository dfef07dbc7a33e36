//! `DELETE /generated-keys/{identity}`: the keys that the bootstrap server has generated. No answer has a key.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use lwm2m_base::identity::PskIdentity;

use crate::driver::control::DriverSilent;

use super::ConsoleServer;
use super::access::audit::Author;
use super::http::problem::{Problem, ProblemKind, silent};
use super::http::responses::Problems;

/// Remove a generated key
///
/// For operators whose token is not limited to some devices. The key does not hold from now on, and the DTLS sessions
/// that were made with it end. If an account still generates it, the next bootstrap of the device generates another
/// one.
#[utoipa::path(
    delete,
    path = "/generated-keys/{identity}",
    tag = "gateway",
    params(("identity" = String, Path, description = "Identity of the pre-shared key, percent-encoded as a whole")),
    responses(
        (status = 204, description = "The key is removed"),
        Problems<400>, Problems<404>, Problems<503>
    )
)]
pub(super) async fn remove(
    State(server): State<Arc<ConsoleServer>>,
    author: Author,
    identity: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, Problem> {
    author.access.operator()?;
    author.access.unlimited()?;
    let Path(text) = identity.map_err(|_| invalid("the identity is not percent-encoded text"))?;
    let identity = PskIdentity::new(text.as_bytes())
        .ok_or_else(|| invalid(format!("an identity has 1 to {} bytes, none of them 0", PskIdentity::MAX)))?;
    // The action continues, and is recorded, if the client does not wait for it.
    let working = tokio::spawn(async move { remove_recorded(&server, &author, identity).await });
    match working.await.map_err(|error| ProblemKind::Internal.because(error.to_string()))?? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(ProblemKind::NoSuchKey.because(format!("no key was generated for the identity {text:?}"))),
    }
}

/// Removes a key, records that, and returns whether there was one.
async fn remove_recorded(server: &ConsoleServer, author: &Author, identity: PskIdentity) -> Result<bool, Problem> {
    let removed = server.gate.pass(server.sources.admin.control.remove_generated_key(identity.clone())).await;
    let result = match removed {
        Ok(true) => "done",
        Ok(false) => "no such key",
        Err(DriverSilent) => "no answer",
    };
    server.audit.record(author, "remove-key", identity.as_str(), result);
    removed.map_err(silent)
}

fn invalid(reason: impl Into<String>) -> Problem {
    ProblemKind::InvalidRequest.because(reason)
}
