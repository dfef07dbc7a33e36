//! The shapes of events in the API.

use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::driver::onlookers::{EventKind, OnlookerEvent};
use lwm2m_core::gateway::broker::CloseReason;
use lwm2m_core::gateway::operators::view::{CommandProgress, CommandStage};
use lwm2m_core::gateway::report::{CommandOutcome, LeaveReason};
use lwm2m_core::lwm2m::model::Model;

use crate::console::devices::documents::{DeviceListRow, author};
use crate::console::failures::FailureDocument;
use crate::console::hide::HiddenPaths;
use crate::console::time::{Timestamp, now};
use crate::console::traces::documents::TraceEntryDocument;
use crate::console::traces::follower::Followed;

/// An event of a stream.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct Event {
    /// `hello`, `registered`, `updated`, `moved`, `left`, `command`, `message`, `failure`, `definitions`, `coap`,
    /// `dtls` or `lost`.
    #[serde(rename = "event")]
    #[schema(example = "message")]
    pub name: &'static str,
    pub data: EventData,
}

/// The data of an event, by its name.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum EventData {
    Hello(HelloEvent),
    Registration(Box<RegistrationEvent>),
    Moved(MovedEvent),
    Left(LeftEvent),
    Command(CommandEvent),
    Message(MessageEvent),
    Failure(Box<FailureDocument>),
    Definitions(DefinitionsEvent),
    Traced(TraceEntryDocument),
    Lost(LostEvent),
}

/// `hello`: the stream begins. Earlier events are not repeated, so the device has to be fetched now.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct HelloEvent {
    at: Timestamp,
    /// Version of the gateway.
    version: &'static str,
}

/// `registered` and `updated`: the registration as it is now.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct RegistrationEvent {
    at: Timestamp,
    #[serde(flatten)]
    row: DeviceListRow,
}

/// `moved`: the device has another address.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct MovedEvent {
    at: Timestamp,
    endpoint: String,
    #[schema(example = "10.0.0.8:41000")]
    from: String,
    #[schema(example = "10.0.0.9:56830")]
    to: String,
}

/// `left`: the registration has ended.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct LeftEvent {
    at: Timestamp,
    endpoint: String,
    /// `deregistered`, `lifetimeOver`, `replaced`, `evicted`, `operator`, or by the broker: `kicked`, `discarded`,
    /// `expired`, `refused`.
    #[schema(example = "lifetimeOver")]
    reason: &'static str,
}

/// `command`: a command has reached another state.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CommandEvent {
    at: Timestamp,
    endpoint: String,
    /// The number of the command in the queue of the device.
    number: u64,
    #[schema(example = "read")]
    msg_type: &'static str,
    /// The path; absent for a composite command.
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    /// The paths of a composite command.
    #[serde(skip_serializing_if = "Option::is_none")]
    paths: Option<Vec<String>>,
    /// `mqtt`, `auto_observe`, or `console:` and the name of a token.
    by: String,
    /// `waits`, `sent` or `done`.
    #[schema(example = "done")]
    state: &'static str,
    /// With `done`: `answered`, `reset`, `timedOut`, `expired`, `refused`, `transferFailed` or `withdrawn`.
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'static str>,
    /// Time from the first datagram to the answer of the device, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    took: Option<f64>,
}

/// `message`: a publication of the device, as applications get it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct MessageEvent {
    at: Timestamp,
    endpoint: String,
    topic: String,
    /// The payload. Values of hidden paths are covered.
    #[schema(value_type = serde_json::Value)]
    payload: Box<RawValue>,
    /// Size of the whole payload in bytes, if it is too large for an event: the payload is its beginning then.
    #[serde(skip_serializing_if = "Option::is_none")]
    truncated: Option<usize>,
}

/// `definitions`: the object definitions were reloaded.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct DefinitionsEvent {
    at: Timestamp,
}

/// `lost`: events are missing, because there were too many of them.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct LostEvent {
    /// Number of missing events; absent if it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
}

impl Event {
    pub(super) fn hello() -> Self {
        let data = HelloEvent { at: now(), version: env!("CARGO_PKG_VERSION") };
        Self { name: "hello", data: EventData::Hello(data) }
    }

    pub(super) fn definitions() -> Self {
        Self { name: "definitions", data: EventData::Definitions(DefinitionsEvent { at: now() }) }
    }

