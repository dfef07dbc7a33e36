//! The only place where coap, lwm2m, registry and mqtt meet: devices' datagrams and the broker's events in, datagrams and
//! commands to the broker out.
//!
//! A device's way: Register -> pending (the broker connects and authenticates it) -> registered (2.01, then the report)
//! -> left. `registration` has the requests of devices, `pending` the way in, `command` what applications ask of
//! devices and `notification` what devices tell by themselves. `secured` has the devices that speak DTLS. `restart` makes records of the devices and takes them up
//! again.

mod admission;
pub mod broker;
mod command;
pub mod config;
mod diagnostic;
mod draining;
mod dtls;
mod eviction;
pub mod identity;
mod notification;
mod pending_registrations;
mod presence;
pub mod record;
mod registration;
pub mod report;
mod restart;
mod retained_command_dedup;
mod table_sizes;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::coap::{self, Endpoint, ExchangeId, RequestId, Response, Transmit};
use crate::lwm2m::codec::Context;
use crate::lwm2m::model::Model;
use crate::lwm2m::operation::{Operation, Outcome};
use crate::mqtt::downlink::Reply;
use crate::mqtt::topics::Topic;
use crate::registry::{CommandBytes, Device, Registry};
use lwm2m_base::Peer;
use lwm2m_base::deadlines::Deadlines;
use lwm2m_dtls::credentials::PskIdentity;

use admission::AdmissionControl;
use broker::{BrokerCommand, BrokerEvent, Publication, RegistrationId, Ticket, UplinkClass};
use config::{GatewayConfig, Limits};
use dtls::DtlsLayer;
use notification::ReceivedNotification;
use pending_registrations::PendingRegistrations;
use report::Report;
use restart::PendingChanges;
use retained_command_dedup::RetainedCommandDedup;

pub use table_sizes::TableSizes;

/// What the shell has to do. What has to be kept over a restart is apart from it: [`Gateway::take_changes`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// To a device.
    Transmit(Transmit),
    Broker(BrokerCommand),
    /// A DTLS handshake needs the key of this identity: [`Gateway::handle_key`], now or later.
    FindKey(PskIdentity),
    /// To be counted, and logged.
    Report(Report),
    /// Nothing is left; `handle_timeout` is due at this time, if nothing comes before.
    Idle(Option<Instant>),
}

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
    retained_changes: PendingChanges,
    /// Bytes of the commands that are kept for devices.
    command_bytes: CommandBytes,
    /// The devices of plain UDP, by when they were heard as of the last look.
    silent: Deadlines<RegistrationId>,
    /// The identities that have a key of their own.
    keyed: HashSet<PskIdentity>,
    /// Whose an exchange or an observation is.
    exchanges: HashMap<ExchangeId, RegistrationId>,
    deadlines: Deadlines<Deadline>,
    outputs: VecDeque<Output>,
    changes: PendingChanges,
    /// The serial of the newest record of a command.
    last_record: u64,
    /// The same moment by both clocks: monotonic, and since 1970.
    clocks: (Instant, Duration),
    /// What the shell said last.
    now: Instant,
    last_device: u64,
    /// The program ends: nothing new is begun.
    draining: bool,
    last_ticket: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Deadline {
    /// Looked at anew when it comes: every message of the device moves the end of its lifetime.
    Lifetime(RegistrationId),
    /// The first of the waiting commands expires.
    Expiry(RegistrationId),
    /// A device in queue mode falls asleep. Looked at anew when it comes, and set only where presence is told.
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
            retained_changes: PendingChanges::default(),
            command_bytes: CommandBytes::default(),
            silent: Deadlines::default(),
            keyed: HashSet::new(),
            exchanges: HashMap::new(),
            deadlines: Deadlines::default(),
            outputs: VecDeque::new(),
            changes: PendingChanges::default(),
            last_record: 0,
            clocks: (now, unix_time),
            now,
            last_device: 0,
            draining: false,
            last_ticket: 0,
        }
    }

    pub fn handle_broker(&mut self, now: Instant, event: BrokerEvent) {
        self.now = now;
        match event {
            BrokerEvent::Connected { device } => self.joined(now, device),
            BrokerEvent::ConnectFailed { device, error } => self.connect_failed(now, device, error),
            BrokerEvent::Closed { device, reason } => self.closed_by_broker(now, device, reason),
            BrokerEvent::Reconnected { device } => self.publish_status(device),
            BrokerEvent::Message { device, payload, properties, .. } => {
                self.handle_command(now, device, payload, properties);
            }
            BrokerEvent::Published { device, ticket } => self.published(device, ticket),
            BrokerEvent::PublishRefused { device, topic } => self.publish_refused(device, topic),
        }
        self.handle_coap(now);
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = now;
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

    /// Call after every `handle_*` until it returns [`Output::Idle`].
    pub fn poll_output(&mut self) -> Output {
        match self.outputs.pop_front() {
            Some(output) => output,
            None => {
                let deadlines = [self.coap.next_deadline(), self.deadlines.next(), self.next_dtls_deadline()];
                Output::Idle(deadlines.into_iter().flatten().min())
            }
        }
    }

    /// Tells what the wall clock says; it may have been set since.
    pub fn set_unix_time(&mut self, now: Instant, unix_time: Duration) {
        self.clocks = (now, unix_time);
    }

    /// What comes from devices, and what applications ask of them, is read by these definitions from now on.
    pub fn set_model(&mut self, model: Arc<Model>) {
        self.model = model;
    }

    /// These bounds hold from now on. Devices, commands and observations that are beyond them already stay.
    pub fn set_limits(&mut self, mut limits: Limits) {
        // The requests of registered devices keep their room: that of the endpoint is as it was at the start.
        limits.pending_registrations =
            limits.pending_registrations.min(self.settings.coap.pending_requests.saturating_sub(1)).max(1);
        self.admission.set_limits(&limits);
        self.settings.limits = limits;
    }

    pub fn registered_devices(&self) -> usize {
        self.registry.len()
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
                coap::Output::Verdict(peer, verdict) => Report::Datagram { peer, verdict },
                coap::Output::Retransmitted(peer) => Report::Retransmitted { peer },
                coap::Output::Forgotten(peer) => Report::DuplicateForgotten { peer },
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
        self.push(Output::Broker(BrokerCommand::Publish { device, publication }));
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
        let context = Context {
            registration: &device.registration,
            model: &self.model,
            undefined: self.settings.undefined_resources,
            unix_time: self.unix_time(now),
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
        self.last_device += 1;
        RegistrationId(self.last_device)
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
