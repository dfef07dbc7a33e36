//! The ExProto contract, as the gateway meets it: every rule by what a handler, a device and an application see. With
//! `EMQX_TEST=1` the rules that a real EMQX shows are asked of it (see `crate::common::broker`).

#![allow(clippy::disallowed_methods, reason = "these tests run over real sockets, in real time")]

pub(crate) mod application;
mod exproto;
mod mqtt;

use std::time::{Duration, Instant};

use lwm2m_broker::{BrokerConfig, EmbeddedBroker};
use lwm2m_gateway::upstream::exproto::v1::{ClientInfo, ResultCode};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::{Code, Status};

use crate::common::broker::TestBroker;
use application::MqttClient;
use exproto::{
    AdapterClient, HandlerCall, PendingCall, RawDevice, TestHandler, dial, expect_eof, soon, success, unique,
};

/// A broker, its handler and a client of its adapter.
struct BrokerScene {
    broker: TestBroker,
    handler: TestHandler,
    adapter: AdapterClient,
}

impl BrokerScene {
    async fn start() -> Self {
        Self::of(TestBroker::start().await).await
    }

    async fn of(broker: TestBroker) -> Self {
        let mut handler = TestHandler::bind(broker.addresses.handler_bind).await;
        if broker.is_emqx() {
            handler.wait_for_calls(&broker.addresses.listener).await;
        }
        let adapter = AdapterClient::connect(&broker.addresses.adapter).await;
        Self { broker, handler, adapter }
    }

    async fn device(&mut self) -> RawDevice {
        RawDevice::connect(&self.broker.addresses.listener, &mut self.handler).await
    }

    /// A device that is authenticated.
    async fn client(&mut self, clientid: &str) -> RawDevice {
        let device = self.device().await;
        assert_eq!(self.adapter.authenticate(&device.conn, clientid).await, success());
        device
    }

    /// A device that is authenticated and has subscribed.
    async fn subscriber(&mut self, filter: &str) -> RawDevice {
        let device = self.client(&unique("subscriber")).await;
        assert_eq!(self.adapter.subscribe(&device.conn, filter, 0).await, success());
        device
    }

    async fn application(&self) -> MqttClient {
        MqttClient::connect(&self.broker.addresses.mqtt, &unique("app")).await
    }
}

// -- The order of events ----------------------------------------------------------------------------------------------

#[tokio::test]
async fn bytes_wait_until_the_creation_of_the_socket_is_answered() {
    let mut scene = BrokerScene::start().await;
    let mut socket = dial(&scene.broker.addresses.listener).await;
    let created = scene.handler.next().await;
    tokio::io::AsyncWriteExt::write_all(&mut socket, b"token\n").await.unwrap();
    let HandlerCall::Created { conn } = created.event.clone() else { panic!("{created:?}") };
    // The adapter serves the connection meanwhile.
    assert_eq!(scene.adapter.send(&conn, b"hello").await, success());
    let mut hello = [0; 5];
    tokio::io::AsyncReadExt::read_exact(&mut socket, &mut hello).await.unwrap();
    scene.handler.expect_nothing();

    created.accept();
    assert_eq!(scene.handler.event().await, HandlerCall::Bytes { conn, bytes: b"token\n".to_vec() });
}

#[tokio::test]
async fn one_event_at_a_time_is_told_and_chunks_are_not_merged() {
    let mut scene = BrokerScene::start().await;
    let mut device = scene.device().await;
    device.write(b"first").await;
    let first = scene.handler.next().await;

    let text: Vec<u8> = (0..100_000_u32).map(|at| at.to_le_bytes()[0]).collect();
    device.write(&text).await;
    assert_eq!(scene.adapter.send(&device.conn, b"pong").await, success());
    assert_eq!(device.read(4).await, b"pong");
    scene.handler.expect_nothing();

    assert_eq!(first.accept(), HandlerCall::Bytes { conn: device.conn.clone(), bytes: b"first".to_vec() });
    let chunks = scene.handler.bytes(&device.conn, text.len()).await;
    assert!(chunks.len() > 1, "one event for all the reads");
    assert_eq!(chunks.concat(), text);
}

