//! A device that registers again: the newer registration takes over the session of the older one at the broker.
//!
//! 1. The newer registration is asked for. From then on the older one makes no connection; the one that it has goes on.
//! 2. The newer one waits while the broker may still accept a CONNECT of an older one: it would end the newer connection. It
//!    also waits until a device that left has published what was queued.
//! 3. The broker accepts the newer one and ends the connection of the older one. What it acknowledged there before is heard
//!    to the end of that connection, for five seconds at most.
//! 4. The newer one publishes: what has no acknowledgement goes once more, then all that waits for the clientid.
//! 5. If the newer one comes to nothing, the one before it connects again.

use std::time::{Duration, Instant};

use tracing::debug;

use crate::upstream::client::clients::ClientKey;
use crate::upstream::mqtt::codec::{self, Incoming, Message};
use crate::upstream::mqtt::reason::Admission;
use lwm2m_core::gateway::broker::{BrokerEvent, CloseReason, ConnectError, RegistrationId};

use super::device::{Device, Session, State, Wait};
use super::{Action, ConnectionId, Devices, EARLY_MESSAGES, Timer, session_expiry};

/// How long the broker may take to answer CONNECT, before a newer registration of the clientid connects all the same.
pub(super) const ANSWER_PATIENCE: Duration = Duration::from_secs(5);
/// How long the broker may take to accept a CONNECT on a connection that is closed.
const DOUBT: Duration = Duration::from_secs(30);
/// How long a connection that the broker is ending is still read.
const HAND_OVER: Duration = Duration::from_secs(5);

/// A connection without a device: its CONNECT is not answered yet. It is closed when it is, so that the broker never accepts
/// it later than the connection of a newer registration.
#[derive(Debug)]
pub struct Orphan {
    key: ClientKey,
    goodbye: Vec<u8>,
}

impl Devices {
    /// The registrations before this one of the same clientid make no connection any more.
    pub(super) fn supersede_older(&mut self, now: Instant, key: ClientKey, id: RegistrationId) {
        for older in self.clients.older(key, id) {
            self.give_way(now, older);
        }
    }

    fn give_way(&mut self, now: Instant, id: RegistrationId) {
        let Some(device) = self.devices.get(&id) else { return };
        if matches!(device.state, State::Ready { .. }) {
            return;
        }
        debug!(device = id.0, clientid = device.client.clientid, "gives way to a newer registration of its clientid");
        if !device.connected_before {
            let error = ConnectError::Unavailable("a newer registration has its clientid".to_owned());
            self.tell(id, BrokerEvent::ConnectFailed { device: id, error });
            return self.remove(now, id);
        }
        self.rest_or_leave(now, id);
    }

    /// Has no connection, and makes none while there is a newer registration.
    pub(super) fn rest_or_leave(&mut self, now: Instant, id: RegistrationId) {
        let Some(device) = self.devices.get(&id) else { return };
        let key = device.key;
        if device.leaving.is_some() {
            return self.remove(now, id);
        }
        self.hang_up(now, id);
        self.deadlines.cancel(Timer::Device(id));
        self.deadlines.cancel(Timer::HandOver(id));
        self.parked.remove(&id);
        self.turns.remove(id);
        if let Some(device) = self.devices.get_mut(&id) {
            device.state = State::WaitingToReconnect(Wait::Superseded);
        }
        self.publish_next(now, key);
    }

    /// Connects the newest registration of the clientid, if it waits for its first attempt and nothing holds it.
    pub(super) fn advance(&mut self, now: Instant, key: ClientKey) {
        let Some(id) = self.clients.newest(key) else { return };
        if matches!(self.state(id), Some(State::Held)) && !self.is_held(now, key, id) {
            self.first_attempt(now, id);
        }
    }

    fn is_held(&mut self, now: Instant, key: ClientKey, id: RegistrationId) -> bool {
        let drains = |device: &Device| device.leaving.is_some() && matches!(device.state, State::Ready { .. });
        let older = self.clients.older(key, id);
        let draining = older.iter().any(|older| self.devices.get(older).is_some_and(drains));
        let unanswered = self.unanswered_until(now, key);
        if let Some(at) = unanswered {
            self.deadlines.set(Timer::Held(id), at);
        }
        draining || unanswered.is_some()
    }

