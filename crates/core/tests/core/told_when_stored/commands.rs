//! Commands: their marks in the store, and how the next process goes on with them.

use std::time::Duration;

use lwm2m_core::coap::{Code, Message};
use lwm2m_core::gateway::Gateway;
use lwm2m_core::gateway::broker::{BrokerCommand, BrokerEvent, Publication, Ticket};
use lwm2m_core::gateway::config::GatewayConfig;
use lwm2m_core::gateway::persistence::record::{Change, DeviceRecord};
use lwm2m_core::gateway::report::Report;
use lwm2m_testkit::scene::{QUERY, Scene, content, model, observe, outcome, read};
use lwm2m_testkit::store::through_json;
use serde_json::{Value, json};

use super::{PATIENCE, confirm, registered, store, take};

fn execute(id: u64) -> Value {
    json!({ "reqID": id, "msgType": "execute", "data": { "path": "/3/0/4" } })
}

/// A command is sent, and its device has answered. Nothing is published yet.
pub(super) fn answered() -> Scene {
    let mut scene = registered();
    scene.command(&execute(1));
    store(&mut scene);
    let request = scene.expect_request(Code::POST, "/3/0/4");
    scene.answer(&request, Code::CHANGED);
    scene.expect_nothing_more();
    scene
}

pub(super) fn publication(scene: &mut Scene) -> Publication {
    match scene.expect_broker_command() {
        BrokerCommand::Publish { publication, .. } => publication,
        other => panic!("{other:?} is no publication"),
    }
}

fn published(scene: &mut Scene, ticket: Option<Ticket>) {
    let (registration, ticket) = (scene.device, ticket.expect("an answer that is kept has a ticket"));
    scene.broker_says(BrokerEvent::Published { registration, ticket });
}

/// Takes a batch with the record of the device, and does not confirm it.
fn record(scene: &mut Scene) -> DeviceRecord {
    let changes = take(scene).changes;
    let mut records = changes.iter().filter_map(|change| match change {
        Change::Put(record) => Some(through_json(record)),
        _ => None,
    });
    records.next_back().expect("the device has changed")
}

/// The process is killed. The next one has this record, and its device is connected.
fn restart(scene: &mut Scene, record: DeviceRecord) {
    restart_before_connected(scene, record);
    let registration = scene.device;
    scene.broker_says(BrokerEvent::Connected { registration });
}

/// The process is killed. The next one has this record, and its device is not connected yet.
fn restart_before_connected(scene: &mut Scene, record: DeviceRecord) {
    let unix_time = Duration::from_secs(1_700_000_001);
    scene.forget_what_was_said();
    scene.gateway = Gateway::new(GatewayConfig::default(), model(), [8; 32], scene.now, unix_time);
    scene.gateway.restore(scene.now, vec![record]);
    scene.gateway.tell_when_stored(PATIENCE);
    scene.settle();
    let BrokerCommand::Resume { registration, .. } = scene.expect_broker_command() else { panic!("it is resumed") };
    scene.device = registration;
}

#[test]
fn a_command_is_sent_when_the_store_has_it_as_one_in_flight_with_the_names_of_its_request() {
    let mut scene = registered();
    scene.command(&execute(1));
    scene.expect_nothing_more();
    assert!(scene.gateway.has_urgent_changes());
    let batch = take(&mut scene);
    let [Change::Put(record)] = &batch.changes[..] else { panic!("{batch:?}") };
    let sent_as = record.commands[0].sent_as.expect("a command in flight");
    confirm(&mut scene, &batch);
    let request = scene.expect_request(Code::POST, "/3/0/4");
    assert_eq!((request.token, request.id.0), (sent_as.token, sent_as.message_id));
    scene.expect_nothing_more();
}

#[test]
fn a_command_waits_for_its_mark_no_longer_than_the_patience() {
    let mut scene = registered();
    scene.command(&execute(1));
    let _late = take(&mut scene);
    scene.reports();
    assert_eq!(scene.advance_to_next_deadline(), PATIENCE);
    scene.expect_request(Code::POST, "/3/0/4");
    assert!(scene.reports().contains(&Report::SentBeforeStored { outputs: 1 }));
}

