//! Send: a device reports values without having been asked (LwM2M 1.1 section 6.4.6), by `POST /dp`.
//!
//! 1. The Send is read as a whole. A bad one is answered 4.00, and the application gets the reason.
//! 2. Its publication is handed to the broker's side with a ticket, and the response waits.
//! 3. The response is 2.04 when the publication is queued or, with `notification_ack = "published"`, when the broker has
//!    it; 5.03 when it is neither. Commands that wait for the device follow.

use crate::coap::{Code, RequestId, Response};
use crate::lwm2m::send::{self, SendError};
use crate::mqtt::uplink;
use crate::registry::{DeferredAck, Device, RegistrationId, Topic};
use lwm2m_base::Peer;

use super::broker::{Publication, UplinkClass};
use super::context::Context;
use super::diagnostic::{fitting, room, unavailable};
use super::notification::Notifications;
use super::registrations::{ReceivedRequest, Registrations};
use super::report::Report;

/// The path of the resource that devices send to. It is never below the alternate path.
pub(super) const PATH: &str = "dp";

/// Answers a request to the Send resource, now or when the broker's side has the publication.
pub(super) fn handle(registrations: &mut Registrations, context: &mut Context, received: ReceivedRequest) {
    let ReceivedRequest { id, peer, request } = received;
    if request.method != Code::POST || context.settings.translators.send.is_none() {
        return refuse(context, peer, id, Code::METHOD_NOT_ALLOWED);
    }
    let Some(device) = sender(registrations, context, peer) else {
        return refuse(context, peer, id, Code::NOT_FOUND);
    };
    let waiting = context.coap.pending_requests().saturating_sub(registrations.pending().len());
    let has_room = waiting <= most_waiting(context);
    registrations.devices_mut().send(context, device, received, has_room);
}

/// Publishes a Send of this device. Returns whether it is answered already.
pub(super) fn publish(
    notifications: &mut Notifications,
    context: &mut Context,
    device: &mut Device,
    received: ReceivedRequest,
    has_room: bool,
) -> bool {
    let ReceivedRequest { id, request, .. } = received;
    let response = match (send::read(request, context.decode_context(&device.registration)), device.topics.send()) {
        (Ok(entries), Some(topic)) if has_room => {
            let ticket = Some(notifications.defer(context, device, DeferredAck::Send(id)));
            let publication = Publication::new(topic, uplink::send(entries), UplinkClass::Send);
            context.publish(device.session, Publication { ticket, ..publication });
            return false;
        }
        (Ok(_), Some(_)) => unavailable("busy", context.settings.limits.retry_after),
        // Send was disabled when the device registered, before a restart.
        (_, None) => Response::new(Code::METHOD_NOT_ALLOWED),
        (Err(SendError::UnsupportedFormat), Some(_)) => Response::new(Code::UNSUPPORTED_CONTENT_FORMAT),
        (Err(SendError::BadPayload(reason)), Some(topic)) => {
            let response = Response::with_diagnostic(Code::BAD_REQUEST, fitting(&reason, "payload", room(request)));
            report_bad(context, device, topic, reason);
            response
        }
    };
    answer(context, device, id, response);
    true
}

/// Answers a Send of this device.
pub(super) fn answer(context: &mut Context, device: &Device, request: RequestId, response: Response) {
    let code = response.code;
    context.respond(request, response);
    let endpoint = Some(device.registration.endpoint.clone());
    context.report(Report::Send { peer: device.peer, endpoint, code });
}

/// Answers a request that belongs to no device.
fn refuse(context: &mut Context, peer: Peer, request: RequestId, code: Code) {
    context.respond(request, Response::new(code));
    context.report(Report::Send { peer, endpoint: None, code });
}

/// Publishes the reason why a Send could not be decoded.
fn report_bad(context: &mut Context, device: &Device, topic: Topic, reason: String) {
    let payload = uplink::send_refused(&reason);
    context.publish(device.session, Publication::new(topic, payload, UplinkClass::Notification));
    let endpoint = device.registration.endpoint.clone();
    context.report(Report::UndecodableContent { endpoint, path: format!("/{PATH}"), reason });
}

/// Returns the registration that sends from this peer. Over plain UDP it is one that speaks from this address. Over
/// DTLS it is one of the same identity, wherever the device spoke from before. If there are several, it is the one that
/// was heard last.
pub(super) fn sender(registrations: &Registrations, context: &Context, peer: Peer) -> Option<RegistrationId> {
    let registry = registrations.devices().registry();
    let identity = context.identity(peer);
    let there = registry.at(peer).filter(|device| device.identity == identity);
    let there = there.max_by_key(|device| (device.last_heard(), device.id));
    let elsewhere = || {
        let identity = identity.as_ref()?;
        let named = context.settings.identity.endpoints_of(identity);
        let named = named.filter_map(|endpoint| registry.device_by_endpoint(endpoint));
        named.filter(|device| device.identity.as_ref() == Some(identity)).max_by_key(|device| device.last_heard())
    };
    there.or_else(elsewhere).map(|device| device.id)
}

/// Limits the Sends that wait for the broker, so that Registers and the requests that are answered at once have room.
fn most_waiting(context: &Context) -> usize {
    let settings = &context.settings;
    (settings.coap.pending_requests.saturating_sub(settings.limits.pending_registrations) / 2).max(1)
}
