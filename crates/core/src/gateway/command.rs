//! What applications ask of devices: one command at a time for each device, the others wait.

use std::time::{Duration, Instant};

use crate::coap::{Code, ExchangeId, Failure, Response};
use crate::command::{Command, Echo, Reply};
use crate::lwm2m::operation::OperationKind;
use crate::mqtt::{downlink, uplink};
use crate::registry::{AdmitOutcome, CommandDigest, InFlight, Observation, PendingCommand, QueueFull, QueueLimits};

use super::broker::{MessageProperties, RegistrationId, UplinkClass};
use super::pending_registrations::EarlyCommand;
use super::report::{CommandOutcome, Report};
use super::{Deadline, Gateway};

impl Gateway {
    pub(super) fn handle_command(
        &mut self,
        now: Instant,
        id: RegistrationId,
        payload: Vec<u8>,
        properties: MessageProperties,
    ) {
        if self.pending_registrations.get_mut(id).is_some() {
            return self.handle_early_command(id, payload, properties);
        }
        let Some(device) = self.registry.device(id) else { return };
        let MessageProperties { expiry, reply, retained } = properties;
        if payload.len() > self.settings.limits.command_size {
            let reason = format!("the command is longer than {} bytes", self.settings.limits.command_size);
            return self.refuse(id, (&Echo::default(), reply.as_ref()), "error", CommandOutcome::Refused, &reason);
        }
        let command = match downlink::parse(&payload, &device.registration, &self.model) {
            Ok(command) => downlink::with_properties(command, expiry, reply),
            Err(refusal) => {
                let echo = (&refusal.echo, reply.as_ref());
                return self.refuse(id, echo, "error", CommandOutcome::Refused, &refusal.reason);
            }
        };
        let retained = retained.then(|| CommandDigest::of(&payload));
        if retained.is_some_and(|digest| self.knows_command(id, digest)) {
            return self.finished(id, &command, CommandOutcome::DuplicateRetained, None);
        }
        let room = self.command_bytes.take(payload.len());
        let waiting = PendingCommand::arrived(now, command, self.settings.limits.command_expiry, room);
        self.admit_command(now, id, PendingCommand { retained, ..waiting });
    }

    fn admit_command(&mut self, now: Instant, id: RegistrationId, waiting: PendingCommand) {
        let limits = self.queue_limits();
        let Some(device) = self.registry.device_mut(id) else { return };
        let admission =
            if self.draining { device.keep(now, waiting, limits) } else { device.admit(now, waiting, limits) };
        match admission {
            AdmitOutcome::SendNow(waiting) => {
                self.send(now, id, *waiting);
                self.send_next(now, id);
            }
            AdmitOutcome::Waits => {
                self.changed(id);
                self.set_expiry(id);
            }
            AdmitOutcome::QueueFull(command, full) => {
                self.refuse_command(id, &command, CommandOutcome::QueueFull, &full.to_string());
            }
            AdmitOutcome::NowOrNever(command) => {
                let reason = "the device is asleep or busy, and the command may not wait";
                self.refuse_command(id, &command, CommandOutcome::Expired, reason);
            }
        }
    }

    pub(super) fn queue_limits(&self) -> QueueLimits {
        let limits = &self.settings.limits;
        QueueLimits {
            commands: limits.waiting_commands,
            bytes: limits.waiting_bytes,
            bytes_of_all: limits.waiting_bytes_total,
        }
    }

    /// Sends waiting commands while the device can take one: those of applications, then those of `auto_observe`.
    pub(super) fn send_next(&mut self, now: Instant, id: RegistrationId) {
        if self.registry.device(id).and_then(|device| device.waiting.next_expiry()).is_some_and(|at| at <= now) {
            self.expire_commands(now, id);
        }
        let draining = self.draining;
        while let Some(device) = self.registry.device_mut(id).filter(|device| !draining && device.is_ready(now)) {
            let next = device.waiting.pop().or_else(|| {
                let path = device.next_to_observe()?;
                Some(PendingCommand::new(downlink::auto_observe(&path), now, self.command_bytes.take(0)))
            });
            let Some(waiting) = next else { return };
            self.send(now, id, waiting);
        }
    }