#[tokio::test]
async fn what_waits_is_told_before_the_end_and_the_end_is_told_last() {
    let mut scene = BrokerScene::start().await;
    let mut device = scene.client(&unique("client")).await;
    let conn = device.conn.clone();
    device.write(b"one").await;
    let one = scene.handler.next().await;
    device.write(b"two").await;
    drop(device);
    // Send still succeeds, while the client is gone.
    while scene.adapter.publish(&conn, "up", 0, b"x").await == success() {}
    assert_eq!(scene.adapter.send(&conn, b"late").await, success());
    assert_eq!(scene.adapter.authenticate(&conn, "again").await.1, "<<\"Client socket disconnected\">>");
    scene.handler.expect_nothing();

    one.accept();
    assert_eq!(scene.handler.event().await, HandlerCall::Bytes { conn: conn.clone(), bytes: b"two".to_vec() });
    scene.handler.expect_closed(&conn, "{shutdown,tcp_closed}").await;
    let (code, message) = scene.adapter.send(&conn, b"later").await;
    assert_eq!((code, message.as_str()), (ResultCode::ConnProcessNotAlive, "<<\"Connection process is not alive\">>"));
}

// -- Timers -----------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_device_that_never_sends_a_byte_is_closed_even_if_it_is_authenticated() {
    let broker = TestBroker::start_with(|config| config.idle_timeout = Duration::from_millis(300)).await;
    if broker.control().is_none() {
        return;
    }
    let mut scene = BrokerScene::of(broker).await;
    let mut talker = scene.device().await;
    talker.write(b"!").await;
    scene.handler.bytes(&talker.conn, 1).await;

    let silent = scene.client("silent").await;
    scene.handler.expect_closed(&silent.conn.clone(), "{shutdown,idle_timeout}").await;
    silent.expect_eof().await;
    // It had connected before; one byte was enough.
    assert_eq!(scene.adapter.send(&talker.conn, b"?").await, success());
    assert_eq!(talker.read(1).await, b"?");
}

#[tokio::test]
async fn a_keepalive_that_ran_out_is_told_and_closes_the_connection() {
    let mut scene = BrokerScene::start().await;
    let device = scene.device().await;
    let conn = device.conn.clone();
    assert_eq!(scene.adapter.start_timer(&conn, 1).await, success());
    let started = Instant::now();
    assert_eq!(scene.handler.event().await, HandlerCall::Timeout { conn: conn.clone() });
    assert!(started.elapsed() >= Duration::from_millis(1_500), "{:?}", started.elapsed());
    device.expect_eof().await;
    scene.handler.expect_closed(&conn, "{shutdown,keepalive_timeout}").await;
}

// -- Authenticate -----------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_second_authenticate_is_refused() {
    let mut scene = BrokerScene::start().await;
    let clientid = unique("client");
    let device = scene.client(&clientid).await;
    let (code, message) = scene.adapter.authenticate(&device.conn, &clientid).await;
    assert_eq!(code, ResultCode::PermissionDeny);
    assert_eq!(message, "<<\"Duplicated authenticate command\">>");
}

#[tokio::test]
async fn a_refused_client_may_try_again() {
    let mut scene = BrokerScene::start().await;
    let Some(control) = scene.broker.control() else { return };
    control.refuse(|who| who.clientid == "bad" && who.username == "somebody" && who.password == "secret");
    let device = scene.device().await;
    let refused = (ResultCode::PermissionDeny, "not_authorized".to_owned());
    assert_eq!(scene.adapter.authenticate(&device.conn, "bad").await, refused);
    assert_eq!(control.clients(), [""; 0]);
    assert_eq!(scene.adapter.authenticate(&device.conn, "good").await, success());
    assert_eq!(control.clients(), ["good"]);
}

#[tokio::test]
async fn without_the_clientinfo_authenticate_crashes() {
    let mut scene = BrokerScene::start().await;
    let device = scene.device().await;
    let status = scene.adapter.authenticate_with(&device.conn, None).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Internal, "RPC Execution Crashed"));
    let empty = Some(ClientInfo::default());
    assert_eq!(scene.adapter.authenticate_with(&device.conn, empty).await.unwrap(), success());
}

