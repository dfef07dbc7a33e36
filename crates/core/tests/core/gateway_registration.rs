//! The registration interface over time, and the broker behind it, in virtual time.

use std::time::Duration;

use lwm2m_base::secret::Secret;
use lwm2m_core::coap::options::number;
use lwm2m_core::coap::{Code, Kind, Message, MessageId, Token};
use lwm2m_core::gateway::broker::{BrokerCommand, BrokerEvent, CloseReason, ConnectError, RegistrationId};
use lwm2m_core::gateway::config::UpdatePublish;
use lwm2m_core::gateway::identity::IdentityRule;
use lwm2m_core::gateway::report::{CommandOutcome, Forbidden, LeaveReason, Report};
use lwm2m_core::mqtt::topics::Template;
use lwm2m_dtls::credentials::PskIdentity;
use lwm2m_testkit::scene::{LINKS, PASSWORD, QUERY, Said, Scene, content, peer, read, reply, text_reply};
use serde_json::json;

const REASONS: [CloseReason; 4] =
    [CloseReason::Kicked, CloseReason::Discarded, CloseReason::Expired, CloseReason::Refused];

// --- The way in ---------------------------------------------------------------------------------------------------------

#[test]
fn a_device_is_answered_and_reported_only_when_the_broker_has_it() {
    let mut scene = Scene::new();
    let query = format!("ep=dev-7&lt=300&lwm2m=1.1&b=U&imei=490154&password={PASSWORD}");
    let register = scene.send_register(&query);
    let client = scene.expect_connect();
    assert_eq!((client.clientid.as_str(), client.username.as_str()), ("dev-7", "490154"));
    assert_eq!((client.proto_ver.as_str(), client.peerhost), ("1.1", scene.peer.address.ip()));
    assert_eq!((client.command_filter.as_str(), client.command_qos), ("lwm2m/dev-7/dn/#", 0));
    assert_eq!(client.password, Some(Secret::new(PASSWORD)));
    scene.expect_nothing_more();
    assert_eq!(scene.gateway.table_sizes().devices, 0);

    scene.broker_takes_it();
    scene.expect_created(&register);
    assert_eq!((scene.location[0].as_str(), scene.location.len()), ("rd", 2));
    let data = scene.expect_reported("register");
    let objects = json!(["/1/0", "/3/0", "/3303/0"]);
    let expected = json!({
        "ep": "dev-7", "lt": 300, "lwm2m": "1.1", "b": "U", "imei": "490154", "alternatePath": "/", "objectList": objects,
    });
    assert_eq!(data, expected);
    scene.expect_nothing_more();
    let (endpoint, lifetime) = ("dev-7".to_owned(), Duration::from_secs(300));
    assert_eq!(scene.reports(), [Report::Registered { endpoint, peer: scene.peer, lifetime }]);
}

#[test]
fn a_device_without_imei_has_its_endpoint_name_as_username() {
    let mut scene = Scene::new();
    scene.send_register(QUERY);
    let client = scene.expect_connect();
    assert_eq!((client.username.as_str(), client.password), ("dev-7", None));
}

#[test]
fn a_device_that_the_broker_refuses_gets_4_03() {
    let mut scene = Scene::new();
    let register = scene.send_register(QUERY);
    scene.expect_connect();
    let error = ConnectError::Refused("not authorized".to_owned());
    scene.broker_says(BrokerEvent::ConnectFailed { registration: scene.device, error });
    scene.expect_reply(scene.peer, &register, Code::FORBIDDEN);
    let (endpoint, reason) = (Some("dev-7".to_owned()), "not authorized".to_owned());
    let rejected = Report::RegisterRejected { peer: scene.peer, endpoint, code: Code::FORBIDDEN, reason };
    assert_eq!(scene.reports(), [rejected]);
    scene.expect_nothing_left_behind();
}

#[test]
fn a_device_that_is_refused_is_told_why_as_far_as_that_fits_into_its_request() {
    let mut scene = Scene::new();
    let told = |message: &Message| String::from_utf8(message.payload.clone()).unwrap();

    let register = scene.send_register("ep=dev-7&lt=soon");
    let reply = scene.expect_reply(scene.peer, &register, Code::BAD_REQUEST);
    let Report::RegisterRejected { reason, .. } = &scene.reports()[0] else { panic!("not rejected") };
    assert_eq!(told(&reply), *reason);

    // An unregistered peer with little to say is told little.
    let mut short = scene.request(Code::POST, &["rd"], "lt=1");
    short.token = Token::EMPTY;
    scene.device_sends(&short);
    let reply = scene.expect_reply(scene.peer, &short, Code::BAD_REQUEST);
    let Report::RegisterRejected { reason, .. } = &scene.reports()[0] else { panic!("not rejected") };
    assert!(reason.starts_with(&told(&reply)) && reason.len() > reply.payload.len(), "{reason}");
    assert!(reply.encode().len() <= short.encode().len() + 16);

    let register = scene.send_register(QUERY);
    scene.expect_connect();
    let error = ConnectError::Refused("Authenticate: bad_username_or_password".to_owned());
    scene.broker_says(BrokerEvent::ConnectFailed { registration: scene.device, error });
    let reply = scene.expect_reply(scene.peer, &register, Code::FORBIDDEN);
    assert_eq!(told(&reply), "Authenticate: bad_username_or_password");

    // Where the broker is, is nothing for unregistered peers.
    let register = scene.send_register(QUERY);
    scene.expect_connect();
    let error = ConnectError::Unavailable("10.0.0.5:7993: connection refused".to_owned());
    scene.broker_says(BrokerEvent::ConnectFailed { registration: scene.device, error });
    let reply = scene.expect_reply(scene.peer, &register, Code::SERVICE_UNAVAILABLE);
    assert_eq!(told(&reply), "no broker");
}

#[test]
fn a_device_that_comes_while_the_broker_is_away_is_told_when_to_try_again() {
    let mut scene = Scene::with(|settings| settings.limits.retry_after = Duration::from_secs(17));
    let register = scene.send_register(QUERY);
    scene.expect_connect();
    let error = ConnectError::Unavailable("no route".to_owned());
    scene.broker_says(BrokerEvent::ConnectFailed { registration: scene.device, error });
    let answer = scene.expect_reply(scene.peer, &register, Code::SERVICE_UNAVAILABLE);
    assert_eq!(answer.options.uint(number::MAX_AGE), Ok(Some(17)));
    scene.expect_nothing_left_behind();
}

