//! Devices that register again around the answer to a command, through the built program and a broker: some hundred
//! races, in each of which no registration and no answer may be lost.

use std::thread;
use std::time::{Duration, Instant};

use lwm2m_core::coap::options::{format, number};
use lwm2m_core::coap::{Code, Kind, Message, Token};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use crate::common::application::Application;
use crate::common::broker::TestBroker;
use crate::common::device::{Device, request, response_to};
use crate::common::gateway::Gateway;
use crate::common::scene::LINKS;

crate::over_both_upstreams! {
    neither_registrations_nor_answers_are_lost_when_devices_register_again,
}

const DEVICES: u64 = 20;
const RACES: u64 = 15;
/// A device registers again so long before or after its answer.
const APART: Duration = Duration::from_millis(12);
/// Nothing takes longer, unless it never comes.
const PATIENCE: Duration = Duration::from_secs(8);
/// Longer than a connection that was lost takes to be made again.
const AFTERWARDS: Duration = Duration::from_millis(2_500);
/// All races together, on a busy machine.
const BOUND: Duration = Duration::from_secs(180);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Lost {
    registrations: u32,
    commands: u32,
    answers: u32,
}

async fn neither_registrations_nor_answers_are_lost_when_devices_register_again() {
    let broker = TestBroker::start().await;
    let gateway = Gateway::start(&broker.addresses);
    let (begun, mut lost) = (now(), Lost::default());
    let racers: Vec<_> = (0..DEVICES).map(|number| Racer::new(number, &broker, &gateway)).collect();
    let racers: Vec<_> = racers.into_iter().map(|racer| thread::spawn(move || racer.race())).collect();
    for racer in racers {
        let one = racer.join().expect("the device has raced");
        lost.registrations += one.registrations;
        lost.commands += one.commands;
        lost.answers += one.answers;
    }
    let (_, metrics) = gateway.ask_admin("/metrics");
    let dropped = crate::common::admin::sum(&metrics, "lwm2m_publications_dropped_total");
    let discarded = crate::common::admin::sum(&metrics, "lwm2m_clients_closed_total");
    println!("{} races: {lost:?}, publications dropped: {dropped}, clients closed: {discarded}", DEVICES * RACES);
    assert_eq!((lost, dropped, discarded), (Lost::default(), 0.0, 0.0), "{}", gateway.output());
    assert!(now() - begun < BOUND, "{:?}", now() - begun);
}

/// One device with its application.
struct Racer {
    endpoint: String,
    device: Device,
    application: Application,
    rng: StdRng,
    /// Registers without an answer.
    registering: Vec<Token>,
    asked: Vec<Message>,
    final_answers: Vec<Value>,
    lost: Lost,
}

impl Racer {
    fn new(number: u64, broker: &TestBroker, gateway: &Gateway) -> Self {
        let endpoint = format!("racer-{}-{number}", std::process::id());
        Self {
            device: Device::new(gateway.address()),
            application: Application::connect(&broker.addresses.mqtt, &[&endpoint]),
            endpoint,
            rng: StdRng::seed_from_u64(number),
            registering: Vec::new(),
            asked: Vec::new(),
            final_answers: Vec::new(),
            lost: Lost::default(),
        }
    }

    fn race(mut self) -> Lost {
        self.register();
        self.until(|racer| racer.registering.is_empty());
        for number in 0..RACES {
            self.race_once(number);
            let pause =
                if number % 5 == 4 { AFTERWARDS } else { self.rng.random_range(Duration::ZERO..AFTERWARDS / 8) };
            self.listen(pause);
        }
        self.listen(AFTERWARDS);
        if !self.is_registered() {
            self.lost.registrations += 1;
        }
        self.command("last");
        if !self.until(|racer| !racer.asked.is_empty()) {
            self.lost.commands += 1;
        }
        self.lost
    }

