//! What devices tell by themselves: notifications of observations (mapping contract, section 5).

use std::time::Instant;

use crate::coap::{BlockError, Code, ExchangeId, Response};
use crate::lwm2m::operation::Outcome;
use crate::mqtt::uplink;

use super::Gateway;
use super::broker::UplinkClass;
use super::report::{NotificationOutcome, Report};

impl Gateway {
    /// A notification, or the reason why its body could not be fetched.
    pub(super) fn notified(
        &mut self,
        now: Instant,
        observation_id: ExchangeId,
        number: Option<u32>,
        received: Result<&Response, BlockError>,
    ) {
        let Some(&id) = self.exchanges.get(&observation_id) else { return };
        self.heard_from(now, id);
        let Some(device) = self.registry.device(id) else { return };
        let Some(observation) = device.observations.get(&observation_id) else { return };
        let command = &observation.command;
        let outcome = match received {
            Ok(response) => self.outcome(now, device, &command.operation, response),
            Err(error) => Outcome { code: Code::BAD_REQUEST, content: None, reason: Some(error.to_string()) },
        };
        let payload = uplink::notification(&command.echo, &outcome, number);
        let (topic, endpoint) = (device.topics.notify.clone(), device.registration.endpoint.clone());
        let (path, peer) = (observation.path, device.peer);

        self.publish(id, topic, payload, UplinkClass::Notification);
        if let Err(error) = received {
            self.report(Report::TransferFailed { peer, error });
        } else if let Some(reason) = outcome.reason {
            let endpoint = endpoint.clone();
            self.report(Report::UndecodableContent { endpoint, path: path.to_string(), reason });
        }
        let over = number.is_none() || received.is_ok_and(|response| !response.code.is_success());
        if over {
            self.exchanges.remove(&observation_id);
            self.changed(id);
            if let Some(device) = self.registry.device_mut(id) {
                device.observations.remove(&observation_id);
            }
        }
        let outcome = if over { NotificationOutcome::Ended } else { NotificationOutcome::Published };
        self.report(Report::Notification { endpoint, outcome });
        self.send_next(now, id);
    }
}
