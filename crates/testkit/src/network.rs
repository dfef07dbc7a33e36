//! A network between many simulated devices and the core, in virtual time: it loses, repeats, delays and so reorders
//! datagrams, and gives devices new addresses. The broker behind the core takes its time for each Connect.
//!
//! Everything that will happen stands in one queue, by time; a step handles the first of it. Nothing looks at every
//! device, so that a thousand of them cost a thousand times what one costs.

mod restart;
mod sends;
mod watching;

pub use sends::WatchedSend;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::time::{Duration, Instant};

use lwm2m_base::Peer;
use lwm2m_core::coap::{AckMode, MessageId, Token};
use lwm2m_core::gateway::broker::{
    BrokerCommand, BrokerEvent, CloseReason, ConnectError, MessageProperties, Publication, RegistrationId, Ticket,
    UplinkClass,
};
use lwm2m_core::gateway::config::GatewayConfig;
use lwm2m_core::gateway::report::{DatagramOutcome, DropReason, Report};
use lwm2m_core::gateway::{Gateway, Output};
use lwm2m_simulator::{self as simulator, DeviceEvent, SimulatedDevice, SimulatedDeviceConfig};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;

use self::sends::SendWatch;
use super::images::MemoryImages;
use super::scene::{beginning, model, peer};
use super::store::MemoryStore;

/// Sets how the network and the broker treat what they receive. A share is a number between 0 and 1.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    pub loss: f64,
    pub duplication: f64,
    /// Each datagram takes a time up to this: what is sent later may arrive earlier.
    pub delay: Duration,
    /// The broker answers a Connect, and tells that it took a publication, after a time up to this.
    pub broker_delay: Duration,
    /// The share of notifications with a ticket that the broker never acknowledges, and of Sends that it does not get.
    pub unpublished: f64,
}

impl Weather {
    pub const FAIR: Weather = Weather {
        loss: 0.0,
        duplication: 0.0,
        delay: Duration::from_millis(50),
        broker_delay: Duration::from_millis(50),
        unpublished: 0.0,
    };
}

/// The reaction of the broker to a Connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokerBehaviour {
    Takes,
    Refuses,
    /// The link gives up after ten seconds.
    NeverAnswers,
}

/// The index of a device.
pub type DeviceNumber = usize;

/// A notification, by its device, the path that is observed and the Observe number.
pub type Notification = (DeviceNumber, String, u32);

pub struct Network {
    pub gateway: Gateway,
    pub now: Instant,
    pub weather: Weather,
    pub broker: BrokerBehaviour,
    pub devices: Vec<AttachedDevice>,
    /// The publications in order, each with its registration.
    pub published: Vec<(RegistrationId, Publication)>,
    pub reports: Vec<Report>,
    /// Datagrams that were dropped because unregistered peers sent too many.
    pub rate_limited: usize,
    /// The datagrams to addresses without a device. A test turns the recording on with an empty list.
    pub to_others: Option<Vec<(Peer, Vec<u8>)>>,
    /// The device of each reset that reached its device while the confirmable message with its id was outstanding.
    pub resets: Vec<DeviceNumber>,
    /// The device of each reset that the core sent for a notification that it had received.
    pub resets_of_received: Vec<DeviceNumber>,
    /// The notifications that the broker said it took.
    pub taken: HashSet<Notification>,
    /// The notifications that the core acknowledged before the broker took them, with [`AckMode::Deferred`].
    pub acknowledged_untaken: Vec<Notification>,
    /// The firmware images on the disk. The disk takes as long as a datagram at the most.
    pub images: MemoryImages,
    /// The number of restarts of the core.
    pub restarts: usize,
    /// The notifications that a ticket was given out for, until the broker says that it took them.
    tickets: HashMap<Ticket, Notification>,
    send_watch: SendWatch,
    config: GatewayConfig,
    /// The store that the core leaves to its next process, if it is restarted.
    store: Option<MemoryStore>,
    asks_the_broker: bool,
    begun: Instant,
    by_address: HashMap<Peer, DeviceNumber>,
    /// The registration of each endpoint that the broker has now.
    connected: HashMap<String, RegistrationId>,
    clientids: HashMap<RegistrationId, String>,
    queue: BinaryHeap<Reverse<ScheduledHappening>>,
    scheduled: u64,
    addresses: u32,
    gateway_wakes: Option<Instant>,
    rng: StdRng,
}

