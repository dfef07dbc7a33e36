//! A device that registers again: the newer registration takes the place of the older one at the broker.
//!
//! 1. The core asks for the newer registration. From then on the older one makes no connection, and keeps the one that
//!    it has.
//! 2. The newer one waits while the broker may still accept a request of an older one, which would end the newer
//!    connection. It also waits until a device that left has published what was queued.
//! 3. The broker accepts the newer one and ends the connection of the older one.
//! 4. The newer one publishes all that waits for the client ID.
//! 5. If the newer one fails, the one before it reconnects.

use std::time::{Duration, Instant};

use tracing::debug;

use lwm2m_core::gateway::broker::{BrokerEvent, CloseReason, ConnectError, RegistrationId};

use super::clients::ClientKey;
use super::device::{ConnectionId, UpstreamDevice, UpstreamState, Wait};
use super::{ClientTimer, Devices, EARLY_MESSAGES, Protocol};

/// Limits how long the broker may take to answer a request before a newer registration of the client ID connects all
/// the same. EMQX answers a call of ExProto within 5 s, with an error if need be.
pub(crate) const ANSWER_PATIENCE: Duration = Duration::from_secs(5);
/// Limits how long the broker may still carry out a request that was given up. EMQX stops waiting for its
/// authenticators after 5 s, and they may answer later all the same.
const DOUBT: Duration = Duration::from_secs(30);

impl<P: Protocol> Devices<P> {
    /// Stops the registrations before this one of the same client ID from connecting.
    pub(super) fn supersede_older(&mut self, now: Instant, key: ClientKey, id: RegistrationId) {
        for older in self.clients.older(key, id) {
            self.give_way(now, older);
        }
    }

    fn give_way(&mut self, now: Instant, id: RegistrationId) {
        let Some(device) = self.devices.get(&id).filter(|device| !device.is_ready()) else { return };
        debug!(
            registration = id.0,
            clientid = device.client.clientid,
            "superseded by a newer registration of its client ID"
        );
        if !device.connected_before {
            let error = ConnectError::Unavailable("a newer registration has its client ID".to_owned());
            self.emit(id, BrokerEvent::ConnectFailed { registration: id, error });
            return self.remove(now, id);
        }
        self.rest_or_leave(now, id);
    }

    /// Takes the connection from the device, which makes none while there is a newer registration. A device that leaves
    /// is removed.
    pub(in crate::upstream) fn rest_or_leave(&mut self, now: Instant, id: RegistrationId) {
        let Some(device) = self.devices.get(&id) else { return };
        if device.leaving.is_some() {
            return self.remove(now, id);
        }
        P::hang_up(self, now, id);
        self.deadlines.cancel(ClientTimer::Device(id));
        self.parked.remove(&id);
        self.turns.remove(id);
        self.wait_for(id, Wait::Superseded);
        self.serve_turns(now);
    }

    /// Connects the newest registration of the client ID, if it waits for its first attempt and nothing holds it.
    pub(super) fn advance(&mut self, now: Instant, key: ClientKey) {
        let Some(id) = self.clients.newest(key) else { return };
        if matches!(self.state(id), Some(UpstreamState::Held)) && !self.is_held(now, key, id) {
            self.first_attempt(now, id);
        }
    }

    fn is_held(&mut self, now: Instant, key: ClientKey, id: RegistrationId) -> bool {
        let drains = |device: &UpstreamDevice<P>| device.leaving.is_some() && device.is_ready();
        let older = self.clients.older(key, id);
        let draining = older.iter().any(|older| self.devices.get(older).is_some_and(|device| drains(device)));
        let unanswered = self.unanswered_until(now, key);
        if let Some(at) = unanswered {
            self.deadlines.set(ClientTimer::Held(id), at);
        }
        draining || unanswered.is_some()
    }

    /// Returns until when the broker may still carry out a request that it has not answered.
    pub(super) fn unanswered_until(&self, now: Instant, key: ClientKey) -> Option<Instant> {
        let begun = self.clients.shared(key)?.unanswered.values().max()?;
        Some(*begun + ANSWER_PATIENCE).filter(|until| *until > now)
    }

