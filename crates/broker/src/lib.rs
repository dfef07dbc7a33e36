//! The embedded broker, for a first try and for tests: MQTT on one side, the ExProto contract on the other, as EMQX has
//! both. The gateway talks to it over the same TCP and gRPC as to EMQX.
//!
//! **Not for production.** Nothing is written to disk, MQTT has no TLS, there is no user database, and everybody may
//! publish everything.
//!
//! # What this crate guarantees
//!
//! - MQTT 3.1.1 and 5 on one port, with QoS 0 to 2, retained messages, shared subscriptions, wills and sessions in memory.
//! - The ExProto services with EMQX's answers, order of events and reasons of OnSocketClosed.
//! - Inboxes, filters, retained messages and connections are bounded. A subscriber that is too slow loses messages.
//! - Dropping [`EmbeddedBroker`] ends its tasks and closes its sockets. [`BrokerControl`] stops and starts the gateway
//!   on the same ports, kicks clients and injects faults.
//!
//! # What it does not know
//!
//! LwM2M, CoAP and DTLS, and the code of the gateway: both share only the ExProto contract in `proto/`.
//!
//! ```text
//!   MQTT clients -> mqtt (listener, session) -> bus <- exproto (connection) <- TCP, one connection per device
//!                                                       ^  |
//!              the gateway's calls  -> exproto::adapter-+  +-> exproto::events -> the gateway's handler
//! ```
//!
//! `bus` routes messages and keeps the retained ones. EMQX's behaviour was observed on running nodes; each rule is
//! documented where it is implemented, named after the RPC or the event. If versions of EMQX differ, 5.8.9 is followed.
//! Only the packet codec of MQTT is borrowed (from `rumqttc`): an embedded `rumqttd` overwrites the QoS of a message with
//! that of the subscription, does not tell the publisher, serves one version of MQTT per port, and can neither be stopped
//! nor report the port that it was given.
#![cfg_attr(test, allow(clippy::disallowed_methods))]

mod bus;
mod clock;
mod control;
mod exproto;
mod filters;
mod mqtt;
mod reserved;
mod tasks;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tracing::warn;

pub use self::control::{BrokerControl, DeviceCredentials};

use self::bus::Bus;
use self::control::Rules;
use self::exproto::ExProtoGateway;
use self::tasks::Tasks;

/// The configuration of the embedded broker. The default has EMQX's ports on the loopback address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerConfig {
    /// MQTT, for applications: versions 3.1.1 and 5 on one port.
    pub mqtt: SocketAddr,
    /// MQTT, for devices: apart from the applications, so that it can be stopped and refuse; none is needed for ExProto.
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
    /// Lets the system choose every port; [`EmbeddedBroker::addresses`] returns them.
    pub fn on_free_ports(handler: impl Into<String>) -> Self {
        let any = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
        Self { mqtt: any, listener: any, adapter: any, handler: handler.into(), ..Self::default() }
    }
}

/// The addresses on which the broker listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BrokerAddresses {
    pub mqtt: SocketAddr,
    pub devices: Option<SocketAddr>,
    pub listener: SocketAddr,
    pub ssl: Option<SocketAddr>,
    pub adapter: SocketAddr,
}

/// A running broker. Dropping it ends its tasks and closes its sockets.
pub struct EmbeddedBroker {
    addresses: BrokerAddresses,
    control: BrokerControl,
    tasks: Tasks,
}

impl EmbeddedBroker {
    /// Binds everything; from then on it serves until it is dropped. The handler may come later: as with EMQX, a device that
    /// connects meanwhile is closed.
    ///
    /// # Errors
    /// An address that cannot be bound, or a handler that is no URL.
    pub async fn start(settings: BrokerConfig) -> anyhow::Result<Self> {
        warn!("the embedded broker is for trying and testing, not for production");
        let tasks = Tasks::new();
        let bus = Arc::new(Bus::default());
        let rules = Arc::new(Rules::default());

        let applications =
            TcpListener::bind(settings.mqtt).await.with_context(|| format!("MQTT on {}", settings.mqtt))?;
        let mqtt = applications.local_addr()?;
        let exproto = ExProtoGateway::start(&settings, bus.clone(), rules.clone(), tasks.clone()).await?;
        let start = |wanted| mqtt::DeviceListener::start(wanted, bus.clone(), rules.clone(), tasks.clone());
        let devices = settings.devices.map(start).transpose()?;
        tasks.spawn(mqtt::serve(applications, mqtt::open_context(bus), tasks.clone()));

        let addresses = BrokerAddresses {
            mqtt,
            devices: devices.as_ref().map(mqtt::DeviceListener::address),
            listener: exproto.listener(),
            ssl: exproto.secure_listener(),
            adapter: exproto.adapter(),
        };
        Ok(Self { addresses, control: BrokerControl::new(exproto, devices, rules), tasks })
    }

    pub fn addresses(&self) -> BrokerAddresses {
        self.addresses
    }

    /// Returns the administration of the broker, which can also inject faults in tests.
    pub fn control(&self) -> BrokerControl {
        self.control.clone()
    }
}

impl Drop for EmbeddedBroker {
    fn drop(&mut self) {
        self.tasks.cancel();
    }
}
