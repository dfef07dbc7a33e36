//! What a restart of the program keeps: the core by itself in virtual time, and the built program that is killed.

#![expect(
    clippy::disallowed_methods,
    reason = "virtual time begins with the moment of the test, and a disk takes real time"
)]

mod core;
mod file;
mod killed;
mod random;
mod records;

use std::time::Duration;

use crate::common::device::{request, response_to};
use lwm2m_core::coap::options::{format, number};
use lwm2m_core::coap::{AckMode, Code, Kind, Message};
use lwm2m_core::gateway::broker::CloseReason;
use lwm2m_core::gateway::config::AutoObserve;
use lwm2m_core::gateway::report::NotRestored;
use lwm2m_testkit::store::through_json;
use serde_json::json;

use core::{RestartedCore, notification, observe, peer, read};

const A_SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_device_goes_on_as_if_nothing_had_happened() {
    let mut core = RestartedCore::new();
    let location = core.register(peer(1), "ep=a&lt=300&lwm2m=1.1&password=secret&imei=7");
    core.expect_published("lwm2m/a/up/resp");
    core.restart(10 * A_SECOND);

    core.expect_nothing_more();
    assert_eq!(core.resumed.len(), 1);
    assert_eq!(core.update(peer(1), &location), Code::CHANGED);
    core.expect_nothing_more();
    core.command("a", &read(1));
    let asked = core.expect_to_device(peer(1));
    core.datagram(peer(1), &response_to(&asked, Code::CONTENT, Some((format::TEXT, b"Acme"))));
    assert_eq!(core.expect_published("lwm2m/a/up/resp")["data"]["content"][0]["value"], "Acme");
    core.expect_nothing_more();
}

#[test]
fn the_object_list_of_a_profile_stands_in_for_a_missing_one_also_after_a_restart() {
    let mut core = RestartedCore::new();
    let list = "</>;rt=\"oma.lwm2m\";ct=112,</3>;ver=1.1,</3/0>";
    core.register_with_links(peer(1), "ep=a&lt=300&lwm2m=1.2&pid=f00d", list);
    let data = core.expect_published("lwm2m/a/up/resp")["data"].clone();
    for (number, endpoint) in [(2, "b"), (3, "c")] {
        core.register_with_links(peer(number), &format!("ep={endpoint}&lt=300&lwm2m=1.2&pid=f00d"), "");
        let completed = core.expect_published(&format!("lwm2m/{endpoint}/up/resp"));
        assert_eq!(
            (&completed["data"]["objectList"], &completed["data"]["pid"]),
            (&json!(["/3", "/3/0"]), &json!("f00d"))
        );
        assert_eq!(completed["data"]["alternatePath"], data["alternatePath"]);
        core.restart(10 * A_SECOND);
    }
    core.register_with_links(peer(4), "ep=d&lt=300&lwm2m=1.2&pid=0bad", "");
    assert_eq!(core.expect_published("lwm2m/d/up/resp")["data"].get("objectList"), None);
    core.register_with_links(peer(5), "ep=e&lt=300&lwm2m=1.1&pid=f00d", "");
    assert_eq!(core.expect_published("lwm2m/e/up/resp")["data"].get("objectList"), None, "1.1 has no profiles");
}

#[test]
fn a_notification_of_before_is_published_with_the_echo_of_its_command_and_only_once() {
    let mut core = RestartedCore::new();
    core.register(peer(1), "ep=a&lt=300");
    let observed = core.observe("a", peer(1), 77);
    core.published.clear();
    core.restart(10 * A_SECOND);

    let fresh = notification(&observed, 6, "21.5");
    core.datagram(peer(1), &fresh);
    assert_eq!(core.expect_to_device(peer(1)), Message::empty(Kind::Acknowledgement, fresh.id));
    let published = core.expect_published("lwm2m/a/up/notify");
    assert_eq!((&published["reqID"], &published["seqNum"]), (&json!(77), &json!(6)));
    assert_eq!(published["data"]["content"][0]["value"], 21.5);

    core.restart(A_SECOND);
    let stale = notification(&observed, 4, "19.5");
    core.datagram(peer(1), &stale);
    assert_eq!(core.expect_to_device(peer(1)), Message::empty(Kind::Acknowledgement, stale.id));
    core.expect_nothing_more();
}

