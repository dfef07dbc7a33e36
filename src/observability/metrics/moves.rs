//! Counts how driver threads find out which of them has a device.

use lwm2m_core::gateway::moves::claims::ClaimAnswer;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

use crate::meters::{ResultLabel, counters};

/// Counts the answers to the questions of driver threads. A program with one thread asks nothing.
#[derive(Debug)]
pub struct MoveMetrics {
    own: Counter,
    moved: Counter,
    absent: Counter,
    forbidden: Counter,
    busy: Counter,
}

impl MoveMetrics {
    pub fn register(registry: &mut Registry) -> Self {
        let help = "Requests of a driver thread for a device that another thread may have, by result";
        let answers = counters(registry, "lwm2m_thread_claims", help);
        let answers = |result| answers(ResultLabel { result });
        Self {
            own: answers("own"),
            moved: answers("moved"),
            absent: answers("absent"),
            forbidden: answers("forbidden"),
            busy: answers("busy"),
        }
    }

    pub fn of(&self, answer: &ClaimAnswer) -> &Counter {
        match answer {
            ClaimAnswer::Mine => &self.own,
            ClaimAnswer::Arrived(_) => &self.moved,
            ClaimAnswer::Absent => &self.absent,
            ClaimAnswer::Forbidden(_) => &self.forbidden,
            ClaimAnswer::Unknown => &self.busy,
        }
    }
}