    /// Until when the broker may still accept a CONNECT that it has not answered.
    pub(super) fn unanswered_until(&self, now: Instant, key: ClientKey) -> Option<Instant> {
        let begun = self.clients.shared(key)?.connecting.values().max()?;
        Some(*begun + ANSWER_PATIENCE).filter(|until| *until > now)
    }

    /// This one is ready: the connections of the registrations before it are ended, or about to be. A registration of the
    /// same endpoint stays until the core disconnects it.
    pub(super) fn retire_older(&mut self, now: Instant, key: ClientKey, id: RegistrationId) {
        for older in self.clients.older(key, id) {
            let Some(device) = self.devices.get(&older) else { continue };
            if device.leaving.is_none() && !self.is_same_endpoint(older, id) {
                self.end(now, older, CloseReason::Discarded);
            } else if matches!(device.state, State::Ready { .. }) {
                self.deadlines.set(Timer::HandOver(older), now + HAND_OVER);
            } else {
                self.rest_or_leave(now, older);
            }
        }
    }

    /// Whether a newer registration of the clientid is connected.
    pub(super) fn is_replaced(&self, id: RegistrationId) -> bool {
        let Some(device) = self.devices.get(&id) else { return false };
        self.clients.newer(device.key, id).any(|newer| matches!(self.state(newer), Some(State::Ready { .. })))
    }

    /// A registration of the clientid is gone, or the broker has answered: what waited for it goes on.
    pub(super) fn go_on_with(&mut self, now: Instant, key: ClientKey) {
        let Some(newest) = self.clients.newest(key) else { return self.forget_client(key) };
        match self.state(newest) {
            Some(State::Held) => self.advance(now, key),
            Some(State::WaitingToReconnect(Wait::Superseded)) => self.come_back(now, newest),
            Some(_) | None => {}
        }
        self.publish_next(now, key);
    }

    /// All newer registrations came to nothing.
    fn come_back(&mut self, now: Instant, id: RegistrationId) {
        match self.devices.get(&id).and_then(|device| device.ended) {
            Some(reason) => self.end(now, id, reason),
            None => self.back_off(now, id),
        }
    }

    fn forget_client(&mut self, key: ClientKey) {
        if self.clients.shared(key).is_none_or(|session| session.connecting.is_empty()) {
            self.clients.forget(key);
        }
    }

    /// Whether the broker ended the connection of this device for another one of ours.
    pub(super) fn discarded_by_us(&self, now: Instant, id: RegistrationId) -> bool {
        let Some(device) = self.devices.get(&id) else { return false };
        let Some((own, session)) = device.state.connection().zip(self.clients.shared(device.key)) else { return false };
        let newer = session.last_connected.is_some_and(|last| last > own);
        let doubtful = session.doubtful_until.is_some_and(|until| until > now);
        newer || doubtful || session.connecting.keys().any(|other| *other != own)
    }

    /// The connection has no device any more. Its CONNECT has no answer: it is not known when the broker will accept it.
    pub(super) fn orphan(&mut self, id: RegistrationId, connection: ConnectionId, until: Instant) {
        let Some(device) = self.devices.get(&id) else { return };
        let expiry = session_expiry(&device.client);
        let goodbye = codec::disconnect(device.version, expiry, false).unwrap_or_default();
        self.orphans.insert(connection, Orphan { key: device.key, goodbye });
        self.deadlines.set(Timer::Orphan(connection), until);
    }

    /// The broker has answered the CONNECT of a connection without a device. The session is for the newer registration.
    pub(super) fn orphan_heard(&mut self, now: Instant, connection: ConnectionId, incoming: &Incoming) {
        let Some(orphan) = self.orphans.remove(&connection) else { return };
        let accepted = matches!(incoming, Incoming::ConnAck(ack) if ack.reason.admission() == Admission::Accepted);
        if accepted {
            self.actions.push_back(Action::Send { connection, bytes: orphan.goodbye });
            self.actions.push_back(Action::Close { connection });
        } else {
            self.actions.push_back(Action::HangUp { connection });
        }
        self.answered(now, orphan.key, connection);
    }

