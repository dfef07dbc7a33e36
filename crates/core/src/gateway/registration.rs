//! The requests of devices: Register, Update, De-register, and discovery of this server.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::coap::options::{format, number};
use crate::coap::{Code, Request, RequestId, Response};
use crate::lwm2m::register::{ObjectListChange, Registration, Rejection, Update};
use crate::mqtt::topics::{Names, TopicError, check_text};
use crate::mqtt::uplink::{self, Proven};
use crate::registry::{Device, Topics};
use lwm2m_base::Peer;
use lwm2m_dtls::credentials::Identity;

use super::broker::{BrokerCommand, ClientInfo, RegistrationId, UplinkClass};
use super::config::{PasswordSource, UpdatePublish};
use super::diagnostic::{fitting, room};
use super::draining::STOPPING;
use super::pending_registrations::{PendingRegistration, TOO_MANY_DEVICES};
use super::presence::will;
use super::queue_mode::awake_window;
use super::report::{Forbidden, LeaveReason, Report};
use super::{Deadline, Gateway, Output};

/// What this server has (RFC 6690; LwM2M Core 1.1 section 6.2.1 names the resource of the registration interface).
const WELL_KNOWN_CORE: &str = "</rd>;rt=\"core.rd\";ct=40";

impl Gateway {
    pub(super) fn handle_request(&mut self, now: Instant, id: RequestId, peer: Peer, request: &Request) {
        let Ok(path) = request.options.texts(number::URI_PATH) else {
            return self.respond(now, id, Response::new(Code::BAD_REQUEST));
        };
        match (path.as_slice(), request.method) {
            (["rd"], Code::POST) => self.register(now, id, peer, request),
            (["rd", location], method) => match self.registry.id_by_location(location) {
                Some(device) => self.handle_registered(now, id, device, peer, method, request),
                None => self.respond(now, id, Response::new(Code::NOT_FOUND)),
            },
            ([".well-known", "core"], Code::GET) => self.respond(now, id, well_known_core(request)),
            (["rd"] | [".well-known", "core"], _) => self.respond(now, id, Response::new(Code::METHOD_NOT_ALLOWED)),
            _ => self.respond(now, id, Response::new(Code::NOT_FOUND)),
        }
    }

    /// Ends registrations whose lifetime is over; called when the deadline of the last look has come.
    pub(super) fn check_lifetime(&mut self, now: Instant, id: RegistrationId) {
        let Some(device) = self.registry.device(id) else { return };
        let ends = device.lifetime_ends(*self.settings.lifetimes.end());
        if ends > now {
            self.deadlines.set(Deadline::Lifetime(id), ends);
        } else {
            self.leave(now, id, LeaveReason::LifetimeOver);
        }
    }

    /// The device goes; every command of it gets its last answer while there is somebody to publish it.
    pub(super) fn leave(&mut self, now: Instant, id: RegistrationId, reason: LeaveReason) {
        let connected = !matches!(reason, LeaveReason::Broker(_));
        if connected {
            self.give_up_all(id);
            self.goes_offline(now, id);
        }
        let Some(device) = self.forget(id) else { return };
        if connected {
            self.push(Output::Broker(BrokerCommand::Disconnect { registration: id }));
        }
        self.report(Report::Left { endpoint: device.registration.endpoint, reason });
    }

    /// The device registered again: its old session goes, and what waits in it comes back.
    pub(super) fn replace(&mut self, id: RegistrationId) -> Option<Device> {
        let device = self.forget(id)?;
        self.push(Output::Broker(BrokerCommand::Disconnect { registration: id }));
        let endpoint = device.registration.endpoint.clone();
        self.report(Report::Left { endpoint, reason: LeaveReason::Replaced });
        Some(device)
    }

