//! Commands of applications: one at a time is in flight for each device (NSTART 1, RFC 7252 section 4.7), the others
//! wait.
//!
//! 1. A command that has come is sent at once, waits in its device's queue, or is refused.
//! 2. The command in flight ends by an answer, a reset, a time-out or a failure. Each of them is published, and the
//!    next command is sent.
//! 3. A pending command that has expired is refused.
//!
//! Every command has exactly one final answer, as long as there is a session to publish it by.

mod answering;
pub(super) mod auto_observe;
mod campaign;
mod command_expiry;
mod console;
mod console_observations;
mod early;
pub(super) mod final_answer;
mod firmware;
mod restart;
mod restored;
mod retained_command_dedup;
mod sending;
mod stream_observations;

use std::time::Instant;

use crate::coap::{BlockError, ExchangeError, ExchangeId, Response};
use crate::command::firmware::FirmwareCommand;
use crate::command::{Command, Echo, Origin, Reply};
use crate::lwm2m::operation::{OperationKind, Outcome};
use crate::mqtt::downlink::{self, ReadCommand, Refusal};
use crate::mqtt::uplink;
use crate::registry::{
    CommandBytes, CommandDigest, Device, InFlight, Observation, PendingCommand, QueueLimits, RegistrationId,
};
use lwm2m_base::deadlines::IdDeadlines;
use lwm2m_base::id_map::IdMap;
use lwm2m_base::total::Total;

use super::bootstrap::AwaitedBootstrap;
use super::broker::MessageProperties;
use super::config::Limits;
use super::context::Context;
use super::firmware::jobs::FirmwareJobs;
use super::operators::console_commands::AnswerOutcome;
use super::report::{CommandOutcome, Report};

use answering::{give_up, refuse, refuse_command, report, report_undecodable};
use auto_observe::AutoObserveCommands;
use command_expiry::expiry_of;
use final_answer::{FinalAnswer, Recipient};
use restored::RestoredCommands;
use retained_command_dedup::RetainedCommandDedup;
use stream_observations::StreamObservations;

pub(super) use console::state;
pub(super) use early::refuse_early;
pub(super) use firmware::answer_left;
pub(super) use restart::{NotTaken, refuse_restored};

/// The reason of a refusal if the device has left.
const LEFT: &str = "the device is not registered any more";

/// Owns what concerns the commands of all devices; the queue of a device and its command in flight are in [`Device`].
/// It knows neither how a device registers nor when it leaves: its owner calls it then.
#[derive(Debug, Default)]
pub(super) struct CommandScheduler {
    /// The registration that each exchange and observation belongs to.
    registrations: IdMap<ExchangeId, RegistrationId>,
    /// The time at which the first pending command of each device expires.
    expiries: IdDeadlines<RegistrationId>,
    /// Counts the bytes of the commands that are kept for devices.
    bytes: CommandBytes,
    /// Counts the commands of devices whose Register is not answered yet.
    early: Total,
    auto_observe: AutoObserveCommands,
    pub retained: RetainedCommandDedup,
    restored: RestoredCommands,
    pub streams: StreamObservations,
    pub jobs: FirmwareJobs,
    /// The serial of the newest record of a command.
    last_serial: u64,
    /// The number of the newest command.
    last_number: u64,
}

impl CommandScheduler {
    /// Takes a command for a registered device. The broker keeps the command until the store has it or its final
    /// answer.
    pub(super) fn handle(
        &mut self,
        context: &mut Context,
        device: &mut Device,
        payload: Vec<u8>,
        properties: MessageProperties,
    ) {
        let receipt = properties.receipt;
        self.take(context, device, payload, properties);
        if let Some(receipt) = receipt {
            context.confirm(device, receipt);
        }
    }

