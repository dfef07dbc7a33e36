//! Shards without an owner, and how the node acquires them.

use std::collections::BTreeMap;
use std::time::Instant;

use lwm2m_base::Shard;

use super::tenure::Tenure;
use super::{ClusterMember, EngineContact, MemberCommand, Now};
use crate::engine::{Acquisition, EngineRequest, LeaseState, RunId};
use crate::node::NodeNumber;
use crate::rendezvous;
use crate::term::{Term, WallTime};

/// The shards that no living node has, as far as the last round tells.
#[derive(Debug, Default)]
pub(super) struct Openings(BTreeMap<Shard, ShardOpening>);

#[derive(Debug)]
struct ShardOpening {
    since: Instant,
    kind: OpeningKind,
    next_attempt: Instant,
}

impl ShardOpening {
    fn new(kind: OpeningKind, now: Instant) -> Self {
        Self { since: now, kind, next_attempt: now }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OpeningKind {
    /// Released, or of an earlier process of this node.
    Free,
    /// The engine may have forgotten the owner. The first attempt makes the engine wait for it.
    Unknown,
    /// The expired lease belongs to another node, which has precedence while the contact with the engine is young.
    Expired,
}

impl Openings {
    pub(super) fn note(
        &mut self,
        leases: &[(Shard, LeaseState)],
        me: NodeNumber,
        tenures: &BTreeMap<Shard, Tenure>,
        now: Instant,
    ) {
        for &(shard, lease) in leases {
            let kind = match lease {
                _ if tenures.contains_key(&shard) => None,
                LeaseState::Free => Some(OpeningKind::Free),
                LeaseState::Unknown => Some(OpeningKind::Unknown),
                LeaseState::Expired(owner) if owner.node == me => Some(OpeningKind::Free),
                LeaseState::Expired(_) => Some(OpeningKind::Expired),
                // An acquisition of this process whose answer was lost is among them, and expires.
                LeaseState::Held(_) => None,
            };
            match kind {
                None => drop(self.0.remove(&shard)),
                Some(kind) => {
                    let opening = self.0.entry(shard).or_insert_with(|| ShardOpening::new(kind, now));
                    if opening.kind != kind {
                        *opening = ShardOpening::new(kind, now);
                    }
                }
            }
        }
    }

    /// Opens a shard that its owner released for this node.
    pub(super) fn open(&mut self, shard: Shard, now: Instant) {
        self.0.insert(shard, ShardOpening::new(OpeningKind::Free, now));
    }

    pub(super) fn next_attempt(&self) -> Option<Instant> {
        self.0.values().map(|opening| opening.next_attempt).min()
    }

    fn remove(&mut self, shard: Shard) {
        self.0.remove(&shard);
    }
}

impl ClusterMember {
    /// Returns whether the node may ask for leases now.
    pub(super) fn may_acquire(&self) -> bool {
        self.state == EngineContact::Sure && self.clock_agrees && self.draining.is_none()
    }

    /// Asks for the open shards whose turn it is: the node that a shard prefers asks at once, the next one a second
    /// later.
    pub(super) fn acquire_open(&mut self, now: Now) {
        let Some((contact, time)) = self.contact.zip(self.engine_time(now)) else { return };
        let Some(floors) = self.floors.as_ref() else { return };
        let entry = self.entry();
        if !self.may_acquire() {
            return;
        }
        let timing = self.config.timing;
        let not_after = time.plus(timing.renew * 2);
        for (&shard, opening) in &mut self.openings.0 {
            // A node that takes no shards yet lets the engine begin to wait for forgotten owners.
            let may_ask = entry.takes || opening.kind == OpeningKind::Unknown;
            if opening.next_attempt > now.monotonic {
                continue;
            }
            if !may_ask {
                opening.next_attempt = now.monotonic + timing.renew / 2;
                continue;
            }
            let open_since = match opening.kind {
                OpeningKind::Free => opening.since,
                OpeningKind::Unknown => opening.since + timing.grace,
                OpeningKind::Expired => opening.since.max(contact.since + timing.grace),
            };
            let order = rendezvous::order(shard, self.peers.entries().chain([entry]));
            if self.is_drained && !order.is_empty() {
                opening.next_attempt = now.monotonic + timing.renew / 2;
                continue;
            }
            // A node of weight 0 takes a shard that no other node takes.
            let position = order.iter().position(|&node| node == entry.process.node).unwrap_or(order.len());
            let turn = open_since + timing.renew * u32::try_from(position).unwrap_or(u32::MAX).min(128);
            // A request for a lease that may be forgotten makes the engine wait for its owner, whoever asks.
            let begins_wait = opening.kind == OpeningKind::Unknown && now.monotonic < open_since;
            if turn > now.monotonic && !begins_wait {
                opening.next_attempt = turn;
                continue;
            }
            opening.next_attempt = now.monotonic + if begins_wait { timing.renew } else { timing.renew / 2 };
            self.commands.push_back(MemberCommand::Ask(EngineRequest::Acquire {
                asked: now.monotonic,
                shard,
                floor: floors.floor(shard),
                contact: now.monotonic.saturating_duration_since(contact.since),
                not_after,
            }));
        }
    }

    pub(super) fn handle_acquisition(&mut self, asked: Instant, shard: Shard, answer: Acquisition, now: Now) {
        match answer {
            Acquisition::Acquired { term, run } => self.handle_acquired(asked, shard, term, run, now),
            // The next round has the owner. A shard that is released for this node may still be busy.
            Acquisition::Busy | Acquisition::Later => {}
        }
    }

    /// A late answer is not used, since the lease may have expired by now: the shard is given back.
    fn handle_acquired(&mut self, asked: Instant, shard: Shard, term: Term, run: RunId, now: Now) {
        let age = now.monotonic.saturating_duration_since(asked);
        let in_time = age < self.config.timing.renew && self.state == EngineContact::Sure && self.draining.is_none();
        if in_time && self.tenures.get(&shard).is_some_and(|tenure| tenure.term < term) {
            // A second request was under way: the engine gave this process a later term.
            self.use_term(shard, term);
            return;
        }
        let unused = !self.tenures.contains_key(&shard)
            && self.floors.as_mut().is_some_and(|floors| in_time && floors.use_term(shard, term));
        if !unused {
            // A request for that is never too late.
            let not_after = WallTime(u64::MAX);
            self.commands.push_back(MemberCommand::Ask(EngineRequest::Release { shard, term, not_after }));
            return;
        }
        self.openings.remove(shard);
        self.tenures.insert(shard, Tenure::new(term, run, now.monotonic));
        self.commands.push_back(MemberCommand::Load { shard, term });
    }
}