    /// A connection without a device has ended, or its patience has.
    pub(super) fn orphan_ended(&mut self, now: Instant, connection: ConnectionId) {
        let Some(orphan) = self.orphans.remove(&connection) else { return };
        self.actions.push_back(Action::HangUp { connection });
        self.give_up_connect(now, orphan.key, connection);
        self.answered(now, orphan.key, connection);
    }

    /// The connection is closed. If its CONNECT has no answer, the broker may accept it all the same.
    pub(super) fn give_up_connect(&mut self, now: Instant, key: ClientKey, connection: ConnectionId) {
        if let Some(session) = self.clients.shared_mut(key)
            && session.connecting.remove(&connection).is_some()
        {
            session.doubtful_until = Some(now + DOUBT);
        }
    }

    fn answered(&mut self, now: Instant, key: ClientKey, connection: ConnectionId) {
        self.deadlines.cancel(Timer::Orphan(connection));
        if let Some(session) = self.clients.shared_mut(key) {
            session.connecting.remove(&connection);
        }
        self.go_on_with(now, key);
    }

    /// The device cannot hear acknowledgements any more. What was in flight may give way to what matters more.
    pub(super) fn stop_publishing(&mut self, id: RegistrationId) {
        let Some(key) = self.devices.get(&id).map(|device| device.key) else { return };
        let Some(session) = self.clients.shared_mut(key).filter(|session| session.publisher == Some(id)) else {
            return;
        };
        session.publisher = None;
        for in_flight in &mut session.in_flight {
            in_flight.sent = None;
        }
        self.queues.requeue_in_flight(key);
    }

    /// Whether the device may publish. It takes over what an earlier connection of the session left in flight, when that
    /// connection is read to its end.
    pub(super) fn may_publish(&mut self, key: ClientKey, id: RegistrationId) -> bool {
        let Some(State::Ready { open }) = self.devices.get(&id).map(|device| &device.state) else { return false };
        let Some(session) = self.clients.shared_mut(key) else { return false };
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

    /// Commands of QoS 0 that the leaving device has not told are the next registration's. The broker sends those of QoS 1
    /// again.
    pub(super) fn bequeath(&mut self, now: Instant, device: Device) {
        let Some(heir) = self.heir(&device) else { return };
        let early = match device.state {
            State::Subscribing { early, .. } => early,
            State::Held
            | State::Dialing { .. }
            | State::Connecting { .. }
            | State::Ready { .. }
            | State::WaitingToReconnect(_) => Vec::new(),
        };
        for message in device.inherited.into_iter().chain(early).filter(|message| message.packet.is_none()) {
            self.inherit(now, heir, message);
        }
    }

    fn heir(&self, device: &Device) -> Option<RegistrationId> {
        let heir = self.clients.newest(device.key)?;
        let is_same = self.devices.get(&heir).is_some_and(|heir| heir.client.endpoint == device.client.endpoint);
        is_same.then_some(heir)
    }

    /// A command came on the connection of a device that a newer registration has replaced.
    pub(super) fn message_for_heir(&mut self, now: Instant, id: RegistrationId, message: Message) {
        if message.packet.is_some() {
            return;
        }
        match self.devices.get(&id).and_then(|device| self.heir(device)) {
            Some(heir) => self.inherit(now, heir, message),
            None => {
                self.counters().messages_dropped.inc();
            }
        }
    }

    fn inherit(&mut self, now: Instant, heir: RegistrationId, message: Message) {
        if self.devices.get(&heir).is_some_and(|heir| heir.connected_before) {
            return self.deliver(now, heir, message);
        }
        match self.devices.get_mut(&heir) {
            Some(device) if device.inherited.len() < EARLY_MESSAGES => device.inherited.push(message),
            Some(_) | None => {
                self.counters().messages_dropped.inc();
            }
        }
    }

    fn is_same_endpoint(&self, one: RegistrationId, other: RegistrationId) -> bool {
        let endpoint = |id| self.devices.get(&id).map(|device| &device.client.endpoint);
        endpoint(one) == endpoint(other)
    }

    pub(super) fn session_mut(&mut self, id: RegistrationId) -> Option<&mut Session> {
        let key = self.devices.get(&id)?.key;
        self.clients.shared_mut(key)
    }
}