    fn take(&mut self, context: &mut Context, device: &mut Device, payload: Vec<u8>, properties: MessageProperties) {
        let MessageProperties { expiry, reply, retained, receipt } = properties;
        let is_repeated = receipt.is_some_and(|receipt| receipt.is_repeated);
        let reply = downlink::usable_reply(reply);
        let limits = &context.config.limits;
        let default_expiry = limits.command_expiry;
        let parsed = if payload.len() > limits.command_size {
            Err(Refusal { echo: Echo::default(), reason: too_long(limits) })
        } else {
            downlink::read(&payload, context.command_context(&device.registration))
        };
        let retained = retained.then(|| CommandDigest::of(&payload));
        let is_known = retained.is_some_and(|digest| self.knows(device, digest));
        let command = match parsed {
            Ok(ReadCommand::Operation(command)) => downlink::with_properties(command, expiry, reply),
            Ok(ReadCommand::Firmware(command)) if is_known => {
                let (endpoint, msg_type) = (device.registration.endpoint.clone(), command.msg_type());
                let outcome = CommandOutcome::DuplicateRetained;
                return context.report(Report::Command { endpoint, msg_type, outcome, took: None, unanswered: None });
            }
            Ok(ReadCommand::Firmware(command)) => {
                let reply = reply.map(|reply| Box::new(Reply::Topic(reply)));
                let command = FirmwareCommand { reply, ..command };
                return self.handle_firmware(context, device, command, retained);
            }
            Err(Refusal { echo, reason }) => {
                let (reply, origin) = (reply.map(Reply::Topic), Origin::Application);
                let recipient = Recipient { reply: reply.as_ref(), origin: &origin };
                return refuse(context, device, (&echo, recipient), "error", CommandOutcome::Refused, &reason);
            }
        };
        if is_known {
            return report(context, device, &command, CommandOutcome::DuplicateRetained, None);
        }
        if is_repeated && self.restored.recognizes(device.id, &command.echo) {
            return report(context, device, &command, CommandOutcome::Redelivered, None);
        }
        let room = self.bytes.take(payload.len());
        let expires = expiry_of(context.now, &command, default_expiry);
        let waiting = PendingCommand::new(self.next_number(), command, expires, room);
        self.admit(context, device, PendingCommand { retained, ..waiting });
    }

    /// Sends pending commands while the device can take one: those of applications, then the request of a firmware
    /// update, then those of `auto_observe`. After several commands of applications a firmware update has a turn.
    pub(crate) fn send_next(&mut self, context: &mut Context, device: &mut Device) {
        if device.waiting.next_expiry().is_some_and(|at| at <= context.now) {
            self.expire(context, device);
        }
        while !context.keeps_commands_of(device) && device.is_ready(context.now) {
            if !self.jobs.is_due(device.id)
                && let Some(waiting) = device.waiting.pop()
            {
                self.jobs.passed_over(device.id);
                self.send(context, device, waiting);
            } else if self.send_for_job(context, device) {
                // The command is in flight, or answered already.
            } else if let Some(waiting) = self.next_auto_observation(context, device) {
                self.send(context, device, waiting);
            } else {
                return;
            }
        }
    }

    pub(super) fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// Takes the acknowledgement of a request: the device will answer later.
    pub(super) fn acknowledged(&mut self, context: &mut Context, device: &mut Device, exchange: ExchangeId) {
        if Self::is_of_job(device) {
            return;
        }
        if let Some(command) = device.acknowledged(exchange) {
            let (payload, origin) = (uplink::acknowledged(&command.echo), command.origin.clone());
            context.publish_answer(device, &origin, payload);
        }
    }

    /// Takes the answer of the device; `observing` has the Observe number if the exchange continues as an observation.
    pub(super) fn answered(
        &mut self,
        context: &mut Context,
        device: &mut Device,
        exchange: ExchangeId,
        response: &Response,
        observing: Option<u32>,
    ) {
        let Some(in_flight) = self.take_in_flight(context, device, exchange) else { return };
        if in_flight.command.origin == Origin::Firmware {
            return self.job_answered(context, device, in_flight, (exchange, response, observing));
        }
        let Some(in_flight) = self.retry_in_other_format(context, device, in_flight, response) else { return };
        let InFlight { command, sent, attempts, .. } = in_flight;
        if command.awaits_bootstrap() && response.code.is_success() {
            return self.await_bootstrap(context, device, command, sent);
        }
        let outcome = context.outcome(device, &command.operation, response);
        // The number 0 is not published: every first answer has it.
        let payload = uplink::answer(&command.echo, &outcome, observing.filter(|number| *number != 0));
        let took = context.now.saturating_duration_since(sent);
        let answer = FinalAnswer { outcome: AnswerOutcome::Answered, took: Some(took), payload };
        context.publish_final_answer(device, Recipient::of(&command), answer);
        report(context, device, &command, CommandOutcome::Answered, Some(took));
        if let Some(reason) = outcome.reason {
            match outcome.content {
                Some(_) => report_links_left_out(context, device, reason),
                None => report_undecodable(context, device, &command, reason),
            }
        }
        auto_observe::split(context, device, &command, Some(response.code));
        let observation = Observation::of(command, attempts.formats()).accepted(context.now);
        self.follow_observation(context, device, exchange, observation, observing.is_some());
        self.send_next(context, device);
    }