#[test]
fn a_command_that_waits_for_another_one_is_stored_without_names_and_marked_at_its_turn() {
    let mut scene = registered();
    scene.command(&execute(1));
    store(&mut scene);
    let first = scene.expect_request(Code::POST, "/3/0/4");
    scene.command(&read(2));
    let record = record(&mut scene);
    let names: Vec<bool> = record.commands.iter().map(|command| command.sent_as.is_some()).collect();
    assert_eq!(names, [true, false]);
    scene.answer(&first, Code::CHANGED);
    store(&mut scene);
    scene.expect_answer(&execute(1), outcome("2.04", "changed", &json!("/3/0/4")));
    scene.expect_request(Code::GET, "/3/0/0");
}

#[test]
fn the_next_process_sends_the_command_in_flight_as_the_same_message() {
    let mut scene = registered();
    scene.command(&execute(1));
    scene.command(&read(2));
    let record = record(&mut scene);
    let sent_as = record.commands[0].sent_as.expect("a command in flight");
    restart(&mut scene, record);
    store(&mut scene);
    let again = scene.expect_request(Code::POST, "/3/0/4");
    assert_eq!((again.token, again.id.0), (sent_as.token, sent_as.message_id));
    scene.answer(&again, Code::CHANGED);
    store(&mut scene);
    scene.expect_answer(&execute(1), outcome("2.04", "changed", &json!("/3/0/4")));
    let waited = scene.expect_request(Code::GET, "/3/0/0");
    assert_ne!(waited.token, sent_as.token);
    scene.answer_text(&waited, "maker");
    store(&mut scene);
    scene.expect_answer(&read(2), content("/3/0/0", "maker"));
}

#[test]
fn a_command_in_flight_whose_device_is_heard_late_is_ended_in_place_of_being_executed_twice() {
    let mut scene = registered();
    scene.command(&execute(1));
    let record = record(&mut scene);
    let endpoint = record.registration.endpoint.clone();
    restart_before_connected(&mut scene, record);
    scene.gateway.hold_until_heard(&endpoint);
    let registration = scene.device;
    scene.broker_says(BrokerEvent::Connected { registration });
    store(&mut scene);
    scene.expect_nothing_more();

    // EXCHANGE_LIFETIME without MAX_TRANSMIT_WAIT (RFC 7252, section 4.8.2).
    scene.advance(247.0 - 93.0 + 1.0);
    store(&mut scene);

    scene.expect_refused(&execute(1));
    scene.expect_nothing_more();
}

#[test]
fn a_second_restart_before_the_device_is_connected_keeps_the_names() {
    let mut scene = registered();
    scene.command(&execute(1));
    let first = record(&mut scene);
    restart(&mut scene, first.clone());
    // It was sent again, and is marked again.
    let second = record(&mut scene);
    assert_eq!(second.commands[0].sent_as, first.commands[0].sent_as);
    assert!(second.commands[0].sent_as.is_some());
}

#[test]
fn a_command_with_a_body_of_several_blocks_begins_anew() {
    let mut scene = registered();
    let value = "x".repeat(3_000);
    let write =
        json!({ "reqID": 1, "msgType": "write", "data": { "path": "/3/0/15", "type": "String", "value": value } });
    scene.command(&write);
    let record = record(&mut scene);
    assert_eq!(record.commands[0].sent_as, None);
    restart(&mut scene, record);
    store(&mut scene);
    let (_, first) = scene.expect_sent();
    assert_eq!((first.code, first.payload.len()), (Code::PUT, 1_024));
}

#[test]
fn without_a_store_a_command_is_sent_at_once() {
    let mut scene = Scene::registered();
    scene.command(&execute(1));
    let _: Message = scene.expect_request(Code::POST, "/3/0/4");
}

#[test]
fn an_answer_is_published_when_one_write_has_it_in_the_place_of_its_command_and_kept_until_the_broker_has_it() {
    let mut scene = answered();
    let batch = take(&mut scene);
    let [Change::Put(record)] = &batch.changes[..] else { panic!("{batch:?}") };
    assert_eq!((record.commands.len(), record.answers.len()), (0, 1));
    confirm(&mut scene, &batch);
    let told = publication(&mut scene);
    assert_eq!(told.payload, record.answers[0].payload.as_bytes());
    scene.expect_nothing_more();
    assert!(scene.gateway.has_unpublished_answers() && !scene.gateway.has_changes());

    published(&mut scene, told.ticket);
    assert!(!scene.gateway.has_unpublished_answers() && !scene.gateway.has_urgent_changes());
    assert_eq!(self::record(&mut scene).answers, []);
}

