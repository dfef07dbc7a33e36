//! The registration interface (LwM2M Core 1.1 section 6.2): Register, Update, De-register, and discovery of this
//! server; and what the broker reports of each registration.
//!
//! A registration passes these stages:
//!
//! 1. pending: a Register has come, and the broker connects, authenticates and subscribes the device
//!    ([`pending`]);
//! 2. registered: the device has its 2.01, and the `register` report is published ([`super::devices`]);
//! 3. left: the device deregistered, its lifetime ended, it registered again, or the broker closed its session.

pub(super) mod access;
mod broker_decisions;
mod messages;
mod moving;
pub(super) mod pending;
mod profiles;
pub(super) mod send_request;
pub(super) mod undefined_versions;

use std::collections::VecDeque;
use std::time::Instant;

use crate::coap::options::number;
use crate::coap::{Code, Request, RequestId, Response};
use crate::lwm2m::register::{ObjectListChange, Registration, Rejection};
use crate::mqtt::uplink::{self, ProvenIdentity};
use crate::registry::{Device, RegistrationId};
use lwm2m_base::Peer;
use lwm2m_base::identity::Identity;

use super::broker::{BrokerCommand, BrokerEvent, ClientInfo, Publication, UplinkClass};
use super::client::client;
use super::commands::report_links_left_out;
use super::config::{GatewayConfig, UpdatePublish};
use super::context::Context;
use super::devices::RegisteredDevices;
use super::devices::presence::publish_status;
use super::diagnostic::{fitting, room, unavailable};
use super::firmware::ImageEvent;
use super::firmware::pulls::{serving, uri};
use super::intake::received_request::ReceivedRequest;
use super::notifications::send;
use super::persistence::held_outputs::Awaited;
use super::report::{Forbidden, LeaveReason, Report};

use access::{AccessControl, forbidden, forbids_request};
use messages::{check_size, read_update, reject, well_known_core, written_name};
use pending::{PendingRegistration, PendingRegistrations};
use profiles::Profiles;
use undefined_versions::report_undefined_versions;

/// The reason for answering a Register 5.03: in a word for the device, and in full for the log.
type TurnedAway = (&'static str, &'static str);
const TOO_MANY_DEVICES: TurnedAway = ("too many devices", "the limit of devices is reached");
const BUSY: TurnedAway = ("busy", "the limit of Registers under way is reached");
const SUPERSEDED: TurnedAway = ("superseded", "the device registers at another gateway of this program");
const MOVING: TurnedAway = ("moving", "the device moves to another gateway of this program");
const STOPPING: TurnedAway = ("stopping", "the gateway is stopping");

/// Owns all registrations, those that are pending and those of registered devices. It passes commands and notifications
/// to the device that they belong to, and knows nothing else of them.
#[derive(Debug, Default)]
pub(super) struct Registrations {
    devices: RegisteredDevices,
    pending: PendingRegistrations,
    access: AccessControl,
    profiles: Profiles,
    last_id: u64,
}

impl Registrations {
    /// Creates the registrations of a gateway without devices. The client for presence connects at this time; with
    /// `None` it never connects.
    pub(super) fn new(status_client_connects_at: Option<Instant>) -> Self {
        Self { devices: RegisteredDevices::new(status_client_connects_at), ..Self::default() }
    }

    /// Answers a request of a device, now or when the broker has answered.
    pub(super) fn handle_request(&mut self, context: &mut Context, received: ReceivedRequest) {
        let ReceivedRequest { id, request, .. } = received;
        let Ok(path) = request.options.texts(number::URI_PATH) else {
            return context.respond(id, Response::new(Code::BAD_REQUEST));
        };
        match (path.as_slice(), request.method) {
            (["rd"], Code::POST) => self.register(context, received),
            (["rd", location], _) => match self.devices.registry().id_by_location(location) {
                Some(registration) => self.handle_registered(context, registration, received),
                None => context.respond(id, Response::new(Code::NOT_FOUND)),
            },
            ([send::PATH], _) => send_request::handle(&mut self.devices, self.pending.len(), context, received),
            ([".well-known", "core"], Code::GET) => context.respond(id, well_known_core(request)),
            ([uri::PATH, key, name], _) => {
                let event = serving::handle(context, received, (key, name));
                event.into_iter().for_each(|event| self.handle_image_event(context, event));
            }
            (["rd"] | [".well-known", "core"], _) => context.respond(id, Response::new(Code::METHOD_NOT_ALLOWED)),
            _ => context.respond(id, Response::new(Code::NOT_FOUND)),
        }
    }

