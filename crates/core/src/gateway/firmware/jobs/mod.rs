//! The firmware updates of all devices.
//!
//! A job belongs to an endpoint, not to a registration: it goes on when its device registers again. While the device is
//! not registered the job waits, until its lifetime has passed twice since its last message. A job that is over is kept
//! until the next Register, for those who ask how it ended.

mod control;
pub(in crate::gateway) mod job_id;
mod offering;
pub mod record;
mod stored;
pub(in crate::gateway) mod update;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::command::Echo;
use crate::command::firmware::JobStatus;
use crate::lwm2m::codec::Entry;
use crate::lwm2m::firmware::OBJECT;
use crate::lwm2m::model::Version;
use crate::lwm2m::path::Path;
use crate::mqtt::uplink;
use crate::registry::{Device, RegistrationId};
use lwm2m_base::deadlines::IdDeadlines;
use lwm2m_base::id_map::IdMap;

use super::image::{Image, ImageName, ImageRequestId};
use super::job::{Answer, Job, JobRequest, JobSpec, Package};
use super::pulls::Fetched;
use crate::gateway::broker::{Publication, UplinkClass};
use crate::gateway::client::allowed_silence;
use crate::gateway::context::Context;
use crate::gateway::persistence::pending_changes::PendingChanges;
use crate::gateway::report::Report;

use job_id::JobId;
use offering::{offer, pull_offer};
use update::PendingUpdate;

/// Owns the jobs, and the updates that wait for the description of their image. It sends nothing to devices: the
/// command scheduler asks it for the next request.
#[derive(Debug, Default)]
pub(in crate::gateway) struct FirmwareJobs {
    jobs: IdMap<JobId, OwnedJob>,
    by_endpoint: HashMap<Arc<str>, JobId>,
    by_registration: IdMap<RegistrationId, JobId>,
    /// The ended jobs, in the order of their ends.
    ended: BTreeMap<u64, JobId>,
    last_ended: u64,
    deadlines: IdDeadlines<JobId>,
    /// The updates that wait for the description of their image, by its name. They share one description.
    pending: HashMap<ImageName, (ImageRequestId, Vec<PendingUpdate>)>,
    /// The endpoints with an update that waits.
    pending_endpoints: HashSet<Arc<str>>,
    /// The endpoints whose stored record is out of date.
    changes: PendingChanges,
    last_id: u64,
}

/// Limits the commands of applications that are sent before the request of a job, so that no application holds up an
/// update for ever.
const MOST_PASSED_OVER: u32 = 8;

/// A job and its device.
#[derive(Debug)]
struct OwnedJob {
    endpoint: Arc<str>,
    job: Job,
    /// The `firmware-update`, whose members each event repeats.
    echo: Echo,
    registration: Option<RegistrationId>,
    /// The longest silence of the device, by its newest registration.
    silence: Duration,
    /// The time at which the job ends if the device does not register again.
    ends: Option<Instant>,
    /// The place of an ended job among the ended jobs.
    ended: Option<u64>,
    /// Whether the job had ended before the last Register: it is kept only to tell the device to drop the part of the
    /// package that it holds.
    is_left_over: bool,
    /// The commands of applications that went to the device while the job wanted to send a request.
    passed_over: u32,
    /// Whether the device may fetch the image now.
    is_offered: bool,
    /// The time at which the next bytes of a push are asked for again, because too many consumers wanted some.
    read_again: Option<Instant>,
}

/// Begin, end and time of jobs.
impl FirmwareJobs {
    /// Begins a job for a registered device. Its former job is forgotten.
    pub(crate) fn begin(&mut self, context: &mut Context, device: &Device, spec: JobSpec, echo: Echo) -> JobId {
        let endpoint: Arc<str> = device.registration.endpoint.as_str().into();
        if let Some(former) = self.by_endpoint.get(&endpoint).copied() {
            self.forget(context, former);
        }
        while self.jobs.len() >= context.config.limits.firmware_jobs
            && let Some(oldest) = self.ended.values().next().copied()
        {
            self.forget(context, oldest);
        }
        let job = Job::new(context.now, spec, device.is_awake(context.now));
        let id = self.insert(endpoint, job, echo);
        self.attach(context, device, id);
        id
    }

