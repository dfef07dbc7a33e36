//! Notifications: what devices send by themselves about what is observed.

use crate::coap::{Acknowledge, ExchangeId, Failure, Response};
use crate::lwm2m::operation::Outcome;
use crate::mqtt::uplink;
use crate::registry::Device;

use super::broker::{Publication, Ticket, UplinkClass};
use super::context::Context;
use super::report::{NotificationOutcome, Report};

/// Acknowledgements that one device may wait for; RFC 7252 section 4.7 lets it have one message on its way.
const DEFERRED_ACKS_PER_DEVICE: usize = 64;

/// A notification, or the reason why there is none although the device sent one.
pub(super) struct ReceivedNotification<'r> {
    pub observation: ExchangeId,
    pub number: Option<u32>,
    pub received: Result<&'r Response, Failure>,
    /// The acknowledgement that the device waits for until the notification is published.
    pub owed: Option<Acknowledge>,
    /// It was the last one of its observation.
    pub over: bool,
}

/// Publishes notifications, and owns the tickets by which their acknowledgements wait for the broker.
#[derive(Debug, Default)]
pub(super) struct Notifications {
    last_ticket: u64,
}

impl Notifications {
    /// Publishes a notification of this device. The last one of an observation ends it.
    pub fn received(&mut self, context: &mut Context, device: &mut Device, notification: ReceivedNotification) {
        let ReceivedNotification { observation: exchange, number, received, owed, over } = notification;
        let Some(observation) = device.observations.get(exchange) else { return };
        let command = &observation.command;
        let outcome = match received {
            Ok(response) => context.outcome(device, &command.operation, response),
            Err(error) => Outcome::refused(error.to_string()),
        };
        let payload = uplink::notification(&command.echo, &outcome, number);
        let path = command.operation.path;
        let endpoint = device.registration.endpoint.clone();

        let ticket = owed.map(|owed| self.defer_ack(device, owed));
        let topic = device.topics.notify.clone();
        let publication = Publication { ticket, ..Publication::new(topic, payload, UplinkClass::Notification) };
        context.publish(device.session, publication);
        if let Some(error) = received.err().and_then(Failure::transfer) {
            context.report(Report::TransferFailed { peer: device.peer, error });
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

    /// Sends the acknowledgement that waited for this publication: the broker has it, so the device may forget it.
    pub fn published(&mut self, context: &mut Context, device: &mut Device, ticket: Ticket) {
        if let Some(owed) = device.deferred_acks.remove(&ticket.0) {
            context.coap.acknowledge(owed);
        }
    }

    /// Keeps the acknowledgement until the publication with this ticket is done. The oldest one of a device that has
    /// too many of them is never sent: the device repeats its notification until it gives up itself.
    fn defer_ack(&mut self, device: &mut Device, owed: Acknowledge) -> Ticket {
        self.last_ticket += 1;
        if device.deferred_acks.len() >= DEFERRED_ACKS_PER_DEVICE {
            device.deferred_acks.pop_first();
        }
        device.deferred_acks.insert(self.last_ticket, owed);
        Ticket(self.last_ticket)
    }
}

/// Reports that a newer state came before this one could be read as a whole: there is nothing to publish.
pub(super) fn report_superseded(context: &mut Context, device: &Device) {
    let endpoint = device.registration.endpoint.clone();
    context.report(Report::Notification { endpoint, outcome: NotificationOutcome::Superseded });
}
