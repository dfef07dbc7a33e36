//! A device that registers again: the newer registration takes the place of the older one at EMQX.
//!
//! 1. The newer registration is asked for. From then on the older one makes no connection; the one that it has goes on.
//! 2. The newer one waits while EMQX may still carry out an Authenticate of an older one: it would close the newer
//!    connection. It also waits until a device that left has published what was queued.
//! 3. EMQX authenticates the newer one and closes the connection of the older one. The publication that was under way there
//!    is sent again only if its call did not succeed.
//! 4. The newer one is ready: it publishes all that waits for the clientid. What EMQX still tells of the older connections is
//!    the newer one's.
//! 5. If the newer one comes to nothing, the one before it connects again.

use std::time::{Duration, Instant};

use tracing::debug;

use crate::upstream::client::clients::ClientKey;
use lwm2m_core::gateway::broker::{BrokerEvent, CloseReason, ConnectError, RegistrationId};

use super::device::{Device, Publishing, State, Wait};
use super::{AnchorId, Devices, EARLY_MESSAGES, Message, Outcome, PUBLISH_TIMEOUT, Timer};

/// EMQX answers a call within 5 s, be it with an error.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);
/// EMQX gives up waiting for its authenticators after 5 s, and says so; they may answer later all the same.
const DOUBT: Duration = Duration::from_secs(30);
/// Closed connections of older registrations, for each device, of which EMQX may still tell messages.
const FORMER_CONNECTIONS: usize = 4;

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
        if device.leaving { self.remove(now, id) } else { self.rest(now, id) }
    }

    /// Has no connection, and makes none while there is a newer registration.
    pub(super) fn rest(&mut self, now: Instant, id: RegistrationId) {
        self.hang_up(now, id);
        self.deadlines.cancel(Timer::Device(id));
        self.parked.remove(&id);
        self.turns.remove(id);
        if let Some(device) = self.devices.get_mut(&id) {
            device.state = State::WaitingToReconnect(Wait::Superseded);
        }
    }

    /// Connects the newest registration of the clientid, if it waits for its first attempt and nothing holds it.
    pub(super) fn advance(&mut self, now: Instant, key: ClientKey) {
        let Some(id) = self.clients.newest(key) else { return };
        if matches!(self.state(id), Some(State::Held)) && !self.is_held(now, key, id) {
            self.first_attempt(now, id);
        }
    }

    fn is_held(&mut self, now: Instant, key: ClientKey, id: RegistrationId) -> bool {
        let drains = |device: &Device| device.leaving && matches!(device.state, State::Ready { .. });
        let older = self.clients.older(key, id);
        let draining = older.iter().any(|older| self.devices.get(older).is_some_and(drains));
        let unanswered = self.unanswered_until(now, key);
        if let Some(at) = unanswered {
            self.deadlines.set(Timer::Held(id), at);
        }
        draining || unanswered.is_some()
    }

    /// Until when EMQX may still carry out an Authenticate that it has not answered.
    pub(super) fn unanswered_until(&self, now: Instant, key: ClientKey) -> Option<Instant> {
        let begun = self.clients.shared(key)?.authenticating.values().max()?;
        Some(*begun + ANSWER_PATIENCE).filter(|until| *until > now)
    }

    /// This one is ready: the connections of the registrations before it are closed, or about to be. A registration of the
    /// same endpoint stays until the core disconnects it.
    pub(super) fn retire_older(&mut self, now: Instant, key: ClientKey, id: RegistrationId) {
        for older in self.clients.older(key, id) {
            let Some(device) = self.devices.get(&older) else { continue };
            if device.leaving {
                self.remove(now, older);
            } else if self.is_same_endpoint(older, id) {
                self.rest(now, older);
                self.bequeath_connections(older, id);
            } else {
                self.end(now, older, CloseReason::Discarded);
            }
        }
    }

    /// A registration of the clientid is gone, or EMQX has answered: what waited for it goes on.
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
        let is_idle = self.clients.shared(key).is_none_or(|under_way| under_way.authenticating.is_empty());
        if is_idle {
            self.clients.forget(key);
        }
    }

    /// The call on this anchor has ended. Returns whether it was Authenticate.
    pub(super) fn authenticate_ended(
        &mut self,
        now: Instant,
        key: ClientKey,
        anchor: AnchorId,
        outcome: &Outcome,
    ) -> bool {
        let Some(under_way) = self.clients.shared_mut(key) else { return false };
        let was_authenticate = under_way.authenticating.remove(&anchor).is_some();
        if was_authenticate && !matches!(outcome, Outcome::Done | Outcome::Refused(_)) {
            under_way.doubtful_until = Some(now + DOUBT);
        }
        was_authenticate
    }

    /// Whether EMQX discarded the connection of this device for another one of ours.
    pub(super) fn discarded_by_us(&self, now: Instant, id: RegistrationId) -> bool {
        let Some(device) = self.devices.get(&id) else { return false };
        let Some((own, under_way)) = device.announced.zip(self.clients.shared(device.key)) else { return false };
        let newer = under_way.last_authenticated.is_some_and(|last| last > own);
        let doubtful = under_way.doubtful_until.is_some_and(|until| until > now);
        newer || doubtful || under_way.authenticating.keys().any(|other| *other != own)
    }

    /// The publication that is under way on the device's connection waits for the answer to its call, which decides
    /// whether it has to be sent again.
    pub(super) fn abandon_call(&mut self, now: Instant, id: RegistrationId) {
        let Some(device) = self.devices.get(&id) else { return };
        let (key, anchor) = (device.key, device.state.anchor());
        let Some(under_way) = self.clients.shared_mut(key) else { return };
        if let Some(Publishing { anchor: on, begun, patience: patience @ None, .. }) = &mut under_way.publishing
            && Some(*on) == anchor
        {
            *patience = Some((now + ANSWER_PATIENCE).min(*begun + PUBLISH_TIMEOUT));
            self.queues.requeue_in_flight(key);
        }
    }

    /// What EMQX told the leaving device, or may still tell of its connections, is the next registration's.
    pub(super) fn bequeath(&mut self, device: Device) {
        let heir = self.clients.newest(device.key).filter(|heir| {
            let heir = self.devices.get(heir);
            !device.leaving && heir.is_some_and(|heir| heir.client.endpoint == device.client.endpoint)
        });
        let conns = device.conn.into_iter().chain(device.former);
        let Some(heir) = heir else {
            return conns.for_each(|conn| {
                self.by_conn.remove(&conn);
            });
        };
        conns.for_each(|conn| self.adopt(heir, conn));
        let early = match device.state {
            State::Subscribing { early, .. } => early,
            State::Held
            | State::Dialing { .. }
            | State::Announced { .. }
            | State::Authenticating { .. }
            | State::Ready { .. }
            | State::WaitingToReconnect(_) => Vec::new(),
        };
        self.inherit(heir, device.inherited.into_iter().chain(early).collect());
    }

    fn bequeath_connections(&mut self, from: RegistrationId, heir: RegistrationId) {
        let Some(device) = self.devices.get_mut(&from) else { return };
        let conns: Vec<String> = device.conn.take().into_iter().chain(std::mem::take(&mut device.former)).collect();
        conns.into_iter().for_each(|conn| self.adopt(heir, conn));
    }

    fn adopt(&mut self, heir: RegistrationId, conn: String) {
        let Some(device) = self.devices.get_mut(&heir) else { return };
        self.by_conn.insert(conn.clone(), heir);
        device.former.push_back(conn);
        if device.former.len() > FORMER_CONNECTIONS
            && let Some(oldest) = device.former.pop_front()
        {
            self.by_conn.remove(&oldest);
        }
    }

    /// Commands for a registration that is not connected yet, and that another connection of its clientid received.
    pub(super) fn inherit(&mut self, heir: RegistrationId, messages: Vec<Message>) {
        if self.devices.get(&heir).is_some_and(|heir| heir.connected_before) {
            return self.deliver(heir, messages);
        }
        let Some(device) = self.devices.get_mut(&heir) else { return };
        let count = messages.len();
        let kept = count.min(EARLY_MESSAGES.saturating_sub(device.inherited.len()));
        device.inherited.extend(messages.into_iter().take(kept));
        self.counters().messages_dropped.inc_by((count - kept) as u64);
    }

    /// EMQX has closed a connection of an older registration.
    pub(super) fn forget_former(&mut self, id: RegistrationId, conn: &str) {
        self.by_conn.remove(conn);
        if let Some(device) = self.devices.get_mut(&id) {
            device.former.retain(|former| former != conn);
        }
    }

    fn is_same_endpoint(&self, one: RegistrationId, other: RegistrationId) -> bool {
        let endpoint = |id| self.devices.get(&id).map(|device| &device.client.endpoint);
        endpoint(one) == endpoint(other)
    }
}
