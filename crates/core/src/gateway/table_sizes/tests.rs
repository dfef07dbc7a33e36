//! The sizes that are kept are those that a look at every device finds, whatever has happened.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::*;
use crate::coap::options::{format, number};
use crate::coap::{AckMode, Code, Kind, Message, MessageId, Options, Token};
use crate::gateway::broker::{BrokerCommand, BrokerEvent, CloseReason, ConnectError, MessageProperties, Ticket};
use crate::gateway::config::{AutoObserve, GatewayConfig};
use crate::gateway::fixtures::{YEAR_2026, address};
use crate::gateway::{Gateway, Output};
use crate::lwm2m::model::Model;
use crate::registry::{Device, RegistrationId};

const ENDPOINTS: u8 = 4;
const LINKS: &str = "</3/0>,</3303/0>,</3303/1>,</3304/0>";
const SEND: &[u8] = br#"[{"n":"/3303/0/5700","v":21.5}]"#;

/// Something that happens; the number names a device, or chooses among what can be answered.
#[derive(Clone, Debug)]
enum Act {
    Pass(u16),
    Register(u8, u8),
    Update(u8, u8),
    Deregister(u8),
    Send(u8),
    Command(u8, u8),
    /// The device answers, acknowledges, resets or ignores a request.
    Answer(u8, u8),
    Notify(u8, u16),
    /// The broker answers a Connect.
    Connected(u8, bool),
    /// The broker's side has, or has not, the publication with a ticket.
    Decided(u8, u8),
    Closed(u8),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        2 => (0_u16..200).prop_map(Act::Pass),
        2 => (0..ENDPOINTS, any::<u8>()).prop_map(|(device, query)| Act::Register(device, query)),
        3 => (any::<u8>(), any::<bool>()).prop_map(|(which, taken)| Act::Connected(which, taken)),
        3 => (0..ENDPOINTS, any::<u8>()).prop_map(|(device, query)| Act::Update(device, query)),
        1 => (0..ENDPOINTS).prop_map(Act::Deregister),
        2 => (0..ENDPOINTS).prop_map(Act::Send),
        4 => (0..ENDPOINTS, any::<u8>()).prop_map(|(device, kind)| Act::Command(device, kind)),
        4 => (any::<u8>(), any::<u8>()).prop_map(|(which, how)| Act::Answer(which, how)),
        3 => (any::<u8>(), any::<u16>()).prop_map(|(which, number)| Act::Notify(which, number)),
        3 => (any::<u8>(), any::<u8>()).prop_map(|(which, how)| Act::Decided(which, how)),
        1 => (any::<u8>()).prop_map(Act::Closed),
    ]
}

proptest! {
    #[test]
    fn the_kept_sums_are_those_of_a_look_at_every_device(acts in vec(act(), 1..120)) {
        let mut world = CountedGateway::new();
        for act in acts {
            world.act(&act);
            prop_assert_eq!(world.kept(), world.counted(), "after {:?}", act);
        }
        while !world.connecting.is_empty() {
            world.act(&Act::Connected(0, false));
        }
        world.act(&Act::Pass(u16::MAX));
        prop_assert_eq!(world.kept(), world.counted());
        prop_assert_eq!(world.kept(), Sums::default(), "every registration is over");
    }
}

