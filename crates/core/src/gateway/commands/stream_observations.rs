//! Observations that last as long as a user looks: they end some time after the last event stream of their user and
//! device was closed. They end by being forgotten: the gateway answers the next notification with a Reset (RFC 7641
//! section 3.6), so that nothing is sent to a sleeping device.
//!
//! They end by being forgotten: the gateway answers the next notification with a Reset (RFC 7641 section 3.6), so that
//! nothing is sent to a sleeping device.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use crate::coap::ExchangeId;
use crate::command::Origin;
use lwm2m_base::deadlines::Deadlines;

/// The time for which such an observation lasts without a stream.
const WITHOUT_STREAM: Duration = Duration::from_secs(60);

/// Holds the open streams, and the ends of the observations without one.
#[derive(Debug, Default)]
pub(in crate::gateway) struct StreamObservations {
    /// The endpoint names and users with an open stream. The console bounds their number.
    open: HashSet<(String, String)>,
    ends: Deadlines<ExchangeId>,
}

impl StreamObservations {
    /// Notes whether this user has a stream of this device. `observations` are those that last as long as it.
    pub(crate) fn set_open(
        &mut self,
        now: Instant,
        (endpoint, user): (&str, &str),
        is_open: bool,
        observations: impl Iterator<Item = ExchangeId>,
    ) {
        let stream = (endpoint.to_owned(), user.to_owned());
        if is_open {
            self.open.insert(stream);
            observations.for_each(|observation| self.ends.cancel(observation));
        } else if self.open.remove(&stream) {
            observations.for_each(|observation| self.ends.set(observation, now + WITHOUT_STREAM));
        }
    }

    /// Notes an observation that a command of this origin began.
    pub(super) fn observed(&mut self, now: Instant, endpoint: &str, observation: ExchangeId, origin: &Origin) {
        let Some(console) = origin.console().filter(|console| console.while_stream) else { return };
        if !self.open.contains(&(endpoint.to_owned(), console.user.clone())) {
            self.ends.set(observation, now + WITHOUT_STREAM);
        }
    }

    /// Forgets an observation that has ended.
    pub(super) fn ended(&mut self, observation: ExchangeId) {
        self.ends.cancel(observation);
    }

    pub(in crate::gateway) fn pop_expired(&mut self, now: Instant) -> Option<ExchangeId> {
        self.ends.pop_expired(now)
    }

    pub(in crate::gateway) fn next_deadline(&self) -> Option<Instant> {
        self.ends.next()
    }

    pub(in crate::gateway) fn len(&self) -> usize {
        self.ends.len()
    }
}
