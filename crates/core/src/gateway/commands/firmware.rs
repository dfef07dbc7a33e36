//! Joins the jobs of firmware updates to the commands of their devices: one request at a time, after the commands of
//! applications. A push is one request, however many blocks it has, so that nothing else goes to the device meanwhile.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;

use crate::coap::options::{format, number};
use crate::coap::{Code, ExchangeError, ExchangeId, Response};
use crate::command::firmware::{FirmwareAction, FirmwareCommand, UpdateRequest};
use crate::command::{Command, Echo, Origin, Reply};
use crate::lwm2m::codec::tlv::resource_header;
use crate::lwm2m::codec::{Assignment, DecodeContext, Entry, UndefinedResources};
use crate::lwm2m::firmware::resource;
use crate::lwm2m::format_choice::Attempts;
use crate::lwm2m::operation::{Content, Operation, OperationKind, Outcome, WriteMode};
use crate::lwm2m::value::Value;
use crate::mqtt::uplink;
use crate::registry::{CommandDigest, Device, InFlight, Observation, ObservedPaths, PendingCommand};

use super::final_answer::{FinalAnswer, Recipient};
use super::{CommandScheduler, LEFT, report, report_transfer};
use crate::gateway::context::Context;
use crate::gateway::firmware::image::{Image, ImageError};
use crate::gateway::firmware::images::{ImageBytes, ImageConsumer, PendingPart, Wanted};
use crate::gateway::firmware::job::{Answer, JobRequest, JobSpec, PushFormat};
use crate::gateway::firmware::jobs::update::{self, PendingUpdate, UpdateRefusal};
use crate::gateway::notifications::ReceivedNotification;
use crate::gateway::operators::console_commands::AnswerOutcome;
use crate::gateway::report::{CommandOutcome, Report};

/// The time after which the bytes of a push are asked for again, if too many wanted some.
const READ_AGAIN: Duration = Duration::from_secs(1);

/// The time after which the bytes of a push are asked for again, if the disk reported an error.
const READ_AGAIN_AFTER_ERROR: Duration = Duration::from_secs(5);

/// Commands of applications and of the console.
impl CommandScheduler {
    /// Carries out a command about the firmware of a registered device.
    pub(super) fn handle_firmware(
        &mut self,
        context: &mut Context,
        device: &mut Device,
        command: FirmwareCommand,
        retained: Option<CommandDigest>,
    ) {
        let msg_type = command.msg_type();
        let FirmwareCommand { echo, instance, action, reply, origin } = command;
        let to = To { echo: &echo, reply: reply.as_deref(), origin: &origin, msg_type };
        let result = match action {
            FirmwareAction::Update(request) => {
                let pending = (reply.clone(), origin.clone(), retained);
                match self.update_firmware(context, device, &echo, (instance, *request), pending) {
                    Ok(None) => return,
                    Ok(Some(spec)) => return self.begin_job(context, device, spec, &to, retained),
                    Err(UpdateRefusal { code, reason }) => Err((code, reason)),
                }
            }
            FirmwareAction::Activate if context.draining => Err((Code::SERVICE_UNAVAILABLE, STOPPING.to_owned())),
            FirmwareAction::Activate => {
                let activated = self.jobs.activate(device, instance).map(|()| Code::CHANGED);
                activated.map_err(|reason| (Code::CONFLICT, reason.0.to_owned()))
            }
            FirmwareAction::Cancel => {
                let cancelled = self.jobs.cancel(device, instance).map(|()| Code::DELETED);
                cancelled.map_err(|(code, reason)| (code, reason.0.to_owned()))
            }
            FirmwareAction::Status => {
                let reason = "no firmware update since the device registered".to_owned();
                match self.jobs.status(device, instance) {
                    Some(status) => {
                        let payload = uplink::firmware::status(&echo, status);
                        return to.answer(context, device, CommandOutcome::Answered, payload);
                    }
                    None => Err((Code::NOT_FOUND, reason)),
                }
            }
        };
        match result {
            Ok(code) => {
                self.remember(device, retained);
                to.answer(context, device, CommandOutcome::Answered, uplink::firmware::code(&echo, code, None));
            }
            Err((code, reason)) => to.refuse(context, device, code, &reason),
        }
        self.settle_job(context, device);
        self.send_next(context, device);
    }

