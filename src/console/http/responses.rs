//! The errors of the resources in the OpenAPI document.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use utoipa::IntoResponses;
use utoipa::openapi::{ContentBuilder, OpenApi, PathItem, Ref, RefOr, Response, ResponseBuilder};

use super::problem;
use crate::console::emqx;

/// The statuses by which every request may be rejected before it reaches its resource: no token or a wrong one, another
/// site, another host, too many wrong tokens.
const OF_THE_GUARD: [u16; 4] = [401, 403, 421, 429];

/// Describes the error with this status of a resource.
pub(crate) struct Problems<const STATUS: u16>;

/// Describes the error with this status of a resource below the paths of EMQX.
pub(crate) struct EmqxErrors<const STATUS: u16>;

/// Describes the errors of a command below the paths of EMQX.
pub(crate) struct EmqxCommandErrors;

impl<const STATUS: u16> IntoResponses for Problems<STATUS> {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        BTreeMap::from([(STATUS.to_string(), problem_response(STATUS).into())])
    }
}

impl<const STATUS: u16> IntoResponses for EmqxErrors<STATUS> {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        BTreeMap::from([(STATUS.to_string(), emqx_response(STATUS).into())])
    }
}

impl IntoResponses for EmqxCommandErrors {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        [400, 404, 409, 503].map(|status| (status.to_string(), emqx_response(status).into())).into()
    }
}

/// Adds the errors by which requests are rejected before they reach a resource. A resource that needs no token is never
/// answered 401.
pub(crate) fn add_errors_of_the_guard(document: &mut OpenApi) {
    for (path, item) in &mut document.paths.paths {
        let response = if emqx::is_path(path) { emqx_response } else { problem_response };
        let PathItem { get, put, post, delete, patch, .. } = item;
        for operation in [get, put, post, delete, patch].into_iter().flatten() {
            let needs_token = operation.security.is_none();
            for status in OF_THE_GUARD.into_iter().filter(|status| *status != 401 || needs_token) {
                let responses = &mut operation.responses.responses;
                responses.entry(status.to_string()).or_insert_with(|| response(status).into());
            }
        }
    }
}

fn problem_response(status: u16) -> Response {
    response(status, problem::MEDIA_TYPE, "Problem")
}

fn emqx_response(status: u16) -> Response {
    response(status, "application/json", "EmqxError")
}

fn response(status: u16, media_type: &str, schema: &str) -> Response {
    let description = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(schema))).build();
    ResponseBuilder::new().description(description.unwrap_or_default()).content(media_type, content).build()
}
