//! Processes, the engine and the network between them, and what must never happen.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use lwm2m_base::Shard;
use lwm2m_cluster::engine::{EngineRequest, Timing};
use lwm2m_cluster::model::engine::{Acquire, Engine, Rules};
use lwm2m_cluster::{
    ClusterMember, Ended, EngineContact, Handover, Incarnation, Isolated, MemberCommand, MemberConfig, MemberEvent,
    NodeNumber, NodeProcess, Now, PeerMessage, Term, WallTime, WriteNumbers,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

pub(crate) const SHARDS: u8 = 8;
const TURN: u64 = 200;

/// How the engine is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Away {
    No,
    /// Requests wait in its sockets.
    Stopped,
    /// Requests are lost.
    Gone,
}

pub(crate) struct World {
    pub now: u64,
    start: Instant,
    pub random: StdRng,
    pub engine: Engine,
    pub away: Away,
    waiting: Vec<(usize, Request)>,
    /// The greatest extra time of a request or answer.
    pub slowness: u64,
    pub processes: Vec<Running>,
    pub cut_pairs: BTreeSet<(u8, u8)>,
    pub cut_from_engine: BTreeSet<u8>,
    /// Processes that do not reach the engine, while another one of their node may.
    pub cut_processes: BTreeSet<usize>,
    agenda: BTreeMap<(u64, u64), Delivery>,
    sequence: u64,
    isolated: Isolated,
    /// Prints what happens.
    pub verbose: bool,
    /// Milliseconds that each handover takes longer than usual.
    pub long_handovers: u64,
    pub audit: Audit,
}

/// A process, alive or not.
pub(crate) struct Running {
    pub process: NodeProcess,
    pub member: ClusterMember,
    pub alive: bool,
    stopped: bool,
    pub ended: Option<Ended>,
    pub draining: bool,
    pub drained: bool,
    clock_offset: i64,
    /// The rate of the monotonic clock, in millionths off.
    drift: i64,
    inbox: VecDeque<MemberEvent>,
    shards: BTreeMap<Shard, Service>,
    /// The shards whose devices connect to the broker: when that is done.
    settling: Vec<(u64, Shard)>,
    /// The handovers that are under way: when each is done.
    winding: Vec<(u64, Shard, Handover)>,
    /// The records that each turn sends for a shard.
    pub records: u16,
}

/// The association of a shard at an owner: each shard has one.
struct Service {
    numbers: WriteNumbers,
    tenure: u64,
    /// The shard is being handed over: it sends nothing.
    parked: bool,
}

#[derive(Clone)]
enum Request {
    Engine(EngineRequest),
    Write { shard: Shard, term: Term, tenure: u64 },
}

enum Delivery {
    Turn(usize),
    ToEngine(usize, Request),
    ToProcess(usize, MemberEvent),
    Go(usize),
}

/// What is checked while the world goes on.
#[derive(Default)]
pub(crate) struct Audit {
    /// Of each shard and the upper 34 bits of a number: the process that used them, and its last counter.
    used: HashMap<(Shard, u64), (usize, u64)>,
    born: HashMap<Shard, Term>,
    tenures: u64,
    /// Of each shard: the latest tenure that sent something, its process, and its state when it last sent.
    latest: HashMap<Shard, (u64, usize, EngineContact)>,
    /// Of each shard: the latest tenure whose write came through since the engine last forgot something, and
    /// its process.
    written: HashMap<Shard, (u64, usize)>,
    pub violations: Vec<String>,
    /// The moments at which a shard had two owners, one of them alone.
    pub allowed_doubles: u64,
    pub records: u64,
    pub silent: u64,
    pub own_terms: u64,
    pub handovers: u64,
}

