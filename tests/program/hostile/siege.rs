//! The core in virtual time, with honest devices, and with hostile ones that the test plays.

use std::collections::VecDeque;
use std::time::Duration;

use lwm2m_base::Peer;
use lwm2m_core::coap::options::number;
use lwm2m_core::coap::{AckMode, Code, Kind, Message, MessageId};
use lwm2m_core::gateway::config::GatewayConfig;
use lwm2m_core::gateway::{Output, TableSizes};
use lwm2m_gateway::config::Config;
use lwm2m_simulator::{DeviceEvent, SimulatedDeviceConfig};
use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use super::corpus;
use lwm2m_testkit::network::{DeviceNumber, Happening, Network, Weather};

/// How long the honest devices have registered for.
const LIFETIME: f64 = 60.0;
const NOTIFIES_EVERY: f64 = 5.0;
const COMMANDED_EVERY: f64 = 10.0;
/// Each device sends two values at a time.
const SENDS_EVERY: f64 = 7.0;
/// Time for what is under way when it is counted.
const LEEWAY: f64 = 10.0;
const OBSERVED: &str = "/3303/0/5700";
/// The time that a device needs to register again whose Update was reset.
const REGISTERS_WITHIN: f64 = 1.0;
/// Requests that a hostile device remembers.
const REMEMBERED: usize = 32;

pub(super) struct Siege {
    pub network: Network,
    pub settings: GatewayConfig,
    pub rng: StdRng,
    /// In seconds.
    pub at: f64,
    pub hostile: Vec<Hostile>,
    honest: Vec<HonestDevice>,
    /// The values of the Sends of each honest device that were published, in order.
    published_sends: Vec<Vec<f64>>,
    next_command: f64,
    next_send: f64,
    sends: u32,
    /// Datagrams have the address of an honest device.
    forges: bool,
    /// Hostile datagrams so far.
    pub datagrams: u64,
}

/// A registered device that answers whatever it likes.
pub(super) struct Hostile {
    pub peer: Peer,
    pub endpoint: String,
    pub location: Option<String>,
    /// What the gateway asked it last.
    pub asked: VecDeque<Message>,
    /// What it was asked to observe last.
    pub observed: VecDeque<Message>,
    next_id: u16,
}

/// What was counted of an honest device.
#[derive(Clone, Copy, Debug, Default)]
struct HonestDevice {
    since: f64,
    updated: usize,
    notified: usize,
    published: usize,
    commanded: usize,
    answered: usize,
    refused: usize,
    registers: usize,
    /// Resets that somebody brought about in the name of the device.
    reset: usize,
}

impl Siege {
    /// Registers this many honest and hostile devices; the application observes all of them.
    pub(super) fn begin(honest: usize, hostile: usize, rng: StdRng) -> Self {
        Self::begin_with(AckMode::OnReceipt, honest, hostile, rng)
    }

    /// The same with another `notification_ack`.
    pub(super) fn begin_with(acknowledging: AckMode, honest: usize, hostile: usize, mut rng: StdRng) -> Self {
        let mut settings = Config::default().gateway;
        settings.coap.acknowledge_notifications = acknowledging;
        // So that the end of all registrations can be waited for.
        settings.lifetimes = Duration::from_secs(1)..=Duration::from_secs(86_400);
        let mut network = Network::new(settings.clone(), Weather::FAIR, rng.random());
        network.to_others = Some(Vec::new());
        for number in 0..honest {
            let device = network.attach(SimulatedDeviceConfig {
                lifetime: Duration::from_secs_f64(LIFETIME),
                notification_interval: Some(Duration::from_secs_f64(NOTIFIES_EVERY)),
                confirmable_notifications: true,
                ..SimulatedDeviceConfig::new(format!("honest-{number}"))
            });
            network.at(number as f64 * 0.01, Happening::Start(device));
            network.at(5.0, Happening::Command(device, command("observe", OBSERVED)));
        }
        let hostile = (0..hostile).map(Hostile::new).collect();
        let mut siege = Self {
            network,
            settings,
            rng,
            at: 0.0,
            hostile,
            honest: vec![HonestDevice::default(); honest],
            published_sends: vec![Vec::new(); honest],
            next_command: 20.0,
            next_send: 20.0,
            sends: 0,
            forges: false,
            datagrams: 0,
        };
        siege.pass(15.0);
        siege.look();
        let fresh = |honest: &HonestDevice| HonestDevice {
            since: siege.at,
            registers: honest.registers,
            ..HonestDevice::default()
        };
        siege.honest = siege.honest.iter().map(fresh).collect();
        siege
    }

