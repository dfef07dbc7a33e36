//! `GET /devices`, and `GET` and `DELETE /devices/{endpoint}`: the registered devices. Looking sends nothing to a
//! device.

pub(super) mod documents;
pub(super) mod endpoints;

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use utoipa::IntoParams;

use crate::driver::control::DriverSilent;
use lwm2m_core::gateway::operators::view::{
    DeviceFilter, DevicePage, DeviceTransport, PAGE_ROWS, PageQuery, WakeState,
};

use super::ConsoleServer;
use super::access::audit::Author;
use super::access::tokens::Access;
use super::http::parameters::{IpAddressText, Seconds};
use super::http::problem::{Problem, ProblemKind, silent};
use super::http::responses::Problems;

use documents::{DeviceDocument, DeviceList, DeviceListRow, DeviceState, Transport};
use endpoints::{absent, visible_endpoint};

/// Number of rows without `limit`, and the maximum.
const ROWS: usize = 100;
const MOST_ROWS: usize = 1_000;
/// Maximum number of devices that are looked at for one answer.
const MOST_EXAMINED: usize = 40_000;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct DevicesQuery {
    /// Maximum number of devices, 1 to 1,000; without it 100.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// The member `next` of the answer before.
    cursor: Option<String>,
    /// The beginning of the endpoint name. It makes a search fast.
    prefix: Option<String>,
    /// A part of the endpoint name.
    q: Option<String>,
    #[param(inline)]
    state: Option<DeviceState>,
    #[param(inline)]
    transport: Option<Transport>,
    /// The binding as the device announced it.
    #[param(example = "UQ")]
    binding: Option<String>,
    /// An object of the object list, by its ID.
    #[param(maximum = 65535)]
    object: Option<u16>,
    /// The IP address of the device.
    #[param(value_type = Option<IpAddressText>, inline)]
    address: Option<IpAddr>,
    /// The identity that DTLS has authenticated.
    identity: Option<String>,
    /// Minimum time since the last message, in seconds.
    #[param(inline)]
    silent: Option<Seconds>,
    /// Whether only devices with pending commands are listed.
    waiting: Option<bool>,
}

/// List devices
///
/// The order is that of the endpoint names. An answer ends after 40,000 devices were looked at: it may have fewer rows
/// than asked for, even none, and `next` all the same.
#[utoipa::path(
    get,
    path = "/devices",
    tag = "devices",
    params(DevicesQuery),
    responses(
        (status = 200, description = "Some devices", body = DeviceList),
        Problems<400>, Problems<503>
    )
)]
pub(super) async fn devices(
    State(server): State<Arc<ConsoleServer>>,
    Extension(access): Extension<Access>,
    query: Result<Query<DevicesQuery>, QueryRejection>,
) -> Result<Json<DeviceList>, Problem> {
    let invalid = |text: String| ProblemKind::InvalidRequest.because(text);
    let Query(query) = query?;
    let limit = query.limit.unwrap_or(ROWS);
    if !(1..=MOST_ROWS).contains(&limit) {
        return Err(invalid(format!("limit is a number from 1 to {MOST_ROWS}")));
    }
    let mut after = query.cursor.as_deref().map(name_of_cursor).transpose()?;
    // A token that is limited and a search for other devices have nothing in common.
    let filter = access.visible(query.prefix.clone().unwrap_or_default()).map(|prefix| query.filter(prefix));
    let mut list = DeviceList { devices: Vec::new(), next: None, examined: 0, total: 0 };
    let Some(filter) = filter else { return Ok(Json(list)) };
    loop {
        let wanted = (limit - list.devices.len()).min(PAGE_ROWS);
        let query = PageQuery { after: after.take(), filter: filter.clone(), limit: wanted, ..PageQuery::default() };
        let page = page(&server, query).await?;
        list.devices.extend(page.rows.into_iter().map(DeviceListRow::from));
        list.examined += page.examined;
        list.total = page.total;
        after = page.next;
        if after.is_none() || list.devices.len() >= limit || list.examined >= MOST_EXAMINED {
            break;
        }
    }
    list.next = after.map(|name| URL_SAFE_NO_PAD.encode(name));
    // A number of all devices tells something about those that the token does not show.
    if access.prefix.is_some() {
        list.total = 0;
    }
    Ok(Json(list))
}