#[tokio::test]
async fn an_older_connection_with_the_same_clientid_is_discarded() {
    let mut scene = BrokerScene::start().await;
    let (clientid, topic) = (unique("client"), unique("dn"));
    let older = scene.client(&clientid).await;
    assert_eq!(scene.adapter.subscribe(&older.conn, &topic, 0).await, success());
    let newer = scene.client(&clientid).await;
    if scene.broker.is_emqx() {
        // It tells nothing of a connection whose last event is not answered yet.
        scene.handler.forget(&older.conn);
    } else {
        scene.handler.expect_closed(&older.conn.clone(), "{shutdown,discarded}").await;
    }
    older.expect_eof().await;
    // The subscriptions are not taken over.
    assert_eq!(scene.adapter.publish(&newer.conn, &topic, 0, b"to nobody").await, success());
    assert_eq!(scene.adapter.subscribe(&newer.conn, &topic, 0).await, success());
    assert_eq!(scene.adapter.publish(&newer.conn, &topic, 0, b"to itself").await, success());
    assert_eq!(scene.handler.messages(&newer.conn, 1).await[0].payload, b"to itself"[..]);
}

// -- Result codes -----------------------------------------------------------------------------------------------------

#[tokio::test]
async fn before_authenticate_only_the_socket_can_be_used() {
    let mut scene = BrokerScene::start().await;
    let device = scene.device().await;
    let unexpected = (ResultCode::Unknown, "{error,unexpected_call}".to_owned());
    assert_eq!(scene.adapter.publish(&device.conn, "up", 0, b"x").await, unexpected);
    assert_eq!(scene.adapter.subscribe(&device.conn, "dn", 0).await, unexpected);
    assert_eq!(scene.adapter.unsubscribe(&device.conn, "dn").await, unexpected);
    assert_eq!(scene.adapter.send(&device.conn, b"").await, success());
    assert_eq!(scene.adapter.start_timer(&device.conn, 60).await, success());
    assert_eq!(scene.adapter.close(&device.conn).await, success());
}

#[tokio::test]
async fn a_bad_quality_or_interval_is_an_unknown_error() {
    let mut scene = BrokerScene::start().await;
    let device = scene.client(&unique("client")).await;
    let bad = (ResultCode::Unknown, "{error,'PARAMS_TYPE_ERROR'}".to_owned());
    assert_eq!(scene.adapter.publish(&device.conn, "up", 3, b"x").await, bad);
    assert_eq!(scene.adapter.subscribe(&device.conn, "dn", 3).await, bad);
    assert_eq!(scene.adapter.start_timer(&device.conn, 0).await, bad);
    assert_eq!(scene.adapter.raw_publish("up", 7, b"x").await.unwrap_err().code(), Code::Internal);
}

#[tokio::test]
async fn a_connection_that_never_was_is_told_from_a_dead_one() {
    let mut scene = BrokerScene::start().await;
    for garbage in ["zzz", "", "AAAA"] {
        let (code, message) = scene.adapter.send(garbage, b"x").await;
        assert_eq!(code, ResultCode::Unknown, "{garbage}");
        assert_eq!(message, "{error,'UNKNOWN',<<\"Unknown crashes\">>}");
    }
    let device = scene.device().await;
    let conn = device.conn.clone();
    drop(device);
    scene.handler.expect_closed(&conn, "{shutdown,tcp_closed}").await;
    assert_eq!(scene.adapter.send(&conn, b"x").await.0, ResultCode::ConnProcessNotAlive);
    assert_eq!(scene.adapter.authenticate(&conn, "x").await.0, ResultCode::ConnProcessNotAlive);
}

