//! The publications of a client ID, in order.

use std::time::Instant;

use tracing::debug;

use crate::upstream::client::clients::ClientKey;
use crate::upstream::client::publication_queues::Serial;
use crate::upstream::mqtt::codec::{self, PacketId, Sending};
use crate::upstream::mqtt::reason::{PublishResult, Reason};
use lwm2m_core::gateway::broker::RegistrationId;

use super::device::InFlightPublish;
use super::{ANSWER_TIMEOUT, ClientTimer, MqttDevices, UpstreamState};

/// Limits the bytes that wait for the system, beyond which nothing more is handed to it: what waits in the queue can
/// still be dropped for something more important.
const HIGH_WATER: usize = 64 * 1024;

/// Says which publication is sent next.
enum Next {
    /// The publication was sent on an earlier connection.
    Again(Serial, PacketId),
    First(Serial, Option<PacketId>),
}

impl MqttDevices {
    /// Publishes the queue as far as the windows allow, if a device of the client ID is ready.
    pub(super) fn publish_next(&mut self, now: Instant, key: ClientKey) {
        let Some(id) = self.ready_device(key) else { return };
        if !self.may_publish(key, id) {
            return;
        }
        while let Some(next) = self.next_to_publish(now, key, id) {
            self.send_publication(now, id, next);
        }
        let leaving = self.devices.get(&id).and_then(|device| device.leaving);
        if let Some(leaving) = leaving.filter(|_| self.queues.is_empty(key)) {
            self.send_disconnect(now, id, leaving);
        }
    }

    /// Returns the registration of the client ID that can publish. While a newer one is connecting nobody can: what is
    /// sent on a connection just before the broker ends it may be lost, and for QoS 0 nobody would know.
    fn ready_device(&self, key: ClientKey) -> Option<RegistrationId> {
        if !self.clients.shared(key)?.unanswered.is_empty() {
            return None;
        }
        let newest_first = self.clients.registrations(key).iter().rev();
        for id in newest_first {
            match self.state(*id)? {
                UpstreamState::Ready(_) => return Some(*id),
                UpstreamState::Held | UpstreamState::WaitingToReconnect(_) => {}
                UpstreamState::Connecting(_) => return None,
            }
        }
        None
    }

    pub(super) fn acknowledged(&mut self, now: Instant, id: RegistrationId, packet: PacketId, reason: Reason) {
        let Some(device) = self.devices.get_mut(&id) else { return };
        let key = device.key;
        let session = self.clients.shared_mut(key).map(|shared| &mut shared.protocol);
        let session = session.filter(|session| session.publisher == Some(id));
        let acknowledged = |in_flight: &InFlightPublish| in_flight.packet == packet && in_flight.sent.is_some();
        let Some((session, at)) = session.and_then(|session| {
            let at = session.in_flight.iter().position(acknowledged)?;
            Some((session, at))
        }) else {
            return debug!(registration = id.0, %packet, "PUBACK without a publication");
        };
        let InFlightPublish { serial, sent, .. } = session.in_flight.remove(at);
        if let Some(sent) = sent {
            self.metrics.times.publish.observe(now.saturating_duration_since(sent).as_secs_f64());
        }
        if let Some(open) = device.state.open_mut() {
            open.progress = now;
        }
        match (self.queues.finish(key, serial), reason.publishing()) {
            (Some(queued), PublishResult::Done) => {
                self.counters().publishes_ok.inc();
                self.publication_done(&queued);
            }
            (Some(queued), PublishResult::Refused) => {
                self.counters().publishes_refused.inc();
                self.publication_refused(queued);
            }
            (Some(queued), PublishResult::Rejected) => {
                debug!(registration = id.0, %reason, "publication rejected by the broker");
                self.counters().publishes_failed.inc();
                self.publication_given_up(&queued);
            }
            (None, _) => {}
        }
        self.publish_next(now, key);
    }

