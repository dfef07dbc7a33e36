//! Sends commands to devices, or lets them wait.
//!
//! 1. A command is sent at once, waits in the queue of its device, or is refused (`admit`).
//! 2. Its request is sent in the format that suits the device best (`send`).
//! 3. If the device rejects the format, the request is sent in the next one (`retry_in_other_format`).

use crate::coap::{Endpoint, ExchangeId, Request, RequestIds, Response};
use crate::command::{Command, Origin};
use crate::lwm2m::format_choice::Attempts;
use crate::lwm2m::operation::OperationKind;
use crate::registry::{AdmitOutcome, Device, InFlight, ObservedPaths, PendingCommand, QueueFull};

use super::answering::{refuse_command, tell_onlookers};
use super::auto_observe;
use super::{CommandScheduler, console_observations, queue_limits};
use crate::gateway::context::Context;
use crate::gateway::operators::view::CommandStage;
use crate::gateway::persistence::held_outputs::Awaited;
use crate::gateway::report::{CommandOutcome, Report};

/// The reason of a refusal of a command that may not wait.
pub(super) const NOW_OR_NEVER: &str = "the device is asleep or busy, and the command may not wait";

/// A command that can neither be sent nor wait.
pub(super) enum NotAdmitted {
    QueueFull(Box<Command>, QueueFull),
    /// The command may not wait (`ttl` 0), and cannot be sent now.
    NowOrNever(Box<Command>),
}

impl CommandScheduler {
    pub(super) fn admit(&mut self, context: &mut Context, device: &mut Device, waiting: PendingCommand) {
        let admission = admit(context, device, waiting);
        let (command, outcome, reason) = match self.admitted(context, device, admission) {
            Ok(()) => return,
            Err(NotAdmitted::QueueFull(command, full)) => (command, CommandOutcome::QueueFull, full.to_string()),
            Err(NotAdmitted::NowOrNever(command)) => (command, CommandOutcome::Expired, NOW_OR_NEVER.to_owned()),
        };
        refuse_command(context, device, &command, outcome, &reason);
    }

    /// Sends a command that is admitted, or lets it wait.
    pub(super) fn admitted(
        &mut self,
        context: &mut Context,
        device: &mut Device,
        admission: AdmitOutcome,
    ) -> Result<(), NotAdmitted> {
        match admission {
            AdmitOutcome::SendNow(waiting) => {
                self.send(context, device, *waiting);
                self.send_next(context, device);
            }
            AdmitOutcome::Waits => {
                context.changed(device);
                self.watch_expiry(device);
                if let Some(newest) = device.waiting.iter().last() {
                    tell_onlookers(context, device, &newest.command, CommandStage::Pending);
                }
            }
            AdmitOutcome::QueueFull(command, full) => return Err(NotAdmitted::QueueFull(command, full)),
            AdmitOutcome::NowOrNever(command) => return Err(NotAdmitted::NowOrNever(command)),
        }
        Ok(())
    }

    pub(super) fn send(&mut self, context: &mut Context, device: &mut Device, mut waiting: PendingCommand) {
        context.changed(device);
        let command = &waiting.command;
        let attempts = Attempts::first(&command.operation, &device.registration);
        let request = command.operation.request_in(attempts.formats(), &device.registration);
        let limits = &context.config.limits;
        if request.payload.len() > limits.sent_body_size {
            let reason = format!("the body is longer than {} bytes", limits.sent_body_size);
            refuse_command(context, device, command, CommandOutcome::Refused, &reason);
            return auto_observe::split(context, device, command, None);
        }
        let paths = ObservedPaths::of(&command.operation);
        if let Err(reason) = console_observations::check_sending(context, device, command, &paths) {
            return refuse_command(context, device, command, CommandOutcome::Refused, &reason);
        }
        let begins_observation =
            matches!(command.operation.kind, OperationKind::Observe | OperationKind::ObserveComposite { .. });
        if begins_observation && !device.observations.has_room_for(&paths, limits.observations) {
            let reason = "too many observations of this device";
            return refuse_command(context, device, command, CommandOutcome::Refused, reason);
        }
        let exchange = send_first(context, device, command, &paths, request, waiting.sent_as.take());
        self.registrations.insert(exchange, device.id);
        if let Some(digest) = waiting.retained {
            self.retained.remember(&device.registration.endpoint, digest);
        }
        // While the gateway waits for the answer, the request may be sent in another format, whatever the `ttl` of the
        // command.
        waiting.expires = waiting.expires.max(context.now + context.config.coap.max_transmit_wait());
        device.sent(context.now, exchange, waiting, attempts);
        if let Some(in_flight) = device.in_flight() {
            tell_onlookers(context, device, &in_flight.command, CommandStage::Sent);
        }
    }

