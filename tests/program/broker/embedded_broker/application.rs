//! An MQTT client of version 3.1.1, as applications are.

use rumqttc::{AsyncClient, Event, Incoming, MqttOptions, NetworkOptions, Publish, QoS};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::exproto::soon;

const MAX_PACKET: usize = 8 * 1024 * 1024;

pub(crate) struct MqttClient {
    pub clientid: String,
    client: AsyncClient,
    heard: mpsc::UnboundedReceiver<Incoming>,
    polling: JoinHandle<()>,
}

impl MqttClient {
    pub(crate) async fn connect(broker: &str, clientid: &str) -> Self {
        let (host, port) = broker.rsplit_once(':').expect("host:port");
        let mut options = MqttOptions::new(clientid, host, port.parse().expect("a port"));
        options.set_max_packet_size(MAX_PACKET, MAX_PACKET);
        Self::connect_with(options).await
    }

    pub(crate) async fn connect_with(options: MqttOptions) -> Self {
        let clientid = options.client_id();
        let (client, mut connection) = AsyncClient::new(options, 64);
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);
        connection.set_network_options(network);
        let (hear, heard) = mpsc::unbounded_channel();
        let polling = tokio::spawn(async move {
            while let Ok(event) = connection.poll().await {
                if let Event::Incoming(packet) = event
                    && hear.send(packet).is_err()
                {
                    return;
                }
            }
        });
        let mut application = Self { clientid, client, heard, polling };
        application.until(|packet| matches!(packet, Incoming::ConnAck(_)).then_some(())).await;
        application
    }

    /// Returns when the broker has it, for QoS 1 and 2.
    pub(crate) async fn publish(&mut self, topic: &str, qos: u8, payload: &[u8]) {
        self.publish_as(topic, qos, false, payload).await;
    }

    /// Returns when the broker has it.
    pub(crate) async fn publish_retained(&mut self, topic: &str, payload: &[u8]) {
        self.publish_as(topic, 1, true, payload).await;
    }

    pub(crate) async fn subscribe(&mut self, filter: &str, qos: u8) {
        self.client.subscribe(filter, quality(qos)).await.expect("the client polls");
        self.until(|packet| matches!(packet, Incoming::SubAck(_)).then_some(())).await;
    }

    pub(crate) async fn unsubscribe(&mut self, filter: &str) {
        self.client.unsubscribe(filter).await.expect("the client polls");
        self.until(|packet| matches!(packet, Incoming::UnsubAck(_)).then_some(())).await;
    }

    pub(crate) async fn message(&mut self) -> Publish {
        self.until(|packet| if let Incoming::Publish(publish) = packet { Some(publish) } else { None }).await
    }

    /// The connection ends, without a DISCONNECT.
    pub(crate) fn vanish(self) {
        self.polling.abort();
    }

    /// The broker has ended the connection.
    pub(crate) async fn expect_end(&mut self) {
        while soon("end of the connection", self.heard.recv()).await.is_some() {}
    }

    async fn publish_as(&mut self, topic: &str, qos: u8, retain: bool, payload: &[u8]) {
        self.client.publish(topic, quality(qos), retain, payload).await.expect("the client polls");
        match qos {
            0 => {}
            1 => self.until(|packet| matches!(packet, Incoming::PubAck(_)).then_some(())).await,
            _ => self.until(|packet| matches!(packet, Incoming::PubComp(_)).then_some(())).await,
        }
    }

    async fn until<T>(&mut self, wanted: impl Fn(Incoming) -> Option<T>) -> T {
        loop {
            let packet = soon("packet", self.heard.recv()).await.expect("the connection is open");
            if let Some(found) = wanted(packet) {
                return found;
            }
        }
    }
}

impl Drop for MqttClient {
    fn drop(&mut self) {
        self.polling.abort();
    }
}

fn quality(qos: u8) -> QoS {
    rumqttc::qos(qos).expect("0, 1 or 2")
}
