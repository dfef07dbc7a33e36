//! The broker of a run and the upstream that connects the gateway to it.

use std::env;
use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::ValueEnum;

use crate::broker::{self, BenchBroker};
use crate::mosquitto::Mosquitto;
use crate::process;

/// `upstream.kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Upstream {
    Exproto,
    Mqtt,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BrokerKind {
    Embedded,
    Mosquitto,
    Emqx,
}

/// A broker in a process of its own.
pub(crate) enum BenchSite {
    Embedded(Box<BenchBroker>),
    Mosquitto(Mosquitto),
    Emqx(RunningEmqx),
}

/// An EMQX that runs already, with its exproto gateway, on its default ports unless the environment says otherwise.
pub(crate) struct RunningEmqx {
    mqtt: SocketAddr,
    listener: SocketAddr,
    adapter: SocketAddr,
    handler: SocketAddr,
    process: Option<u32>,
}

impl BenchSite {
    pub(crate) fn start(kind: BrokerKind) -> anyhow::Result<Self> {
        Ok(match kind {
            BrokerKind::Embedded => Self::Embedded(Box::new(BenchBroker::start()?)),
            BrokerKind::Mosquitto => Self::Mosquitto(Mosquitto::start()?),
            BrokerKind::Emqx => Self::Emqx(RunningEmqx::from_environment()?),
        })
    }

    /// For applications.
    pub(crate) fn mqtt(&self) -> SocketAddr {
        match self {
            Self::Embedded(broker) => broker.mqtt,
            Self::Mosquitto(mosquitto) => mosquitto.mqtt,
            Self::Emqx(emqx) => emqx.mqtt,
        }
    }

    /// The processor time of the broker; zero for one whose process is not known.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        match self {
            Self::Embedded(broker) => process::processor_time(broker.process()),
            Self::Mosquitto(mosquitto) => process::processor_time(mosquitto.process()),
            Self::Emqx(emqx) => emqx.process.map_or(Ok(Duration::ZERO), process::processor_time),
        }
    }

    /// The addresses that a bare client needs: listener, adapter and handler of ExProto, or the broker of MQTT.
    pub(crate) fn bare_addresses(&self, upstream: Upstream) -> anyhow::Result<Vec<SocketAddr>> {
        Ok(match (upstream, self) {
            (Upstream::Exproto, Self::Embedded(broker)) => vec![broker.listener, broker.adapter, broker.handler],
            (Upstream::Exproto, Self::Emqx(emqx)) => vec![emqx.listener, emqx.adapter, emqx.handler],
            (Upstream::Exproto, Self::Mosquitto(_)) => bail!("mosquitto has no exproto: it needs --upstream mqtt"),
            (Upstream::Mqtt, Self::Embedded(broker)) => vec![broker.devices],
            (Upstream::Mqtt, Self::Mosquitto(_) | Self::Emqx(_)) => vec![self.mqtt()],
        })
    }

    /// Configures the server for this broker.
    pub(crate) fn environment(&self, upstream: Upstream) -> anyhow::Result<Vec<(&'static str, String)>> {
        Ok(match (upstream, self) {
            (Upstream::Exproto, Self::Embedded(broker)) => broker.exproto().to_vec(),
            (Upstream::Exproto, Self::Mosquitto(_)) => bail!("mosquitto has no exproto: it needs --upstream mqtt"),
            (Upstream::Mqtt, Self::Embedded(broker)) => mqtt(broker.devices),
            (Upstream::Exproto, Self::Emqx(emqx)) => {
                broker::exproto(emqx.listener, emqx.adapter, emqx.handler).to_vec()
            }
            (Upstream::Mqtt, Self::Mosquitto(_) | Self::Emqx(_)) => mqtt(self.mqtt()),
        })
    }
}

impl RunningEmqx {
    fn from_environment() -> anyhow::Result<Self> {
        let address = |name: &str, default: &str| {
            let address = env::var(name).unwrap_or_else(|_| default.to_owned());
            address.parse().with_context(|| format!("{name} = {address}: expected an IP address with a port"))
        };
        let process = env::var("EMQX_PID_FILE").ok().map(fs::read_to_string).transpose().context("EMQX_PID_FILE")?;
        Ok(Self {
            mqtt: address("EMQX_MQTT", "127.0.0.1:1883")?,
            listener: address("EMQX_EXPROTO_LISTENER", "127.0.0.1:7993")?,
            adapter: address("EMQX_ADAPTER", "127.0.0.1:9100")?,
            handler: address("EMQX_HANDLER_BIND", "127.0.0.1:9001")?,
            process: process.map(|pid| pid.trim().parse()).transpose().context("EMQX_PID_FILE")?,
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
            Self::Emqx => "emqx",
        })
    }
}
