//! Firmware updates of simulated devices over a network that loses, repeats and reorders, with devices that reboot and
//! move and a gateway that is killed: each update has one end, whatever happens.

use std::collections::HashMap;
use std::time::Duration;

use lwm2m_core::command::firmware::{JobLabel, Phase, UpdateError};
use lwm2m_core::gateway::config::GatewayConfig;
use lwm2m_core::gateway::report::Report;
use lwm2m_simulator::{FirmwareFault, SimulatedDeviceConfig, SimulatedFirmwareConfig, SimulatedVersion};
use lwm2m_testkit::network::{Happening, Network, Weather};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const IMAGE: &str = "app.bin";
/// Updates that are begun for each device, and the seconds between them.
const UPDATES: u64 = 4;
const INTERVAL: f64 = 4000.0;
/// When every device stops.
const STOP: f64 = 100.0 + UPDATES as f64 * INTERVAL;
/// The lifetime of a device that could not tell that it leaves, twice that time for its update, and some more.
const AFTER_ALL: f64 = STOP + 3000.0;

fn weathers() -> [Weather; 4] {
    let weather = |loss, duplication, delay: f64| {
        let delay = Duration::from_secs_f64(delay);
        Weather { loss, duplication, delay, broker_delay: Duration::from_secs(3), unpublished: 0.0 }
    };
    [Weather::FAIR, weather(0.1, 0.1, 0.5), weather(0.25, 0.3, 4.0), weather(0.6, 0.2, 2.0)]
}

/// More than one part of the disk.
fn image() -> Vec<u8> {
    let mut image = b"version: 3.0\n".to_vec();
    image.extend((image.len()..40_000).map(|at| (at * 7 % 251) as u8));
    image
}

/// The faults of the devices. The first two devices have none.
fn faults() -> Vec<Vec<FirmwareFault>> {
    vec![
        vec![],
        vec![],
        vec![FirmwareFault::LosesLinkAt { byte: 20_000, lasts: Duration::from_secs(200) }],
        vec![FirmwareFault::StallsAt(10_000)],
        vec![FirmwareFault::ClaimsState(1)],
        vec![FirmwareFault::FailsUpdate { result: 8 }, FirmwareFault::RefusesObserve],
        vec![FirmwareFault::NeverReturns],
        vec![FirmwareFault::FailsAt { byte: 30_000, result: 2 }],
    ]
}

/// Lets all devices be updated several times. In `trouble` they reboot and move, updates are cancelled, and the gateway
/// is killed.
fn lived_through(weather: Weather, seed: u64, trouble: bool) -> Network {
    let mut config = GatewayConfig::default();
    config.firmware.public_uris.add("coap://gw.example.com:5683".parse().expect("a URI"));
    let mut network = Network::new(config, weather, seed);
    network.make_persistent();
    network.images.write(IMAGE, &image());
    let mut rng = StdRng::seed_from_u64(!seed);
    for (number, faults) in faults().into_iter().enumerate() {
        let firmware = SimulatedFirmwareConfig {
            accepted_sha256: Some(Sha256::digest(image()).into()),
            faults,
            ..SimulatedFirmwareConfig::default()
        };
        let device = network.attach(SimulatedDeviceConfig {
            notification_interval: None,
            wave: None,
            queue_mode: number == 1,
            firmware: Some(firmware),
            ..SimulatedDeviceConfig::of_version(format!("dev-{number}"), SimulatedVersion::V1_1)
        });
        network.at(rng.random_range(0.0..5.0), Happening::Start(device));
        let command = |network: &mut Network, at: f64, command: Value| {
            network.at(at, Happening::Command(device, command.to_string().into_bytes()));
        };
        for id in 0..UPDATES {
            let at = 100.0 + id as f64 * INTERVAL + rng.random_range(0.0..100.0);
            let method = ["pull", "push", "auto"][rng.random_range(0..3)];
            let data = json!({ "image": IMAGE, "version": "3.0", "method": method, "blockSize": 512 });
            command(&mut network, at, json!({ "reqID": id, "msgType": "firmware-update", "data": data }));
            if !trouble {
                continue;
            }
            let at = at + rng.random_range(0.0..300.0);
            match rng.random_range(0..4) {
                0 => command(&mut network, at, json!({ "reqID": 100 + id, "msgType": "firmware-cancel" })),
                1 => {
                    let data = json!({ "path": "/3/0/4" });
                    command(&mut network, at, json!({ "reqID": 100 + id, "msgType": "execute", "data": data }));
                }
                2 => network.at(at, Happening::Move(device)),
                _ => network.at(at, Happening::Restart),
            }
        }
        network.at(STOP, Happening::Stop(device));
    }
    network.run_until(AFTER_ALL);
    network
}

/// The ends of each update, as they were reported.
fn ends(network: &Network, case: &str) -> HashMap<JobLabel, (String, Phase, Option<UpdateError>)> {
    let mut ends = HashMap::new();
    for report in &network.reports {
        let Report::FirmwareUpdate { endpoint, status } = report else { continue };
        assert!(!ends.contains_key(&status.job), "{case}: an event behind the end: {endpoint} {status:?}");
        if status.phase.is_end() {
            ends.insert(status.job, (endpoint.clone(), status.phase, status.error));
        }
    }
    ends
}

#[test]
fn each_update_has_one_end_whatever_is_lost_repeated_or_killed() {
    let (mut ended, mut succeeded) = (0, 0);
    for (which, weather) in weathers().into_iter().enumerate() {
        for (seed, trouble) in [(1, false), (2, true), (3, true), (4, true)] {
            let case = format!("weather {which}, seed {seed}");
            let network = lived_through(weather, seed, trouble);
            let ends = ends(&network, &case);
            let begun: Vec<(String, JobLabel)> = begun(&network);
            for (endpoint, label) in &begun {
                assert!(ends.contains_key(label), "{case}: the update {label:?} of {endpoint} has no end");
            }
            assert_eq!(begun.len(), ends.len(), "{case}");
            // No byte went to a wrong place.
            let damaged = ends.values().find(|(_, _, error)| *error == Some(UpdateError::Integrity));
            assert_eq!(damaged, None, "{case}");
            let sizes = network.gateway.table_sizes();
            assert_eq!((sizes.firmware_jobs, sizes.image_offers, sizes.image_requests), (0, 0, 0), "{case}");
            ended += ends.len();
            succeeded += ends.values().filter(|(_, phase, _)| *phase == Phase::Succeeded).count();
            if which == 0 && !trouble {
                let healthy = ends.values().filter(|(endpoint, ..)| ["dev-0", "dev-1"].contains(&endpoint.as_str()));
                let phases: Vec<Phase> = healthy.map(|(_, phase, _)| *phase).collect();
                assert_eq!(phases, [Phase::Succeeded; 2 * UPDATES as usize]);
            }
        }
    }
    assert!(ended > 200 && succeeded > 50, "{ended} updates ended, {succeeded} of them well");
}

/// The updates that the gateway has accepted, each with its endpoint.
fn begun(network: &Network) -> Vec<(String, JobLabel)> {
    let label = |data: &Value| -> Option<JobLabel> { serde_json::from_value(data["job"].clone()).ok() };
    let accepted = (0..network.devices.len()).flat_map(|device| {
        let endpoint = network.devices[device].endpoint.clone();
        let answers = network.published_for(device).filter(|payload| payload["msgType"] == "firmware-update");
        answers.filter_map(move |payload| Some((endpoint.clone(), label(&payload["data"])?))).collect::<Vec<_>>()
    });
    accepted.collect()
}
