//! Commands over crashes at random moments, with a network that loses datagrams, a store that is late and a broker that
//! is slow: a device that remembers message IDs obeys each command at most once, and each command that the broker was
//! given has one final form, since the broker delivers again what was not confirmed.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use lwm2m_core::coap::{Code, Kind, Message, Options};
use lwm2m_core::gateway::broker::{
    BrokerCommand, BrokerEvent, MessageProperties, MessageReceipt, RegistrationId, Ticket,
};
use lwm2m_core::gateway::config::GatewayConfig;
use lwm2m_core::gateway::{ChangeBatch, Gateway, Output};
use lwm2m_testkit::scene::{Scene, beginning, model, peer};
use lwm2m_testkit::store::MemoryStore;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

/// The store is never waited for in vain.
const PATIENCE: Duration = Duration::from_secs(3600);

struct World {
    gateway: Gateway,
    began: Instant,
    now: Instant,
    rng: StdRng,
    store: MemoryStore,
    unwritten: VecDeque<ChangeBatch>,
    processes: u8,
    registration: RegistrationId,
    /// What the device remembers: its answer to each message ID.
    remembered: HashMap<u16, Vec<u8>>,
    /// How often the device has obeyed each command.
    obeyed: BTreeMap<u64, usize>,
    to_device: VecDeque<Vec<u8>>,
    to_gateway: VecDeque<Vec<u8>>,
    /// The final forms of each command that the broker has got.
    forms: BTreeMap<u64, BTreeSet<Bytes>>,
    unacknowledged: VecDeque<Ticket>,
    last_command: u64,
    /// The commands that the broker keeps, since the gateway has not confirmed them.
    kept: BTreeMap<u16, Vec<u8>>,
    redelivered: usize,
    repeated: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let now = beginning();
        let mut store = MemoryStore::default();
        let mut scene = Scene::new();
        scene.gateway.restore(scene.now, Vec::new());
        scene.register("ep=dev-7&lt=86400&lwm2m=1.0");
        store.keep(scene.gateway.take_changes(scene.now, 256));
        let mut world = Self {
            gateway: gateway(now, Duration::ZERO, 0),
            began: now,
            now,
            rng: StdRng::seed_from_u64(seed),
            store,
            unwritten: VecDeque::new(),
            processes: 0,
            registration: RegistrationId(0),
            remembered: HashMap::new(),
            obeyed: BTreeMap::new(),
            to_device: VecDeque::new(),
            to_gateway: VecDeque::new(),
            forms: BTreeMap::new(),
            unacknowledged: VecDeque::new(),
            last_command: 0,
            kept: BTreeMap::new(),
            redelivered: 0,
            repeated: 0,
        };
        world.crash();
        world
    }

    fn step(&mut self) {
        self.pass(Duration::from_millis(20));
        match self.rng.random_range(0..20) {
            0..2 => self.command(),
            2..6 => self.deliver_to_device(0.7),
            6..10 => self.deliver_to_gateway(0.7),
            10..13 => self.take(),
            13..16 => self.write(),
            16..18 => self.acknowledge(),
            18 => self.pass(Duration::from_secs(2)),
            _ => {
                // The store may have a batch although the process never hears of it.
                if let Some(ChangeBatch { changes, .. }) = self.unwritten.pop_front().filter(|_| self.rng.random()) {
                    self.store.keep(changes);
                }
                self.crash();
            }
        }
        self.carry_out();
    }

    /// Everything works from now on.
    fn finish(&mut self) {
        for _ in 0..400 {
            self.pass(Duration::from_secs(1));
            self.carry_out();
            while self.has_work() {
                self.deliver_to_device(1.0);
                self.deliver_to_gateway(1.0);
                self.take();
                self.write();
                self.acknowledge();
                self.carry_out();
            }
        }
    }

    fn has_work(&self) -> bool {
        let is_on_its_way = !self.to_device.is_empty() || !self.to_gateway.is_empty() || !self.unwritten.is_empty();
        is_on_its_way || !self.unacknowledged.is_empty() || self.gateway.has_changes()
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.gateway.handle_timeout(self.now);
    }

    fn command(&mut self) {
        self.last_command += 1;
        let id = self.last_command;
        let command =
            json!({ "reqID": id, "msgType": "execute", "data": { "path": "/3/0/4", "args": format!("0='{id}'") } });
        let packet = u16::try_from(id).expect("few commands");
        self.kept.insert(packet, command.to_string().into_bytes());
        self.deliver_command(packet, false);
    }

    fn deliver_command(&mut self, packet: u16, is_repeated: bool) {
        let (topic, payload, registration) = ("dn".to_owned(), self.kept[&packet].clone(), self.registration);
        let receipt = Some(MessageReceipt { connection: u64::from(self.processes), packet, is_repeated });
        let properties = MessageProperties { receipt, ..MessageProperties::default() };
        self.gateway.handle_broker(self.now, BrokerEvent::Message { registration, topic, payload, properties });
    }

    fn deliver_to_device(&mut self, probability: f64) {
        let Some(datagram) = self.to_device.pop_front().filter(|_| self.rng.random_bool(probability)) else { return };
        let request = Message::decode(&datagram).expect("a well-formed message");
        if !request.code.is_request() {
            return;
        }
        if self.remembered.contains_key(&request.id.0) {
            self.repeated += 1;
        }
        let obeyed = &mut self.obeyed;
        let answer = self.remembered.entry(request.id.0).or_insert_with(|| {
            let arguments = String::from_utf8(request.payload).expect("text");
            let id = arguments.trim_matches(|c| c != '\'').trim_matches('\'').parse().expect("a number");
            *obeyed.entry(id).or_default() += 1;
            let (kind, code) = (Kind::Acknowledgement, Code::CHANGED);
            let (options, payload) = (Options::new(), Vec::new());
            Message { kind, code, id: request.id, token: request.token, options, payload }.encode()
        });
        self.to_gateway.push_back(answer.clone());
    }

    fn deliver_to_gateway(&mut self, probability: f64) {
        let Some(datagram) = self.to_gateway.pop_front().filter(|_| self.rng.random_bool(probability)) else { return };
        self.gateway.handle_datagram(self.now, peer(1), &datagram);
    }

    fn take(&mut self) {
        if self.gateway.has_changes() {
            self.unwritten.push_back(self.gateway.take_batch(self.now, 2));
        }
    }

    fn write(&mut self) {
        if let Some(ChangeBatch { version, changes }) = self.unwritten.pop_front() {
            self.store.keep(changes);
            self.gateway.handle_stored(self.now, version);
        }
    }

    fn acknowledge(&mut self) {
        if let Some(ticket) = self.unacknowledged.pop_front() {
            let registration = self.registration;
            self.gateway.handle_broker(self.now, BrokerEvent::Published { registration, ticket });
        }
    }

    /// The process is killed, with all that the store has not written. Another one begins.
    fn crash(&mut self) {
        self.unwritten.clear();
        self.unacknowledged.clear();
        self.processes += 1;
        self.gateway = gateway(self.now, self.now - self.began, self.processes);
        self.store.restore(&mut self.gateway, self.now);
        self.carry_out();
        let registration = self.registration;
        self.gateway.handle_broker(self.now, BrokerEvent::Connected { registration });
        self.carry_out();
        for packet in self.kept.keys().copied().collect::<Vec<_>>() {
            self.redelivered += 1;
            self.deliver_command(packet, true);
        }
    }

    fn carry_out(&mut self) {
        loop {
            match self.gateway.poll_output() {
                Output::Transmit(transmit) => self.to_device.push_back(transmit.datagram),
                Output::Broker(BrokerCommand::Resume { registration, .. }) => self.registration = registration,
                Output::Broker(BrokerCommand::Publish { publication, .. }) => {
                    let payload: Value = serde_json::from_slice(&publication.payload).expect("JSON");
                    let id = payload["reqID"].as_u64().expect("a final answer");
                    self.forms.entry(id).or_default().insert(publication.payload);
                    self.unacknowledged.extend(publication.ticket);
                }
                Output::Broker(BrokerCommand::Confirm { receipt, .. }) => {
                    self.kept.remove(&receipt.packet);
                }
                Output::Idle(_) => return,
                _ => {}
            }
        }
    }

    fn check(&self, seed: u64) {
        for (id, forms) in &self.forms {
            assert_eq!(forms.len(), 1, "seed {seed}, command {id}: {forms:?}");
        }
        for (id, times) in &self.obeyed {
            assert_eq!(*times, 1, "seed {seed}: the device has obeyed command {id} so often");
            assert!(self.forms.contains_key(id), "seed {seed}: command {id} has no final form");
        }
        assert!(self.kept.is_empty(), "seed {seed}: the broker keeps {:?}", self.kept);
        let unanswered = (1..=self.last_command).find(|id| !self.forms.contains_key(id));
        assert_eq!(unanswered, None, "seed {seed}: a command that was lost");
        assert!(!self.gateway.has_unpublished_answers(), "seed {seed}");
    }
}

/// A process that starts so long after the first one.
fn gateway(now: Instant, later: Duration, process: u8) -> Gateway {
    let unix_time = Duration::from_secs(1_700_000_000) + later;
    let mut gateway = Gateway::new(GatewayConfig::default(), model(), [process; 32], now, unix_time);
    gateway.tell_when_stored(PATIENCE);
    gateway
}

#[test]
fn a_device_obeys_a_command_once_and_the_command_has_one_final_form_over_crashes_at_any_moment() {
    let (mut repeated, mut redelivered, mut obeyed) = (0, 0, 0);
    for seed in 0..60 {
        let mut world = World::new(seed);
        (0..300).for_each(|_| world.step());
        world.finish();
        world.check(seed);
        repeated += world.repeated;
        redelivered += world.redelivered;
        obeyed += world.obeyed.len();
    }
    assert!(repeated > 100 && obeyed > 300, "devices answered {repeated} repetitions and obeyed {obeyed} commands");
    assert!(redelivered > 50, "the broker delivered {redelivered} commands again");
}
