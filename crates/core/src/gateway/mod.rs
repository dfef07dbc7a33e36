//! The only place where coap, lwm2m, registry and mqtt meet: devices' datagrams and the broker's events in, datagrams and
//! commands to the broker out.
//!
//! A registration passes these stages:
//!
//! 1. pending: a Register has come, and the broker connects, authenticates and subscribes the device
//!    (`pending_registrations`);
//! 2. registered: the device has its 2.01, and the `register` report is published (`registration`);
//! 3. left: the device deregistered, its lifetime ended, it registered again, or the broker closed its connection.
//!
//! `command` sends what applications ask of devices, `notification` publishes what devices send by themselves,
//! `auto_observe` chooses what the gateway observes on its own, `queue_mode` tells which devices sleep, `dtls` has the
//! devices that speak DTLS, and `restart` makes records of the devices and restores them.

mod admission;
mod auto_observe;
pub mod broker;
mod command;
pub mod config;
mod diagnostic;
mod draining;
mod dtls;
mod eviction;
pub mod identity;
mod notification;
mod pending_changes;
mod pending_registrations;
mod presence;
mod queue_mode;
pub mod record;
mod registration;
pub mod report;
mod restart;
mod retained_command_dedup;
mod table_sizes;
mod wall_clock;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::coap::{self, Endpoint, ExchangeId, RequestId, Response, Transmit};
use crate::command::Reply;
use crate::lwm2m::codec::DecodeContext;
use crate::lwm2m::model::Model;
use crate::lwm2m::operation::{Operation, Outcome};
use crate::registry::{CommandBytes, Device, Registry, Topic};
use lwm2m_base::Peer;
use lwm2m_base::deadlines::Deadlines;
use lwm2m_dtls::credentials::PskIdentity;

use admission::AdmissionControl;
use broker::{BrokerCommand, BrokerEvent, Publication, RegistrationId, Ticket, UplinkClass};
use config::{GatewayConfig, Limits};
use dtls::DtlsLayer;
use notification::ReceivedNotification;
use pending_changes::PendingChanges;
use pending_registrations::PendingRegistrations;
use report::Report;
use retained_command_dedup::RetainedCommandDedup;
use wall_clock::WallClock;

pub use table_sizes::TableSizes;

/// An obligation of the shell. Changes for the store are apart from it: [`Gateway::take_changes`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// The shell sends this datagram to a device. It may be lost: the core retransmits what matters.
    Transmit(Transmit),
    /// The shell passes this to the broker's side, in order for each registration. Every [`BrokerCommand::Connect`] is
    /// answered as its documentation says.
    Broker(BrokerCommand),
    /// A DTLS handshake needs the key of this identity. The shell answers by [`Gateway::handle_key`], now or later.
    FindKey(PskIdentity),
    /// The shell counts this, and logs it.
    Report(Report),
    /// No output is left. The shell calls [`Gateway::handle_timeout`] at this time, if nothing comes before; `None` asks
    /// for no call.
    Idle(Option<Instant>),
}

