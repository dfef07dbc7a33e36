//! A node of a cluster: which shards it owns, and when it may serve them.
//!
//! 1. The node asks the engine for a round each second: it announces itself, renews its leases, reads the lists.
//! 2. A shard without an owner is acquired by the node that rendezvous hashing prefers, and a second later each by the
//!    next ones. The caller loads its records.
//! 3. Without an answer for 4 seconds the node may have lost its leases. It asks its peers whether they reach the
//!    engine, and suspends its shards unless nobody can have taken them.
//! 4. A shard that another node should have is handed over: the caller ends what is in flight and writes everything,
//!    the lease is released, and the other node is told.

mod acquisition;
mod evidence;
mod tenure;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use lwm2m_base::Shard;

use crate::engine::{Acquisition, Announced, EngineRequest, NodeEntry, RoundAnswer, RunId, Timing};
use crate::floors::Floors;
use crate::message::PeerMessage;
use crate::node::{Incarnation, NodeNumber, NodeProcess, NodeSet};
use crate::term::{Term, WallTime};
use acquisition::Openings;
use evidence::{Evidence, Peers};
use tenure::Tenure;

/// The time for which a node waits until a shard that it has handed over has settled at the next node.
const SETTLING: Duration = Duration::from_secs(10);

/// Largest difference between the clocks of the node and the engine. Beyond it the node takes no term.
const CLOCK_TOLERANCE: Duration = Duration::from_millis(1_500);

/// The settings of a node.
#[derive(Clone, Copy, Debug)]
pub struct MemberConfig {
    pub process: NodeProcess,
    /// The share of shards that the node takes, relative to other nodes.
    pub weight: u16,
    pub timing: Timing,
    pub isolated: Isolated,
    /// The number of shards that are handed over at the same time, at least 1.
    pub moves_at_once: usize,
}

/// Behaviour of a node that reaches neither the engine nor all of its peers, while no peer reaches the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolated {
    /// The node serves its shards: most likely the engine is unavailable and the silent peers restart. If they do reach
    /// the engine, a shard may have two owners.
    Serve,
    /// The node suspends its shards.
    Suspend,
}

/// The time on both clocks of the caller.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    pub monotonic: Instant,
    pub wall: WallTime,
}

/// An event that the caller reports to the node.
#[derive(Clone, Debug)]
pub enum MemberEvent {
    Round(RoundAnswer),
    Acquired {
        asked: Instant,
        shard: Shard,
        answer: Acquisition,
    },
    /// The engine has executed [`EngineRequest::Release`] in time.
    Released {
        shard: Shard,
        term: Term,
    },
    Message {
        from: NodeNumber,
        message: PeerMessage,
    },
    /// An association of the shard has used half of the numbers of its term.
    NeedsTerm(Shard),
    /// A fenced write of the shard failed. The next round tells whether the lease is lost.
    Fenced(Shard),
    /// After [`MemberCommand::HandOver`] with this number: nothing of the shard is in flight, and everything is written.
    WoundDown {
        shard: Shard,
        handover: Handover,
    },
    /// The devices of a shard that was acquired are connected to the broker, or their time is over.
    Settled(Shard),
    /// The node gives up all shards, for the process is about to end.
    Drain,
}

/// A command of the node to its caller.
#[derive(Clone, Debug)]
pub enum MemberCommand {
    Ask(EngineRequest),
    Send {
        to: NodeNumber,
        message: PeerMessage,
    },
    /// Load the records of a shard and serve it in this term.
    Load {
        shard: Shard,
        term: Term,
    },
    /// Number the records of the shard in this term from now on.
    UseTerm {
        shard: Shard,
        term: Term,
    },
    /// Send, publish and answer nothing for the shard until [`MemberCommand::Resume`].
    Suspend(Shard),
    /// Serve the shard again. A handover that has begun is given up.
    Resume(Shard),
    /// End the commands in flight, write all records, and report [`MemberEvent::WoundDown`].
    HandOver {
        shard: Shard,
        to: Option<NodeNumber>,
        handover: Handover,
    },
    /// Forget the shard, without a word to devices or the broker.
    Drop {
        shard: Shard,
        end: TenureEnd,
    },
    /// All shards were given up.
    Drained,
    /// End the process: another process of this number is alive.
    End(Ended),
}

/// The number of a handover, which no other one of the process has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handover(u64);

