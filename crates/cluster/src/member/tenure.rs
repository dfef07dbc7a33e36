//! The shards that a node holds: renewal, service, own terms and handover.

use std::time::Instant;

use lwm2m_base::Shard;

use super::{ClusterMember, Draining, EngineContact, Isolated, MemberCommand, Now};
use crate::engine::{EngineRequest, Renewal, Renewed, RunId};
use crate::message::PeerMessage;
use crate::node::NodeNumber;
use crate::rendezvous;
use crate::term::Term;

/// A shard that the node holds.
#[derive(Debug)]
pub(super) struct Tenure {
    /// The term in which the shard was acquired: of two owners, the one with the greater is the later one.
    acquired: Term,
    /// The term in use.
    pub(super) term: Term,
    /// The term that the next renewal writes, before the node uses it.
    proposed: Option<Term>,
    wants_term: bool,
    /// The run of the engine that wrote the lease last.
    run: RunId,
    since: Instant,
    /// End of the suspension: until then another owner may not know yet that the engine forgot it.
    pub(super) settles: Option<Instant>,
    pub(super) phase: TenurePhase,
    /// Whether the caller serves the shard.
    pub(super) served: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TenurePhase {
    Held,
    /// The caller ends what is in flight.
    WindingDown {
        to: Option<NodeNumber>,
    },
    /// Everything is written. The lease is released as soon as the node is sure of it.
    WoundDown {
        to: Option<NodeNumber>,
    },
}

impl Tenure {
    pub(super) fn new(term: Term, run: RunId, since: Instant) -> Self {
        let (proposed, settles) = (None, None);
        Self {
            acquired: term,
            term,
            proposed,
            wants_term: false,
            run,
            since,
            settles,
            phase: TenurePhase::Held,
            served: true,
        }
    }

    pub(super) fn renewal(&self, shard: Shard, in_right: bool) -> Renewal {
        let sure = in_right && self.settles.is_none();
        Renewal { shard, term: self.proposed.unwrap_or(self.term), run: self.run, sure }
    }
}

impl ClusterMember {
    #[expect(clippy::too_many_arguments, reason = "one renewal, and what its round has in common")]
    pub(super) fn handle_renewal(
        &mut self,
        shard: Shard,
        term: Term,
        renewed: Renewed,
        asked: Instant,
        run: RunId,
        in_right: bool,
        now: Now,
    ) {
        let lease = self.config.timing.lease;
        let Some(tenure) = self.tenures.get_mut(&shard) else { return };
        if asked < tenure.since || (term != tenure.term && Some(term) != tenure.proposed) {
            return;
        }
        let forgot = match renewed {
            Renewed::Fenced => return self.drop_shard(shard),
            Renewed::Later => {
                tenure.settles = Some(now.monotonic + lease);
                return;
            }
            Renewed::Restored => true,
            Renewed::Mine => run != tenure.run,
        };
        if forgot && !in_right {
            tenure.settles = Some(now.monotonic + lease);
            // An owner whom the engine forgot may have used later terms: devices would ignore earlier numbers.
            tenure.wants_term = true;
        }
        tenure.run = run;
        if tenure.proposed == Some(term) {
            self.use_term(shard, term);
        }
    }

    /// While the node is sure, an own term is used after a renewal has written it: else the engine could not tell an
    /// owner whose terms ran ahead from one who acquired the shard.
    pub(super) fn handle_needs_term(&mut self, shard: Shard) {
        if let Some(tenure) = self.tenures.get_mut(&shard) {
            tenure.wants_term = true;
        }
    }

    fn choose_own_terms(&mut self) {
        let Some((floors, (told, _))) = self.floors.as_ref().zip(self.told) else { return };
        let mut unwritten = Vec::new();
        for (&shard, tenure) in self.tenures.iter_mut().filter(|(_, tenure)| tenure.wants_term && tenure.served) {
            let Some(term) = floors.own_term(shard, told) else { continue };
            if self.state == EngineContact::Sure {
                tenure.proposed.get_or_insert(term);
            } else {
                unwritten.push((shard, term));
            }
        }
        for (shard, term) in unwritten {
            self.use_term(shard, term);
        }
    }

    pub(super) fn use_term(&mut self, shard: Shard, term: Term) {
        let unused = self.floors.as_mut().is_some_and(|floors| floors.use_term(shard, term));
        if let Some(tenure) = self.tenures.get_mut(&shard).filter(|_| unused) {
            tenure.term = term;
            tenure.proposed = None;
            tenure.wants_term = false;
            self.commands.push_back(MemberCommand::UseTerm { shard, term });
        }
    }

