//! The retained commands that devices were sent. The broker gives them to everybody who subscribes, each time that a device
//! registers: a device that is told to reboot by one would never come to rest.
//!
//! 1. A retained command is remembered when it is sent to its device. One that is refused is not: it comes again with the
//!    next registration.
//! 2. The memory of an endpoint lasts as long as its registration, over a new registration and over a restart of the
//!    program: it is in the store.
//! 3. When the registration ends the memory stays for a while, since a device that reboots may leave and register again.
//!    The endpoint that left first is forgotten first.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use crate::registry::CommandDigest;

use super::Gateway;
use super::broker::RegistrationId;
use super::record::{Change, RetainedCommandsRecord};

/// Commands that are remembered of one endpoint; the oldest is forgotten then, and would be sent once more.
const OF_ENDPOINT: usize = 256;
/// Endpoints without a registration that are remembered.
const DEPARTED: usize = 100_000;

#[derive(Debug, Default)]
pub(super) struct RetainedCommandDedup {
    by_endpoint: HashMap<Arc<str>, Memory>,
    /// The endpoints without a registration, in the order in which they left.
    departed: BTreeMap<u64, Arc<str>>,
    last_departure: u64,
}

/// What is remembered of one endpoint.
#[derive(Debug, Default)]
struct Memory {
    /// The oldest first.
    commands: VecDeque<CommandDigest>,
    /// Its place among those that left; `None` while it is registered.
    departure: Option<u64>,
}

impl RetainedCommandDedup {
    pub fn contains(&self, endpoint: &str, command: CommandDigest) -> bool {
        self.by_endpoint.get(endpoint).is_some_and(|memory| memory.commands.contains(&command))
    }

    /// Remembers a command that was sent to a registered device.
    pub fn remember(&mut self, endpoint: &str, command: CommandDigest) {
        let memory = match self.by_endpoint.get_mut(endpoint) {
            Some(memory) => memory,
            None => self.by_endpoint.entry(endpoint.into()).or_default(),
        };
        memory.commands.push_back(command);
        if memory.commands.len() > OF_ENDPOINT {
            memory.commands.pop_front();
        }
    }

    /// The endpoint is registered: its memory stays for as long as it is.
    pub fn registered(&mut self, endpoint: &str) {
        let departure = self.by_endpoint.get_mut(endpoint).and_then(|memory| memory.departure.take());
        if let Some(departure) = departure {
            self.departed.remove(&departure);
        }
    }

    /// The endpoint is not registered any more. Gives the one that is forgotten for it, if there are too many.
    #[must_use]
    pub fn left(&mut self, endpoint: &str) -> Option<Arc<str>> {
        let (endpoint, memory) = self.by_endpoint.get_key_value(endpoint)?;
        if memory.departure.is_some() {
            return None;
        }
        let endpoint = Arc::clone(endpoint);
        self.last_departure += 1;
        self.departed.insert(self.last_departure, Arc::clone(&endpoint));
        if let Some(memory) = self.by_endpoint.get_mut(&endpoint) {
            memory.departure = Some(self.last_departure);
        }
        if self.departed.len() <= DEPARTED {
            return None;
        }
        let (_, forgotten) = self.departed.pop_first()?;
        self.by_endpoint.remove(&forgotten);
        Some(forgotten)
    }

    /// Takes up what an earlier process remembered.
    fn restore(&mut self, record: RetainedCommandsRecord) {
        let commands = record.commands.into_iter().rev().take(OF_ENDPOINT).rev().collect();
        self.by_endpoint.insert(record.endpoint.into(), Memory { commands, departure: None });
    }

    /// Returns the record of an endpoint; without commands if nothing is remembered of it.
    fn record(&self, endpoint: &str) -> RetainedCommandsRecord {
        let commands = self.by_endpoint.get(endpoint).into_iter().flat_map(|memory| &memory.commands);
        RetainedCommandsRecord { endpoint: endpoint.to_owned(), commands: commands.copied().collect() }
    }

    /// Returns the number of endpoints that are remembered.
    pub fn len(&self) -> usize {
        self.by_endpoint.len()
    }
}

impl Gateway {
    /// Takes up what an earlier process remembered of retained commands, after [`Gateway::restore`].
    pub fn restore_retained_commands(&mut self, records: Vec<RetainedCommandsRecord>) {
        for record in records {
            let endpoint = record.endpoint.clone();
            self.retained_commands.restore(record);
            if self.registry.id_by_endpoint(&endpoint).is_none() {
                self.endpoint_left(&endpoint);
            }
        }
    }

    /// Whether this device was sent this retained command, or will be.
    pub(super) fn knows_command(&self, id: RegistrationId, command: CommandDigest) -> bool {
        self.registry.device(id).is_some_and(|device| {
            device.waiting.holds(command) || self.retained_commands.contains(&device.registration.endpoint, command)
        })
    }

    pub(super) fn remember_command(&mut self, id: RegistrationId, command: CommandDigest) {
        let Some(device) = self.registry.device(id) else { return };
        let endpoint = &device.registration.endpoint;
        self.retained_commands.remember(endpoint, command);
        self.retained_changes.mark(endpoint);
    }

    pub(super) fn endpoint_left(&mut self, endpoint: &str) {
        if let Some(forgotten) = self.retained_commands.left(endpoint) {
            self.retained_changes.mark(&forgotten);
        }
    }

    /// Returns the news for the store, at most so many.
    pub(super) fn take_retained_changes(&mut self, most: usize) -> Vec<Change> {
        let endpoints = std::iter::from_fn(|| self.retained_changes.take()).take(most);
        endpoints.map(|endpoint| Change::RetainedCommands(self.retained_commands.record(&endpoint))).collect()
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
        dedup.remember("stays", digest(0));
        let leave = |dedup: &mut RetainedCommandDedup, number: usize| {
            let endpoint = format!("ep{number}");
            dedup.remember(&endpoint, digest(0));
            dedup.left(&endpoint)
        };
        for number in 0..DEPARTED {
            assert_eq!(leave(&mut dedup, number), None);
        }
        assert_eq!(dedup.left("ep0"), None, "it left before");
        dedup.registered("ep0");
        assert_eq!(leave(&mut dedup, DEPARTED), None, "ep0 came back");
        assert_eq!(leave(&mut dedup, DEPARTED + 1).as_deref(), Some("ep1"));
        assert_eq!(dedup.len(), DEPARTED + 2);
        assert!(dedup.contains("stays", digest(0)) && dedup.contains("ep0", digest(0)));
        assert!(!dedup.contains("ep1", digest(0)));
    }
}
