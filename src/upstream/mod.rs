//! The connection to the broker, by ExProto or by MQTT. Both kinds take the commands of
//! [`lwm2m_core::gateway::broker`] and answer with its events, so that the rest of the program does not know which one
//! it is.
//!
//! - `client` is what both share: the lifecycle of a device as a client of the broker, as a state machine without IO.
//! - [`exproto`] and [`mqtt`] have the handshake, the publishing and the probing of a protocol (`devices`), and the
//!   sockets and calls that carry them out.
//! - `link` is the loop that joins the state machine with the sockets; [`UpstreamLink`] is the link of either kind.
//! - `dialer` opens TCP and TLS connections for both.

mod client;
mod dialer;
pub mod exproto;
mod link;
pub mod metrics;
pub mod mqtt;
#[cfg(test)]
mod races;
pub mod seat;
mod source_port;
#[cfg(feature = "swallow")]
mod swallow;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use crate::conditions::Condition;
use crate::upstream::metrics::UpstreamMetrics;
use crate::upstream::seat::LinkSeat;
use lwm2m_core::gateway::broker::{BrokerCommand, BrokerEvent};
use lwm2m_core::registry::RegistrationId;

/// Says which kind of upstream to use, with its configuration.
#[derive(Clone, Debug)]
pub enum UpstreamConfig {
    ExProto(exproto::ExProtoConfig),
    Mqtt(mqtt::MqttConfig),
}

/// Configures what both kinds of upstream have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkConfig {
    /// Lists the source addresses of the connections of devices. Without any, the system chooses. A source address
    /// suffices for about 28,000 connections to each address of the broker.
    pub source_addresses: Vec<IpAddr>,
    /// Limits the time from the Register to the answer to the subscription.
    pub connect_timeout: Duration,
    /// Limits the new connections in a second, when many devices reconnect.
    pub connections_per_second: u32,
    /// Limits the publications that wait for one device. `queue_total` limits them for all devices.
    pub queue_per_device: usize,
    pub queue_total: usize,
    /// Limits the events of the broker that wait for the core.
    pub event_queue: usize,
}

impl UpstreamConfig {
    pub fn link(&self) -> &LinkConfig {
        match self {
            Self::ExProto(exproto) => &exproto.link,
            Self::Mqtt(mqtt) => &mqtt.link,
        }
    }

    pub(crate) fn link_mut(&mut self) -> &mut LinkConfig {
        match self {
            Self::ExProto(exproto) => &mut exproto.link,
            Self::Mqtt(mqtt) => &mut mqtt.link,
        }
    }
}

/// The link to the broker. Its state lives in the task that polls it.
pub enum UpstreamLink {
    ExProto(Box<exproto::ExProtoLink>),
    Mqtt(Box<mqtt::MqttLink>),
    #[cfg(feature = "swallow")]
    Swallow(Box<swallow::SwallowLink>),
}

impl UpstreamLink {
    /// Starts the link of the only driver thread. A broker that is unavailable is no error: `condition` reports it.
    ///
    /// # Errors
    /// Something that the configuration names is missing or cannot be used: an address to listen at, or a file with a
    /// key.
    pub async fn start(
        config: UpstreamConfig,
        metrics: Arc<UpstreamMetrics>,
        condition: Condition,
    ) -> io::Result<Self> {
        let seat = LinkSeat::only(&config);
        Self::start_at(config, seat, metrics, condition).await
    }

    /// Starts the link of one of several driver threads, like [`UpstreamLink::start`]. The links start in the order of
    /// their threads.
    pub async fn start_at(
        config: UpstreamConfig,
        seat: LinkSeat,
        metrics: Arc<UpstreamMetrics>,
        condition: Condition,
    ) -> io::Result<Self> {
        #[cfg(feature = "swallow")]
        if let Some(path) = swallow::path() {
            return Ok(Self::Swallow(Box::new(swallow::SwallowLink::start(path)?)));
        }
        Ok(match config {
            UpstreamConfig::ExProto(config) => {
                Self::ExProto(Box::new(exproto::ExProtoLink::start(config, seat, metrics, condition).await?))
            }
            UpstreamConfig::Mqtt(config) => Self::Mqtt(Box::new(mqtt::MqttLink::start(config, metrics, condition)?)),
        })
    }

    /// Serves connections with TLS on this runtime: their handshakes and ciphers need much processor time, during which
    /// no device is served where the link itself runs.
    pub(crate) fn with_tls_on(mut self, runtime: Handle) -> Self {
        match &mut self {
            Self::ExProto(link) => link.io.tls_runtime = Some(runtime),
            Self::Mqtt(link) => link.io.tls_runtime = Some(runtime),
            #[cfg(feature = "swallow")]
            Self::Swallow(_) => drop(runtime),
        }
        self
    }

    /// Takes a command of the core. Never waits.
    pub fn submit(&mut self, command: BrokerCommand) {
        match self {
            Self::ExProto(link) => link.submit(command),
            Self::Mqtt(link) => link.submit(command),
            #[cfg(feature = "swallow")]
            Self::Swallow(link) => link.submit(command),
        }
    }

