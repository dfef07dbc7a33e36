//! Races of a device that registers again, in virtual time: the core and the link are the program's, the broker behind
//! the link is a model of EMQX. Each seed is another schedule of Registers, commands, answers, losses and delays.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::config::Config;
use crate::upstream::client::device::ConnectionId;
use crate::upstream::client::{Devices, Protocol};
use crate::upstream::metrics::UpstreamMetrics;
use lwm2m_base::Peer;
use lwm2m_core::coap::options::{format, number};
use lwm2m_core::coap::{Code, Kind, Message, MessageId, Options, Token};
use lwm2m_core::gateway::broker::{BrokerCommand, BrokerEvent};
use lwm2m_core::gateway::report::{LeaveReason, Report};
use lwm2m_core::gateway::{Gateway, Output};
use lwm2m_core::lwm2m::model::Model;

/// Between the device and the gateway.
const ON_THE_WAY: Duration = Duration::from_micros(300);
/// A device registers again so long before or after its answer.
const APART: Duration = Duration::from_millis(12);
const ROUNDS: u64 = 6;
/// Longer than anything takes to come to rest.
const REST: Duration = Duration::from_secs(100);

/// The part of a broker model that does not depend on the protocol: the link to the broker, the steps that are to come,
/// and what the broker has seen.
pub(crate) struct ModelBase<P: Protocol, S> {
    pub devices: Devices<P>,
    pub rng: StdRng,
    /// The connection that has the client ID.
    pub holder: Option<ConnectionId>,
    /// What the link tells the core.
    pub events: VecDeque<BrokerEvent>,
    /// The payloads that the broker took, in order.
    pub published: Vec<Bytes>,
    /// The commands that the broker has delivered, or has to deliver: not all that are published.
    pub promised: BTreeSet<u64>,
    metrics: Arc<UpstreamMetrics>,
    steps: BTreeMap<(Instant, u64), S>,
    order: u64,
}

impl<P: Protocol, S> ModelBase<P, S> {
    pub(super) fn new(seed: u64, devices: impl FnOnce(StdRng, Arc<UpstreamMetrics>) -> Devices<P>) -> Self {
        let metrics = Arc::new(UpstreamMetrics::default());
        Self {
            devices: devices(StdRng::seed_from_u64(seed), Arc::clone(&metrics)),
            rng: StdRng::seed_from_u64(seed ^ 0x5eed),
            holder: None,
            events: VecDeque::new(),
            published: Vec::new(),
            promised: BTreeSet::new(),
            metrics,
            steps: BTreeMap::new(),
            order: 0,
        }
    }

    /// Returns a random duration that is seldom long.
    pub(crate) fn a_while(&mut self) -> Duration {
        let most = if self.rng.random_bool(0.02) { 2_000_000 } else { 2_000 };
        Duration::from_micros(self.rng.random_range(50..most))
    }

    pub(super) fn schedule(&mut self, at: Instant, step: S) {
        self.order += 1;
        self.steps.insert((at, self.order), step);
    }

    fn pop_due(&mut self, now: Instant) -> Option<S> {
        let first = self.steps.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }

    fn next(&self) -> Option<Instant> {
        let first = self.steps.first_key_value().map(|((at, _), _)| *at);
        [first, self.devices.next_deadline()].into_iter().flatten().min()
    }

    /// Returns how many publications the link gave up.
    fn dropped(&self) -> u64 {
        self.metrics.dropped_answers.get() + self.metrics.dropped_registrations.get()
    }
}

/// A broker with the link to it.
pub(crate) trait BrokerModel {
    type Protocol: Protocol;
    /// What happens in the broker, or on the way to it.
    type Step;

    fn base(&self) -> &ModelBase<Self::Protocol, Self::Step>;
    fn base_mut(&mut self) -> &mut ModelBase<Self::Protocol, Self::Step>;
    fn happen(&mut self, now: Instant, step: Self::Step);
    /// Carries out the actions of the devices.
    fn act(&mut self, now: Instant);
    /// An application publishes this command.
    fn command(&mut self, now: Instant, number: u64);
    /// The device's connection is lost.
    fn lose_connection(&mut self, now: Instant);

