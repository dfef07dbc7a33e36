//! Probes of the addresses, and the attempts of devices at an unavailable one: while it cannot be reached the devices
//! are parked, and one in a second tries.

use std::time::{Duration, Instant};

use crate::upstream::client::targets::TargetId;
use crate::upstream::dialer::DialFailure;
use crate::upstream::mqtt::brokers::BrokerFault;
use lwm2m_core::gateway::broker::RegistrationId;

use super::{MqttAction, MqttDevices, UpstreamState};

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

    /// Handles the end of a probe.
    pub(crate) fn probed(&mut self, now: Instant, broker: TargetId, outcome: Probed) {
        match outcome {
            Probed::Accepted { took } => {
                self.metrics.times.probe.observe(took.as_secs_f64());
                self.disturbances.opened();
                self.target_serves(now, broker);
            }
            Probed::Closed => self.probe_failed(now, broker, BrokerFault::Closed),
            Probed::NoAnswer => self.probe_failed(now, broker, BrokerFault::NotReached("no answer")),
            Probed::NotOpened(DialFailure::NotReached(why)) => {
                self.probe_failed(now, broker, BrokerFault::NotReached(&why))
            }
            Probed::NotOpened(DialFailure::Local(why)) => {
                self.disturbances.not_opened(&why);
                self.probe_said_nothing(now, broker);
            }
        }
    }

    /// Probes a broker that is due. At an unavailable one, one of the devices that wait for it tries, which shows more
    /// than a connection does.
    pub(super) fn probe_or_try(&mut self, now: Instant, broker: TargetId) {
        if !self.targets.is_up(broker)
            && let Some(id) = self.parked.pop_first()
        {
            return self.dial_again(now, id);
        }
        self.probe_begun(now, broker);
        self.actions.push_back(MqttAction::Probe { broker });
    }
}