/// The protocol logic of the gateway as a state machine without IO: LwM2M devices on one side, the broker on the other.
///
/// # Kinds of methods
///
/// - Four doors take what happens outside: [`handle_datagram`](Self::handle_datagram) what a device sent,
///   [`handle_broker`](Self::handle_broker) what the broker's side did, [`handle_timeout`](Self::handle_timeout) that time
///   has passed, and [`handle_key`](Self::handle_key) the key that a DTLS handshake asked for.
/// - [`poll_output`](Self::poll_output) returns what the shell has to do, one thing at a time.
/// - [`take_changes`](Self::take_changes) returns what the store has to write, for those who keep one; it produces nothing
///   before [`restore`](Self::restore) was called.
/// - Setters ([`set_model`](Self::set_model), [`set_limits`](Self::set_limits), [`set_acceptor`](Self::set_acceptor),
///   [`set_keyed_identities`](Self::set_keyed_identities), [`set_unix_time`](Self::set_unix_time), ...) replace a part of
///   the configuration. They hold for what comes after.
/// - [`drain`](Self::drain), [`is_drained`](Self::is_drained) and [`end`](Self::end) shut the gateway down, in this order.
/// - Methods that take `&self` only count: [`table_sizes`](Self::table_sizes), [`sleeping_devices`](Self::sleeping_devices).
///
/// # Order of calls
///
/// 1. [`new`](Self::new), then [`with_dtls`](Self::with_dtls) if DTLS listeners exist.
/// 2. [`restore`](Self::restore) and after it [`restore_retained_commands`](Self::restore_retained_commands), if a store is
///    used, before the first datagram.
/// 3. Any method that takes `now`, then [`poll_output`](Self::poll_output) until it returns [`Output::Idle`], again and
///    again. Each output is carried out in the order in which it came; the core relies on the order of datagrams and
///    publications. A shell may handle several datagrams before it polls: outputs wait.
/// 4. [`handle_timeout`](Self::handle_timeout) no earlier than the time of the last [`Output::Idle`]. An early call does no
///    harm; a late one delays retransmissions and expiries.
///
/// # Time
///
/// `now` is monotonic: no call may have an earlier `now` than the call before. The core reads no clock. Times that
/// outlive the process are those of the wall clock, which [`set_unix_time`](Self::set_unix_time) compares with `now`; a step
/// of the wall clock moves no deadline.
///
/// # Randomness
///
/// Tokens, message IDs, locations and jitter derive from the seed of [`new`](Self::new): the same calls give the same
/// outputs.
pub struct Gateway {
    settings: GatewayConfig,
    model: Arc<Model>,
    rng: StdRng,
    admission: AdmissionControl,
    coap: Endpoint,
    dtls: Option<DtlsLayer>,
    registry: Registry,
    pending_registrations: PendingRegistrations,
    retained_commands: RetainedCommandDedup,
    /// Counts the bytes of the commands that are kept for devices.
    command_bytes: CommandBytes,
    /// The devices of plain UDP, by the time of their last message as of the last look.
    silent: Deadlines<RegistrationId>,
    /// The identities that have a key of their own.
    keyed: HashSet<PskIdentity>,
    /// The registration that each exchange and observation belongs to.
    exchanges: HashMap<ExchangeId, RegistrationId>,
    deadlines: Deadlines<Deadline>,
    outputs: VecDeque<Output>,
    /// The endpoints whose record in the store is out of date.
    changes: PendingChanges,
    /// The serial of the newest record of a command.
    last_record: u64,
    wall_clock: WallClock,
    last_registration: u64,
    /// The program shuts down: no new work begins.
    draining: bool,
    last_ticket: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Deadline {
    /// The lifetime may be over. Every message of the device moves its end, so that it is checked when this comes.
    Lifetime(RegistrationId),
    /// The first of the pending commands expires.
    Expiry(RegistrationId),
    /// A device in queue mode may fall asleep: checked when it comes, and set only where presence is published.
    Sleep(RegistrationId),
}

impl Gateway {
    /// `seed` is the source of all randomness; `unix_time` is what the wall clock (since 1970) says at `now`.
    pub fn new(settings: GatewayConfig, model: Arc<Model>, seed: [u8; 32], now: Instant, unix_time: Duration) -> Self {
        let mut rng = StdRng::from_seed(seed);
        Self {
            admission: AdmissionControl::new(&settings.limits),
            coap: Endpoint::new(settings.coap.clone(), rng.random()),
            dtls: None,
            settings,
            model,
            rng,
            registry: Registry::default(),
            pending_registrations: PendingRegistrations::default(),
            retained_commands: RetainedCommandDedup::default(),
            command_bytes: CommandBytes::default(),
            silent: Deadlines::default(),
            keyed: HashSet::new(),
            exchanges: HashMap::new(),
            deadlines: Deadlines::default(),
            outputs: VecDeque::new(),
            changes: PendingChanges::default(),
            last_record: 0,
            wall_clock: WallClock::new(now, unix_time),
            last_registration: 0,
            draining: false,
            last_ticket: 0,
        }
    }

    /// Takes a datagram that came from this peer: a CoAP message, or DTLS records if its socket speaks DTLS. Exactly one
    /// [`Report::Datagram`], or one DTLS report, tells what became of it.
    pub fn handle_datagram(&mut self, now: Instant, peer: Peer, datagram: &[u8]) {
        if !self.handle_dtls_datagram(now, peer, datagram) {
            self.handle_message(now, peer, datagram);
        }
    }

