//! Commands of applications, as the core handles them. [`crate::mqtt::downlink`] reads them from JSON.

mod echo;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::lwm2m::operation::Operation;

pub use echo::Echo;
pub(crate) use echo::Members;

/// Ten years: an expiry is any number, and a moment further away may be more than a clock can tell.
pub(crate) const LONGEST_EXPIRY: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// What [`Command::msg_type`] may be.
pub const MSG_TYPES: [&str; 9] =
    ["read", "discover", "write", "write-attr", "execute", "create", "delete", "observe", "cancel-observe"];

/// A command that can be carried out.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    pub echo: Echo,
    pub operation: Operation,
    /// How long it may wait: the shorter of `mheaders.ttl` and MQTT's Message Expiry Interval. Zero is now or never.
    pub expiry: Option<Duration>,
    pub reply: Option<Box<Reply>>,
}

/// Where the final answer is published too, with what tells the application which command it is for (MQTT 5.0 section
/// 4.10): Response Topic and Correlation Data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    pub topic: String,
    pub correlation: Option<Vec<u8>>,
}

impl Command {
    /// The name of its kind, for metrics.
    pub fn msg_type(&self) -> &'static str {
        match self.operation {
            Operation::Read { .. } => "read",
            Operation::Discover { .. } => "discover",
            Operation::Write { .. } => "write",
            Operation::WriteAttributes { .. } => "write-attr",
            Operation::Execute { .. } => "execute",
            Operation::Create { .. } => "create",
            Operation::Delete { .. } => "delete",
            Operation::Observe { .. } => "observe",
            Operation::CancelObserve { .. } => "cancel-observe",
        }
    }
}