#[tokio::test]
async fn what_is_not_permitted_is_denied_and_the_connection_stays() {
    let mut scene = BrokerScene::start().await;
    let Some(control) = scene.broker.control() else { return };
    control.deny_publish("up/+/secret");
    control.deny_subscribe("dn/#");
    let device = scene.client("client").await;
    let denied = (ResultCode::PermissionDeny, "<<\"Authorization deny\">>".to_owned());
    assert_eq!(scene.adapter.publish(&device.conn, "up/1/secret", 0, b"x").await, denied);
    assert_eq!(scene.adapter.publish(&device.conn, "up/1/public", 0, b"x").await, success());
    assert_eq!(scene.adapter.subscribe(&device.conn, "dn/1", 0).await, denied);
    control.allow_all();
    assert_eq!(scene.adapter.subscribe(&device.conn, "dn/1", 0).await, success());
    assert_eq!(control.subscriptions("client"), ["dn/1"]);
}

// -- Failures of the handler ------------------------------------------------------------------------------------------

#[tokio::test]
async fn an_event_that_the_handler_refuses_closes_the_connection() {
    let mut scene = BrokerScene::start().await;
    let mut device = scene.device().await;
    let conn = device.conn.clone();
    device.write(b"x").await;
    scene.handler.next().await.refuse(Status::internal("boom"));
    device.expect_eof().await;
    scene.handler.expect_closed(&conn, "{shutdown,{error,{on_received_bytes,{internal,<<\"boom\">>}}}}").await;
}

#[tokio::test]
async fn a_device_whose_creation_is_refused_is_closed() {
    let mut scene = BrokerScene::start().await;
    let mut socket = dial(&scene.broker.addresses.listener).await;
    let created: PendingCall = scene.handler.next().await;
    let HandlerCall::Created { conn } = created.event.clone() else { panic!("{created:?}") };
    created.refuse(Status::permission_denied("no"));
    expect_eof(&mut socket).await;
    scene.handler.expect_closed(&conn, "{shutdown,{error,{on_socket_created,{permission_denied,<<\"no\">>}}}}").await;
}

#[tokio::test]
async fn without_a_handler_devices_are_closed_until_it_is_there() {
    let broker = TestBroker::start().await;
    // EMQX needs a moment to find out that the handler of the test before this one is gone.
    let closed = async {
        loop {
            let mut socket = dial(&broker.addresses.listener).await;
            if timeout(Duration::from_secs(1), expect_eof(&mut socket)).await.is_ok() {
                return;
            }
        }
    };
    soon("end of a connection", closed).await;
    let mut scene = BrokerScene::of(broker).await;
    let device = scene.device().await;
    assert_eq!(scene.adapter.send(&device.conn, b"x").await, success());
}

// -- Subscriptions and messages ---------------------------------------------------------------------------------------

#[tokio::test]
async fn unsubscribe_succeeds_whether_it_was_subscribed_or_not() {
    let mut scene = BrokerScene::start().await;
    let topic = unique("dn");
    let device = scene.subscriber(&topic).await;
    for _ in 0..2 {
        assert_eq!(scene.adapter.unsubscribe(&device.conn, &topic).await, success());
    }
    assert_eq!(scene.adapter.publish(&device.conn, &topic, 0, b"to nobody").await, success());
    assert_eq!(scene.adapter.subscribe(&device.conn, &topic, 0).await, success());
    assert_eq!(scene.adapter.publish(&device.conn, &topic, 0, b"again").await, success());
    assert_eq!(scene.handler.messages(&device.conn, 1).await[0].payload, b"again"[..]);
}

#[tokio::test]
async fn retained_messages_come_with_the_first_subscribe_only() {
    let mut scene = BrokerScene::start().await;
    let (topic, mark) = (unique("retained"), unique("mark"));
    let mut application = scene.application().await;
    application.publish_retained(&topic, b"kept").await;
    let device = scene.subscriber(&topic).await;
    assert_eq!(scene.handler.messages(&device.conn, 1).await[0].payload, b"kept"[..]);

    assert_eq!(scene.adapter.subscribe(&device.conn, &topic, 1).await, success());
    assert_eq!(scene.adapter.subscribe(&device.conn, &mark, 0).await, success());
    assert_eq!(scene.adapter.publish(&device.conn, &mark, 0, b"next").await, success());
    assert_eq!(scene.handler.messages(&device.conn, 1).await[0].payload, b"next"[..]);

    assert_eq!(scene.adapter.unsubscribe(&device.conn, &topic).await, success());
    assert_eq!(scene.adapter.subscribe(&device.conn, &topic, 0).await, success());
    assert_eq!(scene.handler.messages(&device.conn, 1).await[0].payload, b"kept"[..]);
    application.publish_retained(&topic, b"").await;
}

