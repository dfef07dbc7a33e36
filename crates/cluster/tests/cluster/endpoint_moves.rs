//! Moves of one endpoint between the shards of three nodes, whose messages are lost, late or repeated, whose requests to
//! the engine are late or without an answer, and which crash at any time.

use std::collections::BTreeMap;
use std::env;
use std::time::{Duration, Instant};

use lwm2m_base::Shard;
use lwm2m_cluster::NodeNumber;
use lwm2m_cluster::endpoint_move::{Arrivals, Departures, Frozen, MoveNumber, SourceStep, Thawed};
use lwm2m_cluster::model::names::{self, Flaw, Names};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const RUNS: u64 = 2_000;
const NODES: usize = names::SHARDS;
/// The time after which a request to the engine has no answer.
const PATIENCE: u64 = 2_000;

/// A node, which has the shard of its number. A process that crashed is followed by another one.
struct Node {
    process: u64,
    arrivals: Arrivals<()>,
    departures: Departures<(), u64>,
    serves: bool,
}

#[derive(Clone, Copy, Debug)]
struct Request {
    node: usize,
    process: u64,
    id: u64,
    what: Asked,
}

#[derive(Clone, Copy, Debug)]
enum Asked {
    Freeze,
    Thaw,
    Take { number: MoveNumber, source: usize, version: u64 },
}

#[derive(Clone, Copy, Debug)]
enum Answer {
    Frozen(Frozen),
    Thawed(Thawed),
    Taken(bool),
}

#[derive(Clone, Copy)]
enum Message {
    Fetch {
        to: usize,
        by: usize,
        number: MoveNumber,
    },
    Frozen {
        to: usize,
        from: usize,
        number: MoveNumber,
        version: u64,
    },
    Refused {
        to: usize,
        from: usize,
        number: MoveNumber,
    },
    Done {
        to: usize,
        version: u64,
    },
    Execute(Request),
    /// The answer to a request, or the end of the wait for it.
    Answered(Request, Option<Answer>),
}

struct Model {
    names: Names,
    random: StdRng,
    start: Instant,
    now: u64,
    nodes: [Node; NODES],
    /// The requests without an answer.
    open: Vec<u64>,
    agenda: BTreeMap<(u64, u64), Message>,
    sequence: u64,
    faulty: bool,
    two_owners: bool,
    moves: u64,
}

#[test]
fn an_endpoint_is_in_one_shard_whatever_is_lost_late_or_repeated() {
    let runs = env::var("CLUSTER_SCHEDULES").ok().and_then(|number| number.parse().ok()).unwrap_or(RUNS);
    let mut moves = 0;
    for seed in 0..runs {
        let model = Model::run(seed, Flaw::None);
        assert!(!model.two_owners, "seed {seed}: two shards serve the endpoint");
        assert_eq!(model.owners(), 1, "seed {seed}: {:?}, records {:?}", model.names.entry, model.names.records);
        assert!(model.names.records[model.names.entry.shard], "seed {seed}: the owner has no record");
        moves += model.moves;
    }
    assert!(moves > runs / 2, "{moves} moves");
}

#[test]
fn each_rule_of_the_engine_is_needed() {
    for flaw in [Flaw::SameVersion, Flaw::LoadKeepsFrozen, Flaw::TakeIsNotFenced] {
        let is_wrong = |model: Model| model.two_owners || model.owners() != 1;
        assert!((0..RUNS).any(|seed| is_wrong(Model::run(seed, flaw))), "rule {}", flaw as u8);
    }
}

fn shard(node: usize) -> Shard {
    Shard::new(u8::try_from(node).expect("few"))
}

fn number(node: usize) -> NodeNumber {
    NodeNumber::try_from(node as u64).expect("few")
}

impl Node {
    fn new(process: u64, serves: bool) -> Self {
        Self { process, arrivals: Arrivals::default(), departures: Departures::default(), serves }
    }
}

impl Model {
    fn run(seed: u64, flaw: Flaw) -> Self {
        let mut model = Self {
            names: Names::new(flaw),
            random: StdRng::seed_from_u64(seed),
            start: Instant::now(),
            now: 0,
            nodes: [0, 1, 2].map(|node| Node::new(0, node == 0)),
            open: Vec::new(),
            agenda: BTreeMap::new(),
            sequence: 0,
            faulty: true,
            two_owners: false,
            moves: 0,
        };
        for _ in 0..12 {
            model.shake_hands();
            for _ in 0..model.random.random_range(1..100) {
                model.step(100);
            }
        }
        model.faulty = false;
        for _ in 0..400 {
            model.step(100);
        }
        model
    }

    fn time(&self) -> Instant {
        self.start + Duration::from_millis(self.now)
    }

    /// The device shakes hands at a node.
    fn shake_hands(&mut self) {
        let (node, source, now) = (self.random.random_range(0..NODES), self.names.entry.shard, self.time());
        if node != source && !self.nodes[node].serves {
            let asked = self.nodes[node].arrivals.ask(now, number(source), ());
            let asked = asked.expect("there are few");
            self.send(Message::Fetch { to: source, by: node, number: asked });
        }
    }