    /// Begins the job of an update whose image has been described, or refuses it.
    pub(crate) fn begin_described(
        &mut self,
        context: &mut Context,
        device: &mut Device,
        pending: PendingUpdate,
        result: Result<Image, ImageError>,
    ) {
        let PendingUpdate { echo, reply, origin, instance, request, name, retained, .. } = pending;
        let to = To { echo: &echo, reply: reply.as_deref(), origin: &origin, msg_type: "firmware-update" };
        let spec = match result {
            _ if self.jobs.is_busy(device) => Err(UpdateRefusal::new(Code::CONFLICT, BUSY)),
            Ok(image) => update::spec_of_image(context, device, (instance, request), (name, image)),
            Err(error) => Err(UpdateRefusal::of_image(error)),
        };
        match spec {
            Ok(spec) => self.begin_job(context, device, spec, &to, retained),
            Err(UpdateRefusal { code, reason }) => to.refuse(context, device, code, &reason),
        }
    }

    /// Returns the specification of a job that can begin at once; `None` if its image has to be described first.
    fn update_firmware(
        &mut self,
        context: &mut Context,
        device: &Device,
        echo: &Echo,
        (instance, request): (u16, UpdateRequest),
        (reply, origin, retained): (Option<Box<Reply>>, Origin, Option<CommandDigest>),
    ) -> Result<Option<JobSpec>, UpdateRefusal> {
        if context.draining {
            return Err(UpdateRefusal::new(Code::SERVICE_UNAVAILABLE, STOPPING));
        }
        update::check_object(device, instance)?;
        if self.jobs.is_busy(device) {
            return Err(UpdateRefusal::new(Code::CONFLICT, BUSY));
        }
        let name = match update::check_request(&request)? {
            Ok(name) => name,
            Err(uri) => {
                self.check_room(context, device)?;
                return Ok(Some(update::spec_of_uri(context, instance, request, uri)));
            }
        };
        self.check_room(context, device)?;
        let endpoint: Arc<str> = device.registration.endpoint.as_str().into();
        let (echo, wanted) = (echo.clone(), name.clone());
        let pending = PendingUpdate { endpoint, echo, reply, origin, instance, request, name, retained };
        match self.jobs.wait_for_image(context, &wanted, pending) {
            true => Ok(None),
            false => Err(UpdateRefusal::new(Code::SERVICE_UNAVAILABLE, "too many images are looked at; try again")),
        }
    }

    fn check_room(&self, context: &mut Context, device: &Device) -> Result<(), UpdateRefusal> {
        let most = context.config.limits.firmware_jobs;
        if self.jobs.running() < most {
            return Ok(());
        }
        context.report(Report::FirmwareJobsFull { endpoint: device.registration.endpoint.clone() });
        let reason = format!("{most} firmware updates run (limits.firmware_jobs)");
        Err(UpdateRefusal::new(Code::SERVICE_UNAVAILABLE, reason))
    }

    fn begin_job(
        &mut self,
        context: &mut Context,
        device: &mut Device,
        spec: JobSpec,
        to: &To<'_>,
        retained: Option<CommandDigest>,
    ) {
        self.remember(device, retained);
        let image = spec.image().map(|image| (image.size, image.sha256.to_string()));
        let payload = uplink::firmware::started(to.echo, spec.label, image);
        to.answer(context, device, CommandOutcome::Answered, payload);
        self.jobs.begin(context, device, spec, to.echo.clone());
        self.send_next(context, device);
    }

    fn remember(&mut self, device: &Device, retained: Option<CommandDigest>) {
        if let Some(digest) = retained {
            self.retained.remember(&device.registration.endpoint, digest);
        }
    }
}