    /// Refuses a request of a peer whose socket or credentials are for bootstrap only.
    pub(super) fn refuse(&mut self, context: &mut Context, received: ReceivedRequest, reason: Forbidden) {
        let identity = context.identity(received.peer);
        let items = received.request.options.texts(number::URI_QUERY).unwrap_or_default();
        let endpoint = items.iter().find_map(|item| item.strip_prefix("ep="));
        let endpoint = endpoint.or_else(|| context.config.identity.endpoint_named_by(identity.as_deref()));
        let endpoint = endpoint.unwrap_or_default().to_owned();
        self.forbid(context, received, &endpoint, reason);
    }

    /// Takes an event of the broker connection of a registration. An event of a registration that has ended has no
    /// effect.
    pub(super) fn handle_broker(&mut self, context: &mut Context, event: BrokerEvent) {
        match event {
            BrokerEvent::Connected { registration } => self.connected(context, registration),
            BrokerEvent::ConnectFailed { registration, error } => self.connect_failed(context, registration, error),
            BrokerEvent::Closed { registration, reason } => self.closed(context, registration, reason),
            BrokerEvent::Reconnected { registration } => {
                if let Some(device) = self.devices.registry_mut().device_mut(registration) {
                    publish_status(context, device);
                }
            }
            BrokerEvent::Message { registration, payload, properties, .. } => {
                self.handle_command(context, registration, payload, properties);
            }
            BrokerEvent::Published { registration, ticket } => {
                self.devices.published(context, self.publishing_device(registration), ticket);
            }
            BrokerEvent::Queued { registration, ticket } => {
                self.devices.queued(context, self.publishing_device(registration), ticket);
            }
            BrokerEvent::Unpublished { registration, ticket } => {
                self.devices.unpublished(context, self.publishing_device(registration), ticket);
            }
            BrokerEvent::PublishRefused { registration, topic } => {
                if let Some(device) = self.devices.registry_mut().device_mut(registration) {
                    let first = !std::mem::replace(&mut device.publish_refused, true);
                    let endpoint = device.registration.endpoint.clone();
                    context.report(Report::PublishRefused { endpoint, topic, first });
                }
            }
        }
    }

    /// Passes the result of reading an image to its firmware update.
    pub(crate) fn handle_image_event(&mut self, context: &mut Context, event: ImageEvent) {
        self.devices.image_event(context, event);
    }

    /// Returns the registration in whose name the client of this one publishes: an older one while its device registers
    /// again.
    fn publishing_device(&self, registration: RegistrationId) -> RegistrationId {
        let successor = self.pending.get(registration).map(|pending| pending.registration.endpoint.as_str());
        successor.and_then(|endpoint| self.devices.registry().id_by_endpoint(endpoint)).unwrap_or(registration)
    }

    /// Answers the pending Registers 5.03, because the gateway shuts down. Their devices register again later.
    pub(crate) fn turn_all_away(&mut self, context: &mut Context) {
        for id in self.pending.ids() {
            self.turn_away(context, id, STOPPING);
        }
    }

    /// Returns an id that no registration has had.
    pub(super) fn new_id(&mut self) -> RegistrationId {
        self.last_id += 1;
        RegistrationId(self.last_id)
    }

    pub(super) fn devices(&self) -> &RegisteredDevices {
        &self.devices
    }

    pub(crate) fn devices_mut(&mut self) -> &mut RegisteredDevices {
        &mut self.devices
    }

