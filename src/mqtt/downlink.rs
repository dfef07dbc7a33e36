//! JSON of an application to a command, or to the reason why it is none.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::lwm2m::model::Model;
use crate::lwm2m::operation::Operation;
use crate::lwm2m::register::Registration;

/// What every answer repeats: the command's own object, and its path.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Echo {
    pub(super) members: Map<String, Value>,
}

/// A command that can be carried out.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    pub echo: Echo,
    pub operation: Operation,
    /// `mheaders.ttl`: how long it may wait; zero is now or never.
    pub ttl: Option<Duration>,
}

/// A command that cannot be carried out, with what is needed to answer it.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    pub echo: Echo,
    pub reason: String,
}

impl Echo {
    /// `msgType` of the command; `error` where there is none.
    pub fn msg_type(&self) -> &str {
        todo!()
    }
}

impl Command {
    /// The name of its kind, for metrics.
    pub fn msg_type(&self) -> &'static str {
        todo!()
    }
}

/// Reads a command for the device of this registration (mapping contract, section 3).
pub fn parse(payload: &[u8], registration: &Registration, model: &Model) -> Result<Command, Refusal> {
    todo!()
}

/// The command that `auto_observe` gives itself: its answers carry `"is_auto_observe":true`.
pub fn auto_observe(path: &crate::lwm2m::path::Path) -> Command {
    todo!()
}
