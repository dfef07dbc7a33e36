//! The application of the demonstration: an MQTT client that receives everything that devices send.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, Publish, QoS};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Maximum time until the broker accepts the application.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum number of queued commands and of queued messages.
const QUEUE: usize = 16;

/// Maximum size of an MQTT packet in both directions.
const LARGEST_PACKET: usize = 16 * 1024 * 1024;

pub(crate) struct DemoApplication {
    client: AsyncClient,
    /// Messages received by the task of the connection; an error is the last item.
    messages: mpsc::Receiver<anyhow::Result<Publish>>,
}

impl DemoApplication {
    /// Connects to the broker and subscribes to `lwm2m/#`.
    pub(super) async fn connect(broker: SocketAddr) -> anyhow::Result<Self> {
        let mut options = MqttOptions::new("demo-application", broker.ip().to_string(), broker.port());
        options.set_max_packet_size(LARGEST_PACKET, LARGEST_PACKET);
        let (client, mut connection) = AsyncClient::new(options, QUEUE);
        client.subscribe("lwm2m/#", QoS::AtMostOnce).await?;
        let subscribed = timeout(CONNECT_TIMEOUT, subscribed(&mut connection)).await;
        subscribed.context("the broker does not accept a subscription")??;
        let (sender, messages) = mpsc::channel(QUEUE);
        tokio::spawn(receive(connection, sender));
        Ok(Self { client, messages })
    }

    pub(super) async fn publish(&self, topic: &str, message: &Value) -> anyhow::Result<()> {
        self.client.publish(topic, QoS::AtMostOnce, false, message.to_string()).await.context("publishing a command")
    }

    /// Waits for the next message, including the application's own commands. Cancel-safe.
    pub(crate) async fn next_message(&mut self) -> anyhow::Result<(String, Value)> {
        let message = self.messages.recv().await.context("the application's connection has ended")??;
        let payload = serde_json::from_slice(&message.payload)
            .with_context(|| format!("what came on {} is no JSON", message.topic))?;
        Ok((message.topic, payload))
    }
}

async fn subscribed(connection: &mut EventLoop) -> anyhow::Result<()> {
    while !matches!(poll(connection).await?, Event::Incoming(Packet::SubAck(_))) {}
    Ok(())
}

/// Forwards messages until the connection breaks or the receiver is dropped.
async fn receive(mut connection: EventLoop, messages: mpsc::Sender<anyhow::Result<Publish>>) {
    loop {
        let received = match poll(&mut connection).await {
            Ok(Event::Incoming(Packet::Publish(message))) => Ok(message),
            Ok(_) => continue,
            Err(error) => Err(error),
        };
        let broken = received.is_err();
        if messages.send(received).await.is_err() || broken {
            return;
        }
    }
}

async fn poll(connection: &mut EventLoop) -> anyhow::Result<Event> {
    connection.poll().await.context("the application's connection to the broker")
}
