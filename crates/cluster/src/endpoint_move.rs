//! The move of a device from a shard of one node to a shard of another one: a device that shook hands anew through
//! another node continues in the shard of its newest association.
//!
//! The engine has one entry for each endpoint: its shard, a version that grows with each change, and whether it is
//! frozen. The parts of a move are at the *target*, the node of the new association ([`Arrivals`]), and at the
//! *source*, the node that has the device ([`Departures`]):
//!
//! 1. The target asks the source for the device. The source stops serving it, waits until the engine has its last
//!    record, freezes the entry, and tells the target its version.
//! 2. The target *takes* the device: in one step, which needs its own lease, the engine writes the record into the shard
//!    of the target and sets the entry to it, if the entry is still frozen in this version. **That decides**: the target
//!    has the device.
//! 3. The target tells the source, which removes its record.
//! 4. A source that hears nothing for [`ANSWER_TIME`] *thaws* the entry: in one step, which needs its own lease, the
//!    engine gives the entry of the source the next version. If that succeeds, the target cannot take the device any
//!    more, and the source serves it again. If another shard is in the entry, the target has the device. While the
//!    engine does not answer, nobody serves it.
//! 5. Another node that acquires the shard of the source thaws its frozen entries before it serves, and drops the
//!    records of entries that name another shard.
//!
//! It guarantees that no two shards serve an endpoint at the same time, if the engine does not forget the entry.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use lwm2m_base::Shard;

use crate::node::NodeNumber;

/// The time for which a target waits until the source has frozen the entry.
pub const FETCH_TIME: Duration = Duration::from_secs(3);
/// The time after which a source asks the engine which shard has the device.
pub const ANSWER_TIME: Duration = Duration::from_secs(5);
/// The interval at which a source that the engine does not answer asks again.
const RETRY: Duration = Duration::from_secs(1);
/// Maximum number of devices that a node asks for, and of devices that leave it, at the same time.
pub const MOST_MOVES: usize = 256;

/// Identifies a move at its target. A number is never given to another move of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MoveNumber(pub u64);

/// The devices that a node has asked other nodes for, each with what waits for it.
#[derive(Debug)]
pub struct Arrivals<W> {
    open: HashMap<MoveNumber, Arrival<W>>,
    last: MoveNumber,
}

#[derive(Debug)]
struct Arrival<W> {
    waiting: W,
    source: NodeNumber,
    /// The end of the wait for the source; `None` once the engine was asked, which decides.
    deadline: Option<Instant>,
}

impl<W> Default for Arrivals<W> {
    fn default() -> Self {
        Self { open: HashMap::new(), last: MoveNumber(0) }
    }
}

impl<W> Arrivals<W> {
    /// Begins a move from this node, which the caller asks for the device.
    ///
    /// # Errors
    /// Returns what would wait if there are [`MOST_MOVES`] already.
    pub fn ask(&mut self, now: Instant, source: NodeNumber, waiting: W) -> Result<MoveNumber, W> {
        if self.open.len() >= MOST_MOVES {
            return Err(waiting);
        }
        self.last = MoveNumber(self.last.0 + 1);
        self.open.insert(self.last, Arrival { waiting, source, deadline: Some(now + FETCH_TIME) });
        Ok(self.last)
    }

    /// The source has frozen the entry. Returns what waits if the caller has to take the device now.
    pub fn handle_frozen(&mut self, number: MoveNumber, from: NodeNumber) -> Option<&W> {
        let arrival = self.open.get_mut(&number).filter(|arrival| arrival.source == from)?;
        arrival.deadline.take()?;
        Some(&arrival.waiting)
    }

    /// Takes the refusal of the source. Returns the question that has waited.
    pub fn handle_refused(&mut self, number: MoveNumber, from: NodeNumber) -> Option<W> {
        let arrival = self.open.get(&number)?;
        let is_asked = arrival.source == from && arrival.deadline.is_some();
        is_asked.then(|| self.open.remove(&number)).flatten().map(|arrival| arrival.waiting)
    }

