//! Remembers the retained commands that were sent to devices. The broker delivers a retained command at each
//! subscription, so each time that a device registers: without this memory, a retained reboot would reboot the device
//! for ever.
//!
//! 1. A retained command is remembered when it is sent to its device. One that is refused is not: it comes again with
//!    the next registration.
//! 2. The memory of an endpoint lasts as long as its registration, over a new registration and over a restart of the
//!    program: it is in the store.
//! 3. When the registration ends the memory stays for a while, since a device that reboots may leave and register
//!    again. The endpoint that left first is forgotten first.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use crate::registry::CommandDigest;

use crate::gateway::persistence::pending_changes::PendingChanges;
use crate::gateway::persistence::record::{Change, RetainedCommandsRecord};

/// Maximum number of commands remembered per endpoint. Beyond it the oldest is forgotten, and would be sent again.
const OF_ENDPOINT: usize = 256;
/// Maximum number of endpoints without a registration that are remembered.
const DEPARTED: usize = 100_000;

#[derive(Debug, Default)]
pub(in crate::gateway) struct RetainedCommandDedup {
    by_endpoint: HashMap<Arc<str>, Memory>,
    /// The endpoints without a registration, in the order in which they left.
    departed: BTreeMap<u64, Arc<str>>,
    last_departure: u64,
    /// The endpoints whose memory the store does not have yet.
    changes: PendingChanges,
}

/// The retained commands of one endpoint.
#[derive(Debug, Default)]
struct Memory {
    /// The commands, the oldest first.
    commands: VecDeque<CommandDigest>,
    /// The endpoint's place among those that left; `None` while it is registered.
    departure: Option<u64>,
}

impl RetainedCommandDedup {
    /// Keeps what changes from now on for [`RetainedCommandDedup::take_changes`].
    pub(crate) fn keep_changes(&mut self) {
        self.changes.keep();
    }

    /// Marks every memory as changed.
    pub(in crate::gateway) fn change_all(&mut self) {
        self.by_endpoint.keys().for_each(|endpoint| self.changes.mark(endpoint));
    }

    /// Marks the memory of an endpoint as changed, if there is one.
    pub(super) fn change(&mut self, endpoint: &str) {
        if self.by_endpoint.contains_key(endpoint) {
            self.changes.mark(endpoint);
        }
    }

    pub(super) fn contains(&self, endpoint: &str, command: CommandDigest) -> bool {
        self.by_endpoint.get(endpoint).is_some_and(|memory| memory.commands.contains(&command))
    }

    /// Remembers a command that was sent to a registered device.
    pub(super) fn remember(&mut self, endpoint: &str, command: CommandDigest) {
        let memory = match self.by_endpoint.get_mut(endpoint) {
            Some(memory) => memory,
            None => self.by_endpoint.entry(endpoint.into()).or_default(),
        };
        memory.commands.push_back(command);
        if memory.commands.len() > OF_ENDPOINT {
            memory.commands.pop_front();
        }
        self.changes.mark(endpoint);
    }

    /// Notes that the endpoint is registered: its memory stays for as long as it is.
    pub(in crate::gateway) fn registered(&mut self, endpoint: &str) {
        let departure = self.by_endpoint.get_mut(endpoint).and_then(|memory| memory.departure.take());
        if let Some(departure) = departure {
            self.departed.remove(&departure);
        }
    }

    /// Marks the endpoint as not registered any more. If too many have left, the one that left first is forgotten.
    pub(in crate::gateway) fn left(&mut self, endpoint: &str) {
        let Some((endpoint, memory)) = self.by_endpoint.get_key_value(endpoint) else { return };
        if memory.departure.is_some() {
            return;
        }
        let endpoint = Arc::clone(endpoint);
        self.last_departure += 1;
        self.departed.insert(self.last_departure, Arc::clone(&endpoint));
        if let Some(memory) = self.by_endpoint.get_mut(&endpoint) {
            memory.departure = Some(self.last_departure);
        }
        if self.departed.len() > DEPARTED
            && let Some((_, forgotten)) = self.departed.pop_first()
        {
            self.by_endpoint.remove(&forgotten);
            self.changes.mark(&forgotten);
        }
    }

    pub(in crate::gateway) fn has_changes(&self) -> bool {
        !self.changes.is_empty()
    }