/// Requests, answers and notifications.
impl CommandScheduler {
    /// Sends the next request of the job of this device. Returns whether there was one.
    pub(super) fn send_for_job(&mut self, context: &mut Context, device: &mut Device) -> bool {
        let Some(request) = self.jobs.next_request(context, device) else { return false };
        let command = command_of(&request);
        let paths = ObservedPaths::of_command(&command);
        let is_observe = matches!(request, JobRequest::Observe(_));
        if is_observe && !device.observations.has_room_for(&paths, context.config.limits.observations) {
            // It reads instead, as if the device had refused.
            let answer = Answer::Response { code: Code::SERVICE_UNAVAILABLE, entries: &[], observing: false };
            self.jobs.answered(context, device, answer);
            self.settle_job(context, device);
            return true;
        }
        let attempts = Attempts::first(&command.operation, &device.registration);
        let exchange = match request {
            JobRequest::Push(_, format) => match self.begin_push(context, device, &command.operation, format) {
                Some(exchange) => exchange,
                None => {
                    let code = Code::UNSUPPORTED_CONTENT_FORMAT;
                    let answer = Answer::Response { code, entries: &[], observing: false };
                    self.jobs.answered(context, device, answer);
                    self.settle_job(context, device);
                    return true;
                }
            },
            JobRequest::Read(_)
            | JobRequest::Observe(_)
            | JobRequest::WriteUri(..)
            | JobRequest::ClearPackage(_)
            | JobRequest::Execute(_) => {
                let request = command.operation.request_in(attempts.formats(), &device.registration);
                context.coap.send_request_to_device(context.now, (device.peer, device.shard()), request)
            }
        };
        self.registrations.insert(exchange, device.id);
        let number = self.next_number();
        let waiting = PendingCommand::new(number, command, context.now, self.bytes.take(0));
        device.sent(context.now, exchange, waiting, attempts);
        true
    }

    /// Begins to write the image to the device. Returns `None` for one that the format cannot hold.
    fn begin_push(
        &self,
        context: &mut Context,
        device: &Device,
        operation: &Operation,
        format: PushFormat,
    ) -> Option<ExchangeId> {
        let (_, _, image) = self.jobs.pushed(device.id)?;
        let size = usize::try_from(image.size).ok()?;
        let (content_format, head) = match format {
            PushFormat::Opaque => (format::OCTET_STREAM, Vec::new()),
            PushFormat::Tlv => (format::TLV, resource_header(resource::PACKAGE, size)?),
        };
        let mut request = operation.request_in(Default::default(), &device.registration);
        request.payload = Vec::new();
        request.options.add_uint(number::CONTENT_FORMAT, content_format.into());
        let block_size = self.jobs.block_size(device.id);
        Some(context.coap.send_supplied(device.peer, request, (head, size), block_size))
    }

    /// Returns whether the command in flight is the request of a job.
    pub(super) fn is_of_job(device: &Device) -> bool {
        device.in_flight().is_some_and(|in_flight| in_flight.command.origin == Origin::Firmware)
    }

    /// Takes the answer of the device to a request of its job.
    pub(super) fn job_answered(
        &mut self,
        context: &mut Context,
        device: &mut Device,
        in_flight: InFlight,
        (exchange, response, observing): (ExchangeId, &Response, Option<u32>),
    ) {
        let in_flight = match self.jobs.pushed(device.id) {
            Some(_) => in_flight,
            None => match self.retry_in_other_format(context, device, in_flight, response) {
                Some(in_flight) => in_flight,
                None => return,
            },
        };
        let InFlight { command, sent, attempts, .. } = in_flight;
        let outcome = outcome(context, device, &command.operation, response);
        let took = context.now.saturating_duration_since(sent);
        report(context, device, &command, CommandOutcome::Answered, Some(took));
        let observation = Observation::of(command, attempts.formats()).accepted(context.now);
        self.follow_observation(context, device, exchange, observation, observing.is_some());
        let (code, observing) = (outcome.code, observing.is_some());
        let answer = Answer::Response { code, entries: entries(&outcome), observing };
        self.jobs.answered(context, device, answer);
        self.settle_job(context, device);
        self.send_next(context, device);
    }

    /// Takes that a request of a job got no answer.
    pub(super) fn job_unanswered(
        &mut self,
        context: &mut Context,
        device: &mut Device,
        (command, outcome): (&Command, CommandOutcome),
        error: Option<ExchangeError>,
    ) {
        report(context, device, command, outcome, None);
        if let Some(error) = error.and_then(ExchangeError::transfer) {
            report_transfer(context, device, error);
        }
        let answer = if error.is_some() { Answer::Broken } else { Answer::Nothing };
        self.jobs.answered(context, device, answer);
        self.settle_job(context, device);
        self.send_next(context, device);
    }

