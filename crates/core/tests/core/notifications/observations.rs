//! Observations and notifications over time, in virtual time.

use lwm2m_core::coap::options::{format, number};
use lwm2m_core::coap::{AckMode, Code, Kind, Message, MessageId};
use lwm2m_core::gateway::broker::{BrokerCommand, BrokerEvent};
use lwm2m_core::gateway::config::AutoObserve;
use lwm2m_core::gateway::report::{NotificationOutcome, Report};
use lwm2m_testkit::scene::{QUERY, Scene, content, observe, outcome, read, reply, text_reply};
use serde_json::{Value, json};

const TEMPERATURE: &str = "/3303/0/5700";
const RESPONSES: &str = "lwm2m/dev-7/up/resp";

/// What is published of a notification of the observation that `observe(id, TEMPERATURE)` began.
fn notification(id: u64, seq_num: u32, value: impl Into<Value>) -> Value {
    let data = content(TEMPERATURE, value);
    json!({ "reqID": id, "msgType": "notify", "seqNum": seq_num, "data": data })
}

fn cancel(id: u64) -> Value {
    json!({ "reqID": id, "msgType": "cancel-observe", "data": { "path": TEMPERATURE } })
}

fn observe_of(request: &Message) -> Option<u32> {
    request.options.uint(number::OBSERVE).expect("a number")
}

/// Takes the requests that `auto_observe` makes, answers each, and gives their paths.
fn auto_observed(scene: &mut Scene, count: usize) -> Vec<String> {
    let mut paths = Vec::new();
    for _ in 0..count {
        let (_, request) = scene.expect_sent();
        assert_eq!((request.code, observe_of(&request)), (Code::GET, Some(0)));
        let path = lwm2m_testkit::scene::path_of(&request);
        scene.expect_nothing_more();
        scene.answer(&request, Code::NOT_FOUND);
        let data = outcome("4.04", "not_found", &json!(path));
        let answer = json!({ "msgType": "observe", "is_auto_observe": true, "data": data });
        scene.expect_published("up/resp", &answer);
        paths.push(path);
    }
    paths
}

#[test]
fn the_first_answer_is_observe_and_the_later_ones_are_notify_in_the_order_of_their_numbers() {
    let mut scene = Scene::registered();
    let observed = scene.observe(1, TEMPERATURE);
    assert_eq!(observe_of(&observed), Some(0));
    scene.reports();

    let confirmable = scene.notify(&observed, Kind::Confirmable, 5, "21.5");
    scene.expect_acknowledgement(&confirmable);
    scene.expect_published("up/notify", &notification(1, 5, 21.5));
    scene.notify(&observed, Kind::NonConfirmable, 6, "22");
    scene.expect_published("up/notify", &notification(1, 6, 22));
    let endpoint = || "dev-7".to_owned();
    let published = || Report::Notification { endpoint: endpoint(), outcome: NotificationOutcome::Published };
    assert_eq!(scene.reports(), [published(), published()]);

    let stale = scene.notify(&observed, Kind::Confirmable, 4, "20");
    scene.expect_acknowledgement(&stale);
    scene.device_sends(&confirmable);
    scene.expect_acknowledgement(&confirmable);
    scene.notify(&observed, Kind::NonConfirmable, 6, "22");
    scene.expect_nothing_more();

    // After 128 s the number proves nothing.
    scene.advance(128.1);
    scene.notify(&observed, Kind::NonConfirmable, 3, "19");
    scene.expect_published("up/notify", &notification(1, 3, 19));
    scene.expect_nothing_more();
}

#[test]
fn an_observation_whose_first_number_is_zero_does_not_tell_it() {
    let mut scene = Scene::registered();
    scene.command(&observe(1, TEMPERATURE));
    let observed = scene.expect_request(Code::GET, TEMPERATURE);
    scene.answer_observe(&observed, 0, "20.5");
    scene.expect_answer(&observe(1, TEMPERATURE), content(TEMPERATURE, 20.5));
    scene.notify(&observed, Kind::NonConfirmable, 1, "21");
    scene.expect_published("up/notify", &notification(1, 1, 21));
    scene.expect_nothing_more();
}