    /// Publishes the final answer to a `bootstrap` command: how the session of the device has ended.
    pub(super) fn bootstrapped(context: &mut Context, device: &Device, awaited: AwaitedBootstrap, outcome: &Outcome) {
        let AwaitedBootstrap { command, sent, .. } = awaited;
        let took = Some(context.now.saturating_duration_since(sent));
        let payload = uplink::answer(&command.echo, outcome, None);
        let answer = FinalAnswer { outcome: AnswerOutcome::Answered, took, payload };
        context.publish_final_answer(device, Recipient::of(&command), answer);
        // The time of a session is not the time in which a device answers.
        report(context, device, &command, CommandOutcome::Answered, None);
    }

    /// Tells the application that the device will ask for bootstrap, and waits for the session.
    fn await_bootstrap(&mut self, context: &mut Context, device: &mut Device, command: Command, sent: Instant) {
        let (payload, origin) = (uplink::acknowledged(&command.echo), command.origin.clone());
        context.publish_answer(device, &origin, payload);
        let sent_to = (device.registration.endpoint.as_str(), device.peer);
        let former = context.awaited_bootstraps.expect(context.now, sent_to, command, sent);
        if let Some((former, outcome)) = former {
            Self::bootstrapped(context, device, former, &outcome);
        }
        self.send_next(context, device);
    }

    pub(super) fn reset(&mut self, context: &mut Context, device: &mut Device, exchange: ExchangeId) {
        let Some(InFlight { command, .. }) = self.take_in_flight(context, device, exchange) else { return };
        if command.origin == Origin::Firmware {
            return self.job_unanswered(context, device, (&command, CommandOutcome::Reset), None);
        }
        let answer = FinalAnswer::of(AnswerOutcome::Reset, uplink::reset(&command));
        context.publish_final_answer(device, Recipient::of(&command), answer);
        report(context, device, &command, CommandOutcome::Reset, None);
        auto_observe::split(context, device, &command, None);
        self.send_next(context, device);
    }

    pub(super) fn timed_out(&mut self, context: &mut Context, device: &mut Device, exchange: ExchangeId) {
        let Some(InFlight { command, .. }) = self.take_in_flight(context, device, exchange) else { return };
        if command.origin == Origin::Firmware {
            return self.job_unanswered(context, device, (&command, CommandOutcome::TimedOut), None);
        }
        give_up(context, device, &command, AnswerOutcome::TimedOut);
        auto_observe::split(context, device, &command, None);
        self.send_next(context, device);
    }

    /// Takes the failure of an exchange: the response cannot be read, or the body of the request or of the response
    /// could not be transferred.
    pub(super) fn failed(
        &mut self,
        context: &mut Context,
        device: &mut Device,
        exchange: ExchangeId,
        error: ExchangeError,
    ) {
        let Some(InFlight { command, .. }) = self.take_in_flight(context, device, exchange) else { return };
        let (reason, transfer) = (error.to_string(), error.transfer());
        let outcome = match transfer {
            Some(_) => CommandOutcome::TransferFailed,
            None => CommandOutcome::MalformedAnswer,
        };
        if command.origin == Origin::Firmware {
            return self.job_unanswered(context, device, (&command, outcome), Some(error));
        }
        refuse_command(context, device, &command, outcome, &reason);
        match transfer {
            Some(error) => report_transfer(context, device, error),
            None => report_undecodable(context, device, &command, reason),
        }
        auto_observe::split(context, device, &command, None);
        self.send_next(context, device);
    }

    /// Gives up the command in flight with a last answer.
    pub(crate) fn give_up_in_flight(&mut self, context: &mut Context, device: &mut Device) {
        self.give_up_in_flight_as(context, device, AnswerOutcome::TimedOut);
    }

    fn give_up_in_flight_as(&mut self, context: &mut Context, device: &mut Device, outcome: AnswerOutcome) {
        if Self::is_of_job(device) {
            return self.give_up_job_request(context, device);
        }
        if let Some(in_flight) = device.take_in_flight() {
            auto_observe::ask_again(device, &in_flight.command);
            context.coap.forget(in_flight.exchange);
            self.registrations.remove(&in_flight.exchange);
            context.changed(device);
            give_up(context, device, &in_flight.command, outcome);
        }
    }

    /// Gives up the command in flight of a device that leaves, and refuses its pending commands.
    pub(crate) fn give_up_all(&mut self, context: &mut Context, device: &mut Device) {
        let waiting: Vec<Command> = device.waiting.drain().collect();
        self.give_up_in_flight_as(context, device, AnswerOutcome::Left);
        for command in waiting {
            let answer = FinalAnswer::of(AnswerOutcome::Left, uplink::refused(&command.echo, LEFT));
            context.publish_final_answer(device, Recipient::of(&command), answer);
            report(context, device, &command, CommandOutcome::Expired, None);
        }
    }

