//! The ways in which a command ends.

/// Says how a command ended. Each has one outcome, whoever gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CommandOutcome {
    Answered,
    Reset,
    TimedOut,
    /// The command is invalid: no JSON, an unknown path ...
    Refused,
    Expired,
    QueueFull,
    /// An operator took it out of the queue.
    Withdrawn,
    /// A retained command that this device was sent before.
    DuplicateRetained,
    /// The broker delivered it again after a restart, and the store had it: the restored command continues.
    Redelivered,
    /// Its body, or that of its answer, could not be transferred in blocks.
    TransferFailed,
    /// The answer of the device is no well-formed response.
    MalformedAnswer,
}