    /// Sends the command in flight once more if the device rejected a format and there is another one. It stays the
    /// same command: nothing else is sent to the device meanwhile, and the application gets the last answer. Returns
    /// the command if the response is its answer.
    pub(super) fn retry_in_other_format(
        &mut self,
        context: &mut Context,
        device: &mut Device,
        mut in_flight: InFlight,
        response: &Response,
    ) -> Option<InFlight> {
        let operation = &in_flight.command.operation;
        let Some(format) = in_flight.attempts.next(operation, response.code, &mut device.registration) else {
            return Some(in_flight);
        };
        let request = operation.request_in(in_flight.attempts.formats(), &device.registration);
        if request.payload.len() > context.config.limits.sent_body_size {
            return Some(in_flight);
        }
        context.report(Report::FormatRejected { endpoint: device.registration.endpoint.clone(), format });
        let (now, to) = (context.now, (device.peer, device.shard()));
        let send = |coap: &mut Endpoint| coap.send_request_to_device(now, to, request);
        let exchange = send_marked(context, device, &in_flight.command, send);
        device.sent_again(exchange, in_flight);
        self.registrations.insert(exchange, device.id);
        None
    }

    pub(super) fn next_auto_observation(&mut self, context: &Context, device: &mut Device) -> Option<PendingCommand> {
        let asked = device.observations.next_scheduled(context.config.limits.composite_paths)?;
        let command = self.auto_observe.command(asked);
        Some(PendingCommand::new(self.next_number(), command, context.now, self.bytes.take(0)))
    }
}

/// Sends the request of a command: of the observation that it cancels, as the message that an earlier process sent, or
/// as a new one.
fn send_first(
    context: &mut Context,
    device: &Device,
    command: &Command,
    paths: &ObservedPaths,
    request: Request,
    sent_as: Option<Box<RequestIds>>,
) -> ExchangeId {
    let (now, to) = (context.now, (device.peer, device.shard()));
    match &command.operation.kind {
        OperationKind::CancelObserve | OperationKind::CancelObserveComposite { .. } => {
            let cancelled = device.observations.cancellation(paths, &device.registration);
            send_marked(context, device, command, |coap| {
                cancelled
                    .and_then(|(observation, body)| coap.send_cancellation(now, observation, body))
                    .unwrap_or_else(|| coap.send_request_to_device(now, to, request))
            })
        }
        OperationKind::Read
        | OperationKind::Discover
        | OperationKind::Write { .. }
        | OperationKind::WriteAttributes
        | OperationKind::Execute { .. }
        | OperationKind::TriggerBootstrap
        | OperationKind::Create { .. }
        | OperationKind::Delete
        | OperationKind::Observe
        | OperationKind::ReadComposite { .. }
        | OperationKind::WriteComposite { .. }
        | OperationKind::ObserveComposite { .. } => send_marked(context, device, command, |coap| match sent_as {
            Some(sent_as) => coap.send_request_again(now, to, request, *sent_as),
            None => coap.send_request_to_device(now, to, request),
        }),
    }
}

/// Sends the request of a command. Its first datagram leaves when the store has the command as one in flight, with the
/// message ID and token of the request. After a crash the next process sends the same message, so that a device that
/// has received it does not execute it twice. A request of `auto_observe` may be sent twice.
fn send_marked(
    context: &mut Context,
    device: &Device,
    command: &Command,
    send: impl FnOnce(&mut Endpoint) -> ExchangeId,
) -> ExchangeId {
    if command.origin == Origin::AutoObserve {
        return send(&mut context.coap);
    }
    context.tell_when_stored(Awaited::Device(&device.registration.endpoint), |context| send(&mut context.coap))
}

/// Admits a command. While the program shuts down, or while the shard is about to be handed over, the command waits in
/// any case.
pub(super) fn admit(context: &Context, device: &mut Device, waiting: PendingCommand) -> AdmitOutcome {
    let limits = queue_limits(&context.config.limits);
    if context.keeps_commands_of(device) {
        device.keep(context.now, waiting, limits)
    } else {
        device.admit(context.now, waiting, limits)
    }
}