    /// Counts a failed attempt of the first unanswered publication, which may be why the connection ends, unless a
    /// newer registration takes its place.
    pub(super) fn count_failed_attempt(&mut self, id: RegistrationId) {
        let Some(key) = self.devices.get(&id).map(|device| device.key) else { return };
        let talks = self.clients.shared(key).is_some_and(|shared| shared.protocol.publisher == Some(id));
        if !talks || self.clients.is_superseded(key, id) {
            return;
        }
        let Some(queued) = self.queues.count_failed_attempt(key) else { return };
        debug!(
            registration = id.0,
            topic = queued.publication.topic,
            "publication dropped: its connection ended three times"
        );
        self.publication_given_up(&queued);
        if let Some(session) = self.clients.shared_mut(key).map(|shared| &mut shared.protocol) {
            session.in_flight.drain(..1.min(session.in_flight.len()));
        }
    }

    fn next_to_publish(&mut self, now: Instant, key: ClientKey, id: RegistrationId) -> Option<Next> {
        let device = self.devices.get_mut(&id)?;
        let UpstreamState::Ready(open) = &device.state else { return None };
        if open.unwritten >= HIGH_WATER {
            return None;
        }
        let (max_qos, window) = (open.limits.max_qos, self.protocol.window.min(open.limits.receive_maximum.into()));
        let session = &mut self.clients.shared_mut(key)?.protocol;
        let (serial, publication) = self.queues.begin(key, window)?;
        if let Some(again) = session.in_flight.iter_mut().find(|in_flight| in_flight.serial == serial) {
            again.sent = Some(now);
            return Some(Next::Again(serial, again.packet));
        }
        if publication.qos.min(max_qos) == 0 {
            return Some(Next::First(serial, None));
        }
        let packet = session.next_packet();
        if session.in_flight.is_empty()
            && let Some(open) = device.state.open_mut()
        {
            open.progress = now;
        }
        session.in_flight.push(InFlightPublish { packet, serial, sent: Some(now) });
        Some(Next::First(serial, Some(packet)))
    }

    fn send_publication(&mut self, now: Instant, id: RegistrationId, next: Next) {
        let (serial, packet, again) = match next {
            Next::Again(serial, packet) => (serial, Some(packet), true),
            Next::First(serial, packet) => (serial, packet, false),
        };
        let Some(device) = self.devices.get_mut(&id) else { return };
        let Some(limits) = device.state.open_mut().map(|open| open.limits) else { return };
        let key = device.key;
        let Some(publication) = self.queues.publication(key, serial) else { return };
        let sending = Sending { client: &device.client, packet, again, retain: publication.retain && limits.retain };
        let encoded = codec::publish(device.protocol.version, publication, sending);
        let too_large = encoded.as_ref().is_ok_and(|bytes| bytes.len() > limits.max_packet_size);
        match encoded {
            Ok(bytes) if !too_large => {
                self.send(now, id, bytes);
                if packet.is_none()
                    && let Some(queued) = self.queues.finish(key, serial)
                {
                    self.counters().publishes_ok.inc();
                    self.publication_done(&queued);
                }
                self.expect_answer(now, id);
            }
            Ok(_) => self.unsendable(id, serial, "it is larger than the broker takes"),
            Err(error) => self.unsendable(id, serial, &error.to_string()),
        }
    }

    /// Makes the connection be checked in time for an answer, if that was not to be earlier.
    fn expect_answer(&mut self, now: Instant, id: RegistrationId) {
        let at = now + ANSWER_TIMEOUT;
        if self.deadlines.get(ClientTimer::Device(id)).is_none_or(|planned| planned > at) {
            self.deadlines.set(ClientTimer::Device(id), at);
        }
    }

    fn unsendable(&mut self, id: RegistrationId, serial: Serial, why: &str) {
        debug!(registration = id.0, why, "publication dropped");
        self.counters().publishes_failed.inc();
        let Some(key) = self.devices.get(&id).map(|device| device.key) else { return };
        if let Some(session) = self.clients.shared_mut(key).map(|shared| &mut shared.protocol) {
            session.in_flight.retain(|in_flight| in_flight.serial != serial);
        }
        if let Some(queued) = self.queues.finish(key, serial) {
            self.publication_given_up(&queued);
        }
    }
}
