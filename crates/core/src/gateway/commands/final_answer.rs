//! The final answer to a command, and its receivers.

use std::time::Duration;

use bytes::Bytes;

use crate::command::{Command, Origin, Reply};

use crate::gateway::operators::console_commands::AnswerOutcome;

/// The receivers of the final answer to a command.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recipient<'a> {
    /// Gets the answer besides the device's topic for answers.
    pub reply: Option<&'a Reply>,
    pub origin: &'a Origin,
}

/// The final answer to a command.
#[derive(Clone, Debug)]
pub(crate) struct FinalAnswer {
    pub outcome: AnswerOutcome,
    /// The time from its first datagram to the answer; `None` for a command that the device did not answer.
    pub took: Option<Duration>,
    /// The JSON that is published.
    pub payload: Bytes,
}

impl<'a> Recipient<'a> {
    pub(super) fn of(command: &'a Command) -> Self {
        Self { reply: command.reply.as_deref(), origin: &command.origin }
    }
}

impl FinalAnswer {
    /// Returns the answer to a command that the device did not answer.
    pub(in crate::gateway) fn of(outcome: AnswerOutcome, payload: Bytes) -> Self {
        Self { outcome, took: None, payload }
    }
}
