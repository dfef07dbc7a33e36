//! A device that registers again, as far as MQTT differs: the newer registration takes over the session of the older
//! one at the broker, and the broker ends the connection of the older one. That connection is read to its end, for five
//! seconds at most, because it may bring acknowledgements. Then the newer one publishes, and sends once more what has
//! no acknowledgement.

use std::time::{Duration, Instant};

use crate::upstream::client::ClientTimer;
use crate::upstream::client::clients::ClientKey;
use crate::upstream::client::device::{ConnectionId, UpstreamDevice};
use crate::upstream::mqtt::codec::{self, Incoming, MqttMessage};
use crate::upstream::mqtt::reason::Admission;
use lwm2m_core::gateway::broker::RegistrationId;

use super::{MqttAction, MqttAttempt, MqttDevices, MqttProtocol, MqttTimer, UpstreamState, session_expiry};

/// Limits how long a connection that the broker is ending is still read.
const HAND_OVER: Duration = Duration::from_secs(5);

/// A connection without a device whose CONNECT is not answered yet. It is closed after the answer, so that the
/// broker never accepts it later than the connection of a newer registration.
#[derive(Debug)]
pub(crate) struct Orphan {
    key: ClientKey,
    goodbye: Vec<u8>,
}

impl MqttDevices {
    /// Reads the connection of a registration that was replaced to its end.
    pub(super) fn hand_over(&mut self, now: Instant, older: RegistrationId) {
        if self.is_ready(older) {
            self.deadlines.set(ClientTimer::Protocol(MqttTimer::HandOver(older)), now + HAND_OVER);
        } else {
            self.rest_or_leave(now, older);
        }
    }

    /// Ends the connection of a registration that was replaced, and publishes what was in flight there on the newer
    /// one.
    pub(super) fn handed_over(&mut self, now: Instant, older: RegistrationId) {
        let key = self.devices.get(&older).map(|device| device.key);
        self.rest_or_leave(now, older);
        if let Some(key) = key {
            self.publish_next(now, key);
        }
    }

    /// Keeps the connection as an orphan. Its CONNECT has no answer, so it is not known when the broker will accept it.
    pub(super) fn orphan(&mut self, id: RegistrationId, connection: ConnectionId, until: Instant) {
        let Some(device) = self.devices.get(&id) else { return };
        let expiry = session_expiry(&device.client);
        let goodbye = codec::disconnect(device.protocol.version, expiry, false).unwrap_or_default();
        self.protocol.orphans.insert(connection, Orphan { key: device.key, goodbye });
        self.deadlines.set(ClientTimer::Protocol(MqttTimer::Orphan(connection)), until);
    }

    /// Handles the answer to the CONNECT of an orphan. The session stays for the newer registration.
    pub(super) fn orphan_heard(&mut self, now: Instant, connection: ConnectionId, incoming: &Incoming) {
        let Some(orphan) = self.protocol.orphans.remove(&connection) else { return };
        let accepted = matches!(incoming, Incoming::ConnAck(ack) if ack.reason.admission() == Admission::Accepted);
        if accepted {
            self.actions.push_back(MqttAction::Send { connection, bytes: orphan.goodbye });
            self.actions.push_back(MqttAction::Close { connection });
        } else {
            self.actions.push_back(MqttAction::HangUp { connection });
        }
        self.answered(now, orphan.key, connection);
    }

    /// Handles the end of an orphan, or of its time.
    pub(super) fn orphan_ended(&mut self, now: Instant, connection: ConnectionId) {
        let Some(orphan) = self.protocol.orphans.remove(&connection) else { return };
        self.actions.push_back(MqttAction::HangUp { connection });
        self.give_up_request(now, orphan.key, connection);
        self.answered(now, orphan.key, connection);
    }

    fn answered(&mut self, now: Instant, key: ClientKey, connection: ConnectionId) {
        self.deadlines.cancel(ClientTimer::Protocol(MqttTimer::Orphan(connection)));
        if let Some(shared) = self.clients.shared_mut(key) {
            shared.unanswered.remove(&connection);
        }
        self.go_on_with(now, key);
    }

    /// Puts the publications in flight back into the queue, where they may be dropped for something more important: the
    /// device receives no more acknowledgements.
    pub(super) fn stop_publishing(&mut self, id: RegistrationId) {
        let Some(key) = self.devices.get(&id).map(|device| device.key) else { return };
        let session = self.clients.shared_mut(key).map(|shared| &mut shared.protocol);
        let Some(session) = session.filter(|session| session.publisher == Some(id)) else {
            return;
        };
        session.publisher = None;
        for in_flight in &mut session.in_flight {
            in_flight.sent = None;
        }
        self.queues.requeue_in_flight(key);
    }

    /// Returns whether the device may publish. It takes over what an earlier connection of the session left in flight,
    /// after that connection was read to its end.
    pub(super) fn may_publish(&mut self, key: ClientKey, id: RegistrationId) -> bool {
        let Some(UpstreamState::Ready(open)) = self.devices.get(&id).map(|device| &device.state) else { return false };
        let Some(session) = self.clients.shared_mut(key).map(|shared| &mut shared.protocol) else { return false };
        if session.publisher == Some(id) {
            return true;
        }
        if session.publisher.is_some() && !session.in_flight.is_empty() {
            return false;
        }
        session.publisher = Some(id);
        // To a broker that knows nothing of what was in flight it goes as if it never went.
        let (known, queues) = (open.session_present, &self.queues);
        session.in_flight.retain(|in_flight| known && queues.publication(key, in_flight.serial).is_some());
        true
    }

    /// Passes commands of QoS 0 that the removed device has not told the core to the next registration. The broker
    /// sends those of QoS 1 again.
    pub(super) fn pass_on(&mut self, now: Instant, device: UpstreamDevice<MqttProtocol>) {
        let Some(successor) = self.successor(&device) else { return };
        let early = match device.state {
            UpstreamState::Connecting(MqttAttempt::Subscribing { early, .. }) => early,
            UpstreamState::Held
            | UpstreamState::Connecting(_)
            | UpstreamState::Ready(_)
            | UpstreamState::WaitingToReconnect(_) => Vec::new(),
        };
        for message in device.passed_on.into_iter().chain(early).filter(|message| message.packet.is_none()) {
            self.deliver_passed_on(now, successor, message);
        }
    }

    /// Handles a command on the connection of a device that a newer registration has replaced.
    pub(super) fn message_for_successor(&mut self, now: Instant, id: RegistrationId, message: MqttMessage) {
        if message.packet.is_some() {
            return;
        }
        match self.devices.get(&id).and_then(|device| self.successor(device)) {
            Some(successor) => self.deliver_passed_on(now, successor, message),
            None => {
                self.counters().messages_dropped.inc();
            }
        }
    }
}
