//! Reads the requests of the registration interface, and builds the answers to them.

use crate::coap::options::{format, number};
use crate::coap::{Code, Request, Response};
use crate::lwm2m::register::{Rejection, Update};
use crate::registry::{Device, Location};

use crate::gateway::config::GatewayConfig;
use crate::gateway::context::Context;
use crate::gateway::diagnostic::{fitting, room};
use crate::gateway::intake::received_request::ReceivedRequest;
use crate::gateway::report::Report;

/// The answer to a GET of `/.well-known/core` (RFC 6690; LwM2M Core 1.1 section 6.2.1 names the resource of the
/// registration interface).
const WELL_KNOWN_CORE: &str = "</rd>;rt=\"core.rd\";ct=40";

/// Rejects a request, and tells the device why as far as that fits into an answer that is no larger than the request.
pub(super) fn reject(
    context: &mut Context,
    received: ReceivedRequest,
    endpoint: Option<String>,
    code: Code,
    reason: String,
) {
    let ReceivedRequest { id, peer, request } = received;
    let response = match code {
        Code::NOT_FOUND => Response::new(code),
        _ => Response::with_diagnostic(code, fitting(&reason, "", room(request))),
    };
    context.respond(id, response);
    context.report(Report::RegisterRejected { peer, endpoint, code, reason });
}

/// Returns the endpoint name of a Register that is otherwise malformed, so that the log names its device.
pub(super) fn written_name(request: &Request) -> Option<String> {
    let items = request.options.texts(number::URI_QUERY).ok()?;
    let name = items.into_iter().find_map(|item| item.strip_prefix("ep="))?;
    let is_plain = !name.is_empty() && !name.contains(char::is_control);
    is_plain.then(|| name.to_owned())
}

/// Reads an Update of this device.
pub(super) fn read_update(config: &GatewayConfig, device: &Device, request: &Request) -> Result<Update, Rejection> {
    let update = device.registration.read_update(request, config.registration_rules())?;
    if update.is_empty() {
        return Ok(update);
    }
    // The bound may have become narrower since the device registered: it may shrink, and change its lifetime.
    let size = device.registration.size_after(&update);
    if size > device.registration.size() {
        check_size(config, size)?;
    }
    Ok(update)
}

/// Rejects a registration that is larger than the configuration allows.
pub(super) fn check_size(config: &GatewayConfig, size: usize) -> Result<(), Rejection> {
    let most = config.limits.registration_size;
    if size <= most {
        return Ok(());
    }
    let diagnostic = format!("the registration has {size} bytes; limits.registration_size is {most}");
    Err(Rejection { code: Code::REQUEST_ENTITY_TOO_LARGE, diagnostic })
}

/// Returns the answer to a Register that is accepted.
pub(super) fn created(location: &Location) -> Response {
    let mut response = Response::new(Code::CREATED);
    response.options.add_text(number::LOCATION_PATH, "rd");
    response.options.add_text(number::LOCATION_PATH, location.as_str());
    response
}

/// Returns the answer to a discovery request.
pub(super) fn well_known_core(request: &Request) -> Response {
    if !matches!(request.options.uint(number::ACCEPT), Ok(None) | Ok(Some(40))) {
        return Response::new(Code::NOT_ACCEPTABLE);
    }
    let mut response = Response::new(Code::CONTENT);
    response.options.add_uint(number::CONTENT_FORMAT, u32::from(format::LINK_FORMAT));
    response.payload = WELL_KNOWN_CORE.as_bytes().to_vec();
    response
}