    /// Takes a notification of an observation of a job.
    pub(crate) fn job_notified(
        &mut self,
        context: &mut Context,
        device: &mut Device,
        notification: ReceivedNotification<'_>,
    ) {
        let ReceivedNotification { observation: exchange, received, pending_ack, over, .. } = notification;
        if let Some(pending_ack) = pending_ack {
            context.coap.acknowledge(pending_ack);
        }
        let Some(observation) = device.observations.get(exchange) else { return };
        let (operation, is_wanted) = (observation.command.operation.clone(), self.jobs.observes(device.id));
        if let Ok(response) = received {
            let outcome = outcome(context, device, &operation, response);
            self.jobs.notified(context, device, entries(&outcome));
        }
        if over || !is_wanted {
            device.observations.end(exchange);
            self.forget_exchange(exchange);
            context.coap.forget(exchange);
            context.changed(device);
            self.jobs.observation_ended(context, device, operation.path);
        }
        self.settle_job(context, device);
    }

    /// Does what is due for the job of this device.
    pub(crate) fn job_timed_out(&mut self, context: &mut Context, device: &mut Device) {
        let in_flight = device.in_flight().map(|in_flight| in_flight.exchange);
        let pushing = in_flight.filter(|_| self.jobs.pushed(device.id).is_some());
        let uploaded = pushing.and_then(|exchange| context.coap.uploaded(exchange));
        let uploaded = uploaded.and_then(|bytes| u64::try_from(bytes).ok());
        if self.jobs.handle_timeout(context, device, uploaded)
            && let Some(exchange) = pushing
        {
            context.coap.want_again(exchange);
        }
        self.settle_job(context, device);
        self.send_next(context, device);
    }

    /// Reads the bytes that a push needs next.
    pub(crate) fn body_wanted(
        &mut self,
        context: &mut Context,
        device: &mut Device,
        (exchange, offset, length): (ExchangeId, usize, usize),
    ) {
        let Some((job, name, image)) = self.jobs.pushed(device.id) else { return };
        if context.draining {
            // The next process begins the push again.
            return self.give_up_job_request(context, device);
        }
        let reader = ImageConsumer::Push(PendingPart { exchange, offset });
        match context.read_image(reader, Wanted { name, image, offset: offset as u64, length }) {
            ImageBytes::Here(bytes) => context.coap.supply(context.now, exchange, offset, &bytes),
            ImageBytes::Later => {}
            ImageBytes::Busy => self.jobs.read_later(context, job, context.now + READ_AGAIN),
        }
    }

    /// Takes the bytes that a push has waited for. The bytes of a push that has ended have no effect.
    pub(crate) fn image_read(
        &mut self,
        context: &mut Context,
        device: &mut Device,
        PendingPart { exchange, offset }: PendingPart,
        result: Result<Vec<u8>, ImageError>,
    ) {
        let Some((job, ..)) = self.jobs.pushed(device.id) else { return };
        if device.in_flight().is_none_or(|in_flight| in_flight.exchange != exchange) {
            return;
        }
        match result {
            Ok(bytes) => context.coap.supply(context.now, exchange, offset, &bytes),
            Err(error) => {
                match error {
                    ImageError::Unreadable => {
                        self.jobs.image_unreadable(context, job);
                        self.jobs.read_later(context, job, context.now + READ_AGAIN_AFTER_ERROR);
                    }
                    ImageError::NotFound
                    | ImageError::NotRegular
                    | ImageError::Empty
                    | ImageError::TooLarge
                    | ImageError::Changed => self.jobs.lost_image(job),
                }
                self.settle_job(context, device);
                self.send_next(context, device);
            }
        }
    }

