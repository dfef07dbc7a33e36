//! Notifications of observations: publishes them, and acknowledges them when the broker has them.

pub(super) mod send;

use crate::coap::{AckMode, Code, ExchangeError, ExchangeId, PendingAck, Response};
use crate::lwm2m::operation::Outcome;
use crate::mqtt::uplink;
use crate::registry::{DeferredAck, Device};

use super::broker::{Publication, Ticket, UplinkClass};
use super::commands::report_transfer;
use super::context::Context;
use super::diagnostic::unavailable;
use super::report::{NotificationOutcome, Report};

/// Maximum number of acknowledgements that one device may wait for. RFC 7252 section 4.7 allows a device one
/// outstanding message.
const DEFERRED_ACKS_PER_DEVICE: usize = 64;

/// A notification, or the reason why there is none although the device sent one.
pub(super) struct ReceivedNotification<'r> {
    pub observation: ExchangeId,
    pub number: Option<u32>,
    pub received: Result<&'r Response, ExchangeError>,
    /// The acknowledgement that the device waits for until the notification is published.
    pub pending_ack: Option<PendingAck>,
    /// Whether it is the last notification of its observation.
    pub over: bool,
}

/// Publishes notifications and Sends, and owns the tickets by which their acknowledgements wait for the broker.
#[derive(Debug, Default)]
pub(super) struct Notifications {
    last_ticket: u64,
}

impl Notifications {
    /// Publishes a notification of this device. The last one of an observation ends it.
    pub(super) fn received(&mut self, context: &mut Context, device: &mut Device, notification: ReceivedNotification) {
        let ReceivedNotification { observation: exchange, number, received, pending_ack, over } = notification;
        let Some(observation) = device.observations.get(exchange) else { return };
        let command = &observation.command;
        let outcome = match received {
            Ok(response) => context.outcome(device, &command.operation, response),
            Err(error) => Outcome::refused(error.to_string()),
        };
        let payload = uplink::notification(&command.echo, &outcome, number);
        let path = command.operation.path;
        let endpoint = device.registration.endpoint.clone();

        let ticket = pending_ack.map(|pending_ack| self.defer(context, device, DeferredAck::Notification(pending_ack)));
        let topic = device.topics.notify();
        let publication = Publication { ticket, ..Publication::new(topic, payload, UplinkClass::Notification) };
        context.publish(device.publishes_as, publication);
        if let Some(error) = received.err().and_then(ExchangeError::transfer) {
            report_transfer(context, device, error);
        } else if let Some(reason) = outcome.reason {
            let endpoint = endpoint.clone();
            context.report(Report::UndecodableContent { endpoint, path: path.to_string(), reason });
        }
        if over {
            device.observations.end(exchange);
            context.changed(device);
        }
        let outcome = if over { NotificationOutcome::Ended } else { NotificationOutcome::Published };
        context.report(Report::Notification { endpoint, outcome });
    }

    /// Sends the response or acknowledgement that waited for this publication, which the broker has accepted.
    pub(super) fn published(&mut self, context: &mut Context, device: &mut Device, ticket: Ticket) {
        match device.deferred_acks.remove(ticket.0) {
            Some(DeferredAck::Notification(pending_ack)) => context.coap.acknowledge(pending_ack),
            Some(DeferredAck::Send(request)) => context.answer_send(device, request, Response::new(Code::CHANGED)),
            None => {}
        }
    }

    /// Answers a Send that is queued, unless the device has to wait until it is published.
    pub(super) fn queued(&mut self, context: &mut Context, device: &mut Device, ticket: Ticket) {
        match context.config.coap.acknowledge_notifications {
            AckMode::OnReceipt => self.published(context, device, ticket),
            AckMode::Deferred => {}
        }
    }

    /// Answers a Send that is not published: the device may try again later. The acknowledgement of a notification is
    /// never sent.
    pub(super) fn unpublished(&mut self, context: &mut Context, device: &mut Device, ticket: Ticket) {
        let deferred = device.deferred_acks.remove(ticket.0);
        deferred.into_iter().for_each(|deferred| give_up(context, device, deferred));
    }

    /// Drops all acknowledgements and responses that a device that leaves waits for.
    pub(super) fn forget(&mut self, context: &mut Context, device: &mut Device) {
        for deferred in device.deferred_acks.drain() {
            give_up(context, device, deferred);
        }
    }

    /// Keeps an acknowledgement or response until the publication with this ticket is done. If the device has too many
    /// of them, the oldest is dropped: the device then retransmits its notification.
    pub(crate) fn defer(&mut self, context: &mut Context, device: &mut Device, deferred: DeferredAck) -> Ticket {
        self.last_ticket += 1;
        if device.deferred_acks.len() >= DEFERRED_ACKS_PER_DEVICE
            && let Some(oldest) = device.deferred_acks.remove_oldest()
        {
            give_up(context, device, oldest);
        }
        device.deferred_acks.insert(self.last_ticket, deferred);
        Ticket(self.last_ticket)
    }
}

/// Ends the wait for a publication without success. A notification is not acknowledged; a Send is answered 5.03.
fn give_up(context: &mut Context, device: &Device, deferred: DeferredAck) {
    if let DeferredAck::Send(request) = deferred {
        let response = unavailable("not published", context.config.limits.retry_after);
        context.answer_send(device, request, response);
    }
}

/// Reports that a newer state came before this one could be read as a whole: there is nothing to publish.
pub(super) fn report_superseded(context: &mut Context, device: &Device) {
    let endpoint = device.registration.endpoint.clone();
    context.report(Report::Notification { endpoint, outcome: NotificationOutcome::Superseded });
}

#[cfg(test)]
mod tests;
