//! Gives commands their final answers: each has exactly one, and a report tells its outcome.

use std::time::Duration;

use crate::command::{Command, Echo};
use crate::mqtt::uplink;
use crate::registry::Device;

use super::final_answer::{FinalAnswer, Recipient};
use crate::gateway::context::Context;
use crate::gateway::operators::console_commands::AnswerOutcome;
use crate::gateway::operators::inspection;
use crate::gateway::operators::view::CommandStage;
use crate::gateway::report::{CommandOutcome, Report};

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
    context.report(Report::Command { endpoint, msg_type, outcome, took: None, unanswered: None });
}

pub(super) fn report(
    context: &mut Context,
    device: &Device,
    command: &Command,
    outcome: CommandOutcome,
    took: Option<Duration>,
) {
    let endpoint = device.registration.endpoint.clone();
    let unanswered = (outcome == CommandOutcome::TimedOut).then(|| inspection::path_words(command).into());
    context.report(Report::Command { endpoint, msg_type: command.msg_type(), outcome, took, unanswered });
    tell_onlookers(context, device, command, CommandStage::Done { outcome, took });
}

pub(super) fn report_undecodable(context: &mut Context, device: &Device, command: &Command, reason: String) {
    let (endpoint, path) = (device.registration.endpoint.clone(), command.operation.path.to_string());
    context.report(Report::UndecodableContent { endpoint, path, reason });
}
