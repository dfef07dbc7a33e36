//! The firmware update of one device as a state machine without IO.
//!
//! 1. *Preparing*: the object is read; a device that has a package already goes back to idle. State and Update Result
//!    are observed, or read now and then if the device does not let itself be observed.
//! 2. *Downloading*: the device fetches the package from a URI (pull), or the gateway writes it block by block (push).
//! 3. *Downloaded*: the device has the package, and installs it by the Update command, at once or when the application
//!    says so.
//! 4. *Updating*: the device installs the package, usually reboots, and tells an Update Result.
//! 5. *Verifying*: the version that runs is compared with the one that the application wants.
//!
//! A request that is not answered makes the job wait for the next message of the device. Then, and after each Register,
//! the object is read again, and the job goes on from what the device tells: [`answers`](self). There is no limit on
//! the whole. A job fails if nothing has moved for `firmware.stall_timeout` of the time that the device is awake, or if
//! an Update Result is not there after `firmware.update_timeout`.

mod answers;
mod awake;
mod request;
mod spec;
mod telling;
mod told;

use std::time::Instant;

use lwm2m_base::secret::Secret;
use serde::{Deserialize, Serialize};

use crate::coap::Code;
use crate::command::firmware::{JobStatus, Method, MethodChoice, Phase, UpdateError};
use crate::lwm2m::firmware::{Delivery, State, firmware_version_path, instance_path, resource};

use super::config::FirmwareConfig;
use super::pulls::Fetched;

use awake::AwakeClock;
use told::Told;

pub(in crate::gateway) use answers::Answer;
pub(in crate::gateway) use request::{JobRefusal, JobRequest, PullOffer, PushFormat};
pub(in crate::gateway) use spec::{JobSpec, Package};

/// Limits the changes of the state that count as progress while no bytes of the image move. An update that goes well
/// has four.
const MOST_STATE_CHANGES: u32 = 64;

/// Limits the requests to drop a package that a device leaves unanswered.
const MOST_UNANSWERED_DROPS: u32 = 3;

/// The progress of a job as the store has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::gateway) struct JobProgress {
    phase: Phase,
    method: Option<Method>,
    attempt: u32,
    /// Bytes of the image that the device has.
    bytes: u64,
    /// Bytes that the device had fetched without a gap in its most successful attempt.
    #[serde(default)]
    fetched_before: u64,
    /// Whether the job is over, but the device may hold a part of the package and was not told to drop it.
    #[serde(default)]
    owes_drop: bool,
    /// The changes of the state since the last byte was transferred.
    #[serde(default)]
    state_changes: u32,
    told: Told,
    /// Whether the device has accepted the URI, or the push has begun.
    begun: bool,
    /// Whether the device has accepted the last block of a push.
    pushed: bool,
    /// Whether the Update command was sent.
    executed: bool,
    /// Whether the application has ordered the installation of the package.
    activated: bool,
    /// The content of the last event.
    last: JobStatus,
}

/// The next step of the job. While `asked` is set, its request is on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Waits for a message of the device.
    Await,
    ReadObject,
    ClearUri,
    ClearPackage,
    ObserveState,
    ObserveResult,
    WriteUri,
    Push(PushFormat),
    ReadState,
    ReadResult,
    /// Reads the Update Result after the device has refused a request with this code.
    Explain(Code),
    Execute,
    ReadFirmwareVersion,
    ReadPackageVersion,
    /// Executes Cancel. The job is over, and the device may still hold a part of the package.
    CancelDownload,
    /// Waits for an event of the device or of the application.
    Watch,
    Done,
}

/// Whether State and Update Result are observed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Watching {
    state: bool,
    result: bool,
}

