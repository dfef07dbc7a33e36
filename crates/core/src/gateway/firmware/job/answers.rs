//! How the answers and notifications of a device change its job.

use std::time::Instant;

use crate::coap::Code;
use crate::command::firmware::{Method, MethodChoice, Phase, UpdateError};
use crate::lwm2m::codec::Entry;
use crate::lwm2m::firmware::{Delivery, State, UpdateResult, firmware_version_path, instance_path, resource};
use crate::lwm2m::path::Path;

use super::told::{number, numbers, text};
use super::{Job, MOST_UNANSWERED_DROPS, Package, PushFormat, Step};
use crate::gateway::firmware::config::FirmwareConfig;

/// Limits the protocols that are kept of a device. The object has six.
const MOST_PROTOCOLS: usize = 16;

/// The result of a request.
#[derive(Clone, Copy, Debug)]
pub(in crate::gateway) enum Answer<'a> {
    /// The device answered. A payload that cannot be decoded has no entries.
    Response { code: Code, entries: &'a [Entry], observing: bool },
    /// The device did not answer, or rejected the message, or its answer could not be read.
    Nothing,
    /// The body of a push could not be transferred to its end.
    Broken,
}

impl Job {
    /// Takes the answer to the request on the way.
    pub(crate) fn answered(&mut self, now: Instant, answer: Answer<'_>, config: &FirmwareConfig) {
        if !std::mem::take(&mut self.asked) {
            return;
        }
        let (code, entries, observing) = match answer {
            Answer::Response { code, entries, observing } => (code, entries, observing),
            Answer::Broken if matches!(self.step, Step::Push(_)) => return self.ask_why(),
            Answer::Nothing | Answer::Broken => return self.unanswered(),
        };
        let is_success = code.is_success();
        let has_moved = self.progress.told.take(instance_path(self.spec.instance), entries);
        if has_moved {
            self.state_changed(now);
        }
        match self.step {
            Step::Await | Step::Watch | Step::Done => {}
            Step::ReadObject if is_success => self.object_read(now, entries, config),
            Step::ReadObject => self.fail(UpdateError::Rejected, Some(code)),
            Step::ClearUri | Step::ClearPackage | Step::CancelDownload => self.clear_answered(code),
            Step::ObserveState => {
                self.watching.state = observing;
                self.step = Step::ObserveResult;
            }
            Step::ObserveResult => {
                self.watching.result = observing;
                self.go_on(now, config);
            }
            Step::Push(format) => self.push_answered(now, format, code, config),
            Step::WriteUri | Step::Execute if !is_success => self.step = Step::Explain(code),
            Step::WriteUri => self.watched(now, config),
            Step::Execute => self.begin_updating(now, config),
            Step::ReadState if self.watching.result => self.watched(now, config),
            Step::ReadState => self.step = Step::ReadResult,
            Step::ReadResult => self.watched(now, config),
            Step::Explain(code) => {
                self.fail_by(self.progress.told.new_result());
                self.fail(UpdateError::Rejected, Some(code));
            }
            Step::ReadFirmwareVersion if self.has_version(entries, firmware_version_path()) => self.succeed(),
            Step::ReadFirmwareVersion => self.step = Step::ReadPackageVersion,
            Step::ReadPackageVersion if self.has_version(entries, self.package_version_path()) => self.succeed(),
            Step::ReadPackageVersion => self.fail(UpdateError::Version, None),
        }
    }

    /// Takes a notification of the State or the Update Result.
    pub(crate) fn notified(&mut self, now: Instant, entries: &[Entry], config: &FirmwareConfig) {
        if self.progress.told.take(instance_path(self.spec.instance), entries) {
            self.state_changed(now);
        }
        if !self.asked && self.step == Step::Watch {
            self.evaluate(now, config);
        }
    }

    /// Notes that an observation of the job has ended.
    pub(crate) fn observation_ended(&mut self, now: Instant, path: Path, config: &FirmwareConfig) {
        match path.resource() {
            Some(resource::STATE) => self.watching.state = false,
            Some(resource::UPDATE_RESULT) => self.watching.result = false,
            Some(_) | None => {}
        }
        if self.step == Step::Watch {
            self.poll_at.get_or_insert(now + config.poll_interval);
        }
    }