#[test]
fn random_acts_make_each_of_the_sums_grow() {
    let (mut runner, acts) = (TestRunner::deterministic(), vec(act(), 60..120));
    let mut most = Sums::default();
    for _ in 0..100 {
        let mut world = CountedGateway::new();
        for act in acts.new_tree(&mut runner).expect("acts need no rejection").current() {
            world.act(&act);
            let Sums { registration_bytes, pending_commands, early_commands, deferred_acks, to_observe, asleep } =
                world.kept();
            most.registration_bytes = most.registration_bytes.max(registration_bytes);
            most.pending_commands = most.pending_commands.max(pending_commands);
            most.early_commands = most.early_commands.max(early_commands);
            most.deferred_acks = most.deferred_acks.max(deferred_acks);
            most.to_observe = most.to_observe.max(to_observe);
            most.asleep = most.asleep.max(asleep);
        }
    }
    let Sums { registration_bytes, pending_commands, early_commands, deferred_acks, to_observe, asleep } = most;
    assert!(registration_bytes > 100 && early_commands > 0 && pending_commands > 2, "{most:?}");
    assert!(deferred_acks > 1 && to_observe > 2 && asleep > 1, "{most:?}");
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Sums {
    registration_bytes: usize,
    pending_commands: usize,
    early_commands: usize,
    deferred_acks: usize,
    to_observe: usize,
    asleep: usize,
}

/// A gateway, and what the devices and the broker may still answer.
struct CountedGateway {
    gateway: Gateway,
    now: Instant,
    next_id: u16,
    locations: BTreeMap<u8, String>,
    asked: Vec<(u8, Message)>,
    observed: Vec<(u8, Message)>,
    connecting: Vec<RegistrationId>,
    sessions: Vec<(RegistrationId, String)>,
    tickets: Vec<(RegistrationId, Ticket)>,
}

impl CountedGateway {
    fn new() -> Self {
        let mut config = GatewayConfig::default();
        config.coap.acknowledge_notifications = AckMode::Deferred;
        config.lifetimes = Duration::from_secs(1)..=Duration::from_secs(1_000);
        let paths = ["/3303/0", "/3303/1", "/3304/0"].map(|path| path.parse().expect("a path"));
        config.auto_observe = AutoObserve::Paths(paths.to_vec());
        config.limits.pending_commands = 5;
        let now = Instant::now();
        Self {
            gateway: Gateway::new(config, Arc::new(Model::default()), [5; 32], now, YEAR_2026),
            now,
            next_id: 0,
            locations: BTreeMap::new(),
            asked: Vec::new(),
            observed: Vec::new(),
            connecting: Vec::new(),
            sessions: Vec::new(),
            tickets: Vec::new(),
        }
    }

    fn kept(&self) -> Sums {
        let sizes = self.gateway.table_sizes();
        let TableSizes { registration_bytes, pending_commands, early_commands, deferred_acks, to_observe, .. } = sizes;
        let asleep = self.gateway.sleeping_devices();
        Sums { registration_bytes, pending_commands, early_commands, deferred_acks, to_observe, asleep }
    }

    fn counted(&self) -> Sums {
        let (registrations, now) = (&self.gateway.registrations, self.now);
        let sum = |of: fn(&Device) -> usize| registrations.devices().registry().devices().map(of).sum();
        let pending = registrations.pending();
        Sums {
            registration_bytes: sum(|device| device.registration.size()),
            pending_commands: sum(|device| device.waiting.len()),
            early_commands: pending.ids().into_iter().filter_map(|id| pending.get(id)).map(|one| one.early.len()).sum(),
            deferred_acks: sum(|device| device.deferred_acks.len()),
            to_observe: sum(|device| device.observations.scheduled().len()),
            asleep: registrations.devices().registry().devices().filter(|device| !device.is_awake(now)).count(),
        }
    }

    fn act(&mut self, act: &Act) {
        match *act {
            Act::Pass(seconds) => {
                self.now += Duration::from_secs(seconds.into());
                self.gateway.handle_timeout(self.now);
            }
            Act::Register(device, query) => {
                let binding = if query % 2 == 0 { "b=UQ" } else { "b=U" };
                let lifetime = format!("lt={}", [30, 100, 1_000][usize::from(query) % 3]);
                let items = [format!("ep=dev-{device}"), lifetime, binding.to_owned(), "lwm2m=1.1".to_owned()];
                self.request(device, Code::POST, &["rd"], &items, Some((format::LINK_FORMAT, LINKS.as_bytes())));
            }
            Act::Update(device, query) => {
                let items = [
                    vec![],
                    vec!["b=U".to_owned()],
                    vec!["b=UQ".to_owned()],
                    vec![format!("note={}", "x".repeat(query.into()))],
                ];
                let location = self.locations.get(&device).cloned().unwrap_or_default();
                let items = &items[usize::from(query) % items.len()];
                self.request(device, Code::POST, &["rd", &location], items, None);
            }
            Act::Deregister(device) => {
                let location = self.locations.get(&device).cloned().unwrap_or_default();
                self.request(device, Code::DELETE, &["rd", &location], &[], None);
            }
            Act::Send(device) => {
                self.request(device, Code::POST, &["dp"], &[], Some((format::SENML_JSON, SEND)));
            }
            Act::Command(device, kind) => self.command(device, kind),
            Act::Answer(which, how) => self.answer(which, how),
            Act::Notify(which, number) => self.notify(which, number),
            Act::Connected(which, is_taken) => {
                let Some(registration) = taken(&mut self.connecting, which) else { return };
                let refused = ConnectError::Refused("not this one".to_owned());
                self.broker(if is_taken {
                    BrokerEvent::Connected { registration }
                } else {
                    BrokerEvent::ConnectFailed { registration, error: refused }
                });
            }
            Act::Decided(which, how) => {
                let Some((registration, ticket)) = taken(&mut self.tickets, which) else { return };
                self.broker(match how % 3 {
                    0 => BrokerEvent::Queued { registration, ticket },
                    1 => BrokerEvent::Published { registration, ticket },
                    _ => BrokerEvent::Unpublished { registration, ticket },
                });
            }
            Act::Closed(which) => {
                let Some((registration, _)) = taken(&mut self.sessions, which) else { return };
                self.broker(BrokerEvent::Closed { registration, reason: CloseReason::Kicked });
            }
        }
        self.drain();
    }

    fn command(&mut self, device: u8, kind: u8) {
        let topic = format!("lwm2m/dev-{device}/dn");
        let Some((registration, _)) = self.sessions.iter().rfind(|(_, name)| *name == format!("dev-{device}")) else {
            return;
        };
        let kinds = ["read", "observe", "cancel-observe", "execute"];
        let msg_type = kinds[usize::from(kind) % kinds.len()];
        let ttl = [0, 5, 60, 500][usize::from(kind / 4) % 4];
        let data = serde_json::json!({ "path": "/3303/0/5700" });
        let payload = serde_json::json!({ "reqID": 1, "msgType": msg_type, "mheaders": { "ttl": ttl }, "data": data });
        self.broker(BrokerEvent::Message {
            registration: *registration,
            topic,
            payload: payload.to_string().into_bytes(),
            properties: MessageProperties::default(),
        });
    }

    fn answer(&mut self, which: u8, how: u8) {
        let Some((device, asked)) = taken(&mut self.asked, which) else { return };
        let observes = asked.options.uint(number::OBSERVE) == Ok(Some(0));
        let answer = match how % 5 {
            0 => Message::empty(Kind::Acknowledgement, asked.id),
            1 => Message::empty(Kind::Reset, asked.id),
            2 => return,
            _ => {
                let empty = Message::empty(Kind::Acknowledgement, asked.id);
                let mut answer = Message { code: Code::CONTENT, token: asked.token, ..empty };
                if observes {
                    answer.options.add_uint(number::OBSERVE, 1);
                    self.observed.push((device, asked));
                }
                answer.options.add_uint(number::CONTENT_FORMAT, format::TEXT.into());
                answer.payload = b"21.5".to_vec();
                answer
            }
        };
        self.gateway.handle_datagram(self.now, address(device), &answer.encode());
    }

    fn notify(&mut self, which: u8, observe: u16) {
        if self.observed.is_empty() {
            return;
        }
        let (device, asked) = &self.observed[usize::from(which) % self.observed.len()];
        self.next_id += 1;
        let empty = Message::empty(Kind::Confirmable, MessageId(self.next_id));
        let mut message = Message { code: Code::CONTENT, token: asked.token, ..empty };
        message.options.add_uint(number::OBSERVE, observe.into());
        message.options.add_uint(number::CONTENT_FORMAT, format::TEXT.into());
        message.payload = b"22.5".to_vec();
        self.gateway.handle_datagram(self.now, address(*device), &message.encode());
    }

    fn request(&mut self, device: u8, code: Code, path: &[&str], query: &[String], content: Option<(u16, &[u8])>) {
        self.next_id += 1;
        let mut options = Options::new();
        path.iter().for_each(|segment| options.add_text(number::URI_PATH, segment));
        content.iter().for_each(|(format, _)| options.add_uint(number::CONTENT_FORMAT, (*format).into()));
        query.iter().for_each(|item| options.add_text(number::URI_QUERY, item));
        let (id, payload) = (MessageId(self.next_id), content.map_or(Vec::new(), |(_, payload)| payload.to_vec()));
        let token = Token::new(&self.next_id.to_be_bytes());
        let message = Message { kind: Kind::Confirmable, code, id, token, options, payload };
        self.gateway.handle_datagram(self.now, address(device), &message.encode());
    }

    fn broker(&mut self, event: BrokerEvent) {
        self.gateway.handle_broker(self.now, event);
    }

    /// Takes what the gateway puts out. A sleep that is over at once ends at once.
    fn drain(&mut self) {
        loop {
            match self.gateway.poll_output() {
                Output::Transmit(transmit) => {
                    let message = Message::decode(&transmit.datagram).expect("the gateway sends CoAP");
                    let device = (0..ENDPOINTS).find(|device| address(*device) == transmit.peer).expect("a device");
                    if message.code == Code::CREATED {
                        let location = message.options.texts(number::LOCATION_PATH).expect("text")[1].to_owned();
                        self.locations.insert(device, location);
                    } else if message.code.is_request() {
                        self.asked.push((device, message));
                    }
                }
                Output::Broker(BrokerCommand::Connect { registration, client }) => {
                    self.connecting.push(registration);
                    self.sessions.push((registration, client.clientid));
                }
                Output::Broker(BrokerCommand::Publish { registration, publication }) => {
                    self.tickets.extend(publication.ticket.map(|ticket| (registration, ticket)));
                }
                Output::Broker(
                    BrokerCommand::Disconnect { registration }
                    | BrokerCommand::HandOver { registration }
                    | BrokerCommand::Abandon { registration },
                ) => {
                    self.sessions.retain(|(session, _)| *session != registration);
                }
                Output::Broker(
                    BrokerCommand::Resume { .. } | BrokerCommand::SetLifetime { .. } | BrokerCommand::Confirm { .. },
                )
                | Output::Report(_)
                | Output::Answer(_) => {}
                Output::Claim(_) | Output::Unclaim { .. } => panic!("this gateway has all devices"),
                Output::FindKey(question) => panic!("nobody speaks DTLS here, {question}"),
                Output::DescribeImage { .. } | Output::ReadImage { .. } => panic!("nobody asks for an image here"),
                Output::Idle(Some(at)) if at <= self.now => self.gateway.handle_timeout(self.now),
                Output::Idle(_) => return,
            }
        }
    }
}

/// Takes one of them, if there is any.
fn taken<T>(from: &mut Vec<T>, which: u8) -> Option<T> {
    (!from.is_empty()).then(|| from.swap_remove(usize::from(which) % from.len()))
}