#[derive(Debug)]
pub(in crate::gateway) struct Job {
    spec: JobSpec,
    progress: JobProgress,
    step: Step,
    asked: bool,
    watching: Watching,
    offer: Option<PullOffer>,
    /// The delivery methods and the protocols that the device has.
    delivery: Delivery,
    protocols: Vec<i64>,
    /// Whether the object has the resource Cancel.
    can_cancel: bool,
    /// Whether the next start-over is due to a restart of the gateway, which does not count as an attempt.
    was_restored: bool,
    /// Whether the state has been Downloading since the transfer began.
    seen_downloading: bool,
    clock: AwakeClock,
    /// The number of requests without an answer after the end of the job.
    unanswered_drops: u32,
    /// The time of the disk's first error since the last success.
    unreadable_since: Option<Instant>,
    poll_at: Option<Instant>,
    update_ends: Option<Instant>,
    /// The time at which progress was published last, and the bytes that it named.
    told_progress: (Instant, u64),
    /// The time at which the owner checks the progress of a push.
    look_at: Option<Instant>,
    events: Vec<JobStatus>,
}

impl Job {
    /// Begins a job for a device that is registered and awake, or asleep.
    pub(crate) fn new(now: Instant, spec: JobSpec, awake: bool) -> Self {
        let method = match (&spec.package, spec.method) {
            (Package::Uri(_), _) | (_, MethodChoice::Pull) => Some(Method::Pull),
            (_, MethodChoice::Push) => Some(Method::Push),
            (_, MethodChoice::Auto) => None,
        };
        let phase = if awake { Phase::Preparing } else { Phase::Waiting };
        let mut told = Told::default();
        told.begin();
        let last = JobStatus {
            job: spec.label,
            phase,
            method,
            state: None,
            result: None,
            bytes: None,
            size: None,
            attempt: 1,
            error: None,
            code: None,
        };
        let activated = spec.activate;
        let (attempt, bytes, fetched_before, state_changes) = (1, 0, 0, 0);
        let (begun, pushed, executed) = (false, false, false);
        let progress = JobProgress {
            phase,
            method,
            attempt,
            bytes,
            fetched_before,
            owes_drop: false,
            state_changes,
            told,
            begun,
            pushed,
            executed,
            activated,
            last,
        };
        let mut job = Self::of(now, spec, progress, awake);
        job.tell();
        job
    }

    /// Restores a job of an earlier process, whether or not its device is registered.
    pub(crate) fn restored(now: Instant, spec: JobSpec, progress: JobProgress, update_ends: Option<Instant>) -> Self {
        let mut job = Self::of(now, spec, progress, false);
        job.was_restored = true;
        job.update_ends = update_ends;
        if job.is_over() {
            job.step = job.step_after_end();
        }
        job
    }

    fn of(now: Instant, spec: JobSpec, progress: JobProgress, awake: bool) -> Self {
        let progress_bytes = progress.bytes;
        Self {
            spec,
            progress,
            step: Step::ReadObject,
            asked: false,
            watching: Watching::default(),
            offer: None,
            delivery: Delivery::of(None),
            protocols: Vec::new(),
            can_cancel: false,
            was_restored: false,
            seen_downloading: false,
            clock: AwakeClock::new(now, awake),
            unanswered_drops: 0,
            unreadable_since: None,
            poll_at: None,
            update_ends: None,
            told_progress: (now, progress_bytes),
            look_at: None,
            events: Vec::new(),
        }
    }

    /// Takes the registration of the device, with what it allows. A device that has registered again has lost its
    /// observations and the request in flight.
    pub(crate) fn registered(&mut self, now: Instant, offer: Option<PullOffer>, can_cancel: bool, awake: bool) {
        self.offer = offer;
        self.can_cancel = can_cancel;
        self.clock.set_awake(now, awake);
        self.watching = Watching::default();
        self.poll_at = None;
        self.asked = false;
        self.step = if self.is_over() { self.step_after_end() } else { Step::ReadObject };
    }

    /// Notes that the registration of the device has ended.
    pub(crate) fn left(&mut self, now: Instant) {
        self.clock.set_awake(now, false);
        self.asked = false;
        self.poll_at = None;
        self.step = if self.is_over() && !self.progress.owes_drop { Step::Done } else { Step::Await };
    }

