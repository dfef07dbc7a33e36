//! Read-, Observe- and Write-Composite.

use super::*;

/// The paths `/3303/0/5700` and `/3/0/9` as SenML CBOR.
const PATHS: &[u8] = b"\x82\xa1\x00\x6c/3303/0/5700\xa1\x00\x66/3/0/9";

fn scene_of(version: SimulatedVersion) -> SimulatorScene {
    let config = SimulatedDeviceConfig::of_version("dev-7", version);
    let mut config = SimulatedDeviceConfig { notification_interval: None, wave: None, ..config };
    let servers = (0..).zip([SimulatedValue::ObjectLink { object: 0, instance: 0 }]).collect();
    config.objects.insert(1, 0, 24, SimulatedResource::Multiple(ResourceAccess::ReadWrite, servers));
    SimulatorScene::registered_with(config)
}

impl SimulatorScene {
    fn fetch(&mut self, content_format: u16, payload: &[u8], options: &[(u16, u32)]) -> Message {
        let mut request = self.request(Code::FETCH, "", options);
        request.options.add_uint(number::CONTENT_FORMAT, content_format.into());
        request.payload = payload.to_vec();
        self.ask(&request)
    }

    fn patch(&mut self, content_format: u16, payload: &[u8]) -> Code {
        self.write(Code::IPATCH, "", content_format, payload)
    }
}

