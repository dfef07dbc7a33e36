//! A small broker for a first try and for the tests: rumqttd behind the ExProto contract, as EMQX has it. Not for production.

use std::net::SocketAddr;

/// Where it listens, and where it finds its handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// MQTT, for applications.
    pub mqtt: SocketAddr,
    /// The exproto TCP listener.
    pub listener: SocketAddr,
    /// The ConnectionAdapter.
    pub adapter: SocketAddr,
    /// The gateway's ConnectionUnaryHandler: `http://host:port`.
    pub handler: String,
}

pub struct Broker {}

impl Broker {
    /// Binds everything; from then on it serves until it is dropped.
    pub async fn start(settings: Settings) -> anyhow::Result<Self> {
        todo!()
    }
}
