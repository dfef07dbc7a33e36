//! The way up to the broker: both kinds of it stand behind the port of `gateway::broker`, and above it nobody knows which
//! one it is.

mod client;
mod dialer;
pub mod exproto;
mod link;
pub mod metrics;
pub mod mqtt;
#[cfg(test)]
mod races;
mod source_port;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::conditions::Condition;
use crate::upstream::metrics::UpstreamMetrics;
use lwm2m_core::gateway::broker::{BrokerCommand, BrokerEvent};

/// Which way, and what to know of it.
#[derive(Clone, Debug)]
pub enum UpstreamConfig {
    ExProto(exproto::ExProtoConfig),
    Mqtt(mqtt::MqttConfig),
}

/// The link to the broker. Its state lives where it is polled.
pub enum UpstreamLink {
    ExProto(Box<exproto::ExProtoLink>),
    Mqtt(Box<mqtt::MqttLink>),
}

impl UpstreamLink {
    /// A broker that is away is no error; `condition` says so.
    ///
    /// # Errors
    /// What the configuration names cannot be had: an address to listen at, a file with a key.
    pub async fn start(
        settings: UpstreamConfig,
        metrics: Arc<UpstreamMetrics>,
        condition: Condition,
    ) -> io::Result<Self> {
        Ok(match settings {
            UpstreamConfig::ExProto(settings) => {
                Self::ExProto(Box::new(exproto::ExProtoLink::start(settings, metrics, condition).await?))
            }
            UpstreamConfig::Mqtt(settings) => {
                Self::Mqtt(Box::new(mqtt::MqttLink::start(settings, metrics, condition)?))
            }
        })
    }

    /// Takes a command; never waits.
    pub fn submit(&mut self, command: BrokerCommand) {
        match self {
            Self::ExProto(link) => link.submit(command),
            Self::Mqtt(link) => link.submit(command),
        }
    }

    /// How full it is; it looks at every device.
    pub fn table_sizes(&self) -> UpstreamTableSizes {
        match self {
            Self::ExProto(link) => link.table_sizes(),
            Self::Mqtt(link) => link.table_sizes(),
        }
    }

    /// Does what can be done without waiting, such as handing packets to the connections, up to the next event for the
    /// core.
    pub fn poll_event(&mut self) -> Option<BrokerEvent> {
        match self {
            Self::ExProto(link) => link.poll_event(),
            Self::Mqtt(link) => link.poll_event(),
        }
    }

    /// The next event for the core. Drives the link: it has to be polled all the time. Cancel-safe.
    pub async fn event(&mut self) -> BrokerEvent {
        match self {
            Self::ExProto(link) => link.event().await,
            Self::Mqtt(link) => link.event().await,
        }
    }

    /// Publishes what is queued, then ends the connections; gives up at the deadline.
    pub async fn shut_down(self, deadline: Duration) {
        match self {
            Self::ExProto(link) => link.shut_down(deadline).await,
            Self::Mqtt(link) => link.shut_down(deadline).await,
        }
    }
}

/// How full the link is, and how it stands with the broker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UpstreamTableSizes {
    /// Devices that are clients of the broker.
    pub connected: usize,
    /// Devices that are not, and will be if the broker takes them.
    pub connecting: usize,
    /// What waits to be published, and may wait.
    pub publications: usize,
    pub publications_limit: usize,
    pub nodes_available: usize,
    pub nodes_unavailable: usize,
}
