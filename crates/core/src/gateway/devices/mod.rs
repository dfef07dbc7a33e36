//! The registered devices, from the answer to their Register until they leave.
//!
//! Every event of a device is handled here with the device in hand: it is looked up once, by its registration, its
//! endpoint name or the exchange that the event is about.

mod events;
mod eviction;
mod firmware;
pub(super) mod presence;
mod queue_mode;
pub(super) mod status_client;

use std::sync::Arc;
use std::time::Instant;

use crate::coap::ExchangeId;
use crate::lwm2m::register::{ObjectListChange, Update};
use crate::registry::{Device, NewDevice, Presence, RegistrationId, Registry};
use lwm2m_base::Peer;
use lwm2m_base::deadlines::IdDeadlines;
use lwm2m_base::identity::Identity;

use super::broker::{BrokerCommand, BrokerEvent};
use super::client::allowed_silence;
use super::commands::CommandScheduler;
use super::context::Context;
use super::moves::claims::MovedDevice;
use super::notifications::Notifications;
use super::persistence::held_outputs::Awaited;
use super::report::{LeaveReason, Report};

use eviction::SilentDevices;
use presence::{change_presence, publish_status};
use queue_mode::{QueueMode, awake_window};
use status_client::StatusClient;

/// Owns the registered devices, with their commands, notifications and timers. It does not check permissions: its
/// callers ask only for what [`super::registrations::access`] allows.
#[derive(Debug, Default)]
pub(super) struct RegisteredDevices {
    registry: Registry,
    commands: CommandScheduler,
    notifications: Notifications,
    queue_mode: QueueMode,
    /// The times at which lifetimes are checked. Every message of a device moves the end of its lifetime, but not this
    /// time.
    lifetimes: IdDeadlines<RegistrationId>,
    silent: SilentDevices,
    status_client: StatusClient,
}

/// The kinds of deadlines, in the order in which those of one moment are handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum RegistrationTimer {
    Lifetime,
    CommandExpiry,
    AwakeTime,
    StreamObservation,
    FirmwareJob,
}

impl RegisteredDevices {
    /// Creates the table of a gateway without devices. The client for presence connects at this time; with `None` it
    /// never connects.
    pub(super) fn new(status_client_connects_at: Option<Instant>) -> Self {
        Self { status_client: StatusClient::new(status_client_connects_at), ..Self::default() }
    }

    /// Registers a device, or restores one. An older registration of its endpoint has left before.
    pub(super) fn insert(&mut self, context: &Context, new: NewDevice) {
        let mut device = Device::new(new);
        device.set_awake_window(awake_window(&context.config, &device.registration));
        self.queue_mode.registered(context, &mut device);
        self.silent.watch(&device);
        self.commands.retained.registered(&device.registration.endpoint);
        self.lifetimes.set(device.id, device.lifetime_ends(*context.config.lifetimes.end()));
        self.registry.insert(device);
    }

    /// Applies an Update. Its peer is the device's address from now on.
    pub(super) fn update(
        &mut self,
        context: &mut Context,
        id: RegistrationId,
        peer: Peer,
        update: Update,
    ) -> ObjectListChange {
        let Some(device) = self.registry.device_mut(id) else { return ObjectListChange::Absent };
        let (is_news, changes_lifetime) = (!update.is_empty(), update.changes_lifetime());
        device.heard_from(context.now);
        let change = device.apply(update);
        let is_bound = device.identity.is_none() && device.bind(context.identity(peer));
        if is_bound {
            self.silent.forget(id);
        }
        if is_news || is_bound || device.needs_new_record() {
            context.changed(device);
        }
        if is_news {
            device.set_awake_window(awake_window(&context.config, &device.registration));
            self.queue_mode.watch(device);
        }
        if changes_lifetime {
            // A shorter lifetime needs an earlier check. A longer one is noticed when the old check is due.
            self.lifetimes.set(id, device.lifetime_ends(*context.config.lifetimes.end()));
            let lifetime = allowed_silence(&context.config, &device.registration);
            context.command_broker(BrokerCommand::SetLifetime { registration: id, lifetime });
        }
        self.queue_mode.heard_from(context, device);
        self.commands.jobs.heard_from(context, device);
        context.campaign_inbox.heard_from(&device.registration.endpoint);
        self.move_to(context, id, peer);
        change
    }