#[test]
fn a_slow_broker_means_an_empty_acknowledgement_and_then_2_01_before_the_report() {
    let mut scene = Scene::new();
    let register = scene.send_register(QUERY);
    scene.expect_connect();
    assert_eq!(scene.advance_to_next_deadline(), Duration::from_secs(1));
    scene.expect_acknowledgement(&register);
    scene.advance(8.0);
    scene.expect_nothing_more();

    scene.broker_takes_it();
    let (to, created) = scene.expect_sent();
    assert_eq!((to, created.kind, created.code), (scene.peer, Kind::Confirmable, Code::CREATED));
    assert_eq!(created.token, register.token);
    scene.expect_reported("register");
    scene.advance(3.0);
    scene.expect_message(&created);
    assert_eq!(scene.reports().last(), Some(&Report::Retransmitted { peer: scene.peer }));
    scene.device_sends(&Message::empty(Kind::Acknowledgement, created.id));
    scene.advance(100.0);
    scene.expect_nothing_more();
}

#[test]
fn a_repeated_register_is_one_registration() {
    let mut scene = Scene::new();
    let register = scene.send_register(QUERY);
    scene.expect_connect();
    scene.device_sends(&register);
    scene.expect_nothing_more();
    scene.broker_takes_it();
    scene.expect_created(&register);
    scene.expect_reported("register");

    let location = scene.location.clone();
    scene.device_sends(&register);
    scene.expect_created(&register);
    assert_eq!(scene.location, location);
    scene.expect_nothing_more();
    assert_eq!(scene.gateway.table_sizes().devices, 1);
}

#[test]
fn a_register_that_still_waits_gives_way_to_the_next_one() {
    let mut scene = Scene::new();
    let first = scene.send_register(QUERY);
    scene.expect_connect();
    let earlier = scene.device;
    let second = scene.send_register("ep=dev-7&lt=60&lwm2m=1.0");
    scene.expect_reply(scene.peer, &first, Code::SERVICE_UNAVAILABLE);
    scene.expect_connect();
    scene.expect_disconnect(earlier);

    scene.broker_says(BrokerEvent::Connected { registration: earlier });
    scene.command_to(earlier, read(1).to_string().as_bytes());
    scene.expect_nothing_more();
    scene.broker_takes_it();
    scene.expect_created(&second);
    assert_eq!(scene.expect_reported("register")["lt"], 60);
    scene.expect_nothing_more();
}

#[test]
fn a_broker_that_ends_the_connection_of_a_waiting_register_refuses_it() {
    for reason in REASONS {
        let mut scene = Scene::new();
        let register = scene.send_register(QUERY);
        scene.expect_connect();
        scene.broker_says(BrokerEvent::Closed { registration: scene.device, reason });
        scene.expect_reply(scene.peer, &register, Code::FORBIDDEN);
        scene.expect_nothing_left_behind();
    }
}

#[test]
fn commands_that_come_while_the_register_waits_are_carried_out_after_the_report() {
    let mut scene = Scene::new();
    let register = scene.send_register(QUERY);
    scene.expect_connect();
    scene.command(&read(1));
    scene.command(&read(2));
    scene.expect_nothing_more();

    scene.broker_takes_it();
    scene.expect_created(&register);
    scene.expect_reported("register");
    for id in [1, 2] {
        let request = scene.expect_request(Code::GET, "/3/0/0");
        scene.answer_text(&request, "Acme");
        scene.expect_answer(&read(id), content("/3/0/0", "Acme"));
    }
    scene.expect_nothing_more();
}

#[test]
fn devices_over_the_limit_are_told_to_try_again_later() {
    let mut scene = Scene::with(|settings| settings.limits.devices = 1);
    let first = scene.send_register(QUERY);
    scene.expect_connect();
    let refused = scene.send_register("ep=dev-8");
    scene.expect_reply(scene.peer, &refused, Code::SERVICE_UNAVAILABLE);
    scene.broker_takes_it();
    scene.expect_created(&first);
    scene.expect_reported("register");
    let refused = scene.send_register("ep=dev-8");
    let answer = scene.expect_reply(scene.peer, &refused, Code::SERVICE_UNAVAILABLE);
    assert_eq!(answer.options.uint(number::MAX_AGE), Ok(Some(30)));
    scene.expect_nothing_more();

    let again = scene.send_register(QUERY);
    let before = scene.device;
    scene.expect_connect();
    scene.broker_takes_it();
    scene.expect_disconnect(before);
    scene.expect_created(&again);
    scene.expect_reported("register");
    scene.expect_nothing_more();
}

#[test]
fn more_requests_than_can_wait_are_dropped_and_taken_when_they_come_again() {
    let mut scene = Scene::with(|settings| settings.coap.pending_requests = 1);
    let first = scene.send_register(QUERY);
    scene.expect_connect();
    let second = scene.register_message("ep=dev-8");
    scene.device_sends_from(peer(2), &second);
    scene.expect_nothing_more();

    scene.broker_takes_it();
    scene.expect_created(&first);
    scene.expect_reported("register");
    scene.device_sends_from(peer(2), &second);
    assert_eq!(scene.expect_connect().clientid, "dev-8");
}

/// Some clients cannot keep more of it.
#[test]
fn the_location_has_twelve_characters_that_are_new_each_time() {
    let mut scene = Scene::with(|settings| {
        settings.translators.mountpoint = Template::for_topic("lwm2m/dev-7/").expect("a template");
    });
    let mut locations = std::collections::HashSet::new();
    for number in 0..100 {
        scene.register(&format!("ep=dev-{number}&lt=300"));
        let [rd, id] = &scene.location[..] else { panic!("{:?}", scene.location) };
        assert_eq!((rd.as_str(), id.len()), ("rd", 12));
        assert!(locations.insert(id.clone()));
    }
}

