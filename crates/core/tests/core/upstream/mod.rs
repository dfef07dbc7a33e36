//! What the core says to a broker that can carry more than topic and payload, and hears from it: expiry, reply topics,
//! retained commands, presence and lifetimes, in virtual time.

mod status_client;

use std::time::Duration;

use lwm2m_core::coap::Code;
use lwm2m_core::command::ResponseTopic;
use lwm2m_core::gateway::broker::{
    BrokerCommand, BrokerEvent, CloseReason, MessageProperties, Publication, RegistrationId, UplinkClass, Will,
};
use lwm2m_core::gateway::config::GatewayConfig;
use lwm2m_core::gateway::report::{CommandOutcome, Report};
use lwm2m_core::mqtt::topics::{Template, Translator};
use lwm2m_testkit::scene::{QUERY, Scene, content, read};
use serde_json::{Value, json};

fn command_with(scene: &mut Scene, command: &Value, properties: MessageProperties) {
    let (device, payload) = (scene.device, command.to_string().into_bytes());
    scene.broker_says(BrokerEvent::Message {
        registration: device,
        topic: "lwm2m/dev-7/dn".to_owned(),
        payload,
        properties,
    });
}

fn wanted_at(topic: &str) -> MessageProperties {
    let reply = Some(ResponseTopic { topic: topic.to_owned(), correlation: Some(b"42".to_vec()) });
    MessageProperties { reply, ..MessageProperties::default() }
}

/// The next publication is the final answer, on this topic, with the correlation data.
fn expect_reply(scene: &mut Scene, topic: &str) -> Value {
    let BrokerCommand::Publish { publication, .. } = scene.expect_broker_command() else { panic!("no publication") };
    assert_eq!((publication.topic.as_str(), publication.correlation.as_deref()), (topic, Some(&b"42"[..])));
    serde_json::from_slice(&publication.payload).unwrap()
}

fn presence(config: &mut GatewayConfig) {
    let topic = Template::for_topic("up/status").unwrap();
    config.translators.status = Some(Translator { topic, qos: 1 });
}

/// The presence is published, since this second after the start, and for the broker to remove after `expiry` seconds.
fn expect_status(scene: &mut Scene, status: &str, since: u64, expiry: Option<u64>) {
    let since = 1_700_000_000 + since;
    let publication = Publication {
        topic: "lwm2m/dev-7/up/status".to_owned(),
        qos: 1,
        payload: json!({ "msgType": "status", "status": status, "since": since }).to_string().into(),
        class: UplinkClass::Registration,
        retain: true,
        expiry: expiry.map(Duration::from_secs),
        correlation: None,
        ticket: None,
    };
    let device = scene.device;
    assert_eq!(scene.expect_broker_command(), BrokerCommand::Publish { registration: device, publication });
}

#[test]
fn the_final_answer_goes_where_the_command_wants_it_too() {
    let mut scene = Scene::registered();
    command_with(&mut scene, &read(1), wanted_at("answers/1"));
    let request = scene.expect_request(Code::GET, "/3/0/0");
    scene.answer_text(&request, "Acme");
    let reply = expect_reply(&mut scene, "answers/1");
    assert_eq!(reply["data"]["code"], "2.05");
    scene.expect_answer(&read(1), content("/3/0/0", "Acme"));
    scene.expect_nothing_more();
}

#[test]
fn a_refusal_and_a_timeout_are_final_answers() {
    let mut scene = Scene::registered();
    let wrong = json!({ "reqID": 1, "msgType": "read", "data": { "path": "wrong" } });
    command_with(&mut scene, &wrong, wanted_at("answers/1"));
    assert_eq!(expect_reply(&mut scene, "answers/1")["data"]["code"], "4.00");
    scene.expect_refused(&wrong);

    command_with(&mut scene, &read(2), wanted_at("answers/2"));
    scene.expect_request(Code::GET, "/3/0/0");
    scene.advance(200.0);
    let published: Vec<String> = std::iter::from_fn(|| scene.next_said())
        .filter_map(|said| match said {
            lwm2m_testkit::scene::Said::ToBroker(BrokerCommand::Publish { publication, .. }) => Some(publication.topic),
            _ => None,
        })
        .collect();
    assert_eq!(published, ["answers/2", "lwm2m/dev-7/up/resp"]);
}

#[test]
fn an_answer_is_not_published_to_what_is_no_topic() {
    let mut scene = Scene::registered();
    for topic in ["", "a/#", "+"] {
        command_with(&mut scene, &read(1), wanted_at(topic));
        let request = scene.expect_request(Code::GET, "/3/0/0");
        scene.answer_text(&request, "Acme");
        scene.expect_answer(&read(1), content("/3/0/0", "Acme"));
    }
    scene.expect_nothing_more();
}