    /// Ends the registrations before this one, which is ready: their connections are closed, or about to be. A
    /// registration of the same endpoint stays until the core disconnects it.
    pub(super) fn retire_older(&mut self, now: Instant, key: ClientKey, id: RegistrationId) {
        for older in self.clients.older(key, id) {
            let Some(device) = self.devices.get(&older) else { continue };
            if device.leaving.is_none() && !self.is_same_endpoint(older, id) {
                self.end(now, older, CloseReason::Discarded);
            } else {
                P::retire(self, now, older, id);
            }
        }
    }

    /// Returns whether a newer registration of the client ID is connected.
    pub(in crate::upstream) fn is_replaced(&self, id: RegistrationId) -> bool {
        let Some(device) = self.devices.get(&id) else { return false };
        self.clients.newer(device.key, id).any(|newer| self.is_ready(newer))
    }

    /// Continues what waited, after a registration of the client ID was removed or the broker has answered.
    pub(in crate::upstream) fn go_on_with(&mut self, now: Instant, key: ClientKey) {
        let Some(newest) = self.clients.newest(key) else { return self.forget_client(key) };
        match self.state(newest) {
            Some(UpstreamState::Held) => self.advance(now, key),
            Some(UpstreamState::WaitingToReconnect(Wait::Superseded)) => self.come_back(now, newest),
            Some(_) | None => {}
        }
        P::publish_next(self, now, key);
    }

    /// Connects a registration again after all newer ones have failed.
    fn come_back(&mut self, now: Instant, id: RegistrationId) {
        match self.devices.get(&id).and_then(|device| device.ended) {
            Some(reason) => self.end(now, id, reason),
            None => self.back_off(now, id),
        }
    }

    fn forget_client(&mut self, key: ClientKey) {
        if self.clients.shared(key).is_none_or(|shared| shared.unanswered.is_empty()) {
            self.clients.forget(key);
        }
    }

    /// Notes that the broker is asked to make the device a client.
    pub(in crate::upstream) fn requested(&mut self, now: Instant, key: ClientKey, connection: ConnectionId) {
        if let Some(shared) = self.clients.shared_mut(key) {
            shared.unanswered.insert(connection, now);
            shared.last_requested = Some(connection);
        }
    }

    /// Notes that a request ended without an answer, if it had none: the broker may carry it out all the same.
    pub(in crate::upstream) fn give_up_request(&mut self, now: Instant, key: ClientKey, connection: ConnectionId) {
        if let Some(shared) = self.clients.shared_mut(key)
            && shared.unanswered.remove(&connection).is_some()
        {
            shared.doubtful_until = Some(now + DOUBT);
        }
    }

    /// Returns whether the broker ended the connection of this device for another one of ours.
    pub(in crate::upstream) fn discarded_by_us(&self, now: Instant, id: RegistrationId) -> bool {
        let Some(device) = self.devices.get(&id) else { return false };
        let own = P::requested_connection(device);
        let Some((own, shared)) = own.zip(self.clients.shared(device.key)) else { return false };
        let newer = shared.last_requested.is_some_and(|last| last > own);
        let doubtful = shared.doubtful_until.is_some_and(|until| until > now);
        newer || doubtful || shared.unanswered.keys().any(|other| *other != own)
    }

    /// Returns the newest registration of the client ID, if it is one of the same endpoint.
    pub(in crate::upstream) fn successor(&self, device: &UpstreamDevice<P>) -> Option<RegistrationId> {
        let successor = self.clients.newest(device.key)?;
        let is_same =
            self.devices.get(&successor).is_some_and(|successor| successor.client.endpoint == device.client.endpoint);
        is_same.then_some(successor)
    }

    /// Takes a command for a registration that another connection of its client ID received.
    pub(in crate::upstream) fn deliver_passed_on(
        &mut self,
        now: Instant,
        successor: RegistrationId,
        message: P::Message,
    ) {
        match self.devices.get_mut(&successor) {
            Some(device) if device.connected_before => P::deliver(self, now, successor, message),
            Some(device) if device.passed_on.len() < EARLY_MESSAGES => device.passed_on.push(message),
            Some(_) | None => {
                self.counters().messages_dropped.inc();
            }
        }
    }

    fn is_same_endpoint(&self, one: RegistrationId, other: RegistrationId) -> bool {
        let endpoint = |id| self.devices.get(&id).map(|device| &device.client.endpoint);
        endpoint(one) == endpoint(other)
    }
}
