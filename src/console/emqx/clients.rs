//! `GET /gateways/lwm2m/clients`, and `GET` and `DELETE /gateways/lwm2m/clients/{clientid}`.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use lwm2m_core::gateway::operators::view::{DeviceFilter, DeviceRow, PAGE_ROWS, PageQuery};

use super::client_document::ClientDocument;
use super::error::EmqxError;
use crate::console::ConsoleServer;
use crate::console::access::audit::Author;
use crate::console::access::tokens::Access;
use crate::console::devices;
use crate::console::http::parameters::{IpAddressText, Seconds};
use crate::console::http::responses::EmqxErrors;

/// Number of clients without `limit`, and the maximum.
const CLIENTS: usize = 100;
const MOST_CLIENTS: usize = 10_000;
/// A list of more clients is a large one.
const LARGE: usize = 1_000;
/// Maximum of `page` times `limit`: all pages before the one that is asked for are passed over.
const MOST_PASSED_OVER: usize = 100_000;

/// The parameters of a list. EMQX knows more, such as `node`, `clean_start` and times; they are ignored.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct ClientsQuery {
    /// Number of the page, from 1.
    #[param(minimum = 1, maximum = 100_000)]
    page: Option<usize>,
    /// Maximum number of clients, 1 to 10,000; without it 100.
    #[param(minimum = 1, maximum = 10_000)]
    limit: Option<usize>,
    /// The endpoint name.
    clientid: Option<String>,
    /// A part of the endpoint name.
    like_clientid: Option<String>,
    endpoint_name: Option<String>,
    /// A part of the endpoint name.
    like_endpoint_name: Option<String>,
    username: Option<String>,
    /// A part of the username.
    like_username: Option<String>,
    #[param(value_type = Option<IpAddressText>, inline)]
    ip_address: Option<IpAddr>,
    /// Every registered device is `connected`.
    #[param(example = "connected")]
    conn_state: Option<String>,
    /// The LwM2M version that the device announced.
    #[param(example = "1.1")]
    proto_ver: Option<String>,
    /// The shortest lifetime, in seconds.
    #[param(inline)]
    gte_lifetime: Option<Seconds>,
    /// The longest lifetime, in seconds.
    #[param(inline)]
    lte_lifetime: Option<Seconds>,
}

/// Some clients.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = EmqxClients)]
pub(crate) struct ClientList {
    data: Vec<ClientDocument>,
    meta: ClientsMeta,
}

/// The place of a list among all.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = EmqxMeta)]
struct ClientsMeta {
    page: usize,
    limit: usize,
    /// Number of all clients; absent with a filter.
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<usize>,
    /// Whether a page follows.
    hasnext: bool,
}

/// List devices as EMQX does
///
/// The order is that of the endpoint names. `page` times `limit` is 100,000 at most.
#[utoipa::path(
    get,
    path = "/gateways/lwm2m/clients",
    tag = "emqx",
    params(ClientsQuery),
    responses(
        (status = 200, description = "Some devices", body = ClientList),
        EmqxErrors<400>, EmqxErrors<503>
    )
)]
pub(crate) async fn clients(
    State(server): State<Arc<ConsoleServer>>,
    Extension(access): Extension<Access>,
    query: Result<Query<ClientsQuery>, QueryRejection>,
) -> Result<Json<ClientList>, EmqxError> {
    access.unlimited()?;
    let Query(query) = query?;
    let (page, limit) = (query.page.unwrap_or(1), query.limit.unwrap_or(CLIENTS));
    if page == 0 || !(1..=MOST_CLIENTS).contains(&limit) {
        return Err(EmqxError::bad_request(&format!("page is 1 or more, limit is 1 to {MOST_CLIENTS}")));
    }
    if page.saturating_mul(limit) > MOST_PASSED_OVER {
        return Err(EmqxError::invalid_parameter("page_limit_invalid"));
    }
    // The semaphore is never closed.
    let _permit = if limit > LARGE { server.large_lists.acquire().await.ok() } else { None };
    let (mut rows, total) = query.rows(&server, (page - 1) * limit, limit + 1).await?;
    let hasnext = rows.len() > limit;
    rows.truncate(limit);
    let meta = ClientsMeta { page, limit, count: total, hasnext };
    Ok(Json(ClientList { data: rows.into_iter().map(ClientDocument::from).collect(), meta }))
}

