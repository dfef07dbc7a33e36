//! `GET /objects`: the object definitions in force. Each answer has a tag, which changes when the definitions do.

use std::fmt::Write;
use std::sync::Arc;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::header::{CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::{IntoParams, ToSchema};

use lwm2m_core::lwm2m::model::{Object, Resource};

use super::ConsoleServer;
use super::http::problem::{Problem, ProblemKind};
use super::http::responses::Problems;

/// Length of a tag, in bytes.
const TAG: usize = 16;

/// All object definitions.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ObjectDefinitions {
    /// Ordered by ID; of several versions the newest stands first.
    objects: Vec<ObjectDefinition>,
}

/// The definition of one version of an object.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ObjectDefinition {
    id: u16,
    #[schema(example = "1.1")]
    version: String,
    name: String,
    /// Whether a device may have several instances.
    multiple: bool,
    mandatory: bool,
    resources: Vec<ResourceDefinition>,
}

/// The definition of a resource.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ResourceDefinition {
    id: u16,
    name: String,
    /// `String`, `Integer`, `Float`, `Boolean`, `Opaque`, `Time`, `Objlnk` and others; absent for a resource without a
    /// value.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    units: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "0..100")]
    range: Option<String>,
    /// `R`, `W`, `RW`, `E`, or empty.
    operations: String,
    multiple: bool,
    mandatory: bool,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ObjectQuery {
    /// Version of the definition; without it the newest.
    #[param(example = "1.1")]
    version: Option<String>,
}

/// List the object definitions
#[utoipa::path(
    get,
    path = "/objects",
    tag = "definitions",
    responses(
        (status = 200, description = "The definitions in force", body = ObjectDefinitions,
            headers(("ETag" = String, description = "Changes when the definitions do"))),
        (status = 304, description = "If-None-Match has the current tag")
    )
)]
pub(super) async fn objects(State(server): State<Arc<ConsoleServer>>, headers: HeaderMap) -> Result<Response, Problem> {
    let model = Arc::clone(&server.sources.model.borrow());
    tagged(&headers, &ObjectDefinitions { objects: model.objects().map(ObjectDefinition::of).collect() })
}

/// Get the definition of an object
#[utoipa::path(
    get,
    path = "/objects/{id}",
    tag = "definitions",
    params(("id" = u16, Path, maximum = 65535, description = "Object ID"), ObjectQuery),
    responses(
        (status = 200, description = "The definition", body = ObjectDefinition,
            headers(("ETag" = String, description = "Changes when the definition does"))),
        (status = 304, description = "If-None-Match has the current tag"),
        Problems<400>, Problems<404>
    )
)]
pub(super) async fn object(
    State(server): State<Arc<ConsoleServer>>,
    id: Result<Path<u16>, PathRejection>,
    query: Result<Query<ObjectQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let invalid = |text: String| ProblemKind::InvalidRequest.because(text);
    let Path(id) = id.map_err(|_| invalid("an object ID is a number from 0 to 65535".to_owned()))?;
    let Query(ObjectQuery { version }) = query?;
    let model = Arc::clone(&server.sources.model.borrow());
    // Of several versions the newest stands first.
    let fits = |object: &&Object| {
        object.id == id && version.as_ref().is_none_or(|version| object.version.to_string() == *version)
    };
    let Some(object) = model.objects().find(fits) else {
        let version = version.map(|version| format!(" in version {version:?}")).unwrap_or_default();
        let detail = format!("object {id} has no definition{version}; its OMA XML file belongs into xml_dir");
        return Err(ProblemKind::NotFound.because(detail));
    };
    tagged(&headers, &ObjectDefinition::of(object))
}

impl ObjectDefinition {
    fn of(object: &Object) -> Self {
        Self {
            id: object.id,
            version: object.version.to_string(),
            name: object.name.clone(),
            multiple: object.multiple,
            mandatory: object.mandatory,
            resources: object.resources().map(ResourceDefinition::of).collect(),
        }
    }
}

impl ResourceDefinition {
    fn of(resource: &Resource) -> Self {
        Self {
            id: resource.id,
            name: resource.name.clone(),
            kind: resource.resource_type.map(|kind| kind.to_string()),
            units: Some(resource.units.clone()).filter(|units| !units.is_empty()),
            range: resource.range.map(|range| range.to_string()),
            operations: resource.operations.to_string(),
            multiple: resource.multiple,
            mandatory: resource.mandatory,
        }
    }
}

/// Returns JSON with a tag, or 304 if the client has it.
fn tagged(headers: &HeaderMap, content: &impl Serialize) -> Result<Response, Problem> {
    let body = serde_json::to_vec(content);
    let body = body.map_err(|error| ProblemKind::Internal.because(error.to_string()))?;
    let mut tag = String::from("\"");
    for byte in Sha256::digest(&body).iter().take(TAG) {
        write!(tag, "{byte:02x}").expect("a string takes everything");
    }
    tag.push('"');
    let known = headers.get_all(IF_NONE_MATCH).iter().filter_map(|header| header.to_str().ok());
    let mut known = known.flat_map(|header| header.split(',')).map(|known| known.trim().trim_start_matches("W/"));
    if known.any(|known| known == tag || known == "*") {
        return Ok((StatusCode::NOT_MODIFIED, [(ETAG, tag)]).into_response());
    }
    Ok(([(CONTENT_TYPE, "application/json".to_owned()), (ETAG, tag)], body).into_response())
}
