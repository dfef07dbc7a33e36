//! The decision of the broker about pending registrations, and the end of sessions.

use rand::RngExt;

use crate::coap::{Code, Response};
use crate::gateway::broker::{BrokerCommand, CloseReason, ConnectError, MessageProperties, Publication, UplinkClass};
use crate::mqtt::uplink;
use crate::registry::{Location, NewDevice, RegistrationId};

use super::messages::created;
use super::pending::{EarlyCommand, PendingRegistration};
use super::undefined_versions::report_undefined_versions;
use super::{Registrations, TOO_MANY_DEVICES, TurnedAway, disconnect, proven, report_left_out};
use crate::gateway::client::client;
use crate::gateway::commands::auto_observe;
use crate::gateway::commands::refuse_early;
use crate::gateway::context::Context;
use crate::gateway::devices::presence::publish_status;
use crate::gateway::diagnostic::{fitting, unavailable};
use crate::gateway::persistence::held_outputs::Awaited;
use crate::gateway::report::{CommandOutcome, LeaveReason, Report};

impl Registrations {
    /// Takes the event that the broker has accepted a device: the device gets its 2.01, then the report is published,
    /// then the commands that wait are sent. A restored device has had the first two.
    pub(super) fn connected(&mut self, context: &mut Context, id: RegistrationId) {
        let Some(pending) = self.pending.get(id) else { return self.resumed(context, id) };
        let endpoint = pending.registration.endpoint.clone();
        if !self.devices.make_room_for(context, &endpoint) {
            return self.turn_away(context, id, TOO_MANY_DEVICES);
        }
        let Some(mut pending) = self.pending.remove(id) else { return };
        let replaced = self.devices.replace(context, &endpoint);

        let location = Location::from_random(context.rng.random(), context.config.coap.shards);
        let early = std::mem::take(&mut pending.early);
        context.tell_when_stored(Awaited::Device(&endpoint), |context| {
            context.respond(pending.request, created(&location));
            self.enter(context, pending, location);
        });
        self.devices.resume_job(context, id);

        let Some((device, commands)) = self.devices.with_commands(id) else { return };
        if let Some(mut replaced) = replaced {
            device.undefined_versions = std::mem::take(&mut replaced.undefined_versions);
            commands.inherit(context, device, replaced);
        }
        report_undefined_versions(context, device);
        for EarlyCommand { payload, properties, room, counted } in early {
            // The contribution is counted again below.
            drop((room, counted));
            commands.handle(context, device, payload, properties);
        }
        commands.send_next(context, device);
        commands.watch_expiry(device);
    }

    fn resumed(&mut self, context: &mut Context, id: RegistrationId) {
        if let Some((device, commands)) = self.devices.with_commands(id) {
            publish_status(context, device);
            commands.send_next(context, device);
        }
    }

    fn enter(&mut self, context: &mut Context, pending: PendingRegistration, location: Location) {
        let PendingRegistration { id, registration, peer, identity, topics, .. } = pending;
        let (endpoint, lifetime) = (registration.endpoint.clone(), registration.lifetime);
        let evicted = self.profiles.learn(&registration, identity.is_some(), context.config.limits.profiles);
        if evicted > 0 {
            context.report(Report::ProfilesEvicted { profiles: evicted });
        }
        let payload = uplink::register(&registration, proven(&context.config, identity.as_deref()));
        let publication = Publication::new(topics.register(), payload, UplinkClass::Registration);
        let last_heard = context.now;
        self.devices.insert(context, NewDevice { id, registration, location, peer, identity, topics, last_heard });

        let Some(device) = self.devices.registry_mut().device_mut(id) else { return };
        let skipped = auto_observe::schedule(context, device);
        context.changed(device);
        context.has_registered(peer);
        context.publish(id, publication);
        publish_status(context, device);
        context.report(Report::Registered { endpoint, peer, lifetime });
        auto_observe::report_skipped(context, device, skipped);
        report_left_out(context, device);
    }