/// A device, where it is and what the network saw of it.
pub struct AttachedDevice {
    pub device: SimulatedDevice,
    pub endpoint: String,
    pub events: Vec<DeviceEvent>,
    /// The commands that reached the core, in order.
    pub commanded: Vec<Value>,
    /// The number of Registers that the device sent, without retransmissions from the same address. One from another
    /// address is another request for the core (RFC 7252 section 4.5).
    pub registers: usize,
    /// The Observe numbers of the confirmable notifications that the core acknowledged, in the order in which the
    /// acknowledgements came.
    pub confirmed: Vec<(Token, u32)>,
    /// The observed path of each token of the core.
    pub observed: HashMap<Token, String>,
    /// The number of confirmable notifications that the device sent, without retransmissions.
    pub notifications: usize,
    /// Its Sends, in order.
    pub sends: Vec<WatchedSend>,
    /// The values of its Sends in the order in which they arrived, once for each process of the core.
    pub arrivals: Vec<f64>,
    address: Peer,
    wakes: Option<Instant>,
    /// Confirmable notifications that were not acknowledged yet.
    unconfirmed: HashMap<MessageId, (Token, u32)>,
    last_register: Option<(MessageId, Peer)>,
    /// The confirmable messages of the device that are neither acknowledged nor reset.
    outstanding: HashMap<MessageId, OutstandingDatagram>,
}

struct OutstandingDatagram {
    datagram: Vec<u8>,
    /// The core has received it.
    arrived: bool,
}

struct ScheduledHappening {
    at: Instant,
    /// Orders events by time, and by the order of scheduling within the same instant.
    order: u64,
    happening: Happening,
}

/// A scheduled event of an application, the device or the network.
pub enum Happening {
    ToGateway(Peer, Vec<u8>),
    ToDevice(Peer, Vec<u8>),
    GatewayWakes,
    DeviceWakes(DeviceNumber),
    FromBroker(BrokerEvent),
    /// The disk answers this request for an image.
    FromDisk(Box<Output>),
    Start(DeviceNumber),
    Stop(DeviceNumber),
    /// The device has another address from now on; nothing that was under way to the old one arrives.
    Move(DeviceNumber),
    Change(DeviceNumber, f64),
    /// The device sends this value unasked, if it is registered (LwM2M Core 1.1 section 6.4.6).
    Send(DeviceNumber, f64),
    /// The process of the core is killed, and the next one begins: see [`Network::make_persistent`].
    Restart,
    /// An application publishes a command for whoever is subscribed for the endpoint.
    Command(DeviceNumber, Vec<u8>),
}

impl Network {
    pub fn new(config: GatewayConfig, weather: Weather, seed: u64) -> Self {
        let now = beginning();
        let mut rng = StdRng::seed_from_u64(seed);
        let asks_the_broker = config.coap.acknowledge_notifications == AckMode::Deferred;
        Self {
            gateway: Gateway::new(config.clone(), model(), rng.random(), now, Duration::from_secs(1_700_000_000)),
            now,
            weather,
            broker: BrokerBehaviour::Takes,
            devices: Vec::new(),
            published: Vec::new(),
            reports: Vec::new(),
            rate_limited: 0,
            to_others: None,
            resets: Vec::new(),
            resets_of_received: Vec::new(),
            taken: HashSet::new(),
            acknowledged_untaken: Vec::new(),
            images: MemoryImages::default(),
            restarts: 0,
            tickets: HashMap::new(),
            send_watch: SendWatch::default(),
            config,
            store: None,
            asks_the_broker,
            begun: now,
            by_address: HashMap::new(),
            connected: HashMap::new(),
            clientids: HashMap::new(),
            queue: BinaryHeap::new(),
            scheduled: 0,
            addresses: 0,
            gateway_wakes: None,
            rng,
        }
    }

