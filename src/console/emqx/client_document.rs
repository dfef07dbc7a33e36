//! A device in the form of a client of EMQX's LwM2M gateway. A member that has no meaning here has the value that EMQX
//! gives a client which has done nothing yet.

use serde::Serialize;
use utoipa::ToSchema;

use crate::console::time::Timestamp;
use lwm2m_core::gateway::operators::view::DeviceRow;

/// The name of the node, which clients know.
const NODE: &str = "lwm2m-gateway";
/// The limit of a queue without a limit.
const UNLIMITED: &str = "infinity";

/// A device as a client of EMQX.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = EmqxClient)]
pub(crate) struct ClientDocument {
    /// Always `lwm2m-gateway`.
    node: &'static str,
    /// The endpoint name.
    clientid: String,
    endpoint_name: String,
    username: String,
    #[schema(example = "lwm2m/ep1/")]
    mountpoint: String,
    #[schema(example = "LwM2M")]
    proto_name: &'static str,
    /// The LwM2M version that the device announced.
    #[schema(example = "1.1")]
    proto_ver: String,
    ip_address: String,
    port: u16,
    is_bridge: bool,
    connected: bool,
    /// The time of the Register.
    connected_at: String,
    /// Always null.
    #[schema(required)]
    disconnected_at: Option<String>,
    created_at: String,
    /// Lifetime of the registration in seconds.
    lifetime: u64,
    /// The lifetime.
    keepalive: u64,
    clean_start: bool,
    expiry_interval: u64,
    #[serde(flatten)]
    statistics: Statistics,
}

/// The counters of a client. Those that EMQX counts for the sessions of the devices are in EMQX.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = EmqxStatistics)]
struct Statistics {
    /// Always 1: the topic of commands.
    subscriptions_cnt: usize,
    subscriptions_max: &'static str,
    /// 1 while a command is in flight.
    inflight_cnt: usize,
    inflight_max: &'static str,
    /// Number of pending commands.
    mqueue_len: usize,
    mqueue_max: &'static str,
    mqueue_dropped: u64,
    awaiting_rel_cnt: u64,
    awaiting_rel_max: &'static str,
    recv_oct: u64,
    recv_cnt: u64,
    recv_pkt: u64,
    recv_msg: u64,
    send_oct: u64,
    send_cnt: u64,
    send_pkt: u64,
    send_msg: u64,
    mailbox_len: u64,
    heap_size: u64,
    reductions: u64,
}

impl From<DeviceRow> for ClientDocument {
    fn from(row: DeviceRow) -> Self {
        let statistics = Statistics::of(&row);
        let registered = Timestamp(row.registered).to_string().replace('Z', "+00:00");
        let (username, mountpoint) = row.names.map(|names| (names.username, names.mountpoint)).unwrap_or_default();
        Self {
            node: NODE,
            clientid: row.endpoint.clone(),
            endpoint_name: row.endpoint,
            username,
            mountpoint,
            proto_name: "LwM2M",
            proto_ver: row.lwm2m,
            ip_address: row.address.ip().to_string(),
            port: row.address.port(),
            is_bridge: false,
            connected: true,
            connected_at: registered.clone(),
            disconnected_at: None,
            created_at: registered,
            lifetime: row.lifetime.as_secs(),
            keepalive: row.lifetime.as_secs(),
            clean_start: true,
            expiry_interval: 0,
            statistics,
        }
    }
}

impl Statistics {
    fn of(row: &DeviceRow) -> Self {
        Self {
            subscriptions_cnt: 1,
            subscriptions_max: UNLIMITED,
            inflight_cnt: row.in_flight.into(),
            inflight_max: UNLIMITED,
            mqueue_len: row.waiting,
            mqueue_max: UNLIMITED,
            mqueue_dropped: 0,
            awaiting_rel_cnt: 0,
            awaiting_rel_max: UNLIMITED,
            recv_oct: 0,
            recv_cnt: 0,
            recv_pkt: 0,
            recv_msg: 0,
            send_oct: 0,
            send_cnt: 0,
            send_pkt: 0,
            send_msg: 0,
            mailbox_len: 0,
            heap_size: 0,
            reductions: 0,
        }
    }
}