#[tokio::test]
async fn a_message_has_the_quality_and_the_name_of_its_publisher() {
    let mut scene = BrokerScene::start().await;
    let topic = unique("dn");
    let device = scene.subscriber(&format!("{topic}/#")).await;
    let mut application = scene.application().await;
    for qos in [0, 1, 2] {
        application.publish(&format!("{topic}/{qos}"), qos, b"x").await;
    }
    for (qos, message) in (0..).zip(scene.handler.messages(&device.conn, 3).await) {
        assert_eq!((message.qos, message.topic), (qos, format!("{topic}/{qos}")));
        assert_eq!(message.from, application.clientid);
        assert_eq!(message.id.len(), 32);
        assert!(message.timestamp > 1_700_000_000_000, "milliseconds: {}", message.timestamp);
    }
}

#[tokio::test]
async fn own_publications_come_back_and_overlapping_filters_deliver_twice() {
    let mut scene = BrokerScene::start().await;
    let topic = unique("loop");
    let clientid = unique("client");
    let device = scene.client(&clientid).await;
    for filter in [topic.clone(), format!("{topic}/#")] {
        assert_eq!(scene.adapter.subscribe(&device.conn, &filter, 0).await, success());
    }
    assert_eq!(scene.adapter.publish(&device.conn, &topic, 1, b"me").await, success());
    for message in scene.handler.messages(&device.conn, 2).await {
        assert_eq!((message.qos, message.from, &message.payload[..]), (1, clientid.clone(), &b"me"[..]));
    }
    scene.handler.expect_nothing();
}

#[tokio::test]
async fn messages_for_a_busy_handler_come_in_batches_and_in_order() {
    let mut scene = BrokerScene::start().await;
    let topic = unique("dn");
    let mut device = scene.subscriber(&topic).await;
    device.write(b"x").await;
    let busy = scene.handler.next().await;
    let mut application = scene.application().await;
    for number in 0..1_000_u32 {
        // The last one is acknowledged: then the broker has them all.
        application.publish(&topic, u8::from(number == 999), &number.to_be_bytes()).await;
    }
    scene.handler.expect_nothing();
    busy.accept();
    let batches = scene.handler.batches(&device.conn, 1_000).await;
    assert!(batches.iter().all(|batch| (1..=101).contains(&batch.len())));
    for (number, message) in (0..1_000_u32).zip(batches.concat()) {
        assert_eq!(message.payload, number.to_be_bytes()[..]);
    }
}

#[tokio::test]
async fn a_raw_publication_needs_no_connection() {
    let mut scene = BrokerScene::start().await;
    let topic = unique("raw");
    let device = scene.subscriber(&topic).await;
    assert_eq!(scene.adapter.raw_publish(&topic, 2, b"raw").await.unwrap(), success());
    let message = scene.handler.messages(&device.conn, 1).await.remove(0);
    assert_eq!((message.qos, message.from.as_str(), &message.payload[..]), (2, "exproto", &b"raw"[..]));
}

#[tokio::test]
async fn a_publication_to_a_wildcard_crashes_its_connection() {
    let mut scene = BrokerScene::start().await;
    let device = scene.client(&unique("client")).await;
    assert_eq!(scene.adapter.publish(&device.conn, "up/+/x", 0, b"x").await.0, ResultCode::Unknown);
    device.expect_eof().await;
}

