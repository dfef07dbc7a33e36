//! The threads that have the endpoint names: one table for all threads of the process.

use std::collections::HashMap;

use lwm2m_base::{Shard, ThreadShards};

/// Maps each endpoint name to the one thread that has its registration, or that is about to. A thread claims a name
/// before it registers the device, and gives the claim back when the device leaves.
///
/// The table has one entry for each registered or pending device. The program keeps it behind a lock that is held for
/// one call.
#[derive(Debug)]
pub struct Claims {
    by_endpoint: HashMap<Box<str>, Held>,
    /// The endpoint of each location whose shard belongs to another thread than the one that has the device, because
    /// the device has moved by a new handshake and has not registered since.
    displaced: HashMap<Box<str>, Box<str>>,
    shards: ThreadShards,
    most: usize,
    refused: u64,
}

/// The answer to a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The thread that claims the name has it now.
    Mine,
    /// This thread has the name.
    At(u8),
    /// The table is full.
    Unknown,
}

#[derive(Debug)]
struct Held {
    thread: u8,
    /// The location of the device, if its shard is one of another thread.
    displaced: Option<Box<str>>,
}

impl Claims {
    /// Makes an empty table with room for so many names. `shards` are those of any thread: only their number counts.
    pub fn new(shards: ThreadShards, most: usize) -> Self {
        Self { by_endpoint: HashMap::new(), displaced: HashMap::new(), shards, most, refused: 0 }
    }

    /// Claims a name for a thread, unless another thread has it.
    pub fn claim(&mut self, endpoint: &str, thread: u8) -> Claim {
        match self.by_endpoint.get(endpoint) {
            Some(held) if held.thread == thread => Claim::Mine,
            Some(held) => Claim::At(held.thread),
            None if self.by_endpoint.len() >= self.most => {
                self.refused += 1;
                Claim::Unknown
            }
            None => {
                self.by_endpoint.insert(endpoint.into(), Held { thread, displaced: None });
                Claim::Mine
            }
        }
    }

    /// Gives a claim back. A thread that does not have the name changes nothing.
    pub fn unclaim(&mut self, endpoint: &str, thread: u8) {
        if self.find(endpoint) != Some(thread) {
            return;
        }
        let location = self.by_endpoint.remove(endpoint).and_then(|held| held.displaced);
        if let Some(location) = location {
            self.displaced.remove(&location);
        }
    }

    /// Gives a name to a thread: its device was restored there, or has moved there from another thread. The table has
    /// room for each restored device, whatever its bound is.
    pub fn place(&mut self, endpoint: &str, location: &str, thread: u8) {
        self.by_endpoint.remove(endpoint).and_then(|held| self.displaced.remove(&held.displaced?));
        let displaced = (self.thread_of(location) != Some(thread)).then(|| location.into());
        if let Some(location) = &displaced {
            self.displaced.insert(Box::clone(location), endpoint.into());
        }
        self.by_endpoint.insert(endpoint.into(), Held { thread, displaced });
    }

    /// Returns the thread that has a name.
    pub fn find(&self, endpoint: &str) -> Option<u8> {
        self.by_endpoint.get(endpoint).map(|held| held.thread)
    }

    /// Returns the thread that has the registration with this location, if there is such a registration. Returns `None`
    /// for a text that is no location.
    pub fn find_location(&self, location: &str) -> Option<u8> {
        match self.displaced.get(location) {
            Some(endpoint) => self.find(endpoint),
            None => self.thread_of(location),
        }
    }

    /// Sets the maximum number of names. Those beyond it stay.
    pub fn set_most(&mut self, most: usize) {
        self.most = most;
    }

    /// Returns the maximum number of names.
    pub fn most(&self) -> usize {
        self.most
    }

    /// Returns the number of names.
    pub fn len(&self) -> usize {
        self.by_endpoint.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_endpoint.is_empty()
    }

    /// Returns how many claims were refused because the table was full.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    fn thread_of(&self, location: &str) -> Option<u8> {
        let shard = Shard::of_text(location.as_bytes())?;
        Some(ThreadShards::thread_of(shard, self.shards.threads()))
    }
}