    fn step(&mut self, milliseconds: u64) {
        self.now += milliseconds;
        while let Some(entry) = self.agenda.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let message = entry.remove();
            self.receive(message);
        }
        for node in 0..NODES {
            if self.faulty && self.random.random_range(0..200) == 0 {
                self.crash(node);
            }
            let now = self.time();
            drop(self.nodes[node].arrivals.handle_timeout(now));
            let steps = self.nodes[node].departures.handle_timeout(now);
            self.perform(node, steps);
        }
        self.two_owners |= self.owners() > 1;
    }

    fn owners(&self) -> usize {
        self.nodes.iter().filter(|node| node.serves).count()
    }

    /// A new process acquires the shard of a node, and reads it.
    fn crash(&mut self, node: usize) {
        let process = self.nodes[node].process + 1;
        self.nodes[node] = Node::new(process, self.names.load(node));
    }

    fn perform(&mut self, node: usize, steps: impl IntoIterator<Item = SourceStep<(), u64>>) {
        for step in steps {
            match step {
                SourceStep::Freeze(..) => self.ask(node, Asked::Freeze),
                SourceStep::Thaw(..) => self.ask(node, Asked::Thaw),
                SourceStep::Tell { target, number, version, .. } => {
                    let (to, from) = (usize::from(target.number()), node);
                    self.send(Message::Frozen { to, from, number, version });
                }
                SourceStep::Back(departure) => {
                    self.nodes[node].serves = true;
                    let (to, number) = (usize::from(departure.target.number()), departure.number);
                    self.send(Message::Refused { to, from: node, number });
                }
                SourceStep::Gone(..) => self.names.remove_superseded(node),
            }
        }
    }

    fn ask(&mut self, node: usize, what: Asked) {
        self.sequence += 1;
        let request = Request { node, process: self.nodes[node].process, id: self.sequence, what };
        self.open.push(request.id);
        self.agenda.insert((self.now + PATIENCE, self.sequence), Message::Answered(request, None));
        self.send(Message::Execute(request));
    }

    /// Messages between nodes are lost and repeated; requests are repeated as those of a connection that was closed.
    fn send(&mut self, message: Message) {
        let copies = if self.faulty { [0, 1, 1, 1, 2][self.random.random_range(0..5)] } else { 1 };
        for _ in 0..copies {
            let delays: &[u64] = if self.faulty { &[10, 10, 100, 100, 1_000, 8_000] } else { &[10] };
            let delay = delays[self.random.random_range(0..delays.len())];
            self.sequence += 1;
            self.agenda.insert((self.now + delay, self.sequence), message);
        }
    }

    fn receive(&mut self, message: Message) {
        let now = self.time();
        match message {
            Message::Fetch { to, by, number: asked } => {
                let node = &mut self.nodes[to];
                if std::mem::take(&mut node.serves) {
                    node.departures.begin(now, "a".to_owned(), (shard(to), (), self.sequence), (number(by), asked));
                    let steps = node.departures.handle_stored(self.sequence);
                    self.perform(to, steps);
                } else {
                    self.send(Message::Refused { to: by, from: to, number: asked });
                }
            }
            Message::Frozen { to, from, number: asked, version } => {
                if self.nodes[to].arrivals.handle_frozen(asked, number(from)).is_some() {
                    self.ask(to, Asked::Take { number: asked, source: from, version });
                }
            }
            Message::Refused { to, from, number: asked } => {
                let (Some(()) | None) = self.nodes[to].arrivals.handle_refused(asked, number(from));
            }
            Message::Done { to, version } => {
                let steps = self.nodes[to].departures.handle_done("a", version);
                self.perform(to, steps);
            }
            Message::Execute(request) => self.execute(request),
            Message::Answered(request, answer) => {
                let is_open = self.open.iter().position(|open| *open == request.id);
                if let Some(open) = is_open {
                    self.open.swap_remove(open);
                    if self.nodes[request.node].process == request.process {
                        self.answered(request, answer);
                    }
                }
            }
        }
    }

    /// The engine does one step.
    fn execute(&mut self, request: Request) {
        let Request { node, process, what, .. } = request;
        let is_owner = self.nodes[node].process == process;
        let answer = match what {
            Asked::Freeze => Answer::Frozen(self.names.freeze(node, is_owner)),
            Asked::Thaw => Answer::Thawed(self.names.thaw(node, is_owner)),
            Asked::Take { source, version, .. } => {
                let before = self.names.entry.shard;
                let is_taken = self.names.take(node, is_owner, source, version);
                self.moves += u64::from(before != self.names.entry.shard);
                Answer::Taken(is_taken)
            }
        };
        self.send(Message::Answered(request, Some(answer)));
    }

    fn answered(&mut self, request: Request, answer: Option<Answer>) {
        let (node, now) = (request.node, self.time());
        let departures = &mut self.nodes[node].departures;
        let steps = match (request.what, answer) {
            (Asked::Freeze, Some(Answer::Frozen(frozen))) => departures.handle_frozen(now, "a", frozen),
            (Asked::Freeze, _) => departures.handle_frozen(now, "a", Frozen::Unknown),
            (Asked::Thaw, Some(Answer::Thawed(thawed))) => departures.handle_thawed(now, "a", thawed),
            (Asked::Thaw, _) => departures.handle_thawed(now, "a", Thawed::Unknown),
            (Asked::Take { number, source, version }, Some(Answer::Taken(is_taken))) => {
                let waited = self.nodes[node].arrivals.handle_decided(number).is_some();
                if waited && is_taken {
                    self.nodes[node].serves = true;
                    let steps = self.nodes[node].departures.handle_return("a");
                    self.perform(node, steps);
                    self.send(Message::Done { to: source, version });
                }
                None
            }
            (what @ Asked::Take { .. }, _) => {
                self.ask(node, what);
                None
            }
        };
        self.perform(node, steps);
    }
}
