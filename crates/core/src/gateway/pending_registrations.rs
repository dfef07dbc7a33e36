//! The way in: a Register waits until the broker has connected, authenticated and subscribed the device.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::coap::options::number;
use crate::coap::{Code, RequestId, Response};
use crate::lwm2m::register::Registration;
use crate::mqtt::uplink;
use crate::registry::{ByteReservation, Device, Location, Topics};
use lwm2m_base::Peer;
use lwm2m_dtls::credentials::Identity;

use super::broker::{BrokerCommand, CloseReason, ConnectError, MessageProperties, RegistrationId, UplinkClass};
use super::diagnostic::fitting;
use super::queue_mode::awake_window;
use super::report::{CommandOutcome, LeaveReason, Report};
use super::{Deadline, Gateway, Output, auto_observe};

/// Why a device is turned away: in a word for the device, and in full.
pub(super) const TOO_MANY_DEVICES: (&str, &str) = ("too many devices", "the limit of devices is reached");

/// A Register that waits for the broker.
#[derive(Debug)]
pub(super) struct PendingRegistration {
    pub request: RequestId,
    /// Bytes of a reason that its answer may have.
    pub room: usize,
    pub registration: Registration,
    pub peer: Peer,
    /// What the device proved to be; `None` over plain UDP.
    pub identity: Option<Arc<Identity>>,
    pub topics: Topics,
    /// Commands that came before the answer to Register: retained ones come at once.
    pub early: VecDeque<EarlyCommand>,
    /// The broker has ended the connection of the registration before this one already.
    pub predecessor_closed: Option<CloseReason>,
}

/// A command for a device whose Register is not answered yet.
#[derive(Debug)]
pub(super) struct EarlyCommand {
    pub payload: Vec<u8>,
    pub properties: MessageProperties,
    pub room: ByteReservation,
}

impl PendingRegistration {
    /// Returns the bytes of the commands that came early.
    pub fn early_bytes(&self) -> usize {
        self.early.iter().map(|early| early.room.bytes()).sum()
    }
}

/// One for each endpoint at the most.
#[derive(Debug, Default)]
pub(super) struct PendingRegistrations {
    by_id: HashMap<RegistrationId, PendingRegistration>,
    by_endpoint: HashMap<String, RegistrationId>,
}

impl PendingRegistrations {
    /// Adds one; the earlier one of the same endpoint comes back.
    fn insert(
        &mut self,
        id: RegistrationId,
        pending: PendingRegistration,
    ) -> Option<(RegistrationId, PendingRegistration)> {
        let earlier = self.by_endpoint.insert(pending.registration.endpoint.clone(), id);
        self.by_id.insert(id, pending);
        earlier.and_then(|earlier| Some((earlier, self.by_id.remove(&earlier)?)))
    }

    pub fn remove(&mut self, id: RegistrationId) -> Option<PendingRegistration> {
        let pending = self.by_id.remove(&id)?;
        self.by_endpoint.remove(&pending.registration.endpoint);
        Some(pending)
    }

    pub fn get_mut(&mut self, id: RegistrationId) -> Option<&mut PendingRegistration> {
        self.by_id.get_mut(&id)
    }

    pub fn by_endpoint(&self, endpoint: &str) -> Option<&PendingRegistration> {
        self.by_endpoint.get(endpoint).and_then(|id| self.by_id.get(id))
    }

    /// The registration of this endpoint that is under way, if the broker has ended the connection of the one before it.
    pub fn instead_of(&self, endpoint: &str) -> Option<RegistrationId> {
        let id = self.by_endpoint.get(endpoint)?;
        self.by_id.get(id).filter(|pending| pending.predecessor_closed.is_some()).map(|_| *id)
    }

    fn by_endpoint_mut(&mut self, endpoint: &str) -> Option<&mut PendingRegistration> {
        self.by_endpoint.get(endpoint).and_then(|id| self.by_id.get_mut(id))
    }

    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether a Register of this endpoint waits.
    pub fn has(&self, endpoint: &str) -> bool {
        self.by_endpoint.contains_key(endpoint)
    }

