//! The command `bootstrap`: a device is told to ask for bootstrap, and the answer tells how that ended.

use std::time::Duration;

use lwm2m_base::Peer;
use lwm2m_core::gateway::Gateway;
use lwm2m_core::gateway::broker::RegistrationId;
use lwm2m_testkit::scene::{outcome, peer};
use lwm2m_testkit::store::MemoryStore;

use super::*;

const TRIGGER: &str = "/1/0/9";

fn bootstrap(id: u64) -> Value {
    json!({ "reqID": id, "msgType": "bootstrap", "data": { "path": TRIGGER } })
}

/// Gives the command to a registered device, which executes it.
fn executed(scene: &mut Scene, id: u64) {
    scene.command(&bootstrap(id));
    let execute = scene.expect_request(Code::POST, TRIGGER);
    scene.answer(&execute, Code::CHANGED);
    scene.expect_published("up/resp", &json!({ "reqID": id, "msgType": "ack" }));
    scene.expect_nothing_more();
}

fn registered() -> Scene {
    let mut scene = scene(account(json!({})));
    scene.register("ep=dev-7&lt=86400&lwm2m=1.1");
    scene
}

/// Returns a registered device of a gateway that has a store.
fn stored() -> (Scene, MemoryStore) {
    let mut scene = scene(account(json!({})));
    scene.gateway.restore(scene.now, Vec::new());
    scene.register("ep=dev-7&lt=86400&lwm2m=1.1");
    (scene, MemoryStore::default())
}

/// Kills the gateway, and begins the next process with what the store has.
fn restart(scene: &mut Scene, store: &MemoryStore) {
    let config = GatewayConfig { bootstrap: Some(BootstrapConfig::default()), ..GatewayConfig::default() };
    scene.gateway = Gateway::new(config, model(), [9; 32], scene.now, Duration::from_secs(1_700_000_000));
    store.restore(&mut scene.gateway, scene.now);
    scene.gateway.set_bootstrap_accounts(scene.now, accounts(json!([account(json!({}))])));
    scene.settle();
    scene.forget_what_was_said();
    // The first id of the process is that of the device, if it is registered.
    scene.device = RegistrationId(1);
    if store.devices.contains_key("dev-7") {
        scene.broker_takes_it();
    }
}

/// Writes all changes.
fn keep(scene: &mut Scene, store: &mut MemoryStore) {
    store.keep(scene.gateway.take_changes(scene.now, usize::MAX));
}

/// Begins the session and answers all of its requests but the last one, which is returned.
fn up_to_finish(scene: &mut Scene) -> Message {
    begin(scene, "ep=dev-7");
    for _ in 0..4 {
        let request = next_request(scene).expect("a request");
        scene.answer(&request, success(&request));
    }
    scene.expect_request(Code::POST, "/bs")
}

#[test]
fn the_answer_comes_when_the_session_has_finished() {
    let mut scene = registered();
    executed(&mut scene, 1);
    let finish = up_to_finish(&mut scene);
    scene.answer(&finish, Code::CHANGED);
    scene.expect_answer(&bootstrap(1), outcome("2.04", "changed", &json!(TRIGGER)));
    scene.expect_nothing_more();
    assert_eq!(scene.gateway.table_sizes().awaited_bootstraps, 0);
}

#[test]
fn a_device_that_reboots_in_the_session_and_asks_again_answers_by_the_next_session() {
    let mut scene = registered();
    executed(&mut scene, 1);
    begin(&mut scene, "ep=dev-7");
    next_request(&mut scene).expect("a request");
    let finish = up_to_finish(&mut scene);
    scene.answer(&finish, Code::CHANGED);
    scene.expect_answer(&bootstrap(1), outcome("2.04", "changed", &json!(TRIGGER)));
    scene.expect_nothing_more();
}