    fn submit(&mut self, now: Instant, command: BrokerCommand) {
        self.base_mut().devices.command(now, command);
        self.act(now);
    }

    /// Does what is due.
    fn advance(&mut self, now: Instant) {
        while let Some(step) = self.base_mut().pop_due(now) {
            self.happen(now, step);
            self.act(now);
        }
        self.base_mut().devices.handle_timeout(now);
        self.act(now);
    }
}

/// A random event, besides Registers, commands and answers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Disruptions {
    pub losses: bool,
    /// A publication may arrive once more when its acknowledgement was lost.
    pub repetitions: bool,
}

enum RaceStep {
    ToGateway(Vec<u8>),
    ToDevice(Vec<u8>),
    Register,
    Command(u64),
    LoseConnection,
}

struct ScheduledStep {
    at: Instant,
    order: u64,
    happening: RaceStep,
}

impl PartialEq for ScheduledStep {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl Eq for ScheduledStep {}

impl PartialOrd for ScheduledStep {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ScheduledStep {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

struct RaceWorld<B> {
    now: Instant,
    gateway: Gateway,
    broker: B,
    weather: Disruptions,
    rng: StdRng,
    queue: BinaryHeap<Reverse<ScheduledStep>>,
    order: u64,
    deadline: Option<Instant>,
    next_id: u16,
    registering: Vec<Token>,
    location: Vec<String>,
    updated: Option<(Token, Option<Code>)>,
    seen: Vec<MessageId>,
    /// The payloads that the core asked the link to publish.
    asked: Vec<Bytes>,
    ended: Vec<LeaveReason>,
    /// Counts how often the core received each command.
    told: BTreeMap<u64, usize>,
}

/// Plays one schedule. Panics if a registration or an answer is lost, or the order.
pub(super) fn race<B: BrokerModel>(seed: u64, now: Instant, broker: B, qos: u8, weather: Disruptions) {
    let mut world = RaceWorld::new(seed, now, broker, qos, weather);
    world.happens_in(Duration::ZERO, RaceStep::Register);
    world.run_for(Duration::from_secs(1));
    for number in 0..ROUNDS {
        world.round(number);
    }
    world.run_for(REST);
    world.check(seed);
}

impl<B: BrokerModel> RaceWorld<B> {
    fn new(seed: u64, now: Instant, broker: B, qos: u8, weather: Disruptions) -> Self {
        let mut config = Config::default().gateway;
        let topics = &mut config.translators;
        for translator in [&mut topics.command, &mut topics.response, &mut topics.register] {
            translator.qos = qos;
        }
        let model = Arc::new(Model::default());
        Self {
            now,
            gateway: Gateway::new(config, model, [seed as u8; 32], now, Duration::from_secs(1_700_000_000)),
            broker,
            weather,
            rng: StdRng::seed_from_u64(seed),
            queue: BinaryHeap::new(),
            order: 0,
            deadline: None,
            next_id: 0,
            registering: Vec::new(),
            location: Vec::new(),
            updated: None,
            seen: Vec::new(),
            asked: Vec::new(),
            ended: Vec::new(),
            told: BTreeMap::new(),
        }
    }

    /// A command, and perhaps Registers and a loss around its answer.
    fn round(&mut self, number: u64) {
        self.happens_in(Duration::ZERO, RaceStep::Command(number));
        for _ in 0..self.rng.random_range(0..3) {
            let at = self.rng.random_range(Duration::ZERO..2 * APART);
            self.happens_in(at, RaceStep::Register);
        }
        if self.weather.losses && self.rng.random_bool(0.2) {
            let at = self.rng.random_range(Duration::ZERO..2 * APART);
            self.happens_in(at, RaceStep::LoseConnection);
        }
        let pause = if self.rng.random_bool(0.3) { 4_000 } else { 60 };
        let pause = self.rng.random_range(0..pause);
        self.run_for(Duration::from_millis(pause));
    }

