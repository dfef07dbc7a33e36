//! Commands of the console, as the shell gives them and as it learns their answers.
//!
//! 1. [`crate::gateway::Gateway::command`] tells at once whether a command was sent, waits, or is refused. A refused command has
//!    no other answer, and nobody else learns of it.
//! 2. From there on it is a command like those of applications: one queue, one in flight, the same expiry, the same
//!    records for the store. Its answers and notifications carry `"origin":"console"`.
//! 3. Its final answer is an [`crate::gateway::Output::Answer`]. It is published too, unless the configuration excludes that.
//! 4. After a restart the command goes on, and nobody asks for its answer any more.

use std::time::Duration;

use bytes::Bytes;

use crate::command::{AskId, ConsoleOrigin};

use super::view::WakeState;
use crate::gateway::report::CommandOutcome;

/// The number of commands of the console that may wait for one device, of `limits.pending_commands`.
pub const CONSOLE_PENDING_COMMANDS: usize = 8;
/// The number of observations that the console may have of one device, of `limits.observations`.
pub const CONSOLE_OBSERVATIONS: usize = 16;

/// A command of the console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsoleCommand {
    pub endpoint: String,
    /// The JSON of an application's command.
    pub payload: Vec<u8>,
    pub origin: ConsoleOrigin,
}

/// The state of a command that was sent or waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandState {
    /// Names the command among those of this process.
    pub number: u64,
    /// The place in the queue of its device, from 1; 0 if its request was sent.
    pub place: usize,
    pub device: WakeState,
    /// The time, since 1970, at which a pending command expires.
    pub expires: Duration,
}

/// The reason why a command of the console is not admitted. The texts are for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandRefusal {
    NotRegistered,
    /// The program shuts down.
    Ending,
    /// The command is longer than `limits.command_size`.
    TooLarge(String),
    Invalid(String),
    /// An application or `auto_observe` observes the paths.
    ObservedAlready(String),
    /// The queue, or the console's share of it or of the observations, has no room.
    QueueFull(String),
    /// The device cannot take the command now, and the command may not wait (`ttl` 0).
    DeviceAsleep(String),
}

/// The final answer to a command of the console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsoleAnswer {
    pub ask: AskId,
    pub outcome: AnswerOutcome,
    /// The time from its first datagram to the answer; `None` for a command that the device did not answer.
    pub took: Option<Duration>,
    /// The JSON that applications get.
    pub payload: Bytes,
}

/// The end of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AnswerOutcome {
    /// The device answered, with whatever code.
    Answered,
    Reset,
    TimedOut,
    /// The command expired before the device could take it.
    Expired,
    /// The gateway refused it when it was to be sent.
    Refused,
    /// Its body, or the answer, could not be transferred or read.
    TransferFailed,
    /// An operator took it out of the queue.
    Withdrawn,
    /// The device is not registered any more.
    Left,
}

/// The result of withdrawing a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withdrawal {
    Withdrawn,
    /// No such command waits: it was sent, or it has ended.
    NotPending,
    NotRegistered,
}

impl AnswerOutcome {
    pub(in crate::gateway) fn of(outcome: CommandOutcome) -> Self {
        match outcome {
            CommandOutcome::Answered => Self::Answered,
            CommandOutcome::Reset => Self::Reset,
            CommandOutcome::TimedOut => Self::TimedOut,
            CommandOutcome::Expired => Self::Expired,
            CommandOutcome::Withdrawn => Self::Withdrawn,
            CommandOutcome::Refused
            | CommandOutcome::QueueFull
            | CommandOutcome::DuplicateRetained
            | CommandOutcome::Redelivered => Self::Refused,
            CommandOutcome::TransferFailed | CommandOutcome::MalformedAnswer => Self::TransferFailed,
        }
    }
}