    /// Takes the decision of the engine. Returns the question that has waited, and the source.
    pub fn handle_decided(&mut self, number: MoveNumber) -> Option<(W, NodeNumber)> {
        self.open.remove(&number).map(|arrival| (arrival.waiting, arrival.source))
    }

    /// Returns the questions whose source has not answered in time.
    pub fn handle_timeout(&mut self, now: Instant) -> Vec<W> {
        let is_late =
            |_: &MoveNumber, arrival: &mut Arrival<W>| arrival.deadline.is_some_and(|deadline| deadline <= now);
        self.open.extract_if(is_late).map(|(_, arrival)| arrival.waiting).collect()
    }

    /// Returns when [`Arrivals::handle_timeout`] has to be called.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.open.values().filter_map(|arrival| arrival.deadline).min()
    }
}

/// The devices that leave a node. The node does not serve them, but may have to again. `D` is a device, and `B` the
/// number of a batch of the store.
#[derive(Debug)]
pub struct Departures<D, B> {
    leaving: HashMap<String, Departure<D, B>>,
}

/// A device that leaves.
#[derive(Debug)]
pub struct Departure<D, B> {
    pub shard: Shard,
    pub target: NodeNumber,
    /// The number of the move at its target.
    pub number: MoveNumber,
    /// The batch with its last record.
    pub written_by: B,
    pub device: D,
    stage: MoveStage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MoveStage {
    /// The engine does not have its last record yet.
    Writing {
        deadline: Instant,
    },
    Freezing,
    /// Its entry is frozen in this version.
    Frozen {
        version: u64,
        deadline: Instant,
    },
    /// The engine is asked for its entry.
    Thawing,
    /// The engine has not answered.
    Unanswered {
        retry: Instant,
    },
}

/// The answer of the engine that was asked to freeze an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frozen {
    Version(u64),
    /// Another shard has the device.
    Gone,
    /// Another node has the shard.
    Fenced,
    Unknown,
}

/// The answer of the engine that was asked to thaw an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thawed {
    /// The source has the device.
    Back,
    /// Another shard has the device.
    Gone,
    /// Another node has the shard.
    Fenced,
    Unknown,
}

/// The next step of the source.
#[derive(Debug)]
pub enum SourceStep<D, B> {
    /// Ask the engine to freeze the entry of this endpoint and shard.
    Freeze(String, Shard),
    /// Tell the target that it can take the device of this endpoint from this shard and version.
    Tell { target: NodeNumber, number: MoveNumber, endpoint: String, shard: Shard, version: u64 },
    /// Ask the engine to thaw the entry of this endpoint and shard.
    Thaw(String, Shard),
    /// Serve the device again. The target gets an answer, if it still waits for one.
    Back(Departure<D, B>),
    /// Remove the record of the device, if the shard has one, because another shard has the device. The target gets an
    /// answer, if it still waits for one.
    Gone(String, Departure<D, B>),
}

impl<D, B> Default for Departures<D, B> {
    fn default() -> Self {
        Self { leaving: HashMap::new() }
    }
}

impl<D, B: Copy + PartialOrd> Departures<D, B> {
    /// Returns whether another device may leave.
    pub fn has_room(&self) -> bool {
        self.leaving.len() < MOST_MOVES
    }

    /// Returns whether the device of this endpoint is leaving.
    pub fn contains(&self, endpoint: &str) -> bool {
        self.leaving.contains_key(endpoint)
    }

    /// Begins the departure of a device that the node does not serve any more.
    pub fn begin(
        &mut self,
        now: Instant,
        endpoint: String,
        (shard, device, written_by): (Shard, D, B),
        (target, number): (NodeNumber, MoveNumber),
    ) {
        let stage = MoveStage::Writing { deadline: now + FETCH_TIME };
        self.leaving.insert(endpoint, Departure { shard, target, number, written_by, device, stage });
    }

    /// The store has all batches up to this one.
    pub fn handle_stored(&mut self, upto: B) -> Vec<SourceStep<D, B>> {
        let mut steps = Vec::new();
        for (endpoint, departure) in &mut self.leaving {
            if matches!(departure.stage, MoveStage::Writing { .. }) && departure.written_by <= upto {
                departure.stage = MoveStage::Freezing;
                steps.push(SourceStep::Freeze(endpoint.clone(), departure.shard));
            }
        }
        steps
    }

