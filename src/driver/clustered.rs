//! The driver of a node of a cluster: it serves the shards that the member task names, while the gate is open.
//!
//! While the gate is closed the driver polls no outputs of the core, reads no socket and takes no event of the broker:
//! datagrams wait in the buffers of the sockets. What the member task commands is done before the gate is looked at
//! again.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tracing::debug;

use crate::clock::monotonic_now;
use crate::cluster::gate::ServiceGate;
use crate::cluster::peers::PeerInput;
use crate::cluster::{ClusterCommand, DriverReport};
use crate::store::StoreCommand;
use crate::store::redis::shared::EngineAsk;
use lwm2m_base::{Shard, ShardSet};
use lwm2m_cluster::endpoint_move::Arrivals;
use lwm2m_cluster::{Handover, NodeNumber, Term};
use lwm2m_core::gateway::claims::{ClaimQuestion, MovedDevice};
use lwm2m_core::gateway::record::Change;
use lwm2m_core::gateway::shards::{ShardContents, ShardRecipients};
use lwm2m_core::gateway::{BatchNumber, ChangeBatch};
use lwm2m_dtls::AssociationChange;

use super::Driver;
use super::departures::LeavingDevices;
use super::forwarding::Forwarding;

/// Maximum number of changes in a batch of a shard that is handed over.
const BATCH: usize = 64;

/// The place of the driver in a cluster.
pub struct ClusterSeat {
    gate: ServiceGate,
    commands: UnboundedReceiver<ClusterCommand>,
    reports: UnboundedSender<DriverReport>,
    asks: UnboundedSender<EngineAsk>,
    pub(super) forwarding: Forwarding,
    /// The shards for which a newer term was asked.
    wanted: ShardSet,
    /// The shards that were handed over: their records, until the node has given up the lease.
    parked: HashMap<Shard, ParkedShard>,
    /// The shards that are served again, until the store has what was written of them for the handover.
    resumed: Vec<(Shard, BatchNumber, ShardRecipients)>,
    /// The last batch that the store has.
    stored: BatchNumber,
    /// The questions for whose devices other nodes are asked.
    pub(super) arrivals: Arrivals<ClaimQuestion>,
    pub(super) departures: LeavingDevices,
}

/// An input of the driver from the cluster.
pub(super) enum ClusterInput {
    Command(ClusterCommand),
    Peer(PeerInput),
}

/// A shard that the driver does not serve any more, and may have to serve again.
struct ParkedShard {
    handover: Handover,
    contents: ShardContents,
    /// The batch with its last records; `None` once the store has it.
    stored_by: Option<BatchNumber>,
    /// Its devices. What they and the broker are to be told may still wait for the batch.
    recipients: ShardRecipients,
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
            parked: HashMap::new(),
            resumed: Vec::new(),
            stored: BatchNumber::default(),
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

    /// Returns when held datagrams are tried again, or moves of devices have to go on.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let (arrivals, departures) = (self.arrivals.next_deadline(), self.departures.next_deadline());
        [self.forwarding.next_deadline(), arrivals, departures].into_iter().flatten().min()
    }

    /// Reports the shards that are handed over and whose records are stored.
    fn report_stored(&mut self) {
        let mut stored = Vec::new();
        for (shard, parked) in &mut self.parked {
            if parked.stored_by.is_some_and(|stored_by| stored_by <= self.stored) {
                parked.stored_by = None;
                stored.push(DriverReport::WoundDown { shard: *shard, handover: parked.handover });
            }
        }
        stored.into_iter().for_each(|report| self.report(report));
    }

    fn report(&self, report: DriverReport) {
        // The member task ends before the driver only if the whole node ends.
        let (Ok(()) | Err(_)) = self.reports.send(report);
    }

    pub(super) fn ask(&self, ask: EngineAsk) -> Result<(), EngineAsk> {
        self.asks.send(ask).map_err(|error| error.0)
    }
}

impl Driver {
    /// Returns once the node may serve its shards. A driver without a cluster may always. Returns early if the driver
    /// has to end. Cancel-safe.
    pub(super) async fn may_serve(&mut self) {
        while let Some(seat) = &mut self.cluster {
            // The member task opens the gate after its commands.
            let is_open = seat.gate.is_open(monotonic_now());
            while let Some(command) = self.cluster.as_mut().and_then(|seat| seat.commands.try_recv().ok()) {
                self.obey(command);
            }
            if is_open || self.is_fenced {
                return;
            }
            self.wait_for_gate().await;
        }
    }