    pub(super) fn command_acknowledged(&mut self, now: Instant, exchange: ExchangeId) {
        let Some(&id) = self.exchanges.get(&exchange) else { return };
        self.heard_from(now, id);
        let payload = self
            .registry
            .device_mut(id)
            .and_then(|device| device.acknowledged(exchange))
            .map(|command| uplink::acknowledged(&command.echo));
        if let Some(payload) = payload {
            self.publish_answer(id, payload);
        }
    }

    pub(super) fn command_answered(
        &mut self,
        now: Instant,
        exchange: ExchangeId,
        response: &Response,
        observing: Option<u32>,
    ) {
        let Some((id, in_flight)) = self.take_in_flight(exchange) else { return };
        self.heard_from(now, id);
        let Some(in_flight) = self.retry_in_other_format(now, id, in_flight, response) else { return };
        let InFlight { command, sent, .. } = in_flight;
        let Some(device) = self.registry.device(id) else { return };
        let endpoint = device.registration.endpoint.clone();
        let outcome = self.outcome(now, device, &command.operation, response);
        // The number 0 is not told: it is what every first answer has.
        let payload = uplink::answer(&command.echo, &outcome, observing.filter(|number| *number != 0));
        self.publish_final_answer(id, command.reply.as_deref(), payload);
        self.finished(id, &command, CommandOutcome::Answered, Some(now.saturating_duration_since(sent)));
        if let Some(reason) = outcome.reason {
            let path = command.operation.path.to_string();
            match outcome.content {
                Some(_) => self.links_left_out(id, reason),
                None => self.report(Report::UndecodableContent { endpoint, path, reason }),
            }
        }
        self.follow_observation(id, exchange, command, observing.is_some());
        self.send_next(now, id);
    }

    pub(super) fn command_reset(&mut self, now: Instant, exchange: ExchangeId) {
        let Some((id, command)) = self.take_command(exchange) else { return };
        self.heard_from(now, id);
        self.publish_final_answer(id, command.reply.as_deref(), uplink::reset(&command));
        self.finished(id, &command, CommandOutcome::Reset, None);
        self.send_next(now, id);
    }

    pub(super) fn command_timed_out(&mut self, now: Instant, exchange: ExchangeId) {
        let Some((id, command)) = self.take_command(exchange) else { return };
        self.give_up(id, &command);
        self.send_next(now, id);
    }

    /// The response cannot be read, or the body of the request or of the response could not be transferred.
    pub(super) fn command_failed(&mut self, now: Instant, exchange: ExchangeId, error: Failure) {
        let Some((id, command)) = self.take_command(exchange) else { return };
        self.heard_from(now, id);
        let (reason, transfer) = (error.to_string(), error.transfer());
        let outcome = match transfer {
            Some(_) => CommandOutcome::TransferFailed,
            None => CommandOutcome::MalformedAnswer,
        };
        self.refuse_command(id, &command, outcome, &reason);
        let Some(device) = self.registry.device(id) else { return };
        let (peer, endpoint) = (device.peer, device.registration.endpoint.clone());
        let path = command.operation.path.to_string();
        self.report(match transfer {
            Some(error) => Report::TransferFailed { peer, error },
            None => Report::UndecodableContent { endpoint, path, reason },
        });
        self.send_next(now, id);
    }

    /// The last word about a command that got no answer.
    pub(super) fn give_up(&mut self, id: RegistrationId, command: &Command) {
        self.publish_final_answer(id, command.reply.as_deref(), uplink::timed_out(command));
        self.finished(id, command, CommandOutcome::TimedOut, None);
    }

    /// The device goes: what is in flight is given up, what waits is refused.
    pub(super) fn give_up_all(&mut self, id: RegistrationId) {
        let Some(device) = self.registry.device_mut(id) else { return };
        let waiting: Vec<Command> = device.waiting.drain().collect();
        if let Some(in_flight) = device.take_in_flight() {
            self.coap.forget(in_flight.exchange);
            self.exchanges.remove(&in_flight.exchange);
            self.give_up(id, &in_flight.command);
        }
        for command in waiting {
            self.refuse_command(id, &command, CommandOutcome::Expired, "the device is not registered any more");
        }
    }

