//! From the loss of a connection, or a restart of this program, to the next attempt: a back-off after a loss, then a turn
//! among the many that come back. While no node of the broker is up the devices are parked; the first node of which a probe
//! succeeds brings all of them back.

use std::time::Instant;

use tracing::debug;

use crate::gateway::broker::{ClientInfo, DeviceId};
use crate::upstream::pace::back_off;

use super::device::{Device, State, Wait};
use super::{Devices, Timer};

impl Devices {
    /// The connection is gone, and it was not the broker's will as far as we know.
    pub(super) fn lost(&mut self, now: Instant, id: DeviceId, why: &str) {
        self.counters().anchors_lost.increment();
        self.blame_publication(id);
        self.abandon_call(now, id);
        self.gave_up(now, id, why);
    }

    /// The connection went with an earlier process: this one makes it again, as one among many.
    pub(super) fn resume(&mut self, now: Instant, id: DeviceId, client: ClientInfo) {
        let key = self.clients.add(&client.clientid, id);
        self.devices.insert(id, Device::resumed(client, key));
        self.supersede_older(now, key, id);
        if self.nodes.any_up() { self.take_slot(now, id) } else { self.park(id) }
    }

    pub(super) fn back_off(&mut self, now: Instant, id: DeviceId) {
        let Some(device) = self.devices.get(&id) else { return };
        if self.clients.is_superseded(device.key, id) {
            debug!(device = id.0, "a newer registration has its clientid");
            return if device.leaving { self.remove(now, id) } else { self.rest(now, id) };
        }
        self.hang_up(now, id);
        let Some(device) = self.devices.get_mut(&id) else { return };
        let wait = back_off(device.failures, &mut self.rng);
        device.failures += 1;
        device.state = State::WaitingToReconnect(Wait::BackOff);
        self.deadlines.set(Timer::Device(id), now + wait);
    }

    pub(super) fn waited(&mut self, now: Instant, id: DeviceId, wait: Wait) {
        if !self.nodes.any_up() && wait != Wait::Superseded {
            return self.park(id);
        }
        match wait {
            Wait::BackOff => self.take_slot(now, id),
            Wait::Slot | Wait::Parked => self.dial_again(now, id),
            // Its time comes with the end of the newer registration.
            Wait::Superseded => {}
        }
    }

    /// The node cannot serve the device, and another one can.
    pub(super) fn leave(&mut self, now: Instant, id: DeviceId) {
        self.counters().anchors_lost.increment();
        self.abandon_call(now, id);
        self.gave_up(now, id, "its node of EMQX does not serve");
    }

    pub(super) fn release_parked(&mut self, now: Instant) {
        while let Some(id) = self.parked.pop_first() {
            self.take_slot(now, id);
        }
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
        self.parked.insert(id);
    }

    fn wait_for(&mut self, id: DeviceId, wait: Wait) {
        if let Some(device) = self.devices.get_mut(&id) {
            device.state = State::WaitingToReconnect(wait);
        }
    }

    fn dial_again(&mut self, now: Instant, id: DeviceId) {
        let Some(device) = self.devices.get(&id) else { return };
        let (key, node, elsewhere) = (device.key, device.node, device.elsewhere);
        if let Some(until) = self.unanswered_until(now, key) {
            self.wait_for(id, Wait::Slot);
            return self.deadlines.set(Timer::Device(id), until);
        }
        let Some(node) = self.nodes.choose(node, elsewhere) else { return self.park(id) };
        self.deadlines.set(Timer::Device(id), now + self.connect_timeout);
        self.dial(id, node);
    }
}