#[test]
fn a_part_of_a_link_list_that_makes_no_sense_is_reported_once() {
    let mut scene = Scene::new();
    let mut register = scene.register_message(QUERY);
    register.payload = b"</>;rt=\"oma.lwm2m\";ct=60 110,</1/0>,/2/0,</3/0>,".to_vec();
    scene.device_sends(&register);
    scene.expect_connect();
    scene.broker_takes_it();
    scene.expect_created(&register);
    assert_eq!(scene.expect_reported("register")["objectList"], json!(["/1/0", "/3/0"]));
    let left_out = |scene: &mut Scene| -> Vec<(String, bool)> {
        let reports = scene.reports().into_iter().filter_map(|report| match report {
            Report::LinksLeftOut { endpoint, reason, first } => {
                assert_eq!(endpoint, "dev-7");
                Some((reason, first))
            }
            _ => None,
        });
        reports.collect()
    };
    let reason = "left out of the links: a link begins with '<', byte 36 does not";
    assert_eq!(left_out(&mut scene), [(reason.to_owned(), true)]);

    let list = String::from_utf8(register.payload).expect("text");
    let update = scene.update_with_links(&list);
    scene.ask(&update, Code::CHANGED);
    assert_eq!(left_out(&mut scene), [], "the same list");
    let update = scene.update_with_links("</1/0>,/2/0");
    scene.ask(&update, Code::CHANGED);
    scene.expect_reported("update");
    let told = left_out(&mut scene);
    assert_eq!((told.len(), told[0].1), (1, false), "another list of the same registration");

    let discover = json!({ "reqID": 1, "msgType": "discover", "data": { "path": "/3" } });
    scene.command(&discover);
    let request = scene.expect_request(Code::GET, "/3");
    let mut answer = text_reply(&request, Kind::Acknowledgement, request.id, None, "</3/0>;dim=,oops");
    answer.code = Code::CONTENT;
    scene.device_sends(&answer);
    let told = scene.expect_any_published("lwm2m/dev-7/up/resp");
    assert_eq!(told["data"]["content"], json!(["</3/0>;dim="]));
    assert!(told["data"]["reason"].as_str().is_some_and(|reason| reason.contains("byte 12")), "{told}");
    assert_eq!(left_out(&mut scene).len(), 1);
    scene.expect_nothing_more();
}

#[test]
fn the_report_of_a_1_2_device_has_what_it_said() {
    for (query, links, data) in [
        (
            "ep=dev-7&lt=300&lwm2m=1.2&b=UT&Q&pid=a1b2c3d4",
            "</1/0>,</3/0>",
            json!({ "ep": "dev-7", "lt": 300, "lwm2m": "1.2", "b": "UT", "Q": "", "pid": "a1b2c3d4",
                "alternatePath": "/", "objectList": ["/1/0", "/3/0"] }),
        ),
        (
            "ep=dev-7&lt=300&lwm2m=1.2&pid=ffffffff",
            "",
            json!({ "ep": "dev-7", "lt": 300, "lwm2m": "1.2", "pid": "ffffffff" }),
        ),
        (
            "ep=dev-7&lt=300&lwm2m=1.1",
            "</>;ct=112,</1/0>,</3/0>",
            json!({ "ep": "dev-7", "lt": 300, "lwm2m": "1.1", "alternatePath": "/", "objectList": ["/1/0", "/3/0"] }),
        ),
        (
            "ep=dev-7&lt=300&lwm2m=1.2&b=UMHTSN&sms=4911",
            "</1/0>",
            json!({ "ep": "dev-7", "lt": 300, "lwm2m": "1.2", "b": "UMHTSN", "sms": "4911",
                "alternatePath": "/", "objectList": ["/1/0"] }),
        ),
        (
            "ep=dev-7&lt=300&lwm2m=1.1",
            "</1/0>,</25>;ver=2.0,</25/0>,</25/1>",
            json!({ "ep": "dev-7", "lt": 300, "lwm2m": "1.1",
                "alternatePath": "/", "objectList": ["/1/0", "/25", "/25/0", "/25/1"] }),
        ),
    ] {
        let mut scene = Scene::new();
        let mut register = scene.register_message(query);
        register.payload = links.as_bytes().to_vec();
        scene.device_sends(&register);
        scene.expect_connect();
        scene.broker_takes_it();
        scene.expect_created(&register);
        assert_eq!(scene.expect_reported("register"), data, "{query} {links}");
        scene.expect_nothing_more();
    }
    let mut scene = Scene::new();
    let newer = scene.register_message("ep=dev-7&lt=300&lwm2m=1.3");
    scene.ask(&newer, Code::PRECONDITION_FAILED);
    scene.expect_nothing_more();
}

#[test]
fn reports_have_the_attributes_of_links_where_the_operator_wants_them() {
    let mut scene = Scene::with(|settings| settings.report_attributes = true);
    let mut register = scene.register_message(QUERY);
    register.payload = b"</>;rt=\"oma.lwm2m\";ct=112,</3/0>,</19/0>;ver=1.1".to_vec();
    scene.device_sends(&register);
    scene.expect_connect();
    scene.broker_takes_it();
    scene.expect_created(&register);
    let report = scene.expect_reported("register");
    let expected = json!({ "/": { "rt": "oma.lwm2m", "ct": "112" }, "/19/0": { "ver": "1.1" } });
    assert_eq!((&report["objectAttributes"], &report["objectList"]), (&expected, &json!(["/3/0", "/19/0"])));

    let update = scene.update_with_links("</3/0>,</19/0>;ver=1.1;title=\"x\"");
    scene.ask(&update, Code::CHANGED);
    let expected = json!({ "/19/0": { "ver": "1.1", "title": "x" } });
    assert_eq!(scene.expect_reported("update")["objectAttributes"], expected);
}

#[test]
fn a_command_for_a_device_behind_a_gateway_is_refused_with_that_reason() {
    let mut scene = Scene::registered();
    let command = json!({ "reqID": 1, "msgType": "read", "data": { "path": "/dev1/3303/0/5700" } });
    scene.command(&command);
    let reason = scene.expect_refused(&command);
    assert!(reason.contains("the LwM2M gateway object (25) is not supported"), "{reason}");
    scene.expect_nothing_more();
}

