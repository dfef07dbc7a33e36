//! The gateway's own client that publishes `offline` for devices whose session the broker has ended, in virtual time.

use std::collections::VecDeque;
use std::time::Duration;

use lwm2m_core::gateway::broker::{
    BrokerCommand, BrokerEvent, BrokerLogin, CloseReason, Publication, RegistrationId, Ticket, UplinkClass,
};
use lwm2m_core::gateway::config::GatewayConfig;
use lwm2m_core::gateway::report::Report;
use lwm2m_core::mqtt::topics::{Template, Translator};
use lwm2m_testkit::scene::{QUERY, Said, Scene};
use proptest::prelude::*;
use serde_json::{Value, json};

/// The session of the client.
const OWN: RegistrationId = RegistrationId(u64::MAX - 1);
const TOPIC: &str = "lwm2m/dev-7/up/status";

fn with_client(config: &mut GatewayConfig) {
    let topic = Template::for_topic("up/status").unwrap();
    config.translators.status = Some(Translator { topic, qos: 0 });
    config.status_login = Some(BrokerLogin { username: "lwm2m-status".to_owned(), password: None });
}

/// A gateway whose client is connected.
fn connected() -> Scene {
    let mut scene = Scene::with(with_client);
    scene.advance(0.0);
    let BrokerCommand::Resume { registration: OWN, client } = scene.expect_broker_command() else {
        panic!("no client of its own")
    };
    assert!(client.clientid.starts_with("lwm2m-status-"), "{}", client.clientid);
    assert_eq!((client.command_filter.as_str(), client.will), ("", None));
    scene.broker_says(BrokerEvent::Connected { registration: OWN });
    scene.expect_nothing_more();
    scene
}

/// The device registers, and its presence is published by its own session.
fn registers(scene: &mut Scene) {
    scene.register(QUERY);
    expect_online(scene);
}

fn expect_online(scene: &mut Scene) {
    let (session, publication) = expect_presence(scene, "online");
    assert_eq!((session, publication.ticket), (scene.device, None));
}

/// The gateway's own client publishes `offline`. Its acknowledgement is awaited.
fn expect_offline(scene: &mut Scene) -> Ticket {
    let (session, publication) = expect_presence(scene, "offline");
    let Publication { qos, class, expiry, .. } = publication;
    assert_eq!((session, qos, class, expiry), (OWN, 1, UplinkClass::Registration, None));
    publication.ticket.expect("a ticket")
}

fn expect_presence(scene: &mut Scene, status: &str) -> (RegistrationId, Publication) {
    let BrokerCommand::Publish { registration, publication } = scene.expect_broker_command() else {
        panic!("no publication")
    };
    assert_eq!((publication.topic.as_str(), publication.retain), (TOPIC, true));
    let payload: Value = serde_json::from_slice(&publication.payload).unwrap();
    assert_eq!(payload["status"], json!(status), "{payload}");
    (registration, publication)
}

fn ends(scene: &mut Scene, reason: CloseReason) {
    scene.broker_says(BrokerEvent::Closed { registration: scene.device, reason });
}

fn acknowledged(scene: &mut Scene, ticket: Ticket) {
    scene.broker_says(BrokerEvent::Published { registration: OWN, ticket });
}

#[test]
fn a_device_whose_session_the_broker_ends_is_offline() {
    for reason in [CloseReason::Kicked, CloseReason::Refused, CloseReason::Expired] {
        let mut scene = connected();
        registers(&mut scene);
        scene.advance(7.0);
        ends(&mut scene, reason);
        let (session, publication) = expect_presence(&mut scene, "offline");
        let payload: Value = serde_json::from_slice(&publication.payload).unwrap();
        assert_eq!(payload, json!({ "msgType": "status", "status": "offline", "since": 1_700_000_007 }));
        assert_eq!(session, OWN);
        acknowledged(&mut scene, publication.ticket.unwrap());
        scene.expect_nothing_left_behind();
    }
}

#[test]
fn another_client_that_took_over_the_session_has_a_presence_of_its_own() {
    let mut scene = connected();
    registers(&mut scene);
    ends(&mut scene, CloseReason::Discarded);
    scene.expect_nothing_left_behind();
}

#[test]
fn a_device_that_leaves_by_itself_publishes_by_its_own_session() {
    let mut scene = connected();
    registers(&mut scene);
    scene.advance(300.0);
    let (session, _) = expect_presence(&mut scene, "offline");
    assert_eq!(session, scene.device);
    scene.expect_disconnect(scene.device);
    scene.expect_nothing_left_behind();
}