    /// Notes that the device has fallen asleep, or has woken up.
    pub(crate) fn set_awake(&mut self, now: Instant, awake: bool) {
        self.clock.set_awake(now, awake);
    }

    /// Notes that the device has sent a message of its own.
    pub(crate) fn heard(&mut self) {
        if self.step == Step::Await {
            self.step = if self.is_over() { self.step_after_end() } else { Step::ReadObject };
        }
    }

    /// Notes that the exchange of the request was given up.
    pub(crate) fn given_up(&mut self) {
        self.asked = false;
        if !self.is_over() {
            self.step = Step::Await;
        }
    }

    /// Returns the next request to the device, if there is one now. The owner sends it, and passes the answer to
    /// [`Job::answered`].
    pub(crate) fn next_request(&mut self, now: Instant, config: &FirmwareConfig) -> Option<JobRequest> {
        if self.asked {
            return None;
        }
        let path = instance_path(self.spec.instance);
        let of = |id| path.child(id).unwrap_or(path);
        let request = match self.step {
            Step::Await | Step::Watch | Step::Done => return None,
            Step::ReadObject => JobRequest::Read(path),
            Step::ClearUri => JobRequest::WriteUri(of(resource::PACKAGE_URI), Secret::new("")),
            Step::ClearPackage => JobRequest::ClearPackage(of(resource::PACKAGE)),
            Step::ObserveState => JobRequest::Observe(of(resource::STATE)),
            Step::ObserveResult => JobRequest::Observe(of(resource::UPDATE_RESULT)),
            Step::WriteUri => JobRequest::WriteUri(of(resource::PACKAGE_URI), self.uri()?),
            Step::Push(format) => JobRequest::Push(of(resource::PACKAGE), format),
            Step::ReadState => JobRequest::Read(of(resource::STATE)),
            Step::ReadResult | Step::Explain(_) => JobRequest::Read(of(resource::UPDATE_RESULT)),
            Step::Execute => JobRequest::Execute(of(resource::UPDATE)),
            Step::ReadFirmwareVersion => JobRequest::Read(firmware_version_path()),
            Step::ReadPackageVersion => JobRequest::Read(of(resource::PACKAGE_VERSION)),
            Step::CancelDownload => JobRequest::Execute(of(resource::CANCEL)),
        };
        self.sends(now, config);
        Some(request)
    }

    /// Installs the package that the device has.
    pub(crate) fn activate(&mut self) -> Result<(), JobRefusal> {
        if self.progress.phase != Phase::Downloaded {
            return Err(JobRefusal::NOTHING_DOWNLOADED);
        }
        self.progress.activated = true;
        if self.step == Step::Watch {
            self.step = Step::Execute;
        }
        Ok(())
    }

    /// Ends the job. Its exchange is given up. A device that may hold a part of the package is asked to drop it.
    pub(crate) fn cancel(&mut self) -> Result<(), JobRefusal> {
        let is_updating = self.progress.told.state() == Some(State::Updating);
        // The answer to Execute may be lost while the device installs.
        if is_updating || self.progress.executed || matches!(self.progress.phase, Phase::Updating | Phase::Verifying) {
            return Err(JobRefusal::INSTALLING);
        }
        let has_begun = self.progress.begun;
        self.asked = false;
        self.end(Phase::Cancelled, None, None);
        self.progress.owes_drop = has_begun;
        self.step = self.step_after_end();
        Ok(())
    }

    /// Notes that the device has fetched a block of the image. A block that closes no gap is progress, too.
    pub(crate) fn fetched(&mut self, now: Instant, fetched: Fetched, config: &FirmwareConfig) {
        if fetched.is_new && self.pulls().is_some() {
            self.bytes_moved(now);
        }
        self.moved(now, fetched.bytes, config);
    }

    /// Notes that the device has this many bytes of the image, without a gap.
    pub(crate) fn moved(&mut self, now: Instant, bytes: u64, config: &FirmwareConfig) {
        if self.progress.phase != Phase::Downloading || bytes <= self.progress.bytes {
            return;
        }
        self.progress.bytes = bytes;
        self.bytes_moved(now);
        if Some(bytes) == self.size() && self.progress.method == Some(Method::Pull) {
            // The device has all bytes, and should report it. Its notification may be lost.
            self.poll_at = Some(now + config.poll_interval);
        }
        self.tell_progress(now, config);
    }