    /// Continues the job of a device that has registered. A job that had ended is forgotten.
    pub(crate) fn registered(&mut self, context: &mut Context, device: &Device) {
        let Some(id) = self.by_endpoint.get(device.registration.endpoint.as_str()).copied() else { return };
        if let Some(owned) = self.jobs.get_mut(&id)
            && owned.job.is_over()
        {
            owned.is_left_over = true;
            if !owned.job.owes_drop() {
                return self.forget(context, id);
            }
        }
        self.attach(context, device, id);
    }

    /// Notes that the registration has ended. The job waits for another one.
    pub(crate) fn left(&mut self, context: &mut Context, device: &Device) {
        let Some(id) = self.by_registration.remove(&device.id) else { return };
        let Some(owned) = self.jobs.get_mut(&id) else { return };
        let silence = allowed_silence(&context.config, &device.registration);
        owned.registration = None;
        owned.ends = Some(device.last_heard() + silence + silence);
        owned.silence = silence;
        owned.read_again = None;
        owned.job.left(context.now);
        if owned.job.is_over() && !owned.job.owes_drop() {
            return self.forget(context, id);
        }
        self.mark(id);
        self.schedule(context, id);
    }

    /// Takes a message of a device.
    pub(crate) fn heard_from(&mut self, context: &Context, device: &Device) {
        let Some(id) = self.id_of(device.id) else { return };
        if let Some(owned) = self.jobs.get_mut(&id) {
            owned.job.set_awake(context.now, true);
            owned.job.heard();
        }
        self.schedule(context, id);
    }

    /// Notes that the device has fallen asleep.
    pub(crate) fn fell_asleep(&mut self, now: Instant, device: &Device) {
        if let Some(owned) = self.of_mut(device.id) {
            owned.job.set_awake(now, false);
        }
    }

    /// Returns a job for which something is due.
    pub(crate) fn pop_expired(&mut self, now: Instant) -> Option<JobId> {
        self.deadlines.pop_expired(now)
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.next()
    }

    /// Does what is due for a job whose device is not registered.
    pub(crate) fn handle_timeout_unregistered(&mut self, context: &mut Context, id: JobId) {
        let Some(owned) = self.jobs.get_mut(&id) else { return };
        let is_lost = owned.ends.is_some_and(|at| at <= context.now);
        if is_lost {
            owned.job.lost_device();
        } else {
            owned.job.handle_timeout(context.now, &context.config.firmware);
        }
        self.settle(context, None, id);
        let is_over = |job: &Job| job.is_over() && (is_lost || !job.owes_drop());
        if self.jobs.get(&id).is_some_and(|owned| is_over(&owned.job)) {
            self.forget(context, id);
        }
    }

    /// Does what is due for the job of this device. `uploaded` is the number of bytes that a push has transferred.
    /// Returns whether its next bytes are to be asked for again.
    pub(crate) fn handle_timeout(&mut self, context: &Context, device: &Device, uploaded: Option<u64>) -> bool {
        let Some(owned) = self.of_mut(device.id) else { return false };
        let (now, config) = (context.now, &context.config.firmware);
        if let Some(bytes) = uploaded {
            owned.job.moved(now, bytes, config);
        }
        owned.job.handle_timeout(now, config);
        let reads_again = owned.read_again.is_some_and(|at| at <= now);
        if reads_again {
            owned.read_again = None;
        }
        reads_again
    }

    /// Publishes the events of a job, and updates everything that depends on the job. Returns whether it has just
    /// ended.
    pub(crate) fn settle(&mut self, context: &mut Context, device: Option<&Device>, id: JobId) -> bool {
        let Some(owned) = self.jobs.get_mut(&id) else { return false };
        let events = owned.job.take_events();
        let has_ended = events.iter().any(|event| event.phase.is_end());
        offer(context, device, id, owned);
        for status in events {
            tell(context, device, owned, status);
        }
        if owned.is_left_over && !owned.job.owes_drop() {
            self.forget(context, id);
            return has_ended;
        }
        if has_ended {
            self.note_end(id);
        }
        self.mark(id);
        self.schedule(context, id);
        has_ended
    }

    fn note_end(&mut self, id: JobId) {
        let Some(owned) = self.jobs.get_mut(&id) else { return };
        self.last_ended += 1;
        owned.ended = Some(self.last_ended);
        self.ended.insert(self.last_ended, id);
    }

