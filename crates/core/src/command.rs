//! Defines the commands of applications. [`crate::mqtt::downlink`] reads them from JSON.

mod echo;
pub mod firmware;
mod members;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::lwm2m::operation::{Operation, OperationKind};
use crate::lwm2m::path::Path;

pub use echo::Echo;
pub(crate) use echo::RequestTarget;
pub(crate) use members::{KnownMembers, Members, WrittenValue};

/// Limits an expiry to ten years. An application may name any number, and a clock cannot represent every moment.
pub(crate) const LONGEST_EXPIRY: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Lists the values of `msgType`.
pub const MSG_TYPES: [&str; 18] = [
    "read",
    "discover",
    "write",
    "write-attr",
    "execute",
    "create",
    "delete",
    "observe",
    "cancel-observe",
    "read-composite",
    "write-composite",
    "observe-composite",
    "cancel-observe-composite",
    "bootstrap",
    "firmware-update",
    "firmware-activate",
    "firmware-cancel",
    "firmware-status",
];

/// Holds a command that can be carried out.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    /// Names the command among those of this process. It is 0 until a device has the command in its queue.
    pub number: u64,
    pub echo: Echo,
    pub operation: Operation,
    /// Limits how long the command may wait: the shorter of `mheaders.ttl` and the Message Expiry Interval of MQTT.
    /// Zero means that it is sent at once or not at all.
    pub expiry: Option<Duration>,
    pub reply: Option<Box<Reply>>,
    pub origin: Origin,
}

/// The origin of a command. It does not follow from the members of its JSON, because an application may write any.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    #[default]
    Application,
    /// The gateway itself, for `auto_observe`.
    AutoObserve,
    /// The gateway itself, for a firmware update.
    Firmware,
    /// The gateway itself, for a firmware campaign.
    Campaign,
    /// An operator, by the console.
    Console(Box<ConsoleOrigin>),
}

/// The user of the console who gave a command, and the options of the command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleOrigin {
    /// The name of the token, or of the local user.
    pub user: String,
    /// Whether the command may replace or end an observation of an application or of `auto_observe`.
    pub force: bool,
    /// Whether an observation ends soon after the last event stream of this user and device was closed.
    pub while_stream: bool,
}

/// The recipient of the final answer to a command, besides the device's topic for answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Topic(ResponseTopic),
    /// A request of the console. It is not stored: it ends with the process.
    Asker(AskId),
}

/// Identifies a command for the console that gave it. The console chooses the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AskId(pub u64);

/// Holds the Response Topic, to which the final answer is published too, and the Correlation Data, by which the
/// application finds its command (MQTT 5.0 section 4.10).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResponseTopic {
    pub topic: String,
    pub correlation: Option<Vec<u8>>,
}

impl Origin {
    pub fn is_application(&self) -> bool {
        *self == Self::Application
    }

    /// Returns the user of the console who gave the command, and its options; `None` for a command of another origin.
    pub fn console(&self) -> Option<&ConsoleOrigin> {
        match self {
            Self::Console(console) => Some(console),
            Self::Application | Self::AutoObserve | Self::Firmware | Self::Campaign => None,
        }
    }
}

impl Reply {
    /// Returns the topic that the final answer is published to; `None` if the console asked.
    pub fn topic(&self) -> Option<&ResponseTopic> {
        match self {
            Self::Topic(topic) => Some(topic),
            Self::Asker(_) => None,
        }
    }
}

impl Command {
    /// Returns the command of `auto_observe` for one path. Its answers contain `"is_auto_observe":true`.
    pub(crate) fn auto_observe(path: &Path) -> Self {
        let members = json!({ "msgType": "observe", "is_auto_observe": true, "data": { "path": path.to_string() } });
        Self::of_auto_observe(&members, Operation::new(*path, Vec::new(), OperationKind::Observe))
    }

    /// Returns the command of `auto_observe` for several paths at once. Its answers contain `"is_auto_observe":true`.
    pub(crate) fn auto_observe_composite(paths: Vec<Path>) -> Self {
        let texts: Vec<_> = paths.iter().map(Path::to_string).collect();
        let members = json!({ "msgType": "observe-composite", "is_auto_observe": true, "data": { "paths": texts } });
        let kind = OperationKind::ObserveComposite { paths };
        Self::of_auto_observe(&members, Operation::new(Path::ROOT, Vec::new(), kind))
    }

    fn of_auto_observe(members: &Value, operation: Operation) -> Self {
        let echo = Echo::of(members);
        Self { number: 0, echo, operation, expiry: None, reply: None, origin: Origin::AutoObserve }
    }

    /// Returns whether the final answer is that of the bootstrap session which the execution causes.
    pub(crate) fn awaits_bootstrap(&self) -> bool {
        self.operation.kind == OperationKind::TriggerBootstrap
    }

    /// Returns the name of the operation for metrics.
    pub fn msg_type(&self) -> &'static str {
        match self.operation.kind {
            OperationKind::Read => "read",
            OperationKind::Discover => "discover",
            OperationKind::Write { .. } => "write",
            OperationKind::WriteAttributes => "write-attr",
            OperationKind::Execute { .. } => "execute",
            OperationKind::TriggerBootstrap => "bootstrap",
            OperationKind::Create { .. } => "create",
            OperationKind::Delete => "delete",
            OperationKind::Observe => "observe",
            OperationKind::CancelObserve => "cancel-observe",
            OperationKind::ReadComposite { .. } => "read-composite",
            OperationKind::WriteComposite { .. } => "write-composite",
            OperationKind::ObserveComposite { .. } => "observe-composite",
            OperationKind::CancelObserveComposite { .. } => "cancel-observe-composite",
        }
    }
}
