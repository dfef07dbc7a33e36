//! What the store has of the gateway, and how it survives a restart. The shell owns the store: it writes the records
//! that [`Gateway::take_batch`] returns, and passes those of the process before to [`Gateway::restore`].
//!
//! 1. While the program runs each change marks its device, by endpoint (`pending_changes`). One record is made of a
//!    device, however often it was marked ([`record`]). The records of one turn are a batch (`change_batch`).
//! 2. Outputs that would be wrong after a crash wait until the store has the record behind them (`held_outputs`), and
//!    final answers are kept until the broker has them (`outbox`).
//! 3. The next process gets all records. The devices are registered and observed as before, and the broker is asked to
//!    connect them again (`restart`). Nothing is sent to the devices, and nothing is published for them.
//! 4. When the broker has connected a device, or the device sends a message, its commands continue: the one that was in
//!    flight is sent once more, as the same message, before those that waited.
//!
//! A device that sends only messages that change nothing is marked from time to time: see
//! [`crate::registry::Device::needs_new_record`].

pub(super) mod change_batch;
pub(super) mod held_outputs;
pub(super) mod outbox;
pub(super) mod pending_changes;
pub mod record;
pub(super) mod restart;

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use lwm2m_base::Shard;

use super::Gateway;
use super::context::Context;
use super::firmware::jobs::record::FirmwareJobRecord;
use super::registrations::Registrations;
use super::report::Report;

use change_batch::{BatchNumber, ChangeBatch};
use held_outputs::UrgentRecord;
use record::{
    AwaitedBootstrapRecord, CampaignRecord, Change, DeviceRecord, GeneratedKeyRecord, ProfileRecord,
    RetainedCommandsRecord,
};
use restart::restore;

/// Persistence.
impl Gateway {
    /// Restores the devices of an earlier process. From now on the changes of all devices are kept for
    /// [`Gateway::take_changes`]. A shell without a store does not call this, and no changes are kept; a shell with an
    /// empty store calls it without records.
    ///
    /// The current limits apply: if there are too many devices, those that sent a message most recently are restored.
    /// They are also connected first.
    pub fn restore(&mut self, now: Instant, records: Vec<DeviceRecord>) {
        let Self { context, registrations, campaigns, .. } = self;
        context.now = now;
        context.changes.keep();
        registrations.devices_mut().commands_mut().retained.keep_changes();
        registrations.devices_mut().commands_mut().jobs.keep_changes();
        registrations.profiles_mut().keep_changes();
        context.generated_keys.keep_changes();
        context.awaited_bootstraps.keep_changes();
        campaigns.keep_changes();
        let most = self.context.config.limits.devices;
        self.restore_devices(records, most);
    }

    /// Restores devices, those with the latest messages first.
    pub(super) fn restore_devices(&mut self, mut records: Vec<DeviceRecord>, most: usize) {
        let Self { context, registrations, .. } = self;
        records.sort_by_key(|record| Reverse(record.last_heard));
        for record in records {
            let (endpoint, peer) = (record.registration.endpoint.clone(), record.peer);
            let shard = record.shard();
            if registrations.devices().registry().id_by_endpoint(&endpoint).is_some() {
                // The program ended while the device moved to another shard. The newer record is valid.
                context.changes.mark_left(&endpoint, Some(shard));
                continue;
            }
            match restore(context, registrations, record, most) {
                Ok(()) => context.report(Report::Restored { endpoint, peer }),
                Err(reason) => {
                    context.changes.mark_left(&endpoint, Some(shard));
                    context.report(Report::NotRestored { endpoint, reason });
                }
            }
        }
    }

    /// Restores what an earlier process remembered of retained commands, after [`Gateway::restore`].
    pub fn restore_retained_commands(&mut self, records: Vec<RetainedCommandsRecord>) {
        let devices = self.registrations.devices_mut();
        for record in records {
            let endpoint = record.endpoint.clone();
            devices.commands_mut().retained.restore(record);
            if devices.registry().id_by_endpoint(&endpoint).is_none() {
                devices.commands_mut().retained.left(&endpoint);
            }
        }
    }

    /// Restores the object lists by profile ID of an earlier process, after [`Gateway::restore`].
    pub fn restore_profiles(&mut self, records: Vec<ProfileRecord>) {
        let most = self.context.config.limits.profiles;
        self.registrations.profiles_mut().restore(records, most);
    }

    /// Restores the keys that an earlier process generated for devices, before the first datagram.
    pub fn restore_generated_keys(&mut self, records: Vec<GeneratedKeyRecord>) {
        self.context.generated_keys.restore(records);
        self.bootstrap.review_all_keys(&mut self.context);
    }

