//! A device that registers again, as far as ExProto differs. EMQX authenticates the newer registration and closes the
//! connection of the older one. A publication in flight there is sent again only if its call did not succeed. Messages
//! that EMQX still reports for the older connections belong to the newer registration.

use std::time::Instant;

use crate::upstream::client::ANSWER_PATIENCE;
use crate::upstream::client::clients::ClientKey;
use crate::upstream::client::device::{ConnectionId, UpstreamDevice};
use lwm2m_core::gateway::broker::RegistrationId;

use super::device::PublishCall;
use super::{CallOutcome, ExProtoAttempt, ExProtoDevices, ExProtoProtocol, PUBLISH_TIMEOUT, UpstreamState};

/// Limits the closed connections of older registrations, for each device, whose messages EMQX may still report.
const FORMER_CONNECTIONS: usize = 4;

impl ExProtoDevices {
    /// Notes that the call on this anchor has ended. Returns whether it was Authenticate.
    pub(super) fn authenticate_ended(
        &mut self,
        now: Instant,
        key: ClientKey,
        anchor: ConnectionId,
        outcome: &CallOutcome,
    ) -> bool {
        let Some(shared) = self.clients.shared_mut(key) else { return false };
        if !shared.unanswered.contains_key(&anchor) {
            return false;
        }
        if matches!(outcome, CallOutcome::Done | CallOutcome::Refused(_)) {
            shared.unanswered.remove(&anchor);
        } else {
            self.give_up_request(now, key, anchor);
        }
        true
    }

    /// Makes the publication in flight on the device's connection wait for the answer to its call, which decides
    /// whether it is sent again.
    pub(super) fn abandon_call(&mut self, now: Instant, id: RegistrationId) {
        let Some(device) = self.devices.get(&id) else { return };
        let (key, anchor) = (device.key, device.state.anchor());
        let Some(shared) = self.clients.shared_mut(key) else { return };
        if let Some(PublishCall { anchor: on, begun, patience: patience @ None, .. }) = &mut shared.protocol
            && Some(*on) == anchor
        {
            *patience = Some((now + ANSWER_PATIENCE).min(*begun + PUBLISH_TIMEOUT));
            self.queues.requeue_in_flight(key);
        }
    }

    /// Passes to the next registration what EMQX reported for the removed device, and the connections for which it may
    /// still report messages.
    pub(super) fn pass_on(&mut self, now: Instant, device: UpstreamDevice<ExProtoProtocol>) {
        let successor = self.successor(&device).filter(|_| device.leaving.is_none());
        let conns = device.protocol.conn.into_iter().chain(device.protocol.former);
        let Some(successor) = successor else {
            return conns.for_each(|conn| {
                self.protocol.by_conn.remove(&conn);
            });
        };
        conns.for_each(|conn| self.take_connection(successor, conn));
        let early = match device.state {
            UpstreamState::Connecting(ExProtoAttempt::Subscribing { early, .. }) => early,
            UpstreamState::Held
            | UpstreamState::Connecting(_)
            | UpstreamState::Ready(_)
            | UpstreamState::WaitingToReconnect(_) => Vec::new(),
        };
        device.passed_on.into_iter().chain(early).for_each(|message| self.deliver_passed_on(now, successor, message));
    }

    pub(super) fn pass_on_connections(&mut self, from: RegistrationId, successor: RegistrationId) {
        let Some(device) = self.devices.get_mut(&from) else { return };
        let conns: Vec<String> =
            device.protocol.conn.take().into_iter().chain(std::mem::take(&mut device.protocol.former)).collect();
        conns.into_iter().for_each(|conn| self.take_connection(successor, conn));
    }

    fn take_connection(&mut self, successor: RegistrationId, conn: String) {
        let Some(device) = self.devices.get_mut(&successor) else { return };
        self.protocol.by_conn.insert(conn.clone(), successor);
        device.protocol.former.push_back(conn);
        if device.protocol.former.len() > FORMER_CONNECTIONS
            && let Some(oldest) = device.protocol.former.pop_front()
        {
            self.protocol.by_conn.remove(&oldest);
        }
    }

    /// Forgets a connection of an older registration that EMQX has closed.
    pub(super) fn forget_former(&mut self, id: RegistrationId, conn: &str) {
        self.protocol.by_conn.remove(conn);
        if let Some(device) = self.devices.get_mut(&id) {
            device.protocol.former.retain(|former| former != conn);
        }
    }
}
