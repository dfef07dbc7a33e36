//! The handover of shards: those that come to a node of a cluster, and those that leave it.
//!
//! 1. A shard that leaves winds down first: the commands in flight to its devices end, others wait.
//! 2. It is parked: all its records are handed to the store, and it is not served any more. What comes for its devices
//!    from now on waits until its next node is known.
//! 3. When the store has the records and the broker has what was queued, the shard is reported as wound down. Its lease
//!    is released, and it is dropped. Until then it may have to be served again.
//! 4. The next node reports it as settled when its devices are connected to the broker. Until then no more shards leave
//!    than may be under way at the same time.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use tracing::debug;

use crate::cluster::DriverReport;
use crate::store::StoreCommand;
use crate::upstream::UpstreamLink;
use lwm2m_base::Shard;
use lwm2m_cluster::{Handover, NodeNumber, Term};
use lwm2m_core::gateway::moves::claims::MovedDevice;
use lwm2m_core::gateway::moves::shards::{ShardContents, ShardRecipients};
use lwm2m_core::gateway::persistence::record::Change;
use lwm2m_core::gateway::{BatchNumber, ChangeBatch, Gateway};
use lwm2m_core::registry::RegistrationId;
use lwm2m_dtls::AssociationChange;

use super::Driver;

/// Maximum number of changes in a batch of a shard that is handed over.
const BATCH: usize = 64;
/// Maximum time in which commands in flight end. The next node sends the others again as the same messages.
const COMMANDS_END: Duration = Duration::from_secs(5);
/// Maximum time in which the devices of a shard connect to the broker.
const CONNECTED: Duration = Duration::from_secs(8);
/// The interval at which it is checked whether a shard can take its next step.
const TICK: Duration = Duration::from_millis(10);

/// The shards that come and leave, and the step of each.
#[derive(Default)]
pub(super) struct Handovers {
    winding: Vec<WindingShard>,
    /// The shards whose records are handed to the store, until the node has released the lease.
    parked: HashMap<Shard, ParkedShard>,
    /// The shards that are served again, until the store has the records that were written for the handover.
    resumed: Vec<(Shard, BatchNumber, ShardRecipients)>,
    settling: Vec<SettlingShard>,
    /// The last batch that the store has.
    stored: BatchNumber,
}

/// A shard that leaves, whose commands in flight end.
#[derive(Clone, Copy)]
struct WindingShard {
    shard: Shard,
    handover: Handover,
    to: Option<NodeNumber>,
    until: Instant,
}

/// A shard that the driver does not serve any more, and may have to serve again.
struct ParkedShard {
    handover: Handover,
    contents: ShardContents,
    /// The batch with its last records.
    stored_by: BatchNumber,
    /// Its devices. Outputs for them and their sessions may still wait for the batch.
    recipients: ShardRecipients,
    is_reported: bool,
}

/// A shard that has come, whose devices connect to the broker.
struct SettlingShard {
    shard: Shard,
    unconnected: Vec<RegistrationId>,
    until: Instant,
}

impl Handovers {
    /// Returns the time of the next call of [`Driver::advance_handovers`].
    pub(super) fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let waits = self.parked.values().any(|parked| !parked.is_reported);
        (waits || !self.winding.is_empty() || !self.settling.is_empty()).then(|| now + TICK)
    }

    /// Removes and returns the shards whose commands have ended, or whose time is over.
    fn wound_down(&mut self, now: Instant, gateway: &mut Gateway) -> Vec<WindingShard> {
        let is_over = |winding: &mut WindingShard| winding.until <= now || gateway.is_wound_down(winding.shard);
        self.winding.extract_if(.., is_over).collect()
    }

    /// Returns the reports of the shards that leave or have come, each once.
    fn reports(&mut self, now: Instant, link: &UpstreamLink) -> Vec<DriverReport> {
        let mut reports = Vec::new();
        for (shard, parked) in self.parked.iter_mut().filter(|(_, parked)| !parked.is_reported) {
            let publishes = || parked.recipients.publishers().iter().any(|publisher| link.has(*publisher));
            if parked.stored_by <= self.stored && !publishes() {
                parked.is_reported = true;
                reports.push(DriverReport::WoundDown { shard: *shard, handover: parked.handover });
            }
        }
        self.settling.retain_mut(|settling| {
            settling.unconnected.retain(|registration| !link.is_connected(*registration));
            let waits = !settling.unconnected.is_empty() && now < settling.until;
            if !waits {
                reports.push(DriverReport::Settled(settling.shard));
            }
            waits
        });
        reports
    }
}

impl Driver {
    /// Serves a shard that has come.
    pub(super) fn serve(&mut self, now: Instant, (shard, term): (Shard, Term), contents: ShardContents) {
        debug!(%shard, %term, devices = contents.devices.len(), "shard taken");
        let Self { gateway, keys, cluster: Some(seat), .. } = self else { return };
        let associations: Vec<_> = contents.associations.iter().map(|saved| saved.id).collect();
        let endpoints: Vec<(String, bool)> = contents
            .devices
            .iter()
            .map(|record| (record.registration.endpoint.clone(), seat.forwarding.expect(now, record.peer)))
            .collect();
        gateway.restore_shard(now, (shard, term), contents);
        for (endpoint, _) in endpoints.iter().filter(|(_, is_reached)| !is_reached) {
            gateway.hold_until_heard(endpoint);
        }
        // A key may have been removed while no node served the shard.
        gateway.revoke_among(now, &associations, |used| keys.refuses(used));
        let unconnected = endpoints.iter().filter_map(|(endpoint, _)| gateway.publisher(endpoint)).collect();
        seat.handovers.settling.push(SettlingShard { shard, unconnected, until: now + CONNECTED });
    }