    fn register(&mut self, now: Instant, request_id: RequestId, peer: Peer, request: &Request) {
        let identity = self.identity(peer);
        let named = self.endpoint_of(identity.as_deref());
        let registration = Registration::from_register_of(request, &self.settings.lifetimes, named.as_deref());
        let registration = match registration {
            Ok(registration) => registration,
            Err(rejection) => {
                let Rejection { code, diagnostic } = rejection;
                return self.reject(now, (request_id, request), peer, None, code, diagnostic);
            }
        };
        let endpoint = registration.endpoint.clone();
        if let Err(rejection) = self.check_size(registration.size()) {
            let Rejection { code, diagnostic } = rejection;
            return self.reject(now, (request_id, request), peer, Some(endpoint), code, diagnostic);
        }
        if let Some(reason) = self.forbids_name(&endpoint, peer, identity.as_deref()) {
            return self.forbid(now, (request_id, request), peer, endpoint, reason);
        }
        if let Some((word, reason)) = self.no_room_for(now, &endpoint, peer) {
            let response = self.unavailable(fitting(reason, word, room(request)));
            self.respond_to_register(now, peer, request_id, response);
            let (code, reason) = (Code::SERVICE_UNAVAILABLE, reason.to_owned());
            return self.report(Report::RegisterRejected { peer, endpoint: Some(endpoint), code, reason });
        }
        let (client, topics) = match self.client(&registration, peer, identity.as_deref()) {
            Ok(client) => client,
            Err(error) => {
                let (code, reason) = (Code::BAD_REQUEST, error.to_string());
                return self.reject(now, (request_id, request), peer, Some(endpoint), code, reason);
            }
        };
        let device = self.new_registration_id();
        let pending = PendingRegistration {
            request: request_id,
            room: room(request),
            registration,
            peer,
            identity,
            topics,
            early: VecDeque::new(),
            predecessor_closed: None,
        };
        self.join(now, device, pending, BrokerCommand::Connect { registration: device, client });
    }

    /// Why this device cannot register now, in a word for the device and in full; `None` if it can.
    fn no_room_for(&mut self, now: Instant, endpoint: &str, peer: Peer) -> Option<(&'static str, &'static str)> {
        let registered = self.registry.id_by_endpoint(endpoint).is_some();
        if self.draining {
            Some(STOPPING)
        } else if !registered && self.is_full() && self.evictable(now).is_none() {
            Some(TOO_MANY_DEVICES)
        } else if self.pending_registrations.len() >= self.settings.limits.pending_registrations
            && !self.pending_registrations.has(endpoint)
            && self.device_at(endpoint, peer).is_none()
        {
            Some(("busy", "the limit of Registers under way is reached"))
        } else {
            None
        }
    }

    fn handle_registered(
        &mut self,
        now: Instant,
        request_id: RequestId,
        device: RegistrationId,
        peer: Peer,
        method: Code,
        request: &Request,
    ) {
        if let Some(reason) = self.forbids_request(device, peer) {
            let endpoint = self.registry.device(device).map(|device| device.registration.endpoint.clone());
            return self.forbid(now, (request_id, request), peer, endpoint.unwrap_or_default(), reason);
        }
        match method {
            Code::POST | Code::PUT => self.update(now, request_id, device, peer, request),
            Code::DELETE => {
                self.respond(now, request_id, Response::new(Code::DELETED));
                self.leave(now, device, LeaveReason::Deregistered);
            }
            _ => self.respond(now, request_id, Response::new(Code::METHOD_NOT_ALLOWED)),
        }
    }

    /// An Update that brings nothing new costs nothing that grows with the registration: a device may send many of them.
    fn update(&mut self, now: Instant, request_id: RequestId, id: RegistrationId, peer: Peer, request: &Request) {
        let Some(device) = self.registry.device(id) else { return };
        let update = match self.read_update(device, request) {
            Ok(update) => update,
            Err(rejection) => {
                let endpoint = Some(device.registration.endpoint.clone());
                let Rejection { code, diagnostic } = rejection;
                return self.reject(now, (request_id, request), peer, endpoint, code, diagnostic);
            }
        };
        let change = self.merge_update(now, id, peer, update);
        self.wakes_up(now, id);
        self.watch_sleep(id);
        self.moved(now, id, peer);
        self.respond(now, request_id, Response::new(Code::CHANGED));
        if self.is_published(change) {
            self.publish_update(id);
        }
        if let Some(device) = self.registry.device(id) {
            self.report(Report::Updated { endpoint: device.registration.endpoint.clone() });
        }
        self.report_left_out(id);
        self.send_next(now, id);
    }

