//! A campaign: the firmware update of many devices, as a state machine without IO.
//!
//! 1. The campaign is told which devices can be reached (`Campaign::heard_from`). Those that it selects are its
//!    members. It asks for one action at a time (`Campaign::next_action`), and is told what came of it.
//! 2. A member that is awake is asked for the resources of the filter and for its version. It is done with if it has
//!    the version or does not match.
//! 3. It is updated when there is room ([`spec::CampaignSpec::concurrency`]), the pace allows it, the window is open
//!    and the campaign runs. The job of the device does the rest, and its end is the outcome.
//! 4. A device that sleeps or does not answer waits for its next message, and takes no place of others meanwhile.
//! 5. The campaign is over when all listed devices have an outcome, when its duration is over, or when it is cancelled.
//!
//! [`spec`] has what a campaign is to do, [`window`] the time of the day, [`member`] the state of one device.

mod control;
pub mod member;
pub mod record;
pub mod spec;
#[cfg(test)]
mod tests;
pub mod view;
pub mod window;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::coap::Code;
use crate::command::firmware::{JobLabel, JobStatus, Phase};
use crate::lwm2m::firmware::{OBJECT, resource};
use crate::lwm2m::path::Path;

use member::{Member, MemberOutcome, MemberState};
use spec::{CampaignSpec, Selection};
use view::Counts;

/// The devices of a campaign, at the most.
pub(crate) const MOST_MEMBERS: usize = 100_000;
/// The devices that are asked at once, and those that have been asked and wait for their turn.
const LOOK_AHEAD: usize = 16;
/// The time after which a device is tried again if another update of it runs, or if the gateway had no room for its
/// update.
const RETRY: Duration = Duration::from_secs(60);
/// Device: Firmware Version (LwM2M Core 1.1 appendix E.4).
const FIRMWARE_VERSION: [u16; 3] = [3, 0, 3];

/// The time of an event by both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    pub now: Instant,
    /// The time since 1970.
    pub unix: Duration,
}

/// The state of a campaign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CampaignStatus {
    Running,
    /// An operator paused it. Updates in progress continue.
    Paused,
    /// Too many updates failed. Updates in progress continue.
    Stopped,
    Cancelled,
    Completed,
}

/// The next action of a campaign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Read { endpoint: Arc<str>, path: Path },
    Update { endpoint: Arc<str> },
    Cancel { endpoint: Arc<str> },
}

/// The answer to [`Action::Read`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadAnswer {
    Value(String),
    /// The device has no such resource.
    Refused,
    /// The device did not answer.
    Unanswered,
}

/// The answer to [`Action::Update`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdateAnswer {
    Begun(JobLabel),
    Refused(Code),
    /// The device has left.
    Unanswered,
}

/// The updates that have failed, and those that have ended in success or failure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct CampaignProgress {
    failures: usize,
    ended: usize,
}

/// An event of a campaign, for its subscribers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CampaignEvent {
    /// The status of the campaign has changed. The first status is an event as well.
    Status(CampaignStatus),
    /// The campaign has completed a device: its outcome is final.
    Ended { endpoint: Arc<str>, outcome: MemberOutcome },
    /// A device is left out because there are [`MOST_MEMBERS`]. Only the first such device has an event.
    Full { endpoint: Arc<str> },
}

/// A campaign and its devices.
#[derive(Debug)]
pub struct Campaign {
    spec: CampaignSpec,
    status: CampaignStatus,
    /// The time since 1970 after which no update begins.
    ends: Duration,
    members: BTreeMap<Arc<str>, Member>,
    counts: Counts,
    /// The members that take a place of those that are updated at once.
    active: usize,
    asking: usize,
    /// The progress when the campaign was resumed. Earlier failures do not count any more.
    resumed_at: CampaignProgress,
    /// Members that can be reached, and have not been asked.
    reachable: VecDeque<Arc<str>>,
    /// Members that have answered, and are asked for the next resource.
    to_ask: VecDeque<Arc<str>>,
    /// Members that are to be updated.
    ready: VecDeque<Arc<str>>,
    /// Members that are tried again, in the order of their times.
    retries: VecDeque<(Instant, Arc<str>)>,
    /// Members whose update is to be cancelled.
    to_cancel: VecDeque<Arc<str>>,
    /// The time at which the pace allows the next update.
    next_start: Option<Instant>,
    events: Vec<CampaignEvent>,
    /// The members whose record is out of date.
    changed: Vec<Arc<str>>,
    has_changed: bool,
    is_full: bool,
    /// Whether its duration is over, so that no update begins any more.
    has_expired: bool,
}