/// Get a device as EMQX does
#[utoipa::path(
    get,
    path = "/gateways/lwm2m/clients/{clientid}",
    tag = "emqx",
    params(("clientid" = String, Path, description = "Endpoint name, percent-encoded as a whole")),
    responses(
        (status = 200, description = "The device", body = ClientDocument),
        EmqxErrors<404>, EmqxErrors<503>
    )
)]
pub(crate) async fn client(
    State(server): State<Arc<ConsoleServer>>,
    Extension(access): Extension<Access>,
    clientid: Result<Path<String>, PathRejection>,
) -> Result<Json<ClientDocument>, EmqxError> {
    access.unlimited()?;
    let row = row(&server, name(clientid)?, DeviceFilter::default()).await?;
    Ok(Json(ClientDocument::from(row.ok_or_else(EmqxError::client_not_found)?)))
}

/// End the registration of a device as EMQX does
///
/// For operators. The next Update of the device is answered 4.04, so that it registers again.
#[utoipa::path(
    delete,
    path = "/gateways/lwm2m/clients/{clientid}",
    operation_id = "kickClient",
    tag = "emqx",
    params(("clientid" = String, Path, description = "Endpoint name, percent-encoded as a whole")),
    responses(
        (status = 204, description = "The registration has ended"),
        EmqxErrors<404>, EmqxErrors<503>
    )
)]
pub(crate) async fn kick(
    State(server): State<Arc<ConsoleServer>>,
    author: Author,
    clientid: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, EmqxError> {
    author.access.operator()?;
    author.access.unlimited()?;
    let clientid = name(clientid)?;
    match devices::end_registration(server, author, clientid).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(EmqxError::client_not_found()),
    }
}

impl ClientsQuery {
    /// Returns the chosen devices after those that are passed over, and the number of all devices if all are chosen.
    async fn rows(
        self,
        server: &ConsoleServer,
        mut skip: usize,
        limit: usize,
    ) -> Result<(Vec<DeviceRow>, Option<usize>), EmqxError> {
        let connected = self.conn_state.as_ref().is_none_or(|state| state == "connected");
        let is_every_state = self.conn_state.is_none();
        let names = [self.clientid.clone(), self.endpoint_name.clone()];
        let filter = self.filter();
        let is_every = is_every_state && filter == DeviceFilter::default() && names.iter().all(Option::is_none);
        if !connected {
            return Ok((Vec::new(), None));
        }
        let mut names = names.into_iter().flatten();
        if let Some(name) = names.next() {
            let is_same = names.all(|other| other == name);
            let found = if is_same && skip == 0 { row(server, name, filter).await? } else { None };
            return Ok((found.into_iter().collect(), None));
        }
        let (mut rows, mut after) = (Vec::new(), None);
        loop {
            let wanted = (limit - rows.len()).min(PAGE_ROWS);
            let query = PageQuery { after, filter: filter.clone(), skip, names: true, limit: wanted };
            let page = devices::page(server, query).await?;
            rows.extend(page.rows);
            skip -= page.skipped;
            after = page.next;
            if after.is_none() || rows.len() >= limit {
                return Ok((rows, is_every.then_some(page.total)));
            }
        }
    }

    fn filter(self) -> DeviceFilter {
        let lifetime = match (self.gte_lifetime.map(Seconds::duration), self.lte_lifetime.map(Seconds::duration)) {
            (None, None) => None,
            (least, most) => Some(least.unwrap_or(Duration::ZERO)..=most.unwrap_or(Duration::MAX)),
        };
        DeviceFilter {
            name_parts: self.like_clientid.into_iter().chain(self.like_endpoint_name).collect(),
            username: self.username,
            username_part: self.like_username,
            lwm2m: self.proto_ver,
            lifetime,
            address: self.ip_address,
            ..DeviceFilter::default()
        }
    }
}

/// Returns the device of this name, if it is chosen. It is the first one whose name begins so.
pub(super) async fn row(
    server: &ConsoleServer,
    name: String,
    filter: DeviceFilter,
) -> Result<Option<DeviceRow>, EmqxError> {
    let filter = DeviceFilter { prefix: name.clone(), ..filter };
    let query = PageQuery { filter, names: true, limit: 1, ..PageQuery::default() };
    let page = devices::page(server, query).await?;
    Ok(page.rows.into_iter().next().filter(|row| row.endpoint == name))
}

pub(super) fn name(clientid: Result<Path<String>, PathRejection>) -> Result<String, EmqxError> {
    let Path(name) = clientid.map_err(|_| EmqxError::bad_request("the client ID is not percent-encoded text"))?;
    Ok(name)
}
