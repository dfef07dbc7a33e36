//! What the gateway tells devices and applications waits for the store, in virtual time, with a store that is late,
//! that fails, or that loses what it has not confirmed.

mod command_crashes;
mod commands;
mod crashes;
mod handovers;

use std::time::Duration;

use lwm2m_core::coap::{Code, Message};
use lwm2m_core::gateway::ChangeBatch;
use lwm2m_core::gateway::persistence::record::Change;
use lwm2m_core::gateway::report::Report;
use lwm2m_testkit::scene::{QUERY, Scene, location_of, peer, read};

const PATIENCE: Duration = Duration::from_millis(500);

/// A gateway with an empty store.
fn scene() -> Scene {
    let mut scene = Scene::new();
    scene.gateway.restore(scene.now, Vec::new());
    scene.gateway.tell_when_stored(PATIENCE);
    scene
}

/// A scene whose device is registered, and the store has its record.
fn registered() -> Scene {
    let mut scene = scene();
    let register = register(&mut scene);
    store(&mut scene);
    scene.expect_created(&register);
    scene.expect_reported("register");
    scene.expect_nothing_more();
    scene
}

/// Sends a Register that the broker accepts. Nothing has been told of it.
fn register(scene: &mut Scene) -> Message {
    let register = scene.send_register(QUERY);
    scene.expect_connect();
    scene.broker_takes_it();
    scene.expect_nothing_more();
    register
}

fn take(scene: &mut Scene) -> ChangeBatch {
    scene.gateway.take_batch(scene.now, 256)
}

fn confirm(scene: &mut Scene, batch: &ChangeBatch) {
    scene.gateway.handle_stored(scene.now, batch.version);
    scene.settle();
}

/// The store writes what has changed, and confirms it.
fn store(scene: &mut Scene) {
    let batch = take(scene);
    confirm(scene, &batch);
}

#[test]
fn a_register_is_answered_and_reported_when_the_store_has_the_record() {
    let mut scene = scene();
    assert!(!scene.gateway.has_urgent_changes());
    let register = register(&mut scene);
    assert!(scene.gateway.has_urgent_changes(), "a device waits for the write");
    let batch = take(&mut scene);
    assert!(matches!(&batch.changes[..], [Change::Put(record)] if record.registration.endpoint == "dev-7"));
    assert!(!scene.gateway.has_urgent_changes());
    scene.expect_nothing_more();

    confirm(&mut scene, &batch);
    scene.expect_created(&register);
    scene.expect_reported("register");
    scene.expect_nothing_more();
    assert_eq!(scene.gateway.table_sizes().held_outputs, 0);
}

#[test]
fn the_confirmation_of_an_earlier_batch_releases_nothing() {
    let mut scene = scene();
    let earlier = take(&mut scene);
    let register = register(&mut scene);
    let batch = take(&mut scene);
    confirm(&mut scene, &earlier);
    scene.expect_nothing_more();
    confirm(&mut scene, &batch);
    scene.expect_created(&register);
}

#[test]
fn a_command_that_comes_meanwhile_is_sent_behind_the_answer_to_the_register() {
    let mut scene = scene();
    let register = register(&mut scene);
    scene.command(&read(1));
    scene.expect_nothing_more();
    store(&mut scene);
    scene.expect_created(&register);
    scene.expect_reported("register");
    scene.expect_request(Code::GET, "/3/0/0");
    scene.expect_nothing_more();
}

#[test]
fn another_device_does_not_wait() {
    let mut scene = registered();
    let update = scene.update("");
    let (known, new) = (scene.peer, peer(2));
    let other = scene.register_message("ep=dev-8&lt=300&lwm2m=1.0");
    scene.device_sends_from(new, &other);
    scene.expect_connect();
    scene.broker_takes_it();
    scene.expect_nothing_more();
    scene.device_sends(&update);
    scene.expect_reply(known, &update, Code::CHANGED);
    scene.expect_nothing_more();
}

