//! Moves of devices between gateways: the endpoint name of a Register may belong to another gateway of the program.

use lwm2m_base::{AssociationId, Peer, Shard};

use super::access::{forbidden, forbids_request};
use super::pending::PendingRegistration;
use super::{BUSY, MOVING, Registrations, SUPERSEDED, forbidding};
use crate::gateway::broker::BrokerCommand;
use crate::gateway::context::Context;
use crate::gateway::moves::claims::{ClaimAnswer, ClaimPurpose, ClaimQuestion, DeviceName, MovedDevice};
use crate::gateway::report::Forbidden;
use crate::registry::RegistrationId;

impl Registrations {
    /// Takes the answer to the question which gateway has the endpoint name of a Register from this peer.
    pub(crate) fn claimed(&mut self, context: &mut Context, (endpoint, peer): (&str, Peer), answer: ClaimAnswer) {
        let Some(pending) = self.pending.by_endpoint_mut(endpoint) else {
            return context.claims.mark_unclaimed(endpoint);
        };
        let (id, is_asked) = (pending.id, pending.peer == peer && pending.unclaimed.is_some());
        match answer {
            ClaimAnswer::Mine | ClaimAnswer::Arrived(_) => {
                if let Some(client) = pending.unclaimed.take() {
                    context.command_broker(BrokerCommand::Connect { registration: id, client });
                }
            }
            ClaimAnswer::Forbidden(reason) if is_asked => self.forbid_pending(context, id, reason),
            ClaimAnswer::Absent | ClaimAnswer::Unknown if is_asked => self.turn_away(context, id, BUSY),
            // A newer Register asks its own question.
            ClaimAnswer::Forbidden(_) | ClaimAnswer::Absent | ClaimAnswer::Unknown => {}
        }
    }

    /// Gives a device away to the peer of a question. `Err` tells why not: `None` if it is not here, or stays.
    pub(crate) fn release(
        &mut self,
        context: &mut Context,
        question: &ClaimQuestion,
    ) -> Result<MovedDevice, Option<Forbidden>> {
        let ClaimQuestion { device, purpose, peer, identity } = question;
        let registry = self.devices.registry();
        let id = match device {
            DeviceName::Endpoint(endpoint) => registry.id_by_endpoint(endpoint),
            DeviceName::Location(location) => registry.id_by_location(location),
        };
        match (purpose, device) {
            (ClaimPurpose::Register, DeviceName::Endpoint(endpoint)) => {
                if let Some(reason) = self.forbids_name(context, endpoint, *peer, identity.as_deref()) {
                    return Err(Some(reason));
                }
                if let Some(pending) = self.pending.by_endpoint(endpoint).map(|pending| pending.id) {
                    self.turn_away(context, pending, SUPERSEDED);
                }
            }
            (ClaimPurpose::Register, DeviceName::Location(_)) => return Err(None),
            (ClaimPurpose::Request | ClaimPurpose::Handshake, _) => {
                let device = id.and_then(|id| registry.device(id)).ok_or(None)?;
                if self.pending.by_endpoint(&device.registration.endpoint).is_some() {
                    // Its next registration is pending here.
                    return Err(None);
                }
                let of_identity = device.identity.is_some() && device.identity == *identity;
                if *purpose == ClaimPurpose::Handshake {
                    // As for `RegisteredDevices::established`: the association may be there to fetch an image.
                    let fetches = identity.as_ref().is_some_and(|identity| context.pulls.has_offer_for(identity));
                    if fetches || !of_identity {
                        return Err(None);
                    }
                } else if let Some(reason) =
                    forbids_request(&context.config.identity, device, *peer, || identity.clone())
                {
                    return Err(Some(reason));
                }
            }
        }
        id.and_then(|id| self.devices.release(context, id)).ok_or(None)
    }

    /// Returns the pending Registers that cannot go on when this shard leaves the gateway: those over its associations,
    /// those of devices that the shard has, and all of them if it is the only shard.
    pub(crate) fn pending_of(&self, shard: Shard, is_only_one: bool) -> Vec<RegistrationId> {
        let is_of_shard = |id: &RegistrationId| {
            let Some(pending) = self.pending.get(*id) else { return false };
            let registered = self.devices.registry().device_by_endpoint(&pending.registration.endpoint);
            association_shard(pending) == Some(shard) || registered.is_some_and(|device| device.shard() == shard)
        };
        self.pending.ids().into_iter().filter(|id| is_only_one || is_of_shard(id)).collect()
    }

    /// Answers these pending Registers 5.03: another node registers their devices. Their sessions at the broker stay.
    pub(crate) fn hand_over_pending(&mut self, context: &mut Context, ids: Vec<RegistrationId>) {
        for registration in ids {
            if self.give_up_pending(context, registration, MOVING).is_some_and(|pending| pending.unclaimed.is_none()) {
                context.command_broker(BrokerCommand::HandOver { registration });
            }
        }
    }

    /// Ends these pending Registers after their shard was lost. Those over its associations, which are forgotten, end
    /// without an answer; the others are answered 5.03. The broker hears nothing of their sessions.
    pub(crate) fn forget_pending(&mut self, context: &mut Context, ids: Vec<RegistrationId>, shard: Shard) {
        for registration in ids {
            if self.pending.get(registration).and_then(association_shard) != Some(shard) {
                let (Some(_) | None) = self.give_up_pending(context, registration, MOVING);
            } else if let Some(pending) = self.pending.remove(registration) {
                self.give_client_back(context, &pending);
                context.claims.mark_unclaimed(&pending.registration.endpoint);
            }
            context.command_broker(BrokerCommand::Abandon { registration });
        }
    }

    /// Lets a restored device publish as the client of the Register of its endpoint that is pending. Returns whether
    /// there is one.
    pub(crate) fn join_pending(&mut self, id: RegistrationId) -> bool {
        let Some(device) = self.devices.registry_mut().device_mut(id) else { return false };
        let Some(pending) = self.pending.by_endpoint_mut(&device.registration.endpoint) else { return false };
        pending.predecessor_adopted = true;
        device.publishes_as = pending.id;
        true
    }

    /// Returns whether a device of this name is registered, or about to be.
    pub(crate) fn has_endpoint(&self, endpoint: &str) -> bool {
        self.devices.registry().id_by_endpoint(endpoint).is_some() || self.pending.by_endpoint(endpoint).is_some()
    }

    fn forbid_pending(&mut self, context: &mut Context, id: RegistrationId, reason: Forbidden) {
        let Some(pending) = self.pending.remove(id) else { return };
        let PendingRegistration { request, peer, room, registration, identity, .. } = pending;
        context.claims.mark_unclaimed(&registration.endpoint);
        context.report(forbidden(&registration.endpoint, (peer, identity.as_deref()), reason));
        self.respond_to_register(context, peer, request, forbidding(reason, room));
    }
}

fn association_shard(pending: &PendingRegistration) -> Option<Shard> {
    pending.peer.association.map(AssociationId::shard)
}
