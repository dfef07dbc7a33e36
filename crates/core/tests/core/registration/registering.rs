//! Register: what the broker decides, and what the device is answered.

use super::*;

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
        "ep": "dev-7", "lt": 300, "lwm2m": "1.1", "b": "U", "imei": "490154", "alternatePath": "/",
            "objectList": objects,
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
    let mut scene = Scene::with(|config| config.limits.retry_after = Duration::from_secs(17));
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
    let mut scene = Scene::with(|config| config.limits.devices = 1);
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
    let mut scene = Scene::with(|config| config.coap.pending_requests = 1);
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
    let mut scene = Scene::with(|config| {
        config.translators.mountpoint = Template::for_topic("lwm2m/dev-7/").expect("a template");
    });
    let mut locations = std::collections::HashSet::new();
    for number in 0..100 {
        scene.register(&format!("ep=dev-{number}&lt=300"));
        let [rd, id] = &scene.location[..] else { panic!("{:?}", scene.location) };
        assert_eq!((rd.as_str(), id.len()), ("rd", 12));
        assert!(locations.insert(id.clone()));
    }
}
