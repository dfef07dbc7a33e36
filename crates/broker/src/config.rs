//! The configuration of the broker.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// The configuration of the embedded broker. The default has EMQX's ports on the loopback address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerConfig {
    /// MQTT, for applications: versions 3.1.1 and 5 on one port.
    pub mqtt: SocketAddr,
    /// MQTT, for devices: apart from the applications, so that it can be stopped and refuse; none is needed for
    /// ExProto.
    pub devices: Option<SocketAddr>,
    /// The exproto TCP listener.
    pub listener: SocketAddr,
    /// An exproto SSL listener beside it.
    pub ssl: Option<SslListener>,
    /// The ConnectionAdapter.
    pub adapter: SocketAddr,
    /// The gateway's ConnectionUnaryHandler: `http://host:port`.
    pub handler: String,
    /// A connection whose device has sent no byte for so long since it was accepted is closed.
    pub idle_timeout: Duration,
}

/// A listener for TLS, as EMQX has it; the files are PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SslListener {
    pub bind: SocketAddr,
    pub certfile: PathBuf,
    pub keyfile: PathBuf,
    /// The authorities of client certificates. With `None` clients need no certificate.
    pub cacertfile: Option<PathBuf>,
}

impl Default for BrokerConfig {
    fn default() -> Self {
        let loopback = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        Self {
            mqtt: loopback(1883),
            devices: None,
            listener: loopback(7993),
            ssl: None,
            adapter: loopback(9100),
            handler: "http://127.0.0.1:9001".to_owned(),
            idle_timeout: Duration::from_secs(30),
        }
    }
}

impl BrokerConfig {
    /// Lets the system choose every port; [`EmbeddedBroker::addresses`](super::EmbeddedBroker::addresses) returns them.
    pub fn on_free_ports(handler: impl Into<String>) -> Self {
        let any = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
        Self { mqtt: any, listener: any, adapter: any, handler: handler.into(), ..Self::default() }
    }
}
