//! Writes the JSON of everything that is published. Each function returns a whole payload.

pub(crate) mod firmware;
mod outcome;
mod registration;

use std::time::Duration;

use bytes::Bytes;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::json;

use crate::coap::Code;
use crate::command::{Command, Echo, RequestTarget};
use crate::lwm2m::codec::Entry;
use crate::lwm2m::operation::{Content, Outcome};
use crate::lwm2m::path::Path;
use crate::lwm2m::register::Registration;
use crate::registry::Presence;

use self::firmware::FirmwareData;
use self::outcome::OutcomeData;
use self::registration::RegistrationMessage;

use super::unanswered::UnansweredData;

/// The number of bytes that most payloads fit into: they are written without a copy into a larger buffer.
const USUAL_SIZE: usize = 256;

/// The identity in a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProvenIdentity<'a> {
    /// Leaves the identity out.
    Omitted,
    /// Adds the member `identity` for a device that proved one.
    Included(Option<&'a str>),
}

/// Returns a `register` report.
pub fn register(registration: &Registration, proven: ProvenIdentity<'_>) -> Bytes {
    written(&RegistrationMessage { msg_type: "register", registration, proven })
}

/// Returns an `update` report with the whole merged registration.
pub fn update(registration: &Registration, proven: ProvenIdentity<'_>) -> Bytes {
    written(&RegistrationMessage { msg_type: "update", registration, proven })
}

/// Returns a presence message. `since` is the time since 1970; a will has none, because it is written in advance.
pub fn status(presence: Presence, since: Option<Duration>) -> Bytes {
    let status = match presence {
        Presence::Online => "online",
        Presence::Asleep => "asleep",
        Presence::Offline => "offline",
    };
    written(&json!({ "msgType": "status", "status": status, "since": since.map(|since| since.as_secs()) }))
}

/// Returns the final answer to a command. `seq_num` is the Observe number of the first answer to `observe`.
pub fn answer(echo: &Echo, outcome: &Outcome, seq_num: Option<u32>) -> Bytes {
    let data = Data::Answer { echo, outcome };
    // Zero says only that the observation begins.
    let seq_num = seq_num.filter(|number| *number != 0);
    written(&Uplink { echo, msg_type: echo.msg_type(), data: Some(data), seq_num })
}

/// Returns a notification of the observation that this command began.
pub fn notification(echo: &Echo, outcome: &Outcome, seq_num: Option<u32>) -> Bytes {
    let data = Data::Notification { echo, outcome };
    written(&Uplink { echo, msg_type: "notify", data: Some(data), seq_num })
}

/// Returns `ack` without `data`: the device has received the command and will answer later.
pub fn acknowledged(echo: &Echo) -> Bytes {
    written(&Uplink { echo, msg_type: "ack", data: None, seq_num: None })
}

/// Returns `coap_reset` with the `data` of the command. A large value in it is replaced by its size.
pub fn reset(command: &Command) -> Bytes {
    written(&Uplink { echo: &command.echo, msg_type: "coap_reset", data: command_data(command), seq_num: None })
}

/// Returns `coap_timeout` with the `data` of the command. A large value in it is replaced by its size.
pub fn timed_out(command: &Command) -> Bytes {
    written(&Uplink { echo: &command.echo, msg_type: "coap_timeout", data: command_data(command), seq_num: None })
}

/// Returns 4.00 with the reason, for a payload that is not a command, or for a command that the gateway gave up.
pub fn refused(echo: &Echo, reason: &str) -> Bytes {
    answer(echo, &Outcome::refused(reason), None)
}

/// Returns the message for values that a device sent without having been asked (LwM2M 1.1 section 6.4.6).
pub fn send(entries: Vec<Entry>) -> Bytes {
    send_outcome(&Outcome { content: Some(Content::Entries(entries)), ..Outcome::of(Code::CONTENT) })
}

/// Returns the message for a Send that cannot be decoded.
pub fn send_refused(reason: &str) -> Bytes {
    send_outcome(&Outcome::refused(reason))
}

fn send_outcome(outcome: &Outcome) -> Bytes {
    written(&Send { outcome })
}

