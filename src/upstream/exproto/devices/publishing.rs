//! What a clientid publishes, one publication after the other.

use std::time::Instant;

use tracing::debug;

use crate::upstream::client::clients::ClientKey;
use crate::upstream::client::queue::{Queued, Serial};
use crate::upstream::exproto::nodes::NodeFault;
use lwm2m_core::gateway::broker::RegistrationId;

use super::device::PublishCall;
use super::{AdapterCall, CallOutcome, ConnectionId, ExProtoAction, ExProtoDevices, PUBLISH_TIMEOUT};
use crate::upstream::client::ClientTimer;

impl ExProtoDevices {
    /// Publishes what is first in the queue, if a device of the clientid is ready and nothing is under way.
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

    /// The call that is under way on the connection of this device has an answer.
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
                    self.blame_publication(id);
                }
                self.queues.requeue_in_flight(key);
                self.set_publishing(key, None);
                self.lost(now, id, &format!("Publish: {why}"));
            }
        }
    }

    /// The connection of the call is gone. The publication waits in the queue again; if the broker took it, it is done with.
    pub(super) fn published_late(&mut self, now: Instant, key: ClientKey, anchor: ConnectionId, outcome: CallOutcome) {
        let Some(publishing) = self.publishing(key).filter(|publishing| publishing.anchor == anchor) else { return };
        let serial = publishing.serial;
        if let Err(why) = self.conclude(key, serial, outcome) {
            debug!(why, "a publication did not survive its connection");
        }
        self.set_publishing(key, None);
        self.publish_next(now, key);
    }

    /// The timer of a ready device has expired: gives what is wrong if its own call has no answer. Else the device waited for
    /// the answer to a call on an earlier connection, and does so no longer.
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

    /// The connection of the device ends perhaps because of the publication that is under way there, unless it ends because a
    /// newer registration takes its place.
    pub(super) fn blame_publication(&mut self, id: RegistrationId) {
        let Some(device) = self.devices.get(&id) else { return };
        let key = device.key;
        let on =
            self.publishing(key).filter(|publishing| publishing.patience.is_none()).map(|publishing| publishing.anchor);
        if on.is_none() || on != device.state.anchor() || self.clients.is_superseded(key, id) {
            return;
        }
        if let Some(Queued { publication, .. }) = self.queues.count_failed_attempt(key) {
            debug!(topic = publication.topic, "a publication is given up: it never survives its connection");
            self.dropped(publication.class);
        }
    }

    /// The broker has answered.
    ///
    /// # Errors
    /// The publication has to be sent again; the text says why.
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
                debug!(why, "EMQX does not allow a publication");
                if let Some(queued) = self.queues.finish(key, serial) {
                    self.publication_refused(queued);
                }
            }
            CallOutcome::Rejected(why) => {
                self.counters().publishes_failed.inc();
                debug!(why, "EMQX rejects a publication");
                if let Some(Queued { publication, .. }) = self.queues.finish(key, serial) {
                    self.dropped(publication.class);
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

    /// The registration of the clientid that can publish.
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
