//! What a device publishes, in order.

use std::time::Instant;

use tracing::debug;

use crate::gateway::broker::{BrokerEvent, DeviceId, Publication};
use crate::upstream::mqtt::codec::{self, PacketId, Sending};
use crate::upstream::mqtt::reason::{Publishing, Reason};
use crate::upstream::queue::Serial;

use super::device::InFlight;
use super::{ANSWER_TIMEOUT, Devices, State, Timer};

/// While the system has so much still to take nothing more is handed to it: what waits here can still be dropped for
/// something that matters more.
const HIGH_WATER: usize = 64 * 1024;

/// What goes out next.
enum Next {
    /// It went out on an earlier connection.
    Again(Serial, PacketId),
    First(Serial, Option<PacketId>),
}

impl Devices {
    pub(super) fn publish(&mut self, now: Instant, id: DeviceId, publication: Publication) {
        // A device that the broker closed, of which the core has still to hear, or one that was disconnected.
        if self.devices.get(&id).is_none_or(|device| device.leaving.is_some()) {
            return self.dropped(publication.class);
        }
        if let Some(class) = self.queues.push(id, publication) {
            self.dropped(class);
        }
        self.publish_next(now, id);
    }

    /// Publishes what is first in the queue, as much of it as the windows allow, if the device is ready.
    pub(super) fn publish_next(&mut self, now: Instant, id: DeviceId) {
        while let Some(next) = self.next_to_publish(now, id) {
            self.send_publication(now, id, next);
        }
        let Some(device) = self.devices.get(&id) else { return };
        if let (Some(leaving), State::Ready { .. }) = (device.leaving, &device.state)
            && self.queues.is_empty(id)
        {
            self.say_goodbye(now, id, leaving);
        }
    }

    pub(super) fn acknowledged(&mut self, now: Instant, id: DeviceId, packet: PacketId, reason: Reason) {
        let Some(device) = self.devices.get_mut(&id) else { return };
        let acknowledged = |in_flight: &InFlight| in_flight.packet == packet && in_flight.sent;
        let Some(at) = device.in_flight.iter().position(acknowledged) else {
            return debug!(device = id.0, ?packet, "PUBACK of nothing");
        };
        let InFlight { serial, .. } = device.in_flight.remove(at);
        if let Some(talk) = device.state.talk_mut() {
            talk.progress = now;
        }
        match (self.queues.finish(id, serial), reason.publishing()) {
            (Some(publication), Publishing::Done) => self.published(id, &publication),
            (Some(Publication { topic, .. }), Publishing::Refused) => {
                self.counters().publishes_refused.increment();
                self.tell(id, BrokerEvent::PublishRefused { device: id, topic });
            }
            (Some(Publication { class, .. }), Publishing::Rejected) => {
                debug!(device = id.0, %reason, "the broker rejects a publication");
                self.counters().publishes_failed.increment();
                self.dropped(class);
            }
            (None, _) => {}
        }
        self.publish_next(now, id);
    }

    /// The connection ends perhaps because of what was sent: of the first publication that has no answer.
    pub(super) fn blame_publication(&mut self, id: DeviceId) {
        let Some(publication) = self.queues.blame(id) else { return };
        debug!(device = id.0, topic = publication.topic, "a publication is given up: it never survives its connection");
        self.dropped(publication.class);
        if let Some(device) = self.devices.get_mut(&id) {
            device.in_flight.drain(..1.min(device.in_flight.len()));
        }
    }

    fn next_to_publish(&mut self, now: Instant, id: DeviceId) -> Option<Next> {
        let device = self.devices.get_mut(&id)?;
        let State::Ready { talk } = &device.state else { return None };
        if talk.unwritten >= HIGH_WATER {
            return None;
        }
        let (max_qos, window) = (talk.limits.max_qos, self.window.min(talk.limits.receive_maximum.into()));
        let (serial, publication) = self.queues.begin(id, window)?;
        if let Some(again) = device.in_flight.iter_mut().find(|in_flight| in_flight.serial == serial) {
            again.sent = true;
            return Some(Next::Again(serial, again.packet));
        }
        if publication.qos.min(max_qos) == 0 {
            return Some(Next::First(serial, None));
        }
        let packet = device.next_packet();
        if device.in_flight.is_empty()
            && let Some(talk) = device.state.talk_mut()
        {
            talk.progress = now;
        }
        device.in_flight.push(InFlight { packet, serial, sent: true });
        Some(Next::First(serial, Some(packet)))
    }

    fn send_publication(&mut self, now: Instant, id: DeviceId, next: Next) {
        let (serial, packet, again) = match next {
            Next::Again(serial, packet) => (serial, Some(packet), true),
            Next::First(serial, packet) => (serial, packet, false),
        };
        let Some(device) = self.devices.get_mut(&id) else { return };
        let Some(limits) = device.state.talk_mut().map(|talk| talk.limits) else { return };
        let Some(publication) = self.queues.publication(id, serial) else { return };
        let sending = Sending { client: &device.client, packet, again, retain: publication.retain && limits.retain };
        let said = codec::publish(device.version, publication, sending);
        let too_large = said.as_ref().is_ok_and(|bytes| bytes.len() > limits.max_packet_size);
        match said {
            Ok(bytes) if !too_large => {
                self.send(now, id, bytes);
                if packet.is_none()
                    && let Some(publication) = self.queues.finish(id, serial)
                {
                    self.published(id, &publication);
                }
                self.expect_answer(now, id);
            }
            Ok(_) => self.unsendable(id, serial, "it is larger than the broker takes"),
            Err(error) => self.unsendable(id, serial, &error.to_string()),
        }
    }

    /// The connection is looked at in time, if it was not to be earlier.
    fn expect_answer(&mut self, now: Instant, id: DeviceId) {
        let at = now + ANSWER_TIMEOUT;
        if self.deadlines.get(Timer::Device(id)).is_none_or(|planned| planned > at) {
            self.deadlines.set(Timer::Device(id), at);
        }
    }

    fn published(&mut self, id: DeviceId, publication: &Publication) {
        self.counters().publishes_ok.increment();
        if let Some(ticket) = publication.ticket {
            self.tell(id, BrokerEvent::Published { device: id, ticket });
        }
    }

    fn unsendable(&mut self, id: DeviceId, serial: Serial, why: &str) {
        debug!(device = id.0, why, "a publication is given up");
        self.counters().publishes_failed.increment();
        if let Some(device) = self.devices.get_mut(&id) {
            device.in_flight.retain(|in_flight| in_flight.serial != serial);
        }
        if let Some(publication) = self.queues.finish(id, serial) {
            self.dropped(publication.class);
        }
    }
}
