//! The audit log: the changes that users of the console made. It never contains values.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::rejection::ExtensionRejection;
use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::{Extension, Json};
use serde::Serialize;
use tracing::field::display;
use tracing::info;
use utoipa::ToSchema;

use super::guard::ConsolePeer;
use super::tokens::Access;
use crate::console::ConsoleServer;
use crate::console::commands::command_id::CommandId;
use crate::console::http::problem::Problem;
use crate::console::time::{Timestamp, now};

/// Maximum number of entries that `GET /audit` returns. The log has all of them.
const ENTRIES: usize = 256;

/// The newest entries.
#[derive(Debug, Default)]
pub(crate) struct AuditLog(Mutex<VecDeque<AuditEntry>>);

/// A change and its author.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AuditEntry {
    at: Timestamp,
    /// Name of the token, or `uid:NUMBER` of a process that uses the socket.
    by: String,
    /// Address of the client, or `socket`.
    from: String,
    #[schema(example = "kick")]
    action: &'static str,
    endpoint: String,
    #[schema(example = "done")]
    result: &'static str,
    #[serde(flatten)]
    command: AuditedCommand,
}

/// The description of a command without its values.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AuditedCommand {
    /// ID of the command, by which `GET /commands/{id}` has its answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "0123456789abcdef0123456789abcdef")]
    pub id: Option<CommandId>,
    /// Type of a command; absent if it is none that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "write")]
    pub msg_type: Option<&'static str>,
    /// Path of a command; the first paths of a composite command.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "/3/0/14")]
    pub path: Option<String>,
    /// Size of a command, in bytes.
    #[serde(skip_serializing_if = "is_zero")]
    pub bytes: usize,
    /// Whether a command may replace or end observations of others.
    #[serde(skip_serializing_if = "is_false")]
    pub force: bool,
}

/// The newest entries of the audit log.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AuditEntries {
    /// The newest first.
    entries: Vec<AuditEntry>,
}

/// The author of a change: the token of the request, and the address from which it came.
#[derive(Clone, Debug)]
pub(crate) struct Author {
    pub access: Access,
    pub peer: ConsolePeer,
}

impl<S: Send + Sync> FromRequestParts<S> for Author {
    type Rejection = ExtensionRejection;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ExtensionRejection> {
        let Extension(access) = Extension::from_request_parts(parts, state).await?;
        let Extension(peer) = Extension::from_request_parts(parts, state).await?;
        Ok(Self { access, peer })
    }
}

impl AuditLog {
    /// Records the result of an action.
    pub(in crate::console) fn record(
        &self,
        author: &Author,
        action: &'static str,
        endpoint: &str,
        result: &'static str,
    ) {
        self.add(author, action, endpoint, AuditedCommand::default(), result);
    }

    /// Records a command, before it is given and if it is refused.
    pub(crate) fn record_command(
        &self,
        author: &Author,
        endpoint: &str,
        command: &AuditedCommand,
        result: &'static str,
    ) {
        self.add(author, "command", endpoint, command.clone(), result);
    }

    fn add(
        &self,
        author: &Author,
        action: &'static str,
        endpoint: &str,
        command: AuditedCommand,
        result: &'static str,
    ) {
        let from = match author.peer {
            ConsolePeer::Tcp { remote, .. } => remote.to_string(),
            ConsolePeer::Process(_) => "socket".to_owned(),
        };
        let by = author.access.name.clone();
        let (msg_type, path, force) = (command.msg_type, command.path.as_deref(), command.force.then_some(true));
        let (id, bytes) = (command.id.map(display), (command.bytes > 0).then_some(command.bytes));
        info!(target: "audit", by, from, action, endpoint, msg_type, path, bytes, force, id, result, "console");
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.truncate(ENTRIES - 1);
        entries.push_front(AuditEntry { at: now(), by, from, action, endpoint: endpoint.to_owned(), result, command });
    }

    fn entries(&self) -> Vec<AuditEntry> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

fn is_false(truth: &bool) -> bool {
    !truth
}

/// List the newest changes that were made by the console
///
/// For operators.
#[utoipa::path(
    get,
    path = "/audit",
    tag = "gateway",
    responses(
        (status = 200, description = "At most 256 entries", body = AuditEntries)
    )
)]
pub(in crate::console) async fn audit(
    State(server): State<Arc<ConsoleServer>>,
    Extension(access): Extension<Access>,
) -> Result<Json<AuditEntries>, Problem> {
    access.operator()?;
    access.unlimited()?;
    Ok(Json(AuditEntries { entries: server.audit.entries() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_entries_are_kept() {
        let log = AuditLog::default();
        let author = Author { access: Access::of_process(7), peer: ConsolePeer::Process(7) };
        for number in 0..300 {
            log.record(&author, "kick", &format!("ep{number}"), "done");
        }
        let entries = log.entries();
        assert_eq!((entries.len(), entries[0].endpoint.as_str()), (ENTRIES, "ep299"));
        assert_eq!((entries[255].endpoint.as_str(), entries[0].by.as_str()), ("ep44", "uid:7"));
    }
}
