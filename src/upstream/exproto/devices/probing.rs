//! Probes of all nodes, also while there is no device: an anchor without a device, which the node has to report to the
//! handler, and one call on it. A node that serves is probed every few seconds. One that does not, or whose last probe
//! failed, is probed once in a second at most, which costs it almost nothing, whatever it suffers from.

use std::time::{Duration, Instant};

use crate::upstream::client::targets::TargetId;
use crate::upstream::dialer::DialFailure;
use crate::upstream::exproto::announcements::AnchorToken;
use crate::upstream::exproto::nodes::NodeFault;

use super::{AdapterCall, AnchorOwner, CallOutcome, ConnectionId, ExProtoAction, ExProtoDevices, ProbeTimer};
use crate::upstream::client::ClientTimer;
use crate::upstream::client::targets::{PROBE_INTERVAL, QUIET_INTERVAL};
use lwm2m_core::gateway::broker::RegistrationId;

/// The pause after a fault, and at least between two probes. A fault of a moment is over by then.
const PAUSE: Duration = Duration::from_millis(100);
/// Limits how long a probe may take, where devices may take longer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// Holds the probe of one node, and the time before which no other one may begin.
#[derive(Debug, Default)]
pub(crate) struct Prober {
    not_before: Option<Instant>,
    probe: Option<Probe>,
}

#[derive(Debug)]
struct Probe {
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
    /// Begins the first probe of every node, before there are devices.
    pub(crate) fn probe_all(&mut self, now: Instant) {
        (0..self.targets.len()).for_each(|index| self.begin_probe(now, TargetId(index)));
    }

    /// Notes a fault that a device, or the first probe, met at the node.
    pub(super) fn node_failed(&mut self, now: Instant, node: TargetId, fault: NodeFault<'_>) {
        if self.targets.failed(node, fault) {
            self.counters().nodes_failed.inc();
            if self.protocol.probers[node.0].probe.is_none() {
                self.schedule_probe(now, node);
            }
        }
    }

    /// Begins the next probe, or ends the one that has taken too long.
    pub(super) fn probe_due(&mut self, now: Instant, node: TargetId) {
        match self.protocol.probers[node.0].probe.as_ref().map(|probe| probe.stage) {
            None => self.begin_probe(now, node),
            Some(ProbeStage::Dialing) => self.probe_failed(now, node, NodeFault::NotReached("no answer")),
            Some(ProbeStage::Announced) => self.probe_failed(now, node, NodeFault::AnchorUnreported),
            Some(ProbeStage::Calling) => self.probe_failed(now, node, NodeFault::Unanswered),
        }
    }

    fn begin_probe(&mut self, now: Instant, node: TargetId) {
        self.counters().probes.inc();
        let anchor = self.new_connection();
        let token = self.dial_for(AnchorOwner::Probe(node), anchor, node);
        self.protocol.probers[node.0] = Prober {
            not_before: Some(now + PROBE_INTERVAL),
            probe: Some(Probe { anchor, token, stage: ProbeStage::Dialing }),
        };
        self.deadlines.set(ClientTimer::Protocol(ProbeTimer(node)), now + self.connect_timeout.min(PROBE_TIMEOUT));
    }

    pub(super) fn probe_dialed(&mut self, now: Instant, node: TargetId, outcome: Result<(), DialFailure>) {
        match (outcome, &mut self.protocol.probers[node.0].probe) {
            (Err(DialFailure::NotReached(why)), _) => self.probe_failed(now, node, NodeFault::NotReached(&why)),
            (Err(DialFailure::Local(_)), _) => self.probe_said_nothing(now, node),
            // Where the node was faster the probe is past this.
            (Ok(()), Some(Probe { stage: stage @ ProbeStage::Dialing, .. })) => *stage = ProbeStage::Announced,
            (Ok(()), _) => {}
        }
    }

    pub(super) fn probe_announced(&mut self, node: TargetId, conn: String) {
        let Some(probe) = &mut self.protocol.probers[node.0].probe else { return };
        probe.stage = ProbeStage::Calling;
        self.actions.push_back(ExProtoAction::Call { anchor: probe.anchor, node, call: AdapterCall::Ping { conn } });
        self.targets.anchor_reported(node);
    }

    pub(super) fn probe_anchor_ended(&mut self, now: Instant, node: TargetId) {
        self.probe_failed(now, node, NodeFault::AnchorClosed);
    }

    pub(super) fn probe_answered(&mut self, now: Instant, node: TargetId, outcome: &CallOutcome) {
        match outcome {
            CallOutcome::Done => self.probe_succeeded(now, node),
            CallOutcome::Short(_) => self.probe_said_nothing(now, node),
            CallOutcome::Refused(why)
            | CallOutcome::ConnectionLost(why)
            | CallOutcome::Rejected(why)
            | CallOutcome::Failed(why)
            | CallOutcome::Unreachable(why) => self.probe_failed(now, node, NodeFault::NotServed(why)),
        }
    }

    fn probe_succeeded(&mut self, now: Instant, node: TargetId) {
        self.end_probe(node);
        let begun = self.protocol.probers[node.0].not_before.map_or(now, |next| next - PROBE_INTERVAL);
        self.deadlines.set(ClientTimer::Protocol(ProbeTimer(node)), (begun + QUIET_INTERVAL).max(now + PAUSE));
        if self.targets.probe_succeeded(node) {
            self.recovered(now);
        }
        self.leave_nodes(now);
    }

    /// Ends a probe that told nothing of the node.
    fn probe_said_nothing(&mut self, now: Instant, node: TargetId) {
        self.end_probe(node);
        self.schedule_probe(now, node);
    }

    fn probe_failed(&mut self, now: Instant, node: TargetId, fault: NodeFault<'_>) {
        // A listener that is full closes the probe, and serves the devices that it has.
        if fault == NodeFault::AnchorClosed && self.targets.is_up(node) && self.targets.target(node).clients > 0 {
            return self.probe_said_nothing(now, node);
        }
        self.end_probe(node);
        if self.targets.is_up(node) {
            self.node_failed(now, node, fault);
        } else {
            self.targets.probe_failed(node, fault);
        }
        self.schedule_probe(now, node);
        self.leave_nodes(now);
    }

    fn schedule_probe(&mut self, now: Instant, node: TargetId) {
        let earliest = now + PAUSE;
        let at = self.protocol.probers[node.0].not_before.map_or(earliest, |at| at.max(earliest));
        self.deadlines.set(ClientTimer::Protocol(ProbeTimer(node)), at);
    }

    fn end_probe(&mut self, node: TargetId) {
        let Some(Probe { anchor, token, .. }) = self.protocol.probers[node.0].probe.take() else { return };
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
