//! The way from the loss of a connection, or a restart of this program, to the next attempt: a back-off after a loss,
//! then a turn among all devices that are reconnected (`pace`). While no target is available the devices are parked.
//! When a target recovers, all devices that wait get a turn, also those whose back-off is not over.

use std::time::Instant;

use tracing::debug;

use lwm2m_core::gateway::broker::{ClientInfo, RegistrationId};

use super::device::{Destination, UpstreamDevice, UpstreamState, Wait};
use super::pace::back_off;
use super::{ClientTimer, Devices, Protocol};

impl<P: Protocol> Devices<P> {
    /// Handles a lost connection that, as far as is known, the broker did not mean to end.
    pub(in crate::upstream) fn lost(&mut self, now: Instant, id: RegistrationId, why: &str) {
        self.counters().connections_lost.inc();
        P::connection_lost(self, now, id);
        self.gave_up(now, id, why);
    }

    /// Reconnects a device, as one among many, whose connection ended with an earlier process.
    pub(super) fn resume(&mut self, now: Instant, id: RegistrationId, client: ClientInfo) {
        let key = self.clients.add(&client.clientid, id);
        self.devices.insert(id, Box::new(UpstreamDevice::resumed(client, key, &self.ready)));
        self.returning.add(now, id);
        self.supersede_older(now, key, id);
        if self.targets.any_up() { self.take_turn(now, id) } else { self.park(id) }
    }

    pub(super) fn back_off(&mut self, now: Instant, id: RegistrationId) {
        let Some(device) = self.devices.get(&id) else { return };
        if self.clients.is_superseded(device.key, id) {
            debug!(registration = id.0, "not reconnected: a newer registration has the client ID");
            return self.rest_or_leave(now, id);
        }
        P::hang_up(self, now, id);
        self.turns.failed(now, id);
        let Some(device) = self.devices.get_mut(&id) else { return };
        let wait = back_off(device.failures, &mut self.rng);
        device.failures = device.failures.saturating_add(1);
        device.set_state(UpstreamState::WaitingToReconnect(Wait::BackOff));
        self.deadlines.set(ClientTimer::Device(id), now + wait);
        self.serve_turns(now);
    }

    pub(super) fn waited(&mut self, now: Instant, id: RegistrationId, wait: Wait) {
        match wait {
            Wait::BackOff if self.has_destination(id) => self.take_turn(now, id),
            Wait::BackOff => self.park(id),
            // None of these has a time of its own.
            Wait::Turn | Wait::Parked | Wait::Superseded => {}
        }
    }

    /// Handles the recovery of a target.
    pub(in crate::upstream) fn recovered(&mut self, now: Instant) {
        self.counters().nodes_recovered.inc();
        let away =
            |device: &UpstreamDevice<P>| device.connected_before && device.leaving.is_none() && !device.is_ready();
        let away = self.devices.iter().filter(|(_, device)| away(device)).map(|(id, _)| *id);
        self.returning.begin(now, away);
        self.connect_waiting(now);
    }

    /// Gives a turn to every device that waits, whatever for.
    pub(super) fn connect_waiting(&mut self, now: Instant) {
        let waits = |device: &UpstreamDevice<P>| match &device.state {
            UpstreamState::WaitingToReconnect(Wait::BackOff | Wait::Turn | Wait::Parked) => true,
            UpstreamState::WaitingToReconnect(Wait::Superseded)
            | UpstreamState::Held
            | UpstreamState::Connecting(_)
            | UpstreamState::Ready(_) => false,
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
            Some(at) => self.deadlines.set(ClientTimer::Turn, at),
            None => self.deadlines.cancel(ClientTimer::Turn),
        }
    }

    pub(in crate::upstream) fn wait_for(&mut self, id: RegistrationId, wait: Wait) {
        if let Some(device) = self.devices.get_mut(&id) {
            device.set_state(UpstreamState::WaitingToReconnect(wait));
        }
    }

    pub(in crate::upstream) fn dial_again(&mut self, now: Instant, id: RegistrationId) {
        let Some(device) = self.devices.get(&id) else { return };
        if let Some(until) = self.unanswered_until(now, device.key) {
            self.turns.remove(id);
            self.wait_for(id, Wait::BackOff);
            return self.deadlines.set(ClientTimer::Device(id), until);
        }
        let Some(destination) = self.next_destination(now, id) else { return self.park(id) };
        self.deadlines.set(ClientTimer::Device(id), now + self.connect_timeout);
        self.dial(id, destination);
    }

    fn has_destination(&self, id: RegistrationId) -> bool {
        let destination = self.devices.get(&id).and_then(|device| device.destination.as_ref());
        matches!(destination, Some(Destination::Referred(_))) || self.targets.any_up()
    }

    fn take_turn(&mut self, now: Instant, id: RegistrationId) {
        self.queue_for_turn(id);
        self.serve_turns(now);
    }

    fn queue_for_turn(&mut self, id: RegistrationId) {
        self.parked.remove(&id);
        self.deadlines.cancel(ClientTimer::Device(id));
        self.wait_for(id, Wait::Turn);
        let Some(device) = self.devices.get(&id) else { return };
        self.turns.add(id, !self.queues.is_empty(device.key), device.active);
    }

    fn park(&mut self, id: RegistrationId) {
        self.deadlines.cancel(ClientTimer::Device(id));
        self.wait_for(id, Wait::Parked);
        self.turns.remove(id);
        self.parked.insert(id);
    }
}