#[test]
fn a_device_that_takes_a_pack_has_been_bootstrapped_when_it_has_the_last_block() {
    let mut scene = registered();
    executed(&mut scene, 1);
    for number in 0_u32.. {
        let mut request = scene.request(Code::GET, &["bspack"], "ep=dev-7");
        request.options.add_uint(number::ACCEPT, 112);
        request.options.add_uint(number::BLOCK2, number << 4);
        scene.device_sends(&request);
        let (_, answer) = scene.expect_sent();
        assert_eq!(answer.code, Code::CONTENT);
        if answer.options.uint(number::BLOCK2).unwrap().unwrap_or_default() & 0x08 == 0 {
            break;
        }
        scene.expect_nothing_more();
    }
    scene.expect_answer(&bootstrap(1), outcome("2.04", "changed", &json!(TRIGGER)));
    scene.expect_nothing_more();
}

/// Sends the request for the last block of a pack from this peer, and takes the answer.
fn take_last_block(scene: &mut Scene, peer: Peer) {
    for number in 0_u32.. {
        let mut request = scene.request(Code::GET, &["bspack"], "ep=dev-7");
        request.options.add_uint(number::ACCEPT, 112);
        request.options.add_uint(number::BLOCK2, number << 4);
        scene.device_sends_from(peer, &request);
        let (to, answer) = scene.expect_sent();
        assert_eq!((to, answer.code), (peer, Code::CONTENT));
        if answer.options.uint(number::BLOCK2).unwrap().unwrap_or_default() & 0x08 == 0 {
            return;
        }
    }
}

#[test]
fn the_last_block_of_a_pack_ends_the_wait_only_at_the_address_of_the_device() {
    // The store keeps the address.
    for is_restarted in [false, true] {
        let (mut scene, mut store) = stored();
        executed(&mut scene, 1);
        if is_restarted {
            keep(&mut scene, &mut store);
            restart(&mut scene, &store);
        }
        take_last_block(&mut scene, peer(2));
        scene.expect_nothing_more();
        assert_eq!(scene.gateway.table_sizes().awaited_bootstraps, 1);
        // Devices have a socket for each server.
        let mut other_port = scene.peer;
        other_port.address.set_port(40_000);
        take_last_block(&mut scene, other_port);
        scene.expect_answer(&bootstrap(1), outcome("2.04", "changed", &json!(TRIGGER)));
        scene.expect_nothing_more();
    }
}

#[test]
fn a_session_without_dtls_at_another_address_ends_no_wait() {
    for last_answer in [Code::CHANGED, Code::NOT_ACCEPTABLE] {
        let mut scene = registered();
        executed(&mut scene, 1);
        let device = std::mem::replace(&mut scene.peer, peer(2));
        let finish = up_to_finish(&mut scene);
        scene.answer(&finish, last_answer);
        scene.expect_nothing_more();
        scene.peer = device;
        let finish = up_to_finish(&mut scene);
        scene.answer(&finish, Code::CHANGED);
        scene.expect_answer(&bootstrap(1), outcome("2.04", "changed", &json!(TRIGGER)));
    }
}

#[test]
fn a_request_with_the_forged_address_of_the_device_ends_no_wait() {
    let mut scene = registered();
    executed(&mut scene, 1);
    ask(&mut scene, "ep=dev-7");
    let discover = scene.expect_request(Code::GET, "");
    // The device knows nothing of a session.
    scene.device_sends(&Message { kind: Kind::Reset, code: Code::EMPTY, ..reply(&discover) });
    scene.expect_nothing_more();
    assert_eq!(scene.gateway.table_sizes().awaited_bootstraps, 1);
    let finish = up_to_finish(&mut scene);
    scene.answer(&finish, Code::CHANGED);
    scene.expect_answer(&bootstrap(1), outcome("2.04", "changed", &json!(TRIGGER)));
}