/// The way in which a node loses a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TenureEnd {
    /// Everything was written, and the lease was released for this node.
    HandedOver { to: Option<NodeNumber> },
    /// Another node has the lease, or the process ends.
    Lost,
}

/// The reason for which a process has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// A newer process of the number exists.
    Replaced,
    /// An older process of the number is alive.
    Occupied(Incarnation),
}

/// The state of a node towards the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineContact {
    /// The engine renewed the leases in time.
    Sure,
    /// Neither the node nor any other one reaches the engine, or they have reached it again so lately that nobody can
    /// have taken a shard. The node serves from memory.
    AllWithout,
    /// No peer that answers reaches the engine, but a peer does not answer, or there is none. [`Isolated`] says what
    /// the node does.
    Alone,
    /// The leases may be lost. Shards are suspended.
    Unsure,
}

/// The state machine of one node.
#[derive(Debug)]
pub struct ClusterMember {
    config: MemberConfig,
    peers: Peers,
    floors: Option<Floors>,
    /// The engine's last time that agreed with the node's clock, and when it was asked for.
    told: Option<(WallTime, Instant)>,
    clock_agrees: bool,
    contact: Option<Contact>,
    no_takeover: Option<NoTakeover>,
    /// The time of the last request that renewed the leases.
    renewed: Option<Instant>,
    last_round: Option<Instant>,
    last_turn: Instant,
    /// The time of the next turn that has something to do.
    deadline: Instant,
    /// Whether a round was answered since it was looked for shards that another node should have.
    review_places: bool,
    tenures: BTreeMap<Shard, Tenure>,
    next_handover: Handover,
    /// The shards that were released for other nodes and have not settled there: until when that is waited for.
    departed: BTreeMap<Shard, Instant>,
    /// The nodes that released shards for this one, which wait until the shards have settled here.
    givers: BTreeMap<Shard, NodeNumber>,
    openings: Openings,
    state: EngineContact,
    draining: Option<Draining>,
    /// Whether an operator has drained the node, as the last round tells. It keeps and takes only what no other node
    /// takes.
    is_drained: bool,
    /// The older process that has the entry of this number, and when its entry expires.
    occupied: Option<(Incarnation, WallTime)>,
    ended: bool,
    commands: VecDeque<MemberCommand>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Draining {
    Under,
    Reported,
}

/// An unbroken contact with one run of the engine.
#[derive(Clone, Copy, Debug)]
struct Contact {
    run: RunId,
    since: Instant,
    /// The time of the last request that was answered.
    asked: Instant,
}

/// The knowledge that all peers were without the engine. A peer takes the expired lease of another node after a contact of
/// [`Timing::grace`], so after such a moment nobody has taken one for that time, whoever reaches the engine first.
#[derive(Clone, Copy, Debug)]
struct NoTakeover {
    until: Instant,
    /// The peers that were without the engine.
    witnesses: NodeSet,
}

impl ClusterMember {
    pub fn new(config: MemberConfig, now: Now) -> Self {
        Self {
            config,
            peers: Peers::default(),
            floors: None,
            told: None,
            clock_agrees: false,
            contact: None,
            no_takeover: None,
            renewed: None,
            last_round: None,
            last_turn: now.monotonic,
            deadline: now.monotonic,
            review_places: false,
            tenures: BTreeMap::new(),
            next_handover: Handover::default(),
            departed: BTreeMap::new(),
            givers: BTreeMap::new(),
            openings: Openings::default(),
            state: EngineContact::Unsure,
            draining: None,
            is_drained: false,
            occupied: None,
            ended: false,
            commands: VecDeque::new(),
        }
    }

    /// Does what is due. The caller calls it before each turn of its loop, and carries out the commands before it sends
    /// anything: a process that was stopped learns here that it may have lost its shards.
    pub fn handle_timeout(&mut self, now: Now) {
        if self.ended {
            return;
        }
        let pause = now.monotonic.saturating_duration_since(self.last_turn);
        self.last_turn = now.monotonic;
        if pause >= self.reach() {
            self.peers.forget_answers(now.monotonic);
        }
        if now.monotonic >= self.deadline {
            self.turn(now);
        }
    }

