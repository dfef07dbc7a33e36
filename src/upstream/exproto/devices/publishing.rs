//! The publications of a client ID, one after the other.

use std::time::Instant;

use tracing::debug;

use crate::upstream::client::clients::ClientKey;
use crate::upstream::client::publication_queues::Serial;
use crate::upstream::exproto::nodes::NodeFault;
use lwm2m_core::gateway::broker::RegistrationId;

use super::device::PublishCall;
use super::{AdapterCall, CallOutcome, ConnectionId, ExProtoAction, ExProtoDevices, PUBLISH_TIMEOUT};
use crate::upstream::client::ClientTimer;

impl ExProtoDevices {
    /// Publishes the first of the queue, if a device of the client ID is ready and no call of Publish is in progress.
    pub(super) fn publish_next(&mut self, now: Instant, key: ClientKey) {
        let Some(id) = self.ready_device(key) else { return };
        // The connection is about to be closed: nobody would learn whether EMQX still carried out a call on it.
        if self.drain_is_over(now, id) {
            return;
        }
        if let Some(PublishCall { patience, .. }) = self.publishing(key) {
            match *patience {
                Some(until) if until > now => return self.deadlines.set(ClientTimer::Device(id), until),
                Some(_) => self.set_publishing(key, None),
                None => return,
            }
        }
        self.deadlines.cancel(ClientTimer::Device(id));
        let Some(device) = self.devices.get(&id) else { return };
        let Some((anchor, node, conn)) =
            device.state.anchor().zip(device.target()).zip(device.protocol.conn.clone()).map(flat)
        else {
            return;
        };
        let Some((serial, publication)) = self.queues.begin(key, 1) else {
            if device.leaving.is_some() {
                self.remove(now, id);
            }
            return;
        };
        let call = AdapterCall::Publish { conn, publication: publication.clone() };
        self.actions.push_back(ExProtoAction::Call { anchor, node, call });
        self.protocol.calls.insert(anchor, key);
        self.set_publishing(key, Some(PublishCall { anchor, serial, begun: now, patience: None }));
        self.deadlines.set(ClientTimer::Device(id), now + PUBLISH_TIMEOUT);
    }

    /// Handles the answer to the call of Publish on the connection of this device.
    pub(super) fn published(&mut self, now: Instant, id: RegistrationId, outcome: CallOutcome) {
        let Some(device) = self.devices.get_mut(&id) else { return };
        let key = device.key;
        let unreachable = matches!(outcome, CallOutcome::Unreachable(_) | CallOutcome::Short(_));
        device.elsewhere |= unreachable;
        let Some(serial) = self.publishing(key).map(|publishing| publishing.serial) else { return };
        match self.conclude(key, serial, outcome) {
            Ok(()) => {
                self.set_publishing(key, None);
                self.publish_next(now, key);
            }
            Err(why) => {
                // A node that was not reached never saw the publication.
                if !unreachable {
                    self.count_failed_attempt(id);
                }
                self.queues.requeue_in_flight(key);
                self.set_publishing(key, None);
                self.lost(now, id, &format!("Publish: {why}"));
            }
        }
    }

    /// Handles the answer to a call of Publish whose connection has ended. The publication waits in the queue again; if
    /// EMQX took it, it is done.
    pub(super) fn published_late(&mut self, now: Instant, key: ClientKey, anchor: ConnectionId, outcome: CallOutcome) {
        let Some(publishing) = self.publishing(key).filter(|publishing| publishing.anchor == anchor) else { return };
        let serial = publishing.serial;
        if let Err(why) = self.conclude(key, serial, outcome) {
            debug!(why, "publication queued again: its connection ended before the answer");
        }
        self.set_publishing(key, None);
        self.publish_next(now, key);
    }

    /// Returns what is wrong if the device's own call has no answer in time. Otherwise the device waited for a call on
    /// an earlier connection, and does so no longer.
    pub(super) fn unanswered_publish(
        &mut self,
        now: Instant,
        id: RegistrationId,
    ) -> Option<(NodeFault<'static>, &'static str)> {
        let device = self.devices.get(&id)?;
        let (key, anchor) = (device.key, device.state.anchor());
        if self.publishing(key).is_some_and(|publishing| Some(publishing.anchor) == anchor) {
            return Some((NodeFault::Unanswered, "no answer to Publish"));
        }
        self.publish_next(now, key);
        None
    }

    /// Counts a failed attempt of the publication that is in flight on the device's connection, which may be why it
    /// ends, unless a newer registration takes its place.
    pub(super) fn count_failed_attempt(&mut self, id: RegistrationId) {
        let Some(device) = self.devices.get(&id) else { return };
        let key = device.key;
        let on =
            self.publishing(key).filter(|publishing| publishing.patience.is_none()).map(|publishing| publishing.anchor);
        if on.is_none() || on != device.state.anchor() || self.clients.is_superseded(key, id) {
            return;
        }
        if let Some(queued) = self.queues.count_failed_attempt(key) {
            debug!(topic = queued.publication.topic, "publication dropped: its connection ended three times");
            self.publication_given_up(&queued);
        }
    }

    /// Handles the answer of EMQX to a publication.
    fn conclude(&mut self, key: ClientKey, serial: Serial, outcome: CallOutcome) -> Result<(), String> {
        match outcome {
            CallOutcome::Done => {
                self.counters().publishes_ok.inc();
                if let Some(queued) = self.queues.finish(key, serial) {
                    self.publication_done(&queued);
                }
            }
            CallOutcome::Refused(why) => {
                self.counters().publishes_refused.inc();
                debug!(why, "publication refused by EMQX");
                if let Some(queued) = self.queues.finish(key, serial) {
                    self.publication_refused(queued);
                }
            }
            CallOutcome::Rejected(why) => {
                self.counters().publishes_failed.inc();
                debug!(why, "publication rejected by EMQX");
                if let Some(queued) = self.queues.finish(key, serial) {
                    self.publication_given_up(&queued);
                }
            }
            CallOutcome::ConnectionLost(why)
            | CallOutcome::Failed(why)
            | CallOutcome::Unreachable(why)
            | CallOutcome::Short(why) => {
                self.counters().publishes_failed.inc();
                return Err(why);
            }
        }
        Ok(())
    }

    /// Returns the registration of the client ID that can publish.
    fn ready_device(&self, key: ClientKey) -> Option<RegistrationId> {
        let mut newest_first = self.clients.registrations(key).iter().rev().copied();
        newest_first.find(|id| self.is_ready(*id))
    }

    fn publishing(&self, key: ClientKey) -> Option<&PublishCall> {
        self.clients.shared(key)?.protocol.as_ref()
    }

    fn set_publishing(&mut self, key: ClientKey, publishing: Option<PublishCall>) {
        if let Some(shared) = self.clients.shared_mut(key) {
            shared.protocol = publishing;
        }
    }
}

fn flat<A, B, C>(((a, b), c): ((A, B), C)) -> (A, B, C) {
    (a, b, c)
}