#[test]
fn a_device_that_registers_before_its_offline_is_acknowledged_publishes_its_presence_once_more() {
    let mut scene = connected();
    registers(&mut scene);
    ends(&mut scene, CloseReason::Kicked);
    let ticket = expect_offline(&mut scene);
    registers(&mut scene);
    scene.expect_nothing_more();
    acknowledged(&mut scene, ticket);
    expect_online(&mut scene);
    scene.expect_nothing_more();
}

#[test]
fn a_device_that_is_kicked_again_meanwhile_is_offline_since_then() {
    let mut scene = connected();
    registers(&mut scene);
    ends(&mut scene, CloseReason::Kicked);
    let first = expect_offline(&mut scene);
    registers(&mut scene);
    scene.advance(3.0);
    ends(&mut scene, CloseReason::Kicked);
    scene.expect_nothing_more();
    acknowledged(&mut scene, first);
    let (session, publication) = expect_presence(&mut scene, "offline");
    let payload: Value = serde_json::from_slice(&publication.payload).unwrap();
    assert_eq!((session, &payload["since"]), (OWN, &json!(1_700_000_003)));
    acknowledged(&mut scene, publication.ticket.unwrap());
    scene.expect_nothing_left_behind();
}

#[test]
fn without_the_connection_it_waits_and_a_device_that_is_back_keeps_its_presence() {
    let mut scene = connected();
    registers(&mut scene);
    scene.broker_says(BrokerEvent::Closed { registration: OWN, reason: CloseReason::Kicked });
    ends(&mut scene, CloseReason::Kicked);
    scene.expect_nothing_more();
    assert_eq!(scene.gateway.table_sizes().status_withdrawals, 1);
    registers(&mut scene);
    scene.advance(30.0);
    assert!(matches!(scene.expect_broker_command(), BrokerCommand::Resume { registration: OWN, .. }));
    scene.expect_nothing_more();
    assert_eq!(scene.gateway.table_sizes().status_withdrawals, 0);
}

#[test]
fn what_was_on_its_way_when_the_connection_ended_is_published_again() {
    let mut scene = connected();
    registers(&mut scene);
    ends(&mut scene, CloseReason::Kicked);
    expect_offline(&mut scene);
    scene.broker_says(BrokerEvent::Closed { registration: OWN, reason: CloseReason::Kicked });
    scene.advance(30.0);
    assert!(matches!(scene.expect_broker_command(), BrokerCommand::Resume { registration: OWN, .. }));
    let ticket = expect_offline(&mut scene);
    acknowledged(&mut scene, ticket);
    scene.expect_nothing_left_behind();
}

#[test]
fn a_publication_that_the_broker_does_not_allow_is_reported_once() {
    let mut scene = connected();
    for is_first in [true, false] {
        registers(&mut scene);
        ends(&mut scene, CloseReason::Kicked);
        let ticket = expect_offline(&mut scene);
        scene.reports();
        scene.broker_says(BrokerEvent::Unpublished { registration: OWN, ticket });
        scene.broker_says(BrokerEvent::PublishRefused { registration: OWN, topic: TOPIC.to_owned() });
        let refused =
            Report::PublishRefused { endpoint: "lwm2m-status".to_owned(), topic: TOPIC.to_owned(), first: is_first };
        assert_eq!(scene.reports(), [refused]);
    }
    assert_eq!(scene.gateway.table_sizes().status_withdrawals, 0);
}

#[test]
fn many_devices_that_are_banned_at_once_are_told_in_turn_and_within_the_limit() {
    let mut scene = Scene::with(|config| {
        with_client(config);
        config.limits.devices = 40;
    });
    scene.advance(0.0);
    scene.forget_what_was_said();
    let mut sessions = Vec::new();
    for number in 0..40 {
        scene.forget_what_was_said();
        scene.join(&format!("ep=dev-{number}&lt=300&lwm2m=1.0"));
        sessions.push(scene.device);
    }
    scene.forget_what_was_said();
    for session in sessions {
        scene.broker_says(BrokerEvent::Closed { registration: session, reason: CloseReason::Kicked });
    }
    assert_eq!(scene.gateway.table_sizes().status_withdrawals, 40);
    let mut told = 0;
    let mut open = VecDeque::new();
    loop {
        while let Some(Said::ToBroker(BrokerCommand::Publish { registration: OWN, publication })) = scene.next_said() {
            open.push_back(publication.ticket.unwrap());
            told += 1;
        }
        assert!(open.len() <= 16, "{}", open.len());
        let Some(ticket) = open.pop_front() else { break };
        acknowledged(&mut scene, ticket);
    }
    assert_eq!((told, scene.gateway.table_sizes().status_withdrawals), (40, 0));
}

