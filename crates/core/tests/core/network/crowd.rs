//! A crowd of devices on bad lines: each command is answered, and each notification that was acknowledged is published.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use lwm2m_core::coap::AckMode;
use lwm2m_core::gateway::config::GatewayConfig;
use lwm2m_core::gateway::report::Report;
use lwm2m_simulator::SimulatedDeviceConfig;
use lwm2m_testkit::network::{DeviceNumber, Happening, Network, Notification, Weather, notification_of};
use lwm2m_testkit::scene::{observe, read};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

/// Fewer in an unoptimized build, where a thousand take minutes: `cargo test --release -p lwm2m-core --test core crowd`.
const DEVICES: usize = if cfg!(debug_assertions) { 50 } else { 1000 };
const COMMANDS: u64 = 20;
const CHANGES: u32 = 50;
/// Each is observed by one command, so the path of a notification tells which; a change concerns all of them.
const OBSERVED: [&str; 3] = ["/3303/0/5700", "/3303/0", "/3303"];
/// Every command has been asked, and may have timed out after all those before it.
const STOP: f64 = 4000.0;
/// The lifetime of a device that could not tell that it leaves, and EXCHANGE_LIFETIME.
const AFTER_ALL: f64 = STOP + 300.0 + 250.0;

fn weather(loss: f64) -> Weather {
    let (delay, broker_delay) = (Duration::from_secs(3), Duration::from_secs(3));
    Weather { loss, duplication: 0.1, delay, broker_delay, unpublished: 0.0 }
}

/// One device in four gets another address twice, and is not heard or found until its next Update.
fn lived_through(config: GatewayConfig, weather: Weather) -> Network {
    let mut network = Network::new(config, weather, 1);
    let mut rng = StdRng::seed_from_u64(2);
    for number in 0..DEVICES {
        let device = network.attach(SimulatedDeviceConfig {
            notification_interval: None,
            wave: None,
            confirmable_notifications: true,
            binding: if number % 8 == 1 { "UQ" } else { "U" }.to_owned(),
            ..SimulatedDeviceConfig::new(format!("dev-{number}"))
        });
        network.at(rng.random_range(0.0..30.0), Happening::Start(device));
        for id in 0..COMMANDS {
            let at = 200.0 + id as f64 * 60.0 + rng.random_range(0.0..60.0);
            network.at(at, Happening::Command(device, command(id, &mut rng).to_string().into_bytes()));
        }
        for change in 0..CHANGES {
            let at = 260.0 + f64::from(change) * 40.0 + rng.random_range(0.0..40.0);
            network.at(at, Happening::Change(device, f64::from(change)));
        }
        if number % 4 == 0 {
            network.at(rng.random_range(100.0..STOP), Happening::Move(device));
            network.at(rng.random_range(100.0..STOP), Happening::Move(device));
        }
        network.at(STOP, Happening::Stop(device));
    }
    network.run_until(AFTER_ALL);
    network
}

fn command(id: u64, rng: &mut StdRng) -> Value {
    match (id, rng.random_range(0..4)) {
        (0, _) => observe(id, OBSERVED[0]),
        (2, _) => observe(id, OBSERVED[1]),
        (4, _) => observe(id, OBSERVED[2]),
        (_, 0) => json!({ "reqID": id, "msgType": "write", "data": { "path": "/1/0/1", "value": 290 + id } }),
        (_, 1) => json!({ "reqID": id, "msgType": "discover", "data": { "path": "/3303" } }),
        (_, 2) => json!({ "reqID": id, "msgType": "execute", "data": { "path": "/3303/0/5605" } }),
        _ => read(id),
    }
}

/// What came of a crowd, checked.
#[derive(Debug, Default)]
struct Tally {
    answered: usize,
    timed_out: usize,
    reset: usize,
    /// They waited while the registration ended.
    refused: usize,
    sent: usize,
    confirmed: usize,
}

impl Tally {
    fn of(network: &Network) -> Self {
        let mut tally = Self::default();
        let mut published = published_by_endpoint(network);
        for (number, device) in network.devices.iter().enumerate() {
            let published = published.remove(&device.endpoint).unwrap_or_default();
            tally.expect_one_answer_each(&device.commanded, &published, number);
            tally.expect_acknowledged_to_be_published(network, &published, number);
        }
        expect_nothing_left_behind(network);
        tally
    }