    fn check(&mut self, seed: u64) {
        self.update();
        self.happens_in(Duration::ZERO, RaceStep::Command(ROUNDS));
        self.run_for(REST);
        let context = format!("seed {seed}: ended {:?}, told {:?}", self.ended, self.told);
        let updated = self.updated.and_then(|(_, code)| code);
        assert_eq!(updated, Some(Code::CHANGED), "the registration is lost, {context}");
        assert!(self.told.contains_key(&ROUNDS), "no command comes any more, {context}");
        assert_eq!(self.broker.base().dropped(), 0, "publications were given up, {context}");
        for number in &self.broker.base().promised {
            assert!(self.told.contains_key(number), "command {number} is lost, {context}");
        }
        for (number, told) in &self.told {
            let of_it = |payload: &&Bytes| is_answer(payload) && number_of(payload) == *number;
            let answers = self.asked.iter().filter(of_it).count();
            assert_eq!(answers, *told, "answers to command {number}, {context}");
            assert_eq!(*told, 1, "command {number} was told more than once, {context}");
        }
        let published = texts(&self.broker.base().published);
        if self.weather.repetitions {
            let mut highest = 0;
            let asked = texts(&self.asked);
            for payload in published {
                // Not ahead of what was not published yet: it is the next one, or one of before.
                let next = asked.get(highest).is_some_and(|next| *next == payload);
                assert!(next || asked[..highest].contains(&payload), "{payload} came early, {context}");
                highest += usize::from(next);
            }
            assert_eq!(highest, asked.len(), "something was not published, {context}");
        } else {
            assert_eq!(published, texts(&self.asked), "{context}");
        }
    }

    fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let first = self.queue.peek().map(|Reverse(first)| first.at);
            let next = [first, self.deadline, self.broker.base().next()].into_iter().flatten().min();
            let Some(at) = next.filter(|at| *at <= end) else { break };
            self.now = at.max(self.now);
            self.step();
        }
        self.now = end;
    }

    fn step(&mut self) {
        if self.queue.peek().is_some_and(|Reverse(first)| first.at <= self.now) {
            let Some(Reverse(ScheduledStep { happening, .. })) = self.queue.pop() else { return };
            self.happen(happening);
        }
        if self.deadline.is_some_and(|at| at <= self.now) {
            self.gateway.handle_timeout(self.now);
            self.drain();
        }
        self.broker.advance(self.now);
        while let Some(event) = self.broker.base_mut().events.pop_front() {
            if let BrokerEvent::Message { payload, .. } = &event {
                *self.told.entry(number_of(payload)).or_default() += 1;
            }
            self.gateway.handle_broker(self.now, event);
            self.drain();
        }
    }

    fn happen(&mut self, happening: RaceStep) {
        match happening {
            RaceStep::ToGateway(datagram) => {
                self.gateway.handle_datagram(self.now, peer(), &datagram);
                self.drain();
            }
            RaceStep::ToDevice(datagram) => self.device_hears(&Message::decode(&datagram).expect("a message")),
            RaceStep::Register => self.register(),
            // Nobody sends commands to a device that was never registered.
            RaceStep::Command(number) if !self.location.is_empty() => self.broker.command(self.now, number),
            RaceStep::Command(_) => {}
            RaceStep::LoseConnection => self.broker.lose_connection(self.now),
        }
    }

    fn drain(&mut self) {
        loop {
            match self.gateway.poll_output() {
                Output::Transmit(transmit) => self.happens_in(ON_THE_WAY, RaceStep::ToDevice(transmit.datagram)),
                Output::Broker(command) => {
                    if let BrokerCommand::Publish { publication, .. } = &command {
                        self.asked.push(publication.payload.clone());
                    }
                    self.broker.submit(self.now, command);
                }
                Output::Report(Report::Left { reason, .. }) => self.ended.push(reason),
                Output::Report(_)
                | Output::Answer(_)
                | Output::FindKey(_)
                | Output::Claim(_)
                | Output::Unclaim { .. }
                | Output::DescribeImage { .. }
                | Output::ReadImage { .. } => {}
                Output::Idle(deadline) => {
                    self.deadline = deadline;
                    return;
                }
            }
        }
    }

