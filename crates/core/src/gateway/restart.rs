//! A restart: what changed is told as records, and records become devices again.
//!
//! 1. While the program runs each change marks its device, by endpoint. `take_changes` makes one record of a device,
//!    however often it was marked.
//! 2. The next process is given all records: `restore`. The devices are registered and observed as before, and the broker
//!    is asked to connect them again. Nothing is told to them or of them.
//! 3. When a device is connected, or speaks, its commands go on: the one that was in flight is sent once more, in front
//!    of those that waited.
//!
//! A device that does nothing but speak is marked now and then: see [`crate::registry::Device::needs_new_record`].

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Instant;

use crate::coap::Freshness;
use crate::command::{Command, Echo, Reply};
use crate::lwm2m::operation::{Operation, OperationKind};
use crate::lwm2m::register::Registration;
use crate::mqtt::downlink::{self, Refusal};
use crate::registry::{Device, Location, Observation, PendingCommand};

use super::broker::{BrokerCommand, RegistrationId};
use super::queue_mode::awake_window;
use super::record::{Change, CommandRecord, DeviceRecord, IdentityRecord, ObservationRecord};
use super::report::{CommandOutcome, NotRestored, Report};
use super::wall_clock::FURTHEST;
use super::{Deadline, Gateway, Output};

impl Gateway {
    /// Takes up the devices of an earlier process. From now on the changes of all devices are kept for
    /// [`Gateway::take_changes`]; a gateway that is never restored, be it with no records, keeps none.
    ///
    /// The limits of today hold: of too many devices those that were heard last are taken up. They are connected first, too.
    pub fn restore(&mut self, now: Instant, mut records: Vec<DeviceRecord>) {
        self.changes.keep();
        self.retained_commands.keep_changes();
        records.sort_by_key(|record| Reverse(record.last_heard));
        for record in records {
            let (endpoint, peer) = (record.registration.endpoint.clone(), record.peer);
            match self.restore_device(now, record) {
                Ok(()) => self.report(Report::Restored { endpoint, peer }),
                Err(reason) => {
                    self.changes.mark(&endpoint);
                    self.report(Report::NotRestored { endpoint, reason });
                }
            }
        }
    }

    pub fn has_changes(&self) -> bool {
        !self.changes.is_empty() || self.retained_commands.has_changes() || self.has_dtls_changes()
    }

    /// What has changed since it was taken last, at most so many associations and devices, the longest changed first.
    pub fn take_changes(&mut self, now: Instant, most: usize) -> Vec<Change> {
        // Associations first: a device whose association is not in the store yet could not be spoken to.
        let associations = self.dtls_server().map(|server| server.take_changes(most)).unwrap_or_default();
        let mut changes: Vec<Change> = associations.into_iter().map(Change::Association).collect();
        changes.extend(self.retained_commands.take_changes(most - changes.len()));
        while changes.len() < most
            && let Some(endpoint) = self.changes.take()
        {
            let record = self.registry.id_by_endpoint(&endpoint).and_then(|id| self.record(now, id));
            changes.push(match record {
                Some(record) => Change::Put(Box::new(record)),
                None => Change::Remove { endpoint: endpoint.to_string() },
            });
        }
        changes
    }

    /// Marks every association and every device, for the last records of a process that ends in order: they tell when each
    /// device was heard of.
    pub fn change_all(&mut self) {
        if let Some(server) = self.dtls_server() {
            server.change_all();
        }
        for id in self.registry.ids() {
            if let Some(device) = self.registry.device(id) {
                self.changes.mark(&device.registration.endpoint);
            }
        }
    }

    pub(super) fn changed(&mut self, id: RegistrationId) {
        if let Some(device) = self.registry.device(id) {
            self.changes.mark(&device.registration.endpoint);
        }
    }

    fn record(&mut self, now: Instant, id: RegistrationId) -> Option<DeviceRecord> {
        let commands = self.record_commands(id);
        let device = self.registry.device_mut(id)?;
        device.recorded();
        let device = self.registry.device(id)?;
        let observations = device.observations.iter().filter_map(|(exchange, observation)| {
            let (token, newest) = self.coap.observation(*exchange)?;
            let command = observation.command.echo.clone();
            Some(ObservationRecord {
                token,
                command,
                number: newest.number(),
                at: self.wall_clock.unix_time(newest.at()),
            })
        });
        Some(DeviceRecord {
            password: device.registration.password().cloned(),
            registration: device.registration.clone(),
            location: device.location.as_str().to_owned(),
            peer: device.peer,
            identity: device.identity.as_deref().map(IdentityRecord::from),
            last_heard: self.wall_clock.unix_time(device.last_heard().min(now)),
            observations: observations.collect(),
            commands,
            to_observe: device.to_observe.iter().copied().collect(),
        })
    }