#[test]
fn a_composite_read_gives_what_is_there_of_each_path_in_their_order() {
    let mut scene = scene_of(SimulatedVersion::V1_1);
    let reply = scene.fetch(112, b"\x84\xa1\x00\x66/3/0/9\xa1\x00\x67/3/0/99\xa1\x00\x66/3/0/6\xa1\x00\x66/3/0/9", &[]);
    assert_eq!((reply.code, reply.options.content_format()), (Code::CONTENT, Some(112)));
    let (path, content_format) = ("/".to_owned(), Some(112));
    scene.expect_event(DeviceEvent::Answered { method: Code::FETCH, path, code: Code::CONTENT, content_format });
    assert_eq!(
        reply.payload,
        b"\x83\xa2\x00\x66/3/0/9\x02\x18\x57\xa2\x00\x68/3/0/6/0\x02\x01\xa2\x00\x68/3/0/6/1\x02\x05"
    );

    let reply = scene.fetch(110, br#"[{"n":"/3/0/0"},{"n":"/1/0/23"}]"#, &[(number::ACCEPT, 110)]);
    assert_eq!(
        String::from_utf8_lossy(&reply.payload),
        r#"[{"n":"/3/0/0","vs":"Weather Works"},{"n":"/1/0/23","vb":false}]"#
    );

    let reply = scene.fetch(112, b"\x81\xa1\x00\x67/3/0/99", &[]);
    assert_eq!((reply.code, reply.payload.as_slice()), (Code::CONTENT, &b"\x80"[..]));

    let whole = scene.fetch(112, b"\x81\xa1\x00\x61/", &[(number::ACCEPT, 110)]);
    let text = String::from_utf8_lossy(&whole.payload).into_owned();
    assert!(
        text.starts_with(r#"[{"n":"/1/0/0","v":1},"#) && text.ends_with(r#"{"n":"/3303/0/5701","vs":"Cel"}]"#),
        "{text}"
    );
}

#[test]
fn a_composite_read_is_answered_in_lwm2m_cbor_and_its_paths_may_be_a_patch_format() {
    let mut scene = scene_of(SimulatedVersion::V1_2);
    let reply = scene.fetch(322, PATHS, &[(number::ACCEPT, 11_544)]);
    assert_eq!(reply.options.content_format(), Some(11_544));
    assert_eq!(
        reply.payload,
        b"\xa2\x03\xa1\x00\xa1\x09\x18\x57\x19\x0c\xe7\xa1\x00\xa1\x19\x16\x44\xfb\x40\x35\x00\x00\x00\x00\x00\x00"
    );
    assert_eq!(scene.fetch(322, PATHS, &[]).options.content_format(), Some(112));
    assert_eq!(scene.fetch(320, br#"[{"n":"/3/0/9"}]"#, &[]).payload, br#"[{"n":"/3/0/9","v":87}]"#);
}

#[test]
fn a_composite_read_that_cannot_be_done_is_answered_with_the_reason() {
    let mut scene = scene_of(SimulatedVersion::V1_1);
    assert_eq!(scene.fetch(112, b"\x81\xa2\x00\x66/3/0/9\x02\x01", &[]).code, Code::BAD_REQUEST);
    assert_eq!(scene.fetch(112, b"\x81\xa1\x00\x65/3/x9", &[]).code, Code::BAD_REQUEST);
    assert_eq!(scene.fetch(112, b"\x80", &[]).code, Code::BAD_REQUEST);
    assert_eq!(scene.fetch(322, PATHS, &[]).code, Code::UNSUPPORTED_CONTENT_FORMAT);
    assert_eq!(scene.fetch(11_542, b"\xc1\x01\x05", &[]).code, Code::UNSUPPORTED_CONTENT_FORMAT);
    for accept in [0, 60, 11_542, 11_544] {
        assert_eq!(scene.fetch(112, PATHS, &[(number::ACCEPT, accept)]).code, Code::NOT_ACCEPTABLE, "{accept}");
    }
    scene.device.set_unsupported_formats([112]);
    assert_eq!(scene.fetch(112, PATHS, &[]).code, Code::UNSUPPORTED_CONTENT_FORMAT);
    assert_eq!(scene.fetch(110, br#"[{"n":"/3/0/9"}]"#, &[(number::ACCEPT, 112)]).code, Code::NOT_ACCEPTABLE);
    assert_eq!(scene.fetch(110, br#"[{"n":"/3/0/9"}]"#, &[]).code, Code::CONTENT);

    let mut older = scene_of(SimulatedVersion::V1_0);
    assert_eq!(older.fetch(112, PATHS, &[]).code, Code::METHOD_NOT_ALLOWED);
    assert_eq!(older.patch(112, b"\x81\xa2\x00\x66/1/0/1\x02\x18\x3c"), Code::METHOD_NOT_ALLOWED);
}

#[test]
fn a_composite_write_changes_all_of_it() {
    for (content_format, payload) in [
        (
            112,
            &b"\x83\xa2\x00\x66/1/0/6\x04\xf5\xa2\x00\x67/3/0/14\x03\x66+02:00\xa2\x00\x69/1/0/24/2\x63vlo\x630:2"[..],
        ),
        (110, br#"[{"n":"/1/0/6","vb":true},{"n":"/3/0/14","vs":"+02:00"},{"n":"/1/0/24/2","vlo":"0:2"}]"#),
        (11_544, b"\xa2\x01\xa1\x00\xa2\x06\xf5\x18\x18\xa1\x02\x630:2\x03\xa1\x00\xa1\x0e\x66+02:00"),
        (322, b"\x83\xa2\x00\x66/1/0/6\x04\xf5\xa2\x00\x67/3/0/14\x03\x66+02:00\xa2\x00\x69/1/0/24/2\x63vlo\x630:2"),
    ] {
        let mut scene = scene_of(SimulatedVersion::V1_2);
        assert_eq!(scene.patch(content_format, payload), Code::CHANGED, "{content_format}");
        assert_eq!(scene.read("/1/0/6").1, "1");
        assert_eq!(scene.read("/3/0/14").1, "+02:00");
        assert_eq!(scene.read("/1/0/24/0").1, "0:0");
        assert_eq!(scene.read("/1/0/24/2").1, "0:2");
    }
}

#[test]
fn a_null_of_a_patch_takes_a_resource_instance_away() {
    let mut scene = scene_of(SimulatedVersion::V1_2);
    assert_eq!(scene.patch(322, b"\x82\xa2\x00\x69/1/0/24/0\x02\xf6\xa2\x00\x66/1/0/1\x02\x18\x3c"), Code::CHANGED);
    assert_eq!(query(&scene.expect_transmitted()), ["lt=60"]);
    assert_eq!(scene.read("/1/0/24/0").0, Code::NOT_FOUND);
    assert_eq!(scene.patch(320, br#"[{"n":"/1/0/24/0","v":null}]"#), Code::NOT_FOUND);
    assert_eq!(scene.patch(320, br#"[{"n":"/1/0/6","vb":null}]"#), Code::BAD_REQUEST);
}

#[test]
fn a_composite_write_with_one_fault_changes_nothing() {
    let mut scene = scene_of(SimulatedVersion::V1_2);
    let good = r#"{"n":"/3/0/14","vs":"+02:00"}"#;
    for (content_format, other, code) in [
        (110, r#"{"n":"/3/0/0","vs":"ACME"}"#, Code::METHOD_NOT_ALLOWED),
        (110, r#"{"n":"/3/0/4","v":1}"#, Code::METHOD_NOT_ALLOWED),
        (110, r#"{"n":"/3/1/14","vs":"x"}"#, Code::NOT_FOUND),
        (110, r#"{"n":"/3/0/99","vs":"x"}"#, Code::NOT_FOUND),
        (110, r#"{"n":"/3/0/14","vs":"x"}"#, Code::BAD_REQUEST),
        (110, r#"{"n":"/3/0/13","vs":"x"}"#, Code::BAD_REQUEST),
        (110, r#"{"n":"/3/0"}"#, Code::BAD_REQUEST),
        (110, r#"{"n":"/1/0/24/0","v":null}"#, Code::BAD_REQUEST),
        (320, r#"{"n":"/1/0/24/7","v":null}"#, Code::NOT_FOUND),
    ] {
        let payload = format!("[{good},{other}]");
        assert_eq!(scene.patch(content_format, payload.as_bytes()), code, "{payload}");
    }
    assert_eq!(scene.patch(110, b"[]"), Code::BAD_REQUEST);
    assert_eq!(scene.patch(60, b"\x05"), Code::UNSUPPORTED_CONTENT_FORMAT);
    assert_eq!(scene.patch(11_542, b"\xc1\x01\x05"), Code::UNSUPPORTED_CONTENT_FORMAT);
    assert_eq!(scene.read("/3/0/14").1, "+01:00");
}

#[test]
fn a_composite_observation_is_notified_as_a_whole_until_observe_1() {
    let mut scene = scene_of(SimulatedVersion::V1_1);
    let observation = scene.fetch(112, PATHS, &[(number::OBSERVE, 0), (number::ACCEPT, 110)]);
    assert_eq!(observation.options.uint(number::OBSERVE), Ok(Some(1)));
    let paths = vec![at("/3303/0/5700"), at("/3/0/9")];
    scene.expect_event(DeviceEvent::ObservationBegan { paths: paths.clone() });

    let token = observation.token;
    scene.change("/3303/0/5700", 19.5);
    let expected = r#"[{"n":"/3303/0/5700","v":19.5},{"n":"/3/0/9","v":87}]"#;
    scene.expect_notification(token, Kind::NonConfirmable, 2, expected);
    assert!(scene.device.notify(scene.now, at("/3/0/9"), SimulatedValue::Integer(86)));
    let expected = r#"[{"n":"/3303/0/5700","v":19.5},{"n":"/3/0/9","v":86}]"#;
    scene.expect_notification(token, Kind::NonConfirmable, 3, expected);
    scene.change("/3303/0/5601", 1.0);
    scene.expect_nothing_more();

    let mut cancel =
        scene.request(Code::FETCH, "", &[(number::OBSERVE, 1), (number::ACCEPT, 110), (number::CONTENT_FORMAT, 112)]);
    (cancel.token, cancel.payload) = (token, PATHS.to_vec());
    let reply = scene.ask(&cancel);
    assert_eq!((reply.code, reply.options.contains(number::OBSERVE)), (Code::CONTENT, false));
    scene.expect_event(DeviceEvent::ObservationEnded { paths });
    scene.change("/3303/0/5700", 20.0);
    scene.expect_nothing_more();
}

#[test]
fn a_single_observation_lives_beside_a_composite_one() {
    let mut scene = scene_of(SimulatedVersion::V1_1);
    let composite = scene.fetch(112, PATHS, &[(number::OBSERVE, 0)]).token;
    let single = scene.observe("/3303/0/5700");
    let mut cancel = scene.request(Code::GET, "/3303/0/5700", &[(number::OBSERVE, 1)]);
    cancel.token = single;
    scene.ask(&cancel);

    scene.change("/3303/0/5700", 19.5);
    let notification = scene.expect_transmitted();
    assert_eq!((notification.token, notification.options.content_format()), (composite, Some(112)));
    scene.expect_nothing_more();
}

#[test]
fn a_composite_write_notifies_each_observation_once() {
    let mut scene = scene_of(SimulatedVersion::V1_1);
    let token = scene.fetch(112, b"\x81\xa1\x00\x62/3", &[(number::OBSERVE, 0)]).token;
    assert_eq!(scene.patch(110, br#"[{"n":"/3/0/14","vs":"Z"},{"n":"/3/0/15","vs":"UTC"}]"#), Code::CHANGED);
    let notification = scene.expect_transmitted();
    assert_eq!(notification.token, token);
    assert!(notification.payload.windows(4).any(|part| part == b"\x63UTC"));
    scene.expect_nothing_more();
}

#[test]
fn the_shortest_pmax_of_the_paths_counts_unless_the_observe_has_its_own() {
    for (own, seconds) in [(None, 20), (Some("pmax=50"), 50)] {
        let mut scene = scene_of(SimulatedVersion::V1_2);
        for (path, item) in [("/3303/0/5700", "pmax=40"), ("/3/0", "pmax=20")] {
            let mut request = scene.request(Code::PUT, path, &[]);
            request.options.add_text(number::URI_QUERY, item);
            assert_eq!(scene.ask(&request).code, Code::CHANGED);
        }
        let mut request = scene.request(Code::FETCH, "", &[(number::OBSERVE, 0), (number::CONTENT_FORMAT, 112)]);
        request.payload = PATHS.to_vec();
        if let Some(own) = own {
            request.options.add_text(number::URI_QUERY, own);
        }
        assert_eq!(scene.ask(&request).code, Code::CONTENT);
        assert_eq!(scene.advance_to_next_deadline(), Duration::from_secs(seconds));
        assert_eq!(scene.expect_transmitted().token, request.token);
    }
}
