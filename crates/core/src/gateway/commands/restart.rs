//! The commands and observations of a device over a restart: makes their records, and restores them.

use std::time::Duration;

use crate::coap::{Freshness, Parameters};
use crate::command::{Command, Echo, Origin, Reply};
use crate::lwm2m::format_choice::Attempts;
use crate::lwm2m::operation::OperationKind;
use crate::mqtt::downlink::{self, Refusal};
use crate::registry::{Device, InFlight, Observation, PendingCommand};

use super::final_answer::Recipient;
use super::{CommandScheduler, queue_limits, refuse};
use crate::gateway::context::Context;
use crate::gateway::persistence::record::{CommandRecord, ObservationRecord, SentRequestRecord};
use crate::gateway::report::CommandOutcome;

/// A command of an earlier process that is refused now.
pub(crate) struct NotTaken {
    echo: Echo,
    reply: Option<Reply>,
    origin: Origin,
    pub(super) outcome: CommandOutcome,
    reason: String,
}

impl CommandScheduler {
    /// Returns the records of a device's commands: the one in flight, then those that wait. Each gets a serial if it
    /// has none.
    pub(crate) fn records(&mut self, context: &Context, device: &mut Device) -> Vec<CommandRecord> {
        let last = &mut self.last_serial;
        let mut record = |serial: &mut Option<u64>, expires, command: &Command, retained, sent_as| {
            let serial = *serial.get_or_insert_with(|| {
                *last = last.wrapping_add(1);
                *last
            });
            let expires = context.wall_clock.unix_time(expires);
            let reply = command.reply.as_deref().and_then(Reply::topic).cloned().map(Box::new);
            let origin = command.origin.clone();
            CommandRecord { serial, expires, command: command.echo.clone(), reply, retained, origin, sent_as }
        };
        let mut records = Vec::new();
        // A job goes on by itself, from its own record.
        let is_of_job = Self::is_of_job(device);
        if let Some(in_flight) = device.in_flight_mut().filter(|_| !is_of_job) {
            let InFlight { serial, expires, command, retained, exchange, .. } = in_flight;
            let sent_as = context.coap.request_ids(*exchange).map(SentRequestRecord::from);
            records.push(record(serial, *expires, command, *retained, sent_as));
        }
        for waiting in device.waiting.iter_mut() {
            let PendingCommand { serial, expires, command, retained, sent_as, .. } = waiting;
            let sent_as = sent_as.as_deref().copied().map(SentRequestRecord::from);
            records.push(record(serial, *expires, command, *retained, sent_as));
        }
        records
    }

    /// Gives the serials of these records to no other command.
    pub(crate) fn reserve_serials(&mut self, records: &[CommandRecord]) {
        self.last_serial = records.iter().map(|record| record.serial).fold(self.last_serial, u64::max);
    }

    /// Restores an observation of an earlier process.
    pub(crate) fn restore_observation(
        &mut self,
        context: &mut Context,
        device: &mut Device,
        record: ObservationRecord,
    ) {
        // The record is that of an observe command. If it can no longer be read as one, there is nothing to observe.
        let interpreted = downlink::interpret(record.command, context.command_context(&device.registration));
        let Ok(command) = interpreted else { return };
        let mut command = Command { origin: record.origin, ..command };
        self.auto_observe.share(&mut command);
        let (OperationKind::Observe | OperationKind::ObserveComposite { .. }) = command.operation.kind else { return };
        let chosen = || Attempts::first(&command.operation, &device.registration).formats();
        let formats = record.formats.unwrap_or_else(chosen);
        let request = command.operation.request_in(formats, &device.registration);
        let freshness = Freshness::of(record.number, context.wall_clock.moment(record.at));
        let exchange = context.coap.restore_observation(device.peer, record.token, request, freshness);
        self.registrations.insert(exchange, device.id);
        self.streams.observed(context.now, &device.registration.endpoint, exchange, &command.origin);
        if let Some(former) = device.observations.begin(exchange, Observation::of(command, formats)) {
            self.forget_exchange(former);
            context.coap.forget(former);
        }
    }

    /// Restores the commands of an earlier process. Returns those that the current object model or the current limits
    /// reject.
    pub(crate) fn restore_commands(
        &mut self,
        context: &mut Context,
        device: &mut Device,
        records: Vec<CommandRecord>,
    ) -> Vec<NotTaken> {
        let mut limits = queue_limits(&context.config.limits);
        // The first command may have been in flight, where these limits do not apply.
        limits.commands = limits.commands.saturating_add(1);
        limits.bytes = limits.bytes.saturating_add(context.config.limits.command_size);
        let mut not_taken = Vec::new();
        for CommandRecord { serial, expires, command, reply, retained, origin, sent_as } in records {
            let room = self.bytes.take(command.to_json().len());
            let reply = reply.map(|topic| Reply::Topic(*topic));
            let command = match downlink::interpret(command, context.command_context(&device.registration)) {
                Ok(command) => Command { reply: reply.map(Box::new), origin, ..command },
                Err(Refusal { echo, reason }) => {
                    not_taken.push(NotTaken { echo, reply, origin, outcome: CommandOutcome::Refused, reason });
                    continue;
                }
            };
            self.restored.restored(device.id, &command.echo, &command.origin);
            let mut expires = context.wall_clock.moment(expires);
            // The device executes a repeated message once only as long as it remembers the message. The command may
            // have to wait until a sleeping device wakes, or until the address of the device is known.
            let forgotten = context.now + remembered_after_restart(&context.config.coap);
            if sent_as.is_some() && forgotten < expires {
                expires = forgotten;
                // Without this mark a further restart would begin this time again.
                context.changed(device);
            }
            let waiting = PendingCommand::new(self.next_number(), command, expires, room);
            let waiting = PendingCommand {
                serial: Some(serial),
                retained,
                sent_as: sent_as.map(|sent_as| Box::new(sent_as.into())),
                ..waiting
            };
            if let Err((command, full)) = device.waiting.push(waiting, limits) {
                let Command { echo, reply, origin, .. } = *command;
                let (reply, reason) = (reply.map(|reply| *reply), full.to_string());
                not_taken.push(NotTaken { echo, reply, origin, outcome: CommandOutcome::QueueFull, reason });
            }
        }
        not_taken
    }
}

/// Returns how long after a restart a device remembers a message that was in flight: EXCHANGE_LIFETIME from its first
/// transmission (RFC 7252, section 4.8.2), which was up to MAX_TRANSMIT_WAIT ago.
fn remembered_after_restart(parameters: &Parameters) -> Duration {
    parameters.exchange_lifetime().saturating_sub(parameters.max_transmit_wait())
}

/// Refuses a restored command, with its final answer.
pub(crate) fn refuse_restored(context: &mut Context, device: &Device, refused: NotTaken) {
    let NotTaken { echo, reply, origin, outcome, reason } = refused;
    let recipient = Recipient { reply: reply.as_ref(), origin: &origin };
    context.changed(device);
    refuse(context, device, (&echo, recipient), "error", outcome, &reason);
}