    /// Takes what the broker's side reports of a registration. An event of a registration that has left has no effect.
    pub fn handle_broker(&mut self, now: Instant, event: BrokerEvent) {
        match event {
            BrokerEvent::Connected { registration: device } => self.joined(now, device),
            BrokerEvent::ConnectFailed { registration: device, error } => self.connect_failed(now, device, error),
            BrokerEvent::Closed { registration: device, reason } => self.closed_by_broker(now, device, reason),
            BrokerEvent::Reconnected { registration: device } => self.publish_status(device),
            BrokerEvent::Message { registration: device, payload, properties, .. } => {
                self.handle_command(now, device, payload, properties);
            }
            BrokerEvent::Published { registration: device, ticket } => self.published(device, ticket),
            BrokerEvent::PublishRefused { registration: device, topic } => self.publish_refused(device, topic),
        }
        self.handle_coap(now);
    }

    /// Does what is due at this time: retransmissions, expiries, ends of lifetimes.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.admission.handle_timeout(now);
        self.handle_dtls_timeout(now);
        self.coap.handle_timeout(now);
        self.handle_coap(now);
        while let Some(deadline) = self.deadlines.pop_expired(now) {
            match deadline {
                Deadline::Lifetime(device) => self.check_lifetime(now, device),
                Deadline::Expiry(device) => self.expire_commands(now, device),
                Deadline::Sleep(device) => self.check_sleep(now, device),
            }
        }
        self.flush_coap();
    }

    /// Returns the next output. It is called after every `handle_*` until it returns [`Output::Idle`].
    pub fn poll_output(&mut self) -> Output {
        match self.outputs.pop_front() {
            Some(output) => output,
            None => {
                let deadlines = [self.coap.next_deadline(), self.deadlines.next(), self.next_dtls_deadline()];
                Output::Idle(deadlines.into_iter().flatten().min())
            }
        }
    }

    /// Compares the clocks anew: `unix_time` is the wall clock at `now`. An operator may have set it since.
    pub fn set_unix_time(&mut self, now: Instant, unix_time: Duration) {
        self.wall_clock = WallClock::new(now, unix_time);
    }

    /// Replaces the object definitions that payloads and commands are read by.
    pub fn set_model(&mut self, model: Arc<Model>) {
        self.model = model;
    }

    /// Replaces the limits. Devices, commands and observations beyond the new limits stay.
    pub fn set_limits(&mut self, mut limits: Limits) {
        // The requests of registered devices keep their room: that of the endpoint is as it was at the start.
        limits.pending_registrations =
            limits.pending_registrations.min(self.settings.coap.pending_requests.saturating_sub(1)).max(1);
        self.admission.set_limits(&limits);
        self.settings.limits = limits;
    }

    fn handle_coap(&mut self, now: Instant) {
        while let Some(event) = self.coap.poll_event() {
            match event {
                coap::Event::Request { id, peer, request } => self.handle_request(now, id, peer, &request),
                coap::Event::Acknowledged { exchange } => self.command_acknowledged(now, exchange),
                coap::Event::Response { exchange, response, observing } => {
                    self.command_answered(now, exchange, &response, observing);
                }
                coap::Event::Reset { exchange } => self.command_reset(now, exchange),
                coap::Event::TimedOut { exchange } => self.command_timed_out(now, exchange),
                coap::Event::Failed { exchange, error } => self.command_failed(now, exchange, error),
                coap::Event::Notification { observation, number, response, owed } => {
                    let over = number.is_none() || !response.code.is_success();
                    self.notified(
                        now,
                        observation,
                        ReceivedNotification { number, received: Ok(&response), owed, over },
                    );
                }
                coap::Event::NotificationFailed { observation, number, error, over } => {
                    self.notified(
                        now,
                        observation,
                        ReceivedNotification { number, received: Err(error), owed: None, over },
                    );
                }
                coap::Event::NotificationSuperseded { observation } => self.notification_superseded(now, observation),
                coap::Event::BodyRefused { peer, error } => self.report(Report::TransferFailed { peer, error }),
            }
        }
        self.flush_coap();
    }

    /// Everything goes out in the order in which it came to be: what the endpoint has to send is in front.
    fn push(&mut self, output: Output) {
        self.flush_coap();
        self.outputs.push_back(output);
    }

    fn flush_coap(&mut self) {
        while let Some(output) = self.coap.poll_output() {
            let report = match output {
                coap::Output::Transmit(transmit) => {
                    self.transmit(transmit);
                    continue;
                }
                coap::Output::Outcome(peer, verdict) => Report::Datagram { peer, outcome: verdict },
                coap::Output::Retransmitted(peer) => Report::Retransmitted { peer },
                coap::Output::Evicted(peer) => Report::DuplicateForgotten { peer },
            };
            self.outputs.push_back(Output::Report(report));
        }
    }

    fn report(&mut self, report: Report) {
        self.push(Output::Report(report));
    }

