//! Commands that wait for their device: in order, bounded by number and bytes, each with an expiry.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::command::{Command, LONGEST_EXPIRY};

use super::CommandDigest;

#[derive(Debug, PartialEq)]
pub struct PendingCommand {
    /// Names the command among those of this process.
    pub number: u64,
    pub command: Command,
    /// The end of its `ttl`, or of `limits.command_expiry`: a command that was not sent by then is answered 4.00.
    pub expires: Instant,
    /// The serial of its stored record, if there is one.
    pub serial: Option<u64>,
    /// The digest of a retained command.
    pub retained: Option<CommandDigest>,
    pub room: ByteReservation,
}

#[derive(Debug, Default)]
pub struct CommandQueue(VecDeque<PendingCommand>);

/// The bounds of one device's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLimits {
    pub commands: usize,
    /// A command always has room in an empty queue.
    pub bytes: usize,
    /// Limits the bytes of the commands of all devices.
    pub bytes_of_all: usize,
}

/// The limit that keeps a command from waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum QueueFull {
    #[error("too many commands wait for this device (limits.pending_commands)")]
    Commands,
    #[error("the commands that wait for this device have too many bytes (limits.pending_command_bytes)")]
    Bytes,
    #[error("the commands of all devices have too many bytes (limits.pending_command_bytes_total)")]
    BytesOfAll,
}

/// The bytes of the commands that are kept for all devices. A clone counts in the same place.
#[derive(Clone, Debug, Default)]
pub struct CommandBytes(Arc<AtomicUsize>);

/// The bytes of one command, counted until this is dropped.
#[derive(Debug)]
pub struct ByteReservation {
    bytes: usize,
    all: CommandBytes,
}

impl PendingCommand {
    pub fn new(number: u64, command: Command, expires: Instant, room: ByteReservation) -> Self {
        Self { number, command, expires, serial: None, retained: None, room }
    }

    /// Returns when a command that arrived now expires. `default_expiry` applies if the command has no `ttl`.
    pub fn expiry_of(now: Instant, command: &Command, default_expiry: Duration) -> Instant {
        now + command.expiry.unwrap_or(default_expiry).min(LONGEST_EXPIRY)
    }
}

impl CommandQueue {
    /// Adds a command, unless the queue is full: then it comes back.
    pub fn push(&mut self, waiting: PendingCommand, limits: QueueLimits) -> Result<(), (Command, QueueFull)> {
        match limits.check(self.0.len(), self.bytes(), &waiting.room) {
            Ok(()) => {
                self.0.push_back(waiting);
                Ok(())
            }
            Err(full) => Err((waiting.command, full)),
        }
    }

    pub fn pop(&mut self) -> Option<PendingCommand> {
        self.0.pop_front()
    }

    /// Takes out the commands that waited too long, in their order.
    pub fn take_expired(&mut self, now: Instant) -> Vec<Command> {
        let (expired, kept) = std::mem::take(&mut self.0).into_iter().partition(|waiting| waiting.expires <= now);
        self.0 = kept;
        let expired: VecDeque<PendingCommand> = expired;
        expired.into_iter().map(|waiting| waiting.command).collect()
    }

    pub fn next_expiry(&self) -> Option<Instant> {
        self.0.iter().map(|waiting| waiting.expires).min()
    }

    /// Whether the retained command with this digest waits.
    pub fn holds(&self, retained: CommandDigest) -> bool {
        self.0.iter().any(|waiting| waiting.retained == Some(retained))
    }

    pub fn drain(&mut self) -> impl Iterator<Item = Command> + '_ {
        self.0.drain(..).map(|waiting| waiting.command)
    }

    pub fn iter(&self) -> impl Iterator<Item = &PendingCommand> {
        self.0.iter()
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut PendingCommand> {
        self.0.iter_mut()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    fn bytes(&self) -> usize {
        self.0.iter().map(|waiting| waiting.room.bytes).sum()
    }
}

impl QueueLimits {
    /// Checks whether a command has room in a queue of so many commands with so many bytes. Its own bytes are counted
    /// among those of all already.
    pub fn check(&self, commands: usize, bytes: usize, command: &ByteReservation) -> Result<(), QueueFull> {
        if commands >= self.commands {
            Err(QueueFull::Commands)
        } else if commands > 0 && bytes + command.bytes > self.bytes {
            Err(QueueFull::Bytes)
        } else if command.all.taken() > self.bytes_of_all {
            Err(QueueFull::BytesOfAll)
        } else {
            Ok(())
        }
    }
}

impl CommandBytes {
    /// Counts a command of so many bytes until the room is dropped.
    pub fn take(&self, bytes: usize) -> ByteReservation {
        self.0.fetch_add(bytes, Ordering::Relaxed);
        ByteReservation { bytes, all: self.clone() }
    }

    pub fn taken(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl ByteReservation {
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for ByteReservation {
    fn drop(&mut self) {
        self.all.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl PartialEq for ByteReservation {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}
