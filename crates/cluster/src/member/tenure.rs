//! The shards that a node holds: renewal, service, own terms and handover.

use std::time::Instant;

use lwm2m_base::Shard;

use super::{ClusterMember, Draining, EngineContact, Handover, Isolated, MemberCommand, Now, SETTLING, TenureEnd};
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
    /// The caller ends the commands in flight, and writes all records.
    WindingDown {
        handover: Handover,
        to: Option<NodeNumber>,
    },
    /// Everything is written. The lease is released as soon as the node is sure of it.
    WoundDown {
        to: Option<NodeNumber>,
        /// The time of the last request that releases the lease.
        asked: Option<Instant>,
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
            Renewed::Fenced => return self.drop_shard(shard, TenureEnd::Lost),
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

    /// Suspends and resumes shards as the state of the node demands. A shard that is served again, or without the engine,
    /// is not handed over any more: no shard moves while nobody reaches the engine.
    pub(super) fn update_service(&mut self, now: Now) {
        let may_serve = match self.state {
            EngineContact::Sure | EngineContact::AllWithout => true,
            EngineContact::Alone => self.config.isolated == Isolated::Serve,
            EngineContact::Unsure => false,
        };
        // The engine does not execute a release that it gets later than that.
        let late_release = self.config.timing.renew * 4;
        for (&shard, tenure) in &mut self.tenures {
            if tenure.settles.is_some_and(|settled| settled <= now.monotonic) {
                tenure.settles = None;
            }
            let is_wound_down = matches!(tenure.phase, TenurePhase::WoundDown { .. });
            let is_free_to_stay = match tenure.phase {
                TenurePhase::Held => false,
                TenurePhase::WoundDown { asked: Some(asked), .. } => now.monotonic >= asked + late_release,
                TenurePhase::WindingDown { .. } | TenurePhase::WoundDown { asked: None, .. } => true,
            };
            let stays = may_serve && self.state != EngineContact::Sure && is_free_to_stay;
            let serve = may_serve && tenure.settles.is_none() && (stays || !is_wound_down);
            if stays || (serve && !tenure.served) {
                tenure.phase = TenurePhase::Held;
            }
            let command = match serve {
                true if stays || !tenure.served => MemberCommand::Resume(shard),
                false if tenure.served => MemberCommand::Suspend(shard),
                true | false => continue,
            };
            tenure.served = serve;
            self.commands.push_back(command);
        }
        self.choose_own_terms();
    }

    /// Begins to hand over shards that another node should have. The next ones wait until those before them have settled
    /// at their new nodes.
    pub(super) fn begin_handovers(&mut self, now: Now) {
        let before = self.departed.len();
        self.departed.retain(|_, until| *until > now.monotonic);
        self.review_places |= self.departed.len() < before;
        if self.state != EngineContact::Sure || !std::mem::take(&mut self.review_places) {
            return;
        }
        let winding = self.tenures.values().filter(|tenure| tenure.phase != TenurePhase::Held).count();
        let under_way = winding + self.departed.len();
        let mut free = self.config.moves_at_once.saturating_sub(under_way);
        let (entry, ends) = (self.entry(), self.draining.is_some());
        if !ends && !entry.takes {
            return;
        }
        let rest = self.config.timing.grace;
        for (&shard, tenure) in &mut self.tenures {
            let rested = ends || self.is_drained || now.monotonic.saturating_duration_since(tenure.since) >= rest;
            if free == 0 || tenure.phase != TenurePhase::Held || !rested || !tenure.served {
                continue;
            }
            let to = rendezvous::order(shard, self.peers.entries().chain([entry])).first().copied();
            let is_given_away = ends || to.is_some();
            if is_given_away && to != Some(entry.process.node) {
                free -= 1;
                let handover = self.next_handover;
                self.next_handover = Handover(handover.0 + 1);
                tenure.phase = TenurePhase::WindingDown { handover, to };
                self.commands.push_back(MemberCommand::HandOver { shard, to, handover });
            }
        }
        let is_empty = self.tenures.is_empty() && self.departed.is_empty();
        if ends && is_empty && self.draining == Some(Draining::Under) {
            self.draining = Some(Draining::Reported);
            self.commands.push_back(MemberCommand::Drained);
        }
    }

    /// A report of a handover that was given up since is too late: the caller serves the shard again.
    pub(super) fn handle_wound_down(&mut self, shard: Shard, reported: Handover) {
        if let Some(tenure) = self.tenures.get_mut(&shard)
            && let TenurePhase::WindingDown { handover, to } = tenure.phase
            && handover == reported
        {
            tenure.phase = TenurePhase::WoundDown { to, asked: None };
        }
    }

    /// Asks the engine to release the leases of shards that are wound down, again and again until it has answered: while
    /// it may not have done so, nobody else can have the shard.
    pub(super) fn release_wound_down(&mut self, now: Now) {
        let renew = self.config.timing.renew;
        let Some(not_after) = self.engine_time(now).filter(|_| self.state == EngineContact::Sure) else { return };
        for (&shard, tenure) in &mut self.tenures {
            let (term, settled) = (tenure.term, tenure.settles.is_none());
            if let TenurePhase::WoundDown { asked, .. } = &mut tenure.phase
                && settled
                && asked.is_none_or(|asked| now.monotonic >= asked + renew)
            {
                *asked = Some(now.monotonic);
                let not_after = not_after.plus(renew * 2);
                self.commands.push_back(MemberCommand::Ask(EngineRequest::Release { shard, term, not_after }));
            }
        }
    }

    /// The engine has released the lease of this term, unless the node had lost it before.
    pub(super) fn handle_released(&mut self, shard: Shard, term: Term, now: Now) {
        let Some(tenure) = self.tenures.get(&shard).filter(|tenure| tenure.term == term) else { return };
        let TenurePhase::WoundDown { to, asked: Some(_) } = tenure.phase else { return };
        self.drop_shard(shard, TenureEnd::HandedOver { to });
        self.review_places = true;
        if let Some(to) = to {
            self.departed.insert(shard, now.monotonic + SETTLING);
            self.commands.push_back(MemberCommand::Send { to, message: PeerMessage::Yours { shard } });
        }
    }

    /// Tells the node that handed a shard over that it has settled here.
    pub(super) fn handle_settled(&mut self, shard: Shard) {
        if let Some(to) = self.givers.remove(&shard) {
            self.commands.push_back(MemberCommand::Send { to, message: PeerMessage::Settled { shard } });
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
                self.drop_shard(shard, TenureEnd::Lost);
            }
        }
    }

    fn drop_shard(&mut self, shard: Shard, end: TenureEnd) {
        if self.tenures.remove(&shard).is_some() {
            self.commands.push_back(MemberCommand::Drop { shard, end });
        }
    }
}