#[test]
fn a_version_without_definition_is_reported_once_per_device_and_object() {
    fn reported(scene: &mut Scene) -> Vec<String> {
        let reports = scene.reports().into_iter().filter_map(|report| match report {
            Report::UndefinedVersions { endpoint, versions } => {
                assert_eq!(endpoint, "dev-7");
                Some(versions)
            }
            _ => None,
        });
        reports.flatten().map(|version| version.to_string()).collect()
    }
    let mut scene = Scene::new();
    let mut register = scene.register_message(QUERY);
    // 3: a newer minor number; 3300: no version; 33333: an object without definition.
    register.payload = b"</3>;ver=1.9,</3303/0>;ver=2.0,</3300>;ver=x,</33333>;ver=4.0".to_vec();
    scene.device_sends(&register);
    scene.expect_connect();
    scene.broker_takes_it();
    scene.expect_created(&register);
    scene.expect_reported("register");
    assert_eq!(reported(&mut scene), ["3303 2.0 (loaded: 1.1)"]);

    let update = scene.update_with_links("</3303/0>;ver=2.0,</3>;ver=2.0");
    scene.ask(&update, Code::CHANGED);
    scene.expect_reported("update");
    assert_eq!(reported(&mut scene), ["3 2.0 (loaded: 1.2, 1.1, 1.0)"], "3303 is known");

    let mut again = scene.register_message(QUERY);
    again.payload = b"</3>;ver=2.0,</3303/0>;ver=2.0".to_vec();
    let before = scene.device;
    scene.device_sends(&again);
    scene.expect_connect();
    scene.broker_takes_it();
    scene.expect_disconnect(before);
    scene.expect_created(&again);
    scene.expect_reported("register");
    assert_eq!(reported(&mut scene), [""; 0], "a new registration of the same device");
}

#[test]
fn a_list_of_which_nothing_makes_sense_is_refused() {
    let mut scene = Scene::new();
    for (payload, content_format, code) in [
        ("</1/0", None, Code::BAD_REQUEST),
        ("objects", Some(40), Code::BAD_REQUEST),
        ("{}", Some(50), Code::UNSUPPORTED_CONTENT_FORMAT),
    ] {
        let mut register = scene.register_message(QUERY);
        register.options.remove(number::CONTENT_FORMAT);
        content_format.into_iter().for_each(|format| register.options.add_uint(number::CONTENT_FORMAT, format));
        register.payload = payload.as_bytes().to_vec();
        scene.ask(&register, code);
        scene.expect_nothing_more();
    }
}

/// MQTT allows no control character in a topic, a clientid or a username: a broker closes the connection for one.
#[test]
fn names_that_mqtt_does_not_allow_are_refused_before_the_broker_sees_them() {
    for (name, template) in [("ep", ""), ("imei", "${imei}")] {
        for character in ['\u{1}', '\n', '\u{7f}', '\u{85}', '\u{fffe}', '\u{ffff}'] {
            let mut scene = Scene::with(|settings| {
                if !template.is_empty() {
                    settings.client.clientid = Template::for_client(template).expect("a template");
                }
            });
            let query = match name {
                "ep" => format!("ep=dev{character}7&lt=300"),
                _ => format!("ep=dev-7&lt=300&imei=1{character}"),
            };
            let register = scene.register_message(&query);
            scene.ask(&register, Code::BAD_REQUEST);
            scene.expect_nothing_more();
            let [Report::RegisterRejected { code: Code::BAD_REQUEST, reason, .. }] = &scene.reports()[..] else {
                panic!("one rejection");
            };
            assert!(reason.contains("control character"), "{reason}");
        }
    }
}

// --- Registering again --------------------------------------------------------------------------------------------------

#[test]
fn a_new_registration_ends_what_is_in_flight_keeps_what_waits_and_drops_observations() {
    let mut scene = Scene::registered();
    let observed = scene.observe(1, "/3303/0/5700");
    for id in [2, 3, 4] {
        scene.command(&read(id));
    }
    let in_flight = scene.expect_request(Code::GET, "/3/0/0");
    scene.expect_nothing_more();

    let (old, before) = (scene.location.clone(), scene.device);
    let register = scene.send_register(QUERY);
    scene.expect_connect();
    scene.expect_nothing_more();
    scene.broker_takes_it();
    scene.expect_disconnect(before);
    scene.expect_created(&register);
    assert_ne!(scene.location, old);
    scene.expect_reported("register");
    scene.expect_returned(&read(2), "coap_timeout");
    for id in [3, 4] {
        let request = scene.expect_request(Code::GET, "/3/0/0");
        scene.expect_nothing_more();
        scene.answer_text(&request, "Acme");
        scene.expect_answer(&read(id), content("/3/0/0", "Acme"));
    }

    scene.answer_text(&in_flight, "late");
    scene.expect_nothing_more();
    let notification = scene.notify(&observed, Kind::Confirmable, 3, "21.5");
    scene.expect_reset(&notification);
    let update = scene.request(Code::POST, &old, "");
    scene.ask(&update, Code::NOT_FOUND);
    scene.expect_nothing_more();
    assert_eq!(scene.gateway.table_sizes().devices, 1);
    let left = Report::Left { endpoint: "dev-7".to_owned(), reason: LeaveReason::Replaced };
    assert_eq!(scene.reports().iter().filter(|report| **report == left).count(), 1);
}

#[test]
fn the_old_registration_serves_until_the_new_one_is_there() {
    let mut scene = Scene::registered();
    let (old, location) = (scene.device, scene.location.clone());
    scene.send_register(QUERY);
    scene.expect_connect();
    let new = std::mem::replace(&mut scene.device, old);
    scene.command(&read(1));
    let request = scene.expect_request(Code::GET, "/3/0/0");
    scene.answer_text(&request, "Acme");
    scene.expect_answer(&read(1), content("/3/0/0", "Acme"));

    // The broker discards the older connection when the newer one has its clientid.
    scene.broker_says(BrokerEvent::Closed { registration: old, reason: CloseReason::Discarded });
    scene.expect_nothing_more();
    let update = scene.request(Code::POST, &location, "");
    scene.ask(&update, Code::CHANGED);

    scene.device = new;
    scene.broker_takes_it();
    scene.expect_disconnect(old);
    assert_eq!(scene.expect_sent().1.code, Code::CREATED);
    scene.expect_reported("register");
    scene.expect_nothing_more();
}

#[test]
fn a_discarded_registration_ends_when_its_successor_is_not_taken() {
    let mut scene = Scene::registered();
    let old = scene.device;
    let register = scene.send_register(QUERY);
    scene.expect_connect();
    scene.broker_says(BrokerEvent::Closed { registration: old, reason: CloseReason::Discarded });
    let error = ConnectError::Unavailable("too slow".to_owned());
    scene.broker_says(BrokerEvent::ConnectFailed { registration: scene.device, error });
    scene.expect_reply(scene.peer, &register, Code::SERVICE_UNAVAILABLE);
    let update = scene.update("");
    scene.ask(&update, Code::NOT_FOUND);
    scene.expect_nothing_left_behind();
}

