//! The gateway's protocol logic, and the only module that joins `coap`, `lwm2m`, `registry` and `mqtt`. Datagrams of
//! devices and events of the broker go in; datagrams and commands for the broker come out.
//!
//! [`Gateway`] has the entry points. Each part behind them owns its state, and gets the state that all parts share, the
//! `context`, with each event:
//!
//! ```text
//! Gateway
//!  |- Context                what all parts share: time, configuration, CoAP endpoint, DtlsLayer, firmware images,
//!  |                         outputs, changes
//!  |- MessageIntake          which messages are handled, and when (`intake`)
//!  |   |- AdmissionControl   how much a peer may send
//!  |   \- DeferredPulls      requests for blocks of images that wait for their turn
//!  |- Campaigns              firmware updates of many devices (`firmware::campaigns`)
//!  |- BootstrapServer        sessions that give devices their servers and keys (`bootstrap`)
//!  \- Registrations          Register, Update, De-register; the broker's events (`registrations`)
//!      |- AccessControl      which peer may use which endpoint name
//!      |- PendingRegistrations
//!      \- RegisteredDevices  (`devices`)
//!          |- Registry           the devices, each with its pending commands and its observations
//!          |- CommandScheduler   what applications ask of devices, with RetainedCommandDedup (`commands`)
//!          |   \- FirmwareJobs   the firmware updates of devices (`firmware::jobs`)
//!          |- Notifications      what devices send by themselves: notifications, and Sends (`notifications`)
//!          |- QueueMode          which devices are asleep
//!          |- StatusClient       the gateway's own client, which publishes `offline` for banned devices
//!          \- SilentDevices      which device is evicted when there are too many
//! ```
//!
//! Three folders have methods of [`Gateway`] for the shell: [`persistence`] makes the records of the store and restores
//! devices from them, [`moves`] gives devices and whole shards to other gateways and takes theirs, and [`operators`]
//! serves people, who look at devices, command them and trace their messages.
//!
//! What goes in and out is in [`config`], [`broker`], `output` and [`report`]; `settings` replaces parts of the
//! configuration, and `table_sizes` has the gauges. `client` derives a device's client ID, username and topics, and
//! `own_client` is a client of the gateway's own. [`identity`] has the rule by which identities are allowed endpoint
//! names, and `diagnostic` the reasons in answers to devices.

mod bootstrap;
pub mod broker;
mod client;
mod commands;
pub mod config;
mod context;
mod devices;
mod diagnostic;
mod dtls;
pub mod firmware;
#[cfg(test)]
mod fixtures;
pub mod identity;
mod intake;
pub mod moves;
mod notifications;
pub mod operators;
mod output;
mod own_client;
pub mod persistence;
mod registrations;
pub mod report;
mod settings;
mod table_sizes;
mod wall_clock;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::coap::{EndpointEvent, Message, MessageDecodeError};
use crate::lwm2m::model::Model;
use crate::registry::RegistrationId;
use lwm2m_base::identity::Identity;
use lwm2m_base::{Peer, Shard};
use lwm2m_dtls::credentials::{KeyAnswer, KeyQuestion};
use lwm2m_dtls::{DtlsEvent, DtlsServer, DtlsTableSizes};

use bootstrap::{BootstrapServer, forbids_other, is_bootstrap, is_for_bootstrap};
use broker::{BrokerCommand, BrokerEvent};
use commands::CommandScheduler;
use config::GatewayConfig;
use context::Context;
use devices::status_client;
use dtls::DtlsLayer;
use firmware::ImageEvent;
use firmware::campaigns::{Campaigns, client as campaign_client};
use firmware::image::{Image, ImageError, ImageRequestId};
use firmware::images::ImageConsumer;
use firmware::pulls::serving;
use intake::MessageIntake;
use intake::received_request::ReceivedRequest;
use moves::claims::KeepResult;
use notifications::ReceivedNotification;
use registrations::Registrations;
use report::{DropReason, Report};
use wall_clock::WallClock;

