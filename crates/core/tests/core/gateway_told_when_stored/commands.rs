//! Commands: their marks in the store, and how the next process goes on with them.

use std::time::Duration;

use lwm2m_core::coap::{Code, Message};
use lwm2m_core::gateway::Gateway;
use lwm2m_core::gateway::broker::{BrokerCommand, BrokerEvent};
use lwm2m_core::gateway::config::GatewayConfig;
use lwm2m_core::gateway::record::{Change, DeviceRecord};
use lwm2m_core::gateway::report::Report;
use lwm2m_testkit::scene::{Scene, content, model, outcome, read};
use lwm2m_testkit::store::through_json;
use serde_json::{Value, json};

use super::{PATIENCE, confirm, registered, store, take};

fn execute(id: u64) -> Value {
    json!({ "reqID": id, "msgType": "execute", "data": { "path": "/3/0/4" } })
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
    let unix_time = Duration::from_secs(1_700_000_001);
    scene.forget_what_was_said();
    scene.gateway = Gateway::new(GatewayConfig::default(), model(), [8; 32], scene.now, unix_time);
    scene.gateway.restore(scene.now, vec![record]);
    scene.gateway.tell_when_stored(PATIENCE);
    scene.settle();
    let BrokerCommand::Resume { registration, .. } = scene.expect_broker_command() else { panic!("it is resumed") };
    scene.device = registration;
    scene.broker_says(BrokerEvent::Connected { registration });
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
    assert!(scene.reports().contains(&Report::ToldUnstored { outputs: 1 }));
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
