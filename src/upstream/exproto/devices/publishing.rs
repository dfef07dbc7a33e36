//! What a device publishes, one publication after the other.

use std::time::Instant;

use tracing::debug;

use crate::gateway::broker::{BrokerEvent, DeviceId, Publication};

use super::{Action, Call, Devices, Outcome, PUBLISH_TIMEOUT, State, Timer};

impl Devices {
    pub(super) fn publish(&mut self, now: Instant, id: DeviceId, publication: Publication) {
        // A device that the broker closed, of which the core has still to hear, or one that was disconnected.
        if self.devices.get(&id).is_none_or(|device| device.leaving) {
            return self.dropped(publication.class);
        }
        if let Some(class) = self.queues.push(id, publication) {
            self.dropped(class);
        }
        self.publish_next(now, id);
    }

    /// Publishes what is first in the queue, if the device is ready and nothing of it is under way.
    pub(super) fn publish_next(&mut self, now: Instant, id: DeviceId) {
        let Some(device) = self.devices.get_mut(&id) else { return };
        let State::Ready { anchor, publishing } = &mut device.state else { return };
        if publishing.is_some() {
            return;
        }
        let Some(((serial, publication), conn)) = self.queues.begin(id, 1).zip(device.conn.clone()) else {
            if device.leaving {
                self.remove(now, id);
            }
            return;
        };
        let Some(node) = device.node else { return };
        *publishing = Some(serial);
        let call = Call::Publish { conn, publication: publication.clone() };
        self.actions.push_back(Action::Call { anchor: *anchor, node, call });
        self.deadlines.set(Timer::Device(id), now + PUBLISH_TIMEOUT);
    }

    pub(super) fn published(&mut self, now: Instant, id: DeviceId, outcome: Outcome) {
        match outcome {
            Outcome::Done => {
                self.counters().publishes_ok.increment();
                let published = self.finish(id);
                if let Some(ticket) = published.and_then(|publication| publication.ticket) {
                    self.tell(id, BrokerEvent::Published { device: id, ticket });
                }
                self.go_on(now, id);
            }
            Outcome::Refused(why) => {
                self.counters().publishes_refused.increment();
                debug!(device = id.0, why, "EMQX does not allow a publication");
                self.publication_refused(id);
                self.go_on(now, id);
            }
            Outcome::Rejected(why) => {
                self.counters().publishes_failed.increment();
                debug!(device = id.0, why, "EMQX rejects a publication");
                if let Some(publication) = self.finish(id) {
                    self.dropped(publication.class);
                }
                self.go_on(now, id);
            }
            Outcome::ConnectionLost(why) | Outcome::Failed(why) => {
                self.counters().publishes_failed.increment();
                self.lost(now, id, &format!("Publish: {why}"));
            }
            Outcome::Unreachable(why) => {
                self.counters().publishes_failed.increment();
                self.queues.give_back(id);
                if let Some(device) = self.devices.get_mut(&id) {
                    device.elsewhere = true;
                }
                self.lost(now, id, &format!("Publish: {why}"));
            }
        }
    }

    /// The publication under way, if there is one, is first in the queue again, unless it was so too often.
    pub(super) fn give_back_unanswered(&mut self, id: DeviceId) {
        if let Some(publication) = self.queues.blame(id) {
            self.dropped(publication.class);
        }
        self.queues.give_back(id);
    }

    /// The publication under way is done with.
    fn finish(&mut self, id: DeviceId) -> Option<Publication> {
        let State::Ready { publishing, .. } = &self.devices.get(&id)?.state else { return None };
        self.queues.finish(id, (*publishing)?)
    }

    fn publication_refused(&mut self, id: DeviceId) {
        if let Some(Publication { topic, .. }) = self.finish(id) {
            self.tell(id, BrokerEvent::PublishRefused { device: id, topic });
        }
    }

    fn go_on(&mut self, now: Instant, id: DeviceId) {
        self.deadlines.cancel(Timer::Device(id));
        if let Some(State::Ready { publishing, .. }) = self.devices.get_mut(&id).map(|device| &mut device.state) {
            *publishing = None;
        }
        self.publish_next(now, id);
    }
}
