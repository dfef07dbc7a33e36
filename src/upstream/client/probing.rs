//! The faults that devices and probes meet at the targets, and the probes of all targets, also while there is no
//! device.
//!
//! 1. A target that serves is probed every [`QUIET_INTERVAL`].
//! 2. A fault that counts ([`TargetFaults::count`]) makes it unavailable. From then on it is probed once in a second at
//!    most ([`PROBE_INTERVAL`]), which costs it almost nothing, whatever it suffers from. So is one whose last probe
//!    failed, or said nothing.
//! 3. A probe that succeeds makes it available again, and all devices that wait get a turn.

use std::time::{Duration, Instant};

use lwm2m_core::gateway::broker::RegistrationId;

use super::targets::{Target, TargetId, Targets};
use super::{ClientTimer, Devices, Protocol};

/// Counts the faults in a row after which a target is unavailable, of those faults that a single device may meet at a
/// target that works.
pub(in crate::upstream) const TOLERATED_FAULTS: u32 = 3;

/// The time between two attempts at a target that is unavailable, or whose last probe failed.
pub(in crate::upstream) const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// The time between two probes of an available target.
pub(in crate::upstream) const QUIET_INTERVAL: Duration = Duration::from_secs(5);
/// The time after which another probe may begin although the last one has not ended.
const LONGEST_PROBE: Duration = Duration::from_secs(10);

/// Keeps what devices and probes have met at one target, and decides which faults make it unavailable.
pub trait TargetFaults: Sized {
    type Fault<'a>: Copy;

    /// The pause after a fault, and at least between two probes.
    const PAUSE: Duration;