    fn read_update(&self, device: &Device, request: &Request) -> Result<Update, Rejection> {
        let update = device.registration.read_update(request, &self.settings.lifetimes)?;
        if update.is_empty() {
            return Ok(update);
        }
        // The bound may have become narrower since the device registered: it may shrink, and change its lifetime.
        let size = device.registration.size_after(&update);
        if size > device.registration.size() {
            self.check_size(size)?;
        }
        Ok(update)
    }

    /// What the gateway keeps of a device has a bound in bytes, since a stranger decides how much that is.
    fn check_size(&self, size: usize) -> Result<(), Rejection> {
        let most = self.settings.limits.registration_size;
        if size <= most {
            return Ok(());
        }
        let diagnostic = format!("the registration has {size} bytes; limits.registration_size is {most}");
        Err(Rejection { code: Code::REQUEST_ENTITY_TOO_LARGE, diagnostic })
    }

    fn merge_update(&mut self, now: Instant, id: RegistrationId, peer: Peer, update: Update) -> ObjectListChange {
        let identity = self.identity(peer);
        let (is_news, changes_lifetime) = (!update.is_empty(), update.changes_lifetime());
        let Some(device) = self.registry.device_mut(id) else { return ObjectListChange::Absent };
        device.heard_from(now);
        let change = device.registration.apply(update);
        // Binds the registration to its DTLS identity.
        let secured = device.identity.is_none() && identity.is_some();
        device.identity = device.identity.take().or(identity);
        if secured {
            self.silent.cancel(id);
        }
        if is_news || secured || device.needs_new_record() {
            self.changes.mark(&device.registration.endpoint);
        }
        if is_news {
            self.registration_changed(id, changes_lifetime);
        }
        change
    }

    fn registration_changed(&mut self, id: RegistrationId, lifetime_too: bool) {
        let Some(device) = self.registry.device(id) else { return };
        let window = awake_window(&self.settings, &device.registration);
        let lifetime = self.silence_allowed(&device.registration);
        let ends = device.lifetime_ends(*self.settings.lifetimes.end());
        if let Some(device) = self.registry.device_mut(id) {
            device.set_awake_window(window);
        }
        if lifetime_too {
            // It may have become shorter; otherwise the deadline of before is looked at again when it comes.
            self.deadlines.set(Deadline::Lifetime(id), ends);
            self.push(Output::Broker(BrokerCommand::SetLifetime { registration: id, lifetime }));
        }
    }

    fn publish_update(&mut self, id: RegistrationId) {
        let Some(device) = self.registry.device(id) else { return };
        let report = uplink::update(&device.registration, self.proven(device.identity.as_deref()));
        let topic = device.topics.update.clone();
        self.publish(id, topic, report, UplinkClass::Report);
    }

    fn is_published(&self, change: ObjectListChange) -> bool {
        match self.settings.update_msg_publish_condition {
            UpdatePublish::Always => true,
            UpdatePublish::ContainsObjectList => change != ObjectListChange::Absent,
            UpdatePublish::ObjectListChanged => change == ObjectListChange::Changed,
        }
    }

    /// Tells of a link list that made no sense in parts.
    pub(super) fn report_left_out(&mut self, id: RegistrationId) {
        let left_out = self.registry.device_mut(id).and_then(|device| device.registration.take_left_out());
        if let Some(left_out) = left_out {
            self.links_left_out(id, left_out.to_string());
        }
    }

    pub(super) fn links_left_out(&mut self, id: RegistrationId, reason: String) {
        let Some(device) = self.registry.device_mut(id) else { return };
        let first = !std::mem::replace(&mut device.links_left_out, true);
        let endpoint = device.registration.endpoint.clone();
        self.report(Report::LinksLeftOut { endpoint, reason, first });
    }

    fn forbid(
        &mut self,
        now: Instant,
        (id, request): (RequestId, &Request),
        peer: Peer,
        endpoint: String,
        reason: Forbidden,
    ) {
        self.report_forbidden(&endpoint, peer, reason);
        let why = match reason {
            Forbidden::OtherName => "the identity stands for another endpoint name",
            Forbidden::OtherIdentity => "the registration is of another identity",
            Forbidden::Unsecured => "this endpoint name is registered over DTLS",
            Forbidden::HasKey => "this endpoint name has a key: use DTLS",
        };
        let response = Response::with_diagnostic(Code::FORBIDDEN, fitting(why, "identity", room(request)));
        self.respond_to_register(now, peer, id, response);
    }