    pub fn handle(&mut self, event: MemberEvent, now: Now) {
        self.handle_timeout(now);
        if self.ended {
            return;
        }
        match event {
            MemberEvent::Round(answer) => self.handle_round(answer, now),
            MemberEvent::Acquired { asked, shard, answer } => self.handle_acquisition(asked, shard, answer, now),
            MemberEvent::Released { shard, term } => self.handle_released(shard, term, now),
            MemberEvent::Message { from, message } => self.handle_message(from, message, now),
            MemberEvent::NeedsTerm(shard) => self.handle_needs_term(shard),
            MemberEvent::Fenced(_) => self.last_round = None,
            MemberEvent::WoundDown { shard, handover } => self.handle_wound_down(shard, handover),
            MemberEvent::Settled(shard) => self.handle_settled(shard),
            MemberEvent::Drain => {
                self.draining.get_or_insert(Draining::Under);
                self.review_places = true;
            }
        }
        if !self.ended {
            self.turn(now);
        }
    }

    pub fn poll_command(&mut self) -> Option<MemberCommand> {
        self.commands.pop_front()
    }

    /// Returns when [`ClusterMember::handle_timeout`] has to be called at the latest.
    pub fn next_deadline(&self) -> Instant {
        self.deadline
    }

    pub fn state(&self) -> EngineContact {
        self.state
    }

    /// Returns the time until which the node may serve its shards, as a whole, if this is not called again; `None` if
    /// it may not serve now. A process that was stopped and continues later finds that this time is over.
    pub fn may_serve_until(&self) -> Option<Instant> {
        let is_settled = self.tenures.values().all(|tenure| tenure.settles.is_none());
        match self.state {
            _ if !is_settled || self.ended => None,
            EngineContact::Sure => self.renewed.map(|renewed| renewed + self.sure_for()),
            EngineContact::Alone if self.config.isolated == Isolated::Suspend => None,
            // What peers say is looked at more often than that.
            EngineContact::Alone => Some(self.last_turn + self.config.timing.renew),
            EngineContact::AllWithout => {
                let next_look = self.last_turn + self.config.timing.renew;
                Some(self.no_takeover.map_or(next_look, |no_takeover| next_look.min(no_takeover.until)))
            }
            EngineContact::Unsure => None,
        }
    }

    /// Returns the time since the request that renewed the leases last; `None` before the first one.
    pub fn lease_age(&self, now: Instant) -> Option<Duration> {
        self.renewed.map(|renewed| now.saturating_duration_since(renewed))
    }

    /// Returns the number of shards that the node holds, served or suspended.
    pub fn shards(&self) -> usize {
        self.tenures.len()
    }

    /// Returns whether an operator has drained the node, or the process is about to end.
    pub fn gives_up_shards(&self) -> bool {
        self.draining.is_some() || self.is_drained
    }

    /// Returns the other nodes that have answered within the last seconds.
    pub fn answering_peers(&self, now: Instant) -> NodeSet {
        self.peers.answering(self.config.timing, now)
    }

    /// Returns the term in which the node serves a shard, or `None` if it does not.
    pub fn serves(&self, shard: Shard) -> Option<Term> {
        self.tenures.get(&shard).filter(|tenure| tenure.served).map(|tenure| tenure.term)
    }

    /// Returns the term in which the node holds a shard, served or suspended.
    pub fn holds(&self, shard: Shard) -> Option<Term> {
        self.tenures.get(&shard).map(|tenure| tenure.term)
    }

    fn turn(&mut self, now: Now) {
        if self.contact.is_some_and(|contact| now.monotonic >= contact.asked + self.reach()) {
            self.contact = None;
        }
        self.update_state(now);
        if self.last_round.is_none_or(|last| now.monotonic >= last + self.config.timing.renew) {
            self.ask_round(now);
        }
        self.acquire_open(now);
        self.release_wound_down(now);
        self.begin_handovers(now);
        self.update_service(now);
        self.deadline = self.following_deadline(now);
    }

    /// While the node is not sure, answers of peers grow old at any time.
    fn following_deadline(&self, now: Now) -> Instant {
        let round = self.last_round.map(|last| last + self.config.timing.renew);
        let state = match self.state {
            EngineContact::Sure => self.renewed.map(|renewed| renewed + self.sure_for()),
            EngineContact::AllWithout | EngineContact::Alone | EngineContact::Unsure => {
                Some(now.monotonic + self.config.timing.renew / 10)
            }
        };
        let contact = self.contact.map(|contact| contact.asked + self.reach());
        let settled = self.tenures.values().filter_map(|tenure| tenure.settles).min();
        let opening = self.openings.next_attempt().filter(|_| self.may_acquire());
        let departed = self.departed.values().min().copied();
        let deadlines = [round, state, contact, settled, opening, departed];
        let soonest = now.monotonic + Duration::from_millis(1);
        deadlines.into_iter().flatten().min().map_or(soonest, |deadline| deadline.max(soonest))
    }