    /// Suspends and resumes shards as the state of the node demands.
    pub(super) fn update_service(&mut self, now: Now) {
        let may_serve = match self.state {
            EngineContact::Sure | EngineContact::AllWithout => true,
            EngineContact::Alone => self.config.isolated == Isolated::Serve,
            EngineContact::Unsure => false,
        };
        for (&shard, tenure) in &mut self.tenures {
            if tenure.settles.is_some_and(|settled| settled <= now.monotonic) {
                tenure.settles = None;
            }
            // No shard moves while nobody reaches the engine.
            if may_serve && self.state != EngineContact::Sure && matches!(tenure.phase, TenurePhase::WoundDown { .. }) {
                tenure.phase = TenurePhase::Held;
            }
            let serve = may_serve && tenure.settles.is_none() && !matches!(tenure.phase, TenurePhase::WoundDown { .. });
            if serve != tenure.served {
                tenure.served = serve;
                self.commands.push_back(if serve {
                    MemberCommand::Resume(shard)
                } else {
                    MemberCommand::Suspend(shard)
                });
            }
        }
        self.choose_own_terms();
    }

    /// Begins to hand over shards that another node should have.
    pub(super) fn begin_handovers(&mut self, now: Now) {
        if self.state != EngineContact::Sure || !std::mem::take(&mut self.review_places) {
            return;
        }
        let under_way = self.tenures.values().filter(|tenure| tenure.phase != TenurePhase::Held).count();
        let mut free = self.config.moves_at_once.saturating_sub(under_way);
        let (entry, ends) = (self.entry(), self.draining.is_some());
        if !ends && !entry.takes {
            return;
        }
        let rest = self.config.timing.grace;
        for (&shard, tenure) in &mut self.tenures {
            let rested = ends || self.is_drained || now.monotonic.saturating_duration_since(tenure.since) >= rest;
            if free == 0 || tenure.phase != TenurePhase::Held || !rested || tenure.settles.is_some() {
                continue;
            }
            let to = rendezvous::order(shard, self.peers.entries().chain([entry])).first().copied();
            let is_given_away = ends || to.is_some();
            if is_given_away && to != Some(entry.process.node) {
                free -= 1;
                tenure.phase = TenurePhase::WindingDown { to };
                self.commands.push_back(MemberCommand::HandOver { shard, to });
            }
        }
        if ends && self.tenures.is_empty() && self.draining == Some(Draining::Under) {
            self.draining = Some(Draining::Reported);
            self.commands.push_back(MemberCommand::Drained);
        }
    }

    pub(super) fn handle_wound_down(&mut self, shard: Shard) {
        if let Some(tenure) = self.tenures.get_mut(&shard)
            && let TenurePhase::WindingDown { to } = tenure.phase
        {
            tenure.phase = TenurePhase::WoundDown { to };
        }
    }

    pub(super) fn release_wound_down(&mut self) {
        if self.state != EngineContact::Sure {
            return;
        }
        let wound_down = |(&shard, tenure): (&Shard, &Tenure)| match tenure.phase {
            TenurePhase::WoundDown { to } if tenure.settles.is_none() => Some((shard, tenure.term, to)),
            TenurePhase::WoundDown { .. } | TenurePhase::Held | TenurePhase::WindingDown { .. } => None,
        };
        for (shard, term, to) in self.tenures.iter().filter_map(wound_down).collect::<Vec<_>>() {
            self.commands.push_back(MemberCommand::Ask(EngineRequest::Release { shard, term }));
            self.drop_shard(shard);
            self.review_places = true;
            if let Some(to) = to {
                self.commands.push_back(MemberCommand::Send { to, message: PeerMessage::Yours { shard } });
            }
        }
    }

    /// Returns the shards that the node holds, with the terms in which it acquired them.
    pub(super) fn acquired(&self) -> Vec<(Shard, Term)> {
        self.tenures.iter().map(|(&shard, tenure)| (shard, tenure.acquired)).collect()
    }

    /// Drops the shards that a peer acquired later.
    pub(super) fn drop_outdated(&mut self, acquired: &[(Shard, Term)]) {
        for &(shard, term) in acquired {
            if self.tenures.get(&shard).is_some_and(|tenure| tenure.acquired < term) {
                self.drop_shard(shard);
            }
        }
    }

    fn drop_shard(&mut self, shard: Shard) {
        if self.tenures.remove(&shard).is_some() {
            self.commands.push_back(MemberCommand::Drop(shard));
        }
    }
}