    /// What the reports say of an identity.
    pub(super) fn proven<'i>(&self, identity: Option<&'i Identity>) -> Proven<'i> {
        if self.settings.report_identity { Proven::Told(identity.and_then(Identity::name)) } else { Proven::Untold }
    }

    /// Tells the device why, as far as that fits into an answer that is no larger than the request.
    fn reject(
        &mut self,
        now: Instant,
        (id, request): (RequestId, &Request),
        peer: Peer,
        endpoint: Option<String>,
        code: Code,
        reason: String,
    ) {
        let response = match code {
            Code::NOT_FOUND => Response::new(code),
            _ => Response::with_diagnostic(code, fitting(&reason, "", room(request))),
        };
        self.respond(now, id, response);
        self.report(Report::RegisterRejected { peer, endpoint, code, reason });
    }

    /// What the device is to the broker, and its topics.
    pub(super) fn client(
        &self,
        registration: &Registration,
        peer: Peer,
        identity: Option<&Identity>,
    ) -> Result<(ClientInfo, Topics), TopicError> {
        let endpoint = &registration.endpoint;
        let (psk_identity, cert_cn) = match identity {
            Some(Identity::Psk(identity)) => (Some(identity.as_str()), None),
            Some(Identity::Certificate { common_name, .. }) => (None, common_name.as_deref()),
            Some(Identity::RawPublicKey { .. } | Identity::Unknown) | None => (None, None),
        };
        let with = |clientid, username| Names {
            endpoint_name: endpoint,
            clientid,
            username,
            imei: registration.item("imei"),
            peerhost: peer.address.ip(),
            psk_identity,
            cert_cn,
        };
        let or_endpoint = |text: String| if text.is_empty() { endpoint.clone() } else { text };
        let templates = &self.settings.client;
        let clientid = or_endpoint(templates.clientid.render(with(endpoint, endpoint)));
        let username = or_endpoint(templates.username.render(with(&clientid, endpoint)));
        check_text("the clientid", &clientid)?;
        check_text("the username", &username)?;
        let topics = self.settings.translators.topics(with(&clientid, &username))?;
        let client = ClientInfo {
            endpoint: endpoint.clone(),
            clientid,
            username,
            password: match templates.password {
                PasswordSource::None => None,
                PasswordSource::QueryItem => registration.password().cloned(),
            },
            proto_ver: registration.version().to_owned(),
            peerhost: peer.address.ip(),
            command_filter: topics.command.name.clone(),
            command_qos: topics.command.qos,
            lifetime: self.silence_allowed(registration),
            will: will(&topics),
        };
        Ok((client, topics))
    }

    fn silence_allowed(&self, registration: &Registration) -> Duration {
        let lifetime = registration.lifetime;
        if lifetime.is_zero() { *self.settings.lifetimes.end() } else { lifetime }
    }

    fn forget(&mut self, id: RegistrationId) -> Option<Device> {
        let device = self.registry.remove(id)?;
        self.changes.mark(&device.registration.endpoint);
        self.silent.cancel(id);
        self.retained_commands.left(&device.registration.endpoint);
        for exchange in device.exchanges() {
            self.coap.forget(exchange);
            self.exchanges.remove(&exchange);
        }
        self.deadlines.cancel(Deadline::Lifetime(id));
        self.deadlines.cancel(Deadline::Expiry(id));
        self.deadlines.cancel(Deadline::Sleep(id));
        Some(device)
    }
}

fn well_known_core(request: &Request) -> Response {
    if !matches!(request.options.uint(number::ACCEPT), Ok(None) | Ok(Some(40))) {
        return Response::new(Code::NOT_ACCEPTABLE);
    }
    let mut response = Response::new(Code::CONTENT);
    response.options.add_uint(number::CONTENT_FORMAT, u32::from(format::LINK_FORMAT));
    response.payload = WELL_KNOWN_CORE.as_bytes().to_vec();
    response
}