    /// Returns the changes for the store, at most so many.
    pub(in crate::gateway) fn take_changes(&mut self, most: usize) -> Vec<Change> {
        let endpoints: Vec<Arc<str>> = std::iter::from_fn(|| self.changes.take()).take(most).collect();
        endpoints.iter().map(|endpoint| Change::RetainedCommands(self.record(endpoint))).collect()
    }

    /// Restores what an earlier process remembered.
    pub(in crate::gateway) fn restore(&mut self, record: RetainedCommandsRecord) {
        let commands = record.commands.into_iter().rev().take(OF_ENDPOINT).rev().collect();
        self.by_endpoint.insert(record.endpoint.into(), Memory { commands, departure: None });
    }

    /// Takes the memory of an endpoint that another gateway has now.
    pub(in crate::gateway) fn release(&mut self, endpoint: &str) -> RetainedCommandsRecord {
        let record = self.record(endpoint);
        let departure = self.by_endpoint.remove(endpoint).and_then(|memory| memory.departure);
        if let Some(departure) = departure {
            self.departed.remove(&departure);
        }
        // The record in the store is that of the other gateway.
        self.changes.take_one(endpoint);
        record
    }

    /// Adds the memory that another gateway had of an endpoint.
    pub(crate) fn adopt(&mut self, record: RetainedCommandsRecord) {
        self.release(&record.endpoint);
        if !record.commands.is_empty() {
            self.changes.mark(&record.endpoint);
            self.restore(record);
        }
    }

    /// Returns the record of an endpoint; without commands if nothing is remembered of it.
    fn record(&self, endpoint: &str) -> RetainedCommandsRecord {
        let commands = self.by_endpoint.get(endpoint).into_iter().flat_map(|memory| &memory.commands);
        RetainedCommandsRecord { endpoint: endpoint.to_owned(), commands: commands.copied().collect() }
    }

    /// Returns the number of endpoints that are remembered.
    pub(in crate::gateway) fn len(&self) -> usize {
        self.by_endpoint.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(number: usize) -> CommandDigest {
        CommandDigest::of(&number.to_be_bytes())
    }

    #[test]
    fn a_command_is_known_by_its_payload_and_its_endpoint() {
        let mut dedup = RetainedCommandDedup::default();
        dedup.remember("ep1", CommandDigest::of(b"reboot"));
        assert!(dedup.contains("ep1", CommandDigest::of(b"reboot")));
        assert!(!dedup.contains("ep2", CommandDigest::of(b"reboot")));
        assert!(!dedup.contains("ep1", CommandDigest::of(b"reset")));
    }

    #[test]
    fn the_oldest_command_of_an_endpoint_is_forgotten() {
        let mut dedup = RetainedCommandDedup::default();
        (0..=OF_ENDPOINT).for_each(|number| dedup.remember("ep", digest(number)));
        assert!(!dedup.contains("ep", digest(0)) && dedup.contains("ep", digest(1)));
        assert_eq!(dedup.record("ep").commands.len(), OF_ENDPOINT);
    }

    #[test]
    fn the_endpoint_that_left_first_is_forgotten_and_those_that_are_registered_are_not() {
        let mut dedup = RetainedCommandDedup::default();
        dedup.keep_changes();
        dedup.remember("stays", digest(0));
        assert_eq!(dedup.take_changes(9).len(), 1);
        let leave = |dedup: &mut RetainedCommandDedup, number: usize| {
            let endpoint = format!("ep{number}");
            dedup.remember(&endpoint, digest(0));
            dedup.left(&endpoint);
            std::iter::from_fn(|| dedup.changes.take()).filter(|forgotten| **forgotten != *endpoint).last()
        };
        for number in 0..DEPARTED {
            assert_eq!(leave(&mut dedup, number), None);
        }
        dedup.left("ep0");
        assert!(!dedup.has_changes(), "it left before");
        dedup.registered("ep0");
        assert_eq!(leave(&mut dedup, DEPARTED), None, "ep0 came back");
        assert_eq!(leave(&mut dedup, DEPARTED + 1).as_deref(), Some("ep1"));
        assert_eq!(dedup.len(), DEPARTED + 2);
        assert!(dedup.contains("stays", digest(0)) && dedup.contains("ep0", digest(0)));
        assert!(!dedup.contains("ep1", digest(0)));
    }
}