/// Get a device
#[utoipa::path(
    get,
    path = "/devices/{endpoint}",
    tag = "devices",
    params(("endpoint" = String, Path, description = "Endpoint name, percent-encoded as a whole")),
    responses(
        (status = 200, description = "The device", body = DeviceDocument),
        Problems<404>, Problems<503>
    )
)]
pub(super) async fn device(
    State(server): State<Arc<ConsoleServer>>,
    Extension(access): Extension<Access>,
    endpoint: Result<Path<String>, PathRejection>,
) -> Result<Json<DeviceDocument>, Problem> {
    let endpoint = visible_endpoint(&access, endpoint)?;
    let asked = server.sources.admin.control.device(endpoint.clone());
    let view = server.gate.pass(asked).await.map_err(silent)?;
    let Some(view) = view else { return Err(absent(&server, &endpoint).await) };
    let model = Arc::clone(&server.sources.model.borrow());
    Ok(Json(DeviceDocument::of(*view, &model)))
}

/// End the registration of a device
///
/// For operators. The pending commands of the device are answered, and its next Update is answered 4.04, so that it
/// registers again.
#[utoipa::path(
    delete,
    path = "/devices/{endpoint}",
    tag = "devices",
    params(("endpoint" = String, Path, description = "Endpoint name, percent-encoded as a whole")),
    responses(
        (status = 204, description = "The registration has ended"),
        Problems<404>, Problems<503>
    )
)]
pub(super) async fn kick(
    State(server): State<Arc<ConsoleServer>>,
    author: Author,
    endpoint: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, Problem> {
    author.access.operator()?;
    let endpoint = visible_endpoint(&author.access, endpoint)?;
    match end_registration(Arc::clone(&server), author, endpoint.clone()).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(absent(&server, &endpoint).await),
    }
}

/// Ends a registration, records that, and returns whether there was one.
pub(crate) async fn end_registration(
    server: Arc<ConsoleServer>,
    author: Author,
    endpoint: String,
) -> Result<bool, Problem> {
    // The action continues, and is recorded, if the client does not wait for it.
    let working = tokio::spawn(async move {
        let kicked = server.gate.pass(server.sources.admin.control.kick(endpoint.clone())).await;
        let result = match kicked {
            Ok(true) => "done",
            Ok(false) => "not registered",
            Err(DriverSilent) => "no answer",
        };
        server.audit.record(&author, "kick", &endpoint, result);
        kicked.map_err(silent)
    });
    working.await.map_err(|error| ProblemKind::Internal.because(error.to_string()))?
}

/// Returns a page of devices, when it is its turn.
pub(super) async fn page(server: &ConsoleServer, query: PageQuery) -> Result<DevicePage, Problem> {
    server.gate.pass(server.sources.admin.control.page(query)).await.map_err(silent)
}

impl DevicesQuery {
    fn filter(self, prefix: String) -> DeviceFilter {
        DeviceFilter {
            prefix,
            name_parts: self.q.into_iter().collect(),
            state: self.state.map(|state| match state {
                DeviceState::Awake => WakeState::Awake,
                DeviceState::Asleep => WakeState::Asleep,
            }),
            transport: self.transport.map(|transport| match transport {
                Transport::Udp => DeviceTransport::Udp,
                Transport::Dtls => DeviceTransport::Dtls,
            }),
            binding: self.binding,
            object: self.object,
            address: self.address,
            identity: self.identity,
            silent: self.silent.map(Seconds::duration),
            waiting: self.waiting.unwrap_or(false),
            ..DeviceFilter::default()
        }
    }
}

fn name_of_cursor(cursor: &str) -> Result<String, Problem> {
    let bytes = URL_SAFE_NO_PAD.decode(cursor).ok();
    let name = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    name.ok_or_else(|| ProblemKind::InvalidRequest.because("cursor is not the member next of an answer"))
}