#[test]
fn the_answer_names_the_step_at_which_the_session_failed() {
    let mut scene = registered();
    executed(&mut scene, 1);
    let finish = up_to_finish(&mut scene);
    scene.answer(&finish, Code::NOT_ACCEPTABLE);
    let mut data = outcome("4.06", "not_acceptable", &json!(TRIGGER));
    data["reason"] = json!("bootstrap failed at POST /bs: the device found the account inconsistent");
    scene.expect_answer(&bootstrap(1), data);
}

#[test]
fn a_device_that_leaves_before_it_asks_for_bootstrap_answers_when_it_is_registered_again() {
    let mut scene = registered();
    executed(&mut scene, 1);
    let deregister = scene.deregister();
    scene.ask(&deregister, Code::DELETED);
    scene.expect_disconnect(scene.device);
    let finish = up_to_finish(&mut scene);
    scene.answer(&finish, Code::CHANGED);
    scene.expect_nothing_more();
    scene.register("ep=dev-7&lt=300&lwm2m=1.1");
    scene.expect_answer(&bootstrap(1), outcome("2.04", "changed", &json!(TRIGGER)));
    scene.expect_nothing_more();
}

#[test]
fn a_device_that_refuses_the_trigger_has_answered() {
    let mut scene = registered();
    scene.command(&bootstrap(1));
    let execute = scene.expect_request(Code::POST, TRIGGER);
    scene.answer(&execute, Code::METHOD_NOT_ALLOWED);
    scene.expect_answer(&bootstrap(1), outcome("4.05", "method_not_allowed", &json!(TRIGGER)));
}

#[test]
fn a_device_that_does_not_ask_for_bootstrap_is_waited_for_some_minutes() {
    let mut scene = registered();
    executed(&mut scene, 1);
    scene.advance(299.0);
    scene.expect_nothing_more();
    scene.advance(2.0);
    let mut data = outcome("5.04", "gateway_timeout", &json!(TRIGGER));
    data["reason"] = json!("the device did not ask for bootstrap");
    scene.expect_answer(&bootstrap(1), data);
    assert_eq!(scene.gateway.table_sizes().awaited_bootstraps, 0);
}

#[test]
fn another_command_takes_the_place_of_the_one_that_waits() {
    let mut scene = registered();
    executed(&mut scene, 1);
    scene.command(&bootstrap(2));
    let execute = scene.expect_request(Code::POST, TRIGGER);
    scene.answer(&execute, Code::CHANGED);
    scene.expect_published("up/resp", &json!({ "reqID": 2, "msgType": "ack" }));
    let mut data = outcome("4.09", "conflict", &json!(TRIGGER));
    data["reason"] = json!("another bootstrap command followed");
    scene.expect_answer(&bootstrap(1), data);
    let finish = up_to_finish(&mut scene);
    scene.answer(&finish, Code::CHANGED);
    scene.expect_answer(&bootstrap(2), outcome("2.04", "changed", &json!(TRIGGER)));
}

#[test]
fn nothing_is_kept_of_a_device_that_does_not_come_back() {
    let mut scene = registered();
    executed(&mut scene, 1);
    let deregister = scene.deregister();
    scene.ask(&deregister, Code::DELETED);
    scene.expect_disconnect(scene.device);
    scene.advance(700.0);
    scene.expect_nothing_left_behind();
    assert_eq!(scene.gateway.table_sizes().awaited_bootstraps, 0);
}

#[test]
fn a_restart_between_the_acknowledgement_and_the_session_loses_no_answer() {
    // Before the device asks, and in the middle of its session, which the device begins again.
    for asked in [false, true] {
        let (mut scene, mut store) = stored();
        executed(&mut scene, 1);
        if asked {
            up_to_finish(&mut scene);
        } else {
            scene.advance(200.0);
        }
        keep(&mut scene, &mut store);
        restart(&mut scene, &store);
        scene.expect_nothing_more();
        // It has the whole time once more.
        scene.advance(250.0);
        scene.expect_nothing_more();
        let finish = up_to_finish(&mut scene);
        scene.answer(&finish, Code::CHANGED);
        scene.expect_answer(&bootstrap(1), outcome("2.04", "changed", &json!(TRIGGER)));
        scene.expect_nothing_more();
        keep(&mut scene, &mut store);
        assert!(store.awaited_bootstraps.is_empty());
    }
}

