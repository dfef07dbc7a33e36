//! The end of the program, as the core sees it, in virtual time: nothing new, and the last word about what is in
//! flight.

use lwm2m_core::coap::options::number;
use lwm2m_core::coap::{Code, Kind};
use lwm2m_core::gateway::report::{CommandOutcome, Report};
use lwm2m_testkit::scene::{QUERY, Scene, content, peer, read};

#[test]
fn a_command_in_flight_is_answered_and_the_next_one_waits() {
    let mut scene = Scene::registered();
    scene.command(&read(1));
    let request = scene.expect_request(Code::GET, "/3/0/0");
    scene.command(&read(2));
    scene.drains();
    assert!(!scene.gateway.is_drained());
    scene.command(&read(3));
    scene.expect_nothing_more();

    scene.answer_text(&request, "Acme");
    scene.expect_answer(&read(1), content("/3/0/0", "Acme"));
    scene.expect_nothing_more();
    assert!(scene.gateway.is_drained());
    let occupancy = scene.gateway.table_sizes();
    assert_eq!((occupancy.devices, occupancy.pending_commands), (1, 2), "they are kept, for whoever stores them");
}

#[test]
fn a_command_whose_device_does_not_answer_in_time_is_given_up() {
    let mut scene = Scene::registered();
    scene.command(&read(1));
    scene.expect_request(Code::GET, "/3/0/0");
    scene.drains();
    scene.gateway_ends();
    scene.expect_returned(&read(1), "coap_timeout");
    scene.expect_nothing_more();
    assert!(scene.gateway.is_drained());
    assert_eq!(scene.gateway.table_sizes().devices, 1, "a registration does not end with the program");
}

#[test]
fn a_register_is_answered_5_03_and_devices_are_served_to_the_end() {
    let mut scene = Scene::registered();
    let observe = scene.observe(1, "/3303/0/5700");
    scene.drains();
    assert!(scene.gateway.is_drained());

    let known = scene.peer;
    scene.peer = peer(2);
    let register = scene.send_register("ep=late&lt=60");
    let refused = scene.expect_reply(peer(2), &register, Code::SERVICE_UNAVAILABLE);
    assert_eq!(refused.options.uint(number::MAX_AGE), Ok(Some(30)));
    scene.peer = known;
    let update = scene.update("");
    scene.ask(&update, Code::CHANGED);
    let notification = scene.notify(&observe, Kind::Confirmable, 3, "21.5");
    scene.expect_acknowledgement(&notification);
    let published = scene.expect_any_published("lwm2m/dev-7/up/notify");
    assert_eq!(published["seqNum"], 3);
    scene.expect_nothing_more();
}

#[test]
fn a_register_under_way_and_its_commands_have_their_last_word() {
    let mut scene = Scene::new();
    let register = scene.send_register(QUERY);
    scene.expect_connect();
    scene.command(&read(1));
    scene.drains();
    assert_eq!(scene.expect_refused(&read(1)), "the gateway is stopping");
    scene.expect_reply(scene.peer, &register, Code::SERVICE_UNAVAILABLE);
    scene.expect_disconnect(scene.device);
    scene.expect_nothing_more();
    assert!(scene.gateway.is_drained());
    assert_eq!(scene.gateway.table_sizes().pending_registrations, 0);
}

#[test]
fn an_early_command_beyond_the_limit_is_answered_at_once() {
    let mut scene = Scene::with(|config| config.limits.pending_commands = 1);
    scene.send_register(QUERY);
    scene.expect_connect();
    scene.command(&read(1));
    scene.command(&read(2));
    assert_eq!(scene.expect_refused(&read(2)), "this device has too many pending commands (limits.pending_commands)");
    scene.expect_nothing_more();
    assert_eq!(scene.gateway.table_sizes().early_commands, 1);
    let full = |report: &Report| matches!(report, Report::Command { outcome: CommandOutcome::QueueFull, .. });
    assert_eq!(scene.reports().iter().filter(|report| full(report)).count(), 1);
}