    /// Takes the answer to a request that brings the object back to idle: for the transfer, or after the end of the
    /// job.
    fn clear_answered(&mut self, code: Code) {
        let is_over = self.is_over() || self.step == Step::CancelDownload;
        match (is_over, code.is_success()) {
            (true, false) if self.is_over() && self.step != Step::ClearPackage => self.clear_otherwise(),
            (true, _) => self.dropped(),
            (false, true) => {
                self.progress.told.forget_state();
                self.step = Step::ObserveState;
            }
            (false, false) if self.step == Step::ClearUri => self.step = Step::ClearPackage,
            (false, false) => self.fail(UpdateError::Rejected, Some(code)),
        }
    }

    /// Takes the answer to the push of the image.
    fn push_answered(&mut self, now: Instant, format: PushFormat, code: Code, config: &FirmwareConfig) {
        match code {
            Code::UNSUPPORTED_CONTENT_FORMAT if format == PushFormat::Opaque => {
                self.step = Step::Push(PushFormat::Tlv);
            }
            // RFC 7959 section 2.9.2: the device has lost the blocks before.
            Code::REQUEST_ENTITY_INCOMPLETE => self.ask_why(),
            code if !code.is_success() => self.step = Step::Explain(code),
            _ => {
                self.progress.pushed = true;
                if let Some(size) = self.size() {
                    self.moved(now, size, config);
                }
                self.clock.reset(now);
                // The state may be known already, or its notification may be lost.
                self.step = Step::ReadState;
            }
        }
    }

    /// Takes that the request got no answer: the job waits for the next message of the device.
    fn unanswered(&mut self) {
        match self.step {
            Step::CancelDownload | Step::ClearUri | Step::ClearPackage if self.is_over() => self.drop_later(),
            Step::Push(_) => self.start_over_later(),
            Step::Await
            | Step::ReadObject
            | Step::ClearUri
            | Step::ClearPackage
            | Step::ObserveState
            | Step::ObserveResult
            | Step::WriteUri
            | Step::ReadState
            | Step::ReadResult
            | Step::Explain(_)
            | Step::Execute
            | Step::ReadFirmwareVersion
            | Step::ReadPackageVersion
            | Step::CancelDownload
            | Step::Watch
            | Step::Done => self.step = if self.is_over() { Step::Done } else { Step::Await },
        }
    }

    /// Notes that the device was told to drop the part of the package that it holds.
    fn dropped(&mut self) {
        self.progress.owes_drop = false;
        self.step = Step::Done;
    }

    /// Tells the device, after its next message, to drop the part of the package that it holds.
    fn drop_later(&mut self) {
        self.unanswered_drops += 1;
        if self.unanswered_drops >= MOST_UNANSWERED_DROPS {
            return self.dropped();
        }
        self.step = Step::Await;
    }

    /// Tries another way to bring the object back to idle after the end of the job.
    fn clear_otherwise(&mut self) {
        self.step = if self.step == Step::CancelDownload { Step::ClearUri } else { Step::ClearPackage };
    }

    /// Continues the job by the values of the whole object.
    fn object_read(&mut self, now: Instant, entries: &[Entry], config: &FirmwareConfig) {
        let instance = instance_path(self.spec.instance);
        self.delivery = Delivery::of(number(entries, instance, resource::DELIVERY_METHOD));
        self.protocols = numbers(entries, instance, resource::PROTOCOLS).take(MOST_PROTOCOLS).collect();
        let was_restored = std::mem::take(&mut self.was_restored);
        let state = self.progress.told.state().unwrap_or(State::Idle);
        match (self.progress.phase, state) {
            (Phase::Waiting | Phase::Preparing, State::Updating) => {
                self.fail(UpdateError::Rejected, Some(Code::CONFLICT));
            }
            (Phase::Waiting | Phase::Preparing, _) => self.prepare(state),
            (Phase::Downloading, State::Downloading) if self.progress.method == Some(Method::Pull) => {
                self.seen_downloading = true;
                self.step = Step::ObserveState;
            }
            (Phase::Downloading, State::Downloading) if self.progress.pushed => self.step = Step::ObserveState,
            (Phase::Downloading, State::Downloaded) if self.has_whole_package(was_restored) => {
                self.step = Step::ObserveState;
            }
            (Phase::Downloaded, State::Downloading | State::Downloaded)
            | (Phase::Downloading | Phase::Downloaded | Phase::Updating, State::Updating)
            | (Phase::Updating, State::Downloading | State::Downloaded) => self.step = Step::ObserveState,
            (Phase::Downloading | Phase::Downloaded | Phase::Updating, State::Idle) => {
                self.progress.told.conclude();
                self.idle_again(now, was_restored, config);
            }
            (Phase::Downloading, State::Downloading | State::Downloaded) => match self.progress.told.new_fault() {
                Some(fault) => self.end_by(fault),
                None => self.start_over(was_restored, state),
            },
            (Phase::Verifying, _) => self.verify(),
            (Phase::Succeeded | Phase::Failed | Phase::Cancelled | Phase::Deferred, _) => self.step = Step::Done,
        }
    }

