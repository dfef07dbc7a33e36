//! The endpoint name in a path, and whether a token may see its device.

use axum::extract::Path;
use axum::extract::rejection::PathRejection;

use super::problem::{Problem, ProblemKind};
use super::tokens::Access;

/// Returns the endpoint name of a path, if the token may see it.
pub(crate) fn visible_endpoint(
    access: &Access,
    endpoint: Result<Path<String>, PathRejection>,
) -> Result<String, Problem> {
    let Path(endpoint) =
        endpoint.map_err(|_| ProblemKind::InvalidRequest.because("the endpoint name is no percent-encoded text"))?;
    check_prefix(access, &endpoint)?;
    Ok(endpoint)
}

/// Rejects a token that may not see the device of this endpoint name.
pub(crate) fn check_prefix(access: &Access, endpoint: &str) -> Result<(), Problem> {
    match &access.prefix {
        Some(prefix) if !endpoint.starts_with(prefix) => {
            Err(ProblemKind::NotAllowed
                .because(format!("the token is limited to devices whose name begins {prefix:?}")))
        }
        Some(_) | None => Ok(()),
    }
}

/// Returns the error of a device that is not registered.
pub(crate) fn not_registered(endpoint: &str) -> Problem {
    ProblemKind::DeviceNotRegistered.because(format!("{endpoint:?} is not registered"))
}
