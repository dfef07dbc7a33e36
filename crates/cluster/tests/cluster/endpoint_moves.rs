//! Moves of one endpoint between three shards, whose messages are lost, late or repeated, and whose owners crash
//! between any two steps.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use lwm2m_base::Shard;
use lwm2m_cluster::endpoint_move::{Custody, EndpointMove, MoveAction, Place};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const RUNS: u64 = 2_000;
const SHARDS: u8 = 3;

/// What a source does that hears nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Thaw {
    BySwap,
    /// It reads the place, and serves the device again if the place is its own.
    ByReading,
}

struct Model {
    thaw: Thaw,
    random: StdRng,
    start: Instant,
    now: u64,
    place: Place,
    stored: Vec<Custody>,
    shards: Vec<EndpointMove>,
    /// The number of crashes of each owner. The answer of the engine reaches the process that asked.
    crashes: Vec<u64>,
    agenda: BTreeMap<(u64, u64), Message>,
    sequence: u64,
    /// Whether messages are lost and owners crash.
    faulty: bool,
    two_owners: bool,
}

#[derive(Clone, Copy)]
enum Message {
    Fetch { to: Shard, by: Shard },
    Fetched { to: Shard, place: Place },
    Done(Place),
    Swap { by: Shard, process: u64, from: Place, to: Place },
    Swapped { to: Shard, process: u64, place: Place },
}

#[test]
fn an_endpoint_is_in_one_shard_whatever_is_lost_late_or_repeated() {
    for seed in 0..RUNS {
        let mut model = Model::new(seed, Thaw::BySwap);
        model.run();
        assert!(!model.two_owners, "seed {seed}: two shards serve the endpoint");
        let owners = model.shards.iter().filter(|shard| shard.serves()).count();
        assert_eq!(owners, 1, "seed {seed}: {:?}, place {:?}", model.stored, model.place);
    }
}

#[test]
fn a_source_that_only_reads_the_place_before_it_serves_again_makes_two_owners() {
    let two_owners = |seed| {
        let mut model = Model::new(seed, Thaw::ByReading);
        model.run();
        model.two_owners
    };

    assert!((0..RUNS).any(two_owners));
}

#[test]
fn a_move_takes_one_swap_and_tells_the_source() {
    let now = Instant::now();
    let (source, target) = (Shard::new(1), Shard::new(2));
    let (before, after) = (Place { shard: source, version: 7 }, Place { shard: target, version: 8 });
    let mut from = EndpointMove::load(source, Custody::Present(before), now);
    let mut to = EndpointMove::load(target, Custody::Absent, now);
    let actions = |part: &mut EndpointMove| std::iter::from_fn(|| part.poll_action()).collect::<Vec<_>>();

    to.fetch_from(source, now);
    assert_eq!(actions(&mut to), [MoveAction::Fetch(source)]);
    from.handle_fetch(target, now);
    let fetched = MoveAction::Fetched { to: target, place: before };
    assert_eq!(actions(&mut from), [MoveAction::Store(Custody::Frozen(before)), fetched]);
    to.handle_fetched(before, now);
    let swap = MoveAction::Swap { from: before, to: after };
    assert_eq!(actions(&mut to), [MoveAction::Store(Custody::Arriving(before)), swap]);
    to.handle_place(after);
    assert_eq!(actions(&mut to), [MoveAction::Store(Custody::Present(after)), MoveAction::Done(before)]);
    from.handle_done(before);

    assert_eq!(actions(&mut from), [MoveAction::Store(Custody::Absent)]);
    assert_eq!([from.serves(), to.serves()], [false, true]);
}

impl Model {
    fn new(seed: u64, thaw: Thaw) -> Self {
        let start = Instant::now();
        let place = Place { shard: Shard::new(0), version: 1 };
        let mut stored = vec![Custody::Absent; usize::from(SHARDS)];
        stored[0] = Custody::Present(place);
        let shards = (0..SHARDS).zip(&stored);
        let shards = shards.map(|(number, &custody)| EndpointMove::load(Shard::new(number), custody, start)).collect();
        let random = StdRng::seed_from_u64(seed);
        let (agenda, sequence) = (BTreeMap::new(), 0);
        let crashes = vec![0; usize::from(SHARDS)];
        let (faulty, two_owners) = (true, false);
        Self { thaw, random, start, now: 0, place, stored, shards, crashes, agenda, sequence, faulty, two_owners }
    }