#[test]
fn the_next_process_publishes_an_answer_that_the_broker_may_not_have_with_the_same_bytes() {
    let mut scene = answered();
    let stored = record(&mut scene);
    let payload = stored.answers[0].payload.clone();
    restart_before_connected(&mut scene, stored);
    let told = publication(&mut scene);
    assert_eq!((told.payload, told.qos), (payload.into(), 0));
    scene.expect_nothing_more();
    published(&mut scene, told.ticket);
    assert_eq!(record(&mut scene).answers, []);
}

#[test]
fn an_answer_that_the_broker_never_takes_is_not_kept() {
    let mut scene = answered();
    store(&mut scene);
    let told = publication(&mut scene);
    let (registration, ticket) = (scene.device, told.ticket.expect("a ticket"));
    scene.broker_says(BrokerEvent::Unpublished { registration, ticket });
    assert!(!scene.gateway.has_unpublished_answers());
}

#[test]
fn an_answer_stays_when_its_device_registers_again_and_not_when_it_leaves() {
    let mut scene = answered();
    store(&mut scene);
    let told = publication(&mut scene);
    let _again = scene.send_register(QUERY);
    scene.expect_connect();
    scene.broker_takes_it();
    let stored = record(&mut scene);
    assert_eq!(stored.answers.len(), 1);
    scene.gateway_ends();
    scene.forget_what_was_said();
    published(&mut scene, told.ticket);
    assert!(!scene.gateway.has_unpublished_answers());

    let mut scene = answered();
    let deregister = scene.deregister();
    scene.device_sends(&deregister);
    store(&mut scene);
    assert!(!scene.gateway.has_unpublished_answers());
}

#[test]
fn an_answer_waits_for_its_write_no_longer_than_the_patience_and_is_kept() {
    let mut scene = answered();
    let _late = take(&mut scene);
    scene.advance(PATIENCE.as_secs_f64());
    publication(&mut scene);
    assert!(scene.gateway.has_unpublished_answers());
}

#[test]
fn a_new_observation_is_in_the_write_that_has_the_answer() {
    let mut scene = registered();
    scene.command(&observe(1, "/3/0/0"));
    store(&mut scene);
    let request = scene.expect_request(Code::GET, "/3/0/0");
    scene.answer_observe(&request, 3, "maker");
    let record = record(&mut scene);
    assert_eq!((record.commands.len(), record.answers.len(), record.observations.len()), (0, 1, 1));
}

#[test]
fn the_commands_of_a_sleeping_device_follow_each_other_however_late_the_store_is() {
    let mut scene = Scene::with(|config| config.awake_window = Duration::from_millis(1));
    scene.gateway.restore(scene.now, Vec::new());
    scene.gateway.tell_when_stored(PATIENCE);
    let _register = scene.send_register(&format!("{QUERY}&b=UQ"));
    scene.expect_connect();
    scene.broker_takes_it();
    store(&mut scene);
    scene.forget_what_was_said();
    scene.advance(0.1);
    (1..=3).for_each(|id| scene.command(&read(id)));
    scene.expect_nothing_more();
    scene.location = location(&scene);
    let update = scene.update("");
    scene.device_sends(&update);
    scene.expect_reply(scene.peer, &update, Code::CHANGED);
    for id in 1..=3 {
        scene.expect_nothing_more();
        scene.advance(0.1);
        store(&mut scene);
        if id > 1 {
            scene.expect_answer(&read(id - 1), content("/3/0/0", "maker"));
        }
        let request = scene.expect_request(Code::GET, "/3/0/0");
        scene.advance(0.1);
        scene.answer_text(&request, "maker");
    }
}

fn location(scene: &Scene) -> Vec<String> {
    let names: Vec<String> = scene.gateway.registered_names().map(|(_, location)| location.to_owned()).collect();
    vec!["rd".to_owned(), names[0].clone()]
}
