//! Send: a device reports values without having been asked (LwM2M 1.1 section 6.4.6), by `POST /dp`.
//!
//! 1. The Send is read as a whole. A bad one is answered 4.00, and the application gets the reason.
//! 2. Its publication is handed to the broker's side with a ticket, and the response waits.
//! 3. The response is 2.04 when the publication is queued or, with `notification_ack = "published"`, when the broker
//!    has it; 5.03 when it is neither. Commands that wait for the device follow.

use crate::coap::{Code, Response};
use crate::lwm2m::send::{self, SendError};
use crate::mqtt::uplink;
use crate::registry::{DeferredAck, Device, Topic};

use super::Notifications;
use crate::gateway::broker::{Publication, UplinkClass};
use crate::gateway::context::Context;
use crate::gateway::diagnostic::{fitting, room, unavailable};
use crate::gateway::firmware::pulls::uri::cover_keys_in;
use crate::gateway::intake::received_request::ReceivedRequest;
use crate::gateway::report::Report;

/// The path of the resource that devices send to. It is never below the alternate path.
pub(in crate::gateway) const PATH: &str = "dp";

/// Publishes a Send of this device. Returns whether it is answered already.
pub(in crate::gateway) fn publish(
    notifications: &mut Notifications,
    context: &mut Context,
    device: &mut Device,
    received: ReceivedRequest,
    has_room: bool,
) -> bool {
    let ReceivedRequest { id, request, .. } = received;
    let response = match (send::read(request, context.decode_context(&device.registration)), device.topics.send()) {
        (Ok(mut entries), Some(topic)) if has_room => {
            cover_keys_in(&mut entries);
            let ticket = Some(notifications.defer(context, device, DeferredAck::Send(id)));
            let publication = Publication::new(topic, uplink::send(entries), UplinkClass::Send);
            context.publish(device.publishes_as, Publication { ticket, ..publication });
            return false;
        }
        (Ok(_), Some(_)) => unavailable("busy", context.config.limits.retry_after),
        // Send was disabled when the device registered, before a restart.
        (_, None) => Response::new(Code::METHOD_NOT_ALLOWED),
        (Err(SendError::UnsupportedFormat), Some(_)) => Response::new(Code::UNSUPPORTED_CONTENT_FORMAT),
        (Err(SendError::BadPayload(reason)), Some(topic)) => {
            let response = Response::with_diagnostic(Code::BAD_REQUEST, fitting(&reason, "payload", room(request)));
            report_bad(context, device, topic, reason);
            response
        }
    };
    context.answer_send(device, id, response);
    true
}

/// Publishes the reason why a Send could not be decoded.
fn report_bad(context: &mut Context, device: &Device, topic: Topic, reason: String) {
    let payload = uplink::send_refused(&reason);
    context.publish(device.publishes_as, Publication::new(topic, payload, UplinkClass::Notification));
    let endpoint = device.registration.endpoint.clone();
    context.report(Report::UndecodableContent { endpoint, path: format!("/{PATH}"), reason });
}