    fn insert(&mut self, endpoint: Arc<str>, job: Job, echo: Echo) -> JobId {
        self.last_id += 1;
        let id = JobId(self.last_id);
        self.by_endpoint.insert(Arc::clone(&endpoint), id);
        let is_over = job.is_over();
        let (registration, silence, ends, ended) = (None, Duration::ZERO, None, None);
        let (is_offered, read_again) = (false, None);
        let (is_left_over, passed_over) = (false, 0);
        let owned = OwnedJob {
            endpoint,
            job,
            echo,
            registration,
            silence,
            ends,
            ended,
            is_left_over,
            passed_over,
            is_offered,
            read_again,
        };
        self.jobs.insert(id, owned);
        if is_over {
            self.note_end(id);
        }
        id
    }

    /// Joins a job to a registration of its device.
    fn attach(&mut self, context: &mut Context, device: &Device, id: JobId) {
        let Some(owned) = self.jobs.get_mut(&id) else { return };
        owned.registration = Some(device.id);
        owned.silence = allowed_silence(&context.config, &device.registration);
        owned.ends = None;
        // Another identity may fetch the image now.
        owned.is_offered = false;
        let pull_offer = pull_offer(context, device, owned.job.spec());
        let can_cancel = device.registration.object_version(OBJECT).version() >= Version::LWM2M_1_1;
        owned.job.registered(context.now, pull_offer, can_cancel, device.is_awake(context.now));
        self.by_registration.insert(device.id, id);
        self.mark(id);
        self.settle(context, Some(device), id);
    }

    fn forget(&mut self, context: &mut Context, id: JobId) {
        let Some(owned) = self.jobs.remove(&id) else { return };
        context.pulls.withdraw(id);
        if let Some(place) = owned.ended {
            self.ended.remove(&place);
        }
        self.deadlines.cancel(id);
        self.by_endpoint.remove(&owned.endpoint);
        if let Some(registration) = owned.registration {
            self.by_registration.remove(&registration);
        }
        self.changes.mark(&owned.endpoint);
    }

    /// Sets the next deadline. A deadline that moves to a later time is moved when the old one is reached, so that a
    /// block which a device fetches costs little.
    fn schedule(&mut self, context: &Context, id: JobId) {
        let Some(owned) = self.jobs.get(&id) else { return };
        let due = [owned.job.next_deadline(&context.config.firmware), owned.ends, owned.read_again];
        match due.into_iter().flatten().min() {
            Some(at) if self.deadlines.get(id).is_none_or(|set| at < set) => self.deadlines.set(id, at),
            Some(_) => {}
            None => self.deadlines.cancel(id),
        }
    }

    fn mark(&mut self, id: JobId) {
        if let Some(owned) = self.jobs.get(&id) {
            self.changes.mark(&owned.endpoint);
        }
    }

    fn of_mut(&mut self, registration: RegistrationId) -> Option<&mut OwnedJob> {
        self.jobs.get_mut(self.by_registration.get(&registration)?)
    }

    fn of(&self, registration: RegistrationId) -> Option<&OwnedJob> {
        self.jobs.get(self.by_registration.get(&registration)?)
    }
}

/// Takes answers, notifications and block requests of devices.
impl FirmwareJobs {
    /// Returns the next request of the job of this device.
    pub(crate) fn next_request(&mut self, context: &mut Context, device: &Device) -> Option<JobRequest> {
        let id = self.id_of(device.id)?;
        let owned = self.jobs.get_mut(&id)?;
        let request = owned.job.next_request(context.now, &context.config.firmware)?;
        owned.passed_over = 0;
        self.settle(context, Some(device), id);
        Some(request)
    }

    /// Notes that a command of an application is sent to this device before the request of its job.
    pub(crate) fn passed_over(&mut self, registration: RegistrationId) {
        if let Some(owned) = self.of_mut(registration)
            && owned.job.wants_request()
        {
            owned.passed_over += 1;
        }
    }

    /// Returns whether the request of the job of this device precedes the commands of applications, because enough of
    /// them were sent before it.
    pub(crate) fn is_due(&self, registration: RegistrationId) -> bool {
        self.of(registration).is_some_and(|owned| owned.passed_over >= MOST_PASSED_OVER && owned.job.wants_request())
    }

    pub(crate) fn answered(&mut self, context: &Context, device: &Device, answer: Answer<'_>) {
        if let Some(owned) = self.of_mut(device.id) {
            owned.job.answered(context.now, answer, &context.config.firmware);
        }
    }

    pub(crate) fn notified(&mut self, context: &Context, device: &Device, entries: &[Entry]) {
        if let Some(owned) = self.of_mut(device.id) {
            owned.job.notified(context.now, entries, &context.config.firmware);
        }
    }