pub use output::Output;
pub use persistence::change_batch::{BatchNumber, ChangeBatch};
pub use table_sizes::TableSizes;

/// The protocol logic of the gateway as a state machine without IO: LwM2M devices on one side, the broker on the other.
///
/// # Kinds of methods
///
/// - The entry points take events: [`handle_datagram`](Self::handle_datagram) a datagram of a device,
///   [`handle_broker`](Self::handle_broker) an event of the broker connections,
///   [`handle_timeout`](Self::handle_timeout) the end of a deadline, [`handle_key`](Self::handle_key) the key that a
///   DTLS handshake asked for, [`image_described`](Self::image_described) and [`image_read`](Self::image_read) the
///   description and the bytes of a firmware image.
/// - [`poll_output`](Self::poll_output) returns the next instruction for the shell.
/// - [`take_batch`](Self::take_batch) and [`take_changes`](Self::take_changes) return the changes that the store has to
///   write. They return nothing before [`restore`](Self::restore) was called, which a shell without a store never does.
///   After [`tell_when_stored`](Self::tell_when_stored), [`handle_stored`](Self::handle_stored) takes the confirmations
///   of the store. [`set_store_away`](Self::set_store_away), [`lease_until`](Self::lease_until) and
///   [`rewrite_store`](Self::rewrite_store) take outages, leases and losses of a store on another machine.
/// - Setters ([`set_model`](Self::set_model), [`set_limits`](Self::set_limits), [`set_acceptor`](Self::set_acceptor),
///   [`set_keyed_identities`](Self::set_keyed_identities),
///   [`set_bootstrap_accounts`](Self::set_bootstrap_accounts), [`set_unix_time`](Self::set_unix_time), ...) replace a
///   part of the configuration. They apply to later events.
/// - [`drain`](Self::drain), [`is_drained`](Self::is_drained) and [`end`](Self::end) shut the gateway down, in this
///   order.
/// - [`page`](Self::page) and [`device`](Self::device) return copies of the state of devices for onlookers (users of the
///   console), and send nothing; [`kick`](Self::kick) ends a registration for an operator.
/// - [`trace`](Self::trace) begins to copy the messages of a device, an address or an identity, which
///   [`poll_trace`](Self::poll_trace) returns, until [`end_trace`](Self::end_trace).
/// - [`start_campaign`](Self::start_campaign), [`control_campaign`](Self::control_campaign) and their like serve
///   firmware campaigns.
/// - [`share_endpoints`](Self::share_endpoints), [`handle_claim`](Self::handle_claim), [`release`](Self::release) and
///   [`handed_over`](Self::handed_over) move devices between the gateways of several threads or nodes ([`moves`]).
/// - [`restore_shard`](Self::restore_shard), [`forget_shard`](Self::forget_shard) and their like acquire and
///   release shards in a cluster ([`moves::shards`]).
/// - [`command`](Self::command), [`command_state`](Self::command_state), [`withdraw`](Self::withdraw) and
///   [`set_stream_open`](Self::set_stream_open) serve the console's commands ([`operators::console_commands`]).
/// - Methods that take `&self` send nothing and change nothing, such as [`table_sizes`](Self::table_sizes).
///
/// # Order of calls
///
/// 1. [`new`](Self::new), then [`with_dtls`](Self::with_dtls) if DTLS listeners exist.
/// 2. [`restore`](Self::restore) and after it [`restore_retained_commands`](Self::restore_retained_commands), if a
///    store is used, before the first datagram.
/// 3. Any method that takes `now`, then [`poll_output`](Self::poll_output) until it returns [`Output::Idle`], again and
///    again. Each output is carried out in the order in which it came; the core relies on the order of datagrams and
///    publications. A shell may handle several datagrams before it polls: outputs wait.
/// 4. [`handle_timeout`](Self::handle_timeout) no earlier than the time of the last [`Output::Idle`]. An early call
///    does no harm; a late one delays retransmissions and expiries.
///
/// # Time
///
/// `now` is monotonic: no call may have an earlier `now` than the call before. The core reads no clock. Times that
/// are stored are those of the wall clock, which [`set_unix_time`](Self::set_unix_time) compares with `now`; a step of
/// the wall clock moves no deadline.
///
/// # Randomness
///
/// Tokens, message IDs, locations and jitter derive from the seed of [`new`](Self::new): the same calls give the same
/// outputs.
pub struct Gateway {
    context: Context,
    intake: MessageIntake,
    bootstrap: BootstrapServer,
    registrations: Registrations,
    campaigns: Campaigns,
    /// The devices that have a command in flight, for each shard that is about to be handed over.
    busy: HashMap<Shard, Vec<RegistrationId>>,
}