    /// Returns how full the tables are. The cost does not depend on the number of devices.
    pub fn table_sizes(&self) -> UpstreamTableSizes {
        match self {
            Self::ExProto(link) => link.table_sizes(),
            Self::Mqtt(link) => link.table_sizes(),
            #[cfg(feature = "swallow")]
            Self::Swallow(link) => link.table_sizes(),
        }
    }

    /// Returns whether a registration is a client of the broker.
    pub(crate) fn is_connected(&self, id: RegistrationId) -> bool {
        match self {
            Self::ExProto(link) => link.is_connected(id),
            Self::Mqtt(link) => link.is_connected(id),
            #[cfg(feature = "swallow")]
            Self::Swallow(_) => true,
        }
    }

    /// Returns whether the link has a registration, also one that leaves and still publishes.
    pub(crate) fn has(&self, id: RegistrationId) -> bool {
        match self {
            Self::ExProto(link) => link.has(id),
            Self::Mqtt(link) => link.has(id),
            #[cfg(feature = "swallow")]
            Self::Swallow(_) => false,
        }
    }

    /// Returns the number of publications that were dropped since the last call.
    pub(crate) fn take_dropped(&mut self) -> u64 {
        match self {
            Self::ExProto(link) => link.take_dropped(),
            Self::Mqtt(link) => link.take_dropped(),
            #[cfg(feature = "swallow")]
            Self::Swallow(_) => 0,
        }
    }

    /// Does what can be done without waiting, such as handing packets to the connections, up to the next event for the
    /// core.
    pub fn poll_event(&mut self) -> Option<BrokerEvent> {
        match self {
            Self::ExProto(link) => link.poll_event(),
            Self::Mqtt(link) => link.poll_event(),
            #[cfg(feature = "swallow")]
            Self::Swallow(link) => link.poll_event(),
        }
    }

    /// Returns the next event for the core. This drives the link, so it has to be polled all the time. Cancel-safe.
    pub async fn event(&mut self) -> BrokerEvent {
        match self {
            Self::ExProto(link) => link.event().await,
            Self::Mqtt(link) => link.event().await,
            #[cfg(feature = "swallow")]
            Self::Swallow(link) => link.event().await,
        }
    }

    /// Publishes what is queued, then ends the connections. Gives up at the deadline.
    pub async fn shut_down(self, deadline: Duration) {
        match self {
            Self::ExProto(link) => link.shut_down(deadline).await,
            Self::Mqtt(link) => link.shut_down(deadline).await,
            #[cfg(feature = "swallow")]
            Self::Swallow(_) => {}
        }
    }
}

/// Counts the entries of the upstream's tables, and the nodes of the broker by availability.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamTableSizes {
    /// Counts the devices that are clients of the broker.
    pub connected: usize,
    /// Counts the devices that are not clients, and will be if the broker accepts them.
    pub connecting: usize,
    /// Counts the publications that wait. `publications_limit` is their bound.
    pub publications: usize,
    pub publications_limit: usize,
    pub nodes_available: usize,
    pub nodes_unavailable: usize,
    pub nodes: Vec<BrokerNodeState>,
}

impl UpstreamTableSizes {
    /// Adds the tables of the link of another thread, which has the same nodes.
    pub(crate) fn add(&mut self, other: Self) {
        let Self { connected, connecting, publications, publications_limit, nodes, .. } = other;
        self.connected += connected;
        self.connecting += connecting;
        self.publications += publications;
        self.publications_limit += publications_limit;
        for node in nodes {
            match self.nodes.iter_mut().find(|known| known.name == node.name) {
                Some(known) => known.add(node),
                None => self.nodes.push(node),
            }
        }
        self.nodes_available = self.nodes.iter().filter(|node| node.is_available).count();
        self.nodes_unavailable = self.nodes.len() - self.nodes_available;
    }
}

impl BrokerNodeState {
    /// Adds what another thread knows of the node, which is available if it is for all threads.
    fn add(&mut self, other: Self) {
        if self.is_available && !other.is_available {
            (self.is_available, self.detail) = (false, other.detail);
        }
        self.clients += other.clients;
    }
}

/// The state of a node of the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerNodeState {
    /// The address, or the addresses.
    pub name: String,
    pub is_available: bool,
    /// Counts the devices that are its clients.
    pub clients: usize,
    /// The reason why it is not available, or what is known of it otherwise.
    pub detail: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_available_if_it_is_for_the_links_of_all_threads() {
        let node = |name: &str, is_available| BrokerNodeState {
            name: name.to_owned(),
            is_available,
            clients: 2,
            detail: format!("{is_available}"),
        };
        let sizes = |second| UpstreamTableSizes {
            connected: 4,
            nodes_available: 1,
            nodes: vec![node("a", true), node("b", second)],
            ..UpstreamTableSizes::default()
        };
        let mut sum = sizes(true);
        sum.add(sizes(false));
        assert_eq!((sum.connected, sum.nodes_available, sum.nodes_unavailable), (8, 1, 1));
        let b = BrokerNodeState { clients: 4, ..node("b", false) };
        assert_eq!(sum.nodes, [BrokerNodeState { clients: 4, ..node("a", true) }, b]);
    }
}