    /// Begins to hand a shard over.
    pub(super) fn hand_over(&mut self, now: Instant, shard: Shard, handover: Handover, to: Option<NodeNumber>) {
        let Self { gateway, cluster: Some(seat), .. } = self else { return };
        gateway.wind_down(shard);
        seat.handovers.winding.push(WindingShard { shard, handover, to, until: now + COMMANDS_END });
    }

    /// Serves a shard again that was to be handed over.
    pub(super) fn resume(&mut self, now: Instant, (shard, term): (Shard, Term)) {
        let Self { gateway, cluster: Some(seat), .. } = self else { return };
        let handovers = &mut seat.handovers;
        handovers.winding.retain(|winding| winding.shard != shard);
        let Some(ParkedShard { contents, stored_by, recipients, .. }) = handovers.parked.remove(&shard) else {
            return gateway.go_on(now, shard);
        };
        if stored_by > handovers.stored {
            handovers.resumed.push((shard, stored_by, recipients));
        }
        gateway.restore_shard(now, (shard, term), contents);
        // The associations have used this term already.
        seat.report(DriverReport::NeedsTerm(shard));
    }

    /// Forgets a shard that the node does not have any more.
    pub(super) fn drop_shard(&mut self, now: Instant, shard: Shard) {
        let Self { gateway, cluster: Some(seat), .. } = self else { return };
        seat.wanted.remove(shard);
        seat.departures.forget_shard(shard);
        let handovers = &mut seat.handovers;
        handovers.winding.retain(|winding| winding.shard != shard);
        handovers.settling.retain(|settling| settling.shard != shard);
        match handovers.parked.remove(&shard) {
            // The outputs that waited for its records have left.
            Some(parked) if parked.stored_by <= handovers.stored => {}
            Some(ParkedShard { recipients, .. }) => {
                debug!(%shard, "shard lost before its records were stored");
                gateway.drop_outputs(now, &recipients);
            }
            None => {
                debug!(%shard, "shard dropped");
                gateway.forget_shard(now, shard);
            }
        }
        for (_, _, recipients) in handovers.resumed.extract_if(.., |(of, ..)| *of == shard) {
            gateway.drop_outputs(now, &recipients);
        }
        seat.report(DriverReport::Dropped(shard));
    }

    /// Takes the next step of each shard that does not have to wait for it any more.
    pub(super) fn advance_handovers(&mut self, now: Instant) {
        let Self { gateway, cluster: Some(seat), .. } = self else { return };
        for winding in seat.handovers.wound_down(now, gateway) {
            self.park(now, winding);
        }
        let Self { link, cluster: Some(seat), .. } = self else { return };
        for report in seat.handovers.reports(now, link) {
            seat.report(report);
        }
    }

    /// Takes the confirmation of the store that it has this batch and all before it.
    pub(super) fn note_stored_shards(&mut self, now: Instant, version: BatchNumber) {
        let Some(seat) = &mut self.cluster else { return };
        seat.handovers.stored = version;
        seat.handovers.resumed.retain(|(_, stored_by, _)| *stored_by > version);
        let steps = seat.departures.handle_stored(version);
        self.depart(now, steps);
    }

    /// Keeps a device of a shard that was handed over, in case the node has to serve the shard again.
    pub(super) fn park_device(&mut self, device: MovedDevice) {
        let (shard, seat) = (device.record.shard(), self.cluster.as_mut());
        let Some(parked) = seat.and_then(|seat| seat.handovers.parked.get_mut(&shard)) else { return };
        device.into_changes().iter().for_each(|change| keep(&mut parked.contents, shard, change));
    }

    /// Hands all records of a shard to the store, and stops serving it. The store takes them even if it has no room for
    /// more: their number is bounded by the number of shards that are handed over at the same time, and every record
    /// has to be written before the handover.
    fn park(&mut self, now: Instant, WindingShard { shard, handover, to, .. }: WindingShard) {
        self.gateway.change_shard(shard);
        let Some((contents, stored_by)) = self.write_all(now, shard) else { return };
        debug!(%shard, devices = contents.devices.len(), "shard handed over");
        let recipients = self.gateway.hand_over_shard(now, shard);
        let Some(seat) = &mut self.cluster else { return };
        if let Some(to) = to {
            seat.forwarding.hand_ways_over(now, to, recipients.places());
        }
        let parked = ParkedShard { handover, contents, stored_by, recipients, is_reported: false };
        seat.handovers.parked.insert(shard, parked);
    }

    /// Hands all changes to the store. Returns the records of this shard and the last batch; `None` without a store, which
    /// a cluster has.
    fn write_all(&mut self, now: Instant, shard: Shard) -> Option<(ShardContents, BatchNumber)> {
        let Self { gateway, store: Some(store), .. } = self else { return None };
        let mut contents = ShardContents::default();
        while gateway.has_changes() {
            let ChangeBatch { version, changes } = gateway.take_batch(now, BATCH);
            changes.iter().for_each(|change| keep(&mut contents, shard, change));
            store.submit(StoreCommand::Write { version, changes });
        }
        let devices: HashSet<&str> =
            contents.devices.iter().map(|record| record.registration.endpoint.as_str()).collect();
        contents.retained_commands.retain(|record| devices.contains(record.endpoint.as_str()));
        contents.firmware_jobs.retain(|record| devices.contains(record.endpoint.as_str()));
        Some((contents, store.last()))
    }
}

/// Keeps the record of a change, unless it is of another shard. Some records are of the shard of their device.
fn keep(contents: &mut ShardContents, shard: Shard, change: &Change) {
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