    /// In the order of the commands.
    fn expect_one_answer_each(&mut self, commanded: &[Value], published: &[Value], device: DeviceNumber) {
        let asked: Vec<&Value> = commanded.iter().map(|command| &command["reqID"]).collect();
        let mut answered = Vec::new();
        for payload in published {
            match payload["msgType"].as_str().expect("a kind") {
                "ack" | "register" | "update" | "notify" => continue,
                "coap_timeout" => self.timed_out += 1,
                "coap_reset" => self.reset += 1,
                _ if payload["data"]["reason"].is_string() => self.refused += 1,
                _ => self.answered += 1,
            }
            answered.push(&payload["reqID"]);
        }
        assert_eq!(answered, asked, "device {device}");
    }

    /// Exactly once.
    fn expect_acknowledged_to_be_published(&mut self, network: &Network, published: &[Value], number: DeviceNumber) {
        let device = &network.devices[number];
        let mut notified = HashSet::new();
        for notification in published.iter().filter_map(notification_of) {
            assert!(notified.insert(notification.clone()), "device {number}: {notification:?} twice");
        }
        for (token, observe) in &device.confirmed {
            let notification = (device.observed[token].clone(), *observe);
            assert!(notified.contains(&notification), "device {number}: {notification:?} is not among {notified:?}");
        }
        self.sent += device.notifications;
        self.confirmed += device.confirmed.len();
    }

    fn commands(&self) -> usize {
        self.answered + self.timed_out + self.reset + self.refused
    }
}

fn published_by_endpoint(network: &Network) -> BTreeMap<String, Vec<Value>> {
    let mut published: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for (_, publication) in &network.published {
        let endpoint = publication.topic.split('/').nth(1).expect("lwm2m/ENDPOINT/up/...");
        let payload = serde_json::from_slice(&publication.payload).expect("JSON");
        published.entry(endpoint.to_owned()).or_default().push(payload);
    }
    published
}

/// A notification that overtakes the answer to `observe`, or comes when that is lost, is that answer: acknowledged as
/// every response is.
fn first_answers(network: &Network) -> HashSet<Notification> {
    let mut published = published_by_endpoint(network);
    let devices = network.devices.iter().enumerate();
    devices
        .flat_map(|(number, device)| {
            let published = published.remove(&device.endpoint).unwrap_or_default();
            let answers = published.into_iter().filter(|payload| payload["msgType"] == "observe");
            answers.filter_map(move |payload| notification_of(&payload).map(|(path, observe)| (number, path, observe)))
        })
        .collect()
}

fn expect_nothing_left_behind(network: &Network) {
    assert_eq!((network.gateway.table_sizes().devices, network.gateway_deadline()), (0, None));
}

fn retransmissions(network: &Network) -> usize {
    network.reports.iter().filter(|report| matches!(report, Report::Retransmitted { .. })).count()
}

fn expect_nothing_lost(loss: f64) -> Tally {
    let network = lived_through(lwm2m_core::gateway::config::GatewayConfig::default(), weather(loss));
    let tally = Tally::of(&network);
    println!("{loss}: {DEVICES} devices, {tally:?}, {} retransmissions", retransmissions(&network));
    assert!(tally.commands() > DEVICES * 18, "too few commands reached the core: {tally:?}");
    assert!(tally.sent >= DEVICES * CHANGES as usize, "too few notifications: {tally:?}");
    tally
}

#[test]
fn with_a_good_line_only_devices_that_moved_do_not_answer() {
    let tally = expect_nothing_lost(0.0);
    assert!(tally.answered * 10 > tally.commands() * 9, "{tally:?}");
}

#[test]
fn nothing_is_lost_where_a_tenth_is_lost_each_way() {
    let tally = expect_nothing_lost(0.1);
    assert!(tally.answered * 10 > tally.commands() * 8, "{tally:?}");
}

#[test]
fn nothing_is_lost_where_three_tenths_are_lost_each_way() {
    let tally = expect_nothing_lost(0.3);
    assert!(tally.timed_out > 0 && tally.answered * 10 > tally.commands() * 6, "{tally:?}");
}

#[test]
fn with_ack_published_nothing_is_acknowledged_that_the_broker_did_not_take() {
    let mut config = lwm2m_core::gateway::config::GatewayConfig::default();
    config.coap.acknowledge_notifications = AckMode::Deferred;
    let weather = Weather { unpublished: 0.02, broker_delay: Duration::from_secs(10), ..weather(0.1) };
    let network = lived_through(config, weather);
    let tally = Tally::of(&network);
    println!(
        "ack = \"published\": {tally:?}, {} taken, {} retransmissions",
        network.taken.len(),
        retransmissions(&network)
    );
    let first_answers = first_answers(&network);
    let too_early = network.acknowledged_untaken.iter().filter(|notification| !first_answers.contains(notification));
    assert_eq!(too_early.collect::<Vec<_>>(), [] as [&Notification; 0]);
    assert!(tally.confirmed > DEVICES * 10, "{tally:?}");
}