    /// Removes a device that leaves. Each of its commands gets its final answer first, unless the broker has ended the
    /// session.
    pub(super) fn leave(&mut self, context: &mut Context, id: RegistrationId, reason: LeaveReason) {
        let connected = !matches!(reason, LeaveReason::Broker(_));
        if let Some(device) = self.registry.device_mut(id).filter(|_| connected) {
            self.commands.give_up_all(context, device);
            change_presence(context, device, Presence::Offline, context.now);
        }
        if let Some(device) = self.registry.device(id).filter(|_| !connected) {
            self.commands.tell_console_left(context, device);
        }
        let Some(device) = self.remove(context, id) else { return };
        context.outbox.forget(&device.registration.endpoint);
        match reason {
            LeaveReason::Broker(reason) => {
                self.status_client.withdraw(context, &device, reason);
                self.withdraw_next(context);
            }
            LeaveReason::Deregistered
            | LeaveReason::LifetimeOver
            | LeaveReason::Replaced
            | LeaveReason::Evicted
            | LeaveReason::Operator => context.command_broker(BrokerCommand::Disconnect { registration: id }),
        }
        context.report(Report::Left { endpoint: device.registration.endpoint, reason });
    }

    /// Removes a device that has registered again, and returns it so that its commands move to the new registration.
    pub(super) fn replace(&mut self, context: &mut Context, endpoint: &str) -> Option<Device> {
        let id = self.registry.id_by_endpoint(endpoint)?;
        let device = self.remove(context, id)?;
        context.command_broker(BrokerCommand::Disconnect { registration: id });
        let endpoint = device.registration.endpoint.clone();
        context.report(Report::Left { endpoint, reason: LeaveReason::Replaced });
        Some(device)
    }

    /// Removes a device that another gateway has from now on. Its commands move with it, without a final answer here.
    /// The console is told that they have left, because this gateway cannot pass it their answers.
    pub(super) fn release(&mut self, context: &mut Context, id: RegistrationId) -> Option<MovedDevice> {
        let moved = self.take_out(context, id)?;
        context.command_broker(BrokerCommand::HandOver { registration: id });
        Some(moved)
    }

    /// Forgets a device that another node of the cluster has from now on, or will have.
    pub(super) fn forget(&mut self, context: &mut Context, id: RegistrationId) {
        if let Some(publisher) = self.registry.device(id).map(|device| device.publishes_as)
            && self.take_out(context, id).is_some()
        {
            context.command_broker(BrokerCommand::Abandon { registration: publisher });
        }
    }

    fn take_out(&mut self, context: &mut Context, id: RegistrationId) -> Option<MovedDevice> {
        let Self { registry, commands, .. } = self;
        let device = registry.device_mut(id)?;
        commands.tell_console_left(context, device);
        let record = commands.record_without_asked(context, device);
        let endpoint = device.registration.endpoint.clone();
        let job = commands.jobs.release(context, &endpoint);
        self.remove(context, id)?;
        context.outbox.forget(&endpoint);
        let retained = self.commands.retained.release(&endpoint);
        context.gave_away(&endpoint);
        Some(MovedDevice { record, retained, job })
    }

    /// Returns whether a device that the broker has accepted can be registered; another one may be evicted for it.
    pub(crate) fn make_room_for(&mut self, context: &mut Context, endpoint: &str) -> bool {
        let replaces = self.registry.id_by_endpoint(endpoint).is_some();
        if replaces || self.registry.len() < context.config.limits.devices {
            return true;
        }
        let Some(silent) = self.evictable(context.now) else { return false };
        self.leave(context, silent, LeaveReason::Evicted);
        true
    }

    /// Returns the device that may be evicted now.
    pub(crate) fn evictable(&mut self, now: Instant) -> Option<RegistrationId> {
        self.silent.evictable(now, &self.registry)
    }