    pub(super) fn expire_commands(&mut self, now: Instant, id: RegistrationId) {
        let Some(device) = self.registry.device_mut(id) else { return };
        let expired = device.waiting.take_expired(now);
        if !expired.is_empty() {
            self.changed(id);
        }
        for command in expired {
            self.refuse_command(id, &command, CommandOutcome::Expired, "expired before the device could take it");
        }
        self.set_expiry(id);
    }

    pub(super) fn set_expiry(&mut self, id: RegistrationId) {
        let expiry = self.registry.device(id).and_then(|device| device.waiting.next_expiry());
        match expiry {
            Some(at) => self.deadlines.set(Deadline::Expiry(id), at),
            None => self.deadlines.cancel(Deadline::Expiry(id)),
        }
    }

    /// A command for a device whose Register is not answered yet waits until it is.
    fn handle_early_command(&mut self, id: RegistrationId, payload: Vec<u8>, properties: MessageProperties) {
        let (limits, size) = (self.queue_limits(), self.settings.limits.command_size);
        let Some(pending) = self.pending_registrations.get_mut(id) else { return };
        if payload.len() > size {
            let reason = format!("the command is longer than {size} bytes");
            return self.refuse_early(id, (&[], properties), CommandOutcome::Refused, &reason);
        }
        let room = self.command_bytes.take(payload.len());
        let early = EarlyCommand { payload, properties, room };
        let full = if pending.early.len() >= limits.commands {
            QueueFull::Commands
        } else if !pending.early.is_empty() && pending.early_bytes() + early.room.bytes() > limits.bytes {
            QueueFull::Bytes
        } else if self.command_bytes.taken() > limits.bytes_of_all {
            QueueFull::BytesOfAll
        } else {
            return pending.early.push_back(early);
        };
        let EarlyCommand { payload, properties, .. } = early;
        self.refuse_early(id, (&payload, properties), CommandOutcome::QueueFull, &full.to_string());
    }

    /// The last word about a command whose device is not registered yet.
    pub(super) fn refuse_early(
        &mut self,
        id: RegistrationId,
        (payload, properties): (&[u8], MessageProperties),
        outcome: CommandOutcome,
        reason: &str,
    ) {
        let Some(pending) = self.pending_registrations.get_mut(id) else { return };
        let (echo, msg_type) = match downlink::parse(payload, &pending.registration, &self.model) {
            Ok(command) => (command.echo.clone(), command.msg_type()),
            Err(refusal) => (refusal.echo, "error"),
        };
        let (topic, endpoint) = (pending.topics.response.clone(), pending.registration.endpoint.clone());
        let payload = uplink::refused(&echo, reason);
        self.publish_reply(id, topic.qos, properties.reply.as_ref(), &payload);
        self.publish(id, topic, payload, UplinkClass::Answer);
        self.report(Report::Command { endpoint, msg_type, outcome, took: None });
    }

    fn send(&mut self, now: Instant, id: RegistrationId, mut waiting: PendingCommand) {
        self.changed(id);
        let Some(device) = self.registry.device(id) else { return };
        let command = &waiting.command;
        let request = command.operation.request(&device.registration);
        if request.payload.len() > self.settings.limits.sent_body {
            let reason = format!("the body is longer than {} bytes", self.settings.limits.sent_body);
            return self.refuse_command(id, command, CommandOutcome::Refused, &reason);
        }
        let observed = device.observation_of(command.operation.path);
        let peer = device.peer;
        let exchange = match command.operation.kind {
            OperationKind::Observe if self.too_many_observations(id, observed) => {
                let reason = "too many observations of this device";
                return self.refuse_command(id, command, CommandOutcome::Refused, reason);
            }
            OperationKind::CancelObserve => observed
                .and_then(|observation| self.coap.send_cancellation(now, observation))
                .unwrap_or_else(|| self.coap.send_request(now, peer, request)),
            _ => self.coap.send_request(now, peer, request),
        };
        self.exchanges.insert(exchange, id);
        if let Some(digest) = waiting.retained {
            self.remember_command(id, digest);
        }
        // For as long as an answer is waited for it may be sent once more, whatever its own patience was.
        waiting.expires = waiting.expires.max(now + self.settings.coap.max_transmit_wait());
        if let Some(device) = self.registry.device_mut(id) {
            device.sent(now, exchange, waiting);
        }
    }

