//! The embedded broker, for a first try and for tests: MQTT on one side, the ExProto contract on the other, as EMQX has
//! both. The gateway talks to it over the same TCP and gRPC as to EMQX.
//!
//! **Not for production.** Nothing is written to disk, MQTT has no TLS, there is no user database, and everybody may
//! publish everything.
//!
//! # What this crate guarantees
//!
//! - MQTT 3.1.1 and 5 on one port, with QoS 0 to 2, retained messages, shared subscriptions, wills and sessions in
//!   memory.
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
//! Only the packet codec of MQTT is borrowed (from `rumqttc`): an embedded `rumqttd` overwrites the QoS of a message
//! with that of the subscription, does not tell the publisher, serves one version of MQTT per port, and can neither be
//! stopped nor report the port that it was given.
#![cfg_attr(test, allow(clippy::disallowed_methods))]

mod bus;
mod clock;
mod config;
mod control;
mod exproto;
mod filters;
mod mqtt;
mod reserved;
mod rules;
mod subscribers;
mod tasks;

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tracing::warn;

pub use self::config::{BrokerConfig, SslListener};
pub use self::control::BrokerControl;
pub use self::rules::DeviceCredentials;

use self::bus::Bus;
use self::exproto::ExProtoGateway;
use self::rules::Rules;
use self::tasks::Tasks;

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
    /// Binds everything; from then on it serves until it is dropped. The handler may come later: as with EMQX, a device
    /// that connects meanwhile is closed.
    ///
    /// # Errors
    /// An address that cannot be bound, or a handler that is no URL.
    pub async fn start(config: BrokerConfig) -> anyhow::Result<Self> {
        warn!("the embedded broker is for trying and testing, not for production");
        let tasks = Tasks::new();
        let bus = Arc::new(Bus::default());
        let rules = Arc::new(Rules::default());

        let applications = TcpListener::bind(config.mqtt).await.with_context(|| format!("MQTT on {}", config.mqtt))?;
        let mqtt = applications.local_addr()?;
        let exproto = ExProtoGateway::start(&config, bus.clone(), rules.clone(), tasks.clone()).await?;
        let start = |wanted| mqtt::DeviceListener::start(wanted, bus.clone(), rules.clone(), tasks.clone());
        let devices = config.devices.map(start).transpose()?;
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