#[test]
fn a_notification_that_was_not_published_before_the_end_is_heard_when_it_is_repeated() {
    let mut core = RestartedCore::with(|settings| settings.coap.acknowledge_notifications = AckMode::Deferred);
    core.register(peer(1), "ep=a&lt=300");
    let observed = core.observe("a", peer(1), 77);
    core.published.clear();
    let told = notification(&observed, 6, "21.5");
    core.datagram(peer(1), &told);
    core.gateway.change_all();
    core.published.clear();
    core.restart(10 * A_SECOND);
    core.datagram(peer(1), &told);
    assert_eq!(core.expect_published("lwm2m/a/up/notify")["seqNum"], 6);
    core.expect_nothing_more();
}

#[test]
fn an_observation_can_be_cancelled_under_its_token_of_before() {
    let mut core = RestartedCore::new();
    core.register(peer(1), "ep=a&lt=300");
    let observed = core.observe("a", peer(1), 77);
    core.restart(A_SECOND);
    core.connect_resumed();

    core.command("a", &json!({ "reqID": 2, "msgType": "cancel-observe", "data": { "path": "/3303/0/5700" } }));
    let cancelled = core.expect_to_device(peer(1));
    assert_eq!((cancelled.token, cancelled.options.uint(number::OBSERVE)), (observed.token, Ok(Some(1))));
    core.datagram(peer(1), &response_to(&cancelled, Code::CONTENT, Some((format::TEXT, b"20"))));
    core.keep();
    assert_eq!(core.store.devices["a"].observations, []);
}

#[test]
fn commands_wait_for_a_sleeping_device_over_a_restart_and_keep_their_order() {
    let mut core = RestartedCore::new();
    let location = core.register(peer(1), "ep=a&lt=300&b=UQ");
    core.advance(30 * A_SECOND);
    (1..=3).for_each(|id| core.command("a", &read(id)));
    core.published.clear();
    core.restart(10 * A_SECOND);
    core.connect_resumed();
    core.command("a", &read(4));
    core.expect_nothing_more();

    assert_eq!(core.update(peer(1), &location), Code::CHANGED);
    for id in 1..=4 {
        let asked = core.expect_to_device(peer(1));
        core.datagram(peer(1), &response_to(&asked, Code::CONTENT, Some((format::TEXT, b"Acme"))));
        assert_eq!(core.expect_published("lwm2m/a/up/resp")["reqID"], id);
    }
    core.expect_nothing_more();
}

#[test]
fn the_command_in_flight_is_sent_once_more_when_the_device_is_connected_and_before_those_that_waited() {
    let mut core = RestartedCore::new();
    core.register(peer(1), "ep=a&lt=300");
    core.published.clear();
    (1..=2).for_each(|id| core.command("a", &read(id)));
    let first = core.expect_to_device(peer(1));
    core.expect_nothing_more();
    core.restart(A_SECOND);
    core.expect_nothing_more();

    core.connect_resumed();
    let again = core.expect_to_device(peer(1));
    assert_eq!(again, first, "a device that had it recognises it");
    core.datagram(peer(1), &response_to(&again, Code::CONTENT, Some((format::TEXT, b"Acme"))));
    assert_eq!(core.expect_published("lwm2m/a/up/resp")["reqID"], 1);
    let second = core.expect_to_device(peer(1));
    core.datagram(peer(1), &response_to(&second, Code::CONTENT, Some((format::TEXT, b"Acme"))));
    assert_eq!(core.expect_published("lwm2m/a/up/resp")["reqID"], 2);
    core.expect_nothing_more();
}

#[test]
fn a_command_that_expired_meanwhile_is_answered_at_once() {
    let mut core = RestartedCore::new();
    core.register(peer(1), "ep=a&lt=300&b=UQ");
    core.advance(30 * A_SECOND);
    core.published.clear();
    for (id, ttl) in [(1, 5), (2, 120)] {
        let mut command = read(id);
        command["mheaders"] = json!({ "ttl": ttl });
        core.command("a", &command);
    }
    core.restart(10 * A_SECOND);
    core.advance(Duration::ZERO);
    let answer = core.expect_published("lwm2m/a/up/resp");
    assert_eq!((&answer["reqID"], &answer["data"]["code"]), (&json!(1), &json!("4.00")));
    core.expect_nothing_more();

    core.advance(120 * A_SECOND);
    assert_eq!(core.expect_published("lwm2m/a/up/resp")["reqID"], 2);
    core.expect_nothing_more();
}

