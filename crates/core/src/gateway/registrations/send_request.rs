//! Finds the device that a request to the Send resource comes from, and checks whether there is room for it
//! ([`send`](crate::gateway::notifications::send) publishes it).

use crate::coap::{Code, RequestId, Response};
use crate::registry::{RegistrationId, Registry};
use lwm2m_base::Peer;

use crate::gateway::context::Context;
use crate::gateway::devices::RegisteredDevices;
use crate::gateway::intake::received_request::ReceivedRequest;
use crate::gateway::report::Report;

/// Answers a request to the Send resource, now or when the broker's side has the publication.
pub(super) fn handle(
    devices: &mut RegisteredDevices,
    pending_registrations: usize,
    context: &mut Context,
    received: ReceivedRequest,
) {
    let ReceivedRequest { id, peer, request } = received;
    if request.method != Code::POST || context.config.translators.send.is_none() {
        return refuse(context, peer, id, Code::METHOD_NOT_ALLOWED);
    }
    let Some(device) = sender(devices.registry(), context, peer) else {
        return refuse(context, peer, id, Code::NOT_FOUND);
    };
    let waiting = context.coap.pending_requests().saturating_sub(pending_registrations);
    let has_room = waiting <= most_waiting(context);
    devices.send(context, device, received, has_room);
}

/// Returns the registration that sends from this peer. Over plain UDP it is one whose device has this address. Over
/// DTLS it is one of the same identity, whatever the address of its device. If there are several, it is the one with
/// the latest message.
pub(in crate::gateway) fn sender(registry: &Registry, context: &Context, peer: Peer) -> Option<RegistrationId> {
    let identity = context.identity(peer);
    let there = registry.at(peer).filter(|device| device.identity == identity);
    let there = there.max_by_key(|device| (device.last_heard(), device.id));
    let elsewhere = || {
        let identity = identity.as_ref()?;
        let named = context.config.identity.endpoints_of(identity);
        let named = named.filter_map(|endpoint| registry.device_by_endpoint(endpoint));
        named.filter(|device| device.identity.as_ref() == Some(identity)).max_by_key(|device| device.last_heard())
    };
    there.or_else(elsewhere).map(|device| device.id)
}

/// Answers a request that belongs to no device.
fn refuse(context: &mut Context, peer: Peer, request: RequestId, code: Code) {
    context.respond(request, Response::new(code));
    context.report(Report::Send { peer, endpoint: None, code });
}

/// Limits the Sends that wait for the broker, so that Registers and the requests that are answered at once have room.
fn most_waiting(context: &Context) -> usize {
    let config = &context.config;
    (config.coap.pending_requests.saturating_sub(config.limits.pending_registrations) / 2).max(1)
}