    pub(crate) fn observation_ended(&mut self, context: &Context, device: &Device, path: Path) {
        if let Some(owned) = self.of_mut(device.id) {
            owned.job.observation_ended(context.now, path, &context.config.firmware);
        }
    }

    /// Notes that the exchange of the job was given up.
    pub(crate) fn given_up(&mut self, device: &Device) {
        if let Some(owned) = self.of_mut(device.id) {
            owned.job.given_up();
        }
    }

    /// Notes that a device has fetched a block of its image.
    pub(crate) fn pulled(&mut self, context: &mut Context, device: Option<&Device>, id: JobId, fetched: Fetched) {
        let Some(owned) = self.jobs.get_mut(&id) else { return };
        owned.job.fetched(context.now, fetched, &context.config.firmware);
        let events = owned.job.take_events();
        let has_news = !events.is_empty();
        for status in events {
            tell(context, device, owned, status);
        }
        if has_news {
            self.mark(id);
        }
        self.schedule(context, id);
    }

    /// Notes that the file of the image of a job cannot be read now.
    pub(crate) fn image_unreadable(&mut self, context: &Context, id: JobId) {
        if let Some(owned) = self.jobs.get_mut(&id) {
            owned.job.image_unreadable(context.now, &context.config.firmware);
        }
    }

    /// Fails a job because the file of its image has changed.
    pub(crate) fn lost_image(&mut self, id: JobId) {
        if let Some(owned) = self.jobs.get_mut(&id) {
            owned.job.lost_image();
        }
    }

    /// Asks for the next bytes of a push again after a while.
    pub(crate) fn read_later(&mut self, context: &Context, id: JobId, at: Instant) {
        if let Some(owned) = self.jobs.get_mut(&id) {
            owned.read_again = Some(at);
        }
        self.schedule(context, id);
    }

    /// Returns the image that the job of this device pushes now.
    pub(crate) fn pushed(&self, registration: RegistrationId) -> Option<(JobId, ImageName, Image)> {
        let id = self.id_of(registration)?;
        let job = &self.jobs.get(&id)?.job;
        match &job.spec().package {
            Package::Image { name, image } if job.is_pushing() => Some((id, name.clone(), *image)),
            Package::Image { .. } | Package::Uri(_) => None,
        }
    }
}

/// Look-ups, and the records of the store.
impl FirmwareJobs {
    pub(crate) fn id_of(&self, registration: RegistrationId) -> Option<JobId> {
        self.by_registration.get(&registration).copied()
    }

    /// Returns the last event of the job of this endpoint.
    pub(crate) fn status_of(&self, endpoint: &str) -> Option<&JobStatus> {
        Some(self.jobs.get(self.by_endpoint.get(endpoint)?)?.job.status())
    }

    pub(crate) fn registration_of(&self, id: JobId) -> Option<RegistrationId> {
        self.jobs.get(&id)?.registration
    }

    /// Returns the size of the blocks of a push that the command named.
    pub(crate) fn block_size(&self, registration: RegistrationId) -> Option<usize> {
        self.of(registration)?.job.spec().block_size.map(usize::from)
    }

    /// Returns whether the job of this device wants its observations.
    pub(crate) fn observes(&self, registration: RegistrationId) -> bool {
        self.of(registration).is_some_and(|owned| !owned.job.is_over())
    }

    /// Returns the number of jobs, including ended ones, and of updates that wait for their image.
    pub(crate) fn len(&self) -> usize {
        self.jobs.len() + self.pending_endpoints.len()
    }

    /// Returns the number of jobs that have not ended, and of updates that wait for their image.
    pub(crate) fn running(&self) -> usize {
        self.len() - self.ended.len()
    }

    pub(crate) fn deadlines(&self) -> usize {
        self.deadlines.len()
    }
}

/// Publishes an event by the session of the device, if there is one, and reports it.
fn tell(context: &mut Context, device: Option<&Device>, owned: &OwnedJob, status: JobStatus) {
    if let Some(device) = device {
        let payload = uplink::firmware::event(&owned.echo, &status);
        let publication = Publication::new(device.topics.firmware(), payload, UplinkClass::Answer);
        context.publish(device.publishes_as, publication);
    }
    context.campaign_inbox.job_event(&owned.endpoint, &status);
    context.report(Report::FirmwareUpdate { endpoint: owned.endpoint.to_string(), status: Box::new(status) });
}
