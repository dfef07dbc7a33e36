//! The link to EMQX over real sockets and gRPC, against a small EMQX that is told what to do.

mod emqx;
mod nodes;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use lwm2m_base::secret::Secret;
use lwm2m_core::gateway::broker::{
    BrokerCommand, BrokerEvent, ClientInfo, CloseReason, ConnectError, MessageProperties, Publication, RegistrationId,
    UplinkClass,
};
use lwm2m_gateway::conditions::Conditions;
use lwm2m_gateway::observability::metrics::Metrics;
use lwm2m_gateway::tls;
use lwm2m_gateway::upstream::exproto::{ExProtoConfig, ExProtoLink, Node};
use lwm2m_gateway::upstream::seat::LinkSeat;
use lwm2m_gateway::upstream::{LinkConfig, UpstreamConfig};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use emqx::{Emqx, Published};

/// Long enough for a slow machine; nothing waits for it to pass.
const PATIENCE: Duration = Duration::from_secs(30);
const DEVICE: RegistrationId = RegistrationId(1);

/// A link that is driven as the gateway's driver does it.
struct ExProtoLinkScene {
    emqx: Emqx,
    commands: mpsc::Sender<BrokerCommand>,
    events: mpsc::Receiver<BrokerEvent>,
    driver: JoinHandle<()>,
    metrics: Arc<Metrics>,
}

impl ExProtoLinkScene {
    async fn start() -> Self {
        let emqx = Emqx::bind().await;
        let settings = settings(&[&emqx]);
        Self::start_with(emqx, &mut [], settings).await
    }

    /// With more nodes than the one that it has.
    async fn start_with(mut emqx: Emqx, others: &mut [&mut Emqx], settings: ExProtoConfig) -> Self {
        let metrics = Arc::new(Metrics::default());
        let conditions = Conditions::default();
        let seat = LinkSeat::only(&UpstreamConfig::ExProto(settings.clone()));
        let link = ExProtoLink::start(settings, seat, Arc::clone(&metrics.upstream), conditions.add("broker"))
            .await
            .expect("a link");
        emqx.start(link.handler_address()).await;
        for other in others {
            other.start(link.handler_address()).await;
        }
        let (commands, received) = mpsc::channel(100);
        let (told, events) = mpsc::channel(10_000);
        let driver = tokio::spawn(drive(link, received, told));
        Self { emqx, commands, events, driver, metrics }
    }

    async fn with_connected_device() -> Self {
        let mut rig = Self::start().await;
        rig.connect(DEVICE, "ep1").await;
        rig.expect(BrokerEvent::Connected { registration: DEVICE }).await;
        rig
    }

    async fn connect(&self, device: RegistrationId, clientid: &str) {
        self.submit(BrokerCommand::Connect { registration: device, client: client(clientid) }).await;
    }

    async fn publish(&self, device: RegistrationId, topic: &str, payload: &str) {
        let publication = Publication {
            topic: topic.to_owned(),
            qos: 1,
            payload: payload.to_owned().into(),
            class: UplinkClass::Answer,
            retain: false,
            expiry: None,
            correlation: None,
            ticket: None,
        };
        self.submit(BrokerCommand::Publish { registration: device, publication }).await;
    }

    async fn submit(&self, command: BrokerCommand) {
        self.commands.send(command).await.expect("a running link");
    }

    async fn event(&mut self) -> BrokerEvent {
        timeout(PATIENCE, self.events.recv()).await.expect("an event in time").expect("a running link")
    }

    async fn expect(&mut self, event: BrokerEvent) {
        assert_eq!(self.event().await, event);
    }

    /// Ends the link, as the gateway does when it is told to stop; nothing may have been said that was not expected.
    async fn end(mut self) -> Emqx {
        drop(self.commands);
        timeout(PATIENCE, self.driver).await.expect("an end in time").expect("no panic");
        assert_eq!(self.events.recv().await, None);
        self.emqx
    }
}

async fn drive(mut link: ExProtoLink, mut commands: mpsc::Receiver<BrokerCommand>, events: mpsc::Sender<BrokerEvent>) {
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                Some(command) => link.submit(command),
                None => break,
            },
            event = link.event() => events.send(event).await.expect("a test that listens"),
        }
    }
    link.shut_down(PATIENCE).await;
}

