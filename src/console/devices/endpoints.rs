//! The endpoint name in a path, and whether a token may see its device.

use axum::extract::Path;
use axum::extract::rejection::PathRejection;

use crate::cluster::status::StoreSilent;

use crate::console::ConsoleServer;
use crate::console::access::tokens::Access;
use crate::console::http::problem::{DevicePlace, Problem, ProblemKind};

/// Returns the endpoint name of a path, if the token may see it.
pub(crate) fn visible_endpoint(
    access: &Access,
    endpoint: Result<Path<String>, PathRejection>,
) -> Result<String, Problem> {
    let Path(endpoint) =
        endpoint.map_err(|_| ProblemKind::InvalidRequest.because("the endpoint name is not percent-encoded text"))?;
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

/// Returns the error of a device that this gateway does not have: another node of the cluster has it, or it is not
/// registered.
pub(crate) async fn absent(server: &ConsoleServer, endpoint: &str) -> Problem {
    let Some(cluster) = &server.sources.cluster else { return not_registered(endpoint) };
    let node = match cluster.elsewhere(endpoint).await {
        Ok(Some(node)) => node.announced,
        Ok(None) => return not_registered(endpoint),
        Err(StoreSilent) => {
            let detail = "is not registered at this node, and the store does not answer which node has it";
            return ProblemKind::DeviceNotRegistered.because(format!("{endpoint:?} {detail}"));
        }
    };
    let (node, console) = (node.address.name, node.report.and_then(|report| report.console));
    let place = match &console {
        Some(console) => format!("its console is {console}"),
        None => "its console is reached on its machine only".to_owned(),
    };
    let detail = format!("{endpoint:?} is registered at the node {node} of the cluster; {place}");
    Problem { at: Some(DevicePlace { node, console }), ..ProblemKind::DeviceElsewhere.because(detail) }
}

/// Returns the error of a device that is not registered.
fn not_registered(endpoint: &str) -> Problem {
    ProblemKind::DeviceNotRegistered.because(format!("{endpoint:?} is not registered"))
}
