//! MQTT itself, between applications.

use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnectReturnCode, Filter, Packet, RetainForwardRule, SubscribeReasonCode};
use rumqttc::v5::{self, AsyncClient, Event};
use rumqttc::{LastWill, MqttOptions};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::application::MqttClient;
use super::exproto::{soon, unique};
use crate::common::broker::TestBroker;

fn options(broker: &TestBroker, clientid: &str) -> MqttOptions {
    let (host, port) = broker.addresses.mqtt.rsplit_once(':').unwrap();
    MqttOptions::new(clientid, host, port.parse().unwrap())
}

#[tokio::test]
async fn a_message_arrives_with_the_lower_of_the_two_qualities() {
    let broker = TestBroker::start().await;
    let topic = unique("topic");
    let mut publisher = MqttClient::connect(&broker.addresses.mqtt, &unique("app")).await;
    for (published, subscribed, delivered) in [(0, 2, 0), (1, 2, 1), (2, 2, 2), (2, 1, 1), (1, 0, 0)] {
        let mut subscriber = MqttClient::connect(&broker.addresses.mqtt, &unique("app")).await;
        subscriber.subscribe(&format!("{topic}/+"), subscribed).await;
        publisher.publish(&format!("{topic}/x"), published, b"x").await;
        let message = subscriber.message().await;
        assert_eq!(message.qos as u8, delivered, "published {published}, subscribed {subscribed}");
        assert!(!message.retain);
    }
}

#[tokio::test]
async fn a_stream_of_messages_is_complete_and_in_order_for_each_quality() {
    let broker = TestBroker::start().await;
    let topic = unique("stream");
    let mut subscriber = MqttClient::connect(&broker.addresses.mqtt, &unique("app")).await;
    subscriber.subscribe(&topic, 2).await;
    let mut publisher = MqttClient::connect(&broker.addresses.mqtt, &unique("app")).await;
    let count = 500_u32;
    let publishing = async {
        for number in 0..count {
            publisher.publish(&topic, u8::try_from(number % 3).unwrap(), &number.to_be_bytes()).await;
        }
    };
    let receiving = async {
        // MQTT orders the messages of one QoS (5.0, section 4.6): EMQX sends those of QoS 0 before others that wait for
        // room in the window.
        let mut expected = [0, 1, 2];
        for _ in 0..count {
            let payload = subscriber.message().await.payload;
            let number = u32::from_be_bytes(payload[..].try_into().expect("four bytes"));
            let of_its_quality = &mut expected[usize::try_from(number % 3).unwrap()];
            assert_eq!(number, *of_its_quality);
            *of_its_quality += 3;
        }
    };
    tokio::join!(publishing, receiving);
}

#[tokio::test]
async fn a_retained_message_is_there_for_later_subscribers_until_it_is_cleared() {
    let broker = TestBroker::start().await;
    let topic = unique("retained");
    let mut application = MqttClient::connect(&broker.addresses.mqtt, &unique("app")).await;
    application.publish_retained(&topic, b"old").await;
    application.publish_retained(&topic, b"new").await;
    // In version 3.1.1 at every SUBSCRIBE.
    for _ in 0..2 {
        application.subscribe(&topic, 0).await;
        let message = application.message().await;
        assert_eq!((&message.payload[..], message.retain), (&b"new"[..], true));
    }
    application.unsubscribe(&topic).await;
    application.publish_retained(&topic, b"").await;
    application.subscribe(&topic, 0).await;
    application.publish(&topic, 0, b"live").await;
    assert_eq!(application.message().await.payload, b"live"[..]);
}

#[tokio::test]
async fn a_will_is_published_when_its_client_vanishes() {
    let broker = TestBroker::start().await;
    let (topic, clientid) = (unique("will"), unique("app"));
    let mut watcher = MqttClient::connect(&broker.addresses.mqtt, &unique("app")).await;
    watcher.subscribe(&topic, 1).await;
    let mut options = options(&broker, &clientid);
    options.set_last_will(LastWill::new(&topic, "gone", rumqttc::QoS::AtLeastOnce, false));
    let mortal = MqttClient::connect_with(options).await;
    mortal.vanish();
    assert_eq!(watcher.message().await.payload, b"gone"[..]);
}

#[tokio::test]
async fn a_client_with_the_same_clientid_takes_over() {
    let broker = TestBroker::start().await;
    let clientid = unique("app");
    let mut older = MqttClient::connect(&broker.addresses.mqtt, &clientid).await;
    let mut newer = MqttClient::connect(&broker.addresses.mqtt, &clientid).await;
    older.expect_end().await;
    let topic = unique("topic");
    newer.subscribe(&topic, 0).await;
    newer.publish(&topic, 0, b"still here").await;
    assert_eq!(newer.message().await.payload, b"still here"[..]);
}