#[tokio::test]
async fn a_payload_of_a_megabyte_and_a_half_passes_both_ways() {
    let mut scene = BrokerScene::start().await;
    let Some(_) = scene.broker.control() else { return };
    let payload: Vec<u8> = (0..1_536 * 1_024_u32).map(|at| (at % 251).to_le_bytes()[0]).collect();
    let device = scene.subscriber("dn").await;
    let mut application = scene.application().await;
    application.subscribe("up", 0).await;
    application.publish("dn", 1, &payload).await;
    assert!(scene.handler.messages(&device.conn, 1).await[0].payload == payload);
    assert_eq!(scene.adapter.publish(&device.conn, "up", 0, &payload).await, success());
    assert!(application.message().await.payload == payload);
}

// -- Closing ----------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn what_was_sent_before_close_arrives() {
    let mut scene = BrokerScene::start().await;
    let mut device = scene.device().await;
    let conn = device.conn.clone();
    let bytes = vec![7; 200_000];
    assert_eq!(scene.adapter.send(&conn, &bytes).await, success());
    assert_eq!(scene.adapter.close(&conn).await, success());
    assert!(device.read(bytes.len()).await == bytes);
    device.expect_eof().await;
    scene.handler.expect_closed(&conn, "{shutdown,normal}").await;
}

#[tokio::test]
async fn a_kicked_client_is_closed() {
    let mut scene = BrokerScene::start().await;
    let Some(control) = scene.broker.control() else { return };
    let device = scene.client("client").await;
    let conn = device.conn.clone();
    assert!(!control.kick("nobody").await);
    assert!(control.kick("client").await);
    device.expect_eof().await;
    scene.handler.expect_closed(&conn, "{shutdown,kicked}").await;
    assert!(!control.kick("client").await);
}

#[tokio::test]
async fn a_stopped_gateway_says_nothing_and_comes_back_at_the_same_addresses() {
    let mut scene = BrokerScene::start().await;
    let Some(control) = scene.broker.control() else { return };
    let addresses = scene.broker.addresses.clone();
    let mut devices = Vec::new();
    for number in 0..10 {
        devices.push(scene.client(&format!("client-{number}")).await);
    }
    let old = devices[0].conn.clone();

    control.stop().await;
    for device in devices {
        device.expect_eof().await;
    }
    assert!(TcpStream::connect(&addresses.listener).await.is_err());
    assert!(TcpStream::connect(addresses.adapter.trim_start_matches("http://")).await.is_err());
    assert_eq!(control.clients(), [""; 0]);

    control.start().await.unwrap();
    scene.handler.expect_nothing();
    let mut adapter = AdapterClient::connect(&addresses.adapter).await;
    assert_eq!(adapter.send(&old, b"x").await.0, ResultCode::ConnProcessNotAlive);
    scene.client("client-0").await;
}

#[tokio::test]
async fn a_slow_broker_answers_late() {
    let mut scene = BrokerScene::start().await;
    let Some(control) = scene.broker.control() else { return };
    let device = scene.device().await;
    control.delay_answers(Duration::from_millis(200));
    let asked = Instant::now();
    assert_eq!(scene.adapter.authenticate(&device.conn, "client").await, success());
    assert!(asked.elapsed() >= Duration::from_millis(200));
    // A call that waits does not keep the gateway from stopping.
    control.delay_answers(Duration::from_secs(3_600));
    let mut waiting = scene.adapter.clone();
    let call = tokio::spawn(async move { waiting.authenticate_with(&device.conn, None).await });
    soon("stop", control.stop()).await;
    assert!(soon("end of the call", call).await.unwrap().is_err());
}

#[tokio::test]
async fn a_dropped_broker_frees_its_addresses() {
    let broker = EmbeddedBroker::start(BrokerConfig::on_free_ports("http://127.0.0.1:1")).await.unwrap();
    let addresses = broker.addresses();
    let mut application = TcpStream::connect(addresses.mqtt).await.unwrap();
    drop(broker);
    expect_eof(&mut application).await;
    for address in [addresses.mqtt, addresses.listener, addresses.adapter] {
        let free = async {
            while TcpStream::connect(address).await.is_ok() {
                tokio::task::yield_now().await
            }
        };
        soon("end of the listener", free).await;
    }
}
