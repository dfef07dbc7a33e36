//! The broker of a run and the upstream that connects the gateway to it.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::bail;
use clap::ValueEnum;

use crate::broker::BenchBroker;
use crate::mosquitto::Mosquitto;
use crate::process;

/// `upstream.kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Upstream {
    Exproto,
    Mqtt,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BrokerKind {
    Embedded,
    Mosquitto,
}

/// A broker in a process of its own.
pub enum BenchSite {
    Embedded(Box<BenchBroker>),
    Mosquitto(Mosquitto),
}

impl BenchSite {
    pub fn start(kind: BrokerKind) -> anyhow::Result<Self> {
        Ok(match kind {
            BrokerKind::Embedded => Self::Embedded(Box::new(BenchBroker::start()?)),
            BrokerKind::Mosquitto => Self::Mosquitto(Mosquitto::start()?),
        })
    }

    /// For applications.
    pub fn mqtt(&self) -> SocketAddr {
        match self {
            Self::Embedded(broker) => broker.mqtt,
            Self::Mosquitto(mosquitto) => mosquitto.mqtt,
        }
    }

    pub fn cpu(&self) -> anyhow::Result<Duration> {
        process::processor_time(match self {
            Self::Embedded(broker) => broker.process(),
            Self::Mosquitto(mosquitto) => mosquitto.process(),
        })
    }

    /// Configures the server for this broker.
    pub fn environment(&self, upstream: Upstream) -> anyhow::Result<Vec<(&'static str, String)>> {
        Ok(match (upstream, self) {
            (Upstream::Exproto, Self::Embedded(broker)) => broker.exproto().to_vec(),
            (Upstream::Exproto, Self::Mosquitto(_)) => bail!("mosquitto has no exproto: it needs --upstream mqtt"),
            (Upstream::Mqtt, Self::Embedded(broker)) => mqtt(broker.devices),
            (Upstream::Mqtt, Self::Mosquitto(mosquitto)) => mqtt(mosquitto.mqtt),
        })
    }
}

fn mqtt(broker: SocketAddr) -> Vec<(&'static str, String)> {
    vec![
        ("LWM2M_GATEWAY__UPSTREAM__KIND", "mqtt".to_owned()),
        ("LWM2M_GATEWAY__UPSTREAM__MQTT__BROKERS", format!("[\"{broker}\"]")),
    ]
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exproto => "exproto",
            Self::Mqtt => "mqtt",
        })
    }
}

impl fmt::Display for BrokerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Embedded => "embedded",
            Self::Mosquitto => "mosquitto",
        })
    }
}