#[tokio::test]
async fn a_shared_subscription_gives_each_message_to_one_member() {
    let broker = TestBroker::start().await;
    let (topic, end) = (unique("shared"), unique("end"));
    let mut members = Vec::new();
    for _ in 0..2 {
        let mut member = MqttClient::connect(&broker.addresses.mqtt, &unique("app")).await;
        member.subscribe(&format!("$share/group/{topic}"), 0).await;
        member.subscribe(&end, 0).await;
        members.push(member);
    }
    let mut publisher = MqttClient::connect(&broker.addresses.mqtt, &unique("app")).await;
    for number in 0..10_u8 {
        publisher.publish(&topic, 0, &[number]).await;
    }
    publisher.publish(&end, 0, b"").await;
    let mut received = Vec::new();
    for member in &mut members {
        loop {
            let message = member.message().await;
            if message.topic == end {
                break;
            }
            received.push(message.payload[0]);
        }
    }
    received.sort_unstable();
    assert_eq!(received, (0..10).collect::<Vec<u8>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_connections_with_one_clientid_at_the_same_time_one_stays() {
    let broker = TestBroker::start().await;
    for _ in 0..20 {
        let clientid = unique("one");
        let connections = (0..12).map(|_| tokio::spawn(connect_311(broker.addresses.mqtt.clone(), clientid.clone())));
        let mut open = 0;
        for connection in connections.collect::<Vec<_>>() {
            let mut socket = connection.await.unwrap();
            let mut packets = Vec::new();
            let ended = timeout(Duration::from_millis(300), socket.read_to_end(&mut packets)).await;
            open += usize::from(ended.is_err());
        }
        assert_eq!(open, 1);
    }
}

/// Has sent CONNECT of version 3.1.1.
async fn connect_311(broker: String, clientid: String) -> TcpStream {
    let mut socket = TcpStream::connect(&broker).await.unwrap();
    let length = u8::try_from(clientid.len()).unwrap();
    let head = [0x10, 12 + length, 0, 4, b'M', b'Q', b'T', b'T', 4, 0, 0, 60, 0, length];
    socket.write_all(&[&head, clientid.as_bytes()].concat()).await.unwrap();
    socket
}

/// A client of version 5, packet by packet.
struct Version5 {
    client: AsyncClient,
    connection: v5::EventLoop,
}

impl Version5 {
    async fn connect(broker: &TestBroker) -> Self {
        let (host, port) = broker.addresses.mqtt.rsplit_once(':').unwrap();
        let mut options = v5::MqttOptions::new(unique("app"), host, port.parse().unwrap());
        options.set_keep_alive(Duration::from_secs(5));
        options.set_max_packet_size(Some(8 << 20));
        let (client, connection) = AsyncClient::new(options, 16);
        let mut version5 = Self { client, connection };
        let connack = version5.until(|packet| if let Packet::ConnAck(ack) = packet { Some(ack) } else { None }).await;
        assert_eq!((connack.code, connack.session_present), (ConnectReturnCode::Success, false));
        version5
    }

    async fn until<T>(&mut self, wanted: impl Fn(Packet) -> Option<T>) -> T {
        loop {
            let event = soon("packet", self.connection.poll()).await.expect("the connection is open");
            if let Event::Incoming(packet) = event
                && let Some(found) = wanted(packet)
            {
                return found;
            }
        }
    }

    async fn subscribe(&mut self, filters: Vec<Filter>) -> Vec<SubscribeReasonCode> {
        self.client.subscribe_many(filters).await.unwrap();
        self.until(|packet| if let Packet::SubAck(ack) = packet { Some(ack.return_codes) } else { None }).await
    }

    async fn message(&mut self) -> (String, Vec<u8>, QoS, bool) {
        let publish =
            self.until(|packet| if let Packet::Publish(publish) = packet { Some(publish) } else { None }).await;
        (String::from_utf8(publish.topic.to_vec()).unwrap(), publish.payload.to_vec(), publish.qos, publish.retain)
    }
}

#[tokio::test]
async fn version_5_is_served_on_the_same_port() {
    let broker = TestBroker::start().await;
    let (kept, own, mark) = (unique("kept"), unique("own"), unique("mark"));
    let mut old = MqttClient::connect(&broker.addresses.mqtt, &unique("app")).await;
    old.publish_retained(&kept, b"kept").await;

    let mut new = Version5::connect(&broker).await;
    let with = |path: &str, qos| Filter { path: path.to_owned(), qos, ..Filter::default() };
    let codes = new
        .subscribe(vec![
            Filter { retain_forward_rule: RetainForwardRule::Never, ..with(&kept, QoS::AtLeastOnce) },
            Filter { nolocal: true, ..with(&own, QoS::AtMostOnce) },
            with(&mark, QoS::ExactlyOnce),
        ])
        .await;
    let granted = [QoS::AtLeastOnce, QoS::AtMostOnce, QoS::ExactlyOnce].map(SubscribeReasonCode::Success);
    assert_eq!(codes, granted);

    // Neither the retained message comes, nor its own.
    new.client.publish(&own, QoS::AtMostOnce, false, "mine").await.unwrap();
    new.client.publish(&mark, QoS::ExactlyOnce, false, "mark").await.unwrap();
    assert_eq!(new.message().await, (mark.clone(), b"mark".to_vec(), QoS::ExactlyOnce, false));
    // EMQX takes 1 MiB unless it is configured for more.
    let large = vec![5; if broker.is_emqx() { 512 } else { 1_536 } * 1_024];
    old.publish(&kept, 1, &large).await;
    assert!(new.message().await == (kept.clone(), large, QoS::AtLeastOnce, false));
    old.publish_retained(&kept, b"").await;
}