    /// Answers a Register that the broker has accepted, or may accept yet, by 5.03 with a word, and ends its session.
    pub(super) fn turn_away(&mut self, context: &mut Context, id: RegistrationId, reason: TurnedAway) {
        if let Some(pending) = self.give_up_pending(context, id, reason) {
            disconnect(context, &pending);
        }
    }

    /// Answers a pending Register by 5.03 with a word. Its session at the broker is left to the caller.
    pub(super) fn give_up_pending(
        &mut self,
        context: &mut Context,
        id: RegistrationId,
        (word, reason): TurnedAway,
    ) -> Option<PendingRegistration> {
        let mut pending = self.pending.remove(id)?;
        for EarlyCommand { payload, properties, .. } in std::mem::take(&mut pending.early) {
            refuse_early(context, &pending, (&payload, properties), CommandOutcome::Expired, reason);
        }
        self.give_client_back(context, &pending);
        let response = unavailable(word, context.config.limits.retry_after);
        let (endpoint, peer) = (pending.registration.endpoint.clone(), pending.peer);
        context.claims.mark_unclaimed(&endpoint);
        self.answer_rejected(context, (peer, pending.request), endpoint, response, reason.to_owned());
        Some(pending)
    }

    pub(super) fn connect_failed(&mut self, context: &mut Context, id: RegistrationId, error: ConnectError) {
        let Some(pending) = self.pending.remove(id) else { return };
        self.give_client_back(context, &pending);
        context.claims.mark_unclaimed(&pending.registration.endpoint);
        let PendingRegistration { request, room, registration, peer, predecessor_closed, .. } = pending;
        let (response, reason) = match error {
            ConnectError::Refused(reason) => {
                let told = fitting(&reason, "refused", room);
                (Response::with_diagnostic(Code::FORBIDDEN, told), reason)
            }
            // The answer must not show the addresses of the broker, because any peer can register.
            ConnectError::Unavailable(reason) => (unavailable("no broker", context.config.limits.retry_after), reason),
        };
        let predecessor = self.devices.registry().id_by_endpoint(&registration.endpoint).zip(predecessor_closed);
        self.answer_rejected(context, (peer, request), registration.endpoint, response, reason);
        if let Some((predecessor, reason)) = predecessor {
            self.devices.leave(context, predecessor, LeaveReason::Broker(reason));
        }
    }

    /// Takes the event that the broker has ended a session for good: the next Update is answered 4.04, so that the
    /// device registers again.
    pub(super) fn closed(&mut self, context: &mut Context, id: RegistrationId, reason: CloseReason) {
        if self.pending.get(id).is_some() {
            let error = ConnectError::Refused("closed by the broker".to_owned());
            return self.connect_failed(context, id, error);
        }
        let Some(device) = self.devices.registry_mut().device_mut(id) else { return };
        // Its commands wait for the pending registration.
        if let Some(successor) = self.pending.by_endpoint_mut(&device.registration.endpoint) {
            successor.predecessor_closed = Some(reason);
            device.publishes_as = successor.id;
            return;
        }
        self.devices.leave(context, id, LeaveReason::Broker(reason));
    }

    pub(super) fn handle_command(
        &mut self,
        context: &mut Context,
        id: RegistrationId,
        payload: Vec<u8>,
        properties: MessageProperties,
    ) {
        if let Some(pending) = self.pending.get_mut(id) {
            return self.devices.commands_mut().handle_early(context, pending, payload, properties);
        }
        if let Some((device, commands)) = self.devices.with_commands(id) {
            commands.handle(context, device, payload, properties);
        }
    }

    /// Lets the device that this registration would have replaced publish as its own client of the broker again.
    pub(super) fn give_client_back(&mut self, context: &mut Context, pending: &PendingRegistration) {
        let endpoint = &pending.registration.endpoint;
        let Some(device) = self.devices.registry_mut().device_by_endpoint_mut(endpoint) else { return };
        device.publishes_as = device.id;
        if pending.predecessor_adopted
            && let Ok((client, _)) =
                client(&context.config, &device.registration, device.peer, device.identity.as_deref())
        {
            context.command_broker(BrokerCommand::Resume { registration: device.id, client });
        }
    }
}
