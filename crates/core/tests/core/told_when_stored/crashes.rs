//! Crashes at random moments: whatever the gateway has told a device is still true for the next process.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use lwm2m_core::coap::options::{format, number};
use lwm2m_core::coap::{Code, Kind, Message, MessageId, Options, Token};
use lwm2m_core::gateway::broker::{BrokerCommand, BrokerEvent, MessageProperties};
use lwm2m_core::gateway::config::GatewayConfig;
use lwm2m_core::gateway::{ChangeBatch, Gateway, Output};
use lwm2m_testkit::scene::{LINKS, beginning, location_of, model, peer, read};
use lwm2m_testkit::store::MemoryStore;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const DEVICES: usize = 4;
/// The store is never waited for in vain.
const PATIENCE: Duration = Duration::from_secs(3600);

/// What a device knows.
#[derive(Clone, Debug, Default)]
struct Known {
    /// The location of its last answered Register, unless a De-register was answered since.
    location: Option<String>,
    /// The lifetime of the last Update or Register that was answered.
    lifetime: u64,
    /// Whether a crash has left a request of it unanswered, and none was answered since.
    is_in_doubt: bool,
    /// Its request that is not answered.
    asked: Option<(Message, u64)>,
}

struct World {
    gateway: Gateway,
    began: Instant,
    now: Instant,
    rng: StdRng,
    store: MemoryStore,
    /// Batches that the store has and has not written.
    unwritten: VecDeque<ChangeBatch>,
    devices: [Known; DEVICES],
    processes: u8,
    last_id: u16,
    crashes_with_unanswered: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let now = beginning();
        let mut world = Self {
            gateway: gateway(now, Duration::ZERO, 0),
            began: now,
            now,
            rng: StdRng::seed_from_u64(seed),
            store: MemoryStore::default(),
            unwritten: VecDeque::new(),
            devices: Default::default(),
            processes: 0,
            last_id: 0,
            crashes_with_unanswered: 0,
        };
        world.store.restore(&mut world.gateway, now);
        world
    }

    fn step(&mut self) {
        self.now += Duration::from_millis(20);
        self.gateway.handle_timeout(self.now);
        let device = self.rng.random_range(0..DEVICES);
        match self.rng.random_range(0..10) {
            0..4 => self.ask(device),
            4..6 => self.take(),
            6..9 => self.write(),
            _ => self.crash(),
        }
        self.carry_out();
    }

    /// A device registers, updates or deregisters, unless it waits for an answer.
    fn ask(&mut self, device: usize) {
        if self.devices[device].asked.is_some() {
            return;
        }
        let lifetime = self.rng.random_range(1_000..2_000);
        let request = match self.devices[device].location.clone() {
            Some(location) if self.rng.random_bool(0.2) => self.request(Code::DELETE, &["rd", &location], &[]),
            Some(location) if self.rng.random_bool(0.7) => {
                self.request(Code::POST, &["rd", &location], &[format!("lt={lifetime}")])
            }
            Some(_) | None => {
                let query = [format!("ep=dev-{device}"), format!("lt={lifetime}"), "lwm2m=1.0".to_owned()];
                let mut register = self.request(Code::POST, &["rd"], &query);
                register.options.add_uint(number::CONTENT_FORMAT, format::LINK_FORMAT.into());
                register.payload = LINKS.as_bytes().to_vec();
                register
            }
        };
        self.devices[device].asked = Some((request.clone(), lifetime));
        self.gateway.handle_datagram(self.now, peer(device as u32), &request.encode());
    }

    fn request(&mut self, code: Code, path: &[&str], query: &[String]) -> Message {
        self.last_id += 1;
        let id = MessageId(self.last_id);
        let token = Token::new(&self.last_id.to_be_bytes());
        let mut options = Options::new();
        path.iter().for_each(|segment| options.add_text(number::URI_PATH, segment));
        query.iter().for_each(|item| options.add_text(number::URI_QUERY, item));
        Message { kind: Kind::Confirmable, code, id, token, options, payload: Vec::new() }
    }

    /// The store gets what has changed, and is late with it.
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

    /// The process is killed, with all that the store has not written. Another one begins.
    fn crash(&mut self) {
        self.unwritten.clear();
        self.processes += 1;
        self.gateway = gateway(self.now, self.now - self.began, self.processes);
        self.store.restore(&mut self.gateway, self.now);
        self.carry_out();
        for device in 0..DEVICES {
            let Known { location, lifetime, is_in_doubt, asked } = self.devices[device].clone();
            if asked.is_some() || is_in_doubt {
                self.crashes_with_unanswered += usize::from(asked.is_some());
                // It asks again by a Register, whatever became of its request.
                self.devices[device] = Known { is_in_doubt: true, ..Known::default() };
                continue;
            }
            let endpoint = format!("dev-{device}");
            let stored = self.store.devices.get(&endpoint).map(|record| record.registration.lifetime.as_secs());
            assert_eq!(stored, location.is_some().then_some(lifetime), "{endpoint} was told otherwise");
            let Some(location) = location else { continue };
            let update = self.request(Code::POST, &["rd", &location], &[]);
            self.devices[device].asked = Some((update.clone(), lifetime));
            self.gateway.handle_datagram(self.now, peer(device as u32), &update.encode());
            self.carry_out();
            assert!(self.devices[device].asked.is_none() && self.devices[device].location.is_some(), "{endpoint}");
        }
    }

    fn carry_out(&mut self) {
        loop {
            match self.gateway.poll_output() {
                Output::Transmit(transmit) => {
                    let message = Message::decode(&transmit.datagram).expect("a well-formed message");
                    let device = (0..DEVICES).find(|device| peer(*device as u32) == transmit.peer).expect("a device");
                    self.heard(device, &message);
                }
                Output::Broker(BrokerCommand::Connect { registration, .. }) => {
                    self.gateway.handle_broker(self.now, BrokerEvent::Connected { registration });
                    let payload = read(1).to_string().into_bytes();
                    let (topic, properties) = ("dn".to_owned(), MessageProperties::default());
                    self.gateway
                        .handle_broker(self.now, BrokerEvent::Message { registration, topic, payload, properties });
                }
                Output::Idle(_) => return,
                _ => {}
            }
        }
    }

    /// A device gets a message: the answer to its request, or a request for it.
    fn heard(&mut self, device: usize, message: &Message) {
        let known = &mut self.devices[device];
        if message.code.is_request() {
            let waits_for_location = known.asked.as_ref().is_some_and(|(asked, _)| asked.payload == LINKS.as_bytes());
            assert!(known.location.is_some() || !waits_for_location, "a request before the answer to the Register");
            return;
        }
        let Some((asked, lifetime)) = known.asked.take_if(|(asked, _)| asked.id == message.id) else { return };
        known.is_in_doubt = false;
        match message.code {
            Code::CREATED => {
                known.location = location_of(message).pop();
                known.lifetime = lifetime;
            }
            Code::CHANGED => known.lifetime = lifetime,
            Code::DELETED => known.location = None,
            code => panic!("{asked:?} was answered {code}"),
        }
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
fn whatever_a_device_was_told_is_true_after_a_crash_at_any_moment() {
    let mut unanswered = 0;
    for seed in 0..60 {
        let mut world = World::new(seed);
        (0..200).for_each(|_| world.step());
        unanswered += world.crashes_with_unanswered;
    }
    assert!(unanswered > 100, "crashes hit devices that waited: {unanswered}");
}
