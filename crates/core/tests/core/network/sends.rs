//! Sends over a network that loses, repeats and reorders, close together, and over restarts of the gateway: a Send that
//! was answered 2.04 is published once, one that was answered otherwise is not, and the order is that of the arrivals.
//!
//! A process of the gateway remembers no message of the process before it. So a Send that the device repeats over a
//! restart may be published by each of the two, as RFC 7252 section 4.5 allows after the loss of state.

use std::sync::OnceLock;
use std::time::Duration;

use lwm2m_core::coap::{AckMode, Code};
use lwm2m_core::gateway::config::GatewayConfig;
use lwm2m_simulator::{SimulatedDeviceConfig, SimulatedVersion};
use lwm2m_testkit::network::{DeviceNumber, Happening, Network, WatchedSend, Weather};
use lwm2m_testkit::scene::{observe, read};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const DEVICES: usize = 4;
const SENDS: usize = 60;
/// Between two Sends of a device: at most one of these, in seconds.
const GAPS: [f64; 4] = [0.0, 0.2, 2.0, 60.0];
/// When every device stops. All Sends are decided by then.
const STOP: f64 = 2000.0;
const SEEDS: u64 = 6;

/// What happens besides the weather.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Course {
    /// Devices leave and register again.
    Quiet,
    /// The process of the gateway is killed now and then, too.
    Restarts,
}

fn weathers() -> [Weather; 4] {
    let weather = |loss, duplication, delay: f64| Weather {
        loss,
        duplication,
        delay: Duration::from_secs_f64(delay),
        broker_delay: Duration::from_secs(3),
        unpublished: 0.15,
    };
    [Weather::FAIR, weather(0.1, 0.1, 0.5), weather(0.25, 0.3, 4.0), weather(0.5, 0.2, 2.0)]
}

fn lived_through(acknowledging: AckMode, course: Course, weather: Weather, seed: u64) -> Network {
    let mut config = GatewayConfig::default();
    config.coap.acknowledge_notifications = acknowledging;
    let mut network = Network::new(config, weather, seed);
    network.make_persistent();
    let mut rng = StdRng::seed_from_u64(!seed);
    for number in 0..DEVICES {
        let version = [SimulatedVersion::V1_1, SimulatedVersion::V1_2][number % 2];
        let device = network.attach(SimulatedDeviceConfig {
            notification_interval: Some(Duration::from_secs(20)),
            confirmable_notifications: true,
            binding: if number == 0 { "UQ" } else { "U" }.to_owned(),
            ..SimulatedDeviceConfig::of_version(format!("dev-{number}"), version)
        });
        network.at(rng.random_range(0.0..5.0), Happening::Start(device));
        plan(&mut network, &mut rng, device);
        network.at(STOP, Happening::Stop(device));
    }
    if course == Course::Restarts {
        for _ in 0..12 {
            network.at(rng.random_range(20.0..STOP - 200.0), Happening::Restart);
        }
    }
    network.run_until(STOP + 600.0);
    network
}

/// Sends of one device, beside its notifications and commands; in between it leaves and comes back.
fn plan(network: &mut Network, rng: &mut StdRng, device: DeviceNumber) {
    let mut at = 30.0;
    for send in 0..SENDS {
        at += rng.random_range(0.0..=1.0) * GAPS[rng.random_range(0..GAPS.len())];
        network.at(at, Happening::Send(device, (1_000 * (device + 1) + send) as f64));
    }
    assert!(at < STOP - 200.0);
    network.at(20.0, Happening::Command(device, observe(0, "/3303/0/5700").to_string().into_bytes()));
    for id in 1..8 {
        let at = rng.random_range(30.0..STOP - 200.0);
        network.at(at, Happening::Command(device, read(id).to_string().into_bytes()));
    }
    for _ in 0..3 {
        let at = rng.random_range(100.0..STOP - 300.0);
        network.at(at, Happening::Stop(device));
        network.at(at + rng.random_range(1.0..20.0), Happening::Start(device));
    }
}

/// Hands over each device of each run: both ways to acknowledge in every weather, with several seeds.
fn for_each_device(course: Course, check: impl Fn(&str, &[WatchedSend], &[f64], &[f64])) {
    static QUIET: OnceLock<Vec<(String, Network)>> = OnceLock::new();
    static RESTARTS: OnceLock<Vec<(String, Network)>> = OnceLock::new();
    let outcomes = if course == Course::Quiet { &QUIET } else { &RESTARTS };
    for (case, network) in outcomes.get_or_init(|| every_run(course)) {
        for (number, device) in network.devices.iter().enumerate() {
            check(&format!("{case}, device {number}"), &device.sends, &device.arrivals, &published(network, number));
        }
    }
}

fn every_run(course: Course) -> Vec<(String, Network)> {
    let mut outcomes = Vec::new();
    for acknowledging in [AckMode::OnReceipt, AckMode::Deferred] {
        for (which, weather) in weathers().into_iter().enumerate() {
            for seed in 0..SEEDS {
                let case = format!("{acknowledging:?}, {course:?}, weather {which}, seed {seed}");
                outcomes.push((case, lived_through(acknowledging, course, weather, seed)));
            }
        }
    }
    outcomes
}

