//! Final answers: each command has exactly one, and a report tells its outcome.

use std::time::Duration;

use crate::command::{Command, Echo, Origin, Reply};
use crate::mqtt::uplink;
use crate::registry::Device;

use super::super::console_commands::AnswerOutcome;
use super::super::context::Context;
use super::super::inspection;
use super::super::report::{CommandOutcome, Report};
use super::super::view::CommandStage;

/// The receivers of the final answer to a command.
#[derive(Clone, Copy, Debug)]
pub struct Recipient<'a> {
    /// Gets the answer besides the device's topic for answers.
    pub reply: Option<&'a Reply>,
    pub origin: &'a Origin,
}

/// The final answer to a command.
#[derive(Clone, Debug)]
pub struct FinalAnswer {
    pub outcome: AnswerOutcome,
    /// The time from its first datagram to the answer; `None` for a command that the device did not answer.
    pub took: Option<Duration>,
    /// The JSON that is published.
    pub payload: Vec<u8>,
}

impl<'a> Recipient<'a> {
    pub fn of(command: &'a Command) -> Self {
        Self { reply: command.reply.as_deref(), origin: &command.origin }
    }
}

impl FinalAnswer {
    /// Returns the answer to a command that the device did not answer.
    pub fn of(outcome: AnswerOutcome, payload: Vec<u8>) -> Self {
        Self { outcome, took: None, payload }
    }
}

/// Answers a command that its device did not answer.
pub(super) fn give_up(context: &mut Context, device: &Device, command: &Command, outcome: AnswerOutcome) {
    let answer = FinalAnswer::of(outcome, uplink::timed_out(command));
    context.publish_final_answer(device, Recipient::of(command), answer);
    report(context, device, command, CommandOutcome::TimedOut, None);
}

/// Reports to onlookers that a command has reached a stage.
pub(super) fn tell_onlookers(context: &mut Context, device: &Device, command: &Command, stage: CommandStage) {
    if context.has_onlookers {
        let (endpoint, progress) = (device.registration.endpoint.clone(), inspection::progress(command, stage));
        context.report(Report::CommandProgress { endpoint, progress: Box::new(progress) });
    }
}

pub(super) fn refuse_command(
    context: &mut Context,
    device: &Device,
    command: &Command,
    outcome: CommandOutcome,
    reason: &str,
) {
    let answered = (&command.echo, Recipient::of(command));
    refuse(context, device, answered, command.msg_type(), outcome, reason);
    tell_onlookers(context, device, command, CommandStage::Done { outcome, took: None });
}

pub(super) fn refuse(
    context: &mut Context,
    device: &Device,
    (echo, recipient): (&Echo, Recipient<'_>),
    msg_type: &'static str,
    outcome: CommandOutcome,
    reason: &str,
) {
    let answer = FinalAnswer::of(AnswerOutcome::of(outcome), uplink::refused(echo, reason));
    context.publish_final_answer(device, recipient, answer);
    let endpoint = device.registration.endpoint.clone();
    context.report(Report::Command { endpoint, msg_type, outcome, took: None });
}

pub(super) fn report(
    context: &mut Context,
    device: &Device,
    command: &Command,
    outcome: CommandOutcome,
    took: Option<Duration>,
) {
    let endpoint = device.registration.endpoint.clone();
    context.report(Report::Command { endpoint, msg_type: command.msg_type(), outcome, took });
    tell_onlookers(context, device, command, CommandStage::Done { outcome, took });
}

pub(super) fn report_undecodable(context: &mut Context, device: &Device, command: &Command, reason: String) {
    let (endpoint, path) = (device.registration.endpoint.clone(), command.operation.path.to_string());
    context.report(Report::UndecodableContent { endpoint, path, reason });
}