impl World {
    pub(crate) fn new(seed: u64, rules: Rules, isolated: Isolated) -> Self {
        Self {
            now: 0,
            start: Instant::now(),
            random: StdRng::seed_from_u64(seed),
            engine: Engine::new(SHARDS, Timing::default(), rules),
            away: Away::No,
            waiting: Vec::new(),
            slowness: 0,
            processes: Vec::new(),
            cut_pairs: BTreeSet::new(),
            cut_from_engine: BTreeSet::new(),
            cut_processes: BTreeSet::new(),
            agenda: BTreeMap::new(),
            sequence: 0,
            isolated,
            verbose: false,
            long_handovers: 0,
            audit: Audit::default(),
        }
    }

    /// Starts a process of a node, whose clocks are off by so many milliseconds and millionths.
    pub(crate) fn start(&mut self, number: u8, clock_offset: i64, drift: i64) -> usize {
        let node = NodeNumber::try_from(u64::from(number)).unwrap();
        let id = self.processes.len();
        let process = NodeProcess { node, incarnation: Incarnation(id as u64 + 1) };
        let config =
            MemberConfig { process, weight: 1, timing: Timing::default(), isolated: self.isolated, moves_at_once: 2 };
        let now = clock(self.start, self.now, clock_offset, drift);
        self.processes.push(Running {
            process,
            member: ClusterMember::new(config, now),
            alive: true,
            stopped: false,
            ended: None,
            draining: false,
            drained: false,
            clock_offset,
            drift,
            inbox: VecDeque::new(),
            shards: BTreeMap::new(),
            settling: Vec::new(),
            winding: Vec::new(),
            records: 1,
        });
        self.deliver(0, Delivery::Turn(id));
        id
    }

    /// Returns the newest living process of a node.
    pub(crate) fn current(&self, number: u8) -> Option<usize> {
        self.processes.iter().rposition(|process| process.alive && process.process.node.number() == number)
    }

    pub(crate) fn kill(&mut self, id: usize) {
        self.processes[id].alive = false;
    }

    pub(crate) fn stop(&mut self, id: usize) {
        self.processes[id].stopped = true;
    }

    pub(crate) fn go_on(&mut self, id: usize) {
        if std::mem::take(&mut self.processes[id].stopped) {
            self.deliver(0, Delivery::Go(id));
        }
    }

    pub(crate) fn drain(&mut self, id: usize) {
        self.processes[id].draining = true;
        self.deliver(0, Delivery::ToProcess(id, MemberEvent::Drain));
    }

    pub(crate) fn fail_over(&mut self, lost: usize, offset: i64) {
        self.engine.fail_over(lost, offset);
        self.waiting.clear();
        self.agenda.retain(|_, delivery| !matches!(delivery, Delivery::ToEngine(..)));
        self.audit.written.clear();
    }

    pub(crate) fn empty(&mut self) {
        self.engine.empty();
        self.audit.written.clear();
    }

    /// The engine is there again, and reads what waits in its sockets.
    pub(crate) fn come_back(&mut self) {
        self.away = Away::No;
        for (id, request) in std::mem::take(&mut self.waiting) {
            self.deliver(0, Delivery::ToEngine(id, request));
        }
    }

    /// Returns the processes that serve a shard, or hand it over.
    pub(crate) fn owners(&self, shard: Shard) -> Vec<usize> {
        let serves = |&id: &usize| {
            let process = &self.processes[id];
            process.alive && !process.stopped && process.member.serves(shard).is_some()
        };
        (0..self.processes.len()).filter(serves).collect()
    }

    /// Returns whether each shard is served by one process, which does not hand it over.
    pub(crate) fn all_shards_served(&self) -> bool {
        let is_parked =
            |shard: Shard, id: usize| self.processes[id].shards.get(&shard).is_some_and(|service| service.parked);
        let is_served = |shard| matches!(self.owners(shard)[..], [owner] if !is_parked(shard, owner));
        (0..SHARDS).map(Shard::new).all(is_served)
    }

