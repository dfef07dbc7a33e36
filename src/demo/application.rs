//! The application: an MQTT client that hears all that devices say.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS};
use serde_json::Value;
use tokio::time::timeout;

/// How long the broker may take to accept the application.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Commands that wait to be sent.
const QUEUE: usize = 16;

/// The largest MQTT packet either way.
const LARGEST_PACKET: usize = 1024 * 1024;

pub struct Application {
    client: AsyncClient,
    connection: EventLoop,
}

impl Application {
    /// Connected, and subscribed to `lwm2m/#`.
    pub async fn connect(broker: SocketAddr) -> anyhow::Result<Self> {
        let mut options = MqttOptions::new("demo-application", broker.ip().to_string(), broker.port());
        options.set_max_packet_size(LARGEST_PACKET, LARGEST_PACKET);
        let (client, connection) = AsyncClient::new(options, QUEUE);
        let mut application = Self { client, connection };
        timeout(CONNECT_TIMEOUT, application.subscribe())
            .await
            .context("the broker does not accept a subscription")??;
        Ok(application)
    }

    pub async fn publish(&self, topic: &str, message: &Value) -> anyhow::Result<()> {
        self.client.publish(topic, QoS::AtMostOnce, false, message.to_string()).await.context("publishing a command")
    }

    /// The next message, its own commands too. Cancel-safe.
    pub async fn next_message(&mut self) -> anyhow::Result<(String, Value)> {
        loop {
            if let Event::Incoming(Packet::Publish(message)) = self.next_event().await? {
                let payload = serde_json::from_slice(&message.payload)
                    .with_context(|| format!("what came on {} is no JSON", message.topic))?;
                return Ok((message.topic, payload));
            }
        }
    }

    pub async fn disconnect(self) {
        // The broker ends with this process: whether it heard of the end before makes no difference.
        if let Err(error) = self.client.disconnect().await {
            tracing::debug!(%error, "the application was disconnected already");
        }
    }

    async fn subscribe(&mut self) -> anyhow::Result<()> {
        self.client.subscribe("lwm2m/#", QoS::AtMostOnce).await?;
        loop {
            match self.next_event().await? {
                Event::Incoming(Packet::SubAck(_)) => return Ok(()),
                Event::Incoming(Packet::Disconnect) => bail!("the broker disconnected the application"),
                _ => {}
            }
        }
    }

    async fn next_event(&mut self) -> anyhow::Result<Event> {
        self.connection.poll().await.context("the application's connection to the broker")
    }
}
