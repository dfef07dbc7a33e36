//! The port to the engine, which stores leases: requests, answers, and what each request does there.
//!
//! A lease has the members `owner` (a process or nobody), `term`, `until` (a time), `run` (the run of the engine that
//! wrote it) and `unknown_until`. Each request is one atomic step for each shard that it names. Times are the engine's.

use std::time::{Duration, Instant};

use lwm2m_base::Shard;

use crate::node::NodeProcess;
use crate::node::{Incarnation, NodeNumber};
use crate::term::{Term, WallTime};

/// Identifies one run of the engine: 64 bits of its run id, which differs after a restart and after a failover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RunId(pub u64);

/// The intervals of leases. All nodes of a cluster and the scripts of its engine have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// The time after which a lease or the entry of a node expires that was not renewed.
    pub lease: Duration,
    /// The interval of renewals, at most a fifth of `lease`.
    pub renew: Duration,
    /// The time after a loss of contact in which owners come first: nobody else takes an expired lease.
    pub grace: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self { lease: Duration::from_secs(5), renew: Duration::from_secs(1), grace: Duration::from_secs(10) }
    }
}

/// A request of a node to the engine. Its answer repeats `asked`.
#[derive(Clone, Debug, PartialEq)]
pub enum EngineRequest {
    /// Announces the node, renews its leases, and reads the list of nodes and leases.
    ///
    /// The entry of a number is written, with an expiry of [`Timing::lease`], if there is none or if it has the same
    /// incarnation. Otherwise nothing is renewed.
    Round { asked: Instant, entry: NodeEntry, renewals: Vec<Renewal> },
    /// Takes a lease. The engine does the first of these that applies:
    ///
    /// 1. After `not_after` it answers [`Acquisition::Later`], because the request was delayed.
    /// 2. If the lease was not written in this run, the engine may have forgotten its owner: it sets `run` and
    ///    `unknown_until` to the end of [`Timing::grace`], and answers [`Acquisition::Later`].
    /// 3. If another process has the lease and it is not expired, it answers [`Acquisition::Busy`].
    /// 4. Before `unknown_until` it answers [`Acquisition::Later`]. If `unknown_until` is set, or unless the owner is
    ///    this process or an older one of its number, it also does so while `contact` is shorter than the grace: the
    ///    owner may have been without the engine, too. An older process of the number has ended before this one is
    ///    announced; a newer one may live.
    /// 5. The new term is the greatest of the stored term + 1, the tick, `floor`, and, if `unknown_until` is set, the
    ///    tick + [`Term::AHEAD`]. If it is above [`Term::last_at`] the engine answers [`Acquisition::Later`].
    /// 6. It writes owner, term, expiry and run, removes `unknown_until`, and answers [`Acquisition::Acquired`].
    Acquire { asked: Instant, shard: Shard, floor: Term, contact: Duration, not_after: WallTime },
    /// Releases a lease, if owner and term are those of the caller. A request that is executed later than `not_after`
    /// by the engine's clock changes nothing.
    Release { shard: Shard, term: Term, not_after: WallTime },
}

/// Renews one lease. The engine does the first of these that applies:
///
/// 1. If the process is the owner and the stored term is not above `term`, it answers [`Renewed::Mine`].
/// 2. If the stored term is not below `term`, or if the lease has an owner that wrote it in the run `run`, it answers
///    [`Renewed::Fenced`]. Otherwise the engine has forgotten this owner.
/// 3. If the owner is `sure`, it answers [`Renewed::Restored`].
/// 4. If the lease was written in this run, it answers [`Renewed::Fenced`].
/// 5. It sets `unknown_until` as for [`EngineRequest::Acquire`], unless it is set, and answers [`Renewed::Later`] in
///    the first half of that time, since an owner that is sure comes first. Then it answers [`Renewed::Restored`].
///
/// With `Mine` and `Restored` the engine writes owner, `term`, expiry and run, and removes `unknown_until`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewal {
    pub shard: Shard,
    pub term: Term,
    /// The run of the engine that renewed this lease last.
    pub run: RunId,
    /// Whether nobody else can have acquired the shard since.
    pub sure: bool,
}

/// A node as it announces itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeEntry {
    pub process: NodeProcess,
    /// The share of shards that the node takes, relative to other nodes. A node of weight 0 takes those that no
    /// other node takes.
    pub weight: u16,
    /// Whether the node takes shards now: it does not drain, and it has reached its first term.
    pub takes: bool,
}

/// The answer to [`EngineRequest::Round`].
#[derive(Clone, Debug, PartialEq)]
pub struct RoundAnswer {
    pub asked: Instant,
    pub time: WallTime,
    pub run: RunId,
    pub announced: Announced,
    /// The entries that are not expired.
    pub nodes: Vec<NodeEntry>,
    /// The nodes that announced themselves in the last day and did not drain, also those whose entries are expired.
    /// Such a node may live without the engine.
    pub members: Vec<NodeNumber>,
    /// The leases of all shards. They are a hint: each request checks them again.
    pub leases: Vec<(Shard, LeaseState)>,
    /// The answer to each renewal with its term; empty unless the node was announced.
    pub renewals: Vec<(Shard, Term, Renewed)>,
    /// Whether an operator has drained this process: the other nodes are to have its shards.
    pub is_drained: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announced {
    Done,
    /// An older process of this number has an entry, which expires at this time unless it is renewed.
    Occupied {
        by: Incarnation,
        until: WallTime,
    },
    /// A newer process of this number has an entry.
    Replaced,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewed {
    Mine,
    Restored,
    /// The engine has forgotten the owner, and waits for another one that may be sure.
    Later,
    Fenced,
}

/// The state of a lease in the list of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseState {
    /// The last owner released it.
    Free,
    /// The lease was not written in this run of the engine, which may have forgotten its owner.
    Unknown,
    Expired(NodeProcess),
    Held(NodeProcess),
}

impl LeaseState {
    /// Returns the process that wrote the lease last, unless it released it or the engine may have forgotten it.
    pub fn owner(self) -> Option<NodeProcess> {
        match self {
            Self::Free | Self::Unknown => None,
            Self::Expired(owner) | Self::Held(owner) => Some(owner),
        }
    }
}

/// The answer to [`EngineRequest::Acquire`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acquisition {
    Acquired { term: Term, run: RunId },
    Busy,
    Later,
}