    /// Lets time pass, and takes what came for the hostile devices.
    pub(super) fn pass(&mut self, seconds: f64) {
        self.at += seconds;
        while self.next_command <= self.at {
            for number in 0..self.honest.len() {
                self.network.at(self.next_command, Happening::Command(number, command("read", "/3/0/0")));
                self.honest[number].commanded += 1;
            }
            self.next_command += COMMANDED_EVERY;
        }
        while self.next_send <= self.at {
            for number in 0..self.honest.len() {
                for value in [self.sends, self.sends + 1] {
                    self.network.at(self.next_send, Happening::Send(number, value.into()));
                }
            }
            self.sends += 2;
            self.next_send += SENDS_EVERY;
        }
        self.network.run_until(self.at);
        self.hear();
        self.observe_again();
    }

    /// Plain UDP does not prevent that a reset ends an observation or an Update of a device: who forges its address
    /// sends a message that the gateway has to reject, and guesses the id of a message that the device is about to send
    /// or that is on its way (RFC 7252 section 4.2, RFC 7641 section 3.6). The application observes again, as it would
    /// after a while without notifications. A message that has arrived is not reset, whatever else comes with its id.
    fn observe_again(&mut self) {
        let wrong = &self.network.resets_of_received;
        assert!(wrong.is_empty(), "the gateway reset notifications that it had received: {wrong:?}");
        assert!(self.forges || self.network.resets.is_empty(), "nobody uses the address of an honest device");
        for number in std::mem::take(&mut self.network.resets) {
            self.honest[number].reset += 1;
            let soon = self.at + REGISTERS_WITHIN;
            self.network.at(soon, Happening::Command(number, command("observe", OBSERVED)));
        }
    }

    /// A datagram arrives at the core, now; there is one outcome for it.
    pub(super) fn strike(&mut self, from: Peer, datagram: Vec<u8>) {
        self.datagrams += 1;
        self.network.at(self.at, Happening::ToGateway(from, datagram));
        self.pass(0.0);
    }

    pub(super) fn honest_address(&mut self) -> Peer {
        self.forges = true;
        let number = self.rng.random_range(0..self.honest.len());
        self.network.address(number)
    }

    /// A hostile device that is not registered registers, as it should.
    pub(super) fn register_hostile(&mut self, number: usize) {
        let hostile = &mut self.hostile[number];
        if hostile.location.is_none() {
            let id = hostile.fresh_id();
            let register = corpus::register(&hostile.endpoint, number, id);
            let peer = hostile.peer;
            self.strike(peer, register.encode());
        }
    }

    /// Counts what the honest devices did and got, forgets it, and looks at the tables.
    #[track_caller]
    pub(super) fn look(&mut self) {
        for (number, honest) in self.honest.iter_mut().enumerate() {
            let device = &mut self.network.devices[number];
            for event in device.events.drain(..) {
                match event {
                    DeviceEvent::Updated => honest.updated += 1,
                    DeviceEvent::Notified { .. } => honest.notified += 1,
                    DeviceEvent::Refused { .. } => honest.refused += 1,
                    _ => {}
                }
            }
            honest.registers = device.registers;
            device.commanded.clear();
            device.confirmed.clear();
        }
        for (_, publication) in std::mem::take(&mut self.network.published) {
            let Some(rest) = publication.topic.strip_prefix("lwm2m/honest-") else { continue };
            let Some(number) = rest.split('/').next().and_then(|number| number.parse::<DeviceNumber>().ok()) else {
                continue;
            };
            let payload: Value = serde_json::from_slice(&publication.payload).expect("JSON");
            let honest = &mut self.honest[number];
            match payload["msgType"].as_str() {
                Some("notify") => honest.published += 1,
                Some("read") if payload["data"]["code"] == "2.05" => honest.answered += 1,
                Some("send") if payload["data"]["code"] == "2.05" => {
                    let value = payload["data"]["content"][0]["value"].as_f64().expect("the value of a Send");
                    self.published_sends[number].push(value);
                }
                _ => {}
            }
        }
        self.network.reports.clear();
        self.assert_bounds();
    }