/// Entry points and outputs.
impl Gateway {
    /// Takes a datagram that came from this peer: a CoAP message, or DTLS records if its socket speaks DTLS. Exactly
    /// one [`Report::Datagram`], or one DTLS report, tells what became of it.
    pub fn handle_datagram(&mut self, now: Instant, peer: Peer, datagram: &[u8]) {
        self.context.now = now;
        if let Some(dtls) = self.context.dtls.as_mut().filter(|dtls| dtls.serves(peer)) {
            dtls.server.handle_datagram(now, peer.socket, peer.address, datagram);
            self.handle_dtls();
        } else {
            self.handle_message(peer, datagram);
        }
    }

    /// Takes an event of the broker connection of a registration. An event of a registration that has ended has no
    /// effect.
    pub fn handle_broker(&mut self, now: Instant, event: BrokerEvent) {
        self.context.now = now;
        if let BrokerEvent::Message { registration, properties, .. } = &event
            && let Some(receipt) = properties.receipt
            && [campaign_client::SESSION, status_client::SESSION, bootstrap::SESSION].contains(registration)
        {
            self.context.command_broker(BrokerCommand::Confirm { registration: *registration, receipt });
        }
        if event.registration() == campaign_client::SESSION {
            self.campaigns.handle_broker(&mut self.context, event);
            return self.handle_coap();
        }
        if event.registration() == status_client::SESSION {
            self.registrations.devices_mut().handle_status_client(&mut self.context, event);
            return self.handle_coap();
        }
        if event.registration() == bootstrap::SESSION {
            self.bootstrap.handle_broker(&mut self.context, event);
            return self.handle_coap();
        }
        let connected = match &event {
            BrokerEvent::Connected { registration } => Some(*registration),
            BrokerEvent::ConnectFailed { .. }
            | BrokerEvent::Closed { .. }
            | BrokerEvent::Reconnected { .. }
            | BrokerEvent::Message { .. }
            | BrokerEvent::Published { .. }
            | BrokerEvent::Queued { .. }
            | BrokerEvent::Unpublished { .. }
            | BrokerEvent::PublishRefused { .. } => None,
        };
        self.registrations.handle_broker(&mut self.context, event);
        if self.context.awaited_bootstraps.len() > 0
            && let Some(device) = connected.and_then(|id| self.registrations.devices().registry().device(id))
        {
            let endpoint = device.registration.endpoint.clone();
            self.deliver_bootstrap(&endpoint);
        }
        self.handle_coap();
    }

    /// Takes the answer to [`Output::FindKey`].
    pub fn handle_key(&mut self, now: Instant, question: &KeyQuestion, answer: KeyAnswer) {
        // A key may have been generated meanwhile: it comes before any other key for registrations.
        let answer = self.context.generated_key(question).unwrap_or(answer);
        let answer = if self.context.is_second_kind(question, &answer) { KeyAnswer::Unavailable } else { answer };
        self.with_dtls_server(now, |server| server.handle_key(now, question, answer));
    }

    /// Takes the answer to [`Output::DescribeImage`]. A second answer has no effect.
    pub fn image_described(&mut self, now: Instant, request: ImageRequestId, result: Result<Image, ImageError>) {
        self.context.now = now;
        if self.context.images.described(request) {
            self.campaigns.described(&mut self.context, self.registrations.devices(), request, result);
            self.handle_image_event(ImageEvent::Described { request, result });
        }
        self.handle_coap();
    }

