//! The driver of a node of a cluster: it serves the shards that the member task names, while the gate is open.
//!
//! While the gate is closed the driver polls no outputs of the core, reads no socket and takes no event of the broker:
//! datagrams wait in the buffers of the sockets. What the member task commands is done before the gate is looked at
//! again.

use std::time::Instant;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use crate::clock::monotonic_now;
use crate::cluster::gate::ServiceGate;
use crate::cluster::peers::PeerInput;
use crate::cluster::{ClusterCommand, DriverReport};
use crate::store::redis::shared::EngineAsk;
use lwm2m_base::ShardSet;
use lwm2m_cluster::NodeNumber;
use lwm2m_cluster::endpoint_move::Arrivals;
use lwm2m_core::gateway::moves::claims::ClaimQuestion;

use super::Driver;
use super::departures::LeavingDevices;
use super::forwarding::Forwarding;
use super::handover::Handovers;

/// The place of the driver in a cluster.
pub struct ClusterSeat {
    gate: ServiceGate,
    commands: UnboundedReceiver<ClusterCommand>,
    reports: UnboundedSender<DriverReport>,
    asks: UnboundedSender<EngineAsk>,
    pub(super) forwarding: Forwarding,
    /// The shards for which a newer term was requested.
    pub(super) wanted: ShardSet,
    pub(super) handovers: Handovers,
    /// The questions about devices that other nodes have.
    pub(super) arrivals: Arrivals<ClaimQuestion>,
    pub(super) departures: LeavingDevices,
}

/// An input of the driver from the cluster.
pub(super) enum ClusterInput {
    Command(ClusterCommand),
    Peer(PeerInput),
}

impl ClusterSeat {
    /// Makes the seat of the only driver of a node.
    pub fn new(
        gate: ServiceGate,
        (commands, reports): (UnboundedReceiver<ClusterCommand>, UnboundedSender<DriverReport>),
        asks: UnboundedSender<EngineAsk>,
        forwarding: Forwarding,
    ) -> Self {
        Self {
            gate,
            commands,
            reports,
            asks,
            forwarding,
            wanted: ShardSet::EMPTY,
            handovers: Handovers::default(),
            arrivals: Arrivals::default(),
            departures: LeavingDevices::default(),
        }
    }

    /// Returns the next command of the member task, or the next input of another node. Cancel-safe.
    pub(super) async fn input(&mut self) -> ClusterInput {
        tokio::select! {
            Some(command) = self.commands.recv() => ClusterInput::Command(command),
            Some(input) = self.forwarding.inputs.recv() => ClusterInput::Peer(input),
            else => std::future::pending().await,
        }
    }

    /// Returns the number of this node.
    pub(super) fn node(&self) -> NodeNumber {
        self.forwarding.node()
    }

    /// Returns the time at which held datagrams are tried again, or moves of devices have to continue.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let (arrivals, departures) = (self.arrivals.next_deadline(), self.departures.next_deadline());
        [self.forwarding.next_deadline(), arrivals, departures].into_iter().flatten().min()
    }

    pub(super) fn report(&self, report: DriverReport) {
        // The member task ends before the driver only if the whole node shuts down.
        let (Ok(()) | Err(_)) = self.reports.send(report);
    }

    pub(super) fn ask(&self, ask: EngineAsk) -> Result<(), EngineAsk> {
        self.asks.send(ask).map_err(|error| error.0)
    }
}

impl Driver {
    /// Returns once the node may serve its shards, for a driver without a cluster at once. Returns early if the driver
    /// has to end. Cancel-safe.
    pub(super) async fn may_serve(&mut self) {
        while let Some(seat) = &mut self.cluster {
            // The member task opens the gate after its commands.
            let is_open = seat.gate.is_open(monotonic_now());
            while let Some(command) = self.cluster.as_mut().and_then(|seat| seat.commands.try_recv().ok()) {
                self.handle_cluster_command(command);
            }
            if is_open || self.is_fenced {
                return;
            }
            self.wait_for_gate().await;
        }
    }

    /// Waits until the gate or the shards of the node change. Requests of the console are answered meanwhile.
    async fn wait_for_gate(&mut self) {
        let Some(ClusterSeat { gate, commands, .. }) = &mut self.cluster else { return };
        let watchdog = self.watchdog.as_ref().map(crate::process::service::Watchdog::next);
        let wake = watchdog.unwrap_or_else(|| monotonic_now() + super::LONGEST_SLEEP);
        tokio::select! {
            Some(command) = commands.recv() => self.handle_cluster_command(command),
            () = gate.changed() => {}
            Some(request) = self.requests.recv() => {
                let now = self.now();
                self.handle_request(now, request);
            }
            () = tokio::time::sleep_until(wake.into()) => {}
        }
        if let Some(watchdog) = &mut self.watchdog {
            watchdog.feed(monotonic_now());
        }
    }

    pub(super) fn handle_cluster_command(&mut self, command: ClusterCommand) {
        let now = self.now();
        match command {
            ClusterCommand::Serve { shard, term, contents } => self.serve(now, (shard, term), *contents),
            ClusterCommand::UseTerm { shard, term } => {
                self.gateway.use_term(shard, term);
                if let Some(seat) = &mut self.cluster {
                    seat.wanted.remove(shard);
                }
            }
            ClusterCommand::HandOver { shard, handover, to } => self.hand_over(now, shard, handover, to),
            ClusterCommand::Resume { shard, term } => self.resume(now, (shard, term)),
            ClusterCommand::Drop(shard) => self.drop_shard(now, shard),
            ClusterCommand::Name(answer) => self.handle_name(*answer),
            ClusterCommand::CountDevices => {
                let devices = self.gateway.table_sizes().devices;
                if let Some(seat) = &self.cluster {
                    seat.report(DriverReport::Devices(devices));
                }
            }
            ClusterCommand::End => self.is_fenced = true,
        }
    }

    /// Requests the terms that DTLS associations need, each once.
    pub(super) fn ask_for_terms(&mut self) {
        let Self { gateway, cluster: Some(seat), .. } = self else { return };
        for shard in gateway.take_wanted_terms().iter() {
            if seat.wanted.insert(shard) {
                seat.report(DriverReport::NeedsTerm(shard));
            }
        }
    }
}