    /// Fails the job because the file of the image has changed.
    pub(crate) fn lost_image(&mut self) {
        if matches!(self.progress.phase, Phase::Waiting | Phase::Preparing | Phase::Downloading) {
            self.fail(UpdateError::ImageChanged, None);
        }
    }

    /// Notes that the file of the image cannot be read now. The job fails if that lasts for `firmware.stall_timeout`.
    pub(crate) fn image_unreadable(&mut self, now: Instant, config: &FirmwareConfig) {
        let since = *self.unreadable_since.get_or_insert(now);
        if self.progress.phase == Phase::Downloading && now.saturating_duration_since(since) >= config.stall_timeout {
            self.fail(UpdateError::ImageUnreadable, None);
        }
    }

    /// Fails the job because the device has not come back, although its lifetime has passed twice.
    pub(crate) fn lost_device(&mut self) {
        self.fail(UpdateError::Lost, None);
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, now: Instant, config: &FirmwareConfig) {
        if self.is_over() {
            return;
        }
        if self.update_ends.is_some_and(|at| at <= now) {
            return self.fail(UpdateError::Lost, None);
        }
        if self.can_stall() && self.clock.spent(now) >= config.stall_timeout {
            return self.fail(self.reason_of_stall(), None);
        }
        if self.poll_at.is_some_and(|at| at <= now) {
            self.poll_at = None;
            if self.step == Step::Watch {
                self.step = Step::ReadState;
            }
        }
        self.look_at = self.is_pushing().then_some(now + config.progress_interval);
        self.tell_progress(now, config);
    }

    /// Returns when [`Job::handle_timeout`] has to be called; `None` if nothing is due before the device does
    /// something.
    pub(crate) fn next_deadline(&self, config: &FirmwareConfig) -> Option<Instant> {
        if self.is_over() {
            return None;
        }
        let stalls = if self.can_stall() { self.clock.reaches(config.stall_timeout) } else { None };
        let (told_at, told) = self.told_progress;
        let has_news = self.progress.phase == Phase::Downloading && told < self.progress.bytes;
        let progress = has_news.then_some(told_at + config.progress_interval);
        let look = self.look_at.filter(|_| self.is_pushing());
        [self.update_ends, stalls, self.poll_at, progress, look].into_iter().flatten().min()
    }

    /// Takes the events since the last call, in their order.
    pub(crate) fn take_events(&mut self) -> Vec<JobStatus> {
        std::mem::take(&mut self.events)
    }

    /// Returns the content of the last event.
    pub(crate) fn status(&self) -> &JobStatus {
        &self.progress.last
    }

    pub(crate) fn spec(&self) -> &JobSpec {
        &self.spec
    }

    pub(crate) fn progress(&self) -> &JobProgress {
        &self.progress
    }

    /// Returns the bytes of the image that the device has, if it is fetching them now.
    pub(crate) fn pulls(&self) -> Option<u64> {
        let pulls = self.progress.phase == Phase::Downloading && self.progress.method == Some(Method::Pull);
        pulls.then_some(self.progress.bytes)
    }

    /// Returns the number of bytes of the image that the device had fetched without a gap in an earlier attempt.
    pub(crate) fn fetched_before(&self) -> u64 {
        self.progress.fetched_before
    }

    /// Returns whether the request on the way is the push of the image.
    pub(crate) fn is_pushing(&self) -> bool {
        self.asked && matches!(self.step, Step::Push(_))
    }

    /// Returns whether the next request waits only for its turn.
    pub(crate) fn wants_request(&self) -> bool {
        !self.asked && !matches!(self.step, Step::Await | Step::Watch | Step::Done)
    }