    fn run(&mut self) {
        for _ in 0..12 {
            let asker = self.random.random_range(0..SHARDS);
            let now = self.time();
            let source = self.place.shard;
            self.shards[usize::from(asker)].fetch_from(source, now);
            self.perform(asker);
            for _ in 0..self.random.random_range(1..100) {
                self.step(100);
            }
        }
        self.faulty = false;
        for _ in 0..400 {
            self.step(100);
        }
    }

    fn time(&self) -> Instant {
        self.start + Duration::from_millis(self.now)
    }

    fn step(&mut self, milliseconds: u64) {
        self.now += milliseconds;
        while let Some(entry) = self.agenda.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            let message = entry.remove();
            self.receive(message);
        }
        for number in 0..SHARDS {
            let now = self.time();
            if self.faulty && self.random.random_range(0..200) == 0 {
                self.crash(number);
            }
            self.shards[usize::from(number)].handle_timeout(now);
            self.perform(number);
        }
        self.two_owners |= self.shards.iter().filter(|shard| shard.serves()).count() > 1;
    }

    fn crash(&mut self, number: u8) {
        let index = usize::from(number);
        self.crashes[index] += 1;
        self.shards[index] = EndpointMove::load(Shard::new(number), self.stored[index], self.time());
    }

    /// Performs the actions of a shard in order. An owner may crash between any two of them.
    fn perform(&mut self, number: u8) {
        let shard = Shard::new(number);
        while let Some(action) = self.shards[usize::from(number)].poll_action() {
            if self.faulty && self.random.random_range(0..50) == 0 {
                return self.crash(number);
            }
            match action {
                MoveAction::Store(custody) => self.stored[usize::from(number)] = custody,
                MoveAction::Fetch(to) => self.send(Message::Fetch { to, by: shard }),
                MoveAction::Fetched { to, place } => self.send(Message::Fetched { to, place }),
                MoveAction::Done(place) => self.send(Message::Done(place)),
                MoveAction::Swap { from, to } => {
                    let process = self.crashes[usize::from(number)];
                    self.send(Message::Swap { by: shard, process, from, to });
                }
            }
        }
    }

    fn send(&mut self, message: Message) {
        let copies = if self.faulty { [0, 1, 1, 1, 2][self.random.random_range(0..5)] } else { 1 };
        for _ in 0..copies {
            let delay = [10, 100, 1_000, 8_000][self.random.random_range(0..4)];
            self.sequence += 1;
            self.agenda.insert((self.now + delay, self.sequence), message);
        }
    }

    fn receive(&mut self, message: Message) {
        let now = self.time();
        let receiver = match message {
            Message::Fetch { to, by } => {
                self.shards[usize::from(to)].handle_fetch(by, now);
                to
            }
            Message::Fetched { to, place } => {
                self.shards[usize::from(to)].handle_fetched(place, now);
                to
            }
            Message::Done(place) => {
                self.shards[usize::from(place.shard)].handle_done(place);
                place.shard
            }
            Message::Swap { by, process, from, to } => return self.swap(by, process, from, to),
            Message::Swapped { to, process, .. } if process != self.crashes[usize::from(to)] => return,
            Message::Swapped { to, place, .. } => {
                self.shards[usize::from(to)].handle_place(place);
                to
            }
        };
        self.perform(receiver.number());
    }

    fn swap(&mut self, by: Shard, process: u64, from: Place, to: Place) {
        if self.thaw == Thaw::ByReading && from.shard == by {
            // A source that finds its own place unchanged believes that it has the device.
            let place = if self.place == from { to } else { self.place };
            return self.send(Message::Swapped { to: by, process, place });
        }
        if self.place == from {
            self.place = to;
        }
        self.send(Message::Swapped { to: by, process, place: self.place });
    }
}