    pub(super) fn pending(&self) -> &PendingRegistrations {
        &self.pending
    }

    pub(super) fn profiles(&self) -> &Profiles {
        &self.profiles
    }

    pub(crate) fn profiles_mut(&mut self) -> &mut Profiles {
        &mut self.profiles
    }

    pub(crate) fn access_mut(&mut self) -> &mut AccessControl {
        &mut self.access
    }

    /// Returns the registered device of this name, if it last spoke from there.
    pub(crate) fn device_at(&self, endpoint: &str, peer: Peer) -> Option<&Device> {
        self.devices.registry().device_by_endpoint(endpoint).filter(|device| device.peer == peer)
    }
}

/// Requests of devices.
impl Registrations {
    fn register(&mut self, context: &mut Context, received: ReceivedRequest) {
        let ReceivedRequest { id: request_id, peer, request } = received;
        let identity = context.identity(peer);
        let registration = match self.read_register(context, identity.as_deref(), request) {
            Ok(registration) => registration,
            Err((endpoint, Rejection { code, diagnostic })) => {
                return reject(context, received, endpoint, code, diagnostic);
            }
        };
        let endpoint = registration.endpoint.clone();
        if let Some(reason) = self.forbids_name(context, &endpoint, peer, identity.as_deref()) {
            return self.forbid(context, received, &endpoint, reason);
        }
        if let Some((word, reason)) = self.no_room_for(context, &endpoint, peer) {
            let retry_after = context.config.limits.retry_after;
            let response = unavailable(fitting(reason, word, room(request)), retry_after);
            return self.answer_rejected(context, (peer, request_id), endpoint, response, reason.to_owned());
        }
        let (client, topics) = match client(&context.config, &registration, peer, identity.as_deref()) {
            Ok(client) => client,
            Err(error) => {
                return reject(context, received, Some(endpoint), Code::BAD_REQUEST, error.to_string());
            }
        };
        let id = self.new_id();
        let pending = PendingRegistration {
            id,
            request: request_id,
            room: room(request),
            registration,
            peer,
            identity,
            topics,
            early: VecDeque::new(),
            predecessor_closed: None,
            unclaimed: None,
            predecessor_adopted: false,
        };
        self.wait_for_broker(context, pending, client);
    }

    /// Asks the broker for a device, after another gateway has given it away if one has it. A Register of the same
    /// endpoint that still waits gives way.
    fn wait_for_broker(&mut self, context: &mut Context, mut pending: PendingRegistration, client: ClientInfo) {
        let id = pending.id;
        let connect = if context.claims.is_enabled() && !self.is_claimed(&pending.registration.endpoint) {
            context.ask_for_register(&pending.registration.endpoint, pending.peer, pending.identity.clone());
            pending.unclaimed = Some(client);
            None
        } else {
            Some(BrokerCommand::Connect { registration: id, client })
        };
        let Some(superseded) = self.pending.insert(pending) else {
            return connect.into_iter().for_each(|connect| context.command_broker(connect));
        };
        if superseded.predecessor_closed.is_some() || superseded.predecessor_adopted {
            let endpoint = &superseded.registration.endpoint;
            if let Some(predecessor) = self.devices.registry_mut().device_by_endpoint_mut(endpoint) {
                predecessor.publishes_as = id;
            }
        }
        let response = unavailable("superseded", context.config.limits.retry_after);
        self.respond_to_register(context, superseded.peer, superseded.request, response);
        // The newer Register is passed to the broker first: it inherits the commands that wait for the earlier one.
        connect.into_iter().for_each(|connect| context.command_broker(connect));
        disconnect(context, &superseded);
    }

    /// Returns whether this gateway has claimed the endpoint name, so that no other gateway has it.
    fn is_claimed(&self, endpoint: &str) -> bool {
        self.devices.registry().id_by_endpoint(endpoint).is_some()
            || self.pending.by_endpoint(endpoint).is_some_and(|pending| pending.unclaimed.is_none())
    }
}