    /// Sends the command in flight once more, when the device did not know the format of its values and there is another.
    /// It stays the same command: nothing else goes to the device meanwhile, and the application hears the last answer.
    /// Gives the command back when the response is its answer.
    fn retry_in_other_format(
        &mut self,
        now: Instant,
        id: RegistrationId,
        in_flight: InFlight,
        response: &Response,
    ) -> Option<InFlight> {
        if response.code != Code::UNSUPPORTED_CONTENT_FORMAT || in_flight.in_other_format {
            return Some(in_flight);
        }
        let Some(device) = self.registry.device_mut(id) else { return Some(in_flight) };
        let other = in_flight.command.operation.request_in_other_format(&device.registration);
        let Some(request) = other.filter(|request| request.payload.len() <= self.settings.limits.sent_body) else {
            return Some(in_flight);
        };
        let exchange = self.coap.send_request(now, device.peer, request);
        device.sent_in_other_format(exchange, in_flight);
        self.exchanges.insert(exchange, id);
        None
    }

    fn too_many_observations(&self, id: RegistrationId, replaced: Option<ExchangeId>) -> bool {
        replaced.is_none()
            && self
                .registry
                .device(id)
                .is_some_and(|device| device.observations.len() >= self.settings.limits.observations)
    }

    /// An `observe` that was taken replaces the observation of the same path; the answer to `cancel-observe` ends it.
    fn follow_observation(&mut self, id: RegistrationId, exchange: ExchangeId, command: Command, observing: bool) {
        let ends = matches!(command.operation.kind, OperationKind::CancelObserve);
        let Some(device) = self.registry.device_mut(id).filter(|_| observing || ends) else { return };
        let path = command.operation.path;
        self.changes.mark(&device.registration.endpoint);
        let former = device.observation_of(path);
        if let Some(former) = former {
            device.observations.remove(&former);
        }
        if observing {
            device.observations.insert(exchange, Observation { path, command });
            self.exchanges.insert(exchange, id);
        }
        if let Some(former) = former {
            self.exchanges.remove(&former);
            self.coap.forget(former);
        }
    }

    fn take_command(&mut self, exchange: ExchangeId) -> Option<(RegistrationId, Command)> {
        self.take_in_flight(exchange).map(|(id, in_flight)| (id, in_flight.command))
    }

    fn take_in_flight(&mut self, exchange: ExchangeId) -> Option<(RegistrationId, InFlight)> {
        let id = self.exchanges.remove(&exchange)?;
        let in_flight = self.registry.device_mut(id)?.take_in_flight()?;
        self.changed(id);
        Some((id, in_flight))
    }

    fn refuse_command(&mut self, id: RegistrationId, command: &Command, outcome: CommandOutcome, reason: &str) {
        self.refuse(id, (&command.echo, command.reply.as_deref()), command.msg_type(), outcome, reason);
    }

    pub(super) fn refuse(
        &mut self,
        id: RegistrationId,
        (echo, reply): (&Echo, Option<&Reply>),
        msg_type: &'static str,
        outcome: CommandOutcome,
        reason: &str,
    ) {
        self.publish_final_answer(id, reply, uplink::refused(echo, reason));
        let Some(device) = self.registry.device(id) else { return };
        let endpoint = device.registration.endpoint.clone();
        self.report(Report::Command { endpoint, msg_type, outcome, took: None });
    }

    fn finished(&mut self, id: RegistrationId, command: &Command, outcome: CommandOutcome, took: Option<Duration>) {
        let Some(device) = self.registry.device(id) else { return };
        let endpoint = device.registration.endpoint.clone();
        self.report(Report::Command { endpoint, msg_type: command.msg_type(), outcome, took });
    }
}