    /// Describes the processes, for the message of a failure.
    pub(crate) fn describe(&self) -> String {
        let line = |process: &Running| {
            let served: Vec<_> =
                (0..SHARDS).filter(|&shard| process.member.serves(Shard::new(shard)).is_some()).collect();
            let held: Vec<_> = (0..SHARDS).filter(|&shard| process.member.holds(Shard::new(shard)).is_some()).collect();
            let (alive, ended, state) = (process.alive, process.ended, process.member.state());
            format!("{}: alive {alive}, ended {ended:?}, {state:?}, serves {served:?} of {held:?}", process.process)
        };
        self.processes.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    /// Returns whether a process is handing a shard over.
    pub(crate) fn is_handing_over(&self) -> bool {
        self.processes.iter().any(|process| !process.winding.is_empty())
    }

    /// Returns how many shards are being handed over, or connect their devices at the next node.
    pub(crate) fn on_their_way(&self) -> usize {
        let of = |process: &Running| if process.draining { process.winding.len() } else { process.settling.len() };
        self.processes.iter().filter(|process| process.alive).map(of).sum()
    }

    pub(crate) fn all_shards_owned(&self) -> bool {
        (0..SHARDS).all(|number| self.owners(Shard::new(number)).len() == 1)
    }

    pub(crate) fn run_until(&mut self, end: u64) {
        while let Some(entry) = self.agenda.first_entry() {
            if entry.key().0 > end {
                break;
            }
            self.now = entry.key().0.max(self.now);
            let delivery = entry.remove();
            self.perform(delivery);
        }
        self.now = end;
    }

    pub(crate) fn run_for(&mut self, milliseconds: u64) {
        self.run_until(self.now + milliseconds);
    }

    fn deliver(&mut self, delay: u64, delivery: Delivery) {
        self.sequence += 1;
        self.agenda.insert((self.now + delay, self.sequence), delivery);
    }

    fn perform(&mut self, delivery: Delivery) {
        match delivery {
            Delivery::Turn(id) => self.turn(id),
            Delivery::ToEngine(id, request) => self.ask_engine(id, request),
            Delivery::ToProcess(id, event) => {
                let process = &mut self.processes[id];
                if process.stopped && process.alive {
                    process.inbox.push_back(event);
                } else if process.alive {
                    self.handle(id, event);
                }
            }
            // A process that goes on looks at its clock before what has arrived meanwhile.
            Delivery::Go(id) => {
                self.turn(id);
                while let Some(event) = self.processes[id].inbox.pop_front() {
                    self.handle(id, event);
                }
            }
        }
    }

    fn now_of(&self, id: usize) -> Now {
        clock(self.start, self.now, self.processes[id].clock_offset, self.processes[id].drift)
    }

    fn turn(&mut self, id: usize) {
        if !self.processes[id].alive || self.processes[id].stopped {
            return;
        }
        let now = self.now_of(id);
        self.processes[id].member.handle_timeout(now);
        self.obey(id);
        self.wind_down(id);
        for number in 0..SHARDS {
            self.send_records(id, Shard::new(number));
        }
        let jitter = self.random.random_range(0..TURN / 4);
        self.deliver(TURN + jitter, Delivery::Turn(id));
    }

    fn handle(&mut self, id: usize, event: MemberEvent) {
        let now = self.now_of(id);
        self.processes[id].member.handle(event, now);
        self.obey(id);
    }

    fn wind_down(&mut self, id: usize) {
        let now = self.now;
        let (done, under_way) = self.processes[id].winding.drain(..).partition(|(at, ..)| *at <= now);
        self.processes[id].winding = under_way;
        for (_, shard, handover) in done {
            self.handle(id, MemberEvent::WoundDown { shard, handover });
        }
        let (done, under_way) = self.processes[id].settling.drain(..).partition(|(at, _)| *at <= now);
        self.processes[id].settling = under_way;
        for (_, shard) in done {
            self.handle(id, MemberEvent::Settled(shard));
        }
    }

    fn obey(&mut self, id: usize) {
        while let Some(command) = self.processes[id].member.poll_command() {
            match command {
                MemberCommand::Ask(request) => self.send_to_engine(id, Request::Engine(request)),
                MemberCommand::Send { to, message } => self.send_to_peer(id, to, message),
                MemberCommand::Load { shard, term } => self.load(id, shard, term),
                MemberCommand::UseTerm { shard, term } => {
                    self.audit.own_terms += 1;
                    if let Some(service) = self.processes[id].shards.get_mut(&shard) {
                        // An association that was made in a term which the engine forgot waits for a later one.
                        let _ = service.numbers.begin(term);
                    }
                }
                // The model asks the member before each record.
                MemberCommand::Suspend(_) => {}
                MemberCommand::Resume(shard) => self.park(id, shard, false),
                MemberCommand::HandOver { shard, handover, .. } => {
                    let takes = self.random.random_range(0..2_000) + self.long_handovers;
                    self.processes[id].winding.push((self.now + takes, shard, handover));
                    self.park(id, shard, true);
                    self.audit.handovers += 1;
                }
                MemberCommand::Drop { shard, .. } => drop(self.processes[id].shards.remove(&shard)),
                MemberCommand::Drained => {
                    self.processes[id].drained = true;
                    self.processes[id].alive = false;
                }
                MemberCommand::End(reason) => {
                    if self.verbose {
                        eprintln!("{} ms: process {} ends: {reason:?}", self.now, self.processes[id].process);
                    }
                    self.processes[id].ended = Some(reason);
                    self.processes[id].alive = false;
                }
            }
        }
    }

    fn park(&mut self, id: usize, shard: Shard, parked: bool) {
        if let Some(service) = self.processes[id].shards.get_mut(&shard) {
            service.parked = parked;
        }
    }

    fn load(&mut self, id: usize, shard: Shard, term: Term) {
        let born = *self.audit.born.entry(shard).or_insert(term);
        let mut numbers = WriteNumbers::new(born, self.processes[id].process.node);
        let _ = numbers.begin(term);
        self.audit.tenures += 1;
        let tenure = self.audit.tenures;
        self.processes[id].shards.insert(shard, Service { numbers, tenure, parked: false });
        let takes = self.random.random_range(0..500);
        self.processes[id].settling.push((self.now + takes, shard));
    }

    fn send_records(&mut self, id: usize, shard: Shard) {
        let Some(term) = self.processes[id].member.serves(shard) else { return };
        let state = self.processes[id].member.state();
        let records = self.processes[id].records;
        let Some(service) = self.processes[id].shards.get_mut(&shard).filter(|service| !service.parked) else { return };
        let tenure = service.tenure;
        for _ in 0..records {
            match service.numbers.next_number() {
                Ok(number) => self.audit.sent(id, shard, number, self.now),
                Err(_) => {
                    self.audit.silent += 1;
                    break;
                }
            }
        }
        let needs_term = service.numbers.needs_term();
        let other = self.audit.latest.get(&shard).map(|(_, other, _)| *other).filter(|other| *other != id);
        let other_serves = other.is_some_and(|other| self.owners(shard).contains(&other));
        let again = self.audit.served(id, shard, tenure, state, other_serves, self.now);
        let tenure = again.unwrap_or(tenure);
        if let Some(service) = self.processes[id].shards.get_mut(&shard) {
            service.tenure = tenure;
        }
        if needs_term {
            self.handle(id, MemberEvent::NeedsTerm(shard));
        }
        self.send_to_engine(id, Request::Write { shard, term, tenure });
    }

    fn send_to_engine(&mut self, id: usize, request: Request) {
        let delay = self.latency();
        self.deliver(delay, Delivery::ToEngine(id, request));
    }

    fn latency(&mut self) -> u64 {
        self.random.random_range(1..=5 + self.slowness)
    }

    fn send_to_peer(&mut self, id: usize, to: NodeNumber, message: PeerMessage) {
        let sender = self.processes[id].process.node;
        let from = sender.number();
        let pair = (from.min(to.number()), from.max(to.number()));
        if self.cut_pairs.contains(&pair) {
            return;
        }
        if let Some(receiver) = self.current(to.number()) {
            // One message in twenty arrives twice.
            for _ in 0..self.random.random_range(0..20_u8) / 19 {
                let delay = self.random.random_range(1..=300);
                let message = message.clone();
                self.deliver(delay, Delivery::ToProcess(receiver, MemberEvent::Message { from: sender, message }));
            }
            let delay = self.random.random_range(1..=10 + self.slowness / 2);
            self.deliver(delay, Delivery::ToProcess(receiver, MemberEvent::Message { from: sender, message }));
        }
    }

    fn ask_engine(&mut self, id: usize, request: Request) {
        let node = self.processes[id].process.node.number();
        if self.cut_from_engine.contains(&node) || self.cut_processes.contains(&id) {
            return;
        }
        match self.away {
            Away::Gone => return,
            Away::Stopped => return self.waiting.push((id, request)),
            Away::No => {}
        }
        let me = self.processes[id].process;
        let answer = match request {
            Request::Engine(EngineRequest::Round { asked, entry, renewals }) => {
                MemberEvent::Round(self.engine.round(asked, entry, &renewals, self.now))
            }
            Request::Engine(EngineRequest::Acquire { asked, shard, floor, contact, not_after }) => {
                let ask = Acquire { shard, floor, contact, not_after };
                MemberEvent::Acquired { asked, shard, answer: self.engine.acquire(me, &ask, self.now) }
            }
            Request::Engine(EngineRequest::Release { shard, term, not_after }) => {
                if !self.engine.release(me, (shard, term), not_after, self.now) {
                    return;
                }
                MemberEvent::Released { shard, term }
            }
            Request::Write { shard, term, tenure } => {
                if self.engine.write(me, shard, term) {
                    self.audit.wrote(id, shard, tenure, self.now);
                }
                return;
            }
        };
        let delay = self.latency();
        self.deliver(delay, Delivery::ToProcess(id, answer));
    }
}

impl Audit {
    fn sent(&mut self, id: usize, shard: Shard, number: u64, now: u64) {
        self.records += 1;
        let (prefix, counter) = (number >> 14, number & 0x3fff);
        match self.used.insert((shard, prefix), (id, counter)) {
            Some((before, last)) if before != id || last >= counter => self.violations.push(format!(
                "{now} ms: number {number:#x} of shard {shard} was used by process {before} and again by {id}"
            )),
            Some(_) | None => {}
        }
    }