#[test]
fn an_update_that_brings_news_is_answered_when_it_is_stored_and_another_one_at_once() {
    let mut scene = registered();
    let plain = scene.update("");
    scene.ask(&plain, Code::CHANGED);
    scene.expect_nothing_more();
    let news = scene.update("lt=600");
    scene.device_sends(&news);
    scene.expect_nothing_more();
    store(&mut scene);
    scene.expect_reply(scene.peer, &news, Code::CHANGED);
}

#[test]
fn a_deregister_is_answered_when_the_record_is_removed() {
    let mut scene = registered();
    let deregister = scene.deregister();
    scene.device_sends(&deregister);
    scene.expect_nothing_more();
    let batch = take(&mut scene);
    assert!(matches!(&batch.changes[..], [Change::Remove { endpoint, .. }] if endpoint == "dev-7"));
    confirm(&mut scene, &batch);
    scene.expect_reply(scene.peer, &deregister, Code::DELETED);
    scene.expect_disconnect(scene.device);
    scene.expect_nothing_more();
}

#[test]
fn a_store_that_is_late_is_waited_for_no_longer_than_the_patience_and_that_is_counted() {
    let mut scene = scene();
    let register = register(&mut scene);
    let batch = take(&mut scene);
    scene.reports();
    assert_eq!(scene.advance_to_next_deadline(), PATIENCE);
    scene.expect_created(&register);
    scene.expect_reported("register");
    assert!(scene.reports().contains(&Report::SentBeforeStored { outputs: 3 }));
    confirm(&mut scene, &batch);
    scene.expect_nothing_more();
}

#[test]
fn nothing_waits_for_a_store_that_is_away_and_that_is_counted() {
    let mut scene = scene();
    let waiting = register(&mut scene);
    scene.reports();
    scene.gateway.set_store_away(scene.now, true);
    scene.settle();
    scene.expect_created(&waiting);
    scene.expect_reported("register");
    assert!(scene.reports().contains(&Report::SentBeforeStored { outputs: 3 }));
    let news = scene.update("lt=600");
    scene.device_sends(&news);
    scene.expect_reply(scene.peer, &news, Code::CHANGED);
    assert!(scene.reports().iter().any(|report| matches!(report, Report::SentBeforeStored { .. })));
    assert!(scene.gateway.has_changes() && !scene.gateway.has_urgent_changes());
    assert_eq!(scene.gateway.table_sizes().held_outputs, 0);

    scene.gateway.set_store_away(scene.now, false);
    let news = scene.update("lt=700");
    scene.device_sends(&news);
    scene.expect_nothing_more();
    store(&mut scene);
    scene.expect_reply(scene.peer, &news, Code::CHANGED);
}

#[test]
fn the_record_is_in_the_next_batch_however_many_devices_have_changed_before() {
    let mut scene = registered();
    for number in 10..40 {
        let other = scene.register_message(&format!("ep=dev-{number}&lt=300&lwm2m=1.0"));
        scene.device_sends_from(peer(number), &other);
        scene.expect_connect();
        scene.broker_takes_it();
    }
    let batch = scene.gateway.take_batch(scene.now, 1);
    assert_eq!(batch.changes.len(), 30, "all of them are waited for");
}

#[test]
fn a_shutdown_waits_for_the_store_and_then_leaves_nothing_untold() {
    let mut scene = registered();
    let news = scene.update("lt=600");
    scene.device_sends(&news);
    scene.drains();
    assert!(!scene.gateway.is_drained());
    scene.gateway_ends();
    scene.expect_reply(scene.peer, &news, Code::CHANGED);
    assert!(scene.gateway.is_drained());
}

#[test]
fn a_repeated_register_is_answered_once_more_behind_the_first_answer() {
    let mut scene = scene();
    let register = register(&mut scene);
    scene.device_sends(&register);
    scene.expect_nothing_more();
    store(&mut scene);
    scene.expect_created(&register);
    let location = scene.location.clone();
    scene.expect_reported("register");
    let (_, again) = scene.expect_sent();
    assert_eq!(location_of(&again), location);
    scene.expect_nothing_more();
}