    /// Gives a serial to those that have none.
    fn record_commands(&mut self, id: RegistrationId) -> Vec<CommandRecord> {
        let mut commands = Vec::new();
        let mut last = self.last_record;
        if let Some(device) = self.registry.device_mut(id) {
            let mut add = |serial: &mut Option<u64>, expires, command: &Command, retained| {
                let serial = *serial.get_or_insert_with(|| {
                    last = last.wrapping_add(1);
                    last
                });
                commands.push((serial, expires, command.echo.clone(), command.reply.clone(), retained));
            };
            if let Some(in_flight) = device.in_flight_mut() {
                add(&mut in_flight.serial, in_flight.expires, &in_flight.command, in_flight.retained);
            }
            for waiting in device.waiting.iter_mut() {
                add(&mut waiting.serial, waiting.expires, &waiting.command, waiting.retained);
            }
        }
        self.last_record = last;
        let record = |(serial, expires, command, reply, retained)| {
            let expires = self.wall_clock.unix_time(expires);
            CommandRecord { serial, expires, command, reply, retained }
        };
        commands.into_iter().map(record).collect()
    }

    fn restore_device(&mut self, now: Instant, record: DeviceRecord) -> Result<(), NotRestored> {
        let DeviceRecord { mut registration, password, location, peer, observations, commands, .. } = record;
        registration.set_password(password);
        registration.lifetime = registration.lifetime.min(FURTHEST);
        self.check_bounds(&registration)?;
        // A clock that was set back since must not make the device younger than now.
        let last_heard = self.wall_clock.moment(record.last_heard).min(now);
        let serials = commands.iter().map(|command| command.serial);
        self.last_record = serials.fold(self.last_record, u64::max);
        let identity = record.identity.map(|identity| Arc::new(identity.into_identity()));
        let client = self.client(&registration, peer, identity.as_deref());
        let (client, topics) = client.map_err(|_| NotRestored::NoTopics)?;
        let window = awake_window(&self.settings, &registration);
        let location = Location::from_text(location);
        let mut device = Device::new(registration, location, peer, topics, window, last_heard);
        let ends = device.lifetime_ends(*self.settings.lifetimes.end());
        if ends <= now {
            return Err(NotRestored::LifetimeOver);
        }
        device.identity = identity;
        device.to_observe = record.to_observe.into();
        let id = self.new_registration_id();
        self.set_status(id, &mut device);
        for observation in observations.into_iter().take(self.settings.limits.observations) {
            self.restore_observation(id, &mut device, observation);
        }
        let refused = self.restore_commands(&mut device, commands);
        self.registry.insert(id, device);
        self.watch_silence(id);
        self.deadlines.set(Deadline::Lifetime(id), ends);
        self.set_expiry(id);
        self.push(Output::Broker(BrokerCommand::Resume { registration: id, client }));
        for NotTaken { echo, reply, outcome, reason } in refused {
            self.changed(id);
            self.refuse(id, (&echo, reply.as_deref()), "error", outcome, &reason);
        }
        Ok(())
    }

    fn check_bounds(&self, registration: &Registration) -> Result<(), NotRestored> {
        if self.registry.len() >= self.settings.limits.devices {
            return Err(NotRestored::TooMany);
        }
        if registration.size() > self.settings.limits.registration_size {
            return Err(NotRestored::TooLarge);
        }
        Ok(())
    }

    fn restore_observation(&mut self, id: RegistrationId, device: &mut Device, record: ObservationRecord) {
        // It was an observe command when it was recorded; in whatever else it may have turned, there is nothing to observe.
        let Ok(command) = downlink::interpret(record.command, &device.registration, &self.model) else { return };
        let Operation { path, kind: OperationKind::Observe, .. } = command.operation else { return };
        let request = command.operation.request(&device.registration);
        let freshness = Freshness::of(record.number, self.wall_clock.moment(record.at));
        let exchange = self.coap.restore_observation(device.peer, record.token, request, freshness);
        self.exchanges.insert(exchange, id);
        device.observations.insert(exchange, Observation { path, command });
    }

    /// Returns the commands that the current object model or the current limits reject.
    fn restore_commands(&self, device: &mut Device, records: Vec<CommandRecord>) -> Vec<NotTaken> {
        let mut limits = self.queue_limits();
        // The first one may have been in flight, outside of these bounds.
        limits.commands = limits.commands.saturating_add(1);
        limits.bytes = limits.bytes.saturating_add(self.settings.limits.command_size);
        let mut refused = Vec::new();
        for CommandRecord { serial, expires, command, reply, retained } in records {
            let room = self.command_bytes.take(command.to_json().len());
            let command = match downlink::interpret(command, &device.registration, &self.model) {
                Ok(command) => Command { reply, ..command },
                Err(Refusal { echo, reason }) => {
                    refused.push(NotTaken { echo, reply, outcome: CommandOutcome::Refused, reason });
                    continue;
                }
            };
            let waiting = PendingCommand::new(command, self.wall_clock.moment(expires), room);
            let waiting = PendingCommand { serial: Some(serial), retained, ..waiting };
            if let Err((Command { echo, reply, .. }, full)) = device.waiting.push(waiting, limits) {
                let reason = full.to_string();
                refused.push(NotTaken { echo, reply, outcome: CommandOutcome::QueueFull, reason });
            }
        }
        refused
    }
}

/// A command of before that is refused now.
struct NotTaken {
    echo: Echo,
    reply: Option<Box<Reply>>,
    outcome: CommandOutcome,
    reason: String,
}
