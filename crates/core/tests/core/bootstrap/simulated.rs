//! A whole device behind a network that loses and repeats datagrams.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use lwm2m_base::Peer;
use lwm2m_core::gateway::broker::{BrokerCommand, BrokerEvent};
use lwm2m_core::gateway::{Gateway, Output};
use lwm2m_simulator::{DeviceEvent, SimulatedDevice, SimulatedDeviceConfig, SimulatedDeviceOutput, SimulatedVersion};
use lwm2m_testkit::scene::{beginning, peer};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;

struct Line {
    gateway: Gateway,
    device: SimulatedDevice,
    now: Instant,
    peer: Peer,
    rng: StdRng,
    /// How likely a datagram is lost, and how likely it arrives twice.
    loss: f64,
    up: VecDeque<Vec<u8>>,
    down: VecDeque<Vec<u8>>,
    events: Vec<DeviceEvent>,
    reports: Vec<BootstrapReport>,
}

impl Line {
    fn new(version: SimulatedVersion, format: Option<u16>, loss: f64, seed: u8) -> Self {
        let now = beginning();
        let config = GatewayConfig { bootstrap: Some(BootstrapConfig::default()), ..GatewayConfig::default() };
        let unix_time = Duration::from_secs(1_700_000_000);
        let mut gateway = Gateway::new(config, model(), [seed; 32], now, unix_time);
        gateway.set_bootstrap_accounts(now, accounts(json!([account(json!({ "verify": true }))])));
        let config = SimulatedDeviceConfig {
            bootstrap: true,
            bootstrap_format: format,
            notification_interval: None,
            ..SimulatedDeviceConfig::of_version("dev-7", version)
        };
        let mut device = SimulatedDevice::new(config, seed.into());
        device.start(now);
        let rng = StdRng::seed_from_u64(seed.into());
        let (up, down, events, reports) = (VecDeque::new(), VecDeque::new(), Vec::new(), Vec::new());
        Self { gateway, device, now, peer: peer(7), rng, loss, up, down, events, reports }
    }

    /// Runs until the device is registered, or for so long.
    fn run(&mut self, patience: Duration) {
        self.run_until(patience, SimulatedDevice::is_registered);
    }

    fn run_until(&mut self, patience: Duration, is_enough: fn(&SimulatedDevice) -> bool) {
        let end = self.now + patience;
        while self.now < end && !is_enough(&self.device) {
            let device = self.drain_device();
            let gateway = self.drain_gateway();
            if let Some(datagram) = self.up.pop_front() {
                self.gateway.handle_datagram(self.now, self.peer, &datagram);
            } else if let Some(datagram) = self.down.pop_front() {
                self.device.handle_datagram(self.now, &datagram);
            } else {
                let next = [device, gateway].into_iter().flatten().min();
                self.now = next.unwrap_or(end).max(self.now);
                self.device.handle_timeout(self.now);
                self.gateway.handle_timeout(self.now);
            }
        }
    }

    fn copies(&mut self) -> usize {
        match self.rng.random::<f64>() {
            lost if lost < self.loss => 0,
            repeated if repeated < 2.0 * self.loss => 2,
            _ => 1,
        }
    }

    fn drain_device(&mut self) -> Option<Instant> {
        loop {
            match self.device.poll_output() {
                SimulatedDeviceOutput::Transmit(datagram) => {
                    let copies = self.copies();
                    self.up.extend(std::iter::repeat_n(datagram, copies));
                }
                SimulatedDeviceOutput::Event(event) => {
                    if let DeviceEvent::Bootstrapped { servers } = &event {
                        self.device.register_at(self.now, &servers[0]);
                    }
                    self.events.push(event);
                }
                SimulatedDeviceOutput::Idle(deadline) => return deadline,
            }
        }
    }

    fn drain_gateway(&mut self) -> Option<Instant> {
        loop {
            match self.gateway.poll_output() {
                Output::Transmit(transmit) => {
                    let copies = self.copies();
                    self.down.extend(std::iter::repeat_n(transmit.datagram, copies));
                }
                Output::Broker(BrokerCommand::Connect { registration, .. }) => {
                    self.gateway.handle_broker(self.now, BrokerEvent::Connected { registration });
                }
                Output::Report(Report::Bootstrap(report)) => self.reports.push(report),
                Output::Report(_) | Output::Broker(_) | Output::Answer(_) => {}
                Output::FindKey(question) => panic!("nobody speaks DTLS here, {question}"),
                Output::Claim(_) | Output::Unclaim { .. } => panic!("this gateway has all devices"),
                Output::DescribeImage { .. } | Output::ReadImage { .. } => panic!("nobody asks for an image here"),
                Output::Idle(deadline) => return deadline,
            }
        }
    }
}

#[test]
fn a_device_is_bootstrapped_in_each_version_and_format_and_registers_with_what_it_was_given() {
    let formats = [
        (SimulatedVersion::V1_0, None),
        (SimulatedVersion::V1_1, Some(112)),
        (SimulatedVersion::V1_1, Some(110)),
        (SimulatedVersion::V1_2, Some(11544)),
        (SimulatedVersion::V1_2, Some(11542)),
    ];
    for (version, format) in formats {
        let mut line = Line::new(version, format, 0.0, 7);
        line.run(Duration::from_secs(60));
        assert!(line.device.is_registered(), "{version} {format:?}: {:?}", line.reports);
        let server = line.events.iter().find_map(|event| match event {
            DeviceEvent::Bootstrapped { servers } => servers.first(),
            _ => None,
        });
        let server = server.expect("a server");
        assert_eq!((server.short_server_id, server.uri.as_str()), (101, "coap://gw.example.com:5683"));
        assert_eq!((server.lifetime, server.binding.as_str()), (Duration::from_secs(3600), "U"));
        assert!(matches!(line.reports[..], [BootstrapReport::Started { .. }, BootstrapReport::Finished { .. }]));
    }
}

#[test]
fn a_device_behind_a_bad_network_is_bootstrapped_and_registers() {
    let mut attempts = 0;
    for seed in 0..40 {
        let mut line = Line::new(SimulatedVersion::V1_1, Some(112), 0.25, seed);
        line.run(Duration::from_secs(3600));
        assert!(line.device.is_registered(), "seed {seed}: {:?}", line.reports);
        // The last answer of the device may have been lost.
        line.run_until(Duration::from_secs(250), |_| false);
        assert_eq!(line.gateway.table_sizes().bootstrap_sessions, 0, "seed {seed}");
        attempts += line.reports.iter().filter(|report| matches!(report, BootstrapReport::Started { .. })).count();
    }
    assert!(attempts >= 40);
}