    /// Restores the `bootstrap` commands of an earlier process that await a session, after [`Gateway::restore`].
    pub fn restore_awaited_bootstraps(&mut self, now: Instant, records: Vec<AwaitedBootstrapRecord>) {
        let Self { context, registrations, .. } = self;
        context.now = now;
        for record in records {
            let number = registrations.devices_mut().commands_mut().next_number();
            context.awaited_bootstraps.restore(now, context.wall_clock, number, record);
        }
        self.deliver_bootstraps();
    }

    /// Closes the associations of an earlier process that were made with a generated key which is no longer valid,
    /// after [`Gateway::restore_generated_keys`] and [`Gateway::with_dtls`].
    pub fn close_former_associations(&mut self, now: Instant) {
        self.context.now = now;
        let Context { dtls, generated_keys, .. } = &mut self.context;
        if let Some(dtls) = dtls {
            dtls.server.revoke(|used| generated_keys.is_former(used));
        }
        self.handle_dtls();
    }

    /// Restores the firmware updates of an earlier process, after [`Gateway::restore`]. Each continues when the gateway
    /// can ask its device for its state.
    pub fn restore_firmware_jobs(&mut self, now: Instant, records: Vec<FirmwareJobRecord>) {
        self.context.now = now;
        for record in records {
            self.registrations.devices_mut().restore_job(&mut self.context, record);
        }
    }

    /// Restores the firmware campaigns of an earlier process, after [`Gateway::restore_firmware_jobs`].
    pub fn restore_campaigns(&mut self, now: Instant, records: Vec<CampaignRecord>) {
        let Self { context, registrations, campaigns, .. } = self;
        context.now = now;
        campaigns.restore(context, registrations.devices(), records);
    }

    /// Returns whether [`Gateway::take_changes`] has something to return.
    pub fn has_changes(&self) -> bool {
        !self.context.changes.is_empty()
            || self.registrations.devices().commands().retained.has_changes()
            || self.registrations.devices().commands().jobs.has_changes()
            || self.registrations.profiles().has_changes()
            || self.campaigns.has_changes()
            || self.context.generated_keys.has_changes()
            || self.context.awaited_bootstraps.has_changes()
            || self.context.dtls.as_ref().is_some_and(|dtls| dtls.server.has_changes())
    }

    /// Holds answers and publications until the store has confirmed the records behind them with
    /// [`Gateway::handle_stored`], but no longer than `patience`. Without this call they leave at once.
    pub fn tell_when_stored(&mut self, patience: Duration) {
        self.context.held.enable(patience);
    }

    /// Returns a batch of at most `most` changes, as [`Gateway::take_changes`] does, with the number by which the store
    /// confirms it. Records that outputs wait for are always in the next batch, which may exceed `most` for that
    /// reason.
    pub fn take_batch(&mut self, now: Instant, most: usize) -> ChangeBatch {
        self.context.now = now;
        let version = self.context.held.next_batch();
        ChangeBatch { version, changes: self.changes(version, most) }
    }

    /// Takes the confirmation of the store that this batch and all before it are written and would survive a crash.
    pub fn handle_stored(&mut self, now: Instant, version: BatchNumber) {
        self.context.now = now;
        self.context.handle_stored(version);
        if self.context.generated_keys.handle_stored(version) {
            self.bootstrap.handle_stored_keys(&mut self.context);
            self.handle_coap();
        }
    }

    /// Notes whether the store can be written. While it cannot, outputs leave at once, as if the patience of
    /// [`Gateway::tell_when_stored`] were over, and are counted in the same way.
    pub fn set_store_away(&mut self, now: Instant, is_away: bool) {
        self.context.now = now;
        self.context.set_store_away(is_away);
    }

    /// Returns whether outputs or bootstrap sessions wait for the next batch, which is therefore written without delay.
    pub fn has_urgent_changes(&self) -> bool {
        self.context.held.is_urgent() || self.context.generated_keys.has_changes()
    }

    /// Returns at most `most` changes since the last call, of associations, devices and the other records; those that
    /// were marked first come first.
    pub fn take_changes(&mut self, now: Instant, most: usize) -> Vec<Change> {
        self.take_batch(now, most).changes
    }