    /// Attaches a device at an address of its own; it does nothing yet.
    pub fn attach(&mut self, config: SimulatedDeviceConfig) -> DeviceNumber {
        let number = self.devices.len();
        let address = self.fresh_address(number);
        self.devices.push(AttachedDevice {
            endpoint: config.endpoint.clone(),
            device: SimulatedDevice::new(config, self.rng.random()),
            events: Vec::new(),
            commanded: Vec::new(),
            registers: 0,
            confirmed: Vec::new(),
            observed: HashMap::new(),
            notifications: 0,
            sends: Vec::new(),
            arrivals: Vec::new(),
            address,
            wakes: None,
            unconfirmed: HashMap::new(),
            last_register: None,
            outstanding: HashMap::new(),
        });
        number
    }

    /// Lets something happen, so many seconds after the beginning.
    pub fn at(&mut self, seconds: f64, happening: Happening) {
        self.schedule(self.begun + Duration::from_secs_f64(seconds), happening);
    }

    /// Runs until so many seconds after the beginning.
    pub fn run_until(&mut self, seconds: f64) {
        let until = self.begun + Duration::from_secs_f64(seconds);
        while self.queue.peek().is_some_and(|Reverse(first)| first.at <= until) {
            let Some(Reverse(ScheduledHappening { at, happening, .. })) = self.queue.pop() else { return };
            self.now = at;
            self.happen(happening);
        }
        self.now = until;
    }

    /// Publishes a command of any form to whoever is subscribed for the endpoint, now.
    pub fn command_bytes(&mut self, endpoint: &str, payload: Vec<u8>) {
        let Some(device) = self.connected.get(endpoint).copied() else { return };
        let topic = format!("lwm2m/{endpoint}/dn");
        let properties = MessageProperties::default();
        self.broker_says(BrokerEvent::Message { registration: device, topic, payload, properties });
    }

    pub fn address(&self, number: DeviceNumber) -> Peer {
        self.devices[number].address
    }

    /// Returns the endpoint names of the registrations that the broker has.
    pub fn connected_endpoints(&self) -> impl Iterator<Item = &str> {
        self.connected.keys().map(String::as_str)
    }

    /// Returns the next deadline of the core.
    pub fn gateway_deadline(&self) -> Option<Instant> {
        self.gateway_wakes
    }