#[test]
fn a_restart_after_the_session_of_a_device_that_has_left_loses_no_answer() {
    let (mut scene, mut store) = stored();
    executed(&mut scene, 1);
    let deregister = scene.deregister();
    scene.ask(&deregister, Code::DELETED);
    scene.expect_disconnect(scene.device);
    let finish = up_to_finish(&mut scene);
    scene.answer(&finish, Code::NOT_ACCEPTABLE);
    keep(&mut scene, &mut store);
    restart(&mut scene, &store);
    scene.expect_nothing_more();
    scene.register("ep=dev-7&lt=300&lwm2m=1.1");
    let mut data = outcome("4.06", "not_acceptable", &json!(TRIGGER));
    data["reason"] = json!("bootstrap failed at POST /bs: the device found the account inconsistent");
    scene.expect_answer(&bootstrap(1), data);
    scene.expect_nothing_more();
}

#[test]
fn an_answer_that_was_published_is_not_published_again_after_a_restart() {
    let (mut scene, mut store) = stored();
    executed(&mut scene, 1);
    keep(&mut scene, &mut store);
    let finish = up_to_finish(&mut scene);
    scene.answer(&finish, Code::CHANGED);
    scene.expect_answer(&bootstrap(1), outcome("2.04", "changed", &json!(TRIGGER)));
    keep(&mut scene, &mut store);
    restart(&mut scene, &store);
    scene.advance(700.0);
    scene.expect_nothing_more();
}

#[test]
fn a_command_that_is_stored_both_in_flight_and_as_one_that_waits_has_one_answer() {
    let (mut scene, mut store) = stored();
    scene.command(&bootstrap(1));
    let execute = scene.expect_request(Code::POST, TRIGGER);
    keep(&mut scene, &mut store);
    scene.answer(&execute, Code::CHANGED);
    scene.expect_published("up/resp", &json!({ "reqID": 1, "msgType": "ack" }));
    // The process ends between two writes: that of the waiting command is the first.
    store.keep(scene.gateway.take_changes(scene.now, 1));
    assert_eq!((store.awaited_bootstraps.len(), store.devices["dev-7"].commands.len()), (1, 1));
    restart(&mut scene, &store);
    let execute = scene.expect_request(Code::POST, TRIGGER);
    scene.answer(&execute, Code::CHANGED);
    scene.expect_published("up/resp", &json!({ "reqID": 1, "msgType": "ack" }));
    let finish = up_to_finish(&mut scene);
    scene.answer(&finish, Code::CHANGED);
    scene.expect_answer(&bootstrap(1), outcome("2.04", "changed", &json!(TRIGGER)));
    scene.expect_nothing_more();
}

#[test]
fn a_device_that_does_not_ask_after_a_restart_is_given_up() {
    let (mut scene, mut store) = stored();
    executed(&mut scene, 1);
    keep(&mut scene, &mut store);
    restart(&mut scene, &store);
    scene.advance(301.0);
    let mut data = outcome("5.04", "gateway_timeout", &json!(TRIGGER));
    data["reason"] = json!("the device did not ask for bootstrap");
    scene.expect_answer(&bootstrap(1), data);
    keep(&mut scene, &mut store);
    assert!(store.awaited_bootstraps.is_empty());
}

#[test]
fn only_a_bootstrap_trigger_can_be_executed_so() {
    let mut scene = registered();
    for path in ["/1/0/8", "/3/0/9", "/1/0"] {
        let command = json!({ "reqID": 1, "msgType": "bootstrap", "data": { "path": path } });
        scene.command(&command);
        scene.expect_refused(&command);
    }
}