    /// Returns whether the package of the device is the one of this job: fetched, or written to its end.
    fn has_whole_package(&self, was_restored: bool) -> bool {
        match self.progress.method {
            Some(Method::Pull) => true,
            Some(Method::Push) => self.progress.pushed || was_restored,
            None => false,
        }
    }

    /// Begins the preparation of a device in this state: it has to be idle.
    fn prepare(&mut self, state: State) {
        self.step = if state == State::Idle { Step::ObserveState } else { Step::ClearUri };
    }

    /// Handles that the device is idle although the job had begun.
    fn idle_again(&mut self, now: Instant, was_restored: bool, config: &FirmwareConfig) {
        match self.progress.told.new_result() {
            Some(UpdateResult::Success) if self.progress.executed => self.verify(),
            Some(UpdateResult::Success) | None if self.progress.phase != Phase::Updating => {
                self.start_over(was_restored, State::Idle);
            }
            Some(UpdateResult::Success) => self.verify(),
            Some(result) => self.end_by(result),
            // The device has rebooted and does not report a result yet.
            None if self.watching.state => self.watch(now, config),
            None => self.step = Step::ObserveState,
        }
    }

    /// Transfers the package from its beginning, to a device in this state.
    fn start_over(&mut self, was_restored: bool, state: State) {
        if self.counts_attempt(was_restored) {
            (self.progress.begun, self.progress.pushed) = (false, false);
            self.enter(Phase::Preparing);
            self.prepare(state);
        }
    }

    /// Reads the object after the device could not take the whole of a push: its Update Result may tell the reason.
    /// Otherwise the push starts over.
    fn ask_why(&mut self) {
        self.step = Step::ReadObject;
    }

    /// Transfers the package from its beginning when the device has sent a message, unless it has told a fault.
    fn start_over_later(&mut self) {
        if let Some(fault) = self.progress.told.new_fault() {
            return self.end_by(fault);
        }
        if self.counts_attempt(false) {
            self.enter(Phase::Waiting);
            self.step = Step::Await;
        }
    }

    /// Counts another attempt. Returns whether it may be made; otherwise the job has failed.
    fn counts_attempt(&mut self, is_free: bool) -> bool {
        (self.update_ends, self.progress.executed) = (None, false);
        if is_free {
            return true;
        }
        if self.progress.attempt >= self.spec.attempts {
            self.fail(UpdateError::Stalled, None);
            return false;
        }
        self.progress.attempt += 1;
        true
    }

    /// Continues after the observations have begun.
    fn go_on(&mut self, now: Instant, config: &FirmwareConfig) {
        match self.progress.phase {
            Phase::Waiting | Phase::Preparing | Phase::Downloading | Phase::Downloaded | Phase::Updating => {
                self.watched(now, config);
            }
            Phase::Verifying => self.verify(),
            Phase::Succeeded | Phase::Failed | Phase::Cancelled | Phase::Deferred => self.step = Step::Done,
        }
    }

    /// Begins the transfer by the method that was named, or that the device and the configuration allow.
    fn choose_method(&mut self) {
        let method = match (&self.spec.package, self.spec.method) {
            (Package::Uri(_), _) => Some(Method::Pull),
            (Package::Image { .. }, MethodChoice::Push) => Some(Method::Push),
            (Package::Image { .. }, MethodChoice::Pull) => self.offer.is_some().then_some(Method::Pull),
            (Package::Image { .. }, MethodChoice::Auto) if self.delivery.pull && self.can_reach_offer() => {
                Some(Method::Pull)
            }
            (Package::Image { .. }, MethodChoice::Auto) => self.delivery.push.then_some(Method::Push),
        };
        let Some(method) = method else { return self.fail(UpdateError::UnsupportedProtocol, None) };
        self.progress.method = Some(method);
        self.step = match method {
            Method::Pull => Step::WriteUri,
            Method::Push => Step::Push(PushFormat::Opaque),
        };
    }

    /// Returns whether the device has the protocol at which this gateway offers the image. A device that lists no
    /// protocols has the one that it speaks.
    fn can_reach_offer(&self) -> bool {
        let has = |protocol| self.protocols.is_empty() || self.protocols.contains(&protocol);
        self.offer.as_ref().is_some_and(|offer| has(offer.protocol))
    }

