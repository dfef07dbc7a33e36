//! Errors in the form of EMQX: a code in capitals, and a message.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::console::http::problem::Problem;

/// An error of these resources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EmqxError {
    status: StatusCode,
    document: EmqxErrorDocument,
}

/// The document of an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = EmqxError)]
pub(crate) struct EmqxErrorDocument {
    #[schema(example = "RESOURCE_NOT_FOUND")]
    code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

impl EmqxError {
    /// The error of a client that does not exist.
    pub(crate) fn client_not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "RESOURCE_NOT_FOUND", "Client not found")
    }

    /// The error of a command for a client that does not exist.
    pub(crate) fn no_such_client() -> Self {
        Self::new(StatusCode::NOT_FOUND, "CLIENT_NOT_FOUND", "")
    }

    /// The error of a parameter beyond its bounds.
    pub(crate) fn invalid_parameter(message: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "INVALID_PARAMETER", message)
    }

    /// The error of a request that cannot be read.
    pub(crate) fn bad_request(message: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BAD_REQUEST", message)
    }

    /// Returns the response with the document.
    pub(crate) fn answer(self) -> Response {
        (self.status, Json(self.document)).into_response()
    }

    fn new(status: StatusCode, code: &'static str, message: &str) -> Self {
        let message = Some(message.to_owned()).filter(|message| !message.is_empty());
        Self { status, document: EmqxErrorDocument { code, message } }
    }
}

impl From<QueryRejection> for EmqxError {
    fn from(rejection: QueryRejection) -> Self {
        Self::bad_request(&rejection.body_text())
    }
}

impl From<Problem> for EmqxError {
    /// Returns the error that EMQX answers with the same status.
    fn from(problem: Problem) -> Self {
        let status = problem.kind.status();
        let code = match status {
            StatusCode::UNAUTHORIZED => "BAD_API_KEY_OR_SECRET",
            StatusCode::FORBIDDEN => "UNAUTHORIZED_ROLE",
            StatusCode::NOT_FOUND => "NOT_FOUND",
            StatusCode::METHOD_NOT_ALLOWED => "METHOD_NOT_ALLOWED",
            StatusCode::CONFLICT => "CONFLICT",
            StatusCode::TOO_MANY_REQUESTS => "EXCEED_LIMIT",
            StatusCode::SERVICE_UNAVAILABLE => "SERVICE_UNAVAILABLE",
            status if status.is_client_error() => "BAD_REQUEST",
            _ => "INTERNAL_ERROR",
        };
        Self::new(status, code, &problem.detail)
    }
}

impl IntoResponse for EmqxError {
    /// Returns a response with the error as an extension, which becomes the body once the answer leaves.
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}
