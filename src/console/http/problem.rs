//! Errors of the API as problem documents (RFC 9457). The HTTP status tells what the gateway did.

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::driver::control::DriverSilent;

use crate::console::emqx::{self, EmqxError};

/// The media type of the documents.
pub(crate) const MEDIA_TYPE: &str = "application/problem+json";

/// The kinds of errors; each has a type, a status and a title.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProblemKind {
    InvalidRequest,
    NotAuthenticated,
    NotAllowed,
    CrossSite,
    NotFound,
    DeviceNotRegistered,
    DeviceElsewhere,
    NoSuchNode,
    LastNode,
    StoreSilent,
    NoSuchTrace,
    NoSuchCommand,
    NoSuchKey,
    CommandInvalid,
    ObservedAlready,
    DeviceAsleep,
    QueueFull,
    NotPending,
    NoSuchCampaign,
    CampaignInvalid,
    CampaignConflict,
    TooManyCampaigns,
    MethodNotAllowed,
    BodyTooLarge,
    NotJson,
    WrongHost,
    TooMany,
    DriverSilent,
    Ending,
    Internal,
}

/// An error of the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub kind: ProblemKind,
    pub detail: String,
    /// The node that has the device.
    pub at: Option<DevicePlace>,
}

/// The node of a cluster that has a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DevicePlace {
    pub node: String,
    /// The URL of its console, if other machines may reach it.
    pub console: Option<String>,
}

/// The document of an error.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct ProblemDocument {
    /// `urn:lwm2m-gateway:problem:` and the name of the problem.
    #[serde(rename = "type")]
    #[schema(example = "urn:lwm2m-gateway:problem:not-found")]
    kind: String,
    title: &'static str,
    status: u16,
    detail: String,
    /// The path of the request.
    instance: String,
    /// With `device-elsewhere`: the name of the node that has the device.
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    /// With `device-elsewhere`: the URL of the console of that node, if other machines may reach it.
    #[serde(skip_serializing_if = "Option::is_none")]
    console: Option<String>,
}

impl ProblemKind {
    pub(crate) fn status(self) -> StatusCode {
        self.parts().1
    }