    fn race_once(&mut self, number: u64) {
        let id = format!("{number}");
        self.command(&id);
        if !self.until(|racer| !racer.asked.is_empty()) {
            self.lost.commands += 1;
            self.register();
            self.until(|racer| racer.registering.is_empty());
            return;
        }
        let asked = self.asked.remove(0);
        let apart = self.rng.random_range(Duration::ZERO..=APART);
        let order = self.rng.random_range(0..3);
        if order > 0 {
            self.register();
            self.listen(apart);
        }
        self.device.send(&response_to(&asked, Code::CHANGED, None));
        if order != 1 {
            self.listen(apart);
            self.register();
        }
        if !self.until(|racer| racer.registering.is_empty()) {
            self.lost.registrations += 1;
            self.registering.clear();
        }
        let answered = |racer: &Self| racer.final_answers.iter().any(|answer| answer["reqID"] == id);
        if !self.until(answered) {
            self.lost.answers += 1;
            return;
        }
        let answers: Vec<&Value> = self.final_answers.iter().filter(|answer| answer["reqID"] == id).collect();
        // A command that is in flight when its device registers again is given up. One that was answered is not.
        let is_final = answers.len() == 1 && (answers[0]["msgType"] == "execute" || order > 0);
        if !is_final {
            println!("order {order}, {apart:?}: {answers:?}");
            self.lost.answers += 1;
        }
    }

    fn command(&mut self, id: &str) {
        let command = json!({ "reqID": id, "msgType": "execute", "data": { "path": "/3/0/4" } });
        self.application.send(&self.endpoint, &command);
    }

    fn register(&mut self) {
        let content = Some((format::LINK_FORMAT, LINKS.as_bytes()));
        let register = request(Code::POST, &["rd"], &[&format!("ep={}", self.endpoint), "lt=300"], content);
        self.device.send(&register);
        self.registering.push(register.token);
    }

    fn is_registered(&mut self) -> bool {
        let location: Vec<&str> = self.device.location.iter().map(String::as_str).collect();
        let update = request(Code::POST, &location, &[], None);
        self.device.send(&update);
        let end = now() + PATIENCE;
        while now() < end {
            if let Some(message) = self.device.receive_within(Duration::from_millis(20)) {
                if message.token == update.token && message.code != Code::EMPTY {
                    return message.code == Code::CHANGED;
                }
                self.take(&message);
            }
        }
        false
    }

    /// Hears everybody until it is so. False if that takes too long.
    fn until(&mut self, so: impl Fn(&Self) -> bool) -> bool {
        let end = now() + PATIENCE;
        while !so(self) {
            if now() > end {
                return false;
            }
            self.hear(Duration::from_millis(1));
        }
        true
    }

    fn listen(&mut self, time: Duration) {
        let end = now() + time;
        while let Some(left) = end.checked_duration_since(now()).filter(|left| !left.is_zero()) {
            self.hear(left.min(Duration::from_millis(1)));
        }
    }

    fn hear(&mut self, patience: Duration) {
        if let Some(message) = self.device.receive_within(patience) {
            self.take(&message);
        }
        while let Some((_, payload)) = self.application.receive_within(Duration::from_micros(1)) {
            let payload: Value = serde_json::from_slice(&payload).expect("what is published is JSON");
            if payload["reqID"].is_string() {
                self.final_answers.push(payload);
            }
        }
    }

    fn take(&mut self, message: &Message) {
        if message.code == Code::POST {
            if !self.asked.iter().any(|asked| asked.id == message.id) {
                self.asked.push(message.clone());
            }
            return;
        }
        if message.kind == Kind::Confirmable {
            self.device.send(&Message::empty(Kind::Acknowledgement, message.id));
        }
        let Some(at) = self.registering.iter().position(|token| *token == message.token && message.code != Code::EMPTY)
        else {
            return;
        };
        self.registering.remove(at);
        if message.code == Code::CREATED {
            let location = message.options.texts(number::LOCATION_PATH).expect("a location is text");
            self.device.location = location.into_iter().map(str::to_owned).collect();
        } else {
            // One that the next Register of the same device superseded.
            assert_eq!((message.code, self.registering.len()), (Code::SERVICE_UNAVAILABLE, 1), "{message:?}");
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the races of this test are in real time")]
fn now() -> Instant {
    Instant::now()
}