#[test]
fn an_answer_that_comes_after_an_empty_acknowledgement_begins_the_observation_too() {
    let mut scene = Scene::registered();
    scene.command(&observe(1, TEMPERATURE));
    let observed = scene.expect_request(Code::GET, TEMPERATURE);
    scene.device_sends(&Message::empty(Kind::Acknowledgement, observed.id));
    assert_eq!(scene.expect_any_published(RESPONSES)["msgType"], "ack");
    let first = scene.notify(&observed, Kind::Confirmable, 2, "20.5");
    scene.expect_acknowledgement(&first);
    assert_eq!(scene.expect_any_published(RESPONSES)["msgType"], "observe");
    scene.notify(&observed, Kind::NonConfirmable, 3, "21");
    scene.expect_published("up/notify", &notification(1, 3, 21));
    scene.expect_nothing_more();
}

#[test]
fn a_device_that_does_not_observe_is_not_listened_to() {
    let mut scene = Scene::registered();
    scene.command(&observe(1, TEMPERATURE));
    let request = scene.expect_request(Code::GET, TEMPERATURE);
    scene.answer_text(&request, "20.5");
    scene.expect_answer(&observe(1, TEMPERATURE), content(TEMPERATURE, 20.5));
    let unasked = scene.notify(&request, Kind::Confirmable, 3, "21");
    scene.expect_reset(&unasked);
    scene.expect_nothing_more();
}

#[test]
fn a_notification_with_an_error_is_published_and_the_last_one() {
    let mut scene = Scene::registered();
    let observed = scene.observe(1, TEMPERATURE);
    scene.reports();
    let id = scene.fresh_id();
    let error = Message { kind: Kind::Confirmable, code: Code::NOT_FOUND, id, ..reply(&observed) };
    scene.device_sends(&error);
    scene.expect_acknowledgement(&error);
    let data = outcome("4.04", "not_found", &json!(TEMPERATURE));
    scene.expect_published("up/notify", &json!({ "reqID": 1, "msgType": "notify", "data": data }));
    let ended = Report::Notification { endpoint: "dev-7".to_owned(), outcome: NotificationOutcome::Ended };
    assert_eq!(scene.reports(), [ended]);
    let after = scene.notify(&observed, Kind::Confirmable, 9, "23");
    scene.expect_reset(&after);

    scene.command(&cancel(2));
    let request = scene.expect_request(Code::GET, TEMPERATURE);
    assert_ne!(request.token, observed.token, "nothing is left to be cancelled");
    scene.expect_nothing_more();
}

#[test]
fn a_notification_that_cannot_be_understood_is_told_as_4_00_and_the_observation_goes_on() {
    let mut scene = Scene::registered();
    let observed = scene.observe(1, TEMPERATURE);
    scene.reports();
    let id = scene.fresh_id();
    let mut broken = text_reply(&observed, Kind::NonConfirmable, id, Some(3), "?");
    broken.options.remove(number::CONTENT_FORMAT);
    broken.options.add_uint(number::CONTENT_FORMAT, format::TLV.into());
    scene.device_sends(&broken);
    let told = scene.expect_any_published("lwm2m/dev-7/up/notify");
    assert_eq!((&told["data"]["code"], &told["seqNum"]), (&json!("4.00"), &json!(3)));
    assert!(told["data"]["reason"].is_string());
    assert!(matches!(&scene.reports()[..], [Report::UndecodableContent { .. }, Report::Notification { .. }]));
    scene.notify(&observed, Kind::NonConfirmable, 4, "21");
    scene.expect_published("up/notify", &notification(1, 4, 21));
    scene.expect_nothing_more();
}

#[test]
fn a_notification_of_a_token_that_nothing_has_is_reset() {
    let mut scene = Scene::registered();
    let ping = scene.update("");
    for kind in [Kind::Confirmable, Kind::NonConfirmable] {
        let stray = scene.notify(&ping, kind, 3, "21");
        scene.expect_reset(&stray);
        scene.device_sends(&stray);
        scene.expect_reset(&stray);
    }
    scene.expect_nothing_more();
}

#[test]
fn a_second_observe_of_a_path_takes_the_place_of_the_first() {
    let mut scene = Scene::registered();
    let first = scene.observe(1, TEMPERATURE);
    let second = scene.observe(2, TEMPERATURE);
    assert_ne!(first.token, second.token);
    let old = scene.notify(&first, Kind::Confirmable, 9, "21");
    scene.expect_reset(&old);
    scene.notify(&second, Kind::NonConfirmable, 3, "22");
    scene.expect_published("up/notify", &notification(2, 3, 22));
    scene.expect_nothing_more();
}

