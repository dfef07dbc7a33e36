//! Commands that come for a device before the broker has accepted it: they wait for the answer to its Register.

use crate::mqtt::{downlink, uplink};

use super::{CommandScheduler, queue_limits, too_long};
use crate::gateway::broker::{BrokerCommand, MessageProperties, Publication, UplinkClass};
use crate::gateway::context::Context;
use crate::gateway::registrations::pending::{EarlyCommand, PendingRegistration};
use crate::gateway::report::{CommandOutcome, Report};

impl CommandScheduler {
    /// Takes a command for a device whose Register is not answered yet: it waits until it is.
    pub(crate) fn handle_early(
        &mut self,
        context: &mut Context,
        pending: &mut PendingRegistration,
        payload: Vec<u8>,
        properties: MessageProperties,
    ) {
        let properties = MessageProperties { reply: downlink::usable_reply(properties.reply), ..properties };
        let limits = &context.config.limits;
        if payload.len() > limits.command_size {
            let reason = too_long(limits);
            return refuse_early(context, pending, (&[], properties), CommandOutcome::Refused, &reason);
        }
        let room = self.bytes.take(payload.len());
        let early = EarlyCommand { payload, properties, room, counted: self.early.add(1) };
        if let Err(refused) = pending.push_early(early, queue_limits(limits)) {
            let (EarlyCommand { payload, properties, .. }, full) = *refused;
            let command = (payload.as_slice(), properties);
            refuse_early(context, pending, command, CommandOutcome::QueueFull, &full.to_string());
        }
    }
}

/// Refuses a command whose device is not registered yet, with its final answer.
pub(in crate::gateway) fn refuse_early(
    context: &mut Context,
    pending: &PendingRegistration,
    (payload, properties): (&[u8], MessageProperties),
    outcome: CommandOutcome,
    reason: &str,
) {
    let (echo, msg_type) = match downlink::read(payload, context.command_context(&pending.registration)) {
        Ok(command) => {
            let msg_type = command.msg_type();
            (command.into_echo(), msg_type)
        }
        Err(refusal) => (refusal.echo, "error"),
    };
    let (topic, endpoint) = (pending.topics.response(), pending.registration.endpoint.clone());
    let payload = uplink::refused(&echo, reason);
    if let Some(reply) = &properties.reply {
        context.publish_reply(pending.id, topic.qos, reply, payload.clone());
    }
    context.publish(pending.id, Publication::new(topic, payload, UplinkClass::Answer));
    if let Some(receipt) = properties.receipt {
        context.command_broker(BrokerCommand::Confirm { registration: pending.id, receipt });
    }
    context.report(Report::Command { endpoint, msg_type, outcome, took: None, unanswered: None });
}