/// Ends the session of a pending registration, if the broker was asked for one.
fn disconnect(context: &mut Context, pending: &PendingRegistration) {
    if pending.unclaimed.is_none() {
        context.command_broker(BrokerCommand::Disconnect { registration: pending.id });
    }
}

/// Requests of devices that are registered.
impl Registrations {
    fn handle_registered(&mut self, context: &mut Context, id: RegistrationId, received: ReceivedRequest) {
        let Some(device) = self.devices.registry().device(id) else { return };
        let identity = || context.identity(received.peer);
        if let Some(reason) = forbids_request(&context.config.identity, device, received.peer, identity) {
            let endpoint = device.registration.endpoint.clone();
            return self.forbid(context, received, &endpoint, reason);
        }
        match received.request.method {
            Code::POST | Code::PUT => self.update(context, id, received),
            Code::DELETE => {
                let endpoint = device.registration.endpoint.clone();
                context.tell_when_stored(Awaited::Device(&endpoint), |context| {
                    context.respond(received.id, Response::new(Code::DELETED));
                    self.devices.leave(context, id, LeaveReason::Deregistered);
                });
            }
            _ => context.respond(received.id, Response::new(Code::METHOD_NOT_ALLOWED)),
        }
    }

    /// Answers an Update. The cost of an Update without changes does not depend on the size of the registration,
    /// because a device may send many of them.
    fn update(&mut self, context: &mut Context, id: RegistrationId, received: ReceivedRequest) {
        let Some(device) = self.devices.registry().device(id) else { return };
        let update = match read_update(&context.config, device, received.request) {
            Ok(update) => update,
            Err(Rejection { code, diagnostic }) => {
                let endpoint = Some(device.registration.endpoint.clone());
                return reject(context, received, endpoint, code, diagnostic);
            }
        };
        let is_news = !update.is_empty();
        let change = self.devices.update(context, id, received.peer, update);
        let Some((device, commands)) = self.devices.with_commands(id) else { return };
        let answer = |context: &mut Context| {
            context.respond(received.id, Response::new(Code::CHANGED));
            if is_published(&context.config, change) {
                let proven = proven(&context.config, device.identity.as_deref());
                let (payload, topic) = (uplink::update(&device.registration, proven), device.topics.update());
                context.publish(device.publishes_as, Publication::new(topic, payload, UplinkClass::Registration));
            }
        };
        match is_news {
            true => context.tell_when_stored(Awaited::Device(&device.registration.endpoint), answer),
            // Only the time of the last message has changed, which may be stored later.
            false => answer(context),
        }
        context.report(Report::Updated { endpoint: device.registration.endpoint.clone() });
        report_left_out(context, device);
        report_undefined_versions(context, device);
        commands.send_next(context, device);
    }

    fn forbid(&mut self, context: &mut Context, received: ReceivedRequest, endpoint: &str, reason: Forbidden) {
        let ReceivedRequest { id, peer, request } = received;
        let identity = context.identity(peer);
        context.report(forbidden(endpoint, (peer, identity.as_deref()), reason));
        self.respond_to_register(context, peer, id, forbidding(reason, room(request)));
    }
}

/// Returns a 4.03, with a diagnostic payload of at most `room` bytes.
fn forbidding(reason: Forbidden, room: usize) -> Response {
    let why = match reason {
        Forbidden::OtherName => "the identity stands for another endpoint name",
        Forbidden::OtherIdentity => "the registration is of another identity",
        Forbidden::Unsecured => "this endpoint name is registered over DTLS",
        Forbidden::HasKey => "this endpoint name has a key: use DTLS",
        Forbidden::BootstrapOnly => "only for bootstrap",
    };
    Response::with_diagnostic(Code::FORBIDDEN, fitting(why, "identity", room))
}