    pub fn early_commands(&self) -> usize {
        self.by_id.values().map(|pending| pending.early.len()).sum()
    }

    /// All of them, the oldest first.
    pub fn ids(&self) -> Vec<RegistrationId> {
        let mut ids: Vec<RegistrationId> = self.by_id.keys().copied().collect();
        ids.sort();
        ids
    }
}

impl Gateway {
    /// Asks the broker for this device. A Register of the same endpoint that still waits gives way.
    pub(super) fn join(
        &mut self,
        now: Instant,
        id: RegistrationId,
        pending: PendingRegistration,
        connect: BrokerCommand,
    ) {
        let Some((earlier, given_way)) = self.pending_registrations.insert(id, pending) else {
            return self.push(Output::Broker(connect));
        };
        if let Some(pending) = self.pending_registrations.get_mut(id) {
            pending.predecessor_closed = given_way.predecessor_closed;
            pending.early = given_way.early;
        }
        let response = self.unavailable("superseded");
        self.respond_to_register(now, given_way.peer, given_way.request, response);
        // The newer one is asked for first: it inherits what waits for the earlier one.
        self.push(Output::Broker(connect));
        self.push(Output::Broker(BrokerCommand::Disconnect { registration: earlier }));
    }

    /// The broker has it: 2.01, then the report, then whatever waits for it. A device of before the restart has had the
    /// first two.
    pub(super) fn joined(&mut self, now: Instant, id: RegistrationId) {
        let endpoint = self.pending_registrations.get_mut(id).map(|pending| pending.registration.endpoint.clone());
        if endpoint.is_some_and(|endpoint| !self.make_room_for(now, &endpoint)) {
            return self.turn_away(now, id, TOO_MANY_DEVICES);
        }
        let Some(mut pending) = self.pending_registrations.remove(id) else {
            self.publish_status(id);
            return self.send_next(now, id);
        };
        let predecessor = self.registry.id_by_endpoint(&pending.registration.endpoint);
        let replaced = predecessor.and_then(|predecessor| self.replace(predecessor));

        let location = Location::from_random(rand::RngExt::random(&mut self.rng));
        self.respond(now, pending.request, created(&location));
        let early = std::mem::take(&mut pending.early);
        self.enter(now, id, pending, location);

        if let Some(mut replaced) = replaced {
            if let Some(in_flight) = replaced.take_in_flight() {
                self.give_up(id, &in_flight.command);
            }
            if let Some(device) = self.registry.device_mut(id) {
                device.waiting = std::mem::take(&mut replaced.waiting);
            }
        }
        for EarlyCommand { payload, properties, room } in early {
            // It counts anew from here on.
            drop(room);
            self.handle_command(now, id, payload, properties);
        }
        self.send_next(now, id);
        self.set_expiry(id);
    }

    /// A Register that the broker has accepted, or may accept yet, is answered 5.03 with a word; `why` has it in full, too.
    pub(super) fn turn_away(&mut self, now: Instant, id: RegistrationId, (word, why): (&str, &str)) {
        let early = self.pending_registrations.get_mut(id).map(|pending| std::mem::take(&mut pending.early));
        for EarlyCommand { payload, properties, .. } in early.into_iter().flatten() {
            self.refuse_early(id, (&payload, properties), CommandOutcome::Expired, why);
        }
        let Some(pending) = self.pending_registrations.remove(id) else { return };
        let response = self.unavailable(word);
        let code = response.code;
        self.respond_to_register(now, pending.peer, pending.request, response);
        let (endpoint, reason) = (Some(pending.registration.endpoint), why.to_owned());
        self.report(Report::RegisterRejected { peer: pending.peer, endpoint, code, reason });
        self.push(Output::Broker(BrokerCommand::Disconnect { registration: id }));
    }