#[test]
fn a_command_that_could_not_wait_but_was_on_its_way_is_sent_once_more() {
    let mut core = RestartedCore::new();
    core.register(peer(1), "ep=a&lt=300");
    let mut command = read(1);
    command["mheaders"] = json!({ "ttl": 0 });
    core.command("a", &command);
    core.to_devices.clear();
    core.restart(A_SECOND);
    core.connect_resumed();
    assert_eq!(core.expect_to_device(peer(1)).code, Code::GET);
}

#[test]
fn a_registration_that_ended_meanwhile_is_left_out_and_forgotten() {
    let mut core = RestartedCore::new();
    let gone = core.register(peer(1), "ep=a&lt=60");
    let stays = core.register(peer(2), "ep=b&lt=600");
    core.published.clear();
    core.restart(61 * A_SECOND);
    assert_eq!(core.not_restored, [("a".to_owned(), NotRestored::LifetimeOver)]);
    assert_eq!(core.store.devices.keys().collect::<Vec<_>>(), ["b"]);
    assert_eq!(core.update(peer(1), &gone), Code::NOT_FOUND);
    assert_eq!(core.update(peer(2), &stays), Code::CHANGED);
    core.expect_nothing_more();
}

#[test]
fn a_lifetime_ends_when_it_would_have_ended_without_the_restart() {
    let mut core = RestartedCore::new();
    let location = core.register(peer(1), "ep=a&lt=60");
    core.restart(50 * A_SECOND);
    core.advance(9 * A_SECOND);
    assert!(core.devices.contains_key("a"));
    core.advance(2 * A_SECOND);
    assert_eq!(core.update(peer(1), &location), Code::NOT_FOUND);
    core.keep();
    assert!(core.store.devices.is_empty());
}

#[test]
fn a_wall_clock_that_was_set_back_ends_no_registration() {
    let mut core = RestartedCore::new();
    let location = core.register(peer(1), "ep=a&lt=60");
    core.keep();
    core.unix_time -= 3600 * A_SECOND;
    core.restart(Duration::ZERO);
    assert_eq!(core.update(peer(1), &location), Code::CHANGED);
}

#[test]
fn a_device_that_only_speaks_is_recorded_now_and_then() {
    let mut core = RestartedCore::new();
    core.register(peer(1), "ep=a&lt=600");
    let observed = core.observe("a", peer(1), 1);
    core.keep();
    let mut records = 0;
    for number in 6..126 {
        core.advance(10 * A_SECOND);
        core.datagram(peer(1), &notification(&observed, number, "21"));
        records += core.gateway.take_changes(core.now, 10).len();
    }
    assert_eq!(records, 20, "one in a minute of the twenty");
}

#[test]
fn a_device_is_reached_where_it_was_heard_last() {
    let mut core = RestartedCore::new();
    let location = core.register(peer(1), "ep=a&lt=300");
    assert_eq!(core.update(peer(2), &location), Code::CHANGED);
    core.restart(A_SECOND);
    core.connect_resumed();
    core.command("a", &read(1));
    core.expect_to_device(peer(2));
}

#[test]
fn a_device_may_register_before_it_is_connected_again() {
    let mut core = RestartedCore::new();
    core.register(peer(1), "ep=a&lt=300&b=UQ");
    core.advance(30 * A_SECOND);
    core.command("a", &read(1));
    core.published.clear();
    core.restart(A_SECOND);
    core.register(peer(1), "ep=a&lt=300&b=UQ");
    assert_eq!(core.expect_published("lwm2m/a/up/resp")["msgType"], "register");
    assert_eq!(core.expect_to_device(peer(1)).code, Code::GET, "the command that waited");
    core.keep();
    assert_eq!(core.store.devices.len(), 1);
}

#[test]
fn a_device_that_the_broker_does_not_take_back_has_to_register_again() {
    let mut core = RestartedCore::new();
    let location = core.register(peer(1), "ep=a&lt=300");
    core.restart(A_SECOND);
    core.close("a", CloseReason::Refused);
    assert_eq!(core.update(peer(1), &location), Code::NOT_FOUND);
    core.keep();
    assert!(core.store.devices.is_empty());
}