/// A broker that retains the last message, and to which publications of the device's session and of the gateway's own
/// client come in any order.
#[derive(Default)]
struct Network {
    retained: Option<String>,
    of_device: VecDeque<(RegistrationId, String)>,
    of_own: VecDeque<(Ticket, String)>,
    /// What has arrived of the own client, and whose acknowledgement is on its way.
    acknowledgements: VecDeque<Ticket>,
}

impl Network {
    /// Takes what the gateway has sent.
    fn take(&mut self, scene: &mut Scene) {
        while let Some(said) = scene.next_said() {
            let Said::ToBroker(BrokerCommand::Publish { registration, publication }) = said else { continue };
            if publication.topic != TOPIC {
                continue;
            }
            let payload: Value = serde_json::from_slice(&publication.payload).unwrap();
            let status = payload["status"].as_str().unwrap().to_owned();
            match publication.ticket {
                Some(ticket) => self.of_own.push_back((ticket, status)),
                None => self.of_device.push_back((registration, status)),
            }
        }
    }

    fn carry_one_of_device(&mut self) {
        self.retained = self.of_device.pop_front().map(|(_, status)| status).or(self.retained.take());
    }

    fn carry_one_of_own(&mut self) {
        let Some((ticket, status)) = self.of_own.pop_front() else { return };
        self.retained = Some(status);
        self.acknowledgements.push_back(ticket);
    }

    fn acknowledge_one(&mut self, scene: &mut Scene) {
        if let Some(ticket) = self.acknowledgements.pop_front() {
            acknowledged(scene, ticket);
        }
    }

    fn is_idle(&self) -> bool {
        self.of_device.is_empty() && self.of_own.is_empty() && self.acknowledgements.is_empty()
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Register,
    /// The broker bans the device: what its session had not delivered is lost.
    Ban,
    CarryDevice,
    CarryOwn,
    Acknowledge,
    /// The broker ends the session of the own client. What was on its way arrived, or not.
    EndOwn {
        arrived: usize,
    },
    Wait,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Register),
        4 => Just(Step::Ban),
        4 => Just(Step::CarryDevice),
        3 => Just(Step::CarryOwn),
        3 => Just(Step::Acknowledge),
        1 => (0_usize..3).prop_map(|arrived| Step::EndOwn { arrived }),
        1 => Just(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_order_the_broker_retains_what_is_true_in_the_end(
        steps in proptest::collection::vec(step(), 1..40),
    ) {
        let mut scene = connected();
        let mut network = Network::default();
        let mut registered = false;
        for step in steps {
            match step {
                Step::Register if !registered => {
                    scene.join(QUERY);
                    registered = true;
                }
                Step::Ban if registered => {
                    ends(&mut scene, CloseReason::Kicked);
                    network.of_device.clear();
                    registered = false;
                }
                Step::Register | Step::Ban => {}
                Step::CarryDevice => network.carry_one_of_device(),
                Step::CarryOwn => network.carry_one_of_own(),
                Step::Acknowledge => network.acknowledge_one(&mut scene),
                Step::EndOwn { arrived } => {
                    for (_, status) in network.of_own.drain(..).take(arrived) {
                        network.retained = Some(status);
                    }
                    network.acknowledgements.clear();
                    scene.broker_says(BrokerEvent::Closed { registration: OWN, reason: CloseReason::Kicked });
                }
                Step::Wait => scene.advance(30.0),
            }
            if registered {
                // The registration does not end by itself here.
                let update = scene.update("");
                scene.device_sends(&update);
            }
            network.take(&mut scene);
        }
        for _ in 0..3 {
            scene.advance(30.0);
            network.take(&mut scene);
            while !network.is_idle() {
                network.carry_one_of_device();
                network.carry_one_of_own();
                network.acknowledge_one(&mut scene);
                network.take(&mut scene);
            }
        }
        let expected = network.retained.as_ref().map(|_| if registered { "online" } else { "offline" });
        prop_assert_eq!(network.retained.as_deref(), expected);
        prop_assert_eq!(scene.gateway.table_sizes().status_withdrawals, 0);
    }
}

#[test]
fn without_the_client_nothing_is_published_for_such_a_device() {
    let mut scene = Scene::with(|config| {
        with_client(config);
        config.status_login = None;
    });
    registers(&mut scene);
    ends(&mut scene, CloseReason::Kicked);
    scene.advance(Duration::from_secs(1_000).as_secs_f64());
    scene.expect_nothing_left_behind();
}
