//! The handshake of ExProto, from the dial to `Ready`.

use std::mem;
use std::time::Instant;

use crate::upstream::client::device::ConnectionId;
use crate::upstream::client::targets::TargetId;
use crate::upstream::dialer::DialFailure;
use crate::upstream::exproto::announcements::AnchorToken;
use crate::upstream::exproto::nodes::NodeFault;
use lwm2m_core::gateway::broker::RegistrationId;

use super::{
    AdapterCall, AnchorOwner, CallOutcome, ExProtoAction, ExProtoAttempt, ExProtoDevices, ExProtoProtocol, Protocol,
    UpstreamState,
};
use crate::upstream::client::ClientTimer;

impl ExProtoDevices {
    /// Handles the end of a dial: the anchor is open and has sent its token, or there is none.
    pub(crate) fn dialed(&mut self, now: Instant, anchor: ConnectionId, outcome: Result<(), DialFailure>) {
        match &outcome {
            Ok(()) => self.disturbances.opened(),
            Err(DialFailure::Local(why)) => self.disturbances.not_opened(why),
            Err(DialFailure::NotReached(_)) => {}
        }
        match (self.protocol.by_anchor.get(&anchor).copied(), outcome) {
            (Some(AnchorOwner::Probe(node)), outcome) => self.probe_dialed(now, node, outcome),
            (Some(AnchorOwner::Device(id)), Ok(())) => self.anchor_open(id),
            (Some(AnchorOwner::Device(id)), Err(failure)) => self.not_dialed(now, id, &failure),
            (None, _) => {}
        }
    }

    fn not_dialed(&mut self, now: Instant, id: RegistrationId, failure: &DialFailure) {
        match failure {
            DialFailure::NotReached(why) => {
                self.counters().connections_failed.inc();
                self.fault_met(now, id, NodeFault::NotReached(why));
                self.attempt_failed(now, id, why);
            }
            DialFailure::Local(why) => {
                self.counters().connections_not_opened.inc();
                self.gave_up(now, id, why);
            }
        }
    }

    /// Handles the end of an anchor, by the broker or the network.
    pub(crate) fn anchor_ended(&mut self, now: Instant, anchor: ConnectionId) {
        let id = match self.protocol.by_anchor.get(&anchor).copied() {
            Some(AnchorOwner::Device(id)) => id,
            Some(AnchorOwner::Probe(node)) => return self.probe_anchor_ended(now, node),
            None => return,
        };
        if let Some(UpstreamState::Connecting(ExProtoAttempt::Dialing { .. } | ExProtoAttempt::Announced { .. })) =
            self.state(id)
        {
            self.fault_met(now, id, NodeFault::AnchorClosed);
            let hint = "EMQX closed the anchor at once: its listener may be full, or its `handler.address` wrong";
            return self.attempt_failed(now, id, hint);
        }
        self.lost(now, id, "the anchor ended");
    }

    pub(super) fn dial_node(&mut self, id: RegistrationId, anchor: ConnectionId, node: TargetId) {
        let token = self.dial_for(AnchorOwner::Device(id), anchor, node);
        if let Some(device) = self.devices.get_mut(&id) {
            device.set_state(UpstreamState::Connecting(ExProtoAttempt::Dialing { anchor, token }));
        }
    }

    pub(super) fn dial_for(&mut self, owner: AnchorOwner, anchor: ConnectionId, node: TargetId) -> AnchorToken {
        let token = AnchorToken::random(&mut self.rng, self.protocol.shards);
        self.protocol.by_anchor.insert(anchor, owner);
        self.protocol.announcements.expect(token.clone(), owner);
        self.actions.push_back(ExProtoAction::Dial { anchor, node, token: token.clone() });
        token
    }

    fn anchor_open(&mut self, id: RegistrationId) {
        let Some(device) = self.devices.get_mut(&id) else { return };
        // Where the broker was faster the device is past this.
        if let UpstreamState::Connecting(ExProtoAttempt::Dialing { anchor, token }) = &device.state {
            device.set_state(UpstreamState::Connecting(ExProtoAttempt::Announced {
                anchor: *anchor,
                token: token.clone(),
            }));
        }
    }

