//! Commands that wait for their device: in order, bounded, each with an expiry.

use std::collections::VecDeque;
use std::time::Instant;

use crate::mqtt::downlink::Command;

#[derive(Clone, Debug, PartialEq)]
pub struct Waiting {
    pub command: Command,
    pub expires: Instant,
    /// What its record is called by, once it has one.
    pub serial: Option<u64>,
}

#[derive(Clone, Debug, Default)]
pub struct WaitingCommands(VecDeque<Waiting>);

impl Waiting {
    pub fn new(command: Command, expires: Instant) -> Self {
        Self { command, expires, serial: None }
    }
}

impl WaitingCommands {
    /// Adds a command, unless `limit` of them wait already: then it comes back.
    pub fn push(&mut self, waiting: Waiting, limit: usize) -> Result<(), Command> {
        if self.0.len() >= limit {
            return Err(waiting.command);
        }
        self.0.push_back(waiting);
        Ok(())
    }

    /// Adds one that waited, or was in flight, before a restart: it had its place within the limit then.
    pub fn restore(&mut self, waiting: Waiting) {
        self.0.push_back(waiting);
    }

    pub fn pop(&mut self) -> Option<Waiting> {
        self.0.pop_front()
    }

    /// Takes out the commands that waited too long, in their order.
    pub fn take_expired(&mut self, now: Instant) -> Vec<Command> {
        let (expired, kept) = std::mem::take(&mut self.0).into_iter().partition(|waiting| waiting.expires <= now);
        self.0 = kept;
        let expired: VecDeque<Waiting> = expired;
        expired.into_iter().map(|waiting| waiting.command).collect()
    }

    pub fn next_expiry(&self) -> Option<Instant> {
        self.0.iter().map(|waiting| waiting.expires).min()
    }

    pub fn drain(&mut self) -> impl Iterator<Item = Command> + '_ {
        self.0.drain(..).map(|waiting| waiting.command)
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Waiting> {
        self.0.iter_mut()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }
}