    /// Makes the document of a message of a trace: `coap` or `dtls`.
    pub(super) fn traced(followed: &Followed, model: &Model) -> Self {
        match followed {
            Followed::Lost(count) => Self::lost(Some(*count)),
            Followed::Entry(entry) => {
                let document = TraceEntryDocument::of(entry, model);
                Self { name: document.event(), data: EventData::Traced(document) }
            }
        }
    }

    pub(super) fn lost(count: Option<u64>) -> Self {
        Self { name: "lost", data: EventData::Lost(LostEvent { count }) }
    }

    /// Makes the document of an event of the driver.
    pub(super) fn of(event: &OnlookerEvent, hidden: &HiddenPaths) -> Self {
        let at = Timestamp(event.at);
        let endpoint = event.endpoint.clone().unwrap_or_default();
        let registration = |row| EventData::Registration(Box::new(RegistrationEvent { at, row }));
        let (name, data) = match &event.kind {
            EventKind::Registered(row) => ("registered", registration(DeviceListRow::from((**row).clone()))),
            EventKind::Updated(row) => ("updated", registration(DeviceListRow::from((**row).clone()))),
            EventKind::Moved { from, to } => {
                ("moved", EventData::Moved(MovedEvent { at, endpoint, from: from.to_string(), to: to.to_string() }))
            }
            EventKind::Left(reason) => {
                ("left", EventData::Left(LeftEvent { at, endpoint, reason: leave_word(*reason) }))
            }
            EventKind::Command(progress) => ("command", EventData::Command(CommandEvent::of(at, endpoint, progress))),
            EventKind::Message { topic, payload, bytes } => {
                let is_whole = payload.len() == *bytes;
                let shown = if is_whole { hidden.message(payload) } else { hidden.message_start(payload) };
                let truncated = (!is_whole).then_some(*bytes);
                let topic = topic.clone();
                ("message", EventData::Message(MessageEvent { at, endpoint, topic, payload: shown, truncated }))
            }
            EventKind::Failure(failure) => {
                ("failure", EventData::Failure(Box::new(FailureDocument::of((**failure).clone(), hidden))))
            }
        };
        Self { name, data }
    }
}

impl CommandEvent {
    fn of(at: Timestamp, endpoint: String, progress: &CommandProgress) -> Self {
        let CommandProgress { number, msg_type, paths, is_composite, origin, stage } = progress;
        let mut paths: Vec<String> = paths.iter().map(ToString::to_string).collect();
        let (state, outcome, took) = match stage {
            CommandStage::Pending => ("waits", None, None),
            CommandStage::Sent => ("sent", None, None),
            CommandStage::Done { outcome, took } => ("done", Some(outcome_word(*outcome)), *took),
        };
        Self {
            at,
            endpoint,
            number: *number,
            msg_type,
            path: if *is_composite { None } else { paths.pop() },
            paths: is_composite.then_some(paths),
            by: author(origin),
            state,
            outcome,
            took: took.map(|took| took.as_secs_f64()),
        }
    }
}

fn outcome_word(outcome: CommandOutcome) -> &'static str {
    match outcome {
        CommandOutcome::Answered => "answered",
        CommandOutcome::Reset => "reset",
        CommandOutcome::TimedOut => "timedOut",
        CommandOutcome::Expired => "expired",
        CommandOutcome::Refused
        | CommandOutcome::QueueFull
        | CommandOutcome::DuplicateRetained
        | CommandOutcome::Redelivered => "refused",
        CommandOutcome::TransferFailed | CommandOutcome::MalformedAnswer => "transferFailed",
        CommandOutcome::Withdrawn => "withdrawn",
    }
}

fn leave_word(reason: LeaveReason) -> &'static str {
    match reason {
        LeaveReason::Deregistered => "deregistered",
        LeaveReason::LifetimeOver => "lifetimeOver",
        LeaveReason::Replaced => "replaced",
        LeaveReason::Evicted => "evicted",
        LeaveReason::Operator => "operator",
        LeaveReason::Broker(CloseReason::Kicked) => "kicked",
        LeaveReason::Broker(CloseReason::Discarded) => "discarded",
        LeaveReason::Broker(CloseReason::Expired) => "expired",
        LeaveReason::Broker(CloseReason::Refused) => "refused",
    }
}