    /// Handles the report of the device's token, which tells the `conn` of its anchor.
    pub(super) fn announced(&mut self, now: Instant, id: RegistrationId, conn: String) {
        let Some(device) = self.devices.get_mut(&id) else { return };
        let Some((anchor, node)) = device.state.anchor().zip(device.target()) else { return };
        device.set_state(UpstreamState::Connecting(ExProtoAttempt::Authenticating { anchor }));
        device.protocol.announced = Some(anchor);
        let key = device.key;
        self.protocol.calls.insert(anchor, key);
        if let Some(before) = device.protocol.conn.replace(conn.clone()) {
            self.protocol.by_conn.remove(&before);
        }
        self.protocol.by_conn.insert(conn.clone(), id);
        let call = AdapterCall::Authenticate { conn, client: device.client.clone() };
        self.requested(now, key, anchor);
        self.actions.push_back(ExProtoAction::Call { anchor, node, call });
        self.targets.anchor_reported(node);
    }

    pub(super) fn authenticated(&mut self, now: Instant, id: RegistrationId, outcome: CallOutcome) {
        match outcome {
            CallOutcome::Done => self.subscribe(id),
            CallOutcome::Refused(why) => {
                self.counters().authenticate_refused.inc();
                self.refused_by_broker(now, id, format!("Authenticate: {why}"), false);
            }
            CallOutcome::ConnectionLost(why)
            | CallOutcome::Rejected(why)
            | CallOutcome::Failed(why)
            | CallOutcome::Unreachable(why)
            | CallOutcome::Short(why) => {
                self.counters().authenticate_unavailable.inc();
                self.call_failed(now, id, &format!("Authenticate: {why}"));
            }
        }
    }

    fn subscribe(&mut self, id: RegistrationId) {
        self.counters().authenticate_ok.inc();
        let Some(device) = self.devices.get_mut(&id) else { return };
        let Some((anchor, node)) = device.state.anchor().zip(device.target()) else { return };
        let Some(conn) = device.protocol.conn.clone() else { return };
        device.set_state(UpstreamState::Connecting(ExProtoAttempt::Subscribing { anchor, early: Vec::new() }));
        let call = AdapterCall::Subscribe {
            conn,
            filter: device.client.command_filter.clone(),
            qos: device.client.command_qos,
        };
        self.actions.push_back(ExProtoAction::Call { anchor, node, call });
    }

    pub(super) fn subscribed(&mut self, now: Instant, id: RegistrationId, outcome: CallOutcome) {
        match outcome {
            CallOutcome::Done => self.ready(now, id),
            CallOutcome::Refused(why) => {
                self.counters().subscribe_refused.inc();
                self.refused_by_broker(now, id, format!("Subscribe: {why}"), false);
            }
            CallOutcome::ConnectionLost(why)
            | CallOutcome::Rejected(why)
            | CallOutcome::Failed(why)
            | CallOutcome::Unreachable(why)
            | CallOutcome::Short(why) => self.call_failed(now, id, &format!("Subscribe: {why}")),
        }
    }

    fn call_failed(&mut self, now: Instant, id: RegistrationId, why: &str) {
        if let Some(device) = self.devices.get_mut(&id) {
            device.elsewhere = true;
        }
        self.attempt_failed(now, id, why);
    }

    fn ready(&mut self, now: Instant, id: RegistrationId) {
        self.deadlines.cancel(ClientTimer::Device(id));
        let Some(device) = self.devices.get_mut(&id) else { return };
        let Some(anchor) = device.state.anchor() else { return };
        let key = device.key;
        let before = device.set_state(UpstreamState::Ready(anchor));
        let passed_on = mem::take(&mut device.passed_on);
        device.failures = 0;
        let node = device.target();
        let home = mem::replace(&mut device.protocol.home, node);
        if home.is_some() && home != node {
            self.counters().moved.inc();
        }
        self.accepted(id);
        if let UpstreamState::Connecting(ExProtoAttempt::Subscribing { mut early, .. }) = before {
            // A retained command comes to each connection that subscribes.
            early.retain(|message| !passed_on.contains(message));
            passed_on.into_iter().chain(early).for_each(|message| ExProtoProtocol::deliver(self, now, id, message));
        }
        self.settled(now, key, id);
    }
}
