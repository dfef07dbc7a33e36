//! Onlookers of a gateway in virtual time.

use std::net::SocketAddr;

use lwm2m_base::Peer;
use lwm2m_core::coap::options::number;
use lwm2m_core::coap::{Code, Kind, Message, MessageId, Options, Token};
use lwm2m_core::gateway::Output;
use lwm2m_core::gateway::broker::{BrokerEvent, MessageProperties};
use lwm2m_core::gateway::config::GatewayConfig;
use lwm2m_core::gateway::report::LeaveReason;
use lwm2m_core::lwm2m::model::Model;

use crate::observability::failures::{Failure, FailureKind, FailureLog};

use super::*;

/// A gateway whose outputs go by its onlookers.
struct Stage {
    gateway: Gateway,
    onlookers: Onlookers,
    failures: FailureLog,
    now: Instant,
    last_id: u16,
    /// The registration that was connected last.
    registration: RegistrationId,
    location: Vec<String>,
}

impl Stage {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            gateway: Gateway::new(GatewayConfig::default(), Arc::new(Model::default()), [7; 32], now, Duration::ZERO),
            onlookers: Onlookers::default(),
            failures: FailureLog::default(),
            now,
            last_id: 0,
            registration: RegistrationId(0),
            location: Vec::new(),
        }
    }

    fn watch(&mut self, target: WatchTarget) -> EventReceiver {
        let (events, receiver) = event_stream();
        self.onlookers.watch(&self.gateway, Watch { target, events });
        self.gateway.set_onlookers(true);
        receiver
    }

    fn watch_device(&mut self, endpoint: &str) -> EventReceiver {
        self.watch(WatchTarget::Device(endpoint.to_owned()))
    }

    /// Registers a device that the broker accepts.
    fn register(&mut self, endpoint: &str) {
        self.request(5683, Code::POST, &["rd"], &format!("ep={endpoint}&lt=300&lwm2m=1.1"));
        self.gateway.handle_broker(self.now, BrokerEvent::Connected { registration: self.registration });
        self.carry_out();
    }

    fn request(&mut self, port: u16, method: Code, path: &[&str], query: &str) {
        self.last_id += 1;
        let (id, token) = (MessageId(self.last_id), Token::new(&self.last_id.to_be_bytes()));
        let mut options = Options::new();
        path.iter().for_each(|segment| options.add_text(number::URI_PATH, segment));
        query.split('&').filter(|item| !item.is_empty()).for_each(|item| options.add_text(number::URI_QUERY, item));
        let message = Message { kind: Kind::Confirmable, code: method, id, token, options, payload: Vec::new() };
        let peer = Peer::udp(0, SocketAddr::from(([192, 0, 2, 1], port)));
        self.gateway.handle_datagram(self.now, peer, &message.encode());
        self.carry_out();
    }

    /// Sends a command of an application to the device that was connected last.
    fn command(&mut self, msg_type: &str, path: &str) {
        let payload = format!(r#"{{"msgType":"{msg_type}","data":{{"path":"{path}"}}}}"#).into_bytes();
        let (topic, properties) = ("dn".to_owned(), MessageProperties::default());
        let message = BrokerEvent::Message { registration: self.registration, topic, payload, properties };
        self.gateway.handle_broker(self.now, message);
        self.carry_out();
    }

    fn update(&mut self, port: u16) {
        let location = self.location.clone();
        let path: Vec<&str> = location.iter().map(String::as_str).collect();
        self.request(port, Code::POST, &path, "");
    }

    /// Carries out the outputs as the driver does.
    fn carry_out(&mut self) {
        loop {
            match self.gateway.poll_output() {
                Output::Broker(command) => {
                    self.onlookers.broker_command(&command);
                    if let BrokerCommand::Connect { registration, .. } = command {
                        self.registration = registration;
                    }
                }
                Output::Report(report) => {
                    self.onlookers.report(self.now, &mut self.gateway, &report);
                    if let Some(failure) = Failure::of(&report)
                        && let Some(failure) = self.failures.record(self.now, Duration::ZERO, failure, 1)
                    {
                        self.onlookers.failure(self.now, &failure);
                    }
                }
                Output::Transmit(transmit) => {
                    let message = Message::decode(&transmit.datagram).unwrap();
                    let location = message.options.texts(number::LOCATION_PATH).unwrap();
                    if message.code == Code::CREATED {
                        self.location = location.into_iter().map(str::to_owned).collect();
                    }
                }
                Output::Idle(_) => return,
                _ => {}
            }
        }
    }
}

/// Returns the events that wait, each as its endpoint name and its kind.
fn waiting(receiver: &mut EventReceiver) -> Vec<(Option<String>, String)> {
    let mut events = Vec::new();
    while let Ok(event) = receiver.events.try_recv() {
        let kind = match &event.kind {
            EventKind::Registered(row) => format!("registered {}", row.endpoint),
            EventKind::Updated(row) => format!("updated {}", row.address),
            EventKind::Moved { from, to } => format!("moved {from} {to}"),
            EventKind::Left(reason) => format!("left {reason:?}"),
            EventKind::Message { topic, .. } => format!("message {topic}"),
            EventKind::Command(progress) => format!("{} {:?}", progress.msg_type, progress.stage),
            EventKind::Failure(failure) => format!("failure {}", failure.failure.kind.name()),
        };
        events.push((event.endpoint.clone(), kind));
    }
    events
}

fn of(endpoint: &str, kinds: &[&str]) -> Vec<(Option<String>, String)> {
    kinds.iter().map(|kind| (Some(endpoint.to_owned()), (*kind).to_owned())).collect()
}