    /// Returns the time of the engine by its last answer that agreed with the node's clock.
    fn engine_time(&self, now: Now) -> Option<WallTime> {
        let (time, asked) = self.told?;
        Some(time.plus(now.monotonic.saturating_duration_since(asked)))
    }

    fn update_state(&mut self, now: Now) {
        let sure = self.renewed.is_some_and(|at| now.monotonic.saturating_duration_since(at) < self.sure_for());
        let evidence = self.peers.evidence(self.config.timing, now.monotonic);
        // A node that has been unsure since may have lost a shard to a request that the engine executes late.
        let is_unbroken = match self.state {
            EngineContact::Sure => true,
            EngineContact::AllWithout => self.no_takeover.is_some(),
            EngineContact::Alone | EngineContact::Unsure => false,
        };
        if !is_unbroken {
            self.no_takeover = None;
        }
        if is_unbroken
            && evidence == Evidence::AllWithout
            && let Some(asked) = self.peers.all_asked_since()
        {
            let Timing { grace, renew, .. } = self.config.timing;
            self.no_takeover = Some(NoTakeover { until: asked + grace - renew, witnesses: self.peers.numbers() });
        }
        self.state = match evidence {
            _ if sure => EngineContact::Sure,
            // A process that was never announced has no shards, and a stopped one no evidence.
            _ if self.renewed.is_none() => EngineContact::Unsure,
            Evidence::AllWithout => EngineContact::AllWithout,
            Evidence::Reached | Evidence::Missing if self.is_before_takeovers(now) => EngineContact::AllWithout,
            Evidence::Reached | Evidence::Missing => EngineContact::Unsure,
            Evidence::SomeSilent => EngineContact::Alone,
        };
    }

    /// Returns whether no peer can have taken a shard, although one may reach the engine by now.
    fn is_before_takeovers(&self, now: Now) -> bool {
        self.no_takeover.is_some_and(|NoTakeover { until, witnesses }| {
            now.monotonic < until && self.peers.numbers().is_subset(witnesses)
        })
    }

    /// Returns whether nobody else can have acquired the shards of the node.
    fn is_in_right(&self) -> bool {
        match self.state {
            EngineContact::Sure | EngineContact::AllWithout => true,
            EngineContact::Alone | EngineContact::Unsure => false,
        }
    }

    /// A lease runs from when the engine wrote it; the owner counts from when it asked, and stops one interval earlier.
    fn sure_for(&self) -> Duration {
        self.config.timing.lease - self.config.timing.renew
    }

    /// The age of an answer up to which a node reaches the engine.
    fn reach(&self) -> Duration {
        self.config.timing.renew * 2
    }

    fn ask_round(&mut self, now: Now) {
        let asked = now.monotonic;
        self.last_round = Some(asked);
        let in_right = self.is_in_right();
        let renewals = self.tenures.iter().map(|(&shard, tenure)| tenure.renewal(shard, in_right)).collect();
        let entry = self.entry();
        self.commands.push_back(MemberCommand::Ask(EngineRequest::Round { asked, entry, renewals }));
        if self.renewed.is_none() {
            return;
        }
        let from = self.config.process;
        for to in self.peers.pinged(asked) {
            self.commands.push_back(MemberCommand::Send { to, message: PeerMessage::Ping { from, asked } });
        }
    }

    fn entry(&self) -> NodeEntry {
        let ready = self.floors.as_ref().zip(self.told).is_some_and(|(floors, (time, _))| floors.are_reached(time));
        let takes = ready && self.clock_agrees && self.draining.is_none();
        let weight = if self.is_drained { 0 } else { self.config.weight };
        NodeEntry { process: self.config.process, weight, takes }
    }