    /// Publishes the events of a job. A job that has just ended releases its observations and its request.
    pub(crate) fn settle_job(&mut self, context: &mut Context, device: &mut Device) {
        let Some(id) = self.jobs.id_of(device.id) else { return };
        if !self.jobs.settle(context, Some(device), id) {
            return;
        }
        self.give_up_job_request(context, device);
        let is_of_job = |observation: &Observation| observation.command.origin == Origin::Firmware;
        let observations = device.observations.iter().filter(|(_, observation)| is_of_job(observation));
        let observations: Vec<ExchangeId> = observations.map(|(exchange, _)| exchange).collect();
        for exchange in observations {
            // The device is not asked: its next notification is answered with a Reset (RFC 7641 section 3.6).
            device.observations.end(exchange);
            self.forget_exchange(exchange);
            context.coap.forget(exchange);
            context.changed(device);
        }
    }

    pub(super) fn give_up_job_request(&mut self, context: &mut Context, device: &mut Device) {
        if !Self::is_of_job(device) {
            return;
        }
        if let Some(in_flight) = device.take_in_flight() {
            context.coap.forget(in_flight.exchange);
            self.registrations.remove(&in_flight.exchange);
            self.jobs.given_up(device);
        }
    }
}

const STOPPING: &str = "the gateway is stopping";
const BUSY: &str = "a firmware update of this device runs already";

/// The recipient of the answer to a command about firmware.
struct To<'a> {
    echo: &'a Echo,
    reply: Option<&'a Reply>,
    origin: &'a Origin,
    msg_type: &'static str,
}

impl To<'_> {
    fn refuse(&self, context: &mut Context, device: &Device, code: Code, reason: &str) {
        let payload = uplink::firmware::code(self.echo, code, Some(reason));
        self.answer(context, device, CommandOutcome::Refused, payload);
    }

    fn answer(&self, context: &mut Context, device: &Device, outcome: CommandOutcome, payload: Bytes) {
        let Self { reply, origin, msg_type, .. } = *self;
        let answer = FinalAnswer::of(AnswerOutcome::of(outcome), payload);
        context.publish_final_answer(device, Recipient { reply, origin }, answer);
        let endpoint = device.registration.endpoint.clone();
        context.report(Report::Command { endpoint, msg_type, outcome, took: None, unanswered: None });
    }
}

/// Answers a command whose device has left before its image was described. Only the console can still be answered.
pub(in crate::gateway) fn answer_left(context: &mut Context, pending: &PendingUpdate) {
    if let Some(Reply::Asker(ask)) = pending.reply.as_deref() {
        let answer = FinalAnswer::of(AnswerOutcome::Left, uplink::refused(&pending.echo, LEFT));
        context.answer_console(*ask, answer);
    }
}

/// Returns the command that stands for the request of a job. The push of an image has no values: the image is not held.
fn command_of(request: &JobRequest) -> Command {
    let write = |values| OperationKind::Write { values, mode: WriteMode::Replace };
    let (path, msg_type, kind) = match request {
        JobRequest::Read(path) => (*path, "read", OperationKind::Read),
        JobRequest::Observe(path) => (*path, "observe", OperationKind::Observe),
        JobRequest::WriteUri(path, uri) => {
            let value = Value::String(uri.reveal().to_owned());
            (*path, "write", write(vec![Assignment { path: *path, value }]))
        }
        JobRequest::ClearPackage(path) => {
            (*path, "write", write(vec![Assignment { path: *path, value: Value::Opaque(vec![0]) }]))
        }
        JobRequest::Push(path, _) => (*path, "write", write(Vec::new())),
        JobRequest::Execute(path) => (*path, "execute", OperationKind::Execute { arguments: String::new() }),
    };
    let echo = Echo::of(&json!({ "msgType": msg_type, "data": { "path": path.to_string() } }));
    let operation = Operation::new(path, Vec::new(), kind);
    Command { number: 0, echo, operation, expiry: None, reply: None, origin: Origin::Firmware }
}

/// Returns the meaning of a response for a job. A job reads only a few resources, which it knows, so that undefined
/// ones do no harm.
fn outcome(context: &Context, device: &Device, operation: &Operation, response: &Response) -> Outcome {
    let known = context.decode_context(&device.registration);
    operation.outcome(response, DecodeContext { undefined: UndefinedResources::Opaque, ..known })
}

fn entries(outcome: &Outcome) -> &[Entry] {
    match &outcome.content {
        Some(Content::Entries(entries)) => entries,
        Some(Content::Links(_)) | None => &[],
    }
}
