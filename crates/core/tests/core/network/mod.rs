//! The core and simulated devices over a network that loses, repeats and reorders: what holds whatever happens.

mod crowd;
mod firmware;
mod sends;

use std::sync::OnceLock;
use std::time::Duration;

use lwm2m_core::coap::Code;
use lwm2m_core::gateway::report::Report;
use lwm2m_simulator::{DeviceEvent, SimulatedDeviceConfig, SimulatedVersion};
use lwm2m_testkit::network::{DeviceNumber, Happening, Network, Weather};
use lwm2m_testkit::scene::{observe, read};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

const DEVICES: usize = 4;
const COMMANDS: u64 = 12;
const SENDS: u64 = 12;
/// Between two Sends of a device: longer than the first can take to fail (MAX_TRANSMIT_WAIT, RFC 7252 section 4.8.2).
const SEND_INTERVAL: f64 = 150.0;
const TEMPERATURE: &str = "/3303/0/5700";
/// When every command has been asked, and every device stops.
const STOP: f64 = 2000.0;
/// The lifetime of a device that could not tell that it leaves, and EXCHANGE_LIFETIME.
const AFTER_ALL: f64 = STOP + 300.0 + 250.0;

/// From a little loss to one where most commands fail, with delays around those of a retransmission.
fn weathers() -> [Weather; 4] {
    let weather = |loss, duplication, delay: f64| Weather {
        loss,
        duplication,
        delay: Duration::from_secs_f64(delay),
        broker_delay: Duration::from_secs(3),
        unpublished: 0.1,
    };
    [Weather::FAIR, weather(0.1, 0.1, 0.5), weather(0.25, 0.3, 4.0), weather(0.6, 0.2, 2.0)]
}

/// Devices that live through all of it, each with its commands at random times; with `moves`, their addresses change.
fn lived_through(weather: Weather, seed: u64, moves: bool) -> Network {
    let mut network = Network::new(lwm2m_core::gateway::config::GatewayConfig::default(), weather, seed);
    let mut rng = StdRng::seed_from_u64(!seed);
    for number in 0..DEVICES {
        let device = network.attach(SimulatedDeviceConfig {
            notification_interval: Some(Duration::from_secs(20)),
            confirmable_notifications: true,
            binding: if number == 0 { "UQ" } else { "U" }.to_owned(),
            ..SimulatedDeviceConfig::of_version(format!("dev-{number}"), version_of(number))
        });
        for send in 0..SENDS {
            let at = 60.0 + send as f64 * SEND_INTERVAL + number as f64;
            network.at(at, Happening::Send(device, (1_000 * (number + 1)) as f64 + send as f64));
        }
        network.at(rng.random_range(0.0..5.0), Happening::Start(device));
        for id in 0..COMMANDS {
            // Between two of them there may be no time, or more than one takes to fail.
            let at = 100.0 + id as f64 * 100.0 + rng.random_range(0.0..100.0);
            network.at(at, Happening::Command(device, command(id, &mut rng).to_string().into_bytes()));
        }
        if moves {
            for _ in 0..4 {
                network.at(rng.random_range(50.0..STOP), Happening::Move(device));
            }
        }
        network.at(STOP, Happening::Stop(device));
    }
    network.run_until(AFTER_ALL);
    network
}

/// Half of the devices have no composite operations and no Send of their own; the gateway takes a Send from all.
fn version_of(number: DeviceNumber) -> SimulatedVersion {
    if number.is_multiple_of(2) { SimulatedVersion::V1_0 } else { SimulatedVersion::V1_1 }
}

fn command(id: u64, rng: &mut StdRng) -> Value {
    match rng.random_range(0..4) {
        _ if id == 0 => observe(0, TEMPERATURE),
        0 => json!({ "reqID": id, "msgType": "write", "data": { "path": "/1/0/1", "value": 290 + id } }),
        1 => json!({ "reqID": id, "msgType": "discover", "data": { "path": "/3303" } }),
        2 => json!({ "reqID": id, "msgType": "execute", "data": { "path": "/3303/0/5605" } }),
        _ => read(id),
    }
}

/// Every weather with several seeds, lived through once for all tests; hands each outcome over.
fn in_every_weather(moves: bool, check: impl Fn(&Network, &str)) {
    static STAYING: OnceLock<Vec<(String, Network)>> = OnceLock::new();
    static MOVING: OnceLock<Vec<(String, Network)>> = OnceLock::new();
    let outcomes = if moves { &MOVING } else { &STAYING };
    for (case, network) in outcomes.get_or_init(|| every_weather(moves)) {
        check(network, case);
    }
}

fn every_weather(moves: bool) -> Vec<(String, Network)> {
    let cases = weathers().into_iter().enumerate().flat_map(|case| (0..8).map(move |seed| (case, seed)));
    cases
        .map(|((which, weather), seed)| (format!("weather {which}, seed {seed}"), lived_through(weather, seed, moves)))
        .collect()
}

/// The last words about commands, as they were published for one device: not `ack`, not reports, not notifications.
fn final_answers(network: &Network, device: DeviceNumber) -> Vec<u64> {
    network
        .published_for(device)
        .filter(|payload| {
            !matches!(payload["msgType"].as_str(), Some("ack" | "register" | "update" | "notify" | "send"))
        })
        .map(|payload| payload["reqID"].as_u64().expect("a command's number"))
        .collect()
}