impl CampaignProgress {
    fn of(counts: &Counts) -> Self {
        let failures = counts.of(MemberState::Failed);
        Self { failures, ended: failures + counts.of(MemberState::Succeeded) }
    }

    fn since(self, earlier: Self) -> Self {
        let failures = self.failures.saturating_sub(earlier.failures);
        Self { failures, ended: self.ended.saturating_sub(earlier.ended) }
    }
}

/// Takes events: time, devices that are heard, ends of updates.
impl Campaign {
    pub fn new(moment: Moment, spec: CampaignSpec) -> Self {
        let ends = moment.unix + spec.duration;
        let mut campaign = Self::with_status(spec, CampaignStatus::Running, ends);
        campaign.events.push(CampaignEvent::Status(CampaignStatus::Running));
        campaign.has_changed = true;
        campaign
    }

    /// Notes that a device can be reached: it has registered, or sent a message.
    pub(crate) fn heard_from(&mut self, endpoint: &str) {
        let Some((key, member)) = self.members.get_key_value(endpoint) else { return self.join(endpoint) };
        let (key, member) = (Arc::clone(key), *member);
        match member {
            Member::Waiting { is_queued: false } => {
                self.set(&key, Member::Waiting { is_queued: true });
                self.reachable.push_back(key);
            }
            Member::Ready { is_queued: false } => {
                self.set(&key, Member::Ready { is_queued: true });
                self.ready.push_back(key);
            }
            Member::Updating { is_cancelled: false, .. } if self.status == CampaignStatus::Cancelled => {
                self.cancel_update(&key);
            }
            Member::Waiting { .. }
            | Member::Asking { .. }
            | Member::Ready { .. }
            | Member::Starting
            | Member::Updating { .. }
            | Member::Ended(_) => {}
        }
    }

    /// Takes the answer to [`Action::Read`].
    pub fn read(&mut self, endpoint: &str, answer: &ReadAnswer) {
        let Some((key, Member::Asking { step })) = self.member(endpoint) else { return };
        if self.begins_nothing() {
            return self.end(&key, self.outcome_at_end());
        }
        let (step, value) = match answer {
            ReadAnswer::Unanswered => return self.set(&key, Member::Waiting { is_queued: false }),
            ReadAnswer::Refused => (usize::from(step), None),
            ReadAnswer::Value(value) => (usize::from(step), Some(value.as_str())),
        };
        let Some(path) = self.questions().get(step).copied() else { return };
        if let Some(outcome) = self.judge(path, value) {
            return self.end(&key, outcome);
        }
        if step + 1 < self.questions().len() {
            let step = u8::try_from(step + 1).unwrap_or(u8::MAX);
            self.set(&key, Member::Asking { step });
            return self.to_ask.push_back(key);
        }
        self.set(&key, Member::Ready { is_queued: true });
        self.ready.push_back(key);
    }

    /// Takes the answer to [`Action::Update`].
    pub fn begun(&mut self, now: Instant, endpoint: &str, answer: UpdateAnswer) {
        let Some((key, Member::Starting)) = self.member(endpoint) else { return };
        match answer {
            UpdateAnswer::Begun(job) => {
                self.set(&key, Member::Updating { job, is_away: false, is_cancelled: false });
                if self.status == CampaignStatus::Cancelled {
                    self.cancel_update(&key);
                }
            }
            _ if self.begins_nothing() => self.end(&key, self.outcome_at_end()),
            UpdateAnswer::Unanswered => self.set(&key, Member::Waiting { is_queued: false }),
            UpdateAnswer::Refused(Code::CONFLICT | Code::SERVICE_UNAVAILABLE) => {
                self.set(&key, Member::Waiting { is_queued: true });
                self.retries.push_back((now + RETRY, key));
            }
            UpdateAnswer::Refused(code) => self.end(&key, MemberOutcome::Refused(code)),
        }
    }