    /// Returns every publication for this endpoint as JSON, in order.
    pub fn published_for(&self, number: DeviceNumber) -> impl Iterator<Item = Value> + '_ {
        let prefix = format!("lwm2m/{}/", self.devices[number].endpoint);
        self.published
            .iter()
            .filter(move |(_, publication)| publication.topic.starts_with(&prefix))
            .map(|(_, publication)| serde_json::from_slice(&publication.payload).expect("JSON"))
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::ToGateway(from, datagram) => {
                self.arrive(from, &datagram);
                self.send_arrives(&datagram);
                self.gateway.handle_datagram(self.now, from, &datagram);
                let outcomes = self.drain_gateway();
                assert_eq!(outcomes, 1, "one outcome for each datagram");
            }
            Happening::GatewayWakes => {
                // It may have been put off since.
                if self.gateway_wakes == Some(self.now) {
                    self.gateway_wakes = None;
                    self.gateway.handle_timeout(self.now);
                    assert_eq!(self.drain_gateway(), 0);
                }
            }
            Happening::FromBroker(event) => self.broker_says(event),
            Happening::FromDisk(request) => {
                self.images.answer(&mut self.gateway, self.now, *request);
                assert_eq!(self.drain_gateway(), 0, "an outcome without a datagram");
            }
            Happening::ToDevice(to, datagram) => self.arrive_at_device(to, datagram),
            Happening::DeviceWakes(number) => {
                if self.devices[number].wakes == Some(self.now) {
                    self.devices[number].wakes = None;
                    self.with_device(number, SimulatedDevice::handle_timeout);
                }
            }
            Happening::Start(number) => self.with_device(number, SimulatedDevice::start),
            Happening::Stop(number) => self.with_device(number, SimulatedDevice::stop),
            Happening::Move(number) => {
                self.by_address.remove(&self.devices[number].address);
                self.devices[number].address = self.fresh_address(number);
            }
            Happening::Change(number, value) => {
                let path = "/3303/0/5700".parse().expect("a path");
                let value = simulator::SimulatedValue::Float(value);
                self.with_device(number, |device, now| assert!(device.notify(now, path, value)));
            }
            Happening::Send(number, value) => self.send(number, value),
            Happening::Restart => self.restart(),
            Happening::Command(number, payload) => self.command(number, payload),
        }
    }

    fn arrive_at_device(&mut self, to: Peer, datagram: Vec<u8>) {
        if let Some(number) = self.by_address.get(&to).copied() {
            self.confirm(number, &datagram);
            self.with_device(number, |device, now| device.handle_datagram(now, &datagram));
        } else if let Some(others) = &mut self.to_others {
            others.push((to, datagram));
        }
    }

    /// Gives a command by the session of the device at the broker; without one it has no subscriber.
    fn command(&mut self, number: DeviceNumber, payload: Vec<u8>) {
        let endpoint = &self.devices[number].endpoint;
        let Some(registration) = self.connected.get(endpoint).copied() else { return };
        let topic = format!("lwm2m/{endpoint}/dn");
        let command = serde_json::from_slice(&payload).expect("a command of a test is JSON");
        self.devices[number].commanded.push(command);
        let properties = MessageProperties::default();
        self.broker_says(BrokerEvent::Message { registration, topic, payload, properties });
    }

    fn broker_says(&mut self, event: BrokerEvent) {
        if let BrokerEvent::Connected { registration: device } = &event {
            // It was disconnected before it was connected.
            let Some(clientid) = self.clientids.get(device).cloned() else { return };
            if let Some(former) = self.connected.insert(clientid, *device) {
                self.clientids.remove(&former);
                let reason = CloseReason::Discarded;
                self.gateway.handle_broker(self.now, BrokerEvent::Closed { registration: former, reason });
            }
        }
        if let BrokerEvent::Published { ticket, .. } = &event {
            self.taken.extend(self.tickets.remove(ticket));
        }
        if let BrokerEvent::ConnectFailed { registration: device, .. } = &event {
            self.clientids.remove(device);
        }
        self.decide_send(&event);
        self.gateway.handle_broker(self.now, event);
        assert_eq!(self.drain_gateway(), 0, "an outcome without a datagram");
    }

    fn with_device(&mut self, number: DeviceNumber, act: impl FnOnce(&mut SimulatedDevice, Instant)) {
        let now = self.now;
        act(&mut self.devices[number].device, now);
        loop {
            match self.devices[number].device.poll_output() {
                simulator::SimulatedDeviceOutput::Transmit(datagram) => {
                    self.watch(number, &datagram);
                    let from = self.devices[number].address;
                    self.carry(datagram, |datagram| Happening::ToGateway(from, datagram));
                }
                simulator::SimulatedDeviceOutput::Event(event) => self.devices[number].events.push(event),
                simulator::SimulatedDeviceOutput::Idle(next) => {
                    let next = next.map(|next| next.max(now));
                    if let Some(at) = next.filter(|_| self.devices[number].wakes != next) {
                        self.schedule(at, Happening::DeviceWakes(number));
                    }
                    self.devices[number].wakes = next;
                    return;
                }
            }
        }
    }

    /// Gives how many outcomes there were.
    fn drain_gateway(&mut self) -> usize {
        let mut outcomes = 0;
        loop {
            let output = self.gateway.poll_output();
            match output {
                Output::Transmit(transmit) => {
                    self.watch_gateway(transmit.peer, &transmit.datagram);
                    self.carry(transmit.datagram, |datagram| Happening::ToDevice(transmit.peer, datagram));
                }
                Output::Broker(command) => self.serve(command),
                Output::Answer(answer) => panic!("there is no console here, {answer:?}"),
                Output::Report(Report::Datagram { outcome, .. }) => {
                    outcomes += 1;
                    self.rate_limited += usize::from(outcome == DatagramOutcome::Dropped(DropReason::RateLimited));
                }
                Output::Report(report) => self.reports.push(report),
                Output::FindKey(question) => panic!("nobody speaks DTLS here, {question}"),
                Output::Claim(_) | Output::Unclaim { .. } => panic!("this gateway has all devices"),
                Output::DescribeImage { .. } | Output::ReadImage { .. } => {
                    let at = self.now + self.weather.delay.mul_f64(self.rng.random_range(0.0..1.0));
                    self.schedule(at, Happening::FromDisk(Box::new(output)));
                }
                Output::Idle(next) => {
                    let next = next.map(|next| next.max(self.now));
                    if let Some(next) = next.filter(|_| self.gateway_wakes != next) {
                        self.schedule(next, Happening::GatewayWakes);
                    }
                    self.gateway_wakes = next;
                    return outcomes;
                }
            }
        }
    }

    /// Handles a command of the core as the broker would.
    fn serve(&mut self, command: BrokerCommand) {
        match command {
            BrokerCommand::Connect { registration: device, client }
            | BrokerCommand::Resume { registration: device, client } => {
                self.clientids.insert(device, client.clientid);
                let soon = self.now + self.weather.broker_delay.mul_f64(self.rng.random_range(0.0..1.0));
                let (at, event) = match self.broker {
                    BrokerBehaviour::Takes => (soon, BrokerEvent::Connected { registration: device }),
                    BrokerBehaviour::Refuses => {
                        let error = ConnectError::Refused("not this one".to_owned());
                        (soon, BrokerEvent::ConnectFailed { registration: device, error })
                    }
                    BrokerBehaviour::NeverAnswers => {
                        let error = ConnectError::Unavailable("no answer".to_owned());
                        (self.now + Duration::from_secs(10), BrokerEvent::ConnectFailed { registration: device, error })
                    }
                };
                self.schedule(at, Happening::FromBroker(event));
            }
            BrokerCommand::Publish { registration: device, publication } => {
                assert!(
                    self.clientids.contains_key(&device),
                    "a publication for a device that the broker does not have"
                );
                match (publication.class, publication.ticket) {
                    (UplinkClass::Send, Some(ticket)) => return self.take_send(device, ticket, publication),
                    (_, Some(ticket)) => self.issue(device, ticket, &publication),
                    (_, None) => {}
                }
                self.published.push((device, publication));
            }
            BrokerCommand::SetLifetime { .. } | BrokerCommand::Confirm { .. } => {}
            BrokerCommand::Disconnect { registration: device }
            | BrokerCommand::HandOver { registration: device }
            | BrokerCommand::Abandon { registration: device } => {
                let Some(clientid) = self.clientids.remove(&device) else { return };
                if self.connected.get(&clientid) == Some(&device) {
                    self.connected.remove(&clientid);
                }
            }
        }
    }

    /// Lets the broker acknowledge a notification, after its delay or never.
    fn issue(&mut self, device: RegistrationId, ticket: Ticket, publication: &Publication) {
        let endpoint = self.clientids.get(&device).expect("it was published for");
        // A hostile peer that registered is no attached device.
        let number = self.devices.iter().position(|attached| attached.endpoint == *endpoint);
        let payload: Value = serde_json::from_slice(&publication.payload).expect("JSON");
        if let (Some(number), Some((path, observe))) = (number, notification_of(&payload)) {
            self.tickets.insert(ticket, (number, path, observe));
        }
        if !self.rng.random_bool(self.weather.unpublished) {
            let at = self.now + self.weather.broker_delay.mul_f64(self.rng.random_range(0.0..1.0));
            self.schedule(at, Happening::FromBroker(BrokerEvent::Published { registration: device, ticket }));
        }
    }

    fn carry(&mut self, datagram: Vec<u8>, arrival: impl Fn(Vec<u8>) -> Happening) {
        let copies = if self.rng.random_bool(self.weather.duplication) { 2 } else { 1 };
        for _ in 0..copies {
            if !self.rng.random_bool(self.weather.loss) {
                let at = self.now + self.weather.delay.mul_f64(self.rng.random_range(0.0..1.0));
                self.schedule(at, arrival(datagram.clone()));
            }
        }
    }

    fn schedule(&mut self, at: Instant, happening: Happening) {
        self.scheduled += 1;
        self.queue.push(Reverse(ScheduledHappening { at, order: self.scheduled, happening }));
    }

    fn fresh_address(&mut self, number: DeviceNumber) -> Peer {
        self.addresses += 1;
        let address = peer(self.addresses);
        self.by_address.insert(address, number);
        address
    }
}

/// Returns the observed path and the Observe number of a published notification, or of the first answer to `observe`.
pub fn notification_of(payload: &Value) -> Option<(String, u32)> {
    let number = u32::try_from(payload["seqNum"].as_u64()?).expect("24 bits");
    Some((payload["data"]["reqPath"].as_str().expect("a path").to_owned(), number))
}

impl PartialEq for ScheduledHappening {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for ScheduledHappening {}

impl PartialOrd for ScheduledHappening {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ScheduledHappening {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}