/// Returns the values of the Sends of a device, in the order of their publications.
fn published(network: &Network, device: DeviceNumber) -> Vec<f64> {
    let topic = format!("lwm2m/{}/up/send", network.devices[device].endpoint);
    let sent = network.published.iter().filter(|(_, publication)| publication.topic == topic);
    let values = sent.map(|(_, publication)| {
        let payload: serde_json::Value = serde_json::from_slice(&publication.payload).expect("JSON");
        assert_eq!((&payload["msgType"], &payload["data"]["code"]), (&"send".into(), &"2.05".into()), "{payload}");
        payload["data"]["content"][0]["value"].as_f64().expect("the value of a Send")
    });
    values.collect()
}

fn times(published: &[f64], send: &WatchedSend) -> usize {
    published.iter().filter(|value| **value == send.value).count()
}

/// Counts the processes that answered a Send with anything but 2.04.
fn refusals(send: &WatchedSend) -> usize {
    let refused =
        |process: &&usize| send.answers.iter().any(|(answered, code)| answered == *process && *code != Code::CHANGED);
    send.reached.iter().filter(refused).count()
}

#[test]
fn a_send_is_published_once_if_it_was_answered_2_04_and_not_at_all_if_it_was_answered_otherwise() {
    let counts = std::cell::Cell::new((0, 0, 0));
    for_each_device(Course::Quiet, |case, sends, _, published| {
        for send in sends {
            let (taken, unavailable) = (send.answered_by(Code::CHANGED), send.answered_by(Code::SERVICE_UNAVAILABLE));
            let (some, none, unanswered) = counts.get();
            match (taken, refusals(send)) {
                (1, 0) => assert_eq!(times(published, send), 1, "{case}: {send:?} of {published:?}"),
                (0, 1) => assert_eq!(times(published, send), 0, "{case}: {send:?} of {published:?}"),
                // It never arrived, or its answer was still to come.
                (0, 0) => assert!(times(published, send) <= send.reached.len(), "{case}: {send:?} of {published:?}"),
                both => panic!("{case}: {send:?} has two different answers, {both:?}"),
            }
            counts.set((some + taken, none + unavailable, unanswered + usize::from(send.answers.is_empty())));
        }
        assert!(published.iter().all(|value| sends.iter().any(|send| send.value == *value)), "{case}: {published:?}");
    });
    let (taken, unavailable, unanswered) = counts.get();
    assert!(taken > 7_000 && unavailable > 500, "{taken} were taken, {unavailable} refused");
    assert!(unanswered < 600, "{unanswered} have no answer");
}

#[test]
fn sends_are_published_in_the_order_in_which_they_arrived() {
    let reordered = std::cell::Cell::new(0);
    for course in [Course::Quiet, Course::Restarts] {
        for_each_device(course, |case, sends, arrivals, published| {
            let mut arrived = arrivals.iter();
            for value in published {
                assert!(arrived.any(|other| other == value), "{case}: {value} of {published:?}, arrived: {arrivals:?}");
            }
            let sent: Vec<f64> = sends.iter().map(|send| send.value).collect();
            assert!(sent.is_sorted(), "{case}: {sent:?}");
            reordered.set(reordered.get() + usize::from(!published.is_sorted()));
        });
    }
    assert!(reordered.get() > 20, "the order of arrival was another one only {} times", reordered.get());
}

#[test]
fn over_restarts_no_process_publishes_a_send_twice_or_answers_2_04_without_publishing() {
    let repeated = std::cell::Cell::new(0);
    for_each_device(Course::Restarts, |case, sends, _, published| {
        for send in sends {
            let bounds = send.answered_by(Code::CHANGED)..=send.reached.len() - refusals(send);
            let times = times(published, send);
            assert!(bounds.contains(&times), "{case}: {send:?}, {times} times in {published:?}");
            repeated.set(repeated.get() + usize::from(send.reached.len() > 1));
        }
    });
    assert!(repeated.get() > 20, "only {} Sends reached two processes", repeated.get());
}

#[test]
fn in_fair_weather_every_send_of_a_registered_device_is_answered_2_04_and_published_in_order() {
    for acknowledging in [AckMode::OnReceipt, AckMode::Deferred] {
        let network = lived_through(acknowledging, Course::Quiet, Weather::FAIR, 77);
        for (number, device) in network.devices.iter().enumerate() {
            let taken: Vec<f64> = device
                .sends
                .iter()
                .filter(|send| send.answered_by(Code::CHANGED) == 1)
                .map(|send| send.value)
                .collect();
            assert!(taken.len() + 3 >= device.sends.len(), "{acknowledging:?}: {:?}", device.sends);
            let mut published = published(&network, number);
            published.sort_by(f64::total_cmp);
            assert_eq!(published, taken, "{acknowledging:?}");
        }
    }
}