#[test]
fn a_second_observe_that_fails_leaves_the_first() {
    let mut scene = Scene::registered();
    let first = scene.observe(1, TEMPERATURE);
    scene.command(&observe(2, TEMPERATURE));
    let refused = scene.expect_request(Code::GET, TEMPERATURE);
    scene.answer(&refused, Code::SERVICE_UNAVAILABLE);
    scene.expect_any_published(RESPONSES);
    scene.notify(&first, Kind::NonConfirmable, 3, "22");
    scene.expect_published("up/notify", &notification(1, 3, 22));
    scene.expect_nothing_more();
}

#[test]
fn a_cancellation_has_the_token_of_the_observation_and_ends_it() {
    let mut scene = Scene::registered();
    let observed = scene.observe(1, TEMPERATURE);
    scene.command(&cancel(2));
    let request = scene.expect_request(Code::GET, TEMPERATURE);
    assert_eq!((request.token, observe_of(&request)), (observed.token, Some(1)));
    scene.notify(&observed, Kind::NonConfirmable, 3, "21");
    scene.expect_published("up/notify", &notification(1, 3, 21));

    scene.answer_text(&request, "21");
    scene.expect_answer(&cancel(2), content(TEMPERATURE, 21));
    let late = scene.notify(&observed, Kind::NonConfirmable, 4, "22");
    scene.expect_reset(&late);
    scene.expect_nothing_more();
}

/// A device may tell observations apart by their options (RFC 7641 section 3.6).
#[test]
fn a_cancellation_repeats_the_options_of_its_observe() {
    let mut scene = Scene::new();
    let mut register = scene.register_message("ep=dev-7&lt=300&lwm2m=1.1");
    register.payload = b"</>;rt=\"oma.lwm2m\";ct=\"0 60 112\",</3303/0>".to_vec();
    scene.device_sends(&register);
    scene.expect_connect();
    scene.broker_takes_it();
    scene.expect_created(&register);
    scene.expect_reported("register");
    let mut command = observe(1, TEMPERATURE);
    command["data"]["path"] = json!(format!("{TEMPERATURE}?pmin=5"));
    scene.command(&command);
    let observed = scene.expect_request(Code::GET, TEMPERATURE);
    assert_eq!(observed.options.uint(number::ACCEPT), Ok(Some(112)));
    scene.answer_observe(&observed, 2, "20.5");
    scene.expect_any_published(RESPONSES);

    // The device announces other formats meanwhile: what was asked for does not change.
    let update = scene.update_with_links("</3303/0>;ct=60");
    scene.ask(&update, Code::CHANGED);
    scene.expect_reported("update");
    scene.command(&cancel(2));
    let request = scene.expect_request(Code::GET, TEMPERATURE);
    let mut expected = observed.options.clone();
    expected.remove(number::OBSERVE);
    expected.add_uint(number::OBSERVE, 1);
    assert_eq!((request.token, request.options), (observed.token, expected));
    scene.expect_nothing_more();
}

#[test]
fn a_cancellation_that_is_not_answered_leaves_the_observation() {
    let mut scene = Scene::registered();
    let observed = scene.observe(1, TEMPERATURE);
    scene.command(&cancel(2));
    let request = scene.expect_request(Code::GET, TEMPERATURE);
    scene.advance(93.0);
    for _ in 0..4 {
        scene.expect_message(&request);
    }
    scene.expect_returned(&cancel(2), "coap_timeout");
    scene.notify(&observed, Kind::NonConfirmable, 3, "21");
    scene.expect_published("up/notify", &notification(1, 3, 21));
    scene.expect_nothing_more();
}

#[test]
fn a_cancellation_without_observation_is_a_request_like_others() {
    let mut scene = Scene::registered();
    scene.command(&cancel(1));
    let request = scene.expect_request(Code::GET, TEMPERATURE);
    assert_eq!(observe_of(&request), Some(1));
    scene.answer_text(&request, "21");
    scene.expect_answer(&cancel(1), content(TEMPERATURE, 21));
    scene.expect_nothing_more();
}

#[test]
fn observations_of_one_device_are_bounded() {
    let mut scene = Scene::registered_with(|config| config.limits.observations = 2);
    scene.observe(1, TEMPERATURE);
    scene.observe(2, "/3303/0/5601");
    let third = observe(3, "/3303/0/5602");
    scene.command(&third);
    assert!(scene.expect_refused(&third).contains("too many"));
    scene.observe(4, TEMPERATURE);
    scene.command(&cancel(5));
    let request = scene.expect_request(Code::GET, TEMPERATURE);
    scene.answer_text(&request, "21");
    scene.expect_any_published(RESPONSES);
    scene.command(&third);
    scene.expect_request(Code::GET, "/3303/0/5602");
    scene.expect_nothing_more();
}

