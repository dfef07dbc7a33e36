//! What devices tell by themselves: notifications of observations.

use std::time::Instant;

use crate::coap::{Acknowledge, Code, ExchangeId, Failure, Response};
use crate::lwm2m::operation::Outcome;
use crate::mqtt::uplink;

use super::Gateway;
use super::broker::{RegistrationId, Ticket, UplinkClass};
use super::report::{NotificationOutcome, Report};

/// Acknowledgements that one device may wait for; RFC 7252 section 4.7 lets it have one message on its way.
const DEFERRED_ACKS_PER_DEVICE: usize = 64;

/// A notification, or the reason why there is none although the device sent one.
pub(super) struct ReceivedNotification<'r> {
    pub number: Option<u32>,
    pub received: Result<&'r Response, Failure>,
    pub owed: Option<Acknowledge>,
    /// It was the last one of its observation.
    pub over: bool,
}

impl Gateway {
    pub(super) fn notified(&mut self, now: Instant, observation_id: ExchangeId, notified: ReceivedNotification) {
        let ReceivedNotification { number, received, owed, over } = notified;
        let Some(&id) = self.exchanges.get(&observation_id) else { return };
        self.heard_from(now, id);
        let Some(device) = self.registry.device(id) else { return };
        let Some(observation) = device.observations.get(&observation_id) else { return };
        let command = &observation.command;
        let outcome = match received {
            Ok(response) => self.outcome(now, device, &command.operation, response),
            Err(error) => Outcome { code: Code::BAD_REQUEST, content: None, reason: Some(error.to_string()) },
        };
        let payload = uplink::notification(&command.echo, &outcome, number);
        let (topic, endpoint) = (device.topics.notify.clone(), device.registration.endpoint.clone());
        let (path, peer) = (observation.path, device.peer);

        let ticket = owed.map(|owed| self.defer_ack(id, owed));
        self.publish_with(id, topic, payload, UplinkClass::Notification, ticket);
        if let Some(error) = received.err().and_then(Failure::transfer) {
            self.report(Report::TransferFailed { peer, error });
        } else if let Some(reason) = outcome.reason {
            let endpoint = endpoint.clone();
            self.report(Report::UndecodableContent { endpoint, path: path.to_string(), reason });
        }
        if over {
            self.exchanges.remove(&observation_id);
            self.changed(id);
            if let Some(device) = self.registry.device_mut(id) {
                device.observations.remove(&observation_id);
            }
        }
        let outcome = if over { NotificationOutcome::Ended } else { NotificationOutcome::Published };
        self.report(Report::Notification { endpoint, outcome });
        self.send_next(now, id);
    }

    /// A newer state was told before this one could be read as a whole: there is nothing to publish.
    pub(super) fn notification_superseded(&mut self, now: Instant, observation: ExchangeId) {
        let Some(&id) = self.exchanges.get(&observation) else { return };
        self.heard_from(now, id);
        let Some(device) = self.registry.device(id) else { return };
        let endpoint = device.registration.endpoint.clone();
        self.report(Report::Notification { endpoint, outcome: NotificationOutcome::Superseded });
    }

    /// The broker took a notification: now the device may forget it.
    pub(super) fn published(&mut self, id: RegistrationId, ticket: Ticket) {
        let owed = self.registry.device_mut(id).and_then(|device| device.deferred_acks.remove(&ticket.0));
        if let Some(owed) = owed {
            self.coap.acknowledge(owed);
        }
    }

    /// The acknowledgement waits for the publication with this ticket. The oldest one of a device that has too many of
    /// them is never given: the device repeats its notification until it gives up itself.
    fn defer_ack(&mut self, id: RegistrationId, owed: Acknowledge) -> Ticket {
        self.last_ticket += 1;
        if let Some(device) = self.registry.device_mut(id) {
            if device.deferred_acks.len() >= DEFERRED_ACKS_PER_DEVICE {
                device.deferred_acks.pop_first();
            }
            device.deferred_acks.insert(self.last_ticket, owed);
        }
        Ticket(self.last_ticket)
    }
}