    /// Moves the registrations that an identity made, and that it names, to its new association.
    pub(super) fn established(&mut self, context: &mut Context, peer: Peer, identity: &Arc<Identity>) {
        // Clients fetch an image by an association of its own, and do not notify by that one: the registration stays
        // where it is until the device sends an Update.
        if context.pulls.has_offer_for(identity) {
            return;
        }
        let own: Vec<RegistrationId> = context
            .config
            .identity
            .endpoints_of(identity)
            .filter_map(|endpoint| self.registry.device_by_endpoint(endpoint))
            .filter(|device| device.identity.as_ref() == Some(identity))
            .map(|device| device.id)
            .collect();
        own.into_iter().for_each(|id| self.move_to(context, id, peer));
    }

    /// Does what is due: ends registrations, refuses pending commands, publishes which devices are asleep.
    pub(super) fn handle_timeout(&mut self, context: &mut Context) {
        self.status_client.handle_timeout(context);
        self.withdraw_next(context);
        while let Some(timer) = self.due(context.now) {
            match timer {
                RegistrationTimer::Lifetime => self.check_lifetime(context),
                RegistrationTimer::CommandExpiry => {
                    if let Some(device) =
                        self.commands.pop_expired(context.now).and_then(|id| self.registry.device_mut(id))
                    {
                        self.commands.expire(context, device);
                    }
                }
                RegistrationTimer::StreamObservation => {
                    if let Some(observation) = self.commands.streams.pop_expired(context.now) {
                        self.end_observation(context, observation);
                    }
                }
                RegistrationTimer::FirmwareJob => self.check_job(context),
                RegistrationTimer::AwakeTime => {
                    if let Some(device) =
                        self.queue_mode.pop_expired(context.now).and_then(|id| self.registry.device_mut(id))
                    {
                        self.queue_mode.check(context, device);
                        if !device.is_awake(context.now) {
                            self.commands.jobs.fell_asleep(context.now, device);
                        }
                    }
                }
            }
        }
    }

    /// Notes whether this user of the console has an event stream of this device.
    pub(super) fn set_stream_open(&mut self, now: Instant, endpoint: &str, user: &str, is_open: bool) {
        let device = self.registry.device_by_endpoint(endpoint);
        let observations = device.into_iter().flat_map(|device| device.observations.iter());
        let of_stream = observations.filter_map(|(exchange, observation)| {
            let console = observation.command.origin.console()?;
            (console.while_stream && console.user == user).then_some(exchange)
        });
        self.commands.streams.set_open(now, (endpoint, user), is_open, of_stream);
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let timers = self.timers().into_iter().filter_map(|(at, _)| at);
        timers.chain(self.status_client.next_deadline()).min()
    }

    /// Returns the device of this registration, and the scheduler of its commands.
    pub(super) fn with_commands(&mut self, id: RegistrationId) -> Option<(&mut Device, &mut CommandScheduler)> {
        Some((self.registry.device_mut(id)?, &mut self.commands))
    }

    pub(super) fn registry(&self) -> &Registry {
        &self.registry
    }

    pub(crate) fn registry_mut(&mut self) -> &mut Registry {
        &mut self.registry
    }

    pub(super) fn commands(&self) -> &CommandScheduler {
        &self.commands
    }

    pub(crate) fn commands_mut(&mut self) -> &mut CommandScheduler {
        &mut self.commands
    }

    /// Returns the number of deadlines of all devices.
    pub(super) fn deadlines(&self) -> usize {
        self.lifetimes.len()
            + self.commands.deadlines()
            + self.queue_mode.len()
            + self.commands.streams.len()
            + self.commands.jobs.deadlines()
    }

    /// Gives up the commands in flight of all devices: each of them has its last answer.
    pub(crate) fn give_up_in_flight(&mut self, context: &mut Context) {
        for device in self.registry.devices_mut() {
            self.commands.give_up_in_flight(context, device);
        }
    }

    fn due(&self, now: Instant) -> Option<RegistrationTimer> {
        let due = self.timers().into_iter().filter_map(|(at, timer)| at.filter(|at| *at <= now).map(|at| (at, timer)));
        due.min().map(|(_, timer)| timer)
    }