    fn happens_in(&mut self, time: Duration, happening: RaceStep) {
        self.order += 1;
        let at = self.now + time;
        self.queue.push(Reverse(ScheduledStep { at, order: self.order, happening }));
    }

    // -- The device ---------------------------------------------------------------------------------------------------

    fn device_hears(&mut self, message: &Message) {
        if message.code == Code::POST {
            return self.obey(message);
        }
        if message.kind == Kind::Confirmable {
            let acknowledgement = Message::empty(Kind::Acknowledgement, message.id);
            self.device_says(&acknowledgement, Duration::ZERO);
        }
        if message.code == Code::EMPTY {
            return;
        }
        if let Some((_, code)) = self.updated.as_mut().filter(|(token, _)| *token == message.token) {
            *code = Some(message.code);
        }
        let Some(at) = self.registering.iter().position(|token| *token == message.token) else { return };
        self.registering.remove(at);
        if message.code == Code::CREATED {
            let location = message.options.texts(number::LOCATION_PATH).expect("a location is text");
            self.location = location.into_iter().map(str::to_owned).collect();
        }
    }

    fn obey(&mut self, request: &Message) {
        if self.seen.contains(&request.id) {
            return;
        }
        self.seen.push(request.id);
        let mut answer = Message::empty(Kind::Acknowledgement, request.id);
        (answer.code, answer.token) = (Code::CHANGED, request.token);
        let after = self.rng.random_range(Duration::ZERO..APART);
        self.device_says(&answer, after);
    }

    fn register(&mut self) {
        let mut register = self.request(&["rd"]);
        register.options.add_text(number::URI_QUERY, "ep=racer");
        register.options.add_text(number::URI_QUERY, "lt=86400");
        register.options.add_uint(number::CONTENT_FORMAT, u32::from(format::LINK_FORMAT));
        register.payload = b"</3/0>".to_vec();
        self.registering.push(register.token);
        self.device_says(&register, Duration::ZERO);
    }

    fn update(&mut self) {
        let location = self.location.clone();
        let update = self.request(&location.iter().map(String::as_str).collect::<Vec<_>>());
        self.updated = Some((update.token, None));
        self.device_says(&update, Duration::ZERO);
    }

    fn request(&mut self, path: &[&str]) -> Message {
        self.next_id += 1;
        let mut request = Message {
            kind: Kind::Confirmable,
            code: Code::POST,
            id: MessageId(self.next_id),
            token: Token::new(&self.next_id.to_be_bytes()),
            options: Options::new(),
            payload: Vec::new(),
        };
        path.iter().for_each(|segment| request.options.add_text(number::URI_PATH, segment));
        request
    }

    fn device_says(&mut self, message: &Message, after: Duration) {
        self.happens_in(after + ON_THE_WAY, RaceStep::ToGateway(message.encode()));
    }
}

/// The payload of a command.
pub(super) fn command(number: u64) -> Vec<u8> {
    format!("{{\"reqID\":{number},\"msgType\":\"execute\",\"data\":{{\"path\":\"/3/0/4\"}}}}").into_bytes()
}

fn is_answer(payload: &[u8]) -> bool {
    payload.starts_with(b"{\"reqID\"")
}

fn number_of(payload: &[u8]) -> u64 {
    let value: serde_json::Value = serde_json::from_slice(payload).expect("JSON");
    value["reqID"].as_u64().expect("the number of a command")
}

fn texts(payloads: &[Bytes]) -> Vec<String> {
    payloads.iter().map(|payload| String::from_utf8_lossy(payload).into_owned()).collect()
}

fn peer() -> Peer {
    Peer::udp(0, ([10, 0, 0, 1], 5683).into())
}