    fn begin_updating(&mut self, now: Instant, config: &FirmwareConfig) {
        self.update_ends.get_or_insert(now + config.update_timeout);
        self.enter(Phase::Updating);
        self.watched(now, config);
    }

    /// Acts on State and Update Result, or waits for other values.
    fn watched(&mut self, now: Instant, config: &FirmwareConfig) {
        self.watch(now, config);
        self.evaluate(now, config);
    }

    /// Waits for notifications, and reads what is not observed.
    fn watch(&mut self, now: Instant, config: &FirmwareConfig) {
        self.step = Step::Watch;
        let waits_for_application = self.progress.phase == Phase::Downloaded && !self.progress.activated;
        let is_observed = self.watching.state && self.watching.result;
        if !waits_for_application && !is_observed {
            self.poll_at = Some(now + config.poll_interval);
        }
    }

    /// Acts on the newest State and Update Result.
    fn evaluate(&mut self, now: Instant, config: &FirmwareConfig) {
        let state = self.progress.told.state();
        if (self.progress.phase, state) == (Phase::Updating, Some(State::Idle)) {
            if self.progress.told.is_stale() {
                // The result may follow: the whole object is read, which has both.
                self.step = Step::ReadObject;
                return;
            }
            self.progress.told.conclude();
        }
        let result = self.progress.told.new_result();
        let has_fault = result.is_some_and(|result| result != UpdateResult::Success);
        match (self.progress.phase, state) {
            (Phase::Preparing, Some(State::Idle) | None) => self.choose_method(),
            (Phase::Downloading | Phase::Downloaded | Phase::Updating, Some(State::Updating)) => {
                self.installs(now, config);
                self.conclude_by(result);
            }
            (Phase::Downloading, Some(State::Downloaded)) => self.downloaded(),
            (Phase::Downloaded, Some(State::Downloaded)) if self.progress.activated && !has_fault => {
                self.step = Step::Execute;
            }
            (Phase::Downloading, Some(State::Downloading)) => {
                self.seen_downloading = true;
                self.fail_by(result);
            }
            // The device has dropped the package, and its result may follow: the whole object is read, which has both.
            (Phase::Downloading, Some(State::Idle)) if self.seen_downloading && !has_fault => {
                self.step = Step::ReadObject;
            }
            (Phase::Downloaded, Some(State::Idle)) if result.is_none() => self.step = Step::ReadObject,
            (Phase::Downloading, Some(State::Idle) | None) => self.fail_by(result),
            (Phase::Downloaded, _) if !self.progress.executed => self.fail_by(result),
            (Phase::Downloaded | Phase::Updating, _) => self.conclude_by(result),
            (
                Phase::Waiting
                | Phase::Preparing
                | Phase::Verifying
                | Phase::Succeeded
                | Phase::Failed
                | Phase::Cancelled
                | Phase::Deferred,
                _,
            ) => {}
        }
    }

    /// Notes that the device installs the package, by the Update command or on its own.
    fn installs(&mut self, now: Instant, config: &FirmwareConfig) {
        if self.progress.phase != Phase::Updating {
            self.progress.executed = true;
            self.update_ends.get_or_insert(now + config.update_timeout);
            self.enter(Phase::Updating);
        }
    }

    /// Notes that the device has the package.
    fn downloaded(&mut self) {
        self.enter(Phase::Downloaded);
        self.poll_at = None;
        if self.progress.activated {
            self.step = Step::Execute;
        }
    }

    /// Fails by a result that reports a fault. Success is not a result that a download can have.
    fn fail_by(&mut self, result: Option<UpdateResult>) {
        if let Some(result) = result {
            self.end_by(result);
        }
    }

    fn conclude_by(&mut self, result: Option<UpdateResult>) {
        match result {
            Some(UpdateResult::Success) => self.verify(),
            result => self.fail_by(result),
        }
    }

    /// Checks, after the device has installed the package, that it runs the version that the application wants;
    /// otherwise the job fails.
    fn verify(&mut self) {
        self.update_ends = None;
        self.poll_at = None;
        self.enter(Phase::Verifying);
        if self.spec.version.is_some() {
            self.step = Step::ReadFirmwareVersion;
        } else {
            self.succeed();
        }
    }

    fn succeed(&mut self) {
        self.end(Phase::Succeeded, None, None);
    }

    fn has_version(&self, entries: &[Entry], path: Path) -> bool {
        text(entries, path).is_some_and(|text| Some(text) == self.spec.version.as_deref())
    }

    fn package_version_path(&self) -> Path {
        let instance = instance_path(self.spec.instance);
        instance.child(resource::PACKAGE_VERSION).unwrap_or(instance)
    }
}
