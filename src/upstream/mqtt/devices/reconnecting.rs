//! From the loss of a connection, or a restart of this program, to the next attempt: a back-off after a loss, then a turn
//! among the many that come back. While the broker cannot be reached the devices are parked, and one in a second tries; the
//! first that is answered brings all of them back.

use std::time::{Duration, Instant};

use tracing::debug;

use crate::gateway::broker::{ClientInfo, DeviceId};
use crate::upstream::mqtt::brokers::{BrokerId, Fault};
use crate::upstream::pace::back_off;

use super::device::{Device, Target};
use super::{Action, Devices, State, Timer, Wait};

/// A connection that ends earlier counts as an attempt that led to nothing: two gateways that take a clientid from each
/// other do so at a slow pace.
const STABLE: Duration = Duration::from_secs(10);

impl Devices {
    /// The connection is gone, and it was not the broker's will as far as we know.
    pub(super) fn lost(&mut self, now: Instant, id: DeviceId, why: &str) {
        self.counters().anchors_lost.increment();
        self.stop_talking(id);
        let Some(device) = self.devices.get_mut(&id) else { return };
        if let State::Ready { talk } = &device.state
            && now >= talk.since + STABLE
        {
            device.failures = 0;
        }
        self.gave_up(now, id, why);
    }

    /// The connection went with an earlier process: this one makes it again, as one among many.
    pub(super) fn resume(&mut self, now: Instant, id: DeviceId, client: ClientInfo) {
        let key = self.clients.add(&client.clientid, id);
        self.devices.insert(id, Device::resumed(client, key));
        self.supersede_older(now, key, id);
        if self.brokers.any_up() { self.take_slot(now, id) } else { self.park(id) }
    }

    pub(super) fn back_off(&mut self, now: Instant, id: DeviceId) {
        let Some(device) = self.devices.get(&id) else { return };
        if self.clients.is_superseded(device.key, id) {
            debug!(device = id.0, "a newer registration has its clientid");
            return self.rest_or_leave(now, id);
        }
        self.hang_up(now, id);
        let Some(device) = self.devices.get_mut(&id) else { return };
        let wait = back_off(device.failures, &mut self.rng);
        device.failures = device.failures.saturating_add(1);
        device.state = State::WaitingToReconnect(Wait::BackOff);
        self.deadlines.set(Timer::Device(id), now + wait);
    }

    pub(super) fn waited(&mut self, now: Instant, id: DeviceId, wait: Wait) {
        match wait {
            Wait::BackOff if self.has_target(id) => self.take_slot(now, id),
            Wait::BackOff => self.park(id),
            Wait::Slot | Wait::Parked => self.dial_again(now, id),
            // Its time comes with the end of the newer registration.
            Wait::Superseded => {}
        }
    }

    pub(super) fn release_parked(&mut self, now: Instant) {
        while let Some(id) = self.parked.pop_first() {
            self.take_slot(now, id);
        }
    }

    /// Looks at every broker, before there is any device.
    pub fn probe_all(&mut self) {
        for broker in self.brokers.ids() {
            self.actions.push_back(Action::Probe { broker });
        }
    }

    pub fn probed(&mut self, now: Instant, broker: BrokerId, result: Result<(), String>) {
        match result {
            Ok(()) => self.broker_answered(now, broker),
            Err(why) => {
                if self.brokers.failed(now, broker, Fault::NotReached(&why)) {
                    self.counters().nodes_failed.increment();
                }
                self.plan_probe();
            }
        }
    }

    /// No probe was made, for want of a file descriptor of this process.
    pub fn not_probed(&mut self) {
        self.plan_probe();
    }

    /// One of the devices that wait for the broker looks whether it is there again; where none waits, nobody does more than
    /// connect.
    pub(super) fn probe(&mut self, now: Instant) {
        self.counters().probes.increment();
        match self.parked.pop_first() {
            Some(id) => self.dial_again(now, id),
            None => {
                if let Some(broker) = self.brokers.due(now) {
                    self.actions.push_back(Action::Probe { broker });
                }
            }
        }
        self.plan_probe();
    }

    fn has_target(&self, id: DeviceId) -> bool {
        let referred = self.devices.get(&id).is_some_and(|device| matches!(device.target, Some(Target::Referred(_))));
        referred || self.brokers.any_up()
    }

    fn take_slot(&mut self, now: Instant, id: DeviceId) {
        let slot = self.pace.reserve(now);
        if slot <= now {
            return self.dial_again(now, id);
        }
        self.wait_for(id, Wait::Slot);
        self.deadlines.set(Timer::Device(id), slot);
    }

    fn park(&mut self, id: DeviceId) {
        self.wait_for(id, Wait::Parked);
        self.deadlines.cancel(Timer::Device(id));
        self.parked.insert(id);
        self.plan_probe();
    }

    pub(super) fn plan_probe(&mut self) {
        match self.brokers.next_probe() {
            Some(at) => self.deadlines.set(Timer::Probe, at),
            None => self.deadlines.cancel(Timer::Probe),
        }
    }

    fn wait_for(&mut self, id: DeviceId, wait: Wait) {
        if let Some(device) = self.devices.get_mut(&id) {
            device.state = State::WaitingToReconnect(wait);
        }
    }

    fn dial_again(&mut self, now: Instant, id: DeviceId) {
        let Some(device) = self.devices.get(&id) else { return };
        if let Some(until) = self.unanswered_until(now, device.key) {
            self.wait_for(id, Wait::Slot);
            return self.deadlines.set(Timer::Device(id), until);
        }
        let target = match &device.target {
            Some(Target::Referred(server)) => Some(Target::Referred(server.clone())),
            Some(Target::Configured(_)) | None => {
                self.brokers.choose(now, device.broker(), device.elsewhere).map(Target::Configured)
            }
        };
        let Some(target) = target else { return self.park(id) };
        self.deadlines.set(Timer::Device(id), now + self.connect_timeout);
        self.dial(id, target);
    }
}