    fn respond(&mut self, now: Instant, request: RequestId, response: Response) {
        self.coap.respond(now, request, response);
    }

    /// A Register that came to nothing. Who is not registered hears of it once: its address may be another one's, and
    /// retransmissions would multiply what came.
    fn respond_to_register(&mut self, now: Instant, peer: Peer, register: RequestId, response: Response) {
        if self.registry.is_known(peer) {
            self.coap.respond(now, register, response);
        } else {
            self.coap.respond_once(now, register, response);
        }
    }

    fn publish(&mut self, device: RegistrationId, topic: Topic, payload: Vec<u8>, class: UplinkClass) {
        self.publish_with(device, topic, payload, class, None);
    }

    fn publish_with(
        &mut self,
        device: RegistrationId,
        topic: Topic,
        payload: Vec<u8>,
        class: UplinkClass,
        ticket: Option<Ticket>,
    ) {
        let Topic { name: topic, qos } = topic;
        let publication = Publication { topic, qos, payload, class, retain: false, correlation: None, ticket };
        self.push_publication(device, publication);
    }

    /// By the registration that is under way where the broker has ended the connection of this one.
    fn push_publication(&mut self, device: RegistrationId, publication: Publication) {
        let endpoint = self.registry.device(device).map(|device| device.registration.endpoint.as_str());
        let device = endpoint.and_then(|endpoint| self.pending_registrations.instead_of(endpoint)).unwrap_or(device);
        self.push(Output::Broker(BrokerCommand::Publish { registration: device, publication }));
    }

    /// The same answer to the topic that the command named, if it named one, and to the device's own.
    fn publish_final_answer(&mut self, device: RegistrationId, reply: Option<&Reply>, payload: Vec<u8>) {
        let qos = self.registry.device(device).map(|device| device.topics.response.qos);
        self.publish_reply(device, qos.unwrap_or(0), reply, &payload);
        self.publish_answer(device, payload);
    }

    fn publish_reply(&mut self, device: RegistrationId, qos: u8, reply: Option<&Reply>, payload: &[u8]) {
        let Some(Reply { topic, correlation }) = reply.cloned() else { return };
        let (payload, class) = (payload.to_vec(), UplinkClass::Answer);
        let publication = Publication { topic, qos, payload, class, retain: false, correlation, ticket: None };
        self.push_publication(device, publication);
    }

    /// To the device's topic for answers.
    fn publish_answer(&mut self, device: RegistrationId, payload: Vec<u8>) {
        let Some(topic) = self.registry.device(device).map(|device| device.topics.response.clone()) else { return };
        self.publish(device, topic, payload, UplinkClass::Answer);
    }

    fn publish_refused(&mut self, id: RegistrationId, topic: String) {
        let Some(device) = self.registry.device_mut(id) else { return };
        let first = !std::mem::replace(&mut device.publish_refused, true);
        let endpoint = device.registration.endpoint.clone();
        self.report(Report::PublishRefused { endpoint, topic, first });
    }

    /// What a response of this device means for an operation, now.
    fn outcome(&self, now: Instant, device: &Device, operation: &Operation, response: &Response) -> Outcome {
        let context = DecodeContext {
            registration: &device.registration,
            model: &self.model,
            undefined: self.settings.undefined_resources,
            unix_time: self.wall_clock.unix_time(now),
        };
        operation.outcome(response, context)
    }

    /// Something valid came from the device: it is awake, and its lifetime begins again.
    fn heard_from(&mut self, now: Instant, id: RegistrationId) {
        if let Some(device) = self.registry.device_mut(id) {
            device.heard_from(now);
            if device.needs_new_record() {
                self.changed(id);
            }
        }
        self.wakes_up(now, id);
    }

    fn new_registration_id(&mut self) -> RegistrationId {
        self.last_registration += 1;
        RegistrationId(self.last_registration)
    }

    fn devices_and_pending(&self) -> usize {
        self.registry.len() + self.pending_registrations.len()
    }

    /// The device speaks from another address of the same transport.
    fn moved(&mut self, now: Instant, id: RegistrationId, to: Peer) {
        let Some(from) = self.registry.readdress(id, to) else { return };
        let Some(device) = self.registry.device(id) else { return };
        let endpoint = device.registration.endpoint.clone();
        let under_way = device.exchanges();
        self.changed(id);
        self.coap.readdress(now, under_way, to);
        self.report(Report::Moved { endpoint, from, to });
    }
}