#[test]
fn an_update_keeps_observations() {
    let mut scene = Scene::registered();
    let observed = scene.observe(1, TEMPERATURE);
    let update = scene.update_with_links("</1/0>,</3/0>");
    scene.ask(&update, Code::CHANGED);
    scene.expect_reported("update");
    scene.notify(&observed, Kind::NonConfirmable, 3, "21");
    scene.expect_published("up/notify", &notification(1, 3, 21));
    scene.expect_nothing_more();
}

#[test]
fn by_default_nothing_is_observed_that_nobody_asked_for() {
    let mut scene = Scene::registered();
    scene.advance(100.0);
    scene.expect_nothing_more();
}

#[test]
fn auto_observe_asks_for_every_defined_object_that_measures_after_what_applications_asked() {
    let mut scene = Scene::with(|config| config.auto_observe = AutoObserve::On);
    let mut register = scene.register_message(QUERY);
    register.payload = b"</0/0>,</1/0>,</2/0>,</3/0>,</4/0>,</5/0>,</6/0>,</7/0>,</9/0>,</15/0>,</3303/0>,</3303/1>,\
                         </32769/0>,</3304>,</3303>;ver=1.1,</3303/0>,</3>"
        .to_vec();
    scene.device_sends(&register);
    scene.expect_connect();
    scene.command(&read(1));
    scene.command(&read(2));
    scene.broker_takes_it();
    scene.expect_created(&register);
    scene.expect_reported("register");
    for id in [1, 2] {
        let request = scene.expect_request(Code::GET, "/3/0/0");
        scene.answer_text(&request, "Acme");
        scene.expect_answer(&read(id), content("/3/0/0", "Acme"));
    }
    assert_eq!(auto_observed(&mut scene, 4), ["/3/0", "/3303/0", "/3303/1", "/3304"]);
    scene.expect_nothing_more();
}

#[test]
fn auto_observe_of_a_list_asks_for_what_the_device_has() {
    let paths = [TEMPERATURE, "/3304/0/5700", "/1/0/1"].map(|path| path.parse().expect("a path"));
    let mut scene = Scene::with(|config| config.auto_observe = AutoObserve::Paths(paths.to_vec()));
    scene.register(QUERY);
    assert_eq!(auto_observed(&mut scene, 2), [TEMPERATURE, "/1/0/1"]);
    scene.expect_nothing_more();
}

#[test]
fn notifications_of_an_auto_observation_say_so_and_a_command_cuts_in() {
    let paths = [TEMPERATURE, "/1/0/1"].map(|path| path.parse().expect("a path"));
    let mut scene = Scene::with(|config| config.auto_observe = AutoObserve::Paths(paths.to_vec()));
    scene.register(QUERY);
    let observed = scene.expect_request(Code::GET, TEMPERATURE);
    scene.command(&read(1));
    scene.answer_observe(&observed, 0, "20.5");
    let mut told = json!({ "msgType": "observe", "is_auto_observe": true, "data": content(TEMPERATURE, 20.5) });
    scene.expect_published("up/resp", &told);
    let request = scene.expect_request(Code::GET, "/3/0/0");
    scene.answer_text(&request, "Acme");
    scene.expect_answer(&read(1), content("/3/0/0", "Acme"));
    scene.expect_request(Code::GET, "/1/0/1");

    scene.notify(&observed, Kind::NonConfirmable, 1, "21.5");
    told["msgType"] = json!("notify");
    told["seqNum"] = json!(1);
    told["data"] = content(TEMPERATURE, 21.5);
    scene.expect_published("up/notify", &told);
    scene.expect_nothing_more();
}

#[test]
fn auto_observe_leaves_what_an_application_observes_already() {
    let paths = vec![TEMPERATURE.parse().expect("a path")];
    let mut scene = Scene::with(|config| config.auto_observe = AutoObserve::Paths(paths));
    let register = scene.send_register(QUERY);
    scene.expect_connect();
    scene.command(&observe(1, TEMPERATURE));
    scene.broker_takes_it();
    scene.expect_created(&register);
    scene.expect_reported("register");
    let observed = scene.expect_request(Code::GET, TEMPERATURE);
    scene.answer_observe(&observed, 2, "20.5");
    scene.expect_any_published(RESPONSES);
    scene.expect_nothing_more();
    scene.notify(&observed, Kind::NonConfirmable, 3, "21.5");
    scene.expect_published("up/notify", &notification(1, 3, 21.5));
    scene.expect_nothing_more();
}