    fn changes(&mut self, version: BatchNumber, most: usize) -> Vec<Change> {
        // Not after the devices: if the command in flight becomes an awaited bootstrap command, a crash between the two
        // would lose it.
        let clock = self.context.wall_clock;
        let mut changes = self.context.awaited_bootstraps.take_changes(clock, most);
        changes.extend(take_urgent(&mut self.context, &mut self.registrations));
        // Devices wait for these records.
        let rest = most.saturating_sub(changes.len());
        changes.extend(self.context.generated_keys.take_changes(version, rest));
        let rest = most.saturating_sub(changes.len());
        changes.extend(take_changes(&mut self.context, &mut self.registrations, rest));
        changes.extend(self.campaigns.take_changes(most.saturating_sub(changes.len())));
        changes
    }

    /// Marks every association and every device as changed, so that the last records before a shutdown hold the time of
    /// each device's last message.
    pub fn change_all(&mut self) {
        if let Some(dtls) = &mut self.context.dtls {
            dtls.server.change_all();
        }
        for device in self.registrations.devices().registry().devices() {
            self.context.changed(device);
        }
    }
}

/// A store that other processes may change or lose.
impl Gateway {
    /// Marks every record as changed, because the store has lost some or all of them.
    pub fn rewrite_store(&mut self) {
        self.change_all();
        let commands = self.registrations.devices_mut().commands_mut();
        commands.retained.change_all();
        commands.jobs.change_all();
        self.registrations.profiles_mut().change_all();
        self.context.generated_keys.change_all();
        self.context.awaited_bootstraps.change_all();
        self.campaigns.change_all();
    }

    /// Notes that no other process uses the store before this time: until then DTLS associations may number their
    /// records by terms of their own.
    pub fn lease_until(&mut self, until: Instant) {
        if let Some(dtls) = &mut self.context.dtls {
            dtls.server.lease_terms_until(until);
        }
    }
}

/// Returns the changes of the records that outputs wait for.
fn take_urgent(context: &mut Context, registrations: &mut Registrations) -> Vec<Change> {
    let urgent = context.held.take_urgent();
    let mut changes = Vec::new();
    for record in urgent {
        match record {
            UrgentRecord::Association(id) => {
                let change = context.dtls.as_mut().and_then(|dtls| dtls.server.take_change(id));
                changes.extend(change.map(Change::Association));
            }
            UrgentRecord::Device(endpoint) if context.changes.take_one(&endpoint) => {
                changes.extend(device_changes(context, registrations, &endpoint));
            }
            UrgentRecord::Device(_) => {}
        }
    }
    changes
}

/// Returns at most `most` of the changes since the last call, those that were marked first before the others.
fn take_changes(context: &mut Context, registrations: &mut Registrations, most: usize) -> Vec<Change> {
    // Associations first: a restored device without its association could not be reached.
    let associations = context.dtls.as_mut().map(|dtls| dtls.server.take_changes(most)).unwrap_or_default();
    let mut changes: Vec<Change> = associations.into_iter().map(Change::Association).collect();
    changes.extend(registrations.profiles_mut().take_changes(most - changes.len()));
    let devices = registrations.devices_mut();
    changes.extend(devices.commands_mut().retained.take_changes(most - changes.len()));
    let commands = registrations.devices_mut().commands_mut();
    changes.extend(commands.jobs.take_changes(context, most - changes.len()));
    while changes.len() < most
        && let Some(endpoint) = context.changes.take()
    {
        changes.extend(device_changes(context, registrations, &endpoint));
    }
    changes
}

/// Returns the changes of an endpoint. Its record is put into its current shard, and removed from every other shard in
/// which it is stored.
fn device_changes(context: &mut Context, registrations: &mut Registrations, endpoint: &str) -> Vec<Change> {
    let left = context.changes.take_left(endpoint);
    let devices = registrations.devices_mut();
    let registered = devices.registry().id_by_endpoint(endpoint).and_then(|id| devices.with_commands(id));
    let put = registered.map(|(device, commands)| {
        let record = restart::record(context, commands, device);
        (device.recorded(record.shard()), record)
    });
    let (stored_in, record) = put.unzip();
    let shard = record.as_ref().map(DeviceRecord::shard);
    if stored_in.flatten().is_some_and(|before| Some(before) != shard) {
        // They are stored in the shard of the device.
        registrations.devices_mut().commands_mut().change_companions(endpoint);
    }
    let former: BTreeSet<Shard> = [left, stored_in.flatten()].into_iter().flatten().collect();
    let removed = former.into_iter().filter(|former| Some(*former) != shard);
    let removed = removed.map(|shard| Change::Remove { shard, endpoint: endpoint.to_owned() });
    removed.chain(record.map(|record| Change::Put(Box::new(record)))).collect()
}
