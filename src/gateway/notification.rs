//! What devices tell by themselves: notifications of observations (mapping contract, section 5).

use std::time::Instant;

use crate::coap::{ExchangeId, Response};
use crate::mqtt::uplink;

use super::Gateway;
use super::broker::UplinkClass;
use super::report::{NotificationOutcome, Report};

impl Gateway {
    pub(super) fn notified(
        &mut self,
        now: Instant,
        observation_id: ExchangeId,
        number: Option<u32>,
        response: &Response,
    ) {
        let Some(&id) = self.exchanges.get(&observation_id) else { return };
        self.heard_from(now, id);
        let Some(device) = self.registry.device(id) else { return };
        let Some(observation) = device.observations.get(&observation_id) else { return };
        let command = &observation.command;
        let outcome = self.outcome(now, device, &command.operation, response);
        let payload = uplink::notification(&command.echo, &outcome, number);
        let (topic, endpoint) = (device.topics.notify.clone(), device.registration.endpoint.clone());
        let path = observation.path;

        self.publish(id, topic, payload, UplinkClass::Notification);
        if let Some(reason) = outcome.reason {
            let endpoint = endpoint.clone();
            self.report(Report::UndecodableContent { endpoint, path: path.to_string(), reason });
        }
        let over = number.is_none() || !response.code.is_success();
        if over {
            self.exchanges.remove(&observation_id);
            if let Some(device) = self.registry.device_mut(id) {
                device.observations.remove(&observation_id);
            }
        }
        let outcome = if over { NotificationOutcome::Ended } else { NotificationOutcome::Published };
        self.report(Report::Notification { endpoint, outcome });
        self.send_next(now, id);
    }
}
