//! Events of exchanges and observations, Sends and publications: each is handled with its device.

use crate::coap::{ExchangeError, ExchangeId, Response};
use crate::command::Origin;
use crate::registry::{Device, RegistrationId};

use super::{RegisteredDevices, device_of, heard_from};
use crate::gateway::broker::Ticket;
use crate::gateway::context::Context;
use crate::gateway::intake::received_request::ReceivedRequest;
use crate::gateway::notifications::send;
use crate::gateway::notifications::{Notifications, ReceivedNotification, report_superseded};

/// Takes the events of exchanges and observations. An event of a device that has left has no effect.
impl RegisteredDevices {
    pub(in crate::gateway) fn acknowledged(&mut self, context: &mut Context, exchange: ExchangeId) {
        let Self { registry, commands, queue_mode, .. } = self;
        let Some(device) = device_of(registry, commands, exchange) else { return };
        heard_from(context, queue_mode, commands, device);
        commands.acknowledged(context, device, exchange);
    }

    pub(in crate::gateway) fn answered(
        &mut self,
        context: &mut Context,
        exchange: ExchangeId,
        response: &Response,
        observing: Option<u32>,
    ) {
        let Self { registry, commands, queue_mode, .. } = self;
        let Some(device) = device_of(registry, commands, exchange) else { return };
        heard_from(context, queue_mode, commands, device);
        commands.answered(context, device, exchange, response, observing);
    }

    pub(in crate::gateway) fn reset(&mut self, context: &mut Context, exchange: ExchangeId) {
        let Self { registry, commands, queue_mode, .. } = self;
        let Some(device) = device_of(registry, commands, exchange) else { return };
        heard_from(context, queue_mode, commands, device);
        commands.reset(context, device, exchange);
    }

    pub(in crate::gateway) fn timed_out(&mut self, context: &mut Context, exchange: ExchangeId) {
        let Self { registry, commands, .. } = self;
        let Some(device) = device_of(registry, commands, exchange) else { return };
        commands.timed_out(context, device, exchange);
    }

    /// Takes the failure of an exchange: its response cannot be decoded, or a body could not be transferred.
    pub(in crate::gateway) fn failed(&mut self, context: &mut Context, exchange: ExchangeId, error: ExchangeError) {
        let Self { registry, commands, queue_mode, .. } = self;
        let Some(device) = device_of(registry, commands, exchange) else { return };
        heard_from(context, queue_mode, commands, device);
        commands.failed(context, device, exchange, error);
    }

    pub(in crate::gateway) fn notified(&mut self, context: &mut Context, notification: ReceivedNotification) {
        let Self { registry, commands, queue_mode, notifications, .. } = self;
        let (observation, over) = (notification.observation, notification.over);
        let Some(device) = device_of(registry, commands, observation) else { return };
        heard_from(context, queue_mode, commands, device);
        let command = device.observations.get(observation).map(|observation| &observation.command);
        if command.is_some_and(|command| command.origin == Origin::Firmware) {
            commands.job_notified(context, device, notification);
            return commands.send_next(context, device);
        }
        notifications.received(context, device, notification);
        if over {
            commands.forget_exchange(observation);
        }
        commands.send_next(context, device);
    }

    /// Takes the event that a newer notification arrived before the body of this one was complete.
    pub(in crate::gateway) fn superseded(&mut self, context: &mut Context, observation: ExchangeId) {
        let Self { registry, commands, queue_mode, .. } = self;
        let Some(device) = device_of(registry, commands, observation) else { return };
        heard_from(context, queue_mode, commands, device);
        report_superseded(context, device);
    }

    /// Takes a Send of this device, which speaks from this peer now.
    pub(in crate::gateway) fn send(
        &mut self,
        context: &mut Context,
        id: RegistrationId,
        received: ReceivedRequest,
        has_room: bool,
    ) {
        self.move_to(context, id, received.peer);
        let Self { registry, commands, queue_mode, notifications, .. } = self;
        let Some(device) = registry.device_mut(id) else { return };
        heard_from(context, queue_mode, commands, device);
        if send::publish(notifications, context, device, received, has_room) {
            commands.send_next(context, device);
        }
    }

    /// Takes the event that the broker has accepted a notification, a Send or a final answer.
    pub(in crate::gateway) fn published(&mut self, context: &mut Context, id: RegistrationId, ticket: Ticket) {
        if context.answer_is_done(ticket) {
            return;
        }
        self.with_notifications(context, id, |notifications, context, device| {
            notifications.published(context, device, ticket);
        });
    }

    /// Takes the event that the publication of a Send is queued.
    pub(in crate::gateway) fn queued(&mut self, context: &mut Context, id: RegistrationId, ticket: Ticket) {
        self.with_notifications(context, id, |notifications, context, device| {
            notifications.queued(context, device, ticket);
        });
    }

    /// Takes the event that a notification, a Send or a final answer is not published.
    pub(in crate::gateway) fn unpublished(&mut self, context: &mut Context, id: RegistrationId, ticket: Ticket) {
        if context.answer_is_done(ticket) {
            return;
        }
        self.with_notifications(context, id, |notifications, context, device| {
            notifications.unpublished(context, device, ticket);
        });
    }

    /// Passes the result of a publication to the notifications of the device, and sends its next pending command.
    fn with_notifications(
        &mut self,
        context: &mut Context,
        id: RegistrationId,
        tell: impl FnOnce(&mut Notifications, &mut Context, &mut Device),
    ) {
        let Some(device) = self.registry.device_mut(id) else { return };
        tell(&mut self.notifications, context, device);
        self.commands.send_next(context, device);
    }
}