    /// Records that a process serves a shard, and returns another tenure if it got the shard again.
    fn served(
        &mut self,
        id: usize,
        shard: Shard,
        tenure: u64,
        state: EngineContact,
        other_serves: bool,
        now: u64,
    ) -> Option<u64> {
        let latest = self.latest.entry(shard).or_insert((tenure, id, state));
        if latest.0 <= tenure {
            *latest = (tenure, id, state);
            return None;
        }
        let (_, other, other_state) = *latest;
        if !other_serves {
            // The engine forgot the other owner, which is gone: this one has the shard again.
            self.tenures += 1;
            *latest = (self.tenures, id, state);
            return Some(self.tenures);
        }
        if state == EngineContact::Alone || other_state == EngineContact::Alone {
            self.allowed_doubles += 1;
        } else {
            self.violations.push(format!(
                "{now} ms: shard {shard} is served by process {id} ({state:?}), though process {other} \
                 ({other_state:?}) has acquired it since"
            ));
        }
        None
    }

    fn wrote(&mut self, id: usize, shard: Shard, tenure: u64, now: u64) {
        let written = self.written.entry(shard).or_insert((tenure, id));
        if tenure < written.0 && id != written.1 {
            self.violations.push(format!("{now} ms: a write of an earlier owner of shard {shard} came through"));
        }
        *written = (tenure, id).max(*written);
    }
}

fn clock(start: Instant, now: u64, offset: i64, drift: i64) -> Now {
    let drifted = now.saturating_add_signed(now as i64 * drift / 1_000_000);
    Now {
        monotonic: start + Duration::from_millis(drifted),
        wall: WallTime((Term::EPOCH.0 + 1_000_000_000 + now).saturating_add_signed(offset)),
    }
}