    /// Returns the last part of its type.
    pub(crate) fn name(self) -> &'static str {
        self.parts().0
    }

    fn parts(self) -> (&'static str, StatusCode, &'static str) {
        match self {
            Self::InvalidRequest => ("invalid-request", StatusCode::BAD_REQUEST, "The request is invalid"),
            Self::NotAuthenticated => ("not-authenticated", StatusCode::UNAUTHORIZED, "The request has no valid token"),
            Self::NotAllowed => ("not-allowed", StatusCode::FORBIDDEN, "The token does not allow this"),
            Self::CrossSite => ("cross-site", StatusCode::FORBIDDEN, "Another site sent the request"),
            Self::NotFound => ("not-found", StatusCode::NOT_FOUND, "There is no such resource"),
            Self::DeviceNotRegistered => {
                ("device-not-registered", StatusCode::NOT_FOUND, "The device is not registered")
            }
            Self::DeviceElsewhere => {
                ("device-elsewhere", StatusCode::MISDIRECTED_REQUEST, "Another node has the device")
            }
            Self::NoSuchNode => ("no-such-node", StatusCode::NOT_FOUND, "There is no such node"),
            Self::LastNode => ("last-node", StatusCode::CONFLICT, "No other node takes the devices"),
            Self::StoreSilent => ("store-silent", StatusCode::SERVICE_UNAVAILABLE, "The store does not answer"),
            Self::NoSuchTrace => ("no-such-trace", StatusCode::NOT_FOUND, "There is no such trace"),
            Self::NoSuchCommand => ("no-such-command", StatusCode::NOT_FOUND, "There is no such command"),
            Self::NoSuchKey => ("no-such-key", StatusCode::NOT_FOUND, "There is no such generated key"),
            Self::CommandInvalid => ("command-invalid", StatusCode::BAD_REQUEST, "The command is invalid"),
            Self::ObservedAlready => ("observed-already", StatusCode::CONFLICT, "The path is observed already"),
            Self::DeviceAsleep => ("device-asleep", StatusCode::CONFLICT, "The device cannot take the command now"),
            Self::QueueFull => ("queue-full", StatusCode::CONFLICT, "The queue of the device has no room"),
            Self::NotPending => ("not-pending", StatusCode::CONFLICT, "The command is not pending any more"),
            Self::NoSuchCampaign => ("no-such-campaign", StatusCode::NOT_FOUND, "There is no such campaign"),
            Self::CampaignInvalid => ("campaign-invalid", StatusCode::BAD_REQUEST, "The campaign is invalid"),
            Self::CampaignConflict => {
                ("campaign-conflict", StatusCode::CONFLICT, "The state of the campaigns does not allow this")
            }
            Self::TooManyCampaigns => {
                ("too-many-campaigns", StatusCode::SERVICE_UNAVAILABLE, "No further campaign can begin now")
            }
            Self::MethodNotAllowed => {
                ("method-not-allowed", StatusCode::METHOD_NOT_ALLOWED, "The resource does not support this method")
            }
            Self::BodyTooLarge => ("body-too-large", StatusCode::PAYLOAD_TOO_LARGE, "The body is too large"),
            Self::NotJson => ("not-json", StatusCode::UNSUPPORTED_MEDIA_TYPE, "The body is not JSON"),
            Self::WrongHost => {
                ("wrong-host", StatusCode::MISDIRECTED_REQUEST, "The host name is not one of the console")
            }
            Self::TooMany => ("too-many", StatusCode::TOO_MANY_REQUESTS, "There were too many requests"),
            Self::DriverSilent => ("driver-silent", StatusCode::SERVICE_UNAVAILABLE, "The event loop does not answer"),
            Self::Ending => ("ending", StatusCode::SERVICE_UNAVAILABLE, "The gateway is shutting down"),
            Self::Internal => ("internal", StatusCode::INTERNAL_SERVER_ERROR, "The gateway failed"),
        }
    }

    /// Returns the kind for an error status of the router.
    fn of_status(status: StatusCode) -> Self {
        match status {
            StatusCode::NOT_FOUND => Self::NotFound,
            StatusCode::METHOD_NOT_ALLOWED => Self::MethodNotAllowed,
            StatusCode::PAYLOAD_TOO_LARGE => Self::BodyTooLarge,
            StatusCode::UNSUPPORTED_MEDIA_TYPE => Self::NotJson,
            status if status.is_client_error() => Self::InvalidRequest,
            _ => Self::Internal,
        }
    }

    /// Returns an error of this kind. The detail must not contain secrets.
    pub(crate) fn because(self, detail: impl Into<String>) -> Problem {
        Problem { kind: self, detail: detail.into(), at: None }
    }

    /// Returns the header that an answer with an error of this kind has besides.
    fn header(self) -> Option<(HeaderName, HeaderValue)> {
        match self {
            // Never Basic: a browser would ask for a password.
            Self::NotAuthenticated => Some((WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))),
            Self::TooMany => Some((RETRY_AFTER, HeaderValue::from_static("1"))),
            Self::InvalidRequest
            | Self::NotAllowed
            | Self::CrossSite
            | Self::NotFound
            | Self::DeviceNotRegistered
            | Self::DeviceElsewhere
            | Self::NoSuchNode
            | Self::LastNode
            | Self::StoreSilent
            | Self::NoSuchTrace
            | Self::NoSuchCommand
            | Self::NoSuchKey
            | Self::CommandInvalid
            | Self::ObservedAlready
            | Self::DeviceAsleep
            | Self::QueueFull
            | Self::NotPending
            | Self::NoSuchCampaign
            | Self::CampaignInvalid
            | Self::CampaignConflict
            | Self::TooManyCampaigns
            | Self::MethodNotAllowed
            | Self::BodyTooLarge
            | Self::NotJson
            | Self::WrongHost
            | Self::DriverSilent
            | Self::Ending
            | Self::Internal => None,
        }
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        ProblemKind::InvalidRequest.because(rejection.body_text())
    }
}

impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Self {
        ProblemKind::InvalidRequest.because(rejection.body_text())
    }
}

impl IntoResponse for Problem {
    /// Returns a response with the problem as an extension; [`finish`] adds the document, which has the request's path.
    fn into_response(self) -> Response {
        let (_, status, _) = self.kind.parts();
        let mut response = status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Replaces the body of an error response by the problem document, or by the document of EMQX below its paths. Other
/// responses stay as they are.
pub(super) fn finish(mut response: Response, path: &str) -> Response {
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return response;
    }
    if let Some(error) = response.extensions_mut().remove::<EmqxError>() {
        return error.answer();
    }
    let problem = response.extensions_mut().remove::<Problem>();
    let problem = problem.unwrap_or_else(|| ProblemKind::of_status(status).because(""));
    let header = problem.kind.header();
    let allow = response.headers_mut().remove(ALLOW);
    let mut finished =
        if emqx::is_path(path) { EmqxError::from(problem).answer() } else { problem_document(problem, path) };
    finished.headers_mut().extend(allow.map(|allow| (ALLOW, allow)).into_iter().chain(header));
    finished
}

fn problem_document(problem: Problem, path: &str) -> Response {
    let (name, status, title) = problem.kind.parts();
    let (node, console) = problem.at.map(|DevicePlace { node, console }| (node, console)).unzip();
    let document = ProblemDocument {
        kind: format!("urn:lwm2m-gateway:problem:{name}"),
        title,
        status: status.as_u16(),
        detail: problem.detail,
        instance: path.to_owned(),
        node,
        console: console.flatten(),
    };
    let mut response = (status, Json(document)).into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    response
}

/// Returns the error of a driver that does not answer.
pub(in crate::console) fn silent(_: DriverSilent) -> Problem {
    ProblemKind::DriverSilent.because("the event loop has not answered within two seconds")
}