    /// Counts a fault at an available target. Returns whether the target becomes unavailable by it.
    fn count(target: &mut Target<Self>, fault: Self::Fault<'_>) -> bool;

    /// Notes a fault at an unavailable target.
    fn count_again(&mut self, fault: Self::Fault<'_>, met_by: MetBy);

    /// Notes a probe that succeeded, or at an unavailable target anything that shows that it serves.
    fn served(&mut self, was_down: bool);

    /// Says what is wrong, which key names the address, and what to check. The caller names the target.
    fn in_words(target: &Target<Self>, fault: Self::Fault<'_>) -> String;
}

/// Says who met a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetBy {
    Device,
    Probe,
}

/// Counts the faults of one kind in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::upstream) struct FaultsInRow(u32);

impl FaultsInRow {
    /// Counts a fault. Returns whether it shows that the target is unavailable: single faults are tolerated only at a
    /// target that has worked before.
    pub(in crate::upstream) fn count(&mut self, has_worked: bool) -> bool {
        self.0 = self.0.saturating_add(1);
        !has_worked || self.0 >= TOLERATED_FAULTS
    }

    pub(in crate::upstream) fn end(&mut self) {
        self.0 = 0;
    }
}

/// Plans the probes of one target, or the attempts of devices in their place. There is none before the first one.
#[derive(Debug, Default)]
pub(super) struct ProbeSchedule {
    begun: Option<Instant>,
    /// Tells that the last probe has not ended.
    in_flight: bool,
    next: Option<Instant>,
}

impl ProbeSchedule {
    fn is_due(&self, now: Instant) -> bool {
        self.next.is_some_and(|at| at <= now)
    }

    fn begin(&mut self, now: Instant) {
        *self = Self { begun: Some(now), in_flight: true, next: Some(now + LONGEST_PROBE) };
    }

    /// Notes that a device tries the target, which is unavailable, in place of a probe.
    fn try_device(&mut self, now: Instant) {
        *self = Self { begun: Some(now), in_flight: false, next: Some(now + PROBE_INTERVAL) };
    }

    /// Notes a success. The next probe begins after the pause, or later.
    fn succeeded(&mut self, now: Instant, pause: Duration) {
        self.in_flight = false;
        self.next = Some(self.after_last(now + pause, QUIET_INTERVAL));
    }

    fn failed(&mut self, now: Instant, pause: Duration) {
        self.in_flight = false;
        self.soon(now, pause);
    }

    /// Makes the next probe begin soon, unless there is one at this moment.
    fn soon(&mut self, now: Instant, pause: Duration) {
        if !self.in_flight {
            self.next = Some(self.after_last(now + pause, PROBE_INTERVAL));
        }
    }

    fn after_last(&self, earliest: Instant, interval: Duration) -> Instant {
        self.begun.map_or(earliest, |begun| earliest.max(begun + interval))
    }
}

impl<Faults: TargetFaults> Targets<Faults> {
    /// Makes the first probe of all targets due.
    pub(super) fn begin_probing(&mut self, now: Instant) {
        self.iter_mut().for_each(|(_, target)| target.probes.next = Some(now));
    }

    /// Returns when the next target is due, to be probed or tried.
    pub(super) fn next_probe(&self) -> Option<Instant> {
        self.iter().filter_map(|(_, target)| target.probes.next).min()
    }

    /// Returns a target that is due. The caller probes it.
    pub(super) fn due(&self, now: Instant) -> Option<TargetId> {
        self.iter().find(|(_, target)| target.probes.is_due(now)).map(|(id, _)| id)
    }

    /// Returns an unavailable target that is due. A device tries it.
    pub(in crate::upstream) fn try_due(&mut self, now: Instant) -> Option<TargetId> {
        let (id, target) = self.iter_mut().find(|(_, target)| !target.is_up() && target.probes.is_due(now))?;
        target.probes.try_device(now);
        Some(id)
    }

    pub(super) fn probe_begun(&mut self, now: Instant, id: TargetId) {
        self.target_mut(id).probes.begin(now);
    }

    /// Notes a fault. Returns whether the target becomes unavailable by it.
    pub(in crate::upstream) fn failed(
        &mut self,
        now: Instant,
        id: TargetId,
        fault: Faults::Fault<'_>,
        met_by: MetBy,
    ) -> bool {
        let target = self.target_mut(id);
        if met_by == MetBy::Probe {
            target.probes.failed(now, Faults::PAUSE);
        }
        if !target.is_up() {
            target.faults.count_again(fault, met_by);
            return false;
        }
        if !Faults::count(target, fault) {
            return false;
        }
        target.probes.soon(now, Faults::PAUSE);
        let fault = Faults::in_words(target, fault);
        self.mark_down(id, fault);
        true
    }

    /// Notes that the target serves. Returns whether it was unavailable until now.
    pub(in crate::upstream) fn serves(&mut self, now: Instant, id: TargetId) -> bool {
        let target = self.target_mut(id);
        let was_down = !target.is_up();
        target.faults.served(was_down);
        target.probes.succeeded(now, Faults::PAUSE);
        target.answered |= was_down;
        self.mark_up(id);
        self.mark_answered(id);
        was_down
    }
}

impl<P: Protocol> Devices<P> {
    /// Begins to probe every target, before there is any device.
    pub(in crate::upstream) fn probe_all(&mut self, now: Instant) {
        self.targets.begin_probing(now);
        self.probe_due(now);
    }

    /// Probes the targets that are due.
    pub(super) fn probe_due(&mut self, now: Instant) {
        while let Some(target) = self.targets.due(now) {
            P::probe(self, now, target);
        }
        self.plan_probe();
    }

    /// Counts a probe that begins.
    pub(in crate::upstream) fn probe_begun(&mut self, now: Instant, target: TargetId) {
        self.counters().probes.inc();
        self.targets.probe_begun(now, target);
    }

    pub(in crate::upstream) fn probe_failed(
        &mut self,
        now: Instant,
        target: TargetId,
        fault: <P::Faults as TargetFaults>::Fault<'_>,
    ) {
        self.target_failed(now, target, fault, MetBy::Probe);
    }

    /// Notes that the target serves: a probe has succeeded, or a device was answered by a target that was unavailable.
    pub(in crate::upstream) fn target_serves(&mut self, now: Instant, target: TargetId) {
        let has_recovered = self.targets.serves(now, target);
        self.plan_probe();
        if has_recovered {
            self.recovered(now);
        }
    }

    /// Notes the end of a probe that told nothing of the target.
    pub(in crate::upstream) fn probe_said_nothing(&mut self, now: Instant, target: TargetId) {
        self.targets.target_mut(target).probes.failed(now, P::Faults::PAUSE);
        self.plan_probe();
    }

    /// Notes a fault that a device met at its target. Its next attempt prefers another one.
    pub(in crate::upstream) fn fault_met(
        &mut self,
        now: Instant,
        id: RegistrationId,
        fault: <P::Faults as TargetFaults>::Fault<'_>,
    ) {
        let Some(device) = self.devices.get_mut(&id) else { return };
        device.elsewhere = true;
        match device.target() {
            Some(target) => self.target_failed(now, target, fault, MetBy::Device),
            None => device.forget_referral(),
        }
    }

    pub(in crate::upstream) fn target_failed(
        &mut self,
        now: Instant,
        target: TargetId,
        fault: <P::Faults as TargetFaults>::Fault<'_>,
        met_by: MetBy,
    ) {
        if self.targets.failed(now, target, fault, met_by) {
            self.counters().nodes_failed.inc();
        }
        self.plan_probe();
    }

    fn plan_probe(&mut self) {
        match self.targets.next_probe() {
            Some(at) => self.deadlines.set(ClientTimer::Probe, at),
            None => self.deadlines.cancel(ClientTimer::Probe),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_millis(100);

    #[test]
    fn a_target_that_serves_is_probed_every_five_seconds_and_another_one_every_second() {
        let start = Instant::now();
        let mut schedule = ProbeSchedule::default();
        assert!(!schedule.is_due(start));
        schedule.soon(start, PAUSE);
        assert_eq!(schedule.next, Some(start + PAUSE));
        let begun = start + PAUSE;
        schedule.begin(begun);
        schedule.soon(begun + PAUSE, PAUSE);
        assert_eq!(schedule.next, Some(begun + LONGEST_PROBE), "one probe at a time");
        schedule.succeeded(begun + PAUSE, PAUSE);
        assert_eq!(schedule.next, Some(begun + QUIET_INTERVAL));

        schedule.soon(begun + PAUSE, PAUSE);
        assert_eq!(schedule.next, Some(begun + PROBE_INTERVAL), "a device has met a fault");
        let again = begun + PROBE_INTERVAL;
        schedule.begin(again);
        schedule.failed(again + QUIET_INTERVAL, PAUSE);
        assert_eq!(schedule.next, Some(again + QUIET_INTERVAL + PAUSE), "the probe took longer than the interval");
    }
}