#[test]
fn a_sleeping_device_is_observed_when_it_wakes() {
    let paths = [TEMPERATURE, "/1/0/1"].map(|path| path.parse().expect("a path"));
    let mut scene = Scene::with(|config| config.auto_observe = AutoObserve::Paths(paths.to_vec()));
    scene.register("ep=dev-7&b=UQ");
    let silent = scene.expect_request(Code::GET, TEMPERATURE);
    scene.advance(93.0);
    for _ in 0..4 {
        scene.expect_message(&silent);
    }
    assert_eq!(scene.expect_any_published(RESPONSES)["msgType"], "coap_timeout");
    scene.expect_nothing_more();
    let update = scene.update("");
    scene.ask(&update, Code::CHANGED);
    assert_eq!(auto_observed(&mut scene, 1), ["/1/0/1"]);
    scene.expect_nothing_more();
}

/// The first notification may overtake the answer; then it is the answer.
#[test]
fn a_notification_that_overtakes_the_answer_to_observe_is_the_answer() {
    let mut scene = Scene::registered();
    scene.command(&observe(1, TEMPERATURE));
    let observed = scene.expect_request(Code::GET, TEMPERATURE);
    let early = text_reply(&observed, Kind::NonConfirmable, MessageId(800), Some(3), "21");
    scene.device_sends(&early);
    assert_eq!(scene.expect_any_published(RESPONSES)["msgType"], "observe");
    scene.answer_observe(&observed, 2, "20.5");
    scene.notify(&observed, Kind::NonConfirmable, 4, "22");
    scene.expect_published("up/notify", &notification(1, 4, 22));
    scene.expect_nothing_more();
}

#[test]
fn with_ack_published_a_notification_is_acknowledged_when_the_broker_took_it_and_not_before() {
    let mut scene = Scene::registered_with(|config| {
        config.coap.acknowledge_notifications = AckMode::Deferred;
    });
    let request = scene.observe(1, TEMPERATURE);
    let sent = scene.notify(&request, Kind::Confirmable, 3, "21.5");
    let BrokerCommand::Publish { registration: device, publication } = scene.expect_broker_command() else {
        panic!("no publication")
    };
    let ticket = publication.ticket.expect("somebody waits for it");
    scene.expect_nothing_more();
    scene.device_sends(&sent);
    scene.expect_nothing_more();

    scene.broker_says(BrokerEvent::Published { registration: device, ticket });
    scene.expect_acknowledgement(&sent);
    scene.expect_nothing_more();
    scene.device_sends(&sent);
    scene.expect_acknowledgement(&sent);
    scene.broker_says(BrokerEvent::Published { registration: device, ticket });
    scene.expect_nothing_more();
}

#[test]
fn with_ack_published_what_is_not_confirmable_or_older_waits_for_nothing() {
    let mut scene = Scene::registered_with(|config| {
        config.coap.acknowledge_notifications = AckMode::Deferred;
    });
    let request = scene.observe(1, TEMPERATURE);
    scene.notify(&request, Kind::NonConfirmable, 5, "21.5");
    let BrokerCommand::Publish { publication, .. } = scene.expect_broker_command() else { panic!("no publication") };
    assert_eq!(publication.ticket, None);
    let older = scene.notify(&request, Kind::Confirmable, 4, "21.0");
    scene.expect_acknowledgement(&older);
    scene.expect_nothing_more();
}

#[test]
fn with_ack_published_nothing_waits_for_a_notification_that_the_broker_refused() {
    let mut scene = Scene::registered_with(|config| {
        config.coap.acknowledge_notifications = AckMode::Deferred;
    });
    let request = scene.observe(1, TEMPERATURE);
    let sent = scene.notify(&request, Kind::Confirmable, 3, "21.5");
    let BrokerCommand::Publish { registration: device, publication } = scene.expect_broker_command() else {
        panic!("no publication")
    };
    let ticket = publication.ticket.expect("somebody waits for it");
    assert_eq!(scene.gateway.table_sizes().deferred_acks, 1);
    scene.broker_says(BrokerEvent::Unpublished { registration: device, ticket });
    assert_eq!(scene.gateway.table_sizes().deferred_acks, 0);
    scene.expect_nothing_more();
    scene.device_sends(&sent);
    scene.expect_nothing_more();
}