    fn timers(&self) -> [(Option<Instant>, RegistrationTimer); 5] {
        [
            (self.lifetimes.next(), RegistrationTimer::Lifetime),
            (self.commands.next_deadline(), RegistrationTimer::CommandExpiry),
            (self.queue_mode.next_deadline(), RegistrationTimer::AwakeTime),
            (self.commands.streams.next_deadline(), RegistrationTimer::StreamObservation),
            (self.commands.jobs.next_deadline(), RegistrationTimer::FirmwareJob),
        ]
    }

    /// Ends the registration whose lifetime may be over, if it is.
    fn check_lifetime(&mut self, context: &mut Context) {
        let Some(id) = self.lifetimes.pop_expired(context.now) else { return };
        let Some(device) = self.registry.device(id) else { return };
        let ends = device.lifetime_ends(*context.config.lifetimes.end());
        if ends > context.now {
            self.lifetimes.set(id, ends);
        } else {
            self.leave(context, id, LeaveReason::LifetimeOver);
        }
    }

    /// Ends an observation without asking the device: its next notification is answered with a Reset.
    fn end_observation(&mut self, context: &mut Context, observation: ExchangeId) {
        let Some(device) = device_of(&mut self.registry, &self.commands, observation) else { return };
        device.observations.end(observation);
        self.commands.forget_exchange(observation);
        context.coap.forget(observation);
        context.changed(device);
    }

    /// Moves a device to another address of the same transport. Requests in flight are sent there.
    fn move_to(&mut self, context: &mut Context, id: RegistrationId, to: Peer) {
        let Some(from) = self.registry.readdress(id, to) else { return };
        let Some(device) = self.registry.device(id) else { return };
        context.changed(device);
        context.coap.readdress(context.now, device.exchanges(), to);
        // A device may begin its message ids again with a new handshake, so none of its messages counts as a duplicate.
        let is_plain = from.association.is_none() && to.association.is_none();
        if is_plain && !self.registry.is_known(from) {
            context.coap.readdress_received(from, to);
        }
        context.report(Report::Moved { endpoint: device.registration.endpoint.clone(), from, to });
    }

    fn remove(&mut self, context: &mut Context, id: RegistrationId) -> Option<Device> {
        let mut device = self.registry.remove(id)?;
        context.changes.mark_left(&device.registration.endpoint, device.stored_in());
        context.claims.mark_unclaimed(&device.registration.endpoint);
        self.notifications.forget(context, &mut device);
        self.silent.forget(id);
        self.commands.jobs.left(context, &device);
        self.commands.forget(context, &device);
        self.lifetimes.cancel(id);
        self.queue_mode.forget(id);
        Some(device)
    }
}

/// The presence of devices whose session the broker has ended.
impl RegisteredDevices {
    pub(crate) fn status_client(&self) -> &StatusClient {
        &self.status_client
    }

    /// Takes an event of the gateway's client for presence.
    pub(crate) fn handle_status_client(&mut self, context: &mut Context, event: BrokerEvent) {
        for endpoint in self.status_client.handle_broker(context, event) {
            match self.registry.device_by_endpoint_mut(&endpoint) {
                // Its `offline` may have arrived after its `online`.
                Some(device) => {
                    context.tell_when_stored(Awaited::Device(&endpoint), |context| publish_status(context, device));
                }
                None => context.claims.mark_unclaimed(&endpoint),
            }
        }
        self.withdraw_next(context);
    }

    fn withdraw_next(&mut self, context: &mut Context) {
        let registry = &self.registry;
        let is_registered = |endpoint: &str| registry.id_by_endpoint(endpoint).is_some();
        self.status_client.publish_next(context, is_registered);
    }
}

fn device_of<'d>(
    registry: &'d mut Registry,
    commands: &CommandScheduler,
    exchange: ExchangeId,
) -> Option<&'d mut Device> {
    registry.device_mut(commands.registration_of(exchange)?)
}

/// Takes a valid message of the device: the device is awake, and its lifetime begins again.
fn heard_from(context: &mut Context, queue_mode: &mut QueueMode, commands: &mut CommandScheduler, device: &mut Device) {
    device.heard_from(context.now);
    if device.needs_new_record() {
        context.changed(device);
    }
    queue_mode.heard_from(context, device);
    commands.jobs.heard_from(context, device);
    context.campaign_inbox.heard_from(&device.registration.endpoint);
}

#[cfg(test)]
mod tests;