    /// Returns whether the job is over, and the device still has to be told to drop what it holds.
    pub(crate) fn owes_drop(&self) -> bool {
        self.progress.owes_drop
    }

    /// Returns whether the job has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.progress.phase.is_end()
    }

    /// Returns whether the job needs nothing from the device any more.
    #[cfg(test)]
    pub(crate) fn is_done(&self) -> bool {
        self.step == Step::Done
    }

    pub(crate) fn was_restored(&self) -> bool {
        self.was_restored
    }

    /// Returns the time at which an update without result fails.
    pub(crate) fn update_ends(&self) -> Option<Instant> {
        self.update_ends
    }

    /// Returns whether time without progress makes the job fail now. It does not while the job waits for the
    /// application, or while the device installs, which has its own time limit.
    fn can_stall(&self) -> bool {
        match self.progress.phase {
            Phase::Waiting | Phase::Preparing | Phase::Downloading | Phase::Verifying => true,
            Phase::Downloaded => self.progress.activated && !self.progress.executed,
            Phase::Updating | Phase::Succeeded | Phase::Failed | Phase::Cancelled | Phase::Deferred => false,
        }
    }

    /// Notes that the request of this step is sent.
    fn sends(&mut self, now: Instant, config: &FirmwareConfig) {
        self.asked = true;
        match self.step {
            Step::ReadObject if self.progress.phase == Phase::Waiting => self.enter(Phase::Preparing),
            Step::WriteUri | Step::Push(_) => {
                // The device clears its last result when a transfer begins. Until it reports another one, the known
                // result is the old one.
                self.progress.told.begin();
                self.progress.begun = true;
                self.seen_downloading = false;
                if self.step == Step::WriteUri {
                    self.progress.fetched_before = self.progress.fetched_before.max(self.progress.bytes);
                }
                self.progress.bytes = 0;
                self.progress.pushed = false;
                self.told_progress = (now, 0);
                self.look_at = Some(now + config.progress_interval).filter(|_| self.is_pushing());
                self.enter(Phase::Downloading);
            }
            Step::Execute => {
                self.progress.told.begin();
                self.progress.executed = true;
                self.update_ends.get_or_insert(now + config.update_timeout);
            }
            Step::Await
            | Step::ReadObject
            | Step::ClearUri
            | Step::ClearPackage
            | Step::ObserveState
            | Step::ObserveResult
            | Step::ReadState
            | Step::ReadResult
            | Step::Explain(_)
            | Step::ReadFirmwareVersion
            | Step::ReadPackageVersion
            | Step::CancelDownload
            | Step::Watch
            | Step::Done => {}
        }
    }

    /// Returns the step that tells a device to drop the part of the package that it may hold.
    fn step_after_end(&self) -> Step {
        match (self.progress.owes_drop, self.can_cancel) {
            (true, true) => Step::CancelDownload,
            (true, false) => Step::ClearUri,
            (false, _) => Step::Done,
        }
    }

    /// Notes that the device has got bytes of the image.
    fn bytes_moved(&mut self, now: Instant) {
        self.clock.reset(now);
        self.progress.state_changes = 0;
        self.unreadable_since = None;
    }

    /// Notes that the device reports another state. That counts as progress only a limited number of times, because a
    /// device may change its state without end.
    fn state_changed(&mut self, now: Instant) {
        self.progress.state_changes = self.progress.state_changes.saturating_add(1);
        if self.progress.state_changes <= MOST_STATE_CHANGES {
            self.clock.reset(now);
        }
    }

    fn reason_of_stall(&self) -> UpdateError {
        match self.unreadable_since {
            Some(_) => UpdateError::ImageUnreadable,
            None => UpdateError::Stalled,
        }
    }

    fn uri(&self) -> Option<Secret> {
        match &self.spec.package {
            Package::Uri(uri) => Some(uri.clone()),
            Package::Image { .. } => self.offer.as_ref().map(|offer| offer.uri.clone()),
        }
    }

    fn size(&self) -> Option<u64> {
        self.spec.image().map(|image| image.size)
    }
}

#[cfg(test)]
mod tests;