/// Answers to Registers.
impl Registrations {
    /// Reads a Register. The registration has a maximum size in bytes, because the peer decides what it contains.
    fn read_register(
        &mut self,
        context: &Context,
        identity: Option<&Identity>,
        request: &Request,
    ) -> Result<Registration, (Option<String>, Rejection)> {
        let config = &context.config;
        let known_as = config.identity.endpoint_named_by(identity);
        let registration = Registration::from_register(request, config.registration_rules(), known_as);
        let mut registration = registration.map_err(|rejection| (written_name(request), rejection))?;
        self.profiles.complete(&mut registration, identity.is_some());
        if !config.report_attributes {
            registration.forget_attributes();
        }
        match check_size(config, registration.size()) {
            Ok(()) => Ok(registration),
            Err(rejection) => Err((Some(registration.endpoint), rejection)),
        }
    }

    /// Returns why a peer with this identity may not register by this name.
    fn forbids_name(
        &self,
        context: &Context,
        endpoint: &str,
        peer: Peer,
        identity: Option<&Identity>,
    ) -> Option<Forbidden> {
        let registered = self.devices.registry().device_by_endpoint(endpoint);
        let taken_over_dtls = registered.is_some_and(|device| device.identity.is_some())
            || self.pending.by_endpoint(endpoint).is_some_and(|pending| pending.identity.is_some());
        let forbidden = self.access.forbids_name(&context.config, endpoint, (peer, identity), taken_over_dtls);
        let own = || context.config.identity.identity_of(endpoint);
        let has_key = || own().is_some_and(|own| context.generated_keys.contains(&own));
        let may_have_key = context.generated_keys.len() > 0;
        let needs_dtls = may_have_key && peer.association.is_none() && !context.config.plain_udp_for_psk_devices;
        forbidden.or_else(|| (needs_dtls && has_key()).then_some(Forbidden::HasKey))
    }

    /// Returns why this device cannot register now; `None` if it can.
    fn no_room_for(&mut self, context: &Context, endpoint: &str, peer: Peer) -> Option<TurnedAway> {
        let limits = &context.config.limits;
        let registered = self.devices.registry().id_by_endpoint(endpoint).is_some();
        let is_full = self.devices.registry().len() + self.pending.len() >= limits.devices;
        if context.draining {
            Some(STOPPING)
        } else if !registered && is_full && self.devices.evictable(context.now).is_none() {
            Some(TOO_MANY_DEVICES)
        } else if self.pending.len() >= limits.pending_registrations
            && self.pending.by_endpoint(endpoint).is_none()
            && self.device_at(endpoint, peer).is_none()
        {
            Some(BUSY)
        } else {
            None
        }
    }

    fn answer_rejected(
        &mut self,
        context: &mut Context,
        (peer, register): (Peer, RequestId),
        endpoint: String,
        response: Response,
        reason: String,
    ) {
        let code = response.code;
        self.respond_to_register(context, peer, register, response);
        context.report(Report::RegisterRejected { peer, endpoint: Some(endpoint), code, reason });
    }

    /// Answers a Register that is rejected. A peer that is not registered gets the answer once: its address may be
    /// another one's, and retransmissions would multiply what came.
    fn respond_to_register(&self, context: &mut Context, peer: Peer, register: RequestId, response: Response) {
        if self.devices.registry().is_known(peer) {
            context.respond(register, response);
        } else {
            context.coap.respond_once(context.now, register, response);
        }
    }
}

fn is_published(config: &GatewayConfig, change: ObjectListChange) -> bool {
    match config.update_msg_publish_condition {
        UpdatePublish::Always => true,
        UpdatePublish::ContainsObjectList => change != ObjectListChange::Absent,
        UpdatePublish::ObjectListChanged => change == ObjectListChange::Changed,
    }
}

/// Returns the identity as the reports show it.
fn proven<'i>(config: &GatewayConfig, identity: Option<&'i Identity>) -> ProvenIdentity<'i> {
    if config.report_identity {
        ProvenIdentity::Included(identity.and_then(Identity::name))
    } else {
        ProvenIdentity::Omitted
    }
}

/// Reports malformed parts in the link list of a Register or an Update.
fn report_left_out(context: &mut Context, device: &mut Device) {
    if let Some(left_out) = device.registration.take_left_out() {
        report_links_left_out(context, device, left_out.to_string());
    }
}