#[test]
fn the_news_that_the_old_registration_was_discarded_outlives_a_superseded_register() {
    let mut scene = Scene::registered();
    let old = scene.device;
    let first = scene.send_register(QUERY);
    scene.expect_connect();
    scene.broker_says(BrokerEvent::Closed { registration: old, reason: CloseReason::Discarded });
    let superseded = scene.device;
    let second = scene.send_register(QUERY);
    scene.expect_reply(scene.peer, &first, Code::SERVICE_UNAVAILABLE);
    scene.expect_connect();
    scene.expect_disconnect(superseded);
    let error = ConnectError::Refused("not authorized".to_owned());
    scene.broker_says(BrokerEvent::ConnectFailed { registration: scene.device, error });
    scene.expect_reply(scene.peer, &second, Code::FORBIDDEN);
    scene.expect_nothing_left_behind();
}

#[test]
fn a_failed_register_leaves_the_registration_before_it_as_it_is() {
    let mut scene = Scene::registered();
    let old = scene.device;
    let register = scene.send_register(QUERY);
    scene.expect_connect();
    let error = ConnectError::Unavailable("too slow".to_owned());
    scene.broker_says(BrokerEvent::ConnectFailed { registration: scene.device, error });
    scene.expect_reply(scene.peer, &register, Code::SERVICE_UNAVAILABLE);
    scene.device = old;
    let update = scene.update("");
    scene.ask(&update, Code::CHANGED);
    scene.command(&read(1));
    scene.expect_request(Code::GET, "/3/0/0");
    scene.expect_nothing_more();
}

#[test]
fn what_a_kicked_registration_has_goes_to_the_one_that_is_under_way() {
    let mut scene = Scene::registered();
    let old = scene.device;
    [1, 2, 3].iter().for_each(|id| scene.command(&read(*id)));
    let request = scene.expect_request(Code::GET, "/3/0/0");
    let register = scene.send_register(QUERY);
    scene.expect_connect();
    scene.broker_says(BrokerEvent::Closed { registration: old, reason: CloseReason::Kicked });
    scene.expect_nothing_more();

    // Nobody else can publish the answer.
    scene.answer_text(&request, "Acme");
    scene.expect_answer(&read(1), content("/3/0/0", "Acme"));
    scene.expect_request(Code::GET, "/3/0/0");
    scene.broker_takes_it();
    scene.expect_disconnect(old);
    scene.expect_created(&register);
    scene.expect_reported("register");
    scene.expect_returned(&read(2), "coap_timeout");
    let request = scene.expect_request(Code::GET, "/3/0/0");
    scene.answer_text(&request, "Acme");
    scene.expect_answer(&read(3), content("/3/0/0", "Acme"));
    scene.expect_nothing_more();
    assert_eq!(scene.gateway.table_sizes().devices, 1);
}

#[test]
fn commands_that_came_before_the_answer_to_a_superseded_register_are_for_the_next_one() {
    let mut scene = Scene::new();
    let first = scene.send_register(QUERY);
    scene.expect_connect();
    let superseded = scene.device;
    scene.command(&read(1));
    let second = scene.send_register(QUERY);
    scene.expect_reply(scene.peer, &first, Code::SERVICE_UNAVAILABLE);
    scene.expect_connect();
    scene.expect_disconnect(superseded);
    scene.broker_takes_it();
    scene.expect_created(&second);
    scene.expect_reported("register");
    let request = scene.expect_request(Code::GET, "/3/0/0");
    scene.answer_text(&request, "Acme");
    scene.expect_answer(&read(1), content("/3/0/0", "Acme"));
    scene.expect_nothing_more();
}

// --- What the broker ends -----------------------------------------------------------------------------------------------

#[test]
fn a_registration_that_the_broker_ends_is_unknown_to_the_next_update() {
    for reason in REASONS {
        let mut scene = Scene::registered();
        let observed = scene.observe(1, "/3303/0/5700");
        scene.command(&read(2));
        scene.expect_request(Code::GET, "/3/0/0");
        scene.command(&read(3));

        scene.broker_says(BrokerEvent::Closed { registration: scene.device, reason });
        scene.command(&read(4));
        let notification = scene.notify(&observed, Kind::NonConfirmable, 3, "21.5");
        scene.expect_reset(&notification);
        let update = scene.update("");
        scene.ask(&update, Code::NOT_FOUND);
        scene.expect_nothing_left_behind();
        let left = Report::Left { endpoint: "dev-7".to_owned(), reason: LeaveReason::Broker(reason) };
        assert!(scene.reports().contains(&left), "{reason:?}");
    }
}

#[test]
fn a_refused_publication_is_counted_and_the_first_of_a_device_is_marked() {
    let mut scene = Scene::registered();
    scene.reports();
    for first in [true, false, false] {
        let topic = "lwm2m/dev-7/up/resp".to_owned();
        scene.broker_says(BrokerEvent::PublishRefused { registration: scene.device, topic: topic.clone() });
        assert_eq!(scene.reports(), [Report::PublishRefused { endpoint: "dev-7".to_owned(), topic, first }]);
    }
    scene.broker_says(BrokerEvent::PublishRefused { registration: RegistrationId(99), topic: String::new() });
    assert_eq!(scene.reports(), []);
    scene.expect_nothing_more();
}

// --- Update -------------------------------------------------------------------------------------------------------------

#[test]
fn updates_are_published_when_the_condition_says_so() {
    let cases = [
        (UpdatePublish::ObjectListChanged, [false, false, true]),
        (UpdatePublish::ContainsObjectList, [false, true, true]),
        (UpdatePublish::Always, [true, true, true]),
    ];
    for (condition, published) in cases {
        let mut scene = Scene::registered_with(|settings| settings.update_msg_publish_condition = condition);
        let updates = [scene.update("lt=60"), scene.update_with_links(LINKS), scene.update_with_links("</3/0>")];
        for (update, published) in updates.iter().zip(published) {
            scene.ask(update, Code::CHANGED);
            if published {
                let data = scene.expect_reported("update");
                assert_eq!((&data["ep"], &data["lt"]), (&json!("dev-7"), &json!(60)), "the whole registration");
            }
            scene.expect_nothing_more();
        }
    }
}

