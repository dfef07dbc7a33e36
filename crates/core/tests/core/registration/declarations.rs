//! The names and the object links that a device registers with.

use super::*;

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
    let mut scene = Scene::with(|config| config.report_attributes = true);
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
            let mut scene = Scene::with(|config| {
                if !template.is_empty() {
                    config.client.clientid = Template::for_client(template).expect("a template");
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
#[test]
fn an_endpoint_name_never_becomes_a_shared_subscription() {
    let mut scene = Scene::with(|config| {
        config.translators.mountpoint = Template::for_topic("${endpoint_name}/").unwrap();
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