#[test]
fn every_command_has_exactly_one_final_answer_in_the_order_of_the_commands() {
    let answered = std::cell::Cell::new(0);
    let check = |network: &Network, case: &str| {
        for device in 0..DEVICES {
            let commanded = network.devices[device].commanded.iter();
            let commanded: Vec<u64> = commanded.map(|command| command["reqID"].as_u64().expect("a number")).collect();
            assert_eq!(final_answers(network, device), commanded, "{case}, device {device}");
            answered.set(answered.get() + commanded.len());
        }
    };
    in_every_weather(false, check);
    in_every_weather(true, check);
    assert!(answered.get() > 2000, "only {} commands reached the core", answered.get());
}

#[test]
fn an_acknowledged_notification_is_published_once_and_in_order() {
    let confirmed = std::cell::Cell::new(0);
    in_every_weather(false, |network, case| {
        for device in 0..DEVICES {
            let published: Vec<u32> = network
                .published_for(device)
                .filter(|payload| matches!(payload["msgType"].as_str(), Some("observe" | "notify")))
                .filter_map(|payload| payload["seqNum"].as_u64())
                .map(|number| u32::try_from(number).expect("24 bits"))
                .collect();
            assert!(published.is_sorted_by(|a, b| a < b), "{case}, device {device}: {published:?}");
            for (_, number) in &network.devices[device].confirmed {
                assert!(published.contains(number), "{case}, device {device}: {number} of {published:?}");
            }
            confirmed.set(confirmed.get() + network.devices[device].confirmed.len());
        }
    });
    assert!(confirmed.get() > 1000, "only {} notifications were acknowledged", confirmed.get());
}

#[test]
fn a_send_that_was_answered_2_04_is_published_once_and_one_that_was_answered_5_03_is_not() {
    let answered = std::cell::Cell::new((0, 0));
    let check = |network: &Network, case: &str| {
        for device in 0..DEVICES {
            let published: Vec<f64> = network
                .published_for(device)
                .filter(|payload| payload["msgType"] == "send")
                .map(|payload| payload["data"]["content"][0]["value"].as_f64().expect("the value of a Send"))
                .collect();
            let attached = &network.devices[device];
            let codes: Vec<Option<Code>> = attached
                .events
                .iter()
                .filter_map(|event| match event {
                    DeviceEvent::SendAnswered { code } => Some(*code),
                    _ => None,
                })
                .collect();
            assert_eq!(codes.len(), attached.sends.len(), "{case}, device {device}");
            assert!(
                published.iter().all(|value| attached.sends.iter().any(|send| send.value == *value)),
                "{case}: {published:?}"
            );
            for (send, code) in attached.sends.iter().zip(codes) {
                let value = &send.value;
                let times = published.iter().filter(|published| *published == value).count();
                let (taken, refused) = answered.get();
                match code {
                    Some(Code::CHANGED) => {
                        assert_eq!(times, 1, "{case}, device {device}: {value} of {published:?}");
                        answered.set((taken + 1, refused));
                    }
                    Some(Code::SERVICE_UNAVAILABLE) => {
                        assert_eq!(times, 0, "{case}, device {device}: {value} of {published:?}");
                        answered.set((taken, refused + 1));
                    }
                    // The answer was lost, or the device was not registered any more.
                    Some(_) | None => assert!(times <= 1, "{case}, device {device}: {value} of {published:?}"),
                }
            }
        }
    };
    in_every_weather(false, check);
    in_every_weather(true, check);
    let (taken, refused) = answered.get();
    assert!(taken > 1_000 && refused > 50, "{taken} Sends were taken, {refused} refused");
}

#[test]
fn a_moving_device_has_no_notification_published_twice() {
    in_every_weather(true, |network, case| {
        for device in 0..DEVICES {
            let numbers = network.published_for(device).filter_map(|payload| payload["seqNum"].as_u64());
            let numbers: Vec<u64> = numbers.collect();
            assert!(numbers.is_sorted_by(|a, b| a < b), "{case}, device {device}: {numbers:?}");
        }
    });
}

#[test]
fn a_register_that_is_repeated_is_one_registration() {
    in_every_weather(true, |network, case| {
        for device in &network.devices {
            let registrations = network
                .reports
                .iter()
                .filter(|report| matches!(report, Report::Registered { endpoint, .. } if *endpoint == device.endpoint));
            let registrations = registrations.count();
            let heard = device.events.iter().filter(|event| matches!(event, DeviceEvent::Registered { .. })).count();
            assert!(registrations <= device.registers, "{case}, {}", device.endpoint);
            assert!(heard <= registrations, "{case}, {}", device.endpoint);
        }
    });
}

#[test]
fn when_all_have_left_nothing_is_left_behind() {
    in_every_weather(true, |network, case| {
        assert_eq!((network.gateway.table_sizes().devices, network.gateway_deadline()), (0, None), "{case}");
        let registered = network.reports.iter().filter(|report| matches!(report, Report::Registered { .. })).count();
        let left = network.reports.iter().filter(|report| matches!(report, Report::Left { .. })).count();
        assert_eq!(registered, left, "{case}");
    });
}

#[test]
fn in_fair_weather_every_command_is_answered_by_the_device() {
    for seed in 0..4 {
        let network = lived_through(Weather::FAIR, seed, false);
        for device in 0..DEVICES {
            let failed = network.published_for(device).find(|payload| {
                matches!(payload["msgType"].as_str(), Some("coap_timeout" | "coap_reset"))
                    || payload["data"]["code"] == "4.00"
            });
            assert_eq!(failed, None, "seed {seed}");
            assert_eq!(network.devices[device].commanded.len() as u64, COMMANDS);
        }
        let repeated = network.reports.iter().filter(|report| matches!(report, Report::Retransmitted { .. })).count();
        assert_eq!(repeated, 0, "seed {seed}");
    }
}