#[test]
fn an_update_that_is_refused_changes_nothing() {
    let mut scene = Scene::registered();
    for query in ["lt=soon", "lt=60&lt=70", "ep=other", "lwm2m=1.1"] {
        let update = scene.update(query);
        scene.ask(&update, Code::BAD_REQUEST);
    }
    let moved = scene.update("lt=soon");
    scene.device_sends_from(peer(2), &moved);
    scene.expect_reply(peer(2), &moved, Code::BAD_REQUEST);
    scene.command(&read(1));
    scene.expect_request(Code::GET, "/3/0/0");
    scene.expect_nothing_more();
}

#[test]
fn an_update_from_another_address_moves_the_session_there() {
    let mut scene = Scene::registered();
    let observed = scene.observe(1, "/3303/0/5700");
    scene.command(&read(2));
    let in_flight = scene.expect_request(Code::GET, "/3/0/0");
    scene.reports();

    let (old, new) = (scene.peer, peer(2));
    scene.peer = new;
    let update = scene.update("");
    scene.ask(&update, Code::CHANGED);
    let moved = Report::Moved { endpoint: "dev-7".to_owned(), from: old, to: new };
    assert_eq!(scene.reports(), [moved, Report::Updated { endpoint: "dev-7".to_owned() }]);
    scene.expect_nothing_more();
    scene.advance(0.0);
    scene.expect_message(&in_flight);
    scene.answer_text(&in_flight, "Acme");
    scene.expect_answer(&read(2), content("/3/0/0", "Acme"));

    let notification = text_reply(&observed, Kind::Confirmable, MessageId(900), Some(3), "21.5");
    scene.device_sends_from(old, &notification);
    scene.expect_message_to(old, &Message::empty(Kind::Reset, notification.id));
    scene.device_sends(&notification);
    scene.expect_acknowledgement(&notification);
    assert_eq!(scene.expect_any_published("lwm2m/dev-7/up/notify")["seqNum"], 3);
    scene.command(&read(3));
    scene.expect_request(Code::GET, "/3/0/0");
    scene.expect_nothing_more();
}

#[test]
fn a_separate_answer_is_awaited_from_where_the_device_moved() {
    let mut scene = Scene::registered();
    scene.command(&read(1));
    let request = scene.expect_request(Code::GET, "/3/0/0");
    scene.device_sends(&Message::empty(Kind::Acknowledgement, request.id));
    assert_eq!(scene.expect_any_published("lwm2m/dev-7/up/resp")["msgType"], "ack");
    scene.peer = peer(2);
    let update = scene.update("");
    scene.ask(&update, Code::CHANGED);

    let answer = text_reply(&request, Kind::Confirmable, MessageId(901), None, "Acme");
    scene.device_sends(&answer);
    scene.expect_acknowledgement(&answer);
    scene.expect_answer(&read(1), content("/3/0/0", "Acme"));
    scene.expect_nothing_more();
}

#[test]
fn two_devices_behind_one_address_are_told_apart() {
    let mut scene = Scene::registered();
    let first = (scene.device, scene.location.clone());
    let other = "lwm2m/dev-8/up/resp";
    scene.join("ep=dev-8&lt=300");
    scene.expect_any_published(other);
    scene.command(&read(8));
    let to_second = scene.expect_request(Code::GET, "/3/0/0");
    let second = std::mem::replace(&mut scene.device, first.0);
    scene.command(&read(7));
    let to_first = scene.expect_request(Code::GET, "/3/0/0");
    assert_ne!((to_first.id, to_first.token), (to_second.id, to_second.token));

    scene.answer_text(&to_first, "first");
    scene.expect_answer(&read(7), content("/3/0/0", "first"));
    scene.answer_text(&to_second, "second");
    scene.device = second;
    assert_eq!(scene.expect_any_published(other)["reqID"], 8);

    let gone = scene.deregister();
    scene.ask(&gone, Code::DELETED);
    scene.expect_disconnect(second);
    (scene.device, scene.location) = first;
    scene.command(&read(9));
    scene.expect_request(Code::GET, "/3/0/0");
    scene.expect_nothing_more();
}

// --- The end ------------------------------------------------------------------------------------------------------------

#[test]
fn a_lifetime_that_ends_ends_the_registration() {
    let mut scene = Scene::registered();
    scene.advance(299.9);
    scene.expect_nothing_more();
    scene.reports();
    scene.advance(0.1);
    scene.expect_disconnect(scene.device);
    let left = Report::Left { endpoint: "dev-7".to_owned(), reason: LeaveReason::LifetimeOver };
    assert_eq!(scene.reports(), [left]);
    let update = scene.update("");
    scene.ask(&update, Code::NOT_FOUND);
    scene.expect_nothing_left_behind();
}

#[test]
fn every_valid_message_of_the_device_begins_its_lifetime_anew() {
    type Heard = fn(&mut Scene);
    let heard: [(&str, Heard); 6] = [
        ("an Update", |scene| {
            let update = scene.update("");
            scene.ask(&update, Code::CHANGED);
        }),
        ("an answer", |scene| {
            scene.command(&read(2));
            let request = scene.expect_request(Code::GET, "/3/0/0");
            scene.answer(&request, Code::NOT_FOUND);
            scene.expect_any_published("lwm2m/dev-7/up/resp");
        }),
        ("a reset", |scene| {
            scene.command(&read(2));
            let request = scene.expect_request(Code::GET, "/3/0/0");
            scene.device_sends(&Message::empty(Kind::Reset, request.id));
            scene.expect_returned(&read(2), "coap_reset");
        }),
        ("an empty acknowledgement", |scene| {
            scene.command(&read(2));
            let request = scene.expect_request(Code::GET, "/3/0/0");
            scene.device_sends(&Message::empty(Kind::Acknowledgement, request.id));
            scene.expect_any_published("lwm2m/dev-7/up/resp");
            scene.advance(93.0);
            scene.expect_returned(&read(2), "coap_timeout");
            scene.now -= Duration::from_secs(93);
        }),
        ("a confirmable notification", |scene| {
            let observed = scene.observed.clone().expect("observed");
            let notification = scene.notify(&observed, Kind::Confirmable, 3, "21");
            scene.expect_acknowledgement(&notification);
            scene.expect_any_published("lwm2m/dev-7/up/notify");
        }),
        ("a non-confirmable notification", |scene| {
            let observed = scene.observed.clone().expect("observed");
            scene.notify(&observed, Kind::NonConfirmable, 3, "21");
            scene.expect_any_published("lwm2m/dev-7/up/notify");
        }),
    ];
    for (what, happens) in heard {
        let mut scene = Scene::registered();
        scene.observe(1, "/3303/0/5700");
        scene.advance(200.0);
        happens(&mut scene);
        scene.advance(299.0);
        assert_eq!(scene.gateway.table_sizes().devices, 1, "{what}");
        scene.expect_nothing_more();
        scene.advance(1.0);
        assert_eq!(scene.gateway.table_sizes().devices, 0, "{what}");
        scene.expect_disconnect(scene.device);
        scene.expect_nothing_left_behind();
    }
}

