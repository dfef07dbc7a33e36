//! Commands of the console: the same queue as that of applications, within a share of it. [`console_observations`]
//! guards the observations of others.
//!
//! [`console_observations`]: super::console_observations

use crate::command::firmware::FirmwareCommand;
use crate::command::{AskId, Command, Origin, Reply};
use crate::mqtt::downlink::{self, ReadCommand};
use crate::mqtt::uplink;
use crate::registry::{Device, InFlight, PendingCommand};

use super::command_expiry::expiry_of;
use super::console_observations::{check_admission, commands, share};
use super::final_answer::{FinalAnswer, Recipient};
use super::sending::{NOW_OR_NEVER, NotAdmitted, admit};
use super::{CommandScheduler, LEFT, refuse_command, too_long};
use crate::gateway::context::Context;
use crate::gateway::operators::console_commands::{
    AnswerOutcome, CONSOLE_PENDING_COMMANDS, CommandRefusal, CommandState, ConsoleCommand,
};
use crate::gateway::operators::inspection;
use crate::gateway::persistence::record::DeviceRecord;
use crate::gateway::persistence::restart;
use crate::gateway::report::CommandOutcome;

impl CommandScheduler {
    /// Takes a command of the console. A command that is refused has no other answer, and applications do not see the
    /// refusal.
    pub(crate) fn handle_console(
        &mut self,
        context: &mut Context,
        device: &mut Device,
        ask: AskId,
        command: ConsoleCommand,
    ) -> Result<CommandState, CommandRefusal> {
        let ConsoleCommand { payload, origin, .. } = command;
        let limits = &context.config.limits;
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

        let expires = expiry_of(context.now, &command, expiry);
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
    pub(crate) fn withdraw(&mut self, context: &mut Context, device: &mut Device, number: u64) -> bool {
        let Some(waiting) = device.waiting.remove(number) else { return false };
        context.changed(device);
        self.watch_expiry(device);
        let reason = "withdrawn by an operator";
        refuse_command(context, device, &waiting.command, CommandOutcome::Withdrawn, reason);
        true
    }

    /// Tells the console that a device has left whose commands get no answers, because the broker has ended the session
    /// that would publish them.
    pub(crate) fn tell_console_left(&self, context: &mut Context, device: &Device) {
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
    /// Returns the record of a device without the commands whose answer goes to a user of this gateway's console.
    pub(crate) fn record_without_asked(&mut self, context: &Context, device: &mut Device) -> DeviceRecord {
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
pub(crate) fn state(context: &Context, device: &Device, number: u64) -> Option<CommandState> {
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

/// Rejects a command that would have to wait if the console's share of the queue is used up.
fn check_queue(context: &Context, device: &Device) -> Result<(), CommandRefusal> {
    let most = share(CONSOLE_PENDING_COMMANDS, context.config.limits.pending_commands);
    let waiting = device.waiting.iter().filter(|waiting| waiting.command.origin.console().is_some()).count();
    if waiting < most {
        return Ok(());
    }
    Err(CommandRefusal::QueueFull(format!(
        "{waiting} commands of the console wait for this device, which is the maximum"
    )))
}
