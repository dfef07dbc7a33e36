//! Devices that leave this node of a cluster for another one ([`lwm2m_cluster::endpoint_move`]).

use std::time::Instant;

use lwm2m_cluster::NodeNumber;
use lwm2m_cluster::endpoint_move::{Departures, MoveNumber, SourceStep};
use lwm2m_core::gateway::moves::claims::{ClaimAnswer, ClaimQuestion, DeviceName, MovedDevice};
use lwm2m_core::gateway::{BatchNumber, ChangeBatch};
use tracing::debug;

use crate::cluster::moves::SourceAnswer;
use crate::store::StoreCommand;
use crate::store::redis::shared::EngineAsk;
use crate::store::redis::shared::names::NameAsk;

use super::Driver;

/// Maximum number of changes that are written together with the last record of a device.
const BATCH: usize = 64;

/// The devices that leave the node.
pub(super) type LeavingDevices = Departures<MovedDevice, BatchNumber>;

/// A step of a device that leaves.
type DepartureStep = SourceStep<MovedDevice, BatchNumber>;

impl Driver {
    /// Gives a device to another node, if the identity may have it.
    pub(super) fn handle_fetch(
        &mut self,
        now: Instant,
        from: NodeNumber,
        number: MoveNumber,
        question: &ClaimQuestion,
    ) {
        let Some(seat) = &self.cluster else { return };
        let is_leaving = match &question.device {
            DeviceName::Endpoint(endpoint) => seat.departures.contains(endpoint),
            DeviceName::Location(_) => false,
        };
        let answer = if is_leaving || !seat.departures.has_room() || self.is_store_away {
            SourceAnswer::Busy
        } else {
            match self.gateway.release(now, question) {
                ClaimAnswer::Arrived(moved) => return self.let_go(now, *moved, (from, number)),
                ClaimAnswer::Forbidden(reason) => SourceAnswer::Forbidden(reason),
                ClaimAnswer::Mine | ClaimAnswer::Absent | ClaimAnswer::Unknown => SourceAnswer::Absent,
            }
        };
        if let Some(seat) = &self.cluster {
            seat.forwarding.peers().fetched(from, number, &answer);
        }
    }

    /// Takes the message of a node that it has taken a device.
    pub(super) fn handle_done(&mut self, now: Instant, endpoint: &str, version: u64) {
        let Some(seat) = &mut self.cluster else { return };
        let step = seat.departures.handle_done(endpoint, version);
        self.depart(now, step);
    }

    /// Takes the steps of devices that leave.
    pub(super) fn depart(&mut self, now: Instant, steps: impl IntoIterator<Item = DepartureStep>) {
        steps.into_iter().for_each(|step| self.take_step(now, step));
    }

    /// Writes the last record of a device that the gateway has released.
    fn let_go(&mut self, now: Instant, moved: MovedDevice, target: (NodeNumber, MoveNumber)) {
        self.carry_out();
        let Self { gateway, store: Some(store), cluster: Some(seat), .. } = self else { return };
        let (endpoint, shard) = (moved.record.registration.endpoint.clone(), moved.record.shard());
        debug!(endpoint, target = %target.0, "another node asks for the device");
        let ChangeBatch { version, mut changes } = gateway.take_batch(now, BATCH);
        changes.extend(moved.clone().into_changes());
        store.submit(StoreCommand::Write { version, changes });
        seat.departures.begin(now, endpoint, (shard, moved, version), target);
    }

    fn take_step(&mut self, now: Instant, step: DepartureStep) {
        let Some(seat) = &self.cluster else { return };
        let peers = seat.forwarding.peers();
        match step {
            // Without a keeper the node shuts down.
            SourceStep::Freeze(endpoint, shard) => {
                let (Ok(()) | Err(_)) = seat.ask(EngineAsk::Name(NameAsk::Freeze(endpoint, shard)));
            }
            SourceStep::Thaw(endpoint, shard) => {
                let (Ok(()) | Err(_)) = seat.ask(EngineAsk::Name(NameAsk::Thaw(endpoint, shard)));
            }
            SourceStep::Tell { target, number, endpoint, shard, version } => {
                peers.fetched(target, number, &SourceAnswer::Frozen { shard, version, endpoint });
            }
            SourceStep::Back(departure) => {
                peers.fetched(departure.target, departure.number, &SourceAnswer::Busy);
                self.metrics.cluster.endpoint_moves.returned.inc();
                debug!(shard = %departure.shard, "the other node has not taken the device: it is served here again");
                if self.gateway.shards().contains(departure.shard) {
                    self.gateway.take_back(now, departure.device);
                } else {
                    self.park_device(departure.device);
                }
            }
            SourceStep::Gone(endpoint, departure) => {
                peers.fetched(departure.target, departure.number, &SourceAnswer::Absent);
                self.metrics.cluster.endpoint_moves.left.inc();
                debug!(endpoint, target = %departure.target, "the device has gone to another node");
                // The node that reads a shard that was handed over drops the record.
                if self.gateway.shards().contains(departure.shard) {
                    self.gateway.remove_record(&endpoint, departure.shard);
                }
            }
        }
    }
}
