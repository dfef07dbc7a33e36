//! `GET /session`: the identity and the permissions of the request itself.

use axum::{Extension, Json};
use serde::Serialize;
use utoipa::ToSchema;

use super::tokens::{Access, Role};

/// The identity and the permissions of a token.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Session)]
pub(crate) struct TokenDocument {
    /// Name of the token, or `uid:NUMBER` of a process that uses the socket.
    name: String,
    role: Role,
    /// The beginning of the endpoint names that are visible; null for all.
    #[schema(required)]
    prefix: Option<String>,
    /// Version of the gateway.
    version: &'static str,
}

/// Get the name and the role of the token
#[utoipa::path(
    get,
    path = "/session",
    tag = "gateway",
    responses(
        (status = 200, description = "The token", body = TokenDocument)
    )
)]
pub(in crate::console) async fn session(Extension(access): Extension<Access>) -> Json<TokenDocument> {
    let Access { name, role, prefix, .. } = access;
    Json(TokenDocument { name, role, prefix, version: env!("CARGO_PKG_VERSION") })
}