    fn handle_round(&mut self, answer: RoundAnswer, now: Now) {
        match answer.announced {
            Announced::Replaced => return self.end(Ended::Replaced),
            Announced::Occupied { by, until } if self.occupied.is_some_and(|(known, at)| known == by && at < until) => {
                return self.end(Ended::Occupied(by));
            }
            Announced::Occupied { by, until } => self.occupied = Some((by, until)),
            Announced::Done => {
                self.occupied = None;
                self.renewed = self.renewed.max(Some(answer.asked));
            }
        }
        let me = self.config.process;
        let is_newer = |owner: NodeProcess| owner.node == me.node && owner.incarnation > me.incarnation;
        if answer.leases.iter().filter_map(|(_, lease)| lease.owner()).any(is_newer) {
            return self.end(Ended::Replaced);
        }
        self.note_contact(answer.asked, answer.run, now);
        self.note_clock(&answer, now);
        self.peers.list(self.config.process.node, &answer.nodes, &answer.members);
        let in_right = self.is_in_right();
        for (shard, term, renewed) in answer.renewals {
            self.handle_renewal(shard, term, renewed, answer.asked, answer.run, in_right, now);
        }
        self.is_drained = answer.is_drained;
        self.review_places = true;
        self.openings.note(&answer.leases, self.config.process.node, &self.tenures, now.monotonic);
    }

    fn note_contact(&mut self, asked: Instant, run: RunId, now: Now) {
        if now.monotonic.saturating_duration_since(asked) >= self.reach() {
            return;
        }
        let since = self.contact.filter(|contact| contact.run == run).map_or(now.monotonic, |contact| contact.since);
        let asked = self.contact.map_or(asked, |contact| contact.asked.max(asked));
        self.contact = Some(Contact { run, since, asked });
    }

    /// The engine read its clock between the request and the answer. A process that is not announced takes no time from
    /// it but that of its start: the older process may still be alive.
    fn note_clock(&mut self, answer: &RoundAnswer, now: Now) {
        let travelled = now.monotonic.saturating_duration_since(answer.asked);
        let ahead = answer.time > now.wall.plus(CLOCK_TOLERANCE);
        let behind = answer.time.plus(travelled + CLOCK_TOLERANCE) < now.wall;
        self.clock_agrees = !ahead && !behind;
        if !self.clock_agrees {
            return;
        }
        self.floors.get_or_insert_with(|| Floors::of_process(answer.time));
        if answer.announced == Announced::Done && self.told.is_none_or(|(_, asked)| asked < answer.asked) {
            self.told = Some((answer.time, answer.asked));
        }
    }

    fn handle_message(&mut self, from: NodeNumber, message: PeerMessage, now: Now) {
        // A process that waits for an older one to expire stays unknown: peers would tell the older one to end.
        if self.renewed.is_none() {
            return;
        }
        let me = self.config.process;
        match message {
            PeerMessage::Ping { from, asked } => {
                self.peers.meet_process(me.node, from);
                let (reaches, acquired) = (self.contact.is_some(), self.acquired());
                let newest = self.peers.newest(from.node);
                let others = self.peers.entries().map(|entry| entry.process).collect();
                let message = PeerMessage::Pong { from: me, asked, reaches, newest, acquired, others };
                self.commands.push_back(MemberCommand::Send { to: from.node, message });
            }
            PeerMessage::Pong { from, asked, reaches, newest, acquired, others } => {
                self.peers.pong_from(from, asked, reaches);
                if newest.is_some_and(|newest| newest > me.incarnation) {
                    return self.end(Ended::Replaced);
                }
                if self.state != EngineContact::Sure {
                    self.drop_outdated(&acquired);
                    for process in others {
                        self.peers.meet_process(me.node, process);
                    }
                }
            }
            PeerMessage::Yours { shard } if self.tenures.contains_key(&shard) => {}
            PeerMessage::Yours { shard } => {
                self.givers.insert(shard, from);
                self.openings.open(shard, now.monotonic);
            }
            PeerMessage::Settled { shard } => {
                self.review_places |= self.departed.remove(&shard).is_some();
            }
        }
        if self.peers.newest(me.node).is_some_and(|newest| newest > me.incarnation) {
            self.end(Ended::Replaced);
        }
    }

    fn end(&mut self, reason: Ended) {
        for shard in std::mem::take(&mut self.tenures).into_keys() {
            self.commands.push_back(MemberCommand::Drop { shard, end: TenureEnd::Lost });
        }
        self.commands.push_back(MemberCommand::End(reason));
        self.state = EngineContact::Unsure;
        self.ended = true;
    }
}
