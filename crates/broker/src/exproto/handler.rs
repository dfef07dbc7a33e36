//! The client of the gateway's ConnectionUnaryHandler.

use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context as _;
use tonic::transport::{Channel, Endpoint};

use crate::exproto::v1::connection_unary_handler_client::ConnectionUnaryHandlerClient;

/// EMQX opens one HTTP/2 connection per scheduler.
const CHANNELS: usize = 2;

pub(super) type HandlerClient = ConnectionUnaryHandlerClient<Channel>;

/// Connects when there is something to tell. A call is tried once: the next one connects again.
pub(super) struct HandlerChannels {
    clients: [HandlerClient; CHANNELS],
    next: AtomicUsize,
}

impl HandlerChannels {
    pub(super) fn new(url: &str) -> anyhow::Result<Self> {
        let endpoint = Endpoint::from_shared(url.to_owned()).with_context(|| format!("the handler's address {url}"))?;
        let client = |_| HandlerClient::new(endpoint.clone().tcp_nodelay(true).connect_lazy());
        Ok(Self { clients: std::array::from_fn(client), next: AtomicUsize::new(0) })
    }

    /// Returns a client for the events of one connection.
    pub(super) fn client(&self) -> HandlerClient {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        self.clients[next % CHANNELS].clone()
    }
}
