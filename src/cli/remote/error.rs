//! Exit codes, and the errors of a command that asks a gateway.

use std::io;
use std::process::ExitCode;

use serde_json::Value;
use thiserror::Error;

/// The results that scripts tell apart by the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RemoteExit {
    /// The device answered 2.xx, or there was nothing to ask it.
    Done = 0,
    /// The gateway was not reached, or something else failed.
    Failed = 1,
    Usage = 2,
    /// The device answered 4.xx or 5.xx.
    DeviceError = 3,
    /// The device did not answer, or the gateway does not ask it.
    NoAnswer = 4,
    /// The command still waits when `--wait` ends.
    Pending = 5,
    NotRegistered = 6,
    /// The token is missing, unknown, or does not allow this.
    NotAllowed = 7,
    /// Another node of the cluster has the device.
    Elsewhere = 8,
}

impl From<RemoteExit> for ExitCode {
    fn from(exit: RemoteExit) -> Self {
        ExitCode::from(exit as u8)
    }
}

#[derive(Debug, Error)]
pub(crate) enum RemoteError {
    #[error("{0}")]
    Usage(String),
    #[error("cannot reach the gateway at {place}: {reason}")]
    Unreachable { place: String, reason: String },
    #[error("{0}")]
    Problem(ProblemDetails),
    /// The other side is no gateway, or not one of this version.
    #[error("unexpected answer of {place}: {reason}")]
    Answer { place: String, reason: String },
    #[error("{file}: {error}")]
    File { file: String, error: io::Error },
    #[error("signals: {0}")]
    Signals(io::Error),
    /// Writing to the standard output failed.
    #[error("standard output: {0}")]
    CommandOutput(#[from] io::Error),
}

/// An error of the API (RFC 9457).
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{title}{}{}", detail_part(.detail), hint(.status, .kind))]
pub(crate) struct ProblemDetails {
    pub status: u16,
    /// The last part of the type: `device-not-registered`.
    pub kind: String,
    title: String,
    detail: String,
}

impl RemoteError {
    /// Returns the exit code.
    pub(crate) fn exit(&self) -> RemoteExit {
        match self {
            Self::Usage(_) => RemoteExit::Usage,
            Self::Problem(problem) => problem.exit(),
            Self::Unreachable { .. }
            | Self::Answer { .. }
            | Self::File { .. }
            | Self::Signals(_)
            | Self::CommandOutput(_) => RemoteExit::Failed,
        }
    }
}

impl ProblemDetails {
    /// Reads the body of an error; one that is no problem document has the status only.
    pub(crate) fn of(status: u16, body: &str) -> Self {
        let document: Value = serde_json::from_str(body).unwrap_or_default();
        let text = |member: &str| document[member].as_str().unwrap_or_default().to_owned();
        let kind = text("type").rsplit(':').next().unwrap_or_default().to_owned();
        let title = match text("title") {
            title if title.is_empty() => format!("the gateway answered with HTTP status {status}"),
            title => title,
        };
        Self { status, kind, title, detail: text("detail") }
    }

    fn exit(&self) -> RemoteExit {
        match (self.status, self.kind.as_str()) {
            (401 | 403, _) => RemoteExit::NotAllowed,
            (404, "device-not-registered") => RemoteExit::NotRegistered,
            (421, "device-elsewhere") => RemoteExit::Elsewhere,
            (409, "campaign-conflict" | "last-node") => RemoteExit::Failed,
            // The gateway does not send the command: the device sleeps, its queue is full, or an application observes
            // the path.
            (409, _) => RemoteExit::NoAnswer,
            _ => RemoteExit::Failed,
        }
    }
}

fn detail_part(detail: &str) -> String {
    if detail.is_empty() { String::new() } else { format!(": {detail}") }
}

/// Returns the next step.
fn hint(status: &u16, kind: &str) -> &'static str {
    match (status, kind) {
        (401, _) => {
            ". Set LWM2M_GATEWAY_TOKEN or --token-file; `lwm2m-gateway token NAME` makes a token, console.tokens lists \
             it"
        }
        (409, "observed-already") => ". --force replaces the observation",
        (421, "device-elsewhere") => ". Ask that node with --at",
        (421, "wrong-host") => ". Add the name to console.hosts",
        _ => "",
    }
}
