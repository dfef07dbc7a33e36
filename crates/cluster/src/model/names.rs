//! A model of the engine's entry of an endpoint name, and of the records of its device: what the scripts of a move do.

use crate::endpoint_move::{Frozen, Thawed};

/// Number of shards. Each belongs to the node of its number.
pub const SHARDS: usize = 3;

/// A rule of the engine that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    None,
    /// An entry keeps its version when it is thawed.
    SameVersion,
    /// Whoever acquires a shard does not thaw its entries.
    LoadKeepsFrozen,
    /// A device can be taken without the lease of its new shard.
    TakeIsNotFenced,
}

/// The engine's entry of the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub shard: usize,
    pub version: u64,
    pub is_frozen: bool,
}

pub struct Names {
    pub flaw: Flaw,
    pub entry: Entry,
    /// Whether each shard has a record.
    pub records: [bool; SHARDS],
}

impl Names {
    /// Returns the state in which the first shard has the device.
    pub fn new(flaw: Flaw) -> Self {
        Self { flaw, entry: Entry { shard: 0, version: 1, is_frozen: false }, records: [true, false, false] }
    }

    /// A new process acquires a shard, and reads it. Returns whether it has the device.
    pub fn load(&mut self, shard: usize) -> bool {
        if self.records[shard]
            && self.entry.shard == shard
            && self.entry.is_frozen
            && self.flaw != Flaw::LoadKeepsFrozen
        {
            self.entry = self.next(shard);
        }
        self.remove_superseded(shard);
        self.records[shard]
    }

    /// Removes the record of a shard if another one has the device.
    pub fn remove_superseded(&mut self, shard: usize) {
        self.records[shard] &= self.entry.shard == shard;
    }

    pub fn freeze(&mut self, shard: usize, has_lease: bool) -> Frozen {
        if !has_lease {
            return Frozen::Fenced;
        }
        if self.entry.shard != shard {
            return Frozen::Gone;
        }
        self.entry = Entry { is_frozen: true, ..self.next(shard) };
        Frozen::Version(self.entry.version)
    }

    pub fn thaw(&mut self, shard: usize, has_lease: bool) -> Thawed {
        if !has_lease {
            return Thawed::Fenced;
        }
        if self.entry.shard != shard {
            return Thawed::Gone;
        }
        self.entry = self.next(shard);
        Thawed::Back
    }

    /// Takes the device into a shard, from the shard and the version in which it was frozen. Returns whether the shard
    /// has it.
    pub fn take(&mut self, shard: usize, has_lease: bool, source: usize, version: u64) -> bool {
        if !has_lease && self.flaw != Flaw::TakeIsNotFenced {
            return false;
        }
        let Entry { shard: owner, version: current, is_frozen } = self.entry;
        // An entry that keeps its version is the same one after it was thawed.
        let is_frozen = is_frozen || self.flaw == Flaw::SameVersion;
        if owner == source && is_frozen && current == version {
            (self.entry, self.records[shard]) = (self.next(shard), true);
        }
        // An earlier request may have taken it, or an earlier move of this node may have frozen it late.
        if self.entry.shard == shard && self.entry.is_frozen {
            self.entry = self.next(shard);
        }
        self.entry.shard == shard
    }

    fn next(&self, shard: usize) -> Entry {
        let step = u64::from(self.flaw != Flaw::SameVersion);
        Entry { shard, version: self.entry.version + step, is_frozen: false }
    }
}