    /// Takes the answer to [`Output::ReadImage`]. A second answer has no effect.
    pub fn image_read(&mut self, now: Instant, request: ImageRequestId, result: Result<Vec<u8>, ImageError>) {
        self.context.now = now;
        for (reader, result) in self.context.have_read(request, result) {
            let event = match reader {
                ImageConsumer::Pull(pending) => serving::have_read(&mut self.context, pending, result),
                ImageConsumer::Push(part) => Some(ImageEvent::Read { part, result }),
            };
            event.into_iter().for_each(|event| self.handle_image_event(event));
        }
        self.handle_coap();
    }

    /// Does what is due at this time: retransmits messages, expires commands, ends registrations.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.context.now = now;
        self.context.release_overdue();
        self.intake.handle_timeout(now);
        self.with_dtls_server(now, |server| server.handle_timeout(now));
        self.context.coap.handle_timeout(now);
        self.handle_coap();
        self.bootstrap.handle_timeout(&mut self.context);
        self.context.awaited_bootstraps.handle_timeout(now);
        self.deliver_bootstraps();
        self.registrations.devices_mut().handle_timeout(&mut self.context);
        self.campaigns.handle_timeout(&mut self.context);
        self.run_campaigns();
        self.handle_deferred();
        self.context.flush_coap();
    }

    /// Returns the next output. It is called after every `handle_*` until it returns [`Output::Idle`].
    pub fn poll_output(&mut self) -> Output {
        let output = self.context.pop_output();
        let output = output.or_else(|| self.next_unclaimed().map(|endpoint| Output::Unclaim { endpoint }));
        output.unwrap_or_else(|| {
            let devices = self.registrations.devices().next_deadline();
            let intake = self.intake.next_deadline(self.context.now);
            let campaigns = self.campaigns.next_deadline(&self.context);
            let deadlines =
                [self.context.next_deadline(), self.bootstrap.next_deadline(&self.context), devices, campaigns, intake];
            Output::Idle(deadlines.into_iter().flatten().min())
        })
    }
}

/// Setup.
impl Gateway {
    /// Creates a gateway without devices. `seed` is the source of all randomness; `unix_time` is the time of the wall
    /// clock (since 1970) at `now`.
    pub fn new(config: GatewayConfig, model: Arc<Model>, seed: [u8; 32], now: Instant, unix_time: Duration) -> Self {
        let intake = MessageIntake::new(&config.limits);
        let campaigns = Campaigns::new(&config.firmware, now);
        let registrations = Registrations::new(config.status_login.as_ref().map(|_| now));
        let bootstrap_config = config.bootstrap.clone();
        let mut context = Context::new(config, model, seed, WallClock::new(now, unix_time));
        let bootstrap = BootstrapServer::new(bootstrap_config.as_ref(), now, &mut context.rng);
        Self { context, intake, bootstrap, registrations, campaigns, busy: HashMap::new() }
    }

    /// Adds DTLS at this socket and all after it.
    pub fn with_dtls(mut self, server: DtlsServer, first_socket: u16) -> Self {
        self.context.dtls = Some(DtlsLayer::new(server, first_socket));
        self
    }
}

/// Shutdown.
impl Gateway {
    /// Stops accepting work: Registers are answered 5.03 from now on, the pending ones too, and commands wait. Messages
    /// of devices, and answers to commands in flight, are handled as before.
    pub fn drain(&mut self, now: Instant) {
        self.context.now = now;
        self.context.draining = true;
        self.registrations.turn_all_away(&mut self.context);
        self.context.flush_coap();
    }

    /// Returns whether no request and no body is in transfer and no output waits for the store, after
    /// [`Gateway::drain`].
    pub fn is_drained(&self) -> bool {
        self.context.draining && !self.context.coap.is_transferring() && self.context.held.len() == 0
    }

    /// Returns whether the store keeps final answers that the broker may not have yet.
    pub fn has_unpublished_answers(&self) -> bool {
        self.context.outbox.len() > 0
    }

