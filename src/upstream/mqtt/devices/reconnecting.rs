//! From the loss of a connection, or a restart of this program, to the next attempt: a back-off after a loss, then a turn
//! among the many that come back, where the devices that were active last come first. While the broker cannot be reached
//! the devices are parked, and one in a second tries. When it, or a probe, is answered, all devices that wait have their
//! turn, also those whose back-off is not over.

use std::time::{Duration, Instant};

use tracing::debug;

use crate::upstream::client::pace::back_off;
use crate::upstream::client::targets::TargetId;
use crate::upstream::dialer::DialFailure;
use crate::upstream::mqtt::brokers::Fault;
use lwm2m_core::gateway::broker::{ClientInfo, RegistrationId};

use super::device::{Device, Target};
use super::{Action, Devices, State, Timer, Wait};

/// A connection that ends earlier counts as an attempt that led to nothing: two gateways that take a clientid from each
/// other do so at a slow pace.
const STABLE: Duration = Duration::from_secs(10);

/// How a probe ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probed {
    /// The broker accepted a connection, in this time.
    Accepted {
        took: Duration,
    },
    /// It closed the connection at once.
    Closed,
    NoAnswer,
    NotOpened(DialFailure),
}

impl Devices {
    /// The connection is gone, and it was not the broker's will as far as we know.
    pub(super) fn lost(&mut self, now: Instant, id: RegistrationId, why: &str) {
        self.counters().connections_lost.inc();
        self.stop_publishing(id);
        let Some(device) = self.devices.get_mut(&id) else { return };
        if let State::Ready { open } = &device.state
            && now >= open.since + STABLE
        {
            device.failures = 0;
        }
        self.gave_up(now, id, why);
    }

    /// The connection went with an earlier process: this one makes it again, as one among many.
    pub(super) fn resume(&mut self, now: Instant, id: RegistrationId, client: ClientInfo) {
        let key = self.clients.add(&client.clientid, id);
        self.devices.insert(id, Device::resumed(client, key));
        self.returning.add(now, id);
        self.supersede_older(now, key, id);
        if self.brokers.any_up() { self.take_turn(now, id) } else { self.park(id) }
    }

    pub(super) fn back_off(&mut self, now: Instant, id: RegistrationId) {
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

    pub(super) fn waited(&mut self, now: Instant, id: RegistrationId, wait: Wait) {
        match wait {
            Wait::BackOff if self.has_target(id) => self.take_turn(now, id),
            Wait::BackOff => self.park(id),
            // None of these has a time of its own.
            Wait::Turn | Wait::Parked | Wait::Superseded => {}
        }
    }

    /// A broker that was down serves again.
    pub(super) fn recovered(&mut self, now: Instant) {
        self.counters().nodes_recovered.inc();
        self.plan_probe();
        let away = |device: &Device| device.connected_before && device.leaving.is_none() && !device.state.is_ready();
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
            | State::Connecting { .. }
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

    /// Begins to probe every broker, before there is any device.
    pub fn probe_all(&mut self, now: Instant) {
        self.brokers.begin_probing(now);
        self.probe(now);
    }

    /// How a probe ended.
    pub fn probed(&mut self, now: Instant, broker: TargetId, outcome: Probed) {
        match outcome {
            Probed::Accepted { took } => {
                self.metrics.times.probe.observe(took.as_secs_f64());
                self.disturbances.opened();
                if self.brokers.accepts(now, broker) {
                    self.recovered(now);
                }
            }
            Probed::Closed => self.probe_failed(now, broker, Fault::Closed),
            Probed::NoAnswer => self.probe_failed(now, broker, Fault::NotReached("no answer")),
            Probed::NotOpened(DialFailure::NotReached(why)) => self.probe_failed(now, broker, Fault::NotReached(&why)),
            // It says nothing of the broker.
            Probed::NotOpened(DialFailure::Local(why)) => {
                self.disturbances.not_opened(&why);
                self.brokers.probe_soon(now, broker);
            }
        }
        self.plan_probe();
    }

    fn probe_failed(&mut self, now: Instant, broker: TargetId, fault: Fault<'_>) {
        if self.brokers.failed(now, broker, fault) {
            self.counters().nodes_failed.inc();
        } else {
            self.brokers.probe_soon(now, broker);
        }
    }

    /// Probes the brokers that are due. At one that is down, one of the devices that wait for it looks whether it is there
    /// again, which says more than a connection.
    pub(super) fn probe(&mut self, now: Instant) {
        while let Some(broker) = self.brokers.due_up(now) {
            self.begin_probe(broker);
        }
        while self.brokers.is_due_down(now) {
            match self.parked.pop_first() {
                Some(id) => self.dial_again(now, id),
                None => self.brokers.due_down(now).into_iter().for_each(|broker| self.begin_probe(broker)),
            }
        }
        self.plan_probe();
    }

    fn begin_probe(&mut self, broker: TargetId) {
        self.counters().probes.inc();
        self.actions.push_back(Action::Probe { broker });
    }

    fn has_target(&self, id: RegistrationId) -> bool {
        let referred = self.devices.get(&id).is_some_and(|device| matches!(device.target, Some(Target::Referred(_))));
        referred || self.brokers.any_up()
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

    pub(super) fn wait_for(&mut self, id: RegistrationId, wait: Wait) {
        if let Some(device) = self.devices.get_mut(&id) {
            device.state = State::WaitingToReconnect(wait);
        }
    }

    fn dial_again(&mut self, now: Instant, id: RegistrationId) {
        let Some(device) = self.devices.get(&id) else { return };
        if let Some(until) = self.unanswered_until(now, device.key) {
            self.wait_for(id, Wait::BackOff);
            return self.deadlines.set(Timer::Device(id), until);
        }
        let target = match &device.target {
            Some(Target::Referred(server)) => Some(Target::Referred(server.clone())),
            Some(Target::Configured(_)) | None => {
                self.brokers.try_or_choose(now, device.broker(), device.elsewhere).map(Target::Configured)
            }
        };
        let Some(target) = target else { return self.park(id) };
        self.deadlines.set(Timer::Device(id), now + self.connect_timeout);
        self.dial(id, target);
    }
}
