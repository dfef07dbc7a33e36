//! Commands of the console: the same queue as that of applications, within a share of it, and guarded so that they
//! touch no observation of others unless they are forced to.

use crate::command::firmware::FirmwareCommand;
use crate::command::{AskId, Command, Origin, Reply};
use crate::lwm2m::operation::OperationKind;
use crate::mqtt::downlink::{self, ReadCommand};
use crate::mqtt::uplink;
use crate::registry::{Device, InFlight, ObservedPaths, PendingCommand};

use super::super::console_commands::{
    AnswerOutcome, CONSOLE_OBSERVATIONS, CONSOLE_PENDING_COMMANDS, CommandRefusal, CommandState, ConsoleCommand,
};
use super::super::context::Context;
use super::super::final_answer::{FinalAnswer, Recipient};
use super::super::inspection;
use super::super::record::DeviceRecord;
use super::super::report::CommandOutcome;
use super::super::restart;
use super::sending::{NOW_OR_NEVER, NotAdmitted, admit};
use super::{CommandScheduler, LEFT, refuse_command, too_long};

const OBSERVED_ALREADY: &str = "an application or auto_observe observes these paths; force replaces or ends that";

impl CommandScheduler {
    /// Takes a command of the console. A command that is refused has no other answer, and nobody else is told.
    pub fn handle_console(
        &mut self,
        context: &mut Context,
        device: &mut Device,
        ask: AskId,
        command: ConsoleCommand,
    ) -> Result<CommandState, CommandRefusal> {
        let ConsoleCommand { payload, origin, .. } = command;
        let limits = &context.settings.limits;
        if context.draining {
            return Err(CommandRefusal::Ending);
        }
        if payload.len() > limits.command_size {
            return Err(CommandRefusal::TooLarge(too_long(limits)));
        }
        let expiry = limits.command_expiry;
        let parsed = downlink::read_of_console(&payload, context.command_context(&device.registration));
        let (reply, origin) = (Some(Box::new(Reply::Asker(ask))), Origin::Console(Box::new(origin)));
        let command = match parsed.map_err(|refusal| CommandRefusal::Invalid(refusal.reason))? {
            ReadCommand::Operation(command) => Command { reply, origin, ..command },
            ReadCommand::Firmware(command) => {
                let number = self.next_number();
                self.handle_firmware(context, device, FirmwareCommand { reply, origin, ..command }, None);
                return Ok(CommandState { number, place: 0, ..CommandState::of_device(context, device) });
            }
        };
        check_admission(context, device, &command)?;

        let expires = PendingCommand::expiry_of(context.now, &command, expiry);
        if !takes_now(context, device) && expires > context.now {
            check_queue(context, device)?;
        }
        let number = self.next_number();
        let waiting = PendingCommand::new(number, command, expires, self.bytes.take(payload.len()));
        let admission = admit(context, device, waiting);
        self.admitted(context, device, admission).map_err(|refused| match refused {
            NotAdmitted::QueueFull(_, full) => CommandRefusal::QueueFull(full.to_string()),
            NotAdmitted::NowOrNever(_) => CommandRefusal::DeviceAsleep(NOW_OR_NEVER.to_owned()),
        })?;
        // It may be answered already: its request could not be sent.
        let answered = CommandState { number, place: 0, ..CommandState::of_device(context, device) };
        Ok(state(context, device, number).unwrap_or(answered))
    }

    /// Takes a command out of the queue and gives it its final answer. Returns whether it waited.
    pub fn withdraw(&mut self, context: &mut Context, device: &mut Device, number: u64) -> bool {
        let Some(waiting) = device.waiting.remove(number) else { return false };
        context.changed(device);
        self.watch_expiry(device);
        let reason = "withdrawn by an operator";
        refuse_command(context, device, &waiting.command, CommandOutcome::Withdrawn, reason);
        true
    }

    /// Tells the console that a device has left whose commands get no answers, because the broker has ended the session
    /// that would publish them.
    pub fn tell_console_left(&self, context: &mut Context, device: &Device) {
        let unanswered: Vec<&Command> = commands(device).collect();
        for command in unanswered {
            if let Some(Reply::Asker(ask)) = Recipient::of(command).reply {
                let answer = FinalAnswer::of(AnswerOutcome::Left, uplink::refused(&command.echo, LEFT));
                context.answer_console(*ask, answer);
            }
        }
    }
}

/// Moves of devices to other gateways.
impl CommandScheduler {
    /// Returns the record of a device without the commands whose answer somebody of this gateway waits for.
    pub fn record_without_asked(&mut self, context: &Context, device: &mut Device) -> DeviceRecord {
        let mut record = restart::record(context, self, device);
        let is_asked = |serial: Option<u64>, command: &Command| {
            serial.filter(|_| matches!(Recipient::of(command).reply, Some(Reply::Asker(_))))
        };
        let in_flight = device.in_flight().and_then(|in_flight| is_asked(in_flight.serial, &in_flight.command));
        let waiting = device.waiting.iter().filter_map(|waiting| is_asked(waiting.serial, &waiting.command));
        let asked: Vec<u64> = in_flight.into_iter().chain(waiting).collect();
        record.commands.retain(|command| !asked.contains(&command.serial));
        record
    }
}

