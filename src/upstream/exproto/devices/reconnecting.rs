//! From the loss of a connection, or a restart of this program, to the next attempt: a back-off after a loss, then a turn
//! among the many that come back, where the devices that were active last come first. While no node of the broker is up
//! the devices are parked. When a probe of a node succeeds that was down, all devices that wait have their turn, also those
//! whose back-off is not over.

use std::time::Instant;

use tracing::debug;

use crate::upstream::client::pace::back_off;
use lwm2m_core::gateway::broker::{ClientInfo, RegistrationId};

use super::device::{Device, State, Wait};
use super::{Devices, Timer};

impl Devices {
    /// The connection is gone, and it was not the broker's will as far as we know.
    pub(super) fn lost(&mut self, now: Instant, id: RegistrationId, why: &str) {
        self.counters().connections_lost.inc();
        self.blame_publication(id);
        self.abandon_call(now, id);
        self.gave_up(now, id, why);
    }

    /// The connection went with an earlier process: this one makes it again, as one among many.
    pub(super) fn resume(&mut self, now: Instant, id: RegistrationId, client: ClientInfo) {
        let key = self.clients.add(&client.clientid, id);
        self.devices.insert(id, Device::resumed(client, key));
        self.returning.add(now, id);
        self.supersede_older(now, key, id);
        if self.nodes.any_up() { self.take_turn(now, id) } else { self.park(id) }
    }

    pub(super) fn back_off(&mut self, now: Instant, id: RegistrationId) {
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

    pub(super) fn waited(&mut self, now: Instant, id: RegistrationId, wait: Wait) {
        if !self.nodes.any_up() && wait != Wait::Superseded {
            return self.park(id);
        }
        match wait {
            Wait::BackOff => self.take_turn(now, id),
            // None of these has a time of its own.
            Wait::Turn | Wait::Parked | Wait::Superseded => {}
        }
    }

    /// The node cannot serve the device, and another one can.
    pub(super) fn leave(&mut self, now: Instant, id: RegistrationId) {
        self.counters().connections_lost.inc();
        self.abandon_call(now, id);
        self.gave_up(now, id, "its node of EMQX does not serve");
    }

    /// A node that was down serves again.
    pub(super) fn recovered(&mut self, now: Instant) {
        let away = |device: &Device| device.connected_before && !device.leaving && !device.state.is_ready();
        let away = self.devices.iter().filter(|(_, device)| away(device)).map(|(id, _)| *id);
        self.returning.begin(now, away);
        self.connect_waiting(now);
    }

    /// Gives a turn to every device that waits, whatever for.
    pub(super) fn connect_waiting(&mut self, now: Instant) {
        let waits = |device: &Device| match &device.state {
            State::WaitingToReconnect(Wait::BackOff | Wait::Turn | Wait::Parked) => true,
            State::WaitingToReconnect(Wait::Superseded)
            | State::Held
            | State::Dialing { .. }
            | State::Announced { .. }
            | State::Authenticating { .. }
            | State::Subscribing { .. }
            | State::Ready { .. } => false,
        };
        let waiting: Vec<_> = self.devices.iter().filter(|(_, device)| waits(device)).map(|(id, _)| *id).collect();
        waiting.into_iter().for_each(|id| self.queue_for_turn(id));
        self.serve_turns(now);
    }

    /// Connects those devices again that have their turn now.
    pub(super) fn serve_turns(&mut self, now: Instant) {
        while let Some(id) = self.turns.take(now) {
            self.dial_again(now, id);
        }
        match self.turns.next(now) {
            Some(at) => self.deadlines.set(Timer::Turn, at),
            None => self.deadlines.cancel(Timer::Turn),
        }
    }

    fn take_turn(&mut self, now: Instant, id: RegistrationId) {
        self.queue_for_turn(id);
        self.serve_turns(now);
    }

    fn queue_for_turn(&mut self, id: RegistrationId) {
        self.parked.remove(&id);
        self.deadlines.cancel(Timer::Device(id));
        self.wait_for(id, Wait::Turn);
        let active = self.devices.get(&id).and_then(|device| device.active);
        self.turns.add(id, active);
    }

    fn park(&mut self, id: RegistrationId) {
        self.deadlines.cancel(Timer::Device(id));
        self.wait_for(id, Wait::Parked);
        self.parked.insert(id);
    }

    fn wait_for(&mut self, id: RegistrationId, wait: Wait) {
        if let Some(device) = self.devices.get_mut(&id) {
            device.state = State::WaitingToReconnect(wait);
        }
    }

    fn dial_again(&mut self, now: Instant, id: RegistrationId) {
        let Some(device) = self.devices.get(&id) else { return };
        let (key, node, elsewhere) = (device.key, device.node, device.elsewhere);
        if let Some(until) = self.unanswered_until(now, key) {
            self.wait_for(id, Wait::BackOff);
            return self.deadlines.set(Timer::Device(id), until);
        }
        let Some(node) = self.nodes.choose(node, elsewhere) else { return self.park(id) };
        self.deadlines.set(Timer::Device(id), now + self.connect_timeout);
        self.dial(id, node);
    }
}
