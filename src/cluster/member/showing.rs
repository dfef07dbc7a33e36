//! The node shows its state: to the other nodes, to the console, and as metrics.

use std::sync::Arc;

use crate::clock::monotonic_now;
use crate::conditions::ConditionState;
use crate::store::redis::shared::{EngineAsk, NodeReport};
use lwm2m_cluster::EngineContact;
use lwm2m_cluster::NodeNumber;
use lwm2m_cluster::engine::RoundAnswer;
use tracing::{debug, info, warn};

use super::{FIRST_SHARDS, MemberTask};
use crate::cluster::ClusterCommand;
use crate::cluster::status::ClusterStatus;

impl MemberTask {
    /// Sends the report of this node to the store with the next round, for the other nodes and for operators.
    pub(super) fn tell_of_itself(&mut self) {
        let now = monotonic_now();
        let peers = self.member.answering_peers(now);
        let report = NodeReport {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            devices: self.devices,
            engine: self.member.state().into(),
            peers: self
                .nodes
                .iter()
                .map(|node| node.entry.process.node)
                .filter(|node| peers.contains(*node))
                .map(NodeNumber::number)
                .collect(),
            draining: self.member.gives_up_shards(),
            console: self.parts.console.clone(),
            ..NodeReport::default()
        };
        self.command(ClusterCommand::CountDevices);
        self.ask(EngineAsk::Report(Box::new(report)));
    }

    /// Notes the answer to a round, for the status.
    pub(super) fn note_round(&mut self, answer: &RoundAnswer) {
        let (nodes, without_owner) = ClusterStatus::count(&self.nodes, &answer.leases);
        let me = Some(self.parts.config.process.node);
        let contact = self.member.state().into();
        self.status = ClusterStatus { me, contact, asked: Some(answer.asked), without_owner, nodes };
        self.show_status();
    }

    fn show_status(&mut self) {
        self.status.contact = self.member.state().into();
        self.parts.status.send_replace(Arc::new(self.status.clone()));
    }

    /// Shows the state of the node: its condition, its metric, and once per change its log.
    pub(super) fn show(&mut self) {
        if self.has_ended {
            return;
        }
        let (state, shards) = (self.member.state(), self.read_shards());
        let gauges = &self.parts.metrics.cluster.state;
        for (gauge, of) in [
            (&gauges.sure, EngineContact::Sure),
            (&gauges.all_without, EngineContact::AllWithout),
            (&gauges.alone, EngineContact::Alone),
            (&gauges.unsure, EngineContact::Unsure),
        ] {
            gauge.set(i64::from(of == state));
        }
        let is_served = self.member.may_serve_until().is_some();
        let (condition, detail) = match state {
            _ if self.member.gives_up_shards() => {
                (ConditionState::Down, format!("the node is drained: it has {shards} shards left"))
            }
            _ if shards == 0 => {
                let detail = format!("no shards yet: a node takes its first ones {FIRST_SHARDS:?} after its start");
                (ConditionState::Down, detail)
            }
            EngineContact::Sure if is_served => (ConditionState::Up, format!("{shards} of 256 shards are served")),
            _ if is_served => {
                let detail = format!("the store does not answer: {shards} shards are served from memory");
                (ConditionState::Degraded, detail)
            }
            _ => (ConditionState::Down, "the shards are suspended: another node may have them".to_owned()),
        };
        self.parts.condition.set(condition, detail);
        let is_drained = self.member.gives_up_shards();
        if std::mem::replace(&mut self.is_shown_drained, is_drained) != is_drained {
            info!(node = self.parts.name, is_drained, "the other nodes are to have the shards of this node");
        }
        if self.shown.replace(state) != Some(state) {
            self.show_status();
            match state {
                EngineContact::Sure => info!(node = self.parts.name, "the leases of this node hold"),
                EngineContact::AllWithout | EngineContact::Alone | EngineContact::Unsure if shards > 0 => {
                    warn!(node = self.parts.name, ?state, is_served, shards, "the leases were not renewed in time");
                }
                EngineContact::AllWithout | EngineContact::Alone | EngineContact::Unsure => {
                    debug!(node = self.parts.name, ?state, "this node has no shards");
                }
            }
        }
    }

    /// Returns the number of shards that the node has, without those whose records are being read.
    pub(super) fn read_shards(&self) -> usize {
        self.member.shards() - self.loading.len()
    }
}
