//! The move of an endpoint from one shard to another: a device that shook hands anew through another node continues
//! in the shard of its newest association.
//!
//! The engine has one entry for each endpoint, a [`Place`]: the shard and a version. It changes by compare-and-set
//! only.
//!
//! 1. The target asks the source for the device. The source stops serving it, stores that it did, and sends the record.
//! 2. The target stores the record as arriving, and swaps the place. **The swap decides**: the target has the device.
//! 3. The target tells the source, which removes its record.
//! 4. A source that hears nothing for `ANSWER_TIME` swaps its own place for the next version. If that succeeds, a
//!    late swap of the target fails, and the source serves the device again. If it fails, the target has the device.
//!    While the engine does not answer, neither serves it.
//!
//! Each step is stored before the next one, so another owner of either shard continues where the first one stopped.
//!
//! It guarantees that no two shards serve an endpoint at the same time, if the engine does not forget the place.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use lwm2m_base::Shard;

/// The time after which a source asks the engine who has the device.
pub(crate) const ANSWER_TIME: Duration = Duration::from_secs(5);
/// The interval at which an unanswered request is repeated.
const RETRY: Duration = Duration::from_secs(1);
/// The number of times that a target asks the source.
const FETCHES: u8 = 5;

/// The value of the engine's entry of an endpoint. The version grows with each change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    pub shard: Shard,
    pub version: u64,
}

impl Place {
    fn next_in(self, shard: Shard) -> Self {
        Self { shard, version: self.version.saturating_add(1) }
    }
}

/// The stored state of an endpoint in a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Custody {
    /// The shard has no record of the endpoint.
    Absent,
    /// The shard serves the device.
    Present(Place),
    /// Another shard may take the device from this place.
    Frozen(Place),
    /// The shard has the record, and takes the device from this place of another shard.
    Arriving(Place),
}

/// A step of a move, taken by the owner of the shard. Each step follows when the one before it has succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MoveAction {
    /// Write the custody, with the record, by a fenced write.
    Store(Custody),
    /// Ask the owner of the shard for the device.
    Fetch(Shard),
    /// Send the record of the device to the owner of this shard.
    Fetched { to: Shard, place: Place },
    /// If the engine's place is `from`, set it to `to`. Report the place after that by [`EndpointMove::handle_place`].
    Swap { from: Place, to: Place },
    /// Tell the owner of the shard of this place that the device was taken.
    Done(Place),
}

/// The part of one shard in the moves of one endpoint.
#[derive(Debug)]
pub struct EndpointMove {
    shard: Shard,
    custody: Custody,
    /// The greatest version that the engine has reported. An older record is that of an earlier move.
    seen: u64,
    /// The shard of the source, and the number of requests to it that are left.
    fetching: Option<(Shard, u8)>,
    deadline: Option<Instant>,
    actions: VecDeque<MoveAction>,
}

impl EndpointMove {
    /// Continues from what the shard has stored. A move that was under way is decided by the engine at once.
    pub fn load(shard: Shard, custody: Custody, now: Instant) -> Self {
        let deadline = match custody {
            Custody::Absent | Custody::Present(_) => None,
            Custody::Frozen(_) | Custody::Arriving(_) => Some(now),
        };
        let seen = match custody {
            Custody::Absent => 0,
            Custody::Present(place) | Custody::Frozen(place) | Custody::Arriving(place) => place.version,
        };
        Self { shard, custody, seen, fetching: None, deadline, actions: VecDeque::new() }
    }

    /// The device has an association in this shard, and the engine says that it is in another one.
    pub fn fetch_from(&mut self, source: Shard, now: Instant) {
        if self.custody == Custody::Absent && source != self.shard && self.fetching.is_none() {
            self.fetching = Some((source, FETCHES));
            self.deadline = Some(now);
            self.handle_timeout(now);
        }
    }

    /// The owner of another shard asks for the device.
    pub fn handle_fetch(&mut self, by: Shard, now: Instant) {
        match self.custody {
            Custody::Present(place) => {
                self.become_custody(Custody::Frozen(place));
                self.deadline = Some(now + ANSWER_TIME);
                self.actions.push_back(MoveAction::Fetched { to: by, place });
            }
            Custody::Frozen(place) => self.actions.push_back(MoveAction::Fetched { to: by, place }),
            Custody::Absent | Custody::Arriving(_) => {}
        }
    }

    /// The source has sent the record.
    pub fn handle_fetched(&mut self, place: Place, now: Instant) {
        let new = self.custody == Custody::Absent && place.version >= self.seen;
        if new && self.fetching.take().is_some() {
            self.become_custody(Custody::Arriving(place));
            self.swap(place, now);
        }
    }

    /// The target has taken the device from this place.
    pub fn handle_done(&mut self, place: Place) {
        if self.custody == Custody::Frozen(place) {
            self.leave();
        }
    }

    /// The engine answered a swap of this process: this is the place now.
    pub fn handle_place(&mut self, current: Place) {
        self.seen = self.seen.max(current.version);
        let (Custody::Frozen(from) | Custody::Arriving(from)) = self.custody else { return };
        // An answer to an earlier move tells nothing about this one.
        if current.version <= from.version {
            return;
        }
        if current != from.next_in(self.shard) {
            return self.leave();
        }
        let arrived = matches!(self.custody, Custody::Arriving(_));
        self.become_custody(Custody::Present(current));
        self.deadline = None;
        if arrived {
            self.actions.push_back(MoveAction::Done(from));
        }
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        if self.deadline.is_none_or(|deadline| now < deadline) {
            return;
        }
        match (self.custody, self.fetching) {
            (Custody::Frozen(place) | Custody::Arriving(place), _) => self.swap(place, now),
            (Custody::Absent | Custody::Present(_), Some((source, left))) if left > 0 => {
                self.fetching = Some((source, left - 1));
                self.deadline = Some(now + RETRY);
                self.actions.push_back(MoveAction::Fetch(source));
            }
            (Custody::Absent | Custody::Present(_), _) => (self.fetching, self.deadline) = (None, None),
        }
    }

    pub fn poll_action(&mut self) -> Option<MoveAction> {
        self.actions.pop_front()
    }

    /// Returns when [`EndpointMove::handle_timeout`] has to be called.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Returns whether the shard serves the device.
    pub fn serves(&self) -> bool {
        matches!(self.custody, Custody::Present(_))
    }

    fn swap(&mut self, from: Place, now: Instant) {
        self.deadline = Some(now + RETRY);
        self.actions.push_back(MoveAction::Swap { from, to: from.next_in(self.shard) });
    }

    fn leave(&mut self) {
        self.become_custody(Custody::Absent);
        self.deadline = None;
    }

    fn become_custody(&mut self, custody: Custody) {
        self.custody = custody;
        self.actions.push_back(MoveAction::Store(custody));
    }
}