    /// Takes an event of the job of a device.
    pub(crate) fn job_event(&mut self, endpoint: &str, status: &JobStatus) {
        let Some((key, Member::Updating { job, is_away, is_cancelled })) = self.member(endpoint) else { return };
        if job != status.job {
            return;
        }
        if let Some(outcome) = MemberOutcome::of(status.phase, status.error) {
            return self.end(&key, outcome);
        }
        let waits = status.phase == Phase::Waiting;
        if waits != is_away {
            self.set(&key, Member::Updating { job, is_away: waits, is_cancelled });
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, moment: Moment) {
        while self.retries.front().is_some_and(|(at, _)| *at <= moment.now) {
            self.reachable.extend(self.retries.pop_front().map(|(_, key)| key));
        }
        if moment.unix >= self.ends && !self.begins_nothing() {
            self.has_expired = true;
            self.end_waiting(MemberOutcome::Absent);
        }
        self.complete();
    }

    /// Returns the next action. `is_awake` tells of an endpoint name whether its device can take a request.
    pub(crate) fn next_action(&mut self, moment: Moment, is_awake: impl Fn(&str) -> bool) -> Option<Action> {
        if let Some(endpoint) = self.to_cancel.pop_front() {
            return Some(Action::Cancel { endpoint });
        }
        if let Some(key) = self.to_ask.pop_front() {
            return self.question(&key);
        }
        if !self.begins_updates(moment) {
            return None;
        }
        while self.has_room() && self.next_start.is_none_or(|at| at <= moment.now) {
            let Some(key) = self.ready.pop_front() else { break };
            if !matches!(self.members.get(&key), Some(Member::Ready { is_queued: true })) {
                continue;
            }
            if is_awake(&key) {
                self.set(&key, Member::Starting);
                self.next_start = Some(moment.now + Duration::from_secs(60) / self.spec.pace);
                return Some(Action::Update { endpoint: key });
            }
            self.set(&key, Member::Ready { is_queued: false });
        }
        self.next_read(&is_awake)
    }

    /// Returns the next time at which something is due.
    pub fn next_deadline(&self, moment: Moment) -> Option<Instant> {
        if self.is_over() {
            return None;
        }
        let ends = self.ends.checked_sub(moment.unix).filter(|left| !left.is_zero()).map(|left| moment.now + left);
        let retry = self.retries.front().map(|(at, _)| *at);
        let waits_for_start =
            self.status == CampaignStatus::Running && !(self.ready.is_empty() && self.reachable.is_empty());
        let start = match self.spec.window {
            _ if !waits_for_start => None,
            Some(window) if !window.is_open(moment.unix) => Some(moment.now + window.time_to_open(moment.unix)),
            Some(_) | None => self.next_start.filter(|_| !self.ready.is_empty() && self.has_room()),
        };
        [ends, retry, start].into_iter().flatten().min()
    }

    /// Asks the next resource of a device that is being asked, or begins with another device.
    fn next_read(&mut self, is_awake: &impl Fn(&str) -> bool) -> Option<Action> {
        while self.asking < LOOK_AHEAD && self.ready.len() < LOOK_AHEAD {
            let key = self.reachable.pop_front()?;
            if !matches!(self.members.get(&key), Some(Member::Waiting { is_queued: true })) {
                continue;
            }
            if is_awake(&key) {
                self.set(&key, Member::Asking { step: 0 });
                return self.question(&key);
            }
            self.set(&key, Member::Waiting { is_queued: false });
        }
        None
    }

    /// Adds a device that the pattern selects.
    fn join(&mut self, endpoint: &str) {
        if self.begins_nothing() || !self.spec.selects(endpoint) {
            return;
        }
        let key: Arc<str> = endpoint.into();
        if self.members.len() >= MOST_MEMBERS {
            if !std::mem::replace(&mut self.is_full, true) {
                self.events.push(CampaignEvent::Full { endpoint: key });
            }
            return;
        }
        self.insert(Arc::clone(&key), Member::Waiting { is_queued: true });
        self.reachable.push_back(key);
    }

    /// Returns the outcome of a device because of a value; `None` if the device still takes part.
    fn judge(&self, path: Path, value: Option<&str>) -> Option<MemberOutcome> {
        if self.versions().contains(&Some(path)) && value == Some(self.spec.version.as_str()) {
            return Some(MemberOutcome::UpToDate);
        }
        let (_, wanted) = self.spec.filter.iter().find(|(filtered, _)| *filtered == path)?;
        let matches = value.is_some_and(|value| wanted.iter().any(|wanted| wanted == value));
        (!matches).then_some(MemberOutcome::FilterMismatch)
    }

    /// Returns the resources that a device is asked for: those of the filter, then those that may have its version.
    fn questions(&self) -> Vec<Path> {
        let versions = self.versions();
        let filtered = self.spec.filter.iter().map(|(path, _)| *path).filter(|path| !versions.contains(&Some(*path)));
        filtered.chain(versions.into_iter().flatten()).collect()
    }

    /// Returns the resources that may have the version: Firmware Version, and PkgVersion for devices that keep it
    /// there.
    fn versions(&self) -> [Option<Path>; 2] {
        [Path::of(&FIRMWARE_VERSION), Path::of(&[OBJECT, self.spec.instance, resource::PACKAGE_VERSION])]
    }

    fn cancel_update(&mut self, key: &Arc<str>) {
        let Some(Member::Updating { job, is_away, .. }) = self.members.get(key).copied() else { return };
        self.set(key, Member::Updating { job, is_away, is_cancelled: true });
        self.to_cancel.push_back(Arc::clone(key));
    }

    /// Ends the participation of all devices whose update has not begun.
    fn end_waiting(&mut self, outcome: MemberOutcome) {
        let waiting = |member: &Member| matches!(member, Member::Waiting { .. } | Member::Ready { .. });
        let keys: Vec<Arc<str>> =
            self.members.iter().filter(|(_, member)| waiting(member)).map(|(key, _)| Arc::clone(key)).collect();
        keys.iter().for_each(|key| self.end(key, outcome));
        self.reachable.clear();
        self.ready.clear();
        self.retries.clear();
    }

    fn end(&mut self, key: &Arc<str>, outcome: MemberOutcome) {
        self.set(key, Member::Ended(outcome));
        self.events.push(CampaignEvent::Ended { endpoint: Arc::clone(key), outcome });
        let CampaignProgress { failures, ended } = CampaignProgress::of(&self.counts).since(self.resumed_at);
        let is_reached = self.spec.stop_after.is_some_and(|limit| limit.is_reached(failures, ended));
        if outcome.state() == MemberState::Failed && is_reached && self.status == CampaignStatus::Running {
            self.set_status(CampaignStatus::Stopped);
        }
    }

    /// Completes the campaign if no device can take part any more.
    fn complete(&mut self) {
        let is_closed = self.has_expired || matches!(self.spec.who, Selection::Endpoints(_));
        let is_idle = self.counts.of(MemberState::Waiting) == 0 && self.counts.of(MemberState::Updating) == 0;
        if is_closed && is_idle && !self.is_over() {
            self.set_status(CampaignStatus::Completed);
        }
    }

    fn begins_updates(&self, moment: Moment) -> bool {
        self.status == CampaignStatus::Running
            && moment.unix < self.ends
            && self.spec.window.is_none_or(|window| window.is_open(moment.unix))
    }

    /// Returns whether no further device can begin.
    fn begins_nothing(&self) -> bool {
        self.has_expired || self.is_over()
    }

    fn has_room(&self) -> bool {
        self.active < self.spec.concurrency as usize
    }

    fn outcome_at_end(&self) -> MemberOutcome {
        if self.status == CampaignStatus::Cancelled { MemberOutcome::Cancelled } else { MemberOutcome::Absent }
    }

    fn question(&self, key: &Arc<str>) -> Option<Action> {
        let Some(Member::Asking { step }) = self.members.get(key) else { return None };
        let path = self.questions().get(usize::from(*step)).copied()?;
        Some(Action::Read { endpoint: Arc::clone(key), path })
    }

    fn member(&self, endpoint: &str) -> Option<(Arc<str>, Member)> {
        self.members.get_key_value(endpoint).map(|(key, member)| (Arc::clone(key), *member))
    }

    fn insert(&mut self, key: Arc<str>, member: Member) {
        self.counts.add(member.state());
        self.active += usize::from(member.is_active());
        self.members.insert(key, member);
    }

    /// Replaces the state of a member, and updates the numbers of members by state.
    fn set(&mut self, key: &Arc<str>, member: Member) {
        let Some(former) = self.members.insert(Arc::clone(key), member) else { return };
        self.counts.remove(former.state());
        self.counts.add(member.state());
        self.active = self.active + usize::from(member.is_active()) - usize::from(former.is_active());
        let is_asking = |member: Member| usize::from(matches!(member, Member::Asking { .. }));
        self.asking = self.asking + is_asking(member) - is_asking(former);
        if record::is_stored(former) || record::is_stored(member) {
            self.changed.push(Arc::clone(key));
        }
    }

    fn set_status(&mut self, status: CampaignStatus) {
        self.status = status;
        self.has_changed = true;
        self.events.push(CampaignEvent::Status(status));
    }

    fn with_status(spec: CampaignSpec, status: CampaignStatus, ends: Duration) -> Self {
        let listed = match &spec.who {
            Selection::Endpoints(endpoints) => endpoints.clone(),
            Selection::Pattern(_) => Vec::new(),
        };
        let mut campaign = Self {
            spec,
            status,
            ends,
            members: BTreeMap::new(),
            counts: Counts::default(),
            active: 0,
            asking: 0,
            resumed_at: CampaignProgress::default(),
            reachable: VecDeque::new(),
            to_ask: VecDeque::new(),
            ready: VecDeque::new(),
            retries: VecDeque::new(),
            to_cancel: VecDeque::new(),
            next_start: None,
            events: Vec::new(),
            changed: Vec::new(),
            has_changed: false,
            is_full: false,
            has_expired: false,
        };
        listed.into_iter().for_each(|endpoint| campaign.insert(endpoint, Member::Waiting { is_queued: false }));
        campaign
    }
}