    /// Ends the commands that are still in flight, each with its final answer. The registrations are kept: they survive
    /// the process.
    pub fn end(&mut self, now: Instant) {
        self.context.now = now;
        self.registrations.devices_mut().give_up_in_flight(&mut self.context);
        self.handle_coap();
        self.context.release_held();
    }
}

/// Gauges.
impl Gateway {
    /// Returns the entries of all tables. The cost does not depend on the number of devices.
    pub fn table_sizes(&self) -> TableSizes {
        let sizes = TableSizes::of(&self.context, &self.intake, &self.bootstrap, &self.registrations);
        let (campaigns, campaign_devices) = self.campaigns.sizes();
        TableSizes { campaigns, campaign_devices, ..sizes }
    }

    /// Returns how many registered devices were asleep at the last [`handle_timeout`](Self::handle_timeout). The cost
    /// does not depend on the number of devices.
    pub fn sleeping_devices(&self) -> usize {
        self.registrations.devices().registry().totals().asleep.sum()
    }

    /// Returns the table sizes of the DTLS server; zeros without one.
    pub fn associations(&self) -> DtlsTableSizes {
        self.context.associations()
    }

    /// Returns the maximum number of devices.
    pub fn devices_limit(&self) -> usize {
        self.context.config.limits.devices
    }

    /// Returns the maximum number of bytes of the commands of all devices (`limits.pending_command_bytes_total`).
    pub fn command_bytes_limit(&self) -> usize {
        self.context.config.limits.pending_command_bytes_total
    }
}

/// Passes events from one part to another.
impl Gateway {
    /// Handles a message of a peer: a datagram, or what a DTLS record held.
    fn handle_message(&mut self, peer: Peer, datagram: &[u8]) {
        let decoded = Message::decode(datagram);
        if !self.context.traces.is_empty() {
            self.seen(peer, &decoded, datagram);
        }
        if let Some(decoded) = self.intake.defer(&mut self.context, peer, decoded, datagram) {
            self.handle_decoded(peer, decoded, datagram);
        }
    }

    /// Answers the requests for blocks of images whose turn it is.
    fn handle_deferred(&mut self) {
        for (peer, datagram) in self.intake.take_turn() {
            self.handle_decoded(peer, Message::decode(&datagram), &datagram);
        }
    }

    fn handle_decoded(&mut self, peer: Peer, decoded: Result<Message, MessageDecodeError>, datagram: &[u8]) {
        match self.waits_for_claim(peer, decoded.as_ref().ok(), datagram) {
            KeepResult::NoQuestion => self.admit(peer, decoded, datagram),
            KeepResult::Kept => self.context.flush_coap(),
            KeepResult::Full => intake::drop_datagram(&mut self.context, peer, DropReason::TooManyRequests),
        }
    }

    /// Handles a message, unless it is beyond the rate limits.
    fn admit(&mut self, peer: Peer, decoded: Result<Message, MessageDecodeError>, datagram: &[u8]) {
        let Self { context, intake, registrations, .. } = self;
        intake.admit(context, registrations, peer, decoded, datagram);
        self.handle_coap();
    }

    fn with_dtls_server(&mut self, now: Instant, act: impl FnOnce(&mut DtlsServer)) {
        self.context.now = now;
        if let Some(dtls) = &mut self.context.dtls {
            act(&mut dtls.server);
            self.handle_dtls();
        }
    }

    /// Carries out the outputs and events of the DTLS server until it has no more.
    fn handle_dtls(&mut self) {
        self.context.flush_dtls();
        while let Some(event) = self.context.dtls.as_mut().and_then(|dtls| dtls.server.poll_event()) {
            match event {
                DtlsEvent::Plaintext { peer, plaintext } => self.handle_message(peer, &plaintext),
                DtlsEvent::Established { peer, identity } => self.handle_established(peer, &identity),
            }
            self.context.flush_dtls();
        }
        self.context.flush_coap();
    }

