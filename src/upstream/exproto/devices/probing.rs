//! The probe of a node: an anchor without a device, which the node has to report to the handler, and one call on it.

use std::time::{Duration, Instant};

use crate::upstream::client::ClientTimer;
use crate::upstream::client::targets::TargetId;
use crate::upstream::dialer::DialFailure;
use crate::upstream::exproto::announcements::AnchorToken;
use crate::upstream::exproto::nodes::NodeFault;
use lwm2m_core::gateway::broker::RegistrationId;

use super::{AdapterCall, AnchorOwner, CallOutcome, ConnectionId, ExProtoAction, ExProtoDevices, ProbeTimer};

/// Limits how long a probe may take, where devices may take longer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// A probe that has not ended.
#[derive(Debug)]
pub(super) struct Probe {
    anchor: ConnectionId,
    token: AnchorToken,
    stage: ProbeStage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ProbeStage {
    Dialing,
    Announced,
    Calling,
}

impl ExProtoDevices {
    pub(super) fn begin_probe(&mut self, now: Instant, node: TargetId) {
        self.end_probe(node);
        self.probe_begun(now, node);
        let anchor = self.new_connection();
        let token = self.dial_for(AnchorOwner::Probe(node), anchor, node);
        self.protocol.probes.insert(node, Probe { anchor, token, stage: ProbeStage::Dialing });
        self.deadlines.set(ClientTimer::Protocol(ProbeTimer(node)), now + self.connect_timeout.min(PROBE_TIMEOUT));
    }

    /// Ends a probe that has taken too long.
    pub(super) fn probe_timed_out(&mut self, now: Instant, node: TargetId) {
        match self.protocol.probes.get(&node).map(|probe| probe.stage) {
            None => {}
            Some(ProbeStage::Dialing) => self.fail_probe(now, node, NodeFault::NotReached("no answer")),
            Some(ProbeStage::Announced) => self.fail_probe(now, node, NodeFault::AnchorUnreported),
            Some(ProbeStage::Calling) => self.fail_probe(now, node, NodeFault::Unanswered),
        }
    }

    pub(super) fn probe_dialed(&mut self, now: Instant, node: TargetId, outcome: Result<(), DialFailure>) {
        match (outcome, self.protocol.probes.get_mut(&node)) {
            (Err(DialFailure::NotReached(why)), _) => self.fail_probe(now, node, NodeFault::NotReached(&why)),
            (Err(DialFailure::Local(_)), _) => self.end_without_result(now, node),
            // Where the node was faster the probe is past this.
            (Ok(()), Some(Probe { stage: stage @ ProbeStage::Dialing, .. })) => *stage = ProbeStage::Announced,
            (Ok(()), _) => {}
        }
    }

    pub(super) fn probe_announced(&mut self, node: TargetId, conn: String) {
        let Some(probe) = self.protocol.probes.get_mut(&node) else { return };
        probe.stage = ProbeStage::Calling;
        self.actions.push_back(ExProtoAction::Call { anchor: probe.anchor, node, call: AdapterCall::Ping { conn } });
        self.targets.anchor_reported(node);
    }

    pub(super) fn probe_anchor_ended(&mut self, now: Instant, node: TargetId) {
        self.fail_probe(now, node, NodeFault::AnchorClosed);
    }

    pub(super) fn probe_answered(&mut self, now: Instant, node: TargetId, outcome: &CallOutcome) {
        match outcome {
            CallOutcome::Done => self.probe_succeeded(now, node),
            CallOutcome::Short(_) => self.end_without_result(now, node),
            CallOutcome::Refused(why)
            | CallOutcome::ConnectionLost(why)
            | CallOutcome::Rejected(why)
            | CallOutcome::Failed(why)
            | CallOutcome::Unreachable(why) => self.fail_probe(now, node, NodeFault::NotServed(why)),
        }
    }

    fn probe_succeeded(&mut self, now: Instant, node: TargetId) {
        self.end_probe(node);
        self.target_serves(now, node);
        self.leave_nodes(now);
    }

    fn fail_probe(&mut self, now: Instant, node: TargetId, fault: NodeFault<'_>) {
        self.end_probe(node);
        // A listener that is full closes the probe, and serves the devices that it has.
        if fault == NodeFault::AnchorClosed && self.targets.is_up(node) && self.targets.target(node).clients > 0 {
            return self.probe_said_nothing(now, node);
        }
        self.probe_failed(now, node, fault);
        self.leave_nodes(now);
    }

    /// Ends a probe that told nothing of the node.
    fn end_without_result(&mut self, now: Instant, node: TargetId) {
        self.end_probe(node);
        self.probe_said_nothing(now, node);
    }

    fn end_probe(&mut self, node: TargetId) {
        let Some(Probe { anchor, token, .. }) = self.protocol.probes.remove(&node) else { return };
        self.deadlines.cancel(ClientTimer::Protocol(ProbeTimer(node)));
        self.protocol.announcements.forget(&token);
        self.protocol.by_anchor.remove(&anchor);
        self.actions.push_back(ExProtoAction::HangUp { anchor });
    }

    /// Moves the clients of the nodes that cannot serve them, if another node can. None of them was asked whether its
    /// own connection still works.
    fn leave_nodes(&mut self, now: Instant) {
        for node in self.targets.take_left() {
            let there = self.devices.iter().filter(|(_, device)| device.target() == Some(node) && device.is_ready());
            let ids: Vec<_> = there.map(|(id, _)| *id).collect();
            for id in ids {
                self.leave_node(now, id);
            }
        }
    }

    /// Moves the device away from its node, which cannot serve it, while another one can.
    fn leave_node(&mut self, now: Instant, id: RegistrationId) {
        self.counters().connections_lost.inc();
        self.abandon_call(now, id);
        self.gave_up(now, id, "its node of EMQX does not serve");
    }
}
