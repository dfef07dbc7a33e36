//! The shapes of commands in the API.

use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use lwm2m_core::gateway::operators::console_commands::{AnswerOutcome, CommandState};
use lwm2m_core::gateway::operators::view::WakeState;

use super::super::time::Timestamp;
use super::records::{CommandEnd, GivenCommand};
use crate::console::devices::documents::DeviceState;

/// A command as the API takes it: that of MQTT. Further members are echoed in the answer.
#[derive(ToSchema)]
#[schema(as = CommandRequest)]
#[expect(dead_code, reason = "it describes a body that the core reads")]
pub(crate) struct CommandRequest {
    /// A type of the MQTT interface, such as `read`, `write` or `observe`.
    #[schema(rename = "msgType", example = "read")]
    msg_type: String,
    /// Path and values, as in the MQTT interface.
    #[schema(value_type = Object, example = json!({ "path": "/3/0/0" }))]
    data: (),
    /// Further headers: `ttl` limits the seconds for which the command waits; 0: it is sent at once or not at all.
    #[schema(value_type = Option<Object>, example = json!({ "ttl": 60 }))]
    mheaders: (),
}

/// A command that was given by the API.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Command)]
pub(crate) struct CommandDocument {
    #[schema(example = "c7f3a0d1c7f3a0d1c7f3a0d1c7f3a0d1")]
    id: String,
    endpoint: String,
    /// Names the command in the queue of its device.
    number: u64,
    #[schema(inline)]
    state: CommandProgressDocument,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(inline)]
    outcome: Option<CommandOutcomeDocument>,
    /// Seconds from the first datagram to the device's answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    took: Option<f64>,
    /// The answer that applications get. The code of the device is in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    answer: Option<Box<RawValue>>,
    /// Place in the queue of the device, from 1; 0 if the request was sent to the device.
    #[serde(skip_serializing_if = "Option::is_none")]
    place: Option<usize>,
    /// State of the device.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(inline)]
    device: Option<DeviceState>,
    /// The command ends if it was not sent by then.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<Timestamp>,
}

/// `pending`: the command waits, or its answer is not there yet.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum CommandProgressDocument {
    Pending,
    Done,
}

/// The end of a command. `answered`: with any code; `refused`: by the gateway when it was to be sent; `left`: the
/// device is not registered any more.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
enum CommandOutcomeDocument {
    Answered,
    Reset,
    TimedOut,
    Expired,
    Refused,
    TransferFailed,
    Withdrawn,
    Left,
}

impl CommandDocument {
    pub(crate) fn done(record: &GivenCommand, end: &CommandEnd) -> Self {
        Self {
            state: CommandProgressDocument::Done,
            outcome: Some(end.outcome.into()),
            took: end.took.map(|took| took.as_secs_f64()),
            answer: Some(end.answer.clone()),
            ..Self::pending(record, None)
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.outcome.is_some()
    }

    /// `state` is `None` for a command whose answer is on its way.
    pub(crate) fn pending(record: &GivenCommand, state: Option<CommandState>) -> Self {
        Self {
            id: record.id.to_string(),
            endpoint: record.endpoint.clone(),
            number: record.number,
            state: CommandProgressDocument::Pending,
            outcome: None,
            took: None,
            answer: None,
            place: state.map(|state| state.place),
            device: state.map(|state| match state.device {
                WakeState::Awake => DeviceState::Awake,
                WakeState::Asleep => DeviceState::Asleep,
            }),
            expires: state.map(|state| Timestamp(state.expires)),
        }
    }
}

impl From<AnswerOutcome> for CommandOutcomeDocument {
    fn from(outcome: AnswerOutcome) -> Self {
        match outcome {
            AnswerOutcome::Answered => Self::Answered,
            AnswerOutcome::Reset => Self::Reset,
            AnswerOutcome::TimedOut => Self::TimedOut,
            AnswerOutcome::Expired => Self::Expired,
            AnswerOutcome::Refused => Self::Refused,
            AnswerOutcome::TransferFailed => Self::TransferFailed,
            AnswerOutcome::Withdrawn => Self::Withdrawn,
            AnswerOutcome::Left => Self::Left,
        }
    }
}
