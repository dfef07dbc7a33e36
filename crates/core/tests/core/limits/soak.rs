//! An hour of ten thousand devices in virtual time: what the gateway keeps does not grow, and is gone when they are.

use std::time::Duration;

use lwm2m_core::coap::Code;
use lwm2m_core::gateway::report::{CommandOutcome, Report};
use lwm2m_core::gateway::{Output, TableSizes};
use lwm2m_simulator::SimulatedDeviceConfig;
use lwm2m_testkit::network::{Happening, Network, Weather};
use lwm2m_testkit::scene::{observe, read};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const DEVICES: usize = 10_000;
const HOUR: f64 = 3600.0;
/// All have registered by then, and are observed.
const SETTLED: f64 = 300.0;
/// Between two looks at the tables.
const LOOK: f64 = 300.0;
const READS: usize = 3_000;
const SENDS: usize = 4_000;
/// Devices that leave during the hour, and come back a minute later.
const LEAVING: usize = 1_000;

#[derive(Default)]
struct Counts {
    registered: usize,
    updated: usize,
    notified: usize,
    answered: usize,
    other_commands: usize,
    sends_taken: usize,
    sends_refused: usize,
    sends_published: usize,
}

impl Counts {
    /// Counts the reports, and lets go of what was said.
    fn take(&mut self, network: &mut Network) {
        for report in network.reports.drain(..) {
            match report {
                Report::Registered { .. } => self.registered += 1,
                Report::Updated { .. } => self.updated += 1,
                Report::Notification { .. } => self.notified += 1,
                Report::Command { outcome: CommandOutcome::Answered, .. } => self.answered += 1,
                Report::Command { .. } => self.other_commands += 1,
                Report::Send { code: Code::CHANGED, .. } => self.sends_taken += 1,
                Report::Send { .. } => self.sends_refused += 1,
                _ => {}
            }
        }
        let sends = network.published.drain(..).filter(|(_, publication)| publication.topic.ends_with("/up/send"));
        self.sends_published += sends.count();
        network.devices.iter_mut().for_each(|device| device.events.clear());
    }
}

#[test]
fn an_hour_of_ten_thousand_devices_leaves_the_memory_flat() {
    let mut network = Network::new(lwm2m_core::gateway::config::GatewayConfig::default(), Weather::FAIR, 5);
    let mut rng = StdRng::seed_from_u64(6);
    live_for_an_hour(&mut network, &mut rng);

    let mut counts = Counts::default();
    network.run_until(SETTLED);
    counts.take(&mut network);
    assert_eq!(network.gateway.table_sizes().devices, DEVICES);
    let mut looks = Vec::new();
    let mut at = SETTLED;
    while at < HOUR {
        at += LOOK;
        network.run_until(at);
        counts.take(&mut network);
        looks.push(network.gateway.table_sizes());
    }
    assert!(looks.iter().all(|look| is_flat(*look, looks[0])), "{looks:#?}");

    let Counts { registered, updated, notified, answered, other_commands, .. } = counts;
    assert_eq!(registered, DEVICES + LEAVING);
    assert!(updated >= 2 * (DEVICES - LEAVING), "{updated}");
    assert!(notified >= 2 * (DEVICES - LEAVING), "{notified}");
    assert!(answered + other_commands >= DEVICES + READS * 9 / 10, "{answered}");
    // Commands that a leaving device takes along.
    assert!(other_commands <= LEAVING / 10, "{other_commands}");

    let Counts { sends_taken, sends_refused, sends_published, .. } = counts;
    assert_eq!(sends_taken, sends_published);
    assert!(sends_taken >= SENDS * 9 / 10, "{sends_taken}");
    // Sends that a De-register overtakes.
    assert!(sends_refused <= LEAVING / 100, "{sends_refused}");

    gone_when_all_have_left(network);
}

/// Registers over four minutes, observes, reads, notifies, sends and updates; some devices leave and come back.
fn live_for_an_hour(network: &mut Network, rng: &mut StdRng) {
    for number in 0..DEVICES {
        let device = network.attach(SimulatedDeviceConfig {
            lifetime: Duration::from_secs(1500),
            notification_interval: Some(Duration::from_secs(1200)),
            ..SimulatedDeviceConfig::new(format!("dev-{number}"))
        });
        let start = rng.random_range(0.0..SETTLED - 60.0);
        network.at(start, Happening::Start(device));
        let command = observe(0, "/3303/0/5700").to_string().into_bytes();
        network.at(start + 10.0, Happening::Command(device, command));
        network.at(HOUR, Happening::Stop(device));
    }
    for number in 0..READS {
        let device = rng.random_range(0..DEVICES);
        let at = rng.random_range(SETTLED..HOUR - 10.0);
        network.at(at, Happening::Command(device, read(1 + number as u64).to_string().into_bytes()));
    }
    for number in 0..SENDS {
        let device = rng.random_range(0..DEVICES);
        network.at(rng.random_range(SETTLED..HOUR - 10.0), Happening::Send(device, number as f64));
    }
    for device in 0..LEAVING {
        let at = rng.random_range(SETTLED..HOUR - 120.0);
        network.at(at, Happening::Stop(device));
        network.at(at + 60.0, Happening::Start(device));
    }
}

/// Devices come and go, and their messages are remembered for minutes: a twentieth up and down is nothing.
fn is_flat(look: TableSizes, first: TableSizes) -> bool {
    let near = |now: usize, then: usize| now <= then + then / 20 + 100;
    near(look.devices, first.devices)
        && near(look.exchanges, first.exchanges)
        && near(look.deadlines, first.deadlines)
        && near(look.coap.observations, first.coap.observations)
        && near(look.coap.tokens, first.coap.tokens)
        // An Update and a notification each twenty minutes and more, remembered for four minutes.
        && look.coap.remembered_messages <= 2 * DEVICES
        && near(look.coap.transmissions + look.coap.transfers + look.coap.deadlines, 0)
        && near(look.pending_commands + look.early_commands + look.to_observe + look.pending_registrations, 0)
        && near(look.addresses + look.deferred_acks, 0)
        && look.outputs + look.coap.outputs + look.coap.assemblies + look.coap.waiting_notifications == 0
}

fn gone_when_all_have_left(mut network: Network) {
    network.run_until(HOUR + 1500.0);
    network.gateway.handle_timeout(network.now);
    while !matches!(network.gateway.poll_output(), Output::Idle(_)) {}
    assert_eq!(network.gateway.table_sizes(), TableSizes::default());
}