    /// Waits until the gate or the shards of the node change. People who ask are answered meanwhile.
    async fn wait_for_gate(&mut self) {
        let Some(ClusterSeat { gate, commands, .. }) = &mut self.cluster else { return };
        let watchdog = self.watchdog.as_ref().map(crate::service::Watchdog::next);
        let wake = watchdog.unwrap_or_else(|| monotonic_now() + super::LONGEST_SLEEP);
        tokio::select! {
            Some(command) = commands.recv() => self.obey(command),
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

    pub(super) fn obey(&mut self, command: ClusterCommand) {
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
            ClusterCommand::Resume { shard, term } => {
                let Some(seat) = &mut self.cluster else { return };
                let Some(ParkedShard { contents, stored_by, recipients, .. }) = seat.parked.remove(&shard) else {
                    return;
                };
                seat.resumed.extend(stored_by.map(|stored_by| (shard, stored_by, recipients)));
                self.gateway.restore_shard(now, (shard, term), contents);
                // The associations have used this term already.
                seat.report(DriverReport::NeedsTerm(shard));
            }
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

    fn serve(&mut self, now: Instant, (shard, term): (Shard, Term), contents: ShardContents) {
        debug!(%shard, %term, devices = contents.devices.len(), "shard taken");
        let Self { gateway, keys, cluster: Some(seat), .. } = self else { return };
        let associations: Vec<_> = contents.associations.iter().map(|saved| saved.id).collect();
        let unheard = contents.devices.iter().filter(|record| !seat.forwarding.expect(now, record.peer));
        let unheard: Vec<String> = unheard.map(|record| record.registration.endpoint.clone()).collect();
        gateway.restore_shard(now, (shard, term), contents);
        unheard.iter().for_each(|endpoint| gateway.hold_until_heard(endpoint));
        // A key may have been removed while no node served the shard.
        gateway.revoke_among(now, &associations, |used| keys.refuses(used));
    }

    fn drop_shard(&mut self, now: Instant, shard: Shard) {
        let Self { gateway, cluster: Some(seat), .. } = self else { return };
        seat.wanted.remove(shard);
        seat.departures.forget_shard(shard);
        match seat.parked.remove(&shard) {
            Some(ParkedShard { stored_by: Some(_), recipients, .. }) => {
                debug!(%shard, "shard lost before its records were stored");
                gateway.drop_outputs(now, &recipients);
            }
            // What waited for its records has left.
            Some(ParkedShard { stored_by: None, .. }) => {}
            None => {
                debug!(%shard, "shard dropped");
                gateway.forget_shard(now, shard);
                for (_, _, recipients) in seat.resumed.extract_if(.., |(of, ..)| *of == shard) {
                    gateway.drop_outputs(now, &recipients);
                }
            }
        }
        seat.report(DriverReport::Dropped(shard));
    }

    /// Hands all records of a shard to the store, and stops serving it. The store takes them also if it has no room for
    /// more: they are bounded by the shards that are handed over at the same time, and what is left out now would have to
    /// be handed over anew.
    fn hand_over(&mut self, now: Instant, shard: Shard, handover: Handover, to: Option<NodeNumber>) {
        self.gateway.change_shard(shard);
        let Some((contents, last)) = self.write_all(now, shard) else { return };
        debug!(%shard, devices = contents.devices.len(), "shard handed over");
        let recipients = self.gateway.hand_over_shard(now, shard);
        if let Some(seat) = &mut self.cluster {
            if let Some(to) = to {
                seat.forwarding.hand_ways_over(now, to, recipients.places());
            }
            let parked = ParkedShard { handover, contents, stored_by: Some(last), recipients };
            seat.parked.insert(shard, parked);
            // All may be stored already.
            seat.report_stored();
        }
    }

    /// Hands all changes to the store. Returns the records of this shard and the last batch; `None` without a store, which
    /// a cluster has.
    fn write_all(&mut self, now: Instant, shard: Shard) -> Option<(ShardContents, BatchNumber)> {
        let Self { gateway, store: Some(store), .. } = self else { return None };
        let mut contents = ShardContents::default();
        while gateway.has_changes() {
            let ChangeBatch { version, changes } = gateway.take_batch(now, BATCH);
            changes.iter().for_each(|change| park(&mut contents, shard, change));
            store.submit(StoreCommand::Write { version, changes });
        }
        let devices: HashSet<&str> =
            contents.devices.iter().map(|record| record.registration.endpoint.as_str()).collect();
        contents.retained_commands.retain(|record| devices.contains(record.endpoint.as_str()));
        contents.firmware_jobs.retain(|record| devices.contains(record.endpoint.as_str()));
        Some((contents, store.last()))
    }

    /// Takes the confirmation of the store that it has this batch and all before it.
    pub(super) fn note_stored_shards(&mut self, now: Instant, version: BatchNumber) {
        let Some(seat) = &mut self.cluster else { return };
        seat.stored = version;
        seat.resumed.retain(|(_, stored_by, _)| *stored_by > version);
        seat.report_stored();
        let steps = seat.departures.handle_stored(version);
        self.depart(now, steps);
    }

    /// Keeps a device of a shard that was handed over, in case the node has to serve the shard again.
    pub(super) fn park_device(&mut self, device: MovedDevice) {
        let shard = device.record.shard();
        let Some(parked) = self.cluster.as_mut().and_then(|seat| seat.parked.get_mut(&shard)) else { return };
        device.into_changes().iter().for_each(|change| park(&mut parked.contents, shard, change));
    }

    /// Asks for the terms that DTLS associations need, each once.
    pub(super) fn ask_for_terms(&mut self) {
        let Self { gateway, cluster: Some(seat), .. } = self else { return };
        for shard in gateway.take_wanted_terms().iter() {
            if seat.wanted.insert(shard) {
                seat.report(DriverReport::NeedsTerm(shard));
            }
        }
    }
}

/// Keeps the record of a change, unless it is of another shard. The shard of some is that of their device.
fn park(contents: &mut ShardContents, shard: Shard, change: &Change) {
    match change {
        Change::Put(record) if record.shard() == shard => contents.devices.push((**record).clone()),
        Change::Association(AssociationChange::Put(saved)) if saved.id.shard() == shard => {
            contents.associations.push(saved.clone());
        }
        Change::RetainedCommands(record) => contents.retained_commands.push(record.clone()),
        Change::FirmwareJob(record) => contents.firmware_jobs.push(record.clone()),
        Change::Put(_)
        | Change::Remove { .. }
        | Change::Profile(_)
        | Change::GeneratedKey(_)
        | Change::AwaitedBootstrap(_)
        | Change::Campaign(_)
        | Change::Association(_) => {}
    }
}
