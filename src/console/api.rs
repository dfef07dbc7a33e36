//! The resources of the API, and their description as an OpenAPI document.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Components, OpenApi as Document};
use utoipa::{Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::access::tokens::{Access, Role};
use super::access::{audit, session, token_uses};
use super::emqx::EmqxErrorDocument;
use super::http::problem::{Problem, ProblemDocument, ProblemKind};
use super::http::responses;
use super::{
    ConsoleServer, campaigns, cluster, commands, devices, emqx, events, failures, generated_keys, objects, overview,
    page, traces,
};

/// The resources are below this path. A change that clients would notice gets another number.
pub(crate) const BASE: &str = "/api/v1";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "LwM2M gateway",
        description = "The API of the LwM2M gateway for people and scripts. Requests over TCP carry a token: \
                       `Authorization: Bearer lgw_...`. Times are in UTC (RFC 3339), durations in seconds. \
                       Errors are problem documents (RFC 9457).",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    // Its path ends like that of another resource, which passes requests on.
    paths(traces::file),
    components(schemas(ProblemDocument, EmqxErrorDocument)),
    modifiers(&TokenScheme),
    security(("token" = []))
)]
struct ApiDescription;

/// Adds the authentication by a token to the document.
struct TokenScheme;

impl Modify for TokenScheme {
    fn modify(&self, document: &mut Document) {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        let components = document.components.get_or_insert_with(Components::new);
        components.add_security_scheme("token", SecurityScheme::Http(scheme));
    }
}

/// Returns the resources and the files of the page.
pub(super) fn router(server: Arc<ConsoleServer>) -> Router {
    let (router, _) = described().split_for_parts();
    router.with_state(server).fallback(other)
}

/// Returns the OpenAPI document, as JSON with a line end.
pub(crate) fn document() -> String {
    let (_, mut document) = described().split_for_parts();
    responses::add_errors_of_the_guard(&mut document);
    document.to_pretty_json().expect("the document has only texts as keys") + "\n"
}

/// Returns the resources with their description: a resource without one is not served.
fn described() -> OpenApiRouter<Arc<ConsoleServer>> {
    let api = OpenApiRouter::new()
        .routes(routes!(session::session))
        .routes(routes!(overview::overview))
        .routes(routes!(cluster::cluster))
        .routes(routes!(cluster::drain, cluster::undrain))
        .routes(routes!(devices::devices))
        .routes(routes!(devices::device, devices::kick))
        .routes(routes!(commands::command))
        .routes(routes!(commands::withdraw_pending))
        .routes(routes!(commands::given, commands::withdraw_given))
        .routes(routes!(events::device_events))
        .routes(routes!(events::all_events))
        .routes(routes!(objects::objects))
        .routes(routes!(objects::object))
        .routes(routes!(failures::failures))
        .routes(routes!(campaigns::campaigns, campaigns::begin_campaign))
        .routes(routes!(campaigns::campaign))
        .routes(routes!(campaigns::campaign_devices))
        .routes(routes!(campaigns::act))
        .routes(routes!(generated_keys::remove))
        .routes(routes!(traces::traces, traces::begin))
        .routes(routes!(traces::trace, traces::end))
        .routes(routes!(traces::trace_events))
        .routes(routes!(token_uses::tokens))
        .routes(routes!(audit::audit))
        .routes(routes!(openapi));
    let emqx = OpenApiRouter::new()
        .routes(routes!(emqx::clients::clients))
        .routes(routes!(emqx::clients::client, emqx::clients::kick))
        .routes(routes!(emqx::commands::lookup))
        .routes(routes!(emqx::commands::read))
        .routes(routes!(emqx::commands::write))
        .routes(routes!(emqx::commands::observe));
    OpenApiRouter::with_openapi(ApiDescription::openapi()).nest(BASE, api).nest(emqx::BASE, emqx)
}

/// Get the OpenAPI document
///
/// Needs no token.
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "gateway",
    security(()),
    responses((status = 200, description = "This document", content_type = "application/json", body = Object))
)]
async fn openapi() -> Response {
    ([(CONTENT_TYPE, "application/json")], document()).into_response()
}

/// Answers every other path: with a file of the page, or an error.
async fn other(request: Request) -> Response {
    if request.uri().path().starts_with(super::access::guard::API) {
        return ProblemKind::NotFound.because("the API has no such resource").into_response();
    }
    page::file(&request)
}

impl Access {
    /// Rejects a viewer.
    pub(crate) fn operator(&self) -> Result<(), Problem> {
        match self.role {
            Role::Operator => Ok(()),
            Role::Viewer => Err(ProblemKind::NotAllowed.because("only an operator may do this")),
        }
    }

    /// Returns the beginning of the names of the devices that the token shows and that begin so; `None` if no device
    /// does both.
    pub(crate) fn visible(&self, prefix: String) -> Option<String> {
        match &self.prefix {
            None => Some(prefix),
            Some(own) if prefix.starts_with(own.as_str()) => Some(prefix),
            Some(own) if own.starts_with(&prefix) => Some(own.clone()),
            Some(_) => None,
        }
    }

    /// Rejects a token that is limited to some devices: the resource tells something of all.
    pub(crate) fn unlimited(&self) -> Result<(), Problem> {
        match &self.prefix {
            None => Ok(()),
            Some(_) => Err(ProblemKind::NotAllowed.because("the token is limited to the devices of its prefix")),
        }
    }
}