#[test]
fn what_auto_observe_had_not_asked_for_yet_is_asked_for() {
    let mut core = RestartedCore::with(|settings| {
        settings.auto_observe = AutoObserve::Paths(vec!["/3303/0".parse().unwrap(), "/3/0".parse().unwrap()]);
    });
    core.register(peer(1), "ep=a&lt=300");
    core.to_devices.clear();
    core.published.clear();
    core.restart(A_SECOND);
    core.connect_resumed();
    for path in ["/3303/0", "/3/0"] {
        let asked = core.expect_to_device(peer(1));
        assert_eq!(crate::common::device::path_of(&asked), path);
        let mut answer = response_to(&asked, Code::CONTENT, Some((format::TLV, &[])));
        answer.options.add_uint(number::OBSERVE, 0);
        core.datagram(peer(1), &answer);
        assert_eq!(core.expect_published("lwm2m/a/up/resp")["is_auto_observe"], true);
    }
    core.expect_nothing_more();
}

#[test]
fn names_that_the_configuration_of_today_does_not_allow_end_the_registration() {
    let mut core = RestartedCore::new();
    core.register(peer(1), "ep=a&lt=300&imei=1/2");
    let topic = "lwm2m/${imei}/";
    core.settings.translators.mountpoint = lwm2m_core::mqtt::topics::Template::for_topic(topic).unwrap();
    core.restart(A_SECOND);
    assert_eq!(core.not_restored, [("a".to_owned(), NotRestored::NoTopics)]);
    assert!(core.store.devices.is_empty());
}

#[test]
fn many_changes_of_a_device_are_one_record_and_a_gateway_without_a_store_makes_none() {
    let mut core = RestartedCore::new();
    let location = core.register(peer(1), "ep=a&lt=300");
    core.observe("a", peer(1), 1);
    core.update(peer(1), &location);
    assert_eq!(core.gateway.take_changes(core.now, 10).len(), 1);
    assert!(!core.gateway.has_changes());

    let settings = core.settings.clone();
    let mut without =
        lwm2m_core::gateway::Gateway::new(settings, Default::default(), [1; 32], core.now, core.unix_time);
    let register = request(Code::POST, &["rd"], &["ep=a", "lt=300"], None);
    without.handle_datagram(core.now, peer(1), &register.encode());
    assert!(!without.has_changes());
}

#[test]
fn a_record_holds_the_password_and_does_not_show_it() {
    let mut core = RestartedCore::new();
    core.register(peer(1), "ep=a&lt=300&password=secret");
    core.command("a", &observe(1));
    core.keep();
    let record = &core.store.devices["a"];
    assert_eq!(through_json(record), *record);
    assert_eq!(record.password.as_ref().map(|password| password.reveal()), Some("secret"));
    assert!(!format!("{record:?}").contains("secret"));
    assert!(!serde_json::to_string(&record.registration).unwrap().contains("secret"));
}

// --- Retained commands
// ------------------------------------------------------------------------------------------------------

#[test]
fn a_retained_command_is_not_carried_out_again_by_the_next_process() {
    let mut core = RestartedCore::new();
    core.register(peer(1), "ep=a&lt=300");
    core.retained_command("a", &reboot(1));
    let asked = core.expect_to_device(peer(1));
    core.datagram(peer(1), &response_to(&asked, Code::CHANGED, None));
    for _ in 0..3 {
        core.restart(A_SECOND);
        core.published.clear();
        core.register(peer(1), "ep=a&lt=300");
        core.retained_command("a", &reboot(1));
        assert_eq!(core.to_devices, []);
    }
    // Another one is another one.
    core.retained_command("a", &reboot(2));
    assert_eq!(core.expect_to_device(peer(1)).code, Code::POST);
}

#[test]
fn nor_by_a_device_that_left_before_the_restart_and_comes_back() {
    let mut core = RestartedCore::new();
    let location = core.register(peer(1), "ep=a&lt=300");
    core.retained_command("a", &reboot(1));
    let asked = core.expect_to_device(peer(1));
    core.datagram(peer(1), &response_to(&asked, Code::CHANGED, None));
    core.datagram(peer(1), &request(Code::DELETE, &["rd", &location], &[], None));
    assert_eq!(core.expect_to_device(peer(1)).code, Code::DELETED);
    core.restart(A_SECOND);
    assert!(core.store.devices.is_empty());
    core.register(peer(1), "ep=a&lt=300");
    core.retained_command("a", &reboot(1));
    assert_eq!(core.to_devices, []);
}