/// Returns the state of a command that is in flight or waits.
pub fn state(context: &Context, device: &Device, number: u64) -> Option<CommandState> {
    let (place, expires) = match device.in_flight().filter(|in_flight| in_flight.command.number == number) {
        Some(InFlight { expires, .. }) => (0, *expires),
        None => {
            let mut waiting = device.waiting.iter().zip(1..);
            let (waiting, place) = waiting.find(|(waiting, _)| waiting.command.number == number)?;
            (place, waiting.expires)
        }
    };
    let expires = context.wall_clock.unix_time(expires);
    Some(CommandState { number, place, expires, ..CommandState::of_device(context, device) })
}

/// Checks a command that is about to be sent: since it was admitted, others may have begun an observation.
pub fn check_sending(
    context: &Context,
    device: &Device,
    command: &Command,
    paths: &ObservedPaths,
) -> Result<(), String> {
    let Some(console) = command.origin.console() else { return Ok(()) };
    if is_about_observation(command) && !console.force && is_observed_by_others(device, paths) {
        return Err(OBSERVED_ALREADY.to_owned());
    }
    check_observations(context, device, command, paths)
}

impl CommandState {
    fn of_device(context: &Context, device: &Device) -> Self {
        let expires = context.wall_clock.unix_time(context.now);
        Self { number: 0, place: 0, device: inspection::state(context.now, device), expires }
    }
}

/// Returns whether a command is sent without waiting.
fn takes_now(context: &Context, device: &Device) -> bool {
    device.is_ready(context.now) && device.waiting.is_empty()
}

fn check_admission(context: &Context, device: &Device, command: &Command) -> Result<(), CommandRefusal> {
    if !is_about_observation(command) {
        return Ok(());
    }
    let paths = ObservedPaths::of(&command.operation);
    let is_forced = command.origin.console().is_some_and(|console| console.force);
    if !is_forced && will_be_observed_by_others(device, &paths) {
        return Err(CommandRefusal::ObservedAlready(OBSERVED_ALREADY.to_owned()));
    }
    check_observations(context, device, command, &paths).map_err(CommandRefusal::QueueFull)
}

/// Rejects a command that would have to wait if the console's share of the queue is used up.
fn check_queue(context: &Context, device: &Device) -> Result<(), CommandRefusal> {
    let most = share(CONSOLE_PENDING_COMMANDS, context.settings.limits.pending_commands);
    let waiting = device.waiting.iter().filter(|waiting| waiting.command.origin.console().is_some()).count();
    if waiting < most {
        return Ok(());
    }
    Err(CommandRefusal::QueueFull(format!(
        "{waiting} commands of the console wait for this device, which is the maximum"
    )))
}

/// Rejects an observation beyond the console's share.
fn check_observations(
    context: &Context,
    device: &Device,
    command: &Command,
    paths: &ObservedPaths,
) -> Result<(), String> {
    if !begins_observation(command) {
        return Ok(());
    }
    let most = share(CONSOLE_OBSERVATIONS, context.settings.limits.observations);
    let others = device.observations.iter().filter(|(_, observation)| observation.paths != *paths);
    let observed = others.filter(|(_, observation)| observation.command.origin.console().is_some()).count();
    if observed < most {
        return Ok(());
    }
    Err(format!("the console has {observed} observations of this device, which is the maximum"))
}

/// Returns the part of a limit that the console may use. At least half is left to applications.
fn share(most: usize, limit: usize) -> usize {
    most.min(limit.div_ceil(2))
}

/// Returns whether an application or `auto_observe` observes these paths, or `auto_observe` will.
fn is_observed_by_others(device: &Device, paths: &ObservedPaths) -> bool {
    let observation = device.observations.exchange_of(paths).and_then(|exchange| device.observations.get(exchange));
    let is_scheduled = |path| device.observations.scheduled().any(|scheduled| scheduled == path);
    observation.is_some_and(|observation| observation.command.origin.console().is_none())
        || matches!(paths, ObservedPaths::Single(path) if is_scheduled(*path))
}

/// Returns whether others will observe these paths once all earlier commands are answered.
fn will_be_observed_by_others(device: &Device, paths: &ObservedPaths) -> bool {
    let earlier = commands(device)
        .filter(|command| is_about_observation(command) && ObservedPaths::of(&command.operation) == *paths);
    earlier.fold(is_observed_by_others(device, paths), |observed, command| match command.origin.console() {
        Some(console) => observed && !console.force,
        None => begins_observation(command),
    })
}

/// Returns the command in flight and the pending ones.
fn commands(device: &Device) -> impl Iterator<Item = &Command> {
    let in_flight = device.in_flight().map(|in_flight| &in_flight.command);
    in_flight.into_iter().chain(device.waiting.iter().map(|waiting| &waiting.command))
}

fn is_about_observation(command: &Command) -> bool {
    let is_cancellation =
        matches!(command.operation.kind, OperationKind::CancelObserve | OperationKind::CancelObserveComposite { .. });
    is_cancellation || begins_observation(command)
}

fn begins_observation(command: &Command) -> bool {
    matches!(command.operation.kind, OperationKind::Observe | OperationKind::ObserveComposite { .. })
}