fn settings(nodes: &[&Emqx]) -> ExProtoConfig {
    let node =
        |emqx: &&Emqx| Node { listeners: vec![emqx.listener.to_string()], adapter: format!("http://{}", emqx.adapter) };
    ExProtoConfig {
        nodes: nodes.iter().map(node).collect(),
        ssl: tls::TlsConfig::default(),
        adapter_connections: 2,
        handler_bind: (Ipv4Addr::LOCALHOST, 0).into(),
        proto_name: "exproto".to_owned(),
        link: LinkConfig {
            source_addresses: Vec::new(),
            connect_timeout: Duration::from_secs(10),
            connections_per_second: 500,
            queue_per_device: 100,
            queue_total: 10_000,
            event_queue: 16,
        },
    }
}

fn client(clientid: &str) -> ClientInfo {
    ClientInfo {
        endpoint: clientid.to_owned(),
        clientid: clientid.to_owned(),
        username: "user".to_owned(),
        password: Some(Secret::new("secret")),
        proto_ver: "1.1".to_owned(),
        peerhost: IpAddr::V4(Ipv4Addr::LOCALHOST),
        command_filter: format!("lwm2m/{clientid}/dn"),
        command_qos: 0,
        lifetime: Duration::from_secs(300),
        will: None,
    }
}

fn published(clientid: &str, topic: &str, payload: &str) -> Published {
    Published { clientid: clientid.to_owned(), topic: topic.to_owned(), payload: payload.as_bytes().to_vec() }
}

#[tokio::test]
async fn a_device_becomes_a_client_publishes_and_hears() {
    let mut rig = ExProtoLinkScene::with_connected_device().await;
    let login = rig.emqx.login("ep1");
    assert_eq!((login.proto_name.as_str(), login.proto_ver.as_str()), ("exproto", "1.1"));
    assert_eq!((login.username.as_str(), login.password.as_str()), ("user", "secret"));
    assert_eq!(login.filters, ["lwm2m/ep1/dn"]);

    for payload in ["1", "2", "3"] {
        rig.publish(DEVICE, "lwm2m/ep1/up/resp", payload).await;
    }
    for payload in ["1", "2", "3"] {
        assert_eq!(rig.emqx.published().await, published("ep1", "lwm2m/ep1/up/resp", payload));
    }

    rig.emqx.send("ep1", &[("lwm2m/ep1/dn", "a"), ("lwm2m/ep1/dn", "b")]).await;
    for payload in [b"a", b"b"] {
        let topic = "lwm2m/ep1/dn".to_owned();
        rig.expect(BrokerEvent::Message {
            registration: DEVICE,
            topic,
            payload: payload.to_vec(),
            properties: MessageProperties::default(),
        })
        .await;
    }
    rig.end().await;
}

#[tokio::test]
async fn the_last_words_are_published_before_the_link_ends_and_then_the_clients_are_gone() {
    let rig = ExProtoLinkScene::with_connected_device().await;
    for number in 0..50 {
        rig.publish(DEVICE, "t", &number.to_string()).await;
    }
    let mut emqx = rig.end().await;
    for number in 0..50 {
        assert_eq!(emqx.published().await, published("ep1", "t", &number.to_string()));
    }
    emqx.until_no_clients().await;
}

#[tokio::test]
async fn a_client_that_emqx_refuses_is_refused() {
    let mut rig = ExProtoLinkScene::start().await;
    rig.emqx.refuse("bad");
    rig.connect(DEVICE, "bad").await;
    let error = ConnectError::Refused("Authenticate: not_authorized".to_owned());
    rig.expect(BrokerEvent::ConnectFailed { registration: DEVICE, error }).await;

    rig.emqx.deny("lwm2m/deaf/dn");
    rig.connect(RegistrationId(2), "deaf").await;
    let error = ConnectError::Refused("Subscribe: Authorization deny".to_owned());
    rig.expect(BrokerEvent::ConnectFailed { registration: RegistrationId(2), error }).await;

    rig.emqx.until_no_clients().await;
    rig.end().await;
}

