//! Observation (RFC 7641), of one path or of several.

use std::time::Instant;

use lwm2m_core::coap::options::number;
use lwm2m_core::coap::{Code, Response, Token};
use lwm2m_core::lwm2m::path::Path;

use super::requests::content;
use super::{DeviceEvent, DeviceTimer, SimulatedDevice};
use crate::observations::{Attributes, Observed};

impl SimulatedDevice {
    /// Begins an observation; gives the Observe number of its first answer.
    pub(super) fn begin_observation(
        &mut self,
        now: Instant,
        token: Token,
        observed: Observed,
        attributes: Attributes,
    ) -> Result<u32, Code> {
        let paths = observed.paths().to_vec();
        let number = self.observations.begin(token, observed, attributes, now)?;
        self.schedule(now, token);
        self.events.push_back(DeviceEvent::ObservationBegan { paths });
        Ok(number)
    }

    pub(super) fn end_observation(&mut self, token: Token) {
        self.timers.cancel(DeviceTimer::Notify(token));
        self.messages.abandon_notifications(token);
        if let Some(observation) = self.observations.end(token) {
            self.events.push_back(DeviceEvent::ObservationEnded { paths: observation.observed.paths().to_vec() });
        }
    }

    pub(super) fn forget_observations(&mut self) {
        for token in self.observations.clear() {
            self.timers.cancel(DeviceTimer::Notify(token));
        }
    }

    /// Something at the paths is new: who observes it hears of it, no sooner than `pmin` after the last time.
    pub(super) fn changed(&mut self, now: Instant, paths: &[Path]) {
        for token in self.observations.concerned(paths) {
            let Some(observation) = self.observations.get(token) else { continue };
            let earliest = observation.last_sent + self.observations.periods(observation).0;
            if earliest > now {
                self.timers.set(DeviceTimer::Notify(token), earliest);
            } else {
                self.send_notification(now, token);
            }
        }
    }

    /// Sets when the next notification is due if nothing happens before.
    pub(super) fn schedule(&mut self, now: Instant, token: Token) {
        let Some(observation) = self.observations.get(token) else { return };
        let (pmin, pmax) = self.observations.periods(observation);
        match pmax.or(self.config.notification_interval) {
            Some(interval) => self.timers.set(DeviceTimer::Notify(token), now + interval.max(pmin)),
            None => self.timers.cancel(DeviceTimer::Notify(token)),
        }
    }

    pub(super) fn send_notification(&mut self, now: Instant, token: Token) {
        let Some(observation) = self.observations.get(token) else { return };
        let confirmable = self.observations.confirmable(observation).unwrap_or(self.config.confirmable_notifications);
        let read = match &observation.observed {
            Observed::Single { path, accept } => self.objects.read(*path, *accept, &self.formats),
            Observed::Composite { paths, format } => Ok((*format, self.objects.read_composite(paths, *format))),
        };
        let Some(observation) = self.observations.get_mut(token) else { return };
        if observation.in_flight {
            observation.missed = true;
            return;
        }
        match read {
            Ok((format, payload)) => {
                observation.number = (observation.number + 1) & 0x00ff_ffff;
                observation.last_sent = now;
                observation.in_flight = confirmable;
                let mut notification = content(format, payload);
                notification.options.add_uint(number::OBSERVE, observation.number);
                let paths = observation.observed.paths().to_vec();
                self.messages.send_notification(now, token, notification, confirmable);
                self.events.push_back(DeviceEvent::Notified { paths });
                self.schedule(now, token);
            }
            // RFC 7641 section 4.2: a notification with an error is the last one.
            Err(code) => {
                self.end_observation(token);
                self.messages.send_notification(now, token, Response::new(code), confirmable);
            }
        }
    }

    pub(super) fn notification_arrived(&mut self, now: Instant, token: Token) {
        let Some(observation) = self.observations.get_mut(token) else { return };
        observation.in_flight = false;
        if std::mem::take(&mut observation.missed) {
            self.send_notification(now, token);
        }
    }
}