#[test]
fn the_expiry_of_the_message_is_that_of_the_command_unless_its_ttl_is_shorter() {
    for (ttl, lasts) in [(None, 10.0), (Some(60), 10.0), (Some(5), 5.0)] {
        let mut scene = Scene::registered();
        scene.command(&read(1));
        scene.expect_request(Code::GET, "/3/0/0");
        let mut waiting = read(2);
        if let Some(ttl) = ttl {
            waiting["mheaders"] = json!({ "ttl": ttl });
        }
        let expiry = Some(Duration::from_secs(10));
        command_with(&mut scene, &waiting, MessageProperties { expiry, ..MessageProperties::default() });
        scene.advance(lasts - 0.1);
        scene.forget_what_was_said();
        scene.advance(0.1);
        scene.expect_refused(&waiting);
    }
}

#[test]
fn a_retained_command_is_executed_once_however_often_the_device_registers() {
    let mut scene = Scene::new();
    let retained = MessageProperties { retained: true, ..MessageProperties::default() };
    scene.register(QUERY);
    command_with(&mut scene, &read(1), retained.clone());
    let request = scene.expect_request(Code::GET, "/3/0/0");
    scene.answer_text(&request, "Acme");
    scene.expect_answer(&read(1), content("/3/0/0", "Acme"));

    let deregister = scene.deregister();
    scene.ask(&deregister, Code::DELETED);
    scene.forget_what_was_said();
    scene.register(QUERY);
    scene.reports();
    command_with(&mut scene, &read(1), retained.clone());
    scene.expect_nothing_more();
    let reports = scene.reports();
    let before = |report: &Report| matches!(report, Report::Command { outcome: CommandOutcome::DuplicateRetained, .. });
    assert!(reports.iter().any(before), "{reports:?}");
    // Another one is another one, and a live one too.
    command_with(&mut scene, &read(2), retained);
    let request = scene.expect_request(Code::GET, "/3/0/0");
    scene.answer_text(&request, "Acme");
    scene.expect_answer(&read(2), content("/3/0/0", "Acme"));
    command_with(&mut scene, &read(1), MessageProperties::default());
    scene.expect_request(Code::GET, "/3/0/0");
}

#[test]
fn a_retained_command_that_was_refused_is_carried_out_at_the_next_registration() {
    let retained = MessageProperties { retained: true, ..MessageProperties::default() };
    let asleep = "ep=dev-7&lt=300&lwm2m=1.0&b=UQ";

    // It may not wait, and the device is asleep.
    let mut now_or_never = read(1);
    now_or_never["mheaders"] = json!({ "ttl": 0 });
    let mut scene = Scene::new();
    scene.register(asleep);
    scene.advance(60.0);
    command_with(&mut scene, &now_or_never, retained.clone());
    scene.expect_refused(&now_or_never);
    scene.expect_nothing_more();
    registers_again(&mut scene, asleep);
    command_with(&mut scene, &now_or_never, retained.clone());
    scene.expect_request(Code::GET, "/3/0/0");

    // The queue is full.
    let mut scene = Scene::with(|config| config.limits.pending_commands = 1);
    scene.register(asleep);
    scene.advance(60.0);
    scene.command(&read(1));
    command_with(&mut scene, &read(2), retained.clone());
    scene.expect_refused(&read(2));
    registers_again(&mut scene, asleep);
    let request = scene.expect_request(Code::GET, "/3/0/0");
    command_with(&mut scene, &read(2), retained.clone());
    scene.answer_text(&request, "Acme");
    scene.expect_answer(&read(1), content("/3/0/0", "Acme"));
    scene.expect_request(Code::GET, "/3/0/0");

    // It expired before the device woke up.
    let mut short = read(1);
    short["mheaders"] = json!({ "ttl": 5 });
    let mut scene = Scene::new();
    scene.register(asleep);
    scene.advance(60.0);
    command_with(&mut scene, &short, retained.clone());
    scene.advance(6.0);
    scene.expect_refused(&short);
    registers_again(&mut scene, asleep);
    command_with(&mut scene, &short, retained);
    scene.expect_request(Code::GET, "/3/0/0");
}

#[test]
fn a_retained_command_that_waits_is_not_taken_twice() {
    let retained = MessageProperties { retained: true, ..MessageProperties::default() };
    let asleep = "ep=dev-7&lt=300&lwm2m=1.0&b=UQ";
    let mut scene = Scene::new();
    scene.register(asleep);
    scene.advance(60.0);
    command_with(&mut scene, &read(1), retained.clone());
    command_with(&mut scene, &read(1), retained.clone());
    scene.expect_nothing_more();
    assert_eq!(scene.gateway.table_sizes().pending_commands, 1);
    registers_again(&mut scene, asleep);
    let request = scene.expect_request(Code::GET, "/3/0/0");
    command_with(&mut scene, &read(1), retained);
    scene.answer_text(&request, "Acme");
    scene.expect_answer(&read(1), content("/3/0/0", "Acme"));
    scene.expect_nothing_more();
}

/// The device registers while it is registered.
fn registers_again(scene: &mut Scene, query: &str) {
    let (register, before) = (scene.send_register(query), scene.device);
    scene.expect_connect();
    scene.broker_takes_it();
    scene.expect_disconnect(before);
    scene.expect_created(&register);
    scene.expect_reported("register");
}