#[test]
fn a_device_is_followed_from_its_register_to_its_end_and_others_are_not() {
    let mut stage = Stage::new();
    let mut events = stage.watch_device("ep1");

    stage.register("ep2");
    assert_eq!(waiting(&mut events), []);
    stage.register("ep1");
    assert_eq!(waiting(&mut events), of("ep1", &["message lwm2m/ep1/up/resp", "registered ep1"]));
    stage.update(5684);
    let moved = ["moved 192.0.2.1:5683 192.0.2.1:5684", "updated 192.0.2.1:5684"];
    assert_eq!(waiting(&mut events), of("ep1", &moved));
    stage.gateway.kick(stage.now, "ep1");
    stage.carry_out();
    assert_eq!(waiting(&mut events), of("ep1", &[&format!("left {:?}", LeaveReason::Operator)]));
}

#[test]
fn a_device_that_is_registered_already_is_followed_and_so_is_its_next_registration() {
    let mut stage = Stage::new();
    stage.register("ep1");
    let mut events = stage.watch_device("ep1");
    stage.command("read", "/3/0/0");
    assert_eq!(waiting(&mut events), of("ep1", &["read Sent"]));
    stage.command("delete", "/3/0");
    assert_eq!(waiting(&mut events), of("ep1", &["delete Pending"]));
    stage.register("ep1");
    let after = waiting(&mut events);
    let kinds: Vec<&str> = after.iter().map(|(_, kind)| kind.as_str()).collect();
    assert!(kinds.contains(&"left Replaced") && kinds.contains(&"registered ep1"), "{kinds:?}");
    // The report of the registration, and the last answer to the command that was in flight.
    assert_eq!(kinds.iter().filter(|kind| kind.starts_with("message")).count(), 2, "{kinds:?}");
    assert!(kinds.contains(&"read Done { outcome: TimedOut, took: None }"), "{kinds:?}");
    assert_eq!(kinds.last(), Some(&"delete Sent"));
}

#[test]
fn a_slow_reader_loses_events_and_nobody_else_does() {
    let mut stage = Stage::new();
    stage.register("ep1");
    let (mut slow, mut quick) = (stage.watch_device("ep1"), stage.watch_device("ep1"));
    let mut seen = 0;
    for _ in 0..EVENTS + 10 {
        stage.now += Duration::from_secs(10);
        stage.update(5683);
        seen += waiting(&mut quick).len();
    }
    let sent = waiting(&mut slow).len();
    assert_eq!(sent, EVENTS);
    assert!(seen > EVENTS);
    assert_eq!(slow.take_lost() + sent as u64, seen as u64);
    assert_eq!((slow.take_lost(), quick.take_lost()), (0, 0));
    assert_eq!(stage.onlookers.lost.get(), seen as u64 - sent as u64);
}

#[test]
fn a_watch_of_all_devices_has_50_events_in_a_second_and_learns_how_many_there_were_more() {
    let mut stage = Stage::new();
    let mut all = stage.watch(WatchTarget::All);
    for number in 0..60 {
        stage.register(&format!("ep{number}"));
    }
    let events = waiting(&mut all);
    assert_eq!(events.len(), 50);
    assert_eq!(events[49], (Some("ep49".to_owned()), "registered ep49".to_owned()));
    assert_eq!(all.take_lost(), 10);
    stage.now += Duration::from_secs(1);
    stage.register("late");
    assert_eq!(waiting(&mut all), of("late", &["registered late"]));
    // An Update is told of the watched device only.
    stage.update(5683);
    assert_eq!(waiting(&mut all), []);
}

#[test]
fn a_failure_is_told_to_who_watches_the_name_and_to_who_watches_all() {
    let mut stage = Stage::new();
    let (mut named, mut other) = (stage.watch_device("ep1"), stage.watch_device("ep2"));
    let mut all = stage.watch(WatchTarget::All);
    stage.request(5683, Code::POST, &["rd"], "ep=ep1&lt=never");
    let failure = format!("failure {}", FailureKind::Register.name());
    assert_eq!(waiting(&mut named), of("ep1", &[&failure]));
    assert_eq!(waiting(&mut all), of("ep1", &[&failure]));
    stage.request(5683, Code::POST, &["rd"], "lt=never");
    assert_eq!(waiting(&mut named), []);
    assert_eq!(waiting(&mut all), [(None, failure)]);
    assert_eq!(waiting(&mut other), []);
}

#[test]
fn a_large_payload_is_cut() {
    let kind = EventKind::message(&Publication {
        topic: "t".to_owned(),
        qos: 0,
        payload: vec![b'x'; PAYLOAD_BYTES + 1].into(),
        class: lwm2m_core::gateway::broker::UplinkClass::Notification,
        retain: false,
        expiry: None,
        correlation: None,
        ticket: None,
    });
    let EventKind::Message { payload, bytes, .. } = kind else { panic!("{kind:?}") };
    assert_eq!((payload.len(), bytes), (PAYLOAD_BYTES, PAYLOAD_BYTES + 1));
}

#[test]
fn a_watch_whose_receiver_has_gone_is_forgotten() {
    let mut stage = Stage::new();
    let (gone, _stays) = (stage.watch_device("ep1"), stage.watch_device("ep2"));
    stage.register("ep1");
    drop(gone);
    stage.onlookers.forget_closed();
    assert_eq!((stage.onlookers.watches.len(), stage.onlookers.publishers.len()), (1, 0));
    stage.register("ep1");
    assert!(stage.onlookers.publishers.is_empty());
}