/// Returns the name of a code in `codeMsg`.
pub(crate) fn code_message(code: Code) -> &'static str {
    match code {
        Code::CREATED => "created",
        Code::DELETED => "deleted",
        Code::VALID => "valid",
        Code::CHANGED => "changed",
        Code::CONTENT => "content",
        Code::CONTINUE => "continue",
        Code::BAD_REQUEST => "bad_request",
        Code::UNAUTHORIZED => "unauthorized",
        Code::BAD_OPTION => "bad_option",
        Code::FORBIDDEN => "forbidden",
        Code::NOT_FOUND => "not_found",
        Code::METHOD_NOT_ALLOWED => "method_not_allowed",
        Code::NOT_ACCEPTABLE => "not_acceptable",
        Code::REQUEST_ENTITY_INCOMPLETE => "request_entity_incomplete",
        Code::CONFLICT => "conflict",
        Code::PRECONDITION_FAILED => "precondition_failed",
        Code::REQUEST_ENTITY_TOO_LARGE => "request_entity_too_large",
        Code::UNSUPPORTED_CONTENT_FORMAT => "unsupported_content_format",
        Code::UNPROCESSABLE_ENTITY => "unprocessable_entity",
        Code::TOO_MANY_REQUESTS => "too_many_requests",
        Code::INTERNAL_SERVER_ERROR => "internal_server_error",
        Code::NOT_IMPLEMENTED => "not_implemented",
        Code::BAD_GATEWAY => "bad_gateway",
        Code::SERVICE_UNAVAILABLE => "service_unavailable",
        Code::GATEWAY_TIMEOUT => "gateway_timeout",
        Code::PROXYING_NOT_SUPPORTED => "proxying_not_supported",
        _ => "unknown",
    }
}

fn written(payload: &impl Serialize) -> Bytes {
    let mut json = Vec::with_capacity(USUAL_SIZE);
    serde_json::to_writer(&mut json, payload).expect("members with text keys and finite numbers are JSON");
    json.into()
}

fn command_data(command: &Command) -> Option<Data<'_>> {
    let data = command.echo.data()?;
    Some(Data::Command(UnansweredData { data, operation: &command.operation }))
}

/// Serializes the object of the command with another `msgType` and other `data`.
struct Uplink<'a> {
    echo: &'a Echo,
    msg_type: &'a str,
    data: Option<Data<'a>>,
    seq_num: Option<u32>,
}

impl Serialize for Uplink<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let replaced = |name: &str| matches!(name, "msgType" | "data") || (name == "seqNum" && self.seq_num.is_some());
        let mut map = serializer.serialize_map(None)?;
        for (name, value) in self.echo.members().filter(|(name, _)| !replaced(name)) {
            map.serialize_entry(name, &value)?;
        }
        map.serialize_entry("msgType", self.msg_type)?;
        if let Some(seq_num) = self.seq_num {
            map.serialize_entry("seqNum", &seq_num)?;
        }
        if let Some(data) = &self.data {
            map.serialize_entry("data", data)?;
        }
        map.end()
    }
}

/// Serializes a Send, which is about the root.
struct Send<'a> {
    outcome: &'a Outcome,
}

impl Serialize for Send<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let root = RequestTarget::Path(Some(Path::ROOT.to_string()));
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("msgType", "send")?;
        map.serialize_entry("data", &OutcomeData { target: &root, outcome: self.outcome, tells_missing: false })?;
        map.end()
    }
}

enum Data<'a> {
    /// Repeats the `data` of the command.
    Command(UnansweredData<'a>),
    Answer {
        echo: &'a Echo,
        outcome: &'a Outcome,
    },
    Notification {
        echo: &'a Echo,
        outcome: &'a Outcome,
    },
    Firmware(FirmwareData<'a>),
}

impl Serialize for Data<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Command(data) => data.serialize(serializer),
            Self::Answer { echo, outcome } => {
                OutcomeData { target: echo.target(), outcome, tells_missing: true }.serialize(serializer)
            }
            Self::Notification { echo, outcome } => {
                OutcomeData { target: echo.target(), outcome, tells_missing: false }.serialize(serializer)
            }
            Self::Firmware(data) => data.serialize(serializer),
        }
    }
}

#[cfg(test)]
mod tests;
