//! An application at the broker, of version 5.

use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, Publish, PublishProperties};
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::PATIENCE;

pub(crate) struct Mqtt5Client {
    client: AsyncClient,
    heard: mpsc::UnboundedReceiver<Packet>,
    polling: JoinHandle<()>,
}

impl Mqtt5Client {
    /// Connects as often as it has to; its session outlives its connections.
    pub(crate) async fn connect(broker: &str, clientid: &str) -> Self {
        let (host, port) = broker.rsplit_once(':').expect("host:port");
        let mut options = MqttOptions::new(clientid, host, port.parse().expect("a port"));
        options.set_clean_start(false).set_session_expiry_interval(Some(60)).set_keep_alive(Duration::from_secs(5));
        options.set_credentials("application", "secret");
        let (client, mut connection) = AsyncClient::new(options, 100);
        let (hear, heard) = mpsc::unbounded_channel();
        let polling = tokio::spawn(async move {
            loop {
                match connection.poll().await {
                    Ok(Event::Incoming(packet)) => {
                        if hear.send(packet).is_err() {
                            return;
                        }
                    }
                    Ok(Event::Outgoing(_)) => {}
                    Err(_) => sleep(Duration::from_millis(100)).await,
                }
            }
        });
        let mut application = Self { client, heard, polling };
        application.until(|packet| matches!(packet, Packet::ConnAck(_)).then_some(())).await;
        application
    }

    pub(crate) async fn subscribe(&mut self, filter: &str) {
        self.client.subscribe(filter, QoS::AtLeastOnce).await.expect("the client polls");
        self.until(|packet| matches!(packet, Packet::SubAck(_)).then_some(())).await;
    }

    /// Returns when the broker has it.
    pub(crate) async fn publish(&mut self, topic: &str, payload: &str, properties: PublishProperties) {
        self.publish_as(topic, payload, false, properties).await;
    }

    pub(super) async fn publish_retained(&mut self, topic: &str, payload: &str) {
        self.publish_as(topic, payload, true, PublishProperties::default()).await;
    }

    async fn publish_as(&mut self, topic: &str, payload: &str, retain: bool, properties: PublishProperties) {
        let payload = payload.to_owned();
        let published = self.client.publish_with_properties(topic, QoS::AtLeastOnce, retain, payload, properties);
        published.await.expect("the client polls");
        self.until(|packet| matches!(packet, Packet::PubAck(_)).then_some(())).await;
    }

    pub(crate) async fn message(&mut self) -> Publish {
        self.until(|packet| if let Packet::Publish(publish) = packet { Some(publish) } else { None }).await
    }

    async fn until<T>(&mut self, wanted: impl Fn(Packet) -> Option<T>) -> T {
        loop {
            let packet = timeout(PATIENCE, self.heard.recv()).await.expect("a packet in time").expect("it polls");
            if let Some(found) = wanted(packet) {
                return found;
            }
        }
    }
}

impl Drop for Mqtt5Client {
    fn drop(&mut self) {
        self.polling.abort();
    }
}
