//! Makes the record of a device, and registers the device of a record: after a restart, or when it comes from another
//! gateway.

use std::sync::Arc;

use crate::registry::{Device, Location, NewDevice, RegistrationId};

use super::record::{DeviceRecord, IdentityRecord, ObservationRecord};
use crate::gateway::broker::{BrokerCommand, ClientInfo};
use crate::gateway::client::{allowed_silence, client};
use crate::gateway::commands::{CommandScheduler, NotTaken, refuse_restored};
use crate::gateway::context::Context;
use crate::gateway::registrations::Registrations;
use crate::gateway::registrations::undefined_versions::note_undefined_versions;
use crate::gateway::report::NotRestored;
use crate::gateway::wall_clock::LATEST_TIME;

/// A device that was restored from its record, and the steps that are left to do for it.
pub(in crate::gateway) struct Restoration {
    pub id: RegistrationId,
    pub client: ClientInfo,
    /// The commands that the current object model or the current limits reject.
    refused: Vec<NotTaken>,
}

/// Restores the device of a record, unless the current configuration rejects it or there are `most` devices.
pub(super) fn restore(
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
pub(in crate::gateway) fn take_up(
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
    registration.lifetime = registration.lifetime.min(LATEST_TIME);
    let limits = &context.config.limits;
    let observations_limit = limits.observations;
    if registration.size() > limits.registration_size {
        return Err(NotRestored::TooLarge);
    }
    registrations.devices_mut().commands_mut().reserve_serials(&records);
    let identity = record.identity.map(|identity| Arc::new(identity.into_identity()));
    let client = client(&context.config, &registration, peer, identity.as_deref());
    let (client, topics) = client.map_err(|_| NotRestored::NoTopics)?;
    // If the clock was set back, the time must not be later than now.
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
    pub(in crate::gateway) fn resume(&mut self, context: &mut Context, restoration: Restoration) {
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

pub(in crate::gateway) fn record(
    context: &Context,
    commands: &mut CommandScheduler,
    device: &mut Device,
) -> DeviceRecord {
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