#[tokio::test]
async fn a_publication_that_is_not_allowed_is_told_and_the_next_one_goes() {
    let mut rig = ExProtoLinkScene::with_connected_device().await;
    rig.emqx.deny("forbidden");
    rig.publish(DEVICE, "forbidden", "1").await;
    rig.publish(DEVICE, "allowed", "2").await;
    rig.expect(BrokerEvent::PublishRefused { registration: DEVICE, topic: "forbidden".to_owned() }).await;
    assert_eq!(rig.emqx.published().await, published("ep1", "allowed", "2"));
    rig.end().await;
}

#[tokio::test]
async fn a_kicked_client_is_closed_and_a_lost_one_comes_back() {
    let mut rig = ExProtoLinkScene::with_connected_device().await;
    rig.connect(RegistrationId(2), "ep2").await;
    rig.expect(BrokerEvent::Connected { registration: RegistrationId(2) }).await;

    rig.emqx.close("ep1", "{shutdown,kicked}").await;
    rig.expect(BrokerEvent::Closed { registration: DEVICE, reason: CloseReason::Kicked }).await;

    rig.emqx.close("ep2", "{shutdown,etimedout}").await;
    rig.publish(RegistrationId(2), "t", "after the loss").await;
    assert_eq!(rig.emqx.published().await, published("ep2", "t", "after the loss"));
    assert_eq!(rig.metrics.upstream.reconnected.get(), 1);
    rig.end().await;
}

#[tokio::test]
async fn a_device_that_registers_again_takes_over_what_its_older_registration_published() {
    let mut rig = ExProtoLinkScene::with_connected_device().await;
    rig.connect(RegistrationId(2), "ep1").await;
    rig.expect(BrokerEvent::Connected { registration: RegistrationId(2) }).await;
    rig.publish(DEVICE, "t", "of the older one").await;
    rig.publish(RegistrationId(2), "t", "of the newer one").await;
    for payload in ["of the older one", "of the newer one"] {
        assert_eq!(rig.emqx.published().await, published("ep1", "t", payload));
    }
    assert_eq!(rig.metrics.upstream.closed.get(), 0);
    rig.end().await;
}

#[tokio::test]
async fn when_emqx_stops_and_starts_again_devices_come_back_and_new_ones_fail_meanwhile() {
    let mut rig = ExProtoLinkScene::with_connected_device().await;
    rig.emqx.stop().await;
    rig.publish(DEVICE, "t", "during the outage").await;
    rig.connect(RegistrationId(2), "ep2").await;
    let event = rig.event().await;
    let BrokerEvent::ConnectFailed { registration: RegistrationId(2), error: ConnectError::Unavailable(_) } = event
    else {
        panic!("{event:?}")
    };

    rig.emqx.start_again().await;
    assert_eq!(rig.emqx.published().await, published("ep1", "t", "during the outage"));
    rig.emqx.send("ep1", &[("lwm2m/ep1/dn", "after")]).await;
    let topic = "lwm2m/ep1/dn".to_owned();
    rig.expect(BrokerEvent::Message {
        registration: DEVICE,
        topic,
        payload: b"after".to_vec(),
        properties: MessageProperties::default(),
    })
    .await;
    rig.connect(RegistrationId(3), "ep3").await;
    rig.expect(BrokerEvent::Connected { registration: RegistrationId(3) }).await;
    rig.end().await;
}

#[tokio::test]
async fn a_burst_of_messages_beyond_the_queue_waits_and_none_is_lost() {
    let mut rig = ExProtoLinkScene::with_connected_device().await;
    for device in 2..42 {
        rig.connect(RegistrationId(device), &format!("ep{device}")).await;
    }
    for _ in 2..42 {
        let event = rig.event().await;
        assert!(matches!(event, BrokerEvent::Connected { .. }), "{event:?}");
    }
    for number in 0..10 {
        for device in 2..42 {
            let clientid = format!("ep{device}");
            rig.emqx.send(&clientid, &[("t", &number.to_string())]).await;
        }
    }
    let mut heard = vec![Vec::new(); 42];
    for _ in 0..400 {
        let event = rig.event().await;
        let BrokerEvent::Message { registration: device, payload, .. } = event else { panic!("{event:?}") };
        heard[device.0 as usize].push(String::from_utf8(payload).expect("text"));
    }
    let all: Vec<String> = (0..10).map(|number| number.to_string()).collect();
    assert!(heard[2..].iter().all(|numbers| *numbers == all), "{heard:?}");
    rig.end().await;
}