    /// Moves the registrations of an identity to its new association. An association for bootstrap has no
    /// registrations.
    fn handle_established(&mut self, peer: Peer, identity: &Arc<Identity>) {
        let Self { context, registrations, .. } = self;
        if is_for_bootstrap(context, peer, identity) {
            return;
        }
        registrations.devices_mut().established(context, peer, identity);
        self.ask_for_devices_of(peer, identity);
    }

    /// Carries out the events of the CoAP endpoint until it has no more.
    fn handle_coap(&mut self) {
        while let Some(event) = self.context.coap.poll_event() {
            self.handle_coap_event(event);
        }
        self.deliver_bootstraps();
        self.run_campaigns();
        self.context.flush_coap();
    }

    /// Passes the events of devices to campaigns, and carries out the actions of campaigns.
    fn run_campaigns(&mut self) {
        self.campaigns.run(&mut self.context, self.registrations.devices_mut());
    }

    /// Passes the result of reading an image to its firmware update.
    fn handle_image_event(&mut self, event: ImageEvent) {
        self.registrations.handle_image_event(&mut self.context, event);
    }

    /// Answers the `bootstrap` commands whose session has ended, if their device is registered. The others are answered
    /// when it registers.
    fn deliver_bootstraps(&mut self) {
        for endpoint in self.context.awaited_bootstraps.take_ended() {
            self.deliver_bootstrap(&endpoint);
        }
    }

    fn deliver_bootstrap(&mut self, endpoint: &str) {
        let Self { context, registrations, .. } = self;
        let Some(device) = registrations.devices().registry().device_by_endpoint(endpoint) else { return };
        let Some((awaited, outcome)) = context.awaited_bootstraps.deliver(endpoint) else { return };
        CommandScheduler::bootstrapped(context, device, awaited, &outcome);
    }

    fn handle_coap_event(&mut self, event: EndpointEvent) {
        let Self { context, bootstrap, registrations, .. } = self;
        if let Some(exchange) = event.exchange().filter(|exchange| bootstrap.owns(*exchange)) {
            return bootstrap.handle_event(context, exchange, event);
        }
        match event {
            EndpointEvent::Request { id, peer, request } => {
                let received = ReceivedRequest { id, peer, request: &request };
                if is_bootstrap(&request) {
                    bootstrap.handle_request(context, received);
                } else if let Some(reason) = forbids_other(context, peer) {
                    registrations.refuse(context, received, reason);
                } else {
                    registrations.handle_request(context, received);
                }
            }
            EndpointEvent::BodyRefused { peer, error } => {
                let device = registrations.devices().registry().at(peer).next();
                let endpoint = device.map(|device| device.registration.endpoint.clone());
                context.report(Report::TransferFailed { peer, endpoint, error });
            }
            EndpointEvent::BodyWanted { exchange, offset, length, is_answered } => {
                registrations.devices_mut().body_wanted(context, exchange, (offset, length), is_answered);
            }
            EndpointEvent::Acknowledged { exchange } => registrations.devices_mut().acknowledged(context, exchange),
            EndpointEvent::Response { exchange, response, observing } => {
                registrations.devices_mut().answered(context, exchange, &response, observing);
            }
            EndpointEvent::Reset { exchange } => registrations.devices_mut().reset(context, exchange),
            EndpointEvent::TimedOut { exchange } => registrations.devices_mut().timed_out(context, exchange),
            EndpointEvent::Failed { exchange, error } => registrations.devices_mut().failed(context, exchange, error),
            EndpointEvent::Notification { observation, number, response, pending_ack } => {
                let over = number.is_none() || !response.code.is_success();
                let received = Ok(&response);
                let notification = ReceivedNotification { observation, number, received, pending_ack, over };
                registrations.devices_mut().notified(context, notification);
            }
            EndpointEvent::NotificationFailed { observation, number, error, over } => {
                let received = Err(error);
                let notification = ReceivedNotification { observation, number, received, pending_ack: None, over };
                registrations.devices_mut().notified(context, notification);
            }
            EndpointEvent::NotificationSuperseded { observation } => {
                registrations.devices_mut().superseded(context, observation);
            }
        }
    }
}