    /// Returns the sum of the resets that somebody brought about in the name of an honest device.
    pub(super) fn forged_resets(&self) -> usize {
        self.honest.iter().map(|honest| honest.reset).sum()
    }

    /// Each honest device kept its registration, and its Updates, notifications and commands arrived.
    #[track_caller]
    pub(super) fn assert_honest_were_served(&mut self) {
        self.pass(LEEWAY);
        self.look();
        for (number, honest) in self.honest.iter().enumerate() {
            let time = self.at - honest.since - 2.0 * LEEWAY;
            let at_least = |every: f64| ((time / every).floor().max(0.0) as usize).saturating_sub(honest.reset);
            assert!((1..=1 + honest.reset).contains(&honest.registers), "honest-{number}: {honest:?}");
            assert_eq!(honest.refused, 0, "honest-{number}: {honest:?}");
            assert!(honest.updated >= at_least(LIFETIME), "honest-{number}: {honest:?}");
            assert!(honest.notified >= at_least(NOTIFIES_EVERY), "honest-{number}: {honest:?}");
            let missing = |of: usize, arrived: usize| of - arrived.min(of);
            let few = 1 + honest.reset;
            assert!(missing(honest.notified, honest.published) <= few, "honest-{number}: {honest:?}");
            assert!(missing(honest.commanded, honest.answered) <= few, "honest-{number}: {honest:?}");
            self.assert_sends_were_published(number);
        }
    }

    /// The Sends of an honest device that were answered 2.04 were published, each once. All were, unless somebody uses
    /// its address: a message whose id was used before is taken for a repetition (RFC 7252 section 4.5).
    #[track_caller]
    fn assert_sends_were_published(&self, number: DeviceNumber) {
        let (sends, published) = (&self.network.devices[number].sends, &self.published_sends[number]);
        let taken = sends.iter().filter(|send| send.answered_by(Code::CHANGED) > 0);
        let (mut taken, mut once): (Vec<f64>, _) = (taken.map(|send| send.value).collect(), published.clone());
        let least = if self.forges { sends.len() * 3 / 4 } else { sends.len() };
        assert!(taken.len() >= least, "honest-{number}: {} of {} Sends were taken", taken.len(), sends.len());
        taken.sort_by(f64::total_cmp);
        once.sort_by(f64::total_cmp);
        assert_eq!(once, taken, "honest-{number}");
        let arrivals = &self.network.devices[number].arrivals;
        let mut arrived = arrivals.iter();
        let in_order = published.iter().all(|value| arrived.any(|other| other == value));
        assert!(in_order, "honest-{number}: {published:?} arrived as {arrivals:?}");
    }

    /// The registered devices are the honest ones, and those of another name that the broker accepted.
    #[track_caller]
    pub(super) fn assert_registered_are_connected(&self) {
        let connected: Vec<&str> = self.network.connected_endpoints().collect();
        for number in 0..self.honest.len() {
            assert!(connected.contains(&format!("honest-{number}").as_str()), "{connected:?}");
        }
        assert_eq!(self.network.gateway.table_sizes().devices, connected.len(), "{connected:?}");
    }

