//! Sets up a node of a cluster: the shared store, and the member task beside the driver.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::cluster::config::ClusterConfig;
use crate::cluster::gate;
use crate::cluster::member::{MemberParts, RunningMember};
use crate::config::Config;
use crate::driver::clustered::ClusterSeat;
use crate::observability::metrics::Metrics;
use crate::store::redis::shared::{self, EngineChannel, StoreNode};
use crate::store::{OpenedStore, StoreContents};
use lwm2m_cluster::{Incarnation, NodeProcess, Settings};

use super::prepared::Prepared;

/// A node whose store is open, before its driver has started.
pub(crate) struct ClusterNode {
    settings: Settings,
    name: String,
    engine: EngineChannel,
}

impl ClusterNode {
    /// Connects to the store that the nodes share. `unix_time` is the wall clock time: it distinguishes the processes
    /// of a node.
    pub(crate) async fn open(
        config: &Config,
        cluster: &ClusterConfig,
        unix_time: Duration,
        metrics: &Arc<Metrics>,
    ) -> anyhow::Result<((OpenedStore, StoreContents), Self)> {
        let ClusterConfig { node, number, weight, timing, isolated, moves_at_once } = cluster.clone();
        let incarnation = Incarnation(u64::try_from(unix_time.as_millis()).unwrap_or(u64::MAX));
        let process = NodeProcess { node: number, incarnation };
        let settings = Settings { process, weight, timing, isolated, moves_at_once };
        let in_store = StoreNode { process, name: node.clone(), timing };
        let opening = shared::open(&config.store, in_store, &config.listeners, Arc::clone(metrics));
        let (opened, engine, contents) = opening.await?;
        Ok(((OpenedStore::Shared(opened), contents), Self { settings, name: node, engine }))
    }

    /// Starts the member task on the current runtime, and returns the place of the driver.
    pub(crate) fn start(self, first_dtls_socket: u16, prepared: &Prepared) -> (RunningMember, ClusterSeat) {
        let Self { settings, name, engine } = self;
        let (gate_keeper, gate) = gate::gate();
        let (commands, commanded) = mpsc::unbounded_channel();
        let (report, reports) = mpsc::unbounded_channel();
        let seat = ClusterSeat::new(gate, (commanded, report), engine.asks.clone(), first_dtls_socket);
        let member = RunningMember::start(MemberParts {
            settings,
            name,
            engine,
            commands,
            reports,
            gate: gate_keeper,
            condition: prepared.conditions.add("cluster"),
            metrics: Arc::clone(prepared.metrics()),
        });
        (member, seat)
    }
}
