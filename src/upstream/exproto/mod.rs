//! EMQX by ExProto: one anchor connection per device, the adapter's client, the handler's server.

pub mod v1;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::gateway::broker::{BrokerCommand, BrokerEvent};
use crate::observability::metrics::Metrics;

/// Where EMQX is, and how much of it to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// EMQX's exproto TCP listener, `host:port`; more than one spreads the anchors.
    pub listeners: Vec<String>,
    /// EMQX's ConnectionAdapter: `http://host:port`.
    pub adapter: String,
    /// HTTP/2 connections to the adapter.
    pub adapter_connections: usize,
    /// Where our ConnectionUnaryHandler listens.
    pub handler_bind: SocketAddr,
    /// Source addresses of the anchors; none lets the system choose.
    pub source_addresses: Vec<IpAddr>,
    /// `proto_name` of Authenticate: EMQX chooses the authenticators by it.
    pub proto_name: String,
    /// From the Register to the end of Subscribe.
    pub connect_timeout: Duration,
    /// New anchors in a second, when many have to be made again.
    pub anchors_per_second: u32,
    /// Publications that wait for one device, and for all.
    pub queue_per_device: usize,
    pub queue_total: usize,
    /// Events from EMQX that wait for the core.
    pub event_queue: usize,
}

/// The link to EMQX. Its state lives where it is polled; calls and sockets run beside it and report back.
pub struct Link {}

impl Link {
    /// Binds the handler. An EMQX that is away is no error.
    pub async fn start(settings: Settings, metrics: Arc<Metrics>) -> std::io::Result<Self> {
        todo!()
    }

    /// Takes a command; never waits.
    pub fn submit(&mut self, command: BrokerCommand) {
        todo!()
    }

    /// The next event for the core. Drives the link: it has to be polled all the time. Cancel-safe.
    pub async fn event(&mut self) -> BrokerEvent {
        todo!()
    }

    /// Publishes what is queued, then closes the anchors; gives up at the deadline.
    pub async fn shut_down(self, deadline: Duration) {
        todo!()
    }
}