    pub(super) fn connect_failed(&mut self, now: Instant, id: RegistrationId, error: ConnectError) {
        let Some(pending) = self.pending_registrations.remove(id) else { return };
        let endpoint = pending.registration.endpoint;
        let (response, reason) = match error {
            ConnectError::Refused(reason) => {
                let told = fitting(&reason, "refused", pending.room);
                (Response::with_diagnostic(Code::FORBIDDEN, told), reason)
            }
            // Addresses of the broker are nothing for strangers.
            ConnectError::Unavailable(reason) => (self.unavailable("no broker"), reason),
        };
        let code = response.code;
        self.respond_to_register(now, pending.peer, pending.request, response);
        let predecessor = self.registry.id_by_endpoint(&endpoint).zip(pending.predecessor_closed);
        self.report(Report::RegisterRejected { peer: pending.peer, endpoint: Some(endpoint), code, reason });
        if let Some((predecessor, reason)) = predecessor {
            self.leave(now, predecessor, LeaveReason::Broker(reason));
        }
    }

    /// The broker ended the connection for good: the next Update is answered 4.04, so that the device registers again.
    pub(super) fn closed_by_broker(&mut self, now: Instant, id: RegistrationId, reason: CloseReason) {
        if self.pending_registrations.get_mut(id).is_some() {
            return self.connect_failed(now, id, ConnectError::Refused("closed by the broker".to_owned()));
        }
        let Some(device) = self.registry.device(id) else { return };
        // Its commands wait for the registration that is under way.
        if let Some(successor) = self.pending_registrations.by_endpoint_mut(&device.registration.endpoint) {
            successor.predecessor_closed = Some(reason);
            return;
        }
        self.leave(now, id, LeaveReason::Broker(reason));
    }

    /// 5.03 with few words (a stranger's answer is no larger than about its request), and with the time after which the device may try again (RFC 7252 section 5.9.3.4).
    pub(super) fn unavailable(&self, why: &str) -> Response {
        let mut response = Response::with_diagnostic(Code::SERVICE_UNAVAILABLE, why);
        self.add_max_age(&mut response, self.settings.limits.retry_after);
        response
    }

    /// In whole seconds.
    pub(super) fn add_max_age(&self, response: &mut Response, retry_after: Duration) {
        let seconds = u32::try_from(retry_after.as_secs()).unwrap_or(u32::MAX);
        response.options.add_uint(number::MAX_AGE, seconds);
    }

    fn enter(&mut self, now: Instant, id: RegistrationId, pending: PendingRegistration, location: Location) {
        let PendingRegistration { registration, peer, identity, topics, .. } = pending;
        let report =
            Report::Registered { endpoint: registration.endpoint.clone(), peer, lifetime: registration.lifetime };
        let proven = self.proven(identity.as_deref());
        let (topic, payload) = (topics.register.clone(), uplink::register(&registration, proven));
        let window = awake_window(&self.settings, &registration);
        let mut device = Device::new(registration, location, peer, topics, window, now);
        device.identity = identity;
        let mut paths = auto_observe::paths(&self.settings.auto_observe, &device.registration, &self.model);
        let left_out = paths.len().saturating_sub(self.settings.limits.observations);
        paths.truncate(self.settings.limits.observations);
        device.to_observe = paths;
        let ends = device.lifetime_ends(*self.settings.lifetimes.end());
        let endpoint = device.registration.endpoint.clone();
        self.set_status(id, &mut device);
        self.registry.insert(id, device);
        self.watch_silence(id);
        self.retained_commands.registered(&endpoint);
        self.changed(id);
        self.deadlines.set(Deadline::Lifetime(id), ends);
        self.publish(id, topic, payload, UplinkClass::Report);
        self.publish_status(id);
        self.report(report);
        if left_out > 0 {
            self.report(Report::AutoObserveCut { endpoint, paths: left_out });
        }
        self.report_left_out(id);
    }
}

fn created(location: &Location) -> Response {
    let mut response = Response::new(Code::CREATED);
    response.options.add_text(number::LOCATION_PATH, "rd");
    response.options.add_text(number::LOCATION_PATH, location.as_str());
    response
}
