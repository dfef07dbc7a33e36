//! The paths of EMQX's own LwM2M gateway, so that a script needs only another base URL and key. Answers and errors have
//! the form of EMQX 5: members in snake case, times with `+00:00`, errors with `code` and `message`.
//!
//! `{clientid}` is the endpoint name, as it is there. The key of a request is a token, as `Bearer TOKEN`, or as an API
//! key in `Basic` with the name of the token as the key and the token as its secret.

mod client_document;
pub(super) mod clients;
pub(super) mod commands;
mod error;

pub(crate) use error::{EmqxError, EmqxErrorDocument};

/// The resources are below this path.
pub(crate) const BASE: &str = "/api/v5";

/// Returns whether a path belongs to these resources.
pub(crate) fn is_path(path: &str) -> bool {
    path.strip_prefix(BASE).is_some_and(|rest| rest.starts_with('/'))
}
