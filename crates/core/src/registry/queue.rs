//! Commands that wait for their device: in order, bounded by number and bytes, each with an expiry.

use std::collections::VecDeque;
use std::time::Instant;

use thiserror::Error;

use crate::coap::RequestIds;
use crate::command::Command;
use lwm2m_base::total::{Contribution, Total};

use super::CommandDigest;

#[derive(Debug, PartialEq)]
pub struct PendingCommand {
    pub command: Command,
    /// The end of its `ttl`, or of `limits.command_expiry`: a command that was not sent by then is answered 4.00.
    pub expires: Instant,
    /// The serial of its stored record, if there is one.
    pub serial: Option<u64>,
    /// The digest of a retained command.
    pub retained: Option<CommandDigest>,
    /// The ids of its request, if an earlier process sent it. Boxed: few commands have it.
    pub sent_as: Option<Box<RequestIds>>,
    pub room: ByteReservation,
}

#[derive(Debug, Default)]
pub struct CommandQueue {
    commands: VecDeque<PendingCommand>,
    counted: Contribution,
}

/// The bounds of one device's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLimits {
    pub commands: usize,
    /// A command always has room in an empty queue.
    pub bytes: usize,
    /// Limits the bytes of the commands of all devices.
    pub bytes_of_all: usize,
}

/// The limit because of which a command cannot wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum QueueFull {
    #[error("this device has too many pending commands (limits.pending_commands)")]
    Commands,
    #[error("the pending commands of this device have too many bytes (limits.pending_command_bytes)")]
    Bytes,
    #[error("the commands of all devices have too many bytes (limits.pending_command_bytes_total)")]
    BytesOfAll,
}

/// The bytes of the commands that are kept for all devices. A clone counts in the same place.
#[derive(Clone, Debug, Default)]
pub(crate) struct CommandBytes(Total);

/// The bytes of one command, counted until this is dropped.
#[derive(Debug)]
pub struct ByteReservation(Contribution);

impl PendingCommand {
    pub fn new(number: u64, command: Command, expires: Instant, room: ByteReservation) -> Self {
        Self { command: Command { number, ..command }, expires, serial: None, retained: None, sent_as: None, room }
    }
}

impl CommandQueue {
    /// Adds a command, unless the queue is full: then the command is returned.
    pub fn push(&mut self, waiting: PendingCommand, limits: QueueLimits) -> Result<(), (Box<Command>, QueueFull)> {
        match limits.check(self.commands.len(), self.bytes(), &waiting.room) {
            Ok(()) => {
                self.commands.push_back(waiting);
                self.count();
                Ok(())
            }
            Err(full) => Err((Box::new(waiting.command), full)),
        }
    }

    pub fn pop(&mut self) -> Option<PendingCommand> {
        let popped = self.commands.pop_front()?;
        self.count();
        Some(popped)
    }

    /// Takes out the command with this number.
    pub fn remove(&mut self, number: u64) -> Option<PendingCommand> {
        let place = self.commands.iter().position(|waiting| waiting.command.number == number)?;
        let removed = self.commands.remove(place);
        self.count();
        removed
    }

    /// Takes out the commands that waited too long, in their order.
    pub(crate) fn take_expired(&mut self, now: Instant) -> Vec<PendingCommand> {
        let (expired, kept) =
            std::mem::take(&mut self.commands).into_iter().partition(|waiting| waiting.expires <= now);
        self.commands = kept;
        self.count();
        let expired: VecDeque<PendingCommand> = expired;
        expired.into()
    }

    pub fn next_expiry(&self) -> Option<Instant> {
        self.commands.iter().map(|waiting| waiting.expires).min()
    }

    /// Returns whether the retained command with this digest waits.
    pub fn holds(&self, retained: CommandDigest) -> bool {
        self.commands.iter().any(|waiting| waiting.retained == Some(retained))
    }

    pub fn drain(&mut self) -> impl Iterator<Item = Command> + '_ {
        self.counted.set(0);
        self.commands.drain(..).map(|waiting| waiting.command)
    }

    pub fn iter(&self) -> impl Iterator<Item = &PendingCommand> {
        self.commands.iter()
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut PendingCommand> {
        self.commands.iter_mut()
    }

    pub fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    pub fn len(&self) -> usize {
        self.commands.len()
    }

    /// Counts the commands in this total from now on.
    pub(super) fn count_in(&mut self, total: &Total) {
        self.counted.count_in(total);
    }

    fn count(&mut self) {
        self.counted.set(self.commands.len());
    }

    fn bytes(&self) -> usize {
        self.commands.iter().map(|waiting| waiting.room.bytes()).sum()
    }
}

impl QueueLimits {
    /// Checks whether a command has room in a queue of this many commands with this many bytes. Its own bytes are
    /// counted among those of all already.
    pub fn check(&self, commands: usize, bytes: usize, command: &ByteReservation) -> Result<(), QueueFull> {
        if commands >= self.commands {
            Err(QueueFull::Commands)
        } else if commands > 0 && bytes + command.bytes() > self.bytes {
            Err(QueueFull::Bytes)
        } else if command.0.sum_of_all() > self.bytes_of_all {
            Err(QueueFull::BytesOfAll)
        } else {
            Ok(())
        }
    }
}

impl CommandBytes {
    /// Counts a command of so many bytes until the room is dropped.
    pub(crate) fn take(&self, bytes: usize) -> ByteReservation {
        ByteReservation(self.0.add(bytes))
    }

    pub(crate) fn taken(&self) -> usize {
        self.0.sum()
    }
}

impl ByteReservation {
    pub fn bytes(&self) -> usize {
        self.0.amount()
    }
}

impl PartialEq for ByteReservation {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}