#[test]
fn the_broker_is_told_for_how_long_a_device_may_be_silent() {
    let mut scene = Scene::new();
    let register = scene.send_register(QUERY);
    let client = scene.expect_connect();
    assert_eq!((client.lifetime, client.will), (Duration::from_secs(300), None));
    scene.broker_takes_it();
    scene.expect_created(&register);
    scene.expect_reported("register");
    for (lifetime, told) in [(20, true), (20, false), (400, true)] {
        let update = scene.update(&format!("lt={lifetime}"));
        scene.device_sends(&update);
        let peer = scene.peer;
        scene.expect_reply(peer, &update, Code::CHANGED);
        let lifetimes: Vec<(RegistrationId, Duration)> = std::mem::take(&mut scene.lifetimes);
        let expected = [(scene.device, Duration::from_secs(lifetime))];
        assert_eq!(lifetimes, if told { &expected[..] } else { &[] });
    }
}

#[test]
fn the_presence_of_a_device_is_told_where_it_is_wanted() {
    let mut scene = Scene::with(presence);
    let register = scene.send_register("ep=dev-7&lt=300&lwm2m=1.0&b=UQ");
    let client = scene.expect_connect();
    let payload = br#"{"msgType":"status","status":"offline","since":null}"#.to_vec();
    let will = Will { topic: "lwm2m/dev-7/up/status".to_owned(), qos: 1, payload };
    assert_eq!(client.will, Some(Box::new(will)));
    scene.broker_takes_it();
    scene.expect_created(&register);
    scene.expect_reported("register");
    expect_status(&mut scene, "online", 0, Some(450));

    scene.advance(21.9);
    scene.expect_nothing_more();
    scene.advance(0.1);
    expect_status(&mut scene, "asleep", 22, Some(428));
    scene.advance(8.0);
    let update = scene.update("");
    scene.device_sends(&update);
    expect_status(&mut scene, "online", 30, Some(450));
    let peer = scene.peer;
    scene.expect_reply(peer, &update, Code::CHANGED);

    scene.broker_says(BrokerEvent::Reconnected { registration: scene.device });
    expect_status(&mut scene, "online", 30, Some(450));
    let deregister = scene.deregister();
    scene.device_sends(&deregister);
    scene.expect_reply(peer, &deregister, Code::DELETED);
    expect_status(&mut scene, "offline", 30, None);
    scene.expect_disconnect(scene.device);
    scene.expect_nothing_left_behind();
}

#[test]
fn a_device_that_never_sleeps_is_online_until_it_leaves() {
    let mut scene = Scene::with(presence);
    scene.join(QUERY);
    scene.expect_reported("register");
    expect_status(&mut scene, "online", 0, Some(450));
    scene.advance(299.0);
    scene.expect_nothing_more();
    scene.advance(1.0);
    expect_status(&mut scene, "offline", 300, None);
    scene.expect_disconnect(scene.device);
}

/// The device updates its registration, and nothing else is published than `expiry` seconds of `online` if it is set.
fn update(scene: &mut Scene, query: &str, expiry: Option<u64>) {
    let update = scene.update(query);
    scene.device_sends(&update);
    if expiry.is_some() {
        expect_status(scene, "online", 0, expiry);
    }
    let peer = scene.peer;
    scene.expect_reply(peer, &update, Code::CHANGED);
    scene.expect_nothing_more();
}

#[test]
fn the_presence_of_a_device_that_sends_messages_is_published_again_after_half_a_lifetime() {
    let mut scene = Scene::with(presence);
    scene.join(QUERY);
    scene.expect_reported("register");
    expect_status(&mut scene, "online", 0, Some(450));
    for seconds in 1..=640 {
        scene.advance(1.0);
        // The broker never removes it while the device is registered: 300 s after its last message.
        update(&mut scene, "", matches!(seconds, 151 | 302 | 453 | 604).then_some(450));
    }
    // A message of any kind is one of the device.
    scene.advance(200.0);
    scene.command(&read(1));
    let request = scene.expect_request(Code::GET, "/3/0/0");
    scene.answer_text(&request, "Acme");
    expect_status(&mut scene, "online", 0, Some(450));
    scene.expect_answer(&read(1), content("/3/0/0", "Acme"));
    scene.expect_nothing_more();
}

#[test]
fn the_presence_is_published_again_at_once_when_the_lifetime_becomes_longer_or_shorter() {
    let mut scene = Scene::with(presence);
    scene.join(QUERY);
    scene.expect_reported("register");
    expect_status(&mut scene, "online", 0, Some(450));
    update(&mut scene, "lt=86400", Some(129_600));
    update(&mut scene, "lt=60", Some(90));
    update(&mut scene, "lt=61", None);
}

#[test]
fn nothing_is_published_for_a_device_whose_session_the_broker_ended() {
    let mut scene = Scene::with(presence);
    scene.join(QUERY);
    scene.expect_reported("register");
    expect_status(&mut scene, "online", 0, Some(450));
    scene.broker_says(BrokerEvent::Closed { registration: scene.device, reason: CloseReason::Kicked });
    scene.advance(1_000.0);
    scene.expect_nothing_more();
}