#[test]
fn what_is_not_valid_does_not_move_the_lifetime() {
    let mut scene = Scene::registered();
    scene.advance(200.0);
    let refused = scene.update("lt=soon");
    scene.ask(&refused, Code::BAD_REQUEST);
    let unknown = text_reply(&refused, Kind::NonConfirmable, MessageId(77), Some(1), "21");
    scene.device_sends(&Message { token: Token::new(b"?"), ..unknown.clone() });
    scene.expect_reset(&unknown);
    let ping = Message::empty(Kind::Confirmable, MessageId(78));
    scene.device_sends(&ping);
    scene.expect_reset(&ping);
    scene.advance(100.0);
    scene.expect_disconnect(scene.device);
    scene.expect_nothing_left_behind();
}

#[test]
fn an_update_may_shorten_the_lifetime_and_lengthen_it() {
    let mut scene = Scene::registered();
    let update = scene.update("lt=20");
    scene.ask(&update, Code::CHANGED);
    scene.advance(19.0);
    let update = scene.update("lt=400");
    scene.ask(&update, Code::CHANGED);
    scene.advance(399.0);
    let update = scene.update("lt=20");
    scene.ask(&update, Code::CHANGED);
    scene.advance(19.9);
    scene.expect_nothing_more();
    scene.advance(0.1);
    scene.expect_disconnect(scene.device);
    scene.expect_nothing_left_behind();
}

#[test]
fn a_device_that_leaves_gives_every_command_its_last_answer_first() {
    let leaves: [fn(&mut Scene); 2] = [
        |scene| {
            let deregister = scene.deregister();
            scene.ask(&deregister, Code::DELETED);
        },
        // 20 s are too short for the answer that the device has promised.
        |scene| scene.advance(20.0),
    ];
    for leave in leaves {
        let mut scene = Scene::new();
        scene.register("ep=dev-7&lt=20");
        for id in [1, 2, 3] {
            scene.command(&read(id));
        }
        let request = scene.expect_request(Code::GET, "/3/0/0");
        scene.device_sends(&Message::empty(Kind::Acknowledgement, request.id));
        scene.expect_any_published("lwm2m/dev-7/up/resp");
        scene.reports();
        leave(&mut scene);
        scene.expect_returned(&read(1), "coap_timeout");
        scene.expect_refused(&read(2));
        scene.expect_refused(&read(3));
        scene.expect_disconnect(scene.device);
        let outcomes = scene.reports().into_iter().filter_map(|report| match report {
            Report::Command { outcome, .. } => Some(outcome),
            _ => None,
        });
        let expected = [CommandOutcome::TimedOut, CommandOutcome::Expired, CommandOutcome::Expired];
        assert_eq!(outcomes.collect::<Vec<_>>(), expected);

        let late = Message { kind: Kind::Confirmable, id: MessageId(901), ..reply(&request) };
        scene.device_sends(&late);
        scene.expect_reset(&late);
        scene.command(&read(4));
        scene.expect_nothing_left_behind();
    }
}

#[test]
fn a_deregister_of_an_unknown_registration_is_not_found() {
    let mut scene = Scene::registered();
    let deregister = scene.deregister();
    scene.ask(&deregister, Code::DELETED);
    scene.expect_disconnect(scene.device);
    scene.ask(&deregister, Code::DELETED);
    let again = scene.deregister();
    scene.ask(&again, Code::NOT_FOUND);
    scene.expect_nothing_left_behind();
}

// --- Topics that begin with a dollar sign ---------------------------------------------------------------------------------

#[test]
fn an_endpoint_name_never_becomes_a_shared_subscription() {
    let mut scene = Scene::with(|settings| {
        settings.translators.mountpoint = Template::for_topic("${endpoint_name}/").unwrap();
    });
    for name in ["$share", "$SYS", "$queue"] {
        let register = scene.register_message(&format!("ep={name}&lt=300"));
        scene.ask(&register, Code::BAD_REQUEST);
        scene.expect_nothing_more();
        let reports = scene.reports();
        let [Report::RegisterRejected { reason, .. }] = reports.as_slice() else { panic!("{reports:?}") };
        assert_eq!(reason, "a topic would begin with '$'");
    }
    scene.send_register("ep=dev-7&lt=300");
    assert_eq!(scene.expect_connect().command_filter, "dev-7/dn/#");
}

// --- Room for new devices ---------------------------------------------------------------------------------------------------

const DAY: f64 = 86_400.0;

/// A house for three devices that is full: `old-1`, `old-2` and `old-3`, an hour apart, with a lifetime of a year each.
fn full_house() -> Scene {
    let mut scene = Scene::with(|settings| {
        settings.limits.devices = 3;
        settings.lifetimes = Duration::from_secs(1)..=Duration::from_secs(400 * 86_400);
    });
    for number in 1..=3 {
        scene.peer = peer(number);
        joins(&mut scene, &format!("ep=old-{number}&lt=31536000"));
        scene.advance(3600.0);
    }
    scene.reports();
    scene.peer = peer(9);
    scene
}

fn joins(scene: &mut Scene, query: &str) -> RegistrationId {
    scene.join(query);
    scene.forget_what_was_said();
    scene.device
}

fn evicted(scene: &mut Scene) -> Vec<String> {
    let evicted = scene.reports().into_iter().filter_map(|report| match report {
        Report::Left { endpoint, reason: LeaveReason::Evicted } => Some(endpoint),
        _ => None,
    });
    evicted.collect()
}