    /// Gives a device that has registered again the commands of its earlier registration: the one in flight is given
    /// up, the others wait.
    pub(crate) fn inherit(&mut self, context: &mut Context, device: &mut Device, mut former: Device) {
        let in_flight = former.take_in_flight();
        if let Some(in_flight) = in_flight.filter(|in_flight| in_flight.command.origin != Origin::Firmware) {
            give_up(context, device, &in_flight.command, AnswerOutcome::TimedOut);
        }
        device.waiting = std::mem::take(&mut former.waiting);
    }

    /// Forgets a device that is not registered any more.
    pub(super) fn forget(&mut self, context: &mut Context, device: &Device) {
        self.retained.left(&device.registration.endpoint);
        for exchange in device.exchanges() {
            self.forget_exchange(exchange);
            context.coap.forget(exchange);
        }
        self.expiries.cancel(device.id);
        self.restored.forget(device.id);
    }

    /// Marks the records beside that of the device as changed: its retained commands and its firmware update.
    pub(super) fn change_companions(&mut self, endpoint: &str) {
        self.retained.change(endpoint);
        self.jobs.change(endpoint);
    }

    /// Forgets an exchange or observation that CoAP has ended.
    pub(crate) fn forget_exchange(&mut self, exchange: ExchangeId) {
        self.registrations.remove(&exchange);
        self.streams.ended(exchange);
    }

    pub(super) fn pop_expired(&mut self, now: Instant) -> Option<RegistrationId> {
        self.expiries.pop_expired(now)
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.expiries.next()
    }

    /// Returns the number of devices with commands that may expire.
    pub(super) fn deadlines(&self) -> usize {
        self.expiries.len()
    }

    pub(crate) fn registration_of(&self, exchange: ExchangeId) -> Option<RegistrationId> {
        self.registrations.get(&exchange).copied()
    }

    /// Returns the number of exchanges and observations.
    pub(super) fn exchanges(&self) -> usize {
        self.registrations.len()
    }

    /// Returns the number of commands of devices whose Register is not answered yet.
    pub(super) fn early_commands(&self) -> usize {
        self.early.sum()
    }

    /// Returns the bytes of the commands that are kept for devices.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.taken()
    }

    /// Takes the command whose exchange is over from its device.
    fn take_in_flight(&mut self, context: &mut Context, device: &mut Device, exchange: ExchangeId) -> Option<InFlight> {
        self.registrations.remove(&exchange)?;
        let in_flight = device.take_in_flight()?;
        context.changed(device);
        Some(in_flight)
    }

    /// Notes what an answered command does to observations: an accepted `observe` replaces the observation of the same
    /// paths, and the answer to `cancel-observe` ends it.
    fn follow_observation(
        &mut self,
        context: &mut Context,
        device: &mut Device,
        exchange: ExchangeId,
        observation: Observation,
        observing: bool,
    ) {
        let former = if observing {
            self.registrations.insert(exchange, device.id);
            self.streams.observed(context.now, &device.registration.endpoint, exchange, &observation.command.origin);
            device.observations.begin(exchange, observation)
        } else if let OperationKind::CancelObserve | OperationKind::CancelObserveComposite { .. } =
            observation.command.operation.kind
        {
            device.observations.cancel(&observation.paths)
        } else {
            return;
        };
        context.changed(device);
        if let Some(former) = former {
            self.forget_exchange(former);
            context.coap.forget(former);
        }
    }

    /// Returns whether this retained command was sent to the device, or waits to be sent.
    fn knows(&self, device: &Device, command: CommandDigest) -> bool {
        device.waiting.holds(command) || self.retained.contains(&device.registration.endpoint, command)
    }
}

/// Reports that a body of the device could not be transferred in blocks.
pub(super) fn report_transfer(context: &mut Context, device: &Device, error: BlockError) {
    let endpoint = Some(device.registration.endpoint.clone());
    context.report(Report::TransferFailed { peer: device.peer, endpoint, error });
}

/// Reports malformed links or attributes in a list of the device, which are ignored.
pub(super) fn report_links_left_out(context: &mut Context, device: &mut Device, reason: String) {
    let first = !std::mem::replace(&mut device.links_left_out, true);
    let endpoint = device.registration.endpoint.clone();
    context.report(Report::LinksLeftOut { endpoint, reason, first });
}

fn queue_limits(limits: &Limits) -> QueueLimits {
    QueueLimits {
        commands: limits.pending_commands,
        bytes: limits.pending_command_bytes,
        bytes_of_all: limits.pending_command_bytes_total,
    }
}

fn too_long(limits: &Limits) -> String {
    format!("the command is longer than {} bytes", limits.command_size)
}

#[cfg(test)]
mod tests;
