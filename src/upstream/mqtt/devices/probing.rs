//! Probes of all addresses, and the attempts at an unavailable one: while it cannot be reached the devices are parked,
//! and one in a second tries. When a device or a probe is answered, all devices that wait get a turn.

use std::time::{Duration, Instant};

use crate::upstream::client::ClientTimer;
use crate::upstream::client::targets::TargetId;
use crate::upstream::dialer::DialFailure;
use crate::upstream::mqtt::brokers::BrokerFault;
use lwm2m_core::gateway::broker::RegistrationId;

use super::{MqttAction, MqttDevices, MqttTimer, UpstreamState};

/// The age at which a connection counts as stable. One that ends earlier counts as a failed attempt, so that two
/// gateways that take a client ID from each other do so slowly.
const STABLE: Duration = Duration::from_secs(10);

/// Says how a probe ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probed {
    /// The broker accepted a connection, in this time.
    Accepted {
        took: Duration,
    },
    /// The broker closed the connection at once.
    Closed,
    NoAnswer,
    NotOpened(DialFailure),
}

impl MqttDevices {
    /// Forgets the failed attempts before a connection that was stable.
    pub(super) fn forgive_failures(&mut self, now: Instant, id: RegistrationId) {
        let Some(device) = self.devices.get_mut(&id) else { return };
        if let UpstreamState::Ready(open) = &device.state
            && now >= open.since + STABLE
        {
            device.failures = 0;
        }
    }

    /// Begins to probe every broker, before there is any device.
    pub(crate) fn probe_all(&mut self, now: Instant) {
        self.targets.begin_probing(now);
        self.probe(now);
    }

    /// Handles the end of a probe.
    pub(crate) fn probed(&mut self, now: Instant, broker: TargetId, outcome: Probed) {
        match outcome {
            Probed::Accepted { took } => {
                self.metrics.times.probe.observe(took.as_secs_f64());
                self.disturbances.opened();
                if self.targets.accepts(now, broker) {
                    self.recovered(now);
                }
            }
            Probed::Closed => self.probe_failed(now, broker, BrokerFault::Closed),
            Probed::NoAnswer => self.probe_failed(now, broker, BrokerFault::NotReached("no answer")),
            Probed::NotOpened(DialFailure::NotReached(why)) => {
                self.probe_failed(now, broker, BrokerFault::NotReached(&why))
            }
            // It says nothing of the broker.
            Probed::NotOpened(DialFailure::Local(why)) => {
                self.disturbances.not_opened(&why);
                self.targets.probe_soon(now, broker);
            }
        }
        self.plan_probe();
    }

    fn probe_failed(&mut self, now: Instant, broker: TargetId, fault: BrokerFault<'_>) {
        if self.targets.failed(now, broker, fault) {
            self.counters().nodes_failed.inc();
        } else {
            self.targets.probe_soon(now, broker);
        }
    }

    /// Probes the brokers that are due. At an unavailable one, one of the devices that wait for it tries, which shows
    /// more than a connection does.
    pub(super) fn probe(&mut self, now: Instant) {
        while let Some(broker) = self.targets.due_up(now) {
            self.begin_probe(broker);
        }
        while self.targets.is_due_down(now) {
            match self.parked.pop_first() {
                Some(id) => self.dial_again(now, id),
                None => self.targets.due_down(now).into_iter().for_each(|broker| self.begin_probe(broker)),
            }
        }
        self.plan_probe();
    }

    fn begin_probe(&mut self, broker: TargetId) {
        self.counters().probes.inc();
        self.actions.push_back(MqttAction::Probe { broker });
    }

    pub(super) fn plan_probe(&mut self) {
        match self.targets.next_probe() {
            Some(at) => self.deadlines.set(ClientTimer::Protocol(MqttTimer::Probe), at),
            None => self.deadlines.cancel(ClientTimer::Protocol(MqttTimer::Probe)),
        }
    }
}
