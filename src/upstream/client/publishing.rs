//! Publications of one client ID: how they enter its queue, and what the broker's answer means for them.

use std::time::Instant;

use lwm2m_core::gateway::broker::{BrokerEvent, Publication, RegistrationId, UplinkClass};

use super::clients::ClientKey;
use super::publication_queues::Queued;
use super::{Devices, Protocol};

impl<P: Protocol> Devices<P> {
    pub(super) fn publish(&mut self, now: Instant, id: RegistrationId, publication: Publication) {
        // A device that the broker closed, of which the core has still to hear, or one that was disconnected.
        let Some(device) = self.devices.get_mut(&id).filter(|device| device.leaving.is_none()) else {
            return self.dropped(publication.class);
        };
        device.active = Some(now);
        let key = device.key;
        self.turns.publishes(id, now);
        let ticket = publication.ticket.filter(|_| publication.class == UplinkClass::Send);
        let dropped = self.queues.push(key, Queued { registration: id, publication });
        let is_queued = dropped.as_ref().is_none_or(|dropped| dropped.publication.class != UplinkClass::Send);
        dropped.iter().for_each(|dropped| self.publication_given_up(dropped));
        if let Some(ticket) = ticket.filter(|_| is_queued) {
            self.emit(id, BrokerEvent::Queued { registration: id, ticket });
        }
        P::publish_next(self, now, key);
    }

    /// Reports a publication that the broker has taken.
    pub(in crate::upstream) fn publication_done(&mut self, Queued { registration, publication }: &Queued) {
        if let Some(ticket) = publication.ticket {
            self.emit(*registration, BrokerEvent::Published { registration: *registration, ticket });
        }
    }

    /// Reports a publication that the broker does not allow.
    pub(in crate::upstream) fn publication_refused(&mut self, Queued { registration, publication }: Queued) {
        self.unpublished(registration, &publication);
        self.emit(registration, BrokerEvent::PublishRefused { registration, topic: publication.topic });
    }

    /// Counts a publication that was given up, and reports it to whoever waits for it.
    pub(in crate::upstream) fn publication_given_up(&mut self, Queued { registration, publication }: &Queued) {
        self.dropped(publication.class);
        self.unpublished(*registration, publication);
    }

    fn unpublished(&mut self, registration: RegistrationId, publication: &Publication) {
        if let Some(ticket) = publication.ticket {
            self.emit(registration, BrokerEvent::Unpublished { registration, ticket });
        }
    }

    /// Counts a publication that was given up.
    pub(in crate::upstream) fn dropped(&mut self, class: UplinkClass) {
        self.dropped += 1;
        match class {
            UplinkClass::Registration => {
                self.counters().dropped_registrations.inc();
            }
            UplinkClass::Answer => {
                self.counters().dropped_answers.inc();
            }
            UplinkClass::Notification => {
                self.counters().dropped_notifications.inc();
            }
            UplinkClass::Send => {
                self.counters().dropped_sends.inc();
            }
        }
    }

    /// Drops the queue of a client ID that has no registration left.
    pub(super) fn clear_queue(&mut self, key: ClientKey) {
        if let Some(shared) = self.clients.shared_mut(key) {
            P::forget_in_flight(&mut shared.protocol);
        }
        for class in self.queues.clear(key) {
            self.dropped(class);
        }
    }
}