#[test]
fn the_device_that_was_silent_the_longest_makes_room_when_the_house_is_full() {
    let mut scene = full_house();
    // The first of them is heard, so that it is the second one's turn.
    scene.peer = peer(1);
    scene.send_register("ep=old-1&lt=31536000");
    scene.expect_connect();
    scene.broker_takes_it();
    scene.forget_what_was_said();
    scene.peer = peer(9);
    scene.advance(DAY - 1.5 * 3600.0);
    scene.send_register("ep=new-1&lt=300");
    scene.expect_connect();
    assert_eq!(evicted(&mut scene), Vec::<String>::new(), "the broker has not accepted it yet");
    scene.broker_says(BrokerEvent::Connected { registration: scene.device });
    let said: Vec<_> = std::iter::from_fn(|| scene.next_said()).collect();
    assert!(format!("{said:?}").contains("Disconnect"), "{said:?}");
    assert_eq!(evicted(&mut scene), ["old-2"]);
    assert_eq!(scene.gateway.table_sizes().devices, 3);

    // The others were silent for less than a day.
    let refused = scene.register_message("ep=new-2&lt=300");
    scene.ask(&refused, Code::SERVICE_UNAVAILABLE);
    scene.expect_nothing_more();
    // An hour later the third one was silent for a day.
    scene.advance(3600.0);
    scene.forget_what_was_said();
    scene.send_register("ep=new-3&lt=300");
    scene.expect_connect();
}

#[test]
fn a_device_that_the_broker_refuses_evicts_nobody() {
    let mut scene = full_house();
    scene.advance(3.0 * DAY);
    for _ in 0..5 {
        scene.send_register("ep=other&lt=300");
        scene.expect_connect();
        let error = ConnectError::Refused("not authorized".to_owned());
        scene.broker_says(BrokerEvent::ConnectFailed { registration: scene.device, error });
        scene.forget_what_was_said();
    }
    assert_eq!(evicted(&mut scene), Vec::<String>::new());
    assert_eq!(scene.gateway.table_sizes().devices, 3);
}

#[test]
fn of_many_that_wait_for_one_place_the_broker_s_first_gets_it_and_the_others_are_told_to_try_again() {
    let mut scene = full_house();
    scene.advance(DAY - 3.0 * 3600.0);
    let mut waiting = Vec::new();
    for number in 10..13 {
        scene.peer = peer(number);
        let register = scene.send_register(&format!("ep=new-{number}&lt=300"));
        scene.expect_connect();
        waiting.push((scene.peer, scene.device, register));
    }
    let (first, others) = waiting.split_first().unwrap();
    scene.broker_says(BrokerEvent::Connected { registration: first.1 });
    assert_eq!(evicted(&mut scene), ["old-1"]);
    scene.forget_what_was_said();
    for (from, device, register) in others {
        scene.command_to(*device, read(1).to_string().as_bytes());
        scene.broker_says(BrokerEvent::Connected { registration: *device });
        // The command that came early has its answer, the device its 5.03, and the broker lets go of it.
        let Said::ToBroker(BrokerCommand::Publish { .. }) = scene.next_said().unwrap() else { panic!("no answer") };
        let answer = scene.expect_reply(*from, register, Code::SERVICE_UNAVAILABLE);
        assert_eq!(answer.options.uint(number::MAX_AGE), Ok(Some(30)));
        scene.expect_disconnect(*device);
        scene.expect_nothing_more();
    }
    assert_eq!(scene.gateway.table_sizes().devices, 3);
}

#[test]
fn to_look_for_the_silent_costs_no_look_at_every_device() {
    const DEVICES: u32 = 5_000;
    let mut scene = Scene::with(|settings| {
        settings.limits.devices = DEVICES as usize;
        settings.lifetimes = Duration::from_secs(1)..=Duration::from_secs(400 * 86_400);
    });
    let mut locations = Vec::new();
    for number in 0..DEVICES {
        scene.peer = peer(100 + number);
        joins(&mut scene, &format!("ep=dev-{number}&lt=31536000"));
        locations.push(scene.location.clone());
        scene.advance(0.5);
    }
    scene.advance(DAY);
    // All but the last one are heard again.
    for number in 0..DEVICES - 1 {
        scene.peer = peer(100 + number);
        scene.location = locations[number as usize].clone();
        let update = scene.update("");
        scene.ask(&update, Code::CHANGED);
    }
    scene.peer = peer(9);
    scene.reports();
    // Each Register looks at a bounded number of them; the one that is silent is found in the end, and only that.
    let mut asked = 0;
    while !matches!(scene.next_said(), Some(Said::ToBroker(BrokerCommand::Connect { .. }))) {
        asked += 1;
        assert!(asked < 10, "nobody is found");
        scene.send_register("ep=new&lt=300");
    }
    assert!(asked > 1, "one Register looked at all devices");
}

// --- Names that have a key --------------------------------------------------------------------------------------------------

#[test]
fn a_name_that_has_a_key_is_not_registered_over_plain_udp() {
    let pattern = IdentityRule::Pattern("psk-${endpoint_name}".parse().unwrap());
    for (rule, allowed, identity, code) in [
        (IdentityRule::Equals, false, "dev-7", Some(Code::FORBIDDEN)),
        (IdentityRule::Equals, true, "dev-7", None),
        (IdentityRule::Equals, false, "dev-8", None),
        (pattern.clone(), false, "psk-dev-7", Some(Code::FORBIDDEN)),
        (pattern, false, "dev-7", None),
        (IdentityRule::None, false, "dev-7", None),
    ] {
        let mut scene = Scene::with(|settings| {
            settings.identity = rule.clone();
            settings.plain_udp_for_psk_devices = allowed;
        });
        scene.gateway.set_keyed_identities([PskIdentity::new(identity.as_bytes()).unwrap()].into());
        let register = scene.send_register(QUERY);
        match code {
            Some(code) => drop(scene.expect_reply(scene.peer, &register, code)),
            None => drop(scene.expect_connect()),
        }
        scene.expect_nothing_more();
        let forbidden = |report: &Report| matches!(report, Report::Forbidden { reason: Forbidden::HasKey, .. });
        assert_eq!(scene.reports().iter().any(forbidden), code.is_some(), "{rule:?} {identity}");
    }
}

#[test]
fn a_name_whose_key_is_taken_away_may_be_registered_over_plain_udp() {
    let mut scene = Scene::new();
    scene.gateway.set_keyed_identities([PskIdentity::new(b"dev-7").unwrap()].into());
    let register = scene.register_message(QUERY);
    scene.ask(&register, Code::FORBIDDEN);
    scene.gateway.set_keyed_identities([].into());
    scene.register(QUERY);
}