    /// The devices leave, and all registrations and messages are over: nothing is kept.
    #[track_caller]
    pub(super) fn assert_nothing_stays(mut self) {
        for number in 0..self.honest.len() {
            self.network.at(self.at, Happening::Stop(number));
        }
        (self.next_command, self.next_send) = (f64::INFINITY, f64::INFINITY);
        self.pass(86_400.0 + 500.0);
        self.network.gateway.handle_timeout(self.network.now);
        while !matches!(self.network.gateway.poll_output(), Output::Idle(_)) {}
        assert_eq!(self.network.gateway.table_sizes(), TableSizes::default());
    }

    #[track_caller]
    fn assert_bounds(&self) {
        let occupancy = self.network.gateway.table_sizes();
        let (limits, coap) = (&self.settings.limits, &self.settings.coap);
        assert!(occupancy.devices + occupancy.pending_registrations <= limits.devices, "{occupancy:?}");
        assert!(occupancy.pending_registrations <= limits.pending_registrations, "{occupancy:?}");
        assert!(occupancy.registration_bytes <= occupancy.devices * limits.registration_size, "{occupancy:?}");
        assert!(occupancy.pending_commands <= occupancy.devices * limits.pending_commands, "{occupancy:?}");
        assert!(occupancy.exchanges <= occupancy.devices * (limits.observations + 1), "{occupancy:?}");
        assert!(occupancy.coap.pending_requests <= coap.pending_requests, "{occupancy:?}");
        assert!(
            occupancy.coap.remembered_messages <= coap.deduplication_entries + coap.deduplication_entries / 4,
            "{occupancy:?}"
        );
        assert!(occupancy.coap.assemblies <= coap.block_uploads, "{occupancy:?}");
        assert_eq!((occupancy.outputs, occupancy.coap.outputs), (0, 0));
    }

    fn hear(&mut self) {
        for (to, datagram) in self.network.to_others.as_mut().map(std::mem::take).unwrap_or_default() {
            if let Some(hostile) = self.hostile.iter_mut().find(|hostile| hostile.peer == to) {
                hostile.hear(Message::decode(&datagram).expect("the gateway sends messages"));
            }
        }
    }
}

impl Hostile {
    fn new(number: usize) -> Self {
        let peer = Peer::udp(0, ([198, 51, 100, number as u8], 5683).into());
        let (asked, observed) = (VecDeque::new(), VecDeque::new());
        Self { peer, endpoint: format!("hostile-{number}"), location: None, asked, observed, next_id: 0 }
    }

    pub(super) fn fresh_id(&mut self) -> MessageId {
        self.next_id = self.next_id.wrapping_add(1);
        MessageId(self.next_id)
    }

    fn hear(&mut self, message: Message) {
        match message.code {
            Code::CREATED => {
                let location = message.options.texts(number::LOCATION_PATH).expect("text");
                self.location = location.get(1).map(|segment| (*segment).to_owned());
            }
            // What it thought to be its registration is none.
            Code::NOT_FOUND => self.location = None,
            _ if message.code.is_request() => {
                let observes = message.options.uint(number::OBSERVE) == Ok(Some(0));
                if observes {
                    keep(&mut self.observed, message.clone());
                }
                keep(&mut self.asked, message);
            }
            _ => {}
        }
    }
}

fn keep(messages: &mut VecDeque<Message>, message: Message) {
    messages.truncate(REMEMBERED - 1);
    messages.push_front(message);
}

pub(super) fn command(kind: &str, path: &str) -> Vec<u8> {
    json!({ "reqID": 1, "msgType": kind, "data": { "path": path } }).to_string().into_bytes()
}

/// An answer of a device to what it was asked.
pub(super) fn answer(rng: &mut StdRng, to: &Message, id: MessageId) -> Message {
    let kinds = [Kind::Acknowledgement, Kind::Acknowledgement, Kind::Confirmable, Kind::NonConfirmable];
    let kind = kinds[rng.random_range(0..kinds.len())];
    let codes = [Code::CONTENT, Code::CONTENT, Code::CONTENT, Code::CHANGED, Code::CONTINUE, Code::NOT_FOUND];
    let code = codes[rng.random_range(0..codes.len())];
    let id = if kind == Kind::Acknowledgement { to.id } else { id };
    Message { kind, code, token: to.token, ..Message::empty(kind, id) }
}