#[test]
fn a_retained_command_that_waits_over_a_restart_is_not_taken_twice() {
    let mut core = RestartedCore::new();
    core.register(peer(1), "ep=a&lt=300&b=UQ");
    core.advance(30 * A_SECOND);
    core.retained_command("a", &reboot(1));
    core.restart(A_SECOND);
    core.connect_resumed();
    core.retained_command("a", &reboot(1));
    assert_eq!(core.gateway.table_sizes().pending_commands, 1);
    core.register(peer(1), "ep=a&lt=300&b=UQ");
    core.retained_command("a", &reboot(1));
    assert_eq!(core.expect_to_device(peer(1)).code, Code::POST);
    assert_eq!(core.to_devices, []);
    assert_eq!(core.gateway.table_sizes().pending_commands, 0);
}

#[test]
fn a_retained_command_that_was_refused_before_the_restart_is_carried_out_after_it() {
    let mut core = RestartedCore::new();
    core.register(peer(1), "ep=a&lt=300&b=UQ");
    core.advance(30 * A_SECOND);
    let mut command = reboot(1);
    command["mheaders"] = json!({ "ttl": 0 });
    core.retained_command("a", &command);
    core.restart(A_SECOND);
    core.register(peer(1), "ep=a&lt=300&b=UQ");
    core.retained_command("a", &command);
    assert_eq!(core.expect_to_device(peer(1)).code, Code::POST);
}

fn reboot(id: u64) -> serde_json::Value {
    json!({ "reqID": id, "msgType": "execute", "data": { "path": "/3/0/4" } })
}

// --- Limits
// -----------------------------------------------------------------------------------------------------------------

#[test]
fn of_more_devices_than_there_may_be_those_that_were_heard_last_are_taken_up() {
    let mut core = RestartedCore::new();
    for number in 1..=4 {
        core.register(peer(number), &format!("ep=dev-{number}&lt=300"));
        core.advance(A_SECOND);
    }
    core.settings.limits.devices = 2;
    core.restart(A_SECOND);
    let refused = |number| (format!("dev-{number}"), NotRestored::TooMany);
    assert_eq!(core.not_restored, [refused(2), refused(1)]);
    assert_eq!(core.store.devices.keys().collect::<Vec<_>>(), ["dev-3", "dev-4"]);
}

#[test]
fn a_registration_that_is_too_large_by_the_limits_of_today_is_not_taken_up() {
    let mut core = RestartedCore::new();
    core.register(peer(1), &format!("ep=large&lt=300&x={}", "x".repeat(400)));
    core.register(peer(2), "ep=small&lt=300");
    core.settings.limits.registration_size = 400;
    core.restart(A_SECOND);
    assert_eq!(core.not_restored, [("large".to_owned(), NotRestored::TooLarge)]);
    assert_eq!(core.store.devices.keys().collect::<Vec<_>>(), ["small"]);
}

#[test]
fn commands_beyond_the_limits_of_today_are_refused_and_the_others_wait() {
    let limits: [fn(&mut lwm2m_core::gateway::config::Limits); 3] = [
        |limits| limits.pending_commands = 2,
        |limits| (limits.pending_command_bytes, limits.command_size) = (2_000, 1_300),
        |limits| limits.pending_command_bytes_total = 3_300,
    ];
    for limit in limits {
        let mut core = RestartedCore::new();
        let location = core.register(peer(1), "ep=a&lt=300&b=UQ");
        core.advance(30 * A_SECOND);
        (1..=5).for_each(|id| core.command("a", &padded(id, 1_000)));
        core.published.clear();
        limit(&mut core.settings.limits);
        core.restart(A_SECOND);
        for id in [4, 5] {
            let refused = core.expect_published("lwm2m/a/up/resp");
            assert_eq!((&refused["reqID"], &refused["data"]["code"]), (&json!(id), &json!("4.00")));
            assert!(refused["data"]["reason"].as_str().expect("a reason").contains("limits.pending_"), "{refused}");
        }
        core.expect_nothing_more();
        assert_eq!(core.store.devices["a"].commands.len(), 3);
        core.connect_resumed();
        assert_eq!(core.update(peer(1), &location), Code::CHANGED);
        assert_eq!(core.expect_to_device(peer(1)).code, Code::GET);
    }
}

/// A command of a little more than so many bytes.
fn padded(id: u64, bytes: usize) -> serde_json::Value {
    let mut command = read(id);
    command["padding"] = "x".repeat(bytes).into();
    command
}
