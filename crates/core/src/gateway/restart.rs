//! Persistence over a restart: makes records of devices, and restores devices from records.
//!
//! 1. While the program runs each change marks its device, by endpoint ([`super::pending_changes`]). One record is made
//!    of a device, however often it was marked.
//! 2. The next process gets all records. The devices are registered and observed as before, and the broker is asked to
//!    connect them again. Nothing is sent to the devices, and nothing is published for them.
//! 3. When the broker has connected a device, or the device sends a message, its commands continue: the one that was in
//!    flight is sent once more, as the same message, before those that waited.
//!
//! A device that sends only messages that change nothing is marked from time to time: see
//! [`crate::registry::Device::needs_new_record`].

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::registry::{Device, Location, NewDevice, RegistrationId};

use super::Gateway;
use super::broker::{BrokerCommand, ClientInfo};
use super::change_batch::{BatchNumber, ChangeBatch};
use super::client::{allowed_silence, client};
use super::command_scheduler::{CommandScheduler, NotTaken, refuse_restored};
use super::context::Context;
use super::firmware::record::FirmwareJobRecord;
use super::held_outputs::UrgentRecord;
use super::record::{
    AwaitedBootstrapRecord, CampaignRecord, Change, DeviceRecord, GeneratedKeyRecord, IdentityRecord,
    ObservationRecord, ProfileRecord, RetainedCommandsRecord,
};
use super::registrations::Registrations;
use super::report::{NotRestored, Report};
use super::undefined_versions::note_undefined_versions;
use super::wall_clock::FURTHEST;
use lwm2m_base::Shard;

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

    /// Restores devices, those first that were heard from last.
    pub(super) fn restore_devices(&mut self, mut records: Vec<DeviceRecord>, most: usize) {
        let Self { context, registrations, .. } = self;
        records.sort_by_key(|record| Reverse(record.last_heard));
        for record in records {
            let (endpoint, peer) = (record.registration.endpoint.clone(), record.peer);
            let shard = record.shard();
            if registrations.devices().registry().id_by_endpoint(&endpoint).is_some() {
                // The program ended while the device moved to another shard. The newer record is right.
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

    /// Closes the associations of an earlier process that were made with a generated key which holds no longer, after
    /// [`Gateway::restore_generated_keys`] and [`Gateway::with_dtls`].
    pub fn close_former_associations(&mut self, now: Instant) {
        self.context.now = now;
        let Context { dtls, generated_keys, .. } = &mut self.context;
        if let Some(dtls) = dtls {
            dtls.server.revoke(|used| generated_keys.is_former(used));
        }
        self.handle_dtls();
    }

    /// Restores the firmware updates of an earlier process, after [`Gateway::restore`]. Each goes on when its device
    /// can be asked how far it is.
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

    /// Holds what the gateway tells devices and applications until the store has confirmed the record behind it with
    /// [`Gateway::handle_stored`], but no longer than `patience`. Without this call it leaves at once.
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

    /// Takes the confirmation of the store that it has this batch and all before it, and will have them after a crash.
    pub fn handle_stored(&mut self, now: Instant, version: BatchNumber) {
        self.context.now = now;
        self.context.handle_stored(version);
        if self.context.generated_keys.handle_stored(version) {
            self.bootstrap.handle_stored_keys(&mut self.context);
            self.handle_coap();
        }
    }

    /// Notes whether the store can be written. While it cannot, what the gateway tells devices and applications leaves
    /// at once, as if the patience of [`Gateway::tell_when_stored`] were over, and is counted in the same way.
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
        // Not after the devices whose command in flight becomes one that is awaited: a crash between the two would lose
        // it.
        let clock = self.context.wall_clock;
        let mut changes = self.context.awaited_bootstraps.take_changes(clock, most);
        changes.extend(take_urgent(&mut self.context, &mut self.registrations));
        // Devices wait for them.
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

/// A store that others may change or lose.
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

/// Returns what has changed since the changes were taken last, at most so many, the longest changed first.
fn take_changes(context: &mut Context, registrations: &mut Registrations, most: usize) -> Vec<Change> {
    // Associations first: a device whose association is not in the store yet could not be spoken to.
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

/// Returns the changes of an endpoint: its record is removed from each shard in which it is stored, unless it stays
/// there, and put into its shard of now.
fn device_changes(context: &mut Context, registrations: &mut Registrations, endpoint: &str) -> Vec<Change> {
    let left = context.changes.take_left(endpoint);
    let devices = registrations.devices_mut();
    let registered = devices.registry().id_by_endpoint(endpoint).and_then(|id| devices.with_commands(id));
    let put = registered.map(|(device, commands)| {
        let record = record(context, commands, device);
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

/// A device that was restored from its record, and what is still to be done for it.
pub(super) struct Restoration {
    pub id: RegistrationId,
    pub client: ClientInfo,
    /// The commands that the current object model or the current limits reject.
    refused: Vec<NotTaken>,
}

/// Restores the device of a record, unless the configuration of today rejects it or there are `most` devices.
fn restore(
    context: &mut Context,
    registrations: &mut Registrations,
    record: DeviceRecord,
    most: usize,
) -> Result<(), NotRestored> {
    if registrations.devices().registry().len() >= most {
        return Err(NotRestored::TooMany);
    }
    let shard = record.shard();
    let restoration = take_up(context, registrations, record)?;
    if let Some((device, _)) = registrations.devices_mut().with_commands(restoration.id) {
        device.recorded(shard);
    }
    registrations.resume(context, restoration);
    Ok(())
}

/// Registers the device of a record. Nothing is sent to the broker yet.
pub(super) fn take_up(
    context: &mut Context,
    registrations: &mut Registrations,
    record: DeviceRecord,
) -> Result<Restoration, NotRestored> {
    let DeviceRecord { mut registration, password, location, peer, observations, commands: records, answers, .. } =
        record;
    registration.set_password(password);
    if !context.config.report_attributes {
        registration.forget_attributes();
    }
    registration.lifetime = registration.lifetime.min(FURTHEST);
    let limits = &context.config.limits;
    let observations_limit = limits.observations;
    if registration.size() > limits.registration_size {
        return Err(NotRestored::TooLarge);
    }
    registrations.devices_mut().commands_mut().reserve_serials(&records);
    let identity = record.identity.map(|identity| Arc::new(identity.into_identity()));
    let client = client(&context.config, &registration, peer, identity.as_deref());
    let (client, topics) = client.map_err(|_| NotRestored::NoTopics)?;
    // A clock that was set back since must not make the device younger than now.
    let last_heard = context.wall_clock.moment(record.last_heard).min(context.now);
    if last_heard + allowed_silence(&context.config, &registration) <= context.now {
        return Err(NotRestored::LifetimeOver);
    }
    let id = registrations.new_id();
    let location = Location::from_text(location);
    let device = NewDevice { id, registration, location, peer, identity, topics, last_heard };
    context.outbox.restore(&device.registration.endpoint, answers);
    registrations.devices_mut().insert(context, device);

    let mut refused = Vec::new();
    if let Some((device, commands)) = registrations.devices_mut().with_commands(id) {
        note_undefined_versions(context, device);
        device.observations.schedule(record.to_observe, record.grouping, usize::MAX);
        for observation in observations.into_iter().take(observations_limit) {
            commands.restore_observation(context, device, observation);
        }
        refused = commands.restore_commands(context, device, records);
        commands.watch_expiry(device);
    }
    Ok(Restoration { id, client, refused })
}

impl Registrations {
    /// Lets the broker connect a restored device. If a Register of its endpoint is pending, the session of that one is
    /// used.
    pub(super) fn resume(&mut self, context: &mut Context, restoration: Restoration) {
        let Restoration { id, client, refused } = restoration;
        let is_connected = self.join_pending(id);
        if !is_connected {
            context.command_broker(BrokerCommand::Resume { registration: id, client });
        }
        let Some((device, _)) = self.devices_mut().with_commands(id) else { return };
        for answer in context.outbox.publications(&device.registration.endpoint) {
            context.publish(device.publishes_as, answer);
        }
        for command in refused {
            refuse_restored(context, device, command);
        }
    }
}

pub(super) fn record(context: &Context, commands: &mut CommandScheduler, device: &mut Device) -> DeviceRecord {
    let commands = commands.records(context, device);
    let unix_time = |at| context.wall_clock.unix_time(at);
    let observations = device.observations.iter().filter_map(|(exchange, observation)| {
        let (token, newest) = context.coap.observation(exchange)?;
        let (command, formats) = (observation.command.echo.clone(), Some(observation.formats));
        let (number, at, origin) = (newest.number(), unix_time(newest.at()), observation.command.origin.clone());
        Some(ObservationRecord { token, command, formats, number, at, origin })
    });
    DeviceRecord {
        password: device.registration.password().cloned(),
        registration: device.registration.clone(),
        location: device.location.as_str().to_owned(),
        peer: device.peer,
        identity: device.identity.as_deref().map(IdentityRecord::from),
        last_heard: unix_time(device.last_heard().min(context.now)),
        observations: observations.collect(),
        commands,
        answers: context.outbox.records(&device.registration.endpoint),
        to_observe: device.observations.scheduled().collect(),
        grouping: device.observations.grouping(),
    }
}