    /// Takes the answer to [`SourceStep::Freeze`].
    pub fn handle_frozen(&mut self, now: Instant, endpoint: &str, frozen: Frozen) -> Option<SourceStep<D, B>> {
        let departure = self.leaving.get_mut(endpoint).filter(|departure| departure.stage == MoveStage::Freezing)?;
        match frozen {
            Frozen::Version(version) => {
                departure.stage = MoveStage::Frozen { version, deadline: now + ANSWER_TIME };
                let (target, number, shard) = (departure.target, departure.number, departure.shard);
                Some(SourceStep::Tell { target, number, endpoint: endpoint.to_owned(), shard, version })
            }
            // Nobody knows the version in which the entry may be frozen, so that nobody can take the device.
            Frozen::Unknown => self.leaving.remove(endpoint).map(SourceStep::Back),
            Frozen::Gone => self.handle_return(endpoint),
            Frozen::Fenced => self.forget(endpoint),
        }
    }

    /// The target has taken the device from this version.
    pub fn handle_done(&mut self, endpoint: &str, version: u64) -> Option<SourceStep<D, B>> {
        let stage = self.leaving.get(endpoint)?.stage;
        let is_it = matches!(stage, MoveStage::Frozen { version: frozen, .. } if frozen == version);
        is_it.then(|| self.handle_return(endpoint)).flatten()
    }

    /// The device has arrived at this node again, in another shard.
    pub fn handle_return(&mut self, endpoint: &str) -> Option<SourceStep<D, B>> {
        self.leaving.remove(endpoint).map(|departure| SourceStep::Gone(endpoint.to_owned(), departure))
    }

    pub fn handle_timeout(&mut self, now: Instant) -> Vec<SourceStep<D, B>> {
        let is_late = |_: &String, departure: &mut Departure<D, B>| matches!(departure.stage, MoveStage::Writing { deadline } if deadline <= now);
        // The entry of the device was not frozen.
        let mut steps: Vec<_> = self.leaving.extract_if(is_late).map(|(_, late)| SourceStep::Back(late)).collect();
        for (endpoint, departure) in &mut self.leaving {
            if departure.deadline().is_some_and(|deadline| deadline <= now) {
                departure.stage = MoveStage::Thawing;
                steps.push(SourceStep::Thaw(endpoint.clone(), departure.shard));
            }
        }
        steps
    }

    /// Takes the answer to [`SourceStep::Thaw`].
    pub fn handle_thawed(&mut self, now: Instant, endpoint: &str, thawed: Thawed) -> Option<SourceStep<D, B>> {
        let departure = self.leaving.get_mut(endpoint).filter(|departure| departure.stage == MoveStage::Thawing)?;
        match thawed {
            Thawed::Back => self.leaving.remove(endpoint).map(SourceStep::Back),
            Thawed::Gone => self.handle_return(endpoint),
            Thawed::Fenced => self.forget(endpoint),
            Thawed::Unknown => {
                departure.stage = MoveStage::Unanswered { retry: now + RETRY };
                None
            }
        }
    }

    /// Forgets a device whose shard another node has: that node decides.
    fn forget(&mut self, endpoint: &str) -> Option<SourceStep<D, B>> {
        drop(self.leaving.remove(endpoint));
        None
    }

    /// The node has lost a shard: its new owner decides.
    pub fn forget_shard(&mut self, shard: Shard) {
        self.leaving.retain(|_, departure| departure.shard != shard);
    }

    /// Returns when [`Departures::handle_timeout`] has to be called.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.leaving.values().filter_map(Departure::deadline).min()
    }
}

impl<D, B> Departure<D, B> {
    fn deadline(&self) -> Option<Instant> {
        match self.stage {
            MoveStage::Freezing | MoveStage::Thawing => None,
            MoveStage::Writing { deadline } | MoveStage::Frozen { deadline, .. } => Some(deadline),
            MoveStage::Unanswered { retry } => Some(retry),
        }
    }
}
