//! Reads, writes, creates and discovers of LwM2M 1.1 and 1.2, in every content format.

use std::collections::BTreeMap;

use super::*;

const NEWER: [SimulatedVersion; 2] = [SimulatedVersion::V1_1, SimulatedVersion::V1_2];

/// A device with a few values: an instance of object 33000 has one of each type, and a list that can be written.
fn config_with_types(version: SimulatedVersion) -> SimulatedDeviceConfig {
    let single = |value| SimulatedResource::Single(ResourceAccess::ReadWrite, value);
    let list = (0..).zip([0_u16, 1].map(|instance| SimulatedValue::ObjectLink { object: 11, instance })).collect();
    let mut objects = Objects::empty();
    objects.insert(33_000, 0, 0, single("ACME".into()));
    objects.insert(33_000, 0, 1, single(SimulatedValue::Integer(60)));
    objects.insert(33_000, 0, 2, single(SimulatedValue::Float(21.5)));
    objects.insert(33_000, 0, 3, single(SimulatedValue::Boolean(true)));
    objects.insert(33_000, 0, 4, single(SimulatedValue::Opaque(vec![0, 0xff, 0xfe])));
    objects.insert(33_000, 0, 5, SimulatedResource::Multiple(ResourceAccess::ReadWrite, list));
    objects.insert(33_000, 0, 6, SimulatedResource::Executable { runs: 0 });
    objects.insert(33_000, 0, 7, SimulatedResource::Single(ResourceAccess::Read, SimulatedValue::Integer(7)));
    SimulatedDeviceConfig { version, objects, wave: None, notification_interval: None, ..config() }
}

fn scene_of(version: SimulatedVersion) -> SimulatorScene {
    SimulatorScene::registered_with(config_with_types(version))
}

impl SimulatorScene {
    /// Reads with an Accept; gives the format and the payload.
    fn read_as(&mut self, path: &str, accept: u16) -> Result<(Option<u16>, Vec<u8>), Code> {
        let request = self.request(Code::GET, path, &[(number::ACCEPT, accept.into())]);
        let reply = self.ask(&request);
        let content = (reply.options.content_format(), reply.payload);
        if reply.code == Code::CONTENT { Ok(content) } else { Err(reply.code) }
    }

    fn discover(&mut self, path: &str, query: Option<&str>) -> (Code, String) {
        let mut request = self.request(Code::GET, path, &[(number::ACCEPT, format::LINK_FORMAT.into())]);
        if let Some(query) = query {
            request.options.add_text(number::URI_QUERY, query);
        }
        let reply = self.ask(&request);
        (reply.code, String::from_utf8(reply.payload).expect("text"))
    }

    fn value(&self, path: &str) -> Option<SimulatedValue> {
        match self.device.resource(at(path)) {
            Some(SimulatedResource::Single(_, value)) => Some(value.clone()),
            _ => None,
        }
    }

    fn list(&self) -> Vec<(u16, String)> {
        match self.device.resource(at("/33000/0/5")) {
            Some(SimulatedResource::Multiple(_, values)) => {
                values.iter().map(|(id, value)| (*id, value.text())).collect()
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_newer_device_registers_with_its_version_its_formats_and_queue_mode() {
    for (version, formats, query_item, root) in [
        (SimulatedVersion::V1_1, vec![112], "lwm2m=1.1", r#"</>;rt="oma.lwm2m";ct=112,"#),
        (SimulatedVersion::V1_2, vec![11_544, 112], "lwm2m=1.2", r#"</>;rt="oma.lwm2m";ct="11544 112","#),
    ] {
        let config = SimulatedDeviceConfig {
            queue_mode: true,
            announced_formats: formats,
            ..SimulatedDeviceConfig::of_version("dev-7", version)
        };
        let mut scene = SimulatorScene::new(config);
        scene.device.start(scene.now);
        let register = scene.expect_transmitted();
        assert_eq!(query(&register), ["ep=dev-7", "lt=300", query_item, "b=U", "Q"]);
        assert_eq!(String::from_utf8_lossy(&register.payload), format!("{root}</1/0>,</3/0>,</3303/0>"));
    }
}

#[test]
fn a_single_value_is_read_in_the_format_that_the_server_accepts() {
    let mut scene = scene_of(SimulatedVersion::V1_2);
    for (path, accept, payload) in [
        ("/33000/0/1", format::TEXT, &b"60"[..]),
        ("/33000/0/1", format::CBOR, b"\x18\x3c"),
        ("/33000/0/1", format::TLV, b"\xc1\x01\x3c"),
        ("/33000/0/1", format::SENML_CBOR, b"\x81\xa2\x21\x6a/33000/0/1\x02\x18\x3c"),
        ("/33000/0/1", format::SENML_JSON, br#"[{"bn":"/33000/0/1","v":60}]"#),
        ("/33000/0/1", format::LWM2M_CBOR, b"\xa1\x19\x80\xe8\xa1\x00\xa1\x01\x18\x3c"),
        ("/33000/0/4", format::OCTET_STREAM, b"\x00\xff\xfe"),
        ("/33000/0/4", format::TEXT, b"AP/+"),
        ("/33000/0/5/1", format::CBOR, b"\x6411:1"),
        ("/33000/0/5/1", format::SENML_CBOR, b"\x81\xa2\x21\x6c/33000/0/5/1\x63vlo\x6411:1"),
        ("/33000/0/5/1", format::TLV, b"\x44\x01\x00\x0b\x00\x01"),
    ] {
        assert_eq!(scene.read_as(path, accept), Ok((Some(accept), payload.to_vec())), "{path} {accept}");
    }
}

#[test]
fn an_instance_is_read_in_the_formats_that_have_paths() {
    let mut scene = scene_of(SimulatedVersion::V1_2);
    assert_eq!(
        scene.read_as("/33000/0", format::SENML_CBOR),
        Ok((
            Some(112),
            b"\x88\xa3\x21\x69/33000/0/\x00\x610\x03\x64ACME\xa2\x00\x611\x02\x18\x3c\
              \xa2\x00\x612\x02\xfb\x40\x35\x80\x00\x00\x00\x00\x00\xa2\x00\x613\x04\xf5\
              \xa2\x00\x614\x08\x43\x00\xff\xfe\
              \xa2\x00\x635/0\x63vlo\x6411:0\xa2\x00\x635/1\x63vlo\x6411:1\xa2\x00\x617\x02\x07"
                .to_vec()
        ))
    );
    let (content_format, json) = scene.read_as("/33000", format::SENML_JSON).expect("a 2.05");
    assert_eq!(content_format, Some(110));
    assert_eq!(
        String::from_utf8_lossy(&json),
        r#"[{"bn":"/33000/","n":"0/0","vs":"ACME"},{"n":"0/1","v":60},{"n":"0/2","v":21.5},{"n":"0/3","vb":true},"#
            .to_owned()
            + r#"{"n":"0/4","vd":"AP_-"},{"n":"0/5/0","vlo":"11:0"},{"n":"0/5/1","vlo":"11:1"},{"n":"0/7","v":7}]"#
    );
    assert_eq!(
        scene.read_as("/33000/0/5", format::LWM2M_CBOR),
        Ok((Some(11_544), b"\xa1\x19\x80\xe8\xa1\x00\xa1\x05\xa2\x00\x6411:0\x01\x6411:1".to_vec()))
    );
}

#[test]
fn without_an_accept_a_newer_device_prefers_text_for_one_value_and_senml_cbor_for_several() {
    for version in NEWER {
        let mut scene = scene_of(version);
        let mut answer = |path: &str| {
            let request = scene.request(Code::GET, path, &[]);
            scene.ask(&request).options.content_format()
        };
        assert_eq!(answer("/33000/0/1"), Some(format::TEXT));
        assert_eq!(answer("/33000/0/4"), Some(format::OCTET_STREAM));
        assert_eq!(answer("/33000/0"), Some(format::SENML_CBOR));
    }
}

#[test]
fn a_format_that_the_version_does_not_have_or_that_cannot_hold_the_values_is_not_acceptable() {
    for (version, path, accept) in [
        (SimulatedVersion::V1_0, "/33000/0/1", format::SENML_CBOR),
        (SimulatedVersion::V1_1, "/33000/0/1", format::LWM2M_CBOR),
        (SimulatedVersion::V1_2, "/33000/0/1", format::OCTET_STREAM),
        (SimulatedVersion::V1_2, "/33000/0", format::TEXT),
        (SimulatedVersion::V1_2, "/33000/0/5", format::CBOR),
        (SimulatedVersion::V1_2, "/33000/0", 322),
        (SimulatedVersion::V1_2, "/33000/0", 50),
    ] {
        assert_eq!(scene_of(version).read_as(path, accept), Err(Code::NOT_ACCEPTABLE), "{version} {path} {accept}");
    }
}

#[test]
fn formats_can_be_made_unknown_and_known_again() {
    let mut scene = SimulatorScene::registered_with(SimulatedDeviceConfig {
        unsupported_formats: vec![format::SENML_CBOR],
        ..config_with_types(SimulatedVersion::V1_1)
    });
    let json = br#"[{"bn":"/33000/0/1","v":61}]"#;
    assert_eq!(scene.read_as("/33000/0", format::SENML_CBOR), Err(Code::NOT_ACCEPTABLE));
    let cbor = b"\x81\xa2\x21\x6a/33000/0/1\x02\x18\x3d";
    assert_eq!(scene.write(Code::PUT, "/33000/0/1", format::SENML_CBOR, cbor), Code::UNSUPPORTED_CONTENT_FORMAT);
    assert_eq!(scene.write(Code::PUT, "/33000/0/1", format::SENML_JSON, json), Code::CHANGED);
    let request = scene.request(Code::GET, "/33000/0", &[]);
    assert_eq!(scene.ask(&request).options.content_format(), Some(format::SENML_JSON));

    scene.device.set_unsupported_formats([format::SENML_JSON, format::TLV]);
    assert_eq!(scene.write(Code::PUT, "/33000/0/1", format::SENML_JSON, json), Code::UNSUPPORTED_CONTENT_FORMAT);
    assert_eq!(scene.write(Code::PUT, "/33000/0/1", format::SENML_CBOR, cbor), Code::CHANGED);
    assert_eq!(scene.read_as("/33000/0", format::TLV), Err(Code::NOT_ACCEPTABLE));
}

#[test]
fn a_value_is_written_in_every_format() {
    for (content_format, payload) in [
        (format::TEXT, &b"3600"[..]),
        (format::CBOR, b"\x19\x0e\x10"),
        (format::TLV, b"\xc2\x01\x0e\x10"),
        (format::SENML_CBOR, b"\x81\xa2\x21\x6a/33000/0/1\x02\x19\x0e\x10"),
        (format::SENML_JSON, br#"[{"bn":"/33000/0/1","v":3600}]"#),
        (format::LWM2M_CBOR, b"\xa1\x83\x19\x80\xe8\x00\x01\x19\x0e\x10"),
    ] {
        let mut scene = scene_of(SimulatedVersion::V1_2);
        assert_eq!(scene.write(Code::PUT, "/33000/0/1", content_format, payload), Code::CHANGED, "{content_format}");
        assert_eq!(scene.value("/33000/0/1"), Some(SimulatedValue::Integer(3600)), "{content_format}");
    }
    let mut scene = scene_of(SimulatedVersion::V1_1);
    assert_eq!(scene.write(Code::PUT, "/33000/0/4", format::OCTET_STREAM, b"\x01\x02"), Code::CHANGED);
    assert_eq!(scene.value("/33000/0/4"), Some(SimulatedValue::Opaque(vec![1, 2])));
}

#[test]
fn a_write_that_does_not_fit_changes_nothing() {
    let mut scene = scene_of(SimulatedVersion::V1_2);
    for (path, content_format, payload, code) in [
        // Another type, another path, two values, a name without a slash, a null outside of a patch.
        ("/33000/0/1", format::SENML_CBOR, &b"\x81\xa2\x21\x6a/33000/0/1\x03\x6261"[..], Code::BAD_REQUEST),
        ("/33000/0/1", format::SENML_CBOR, b"\x81\xa2\x21\x6a/33000/0/2\x02\x05", Code::BAD_REQUEST),
        ("/33000/0/1", format::SENML_JSON, br#"[{"bn":"/33000/0/1","v":1},{"v":2}]"#, Code::BAD_REQUEST),
        ("/33000/0/1", format::SENML_JSON, br#"[{"bn":"33000/0/1","v":1}]"#, Code::BAD_REQUEST),
        ("/33000/0/1", format::SENML_JSON, br#"[{"bn":"/33000/0/1","v":null}]"#, Code::BAD_REQUEST),
        ("/33000/0/1", format::SENML_JSON, b"[]", Code::BAD_REQUEST),
        ("/33000/0/1", format::CBOR, b"\xfb\x40\x35\x80\x00\x00\x00\x00\x00", Code::BAD_REQUEST),
        ("/33000/0/1", format::LWM2M_CBOR, b"\xa1\x01\x05", Code::BAD_REQUEST),
        ("/33000/0/7", format::TEXT, b"8", Code::METHOD_NOT_ALLOWED),
        ("/33000/0/5", format::TEXT, b"11:1", Code::UNSUPPORTED_CONTENT_FORMAT),
        ("/33000/0/1", format::OCTET_STREAM, b"8", Code::UNSUPPORTED_CONTENT_FORMAT),
        ("/33000/0", format::CBOR, b"\x05", Code::UNSUPPORTED_CONTENT_FORMAT),
        ("/33000/0/1", 322, b"\x81\xa2\x21\x6a/33000/0/1\x02\x05", Code::UNSUPPORTED_CONTENT_FORMAT),
        ("/33000/0/5/9", format::TEXT, b"11:1", Code::NOT_FOUND),
        ("/33000/1/1", format::TEXT, b"1", Code::NOT_FOUND),
    ] {
        assert_eq!(scene.write(Code::PUT, path, content_format, payload), code, "{path} {payload:02x?}");
    }
    assert_eq!(scene.value("/33000/0/1"), Some(SimulatedValue::Integer(60)));
    assert_eq!(scene.list(), [(0, "11:0".to_owned()), (1, "11:1".to_owned())]);
}

#[test]
fn a_post_updates_an_instance_and_a_put_replaces_it() {
    let mut scene = scene_of(SimulatedVersion::V1_2);
    let update = b"\x82\xa3\x21\x69/33000/0/\x00\x611\x02\x01\xa2\x00\x635/4\x63vlo\x6411:4";
    assert_eq!(scene.write(Code::POST, "/33000/0", format::SENML_CBOR, update), Code::CHANGED);
    assert_eq!(scene.value("/33000/0/0"), Some("ACME".into()));
    assert_eq!(scene.value("/33000/0/1"), Some(SimulatedValue::Integer(1)));
    assert_eq!(scene.list().iter().map(|(id, _)| *id).collect::<Vec<_>>(), [0, 1, 4]);

    let replace = b"\xa1\x82\x19\x80\xe8\x00\xa2\x01\x02\x05\xa1\x03\x6411:3";
    assert_eq!(scene.write(Code::PUT, "/33000/0", format::LWM2M_CBOR, replace), Code::CHANGED);
    assert_eq!(scene.value("/33000/0/0"), None);
    assert_eq!(scene.value("/33000/0/1"), Some(SimulatedValue::Integer(2)));
    assert_eq!(scene.value("/33000/0/7"), Some(SimulatedValue::Integer(7)));
    assert_eq!(scene.list(), [(3, "11:3".to_owned())]);

    let read_only = b"\x81\xa3\x21\x69/33000/0/\x00\x617\x02\x01";
    assert_eq!(scene.write(Code::POST, "/33000/0", format::SENML_CBOR, read_only), Code::METHOD_NOT_ALLOWED);
}

#[test]
fn instances_of_a_resource_are_added_replaced_written_and_deleted() {
    let mut scene = scene_of(SimulatedVersion::V1_2);
    let second = b"\x81\xa2\x21\x6c/33000/0/5/2\x63vlo\x6411:2";
    assert_eq!(scene.write(Code::POST, "/33000/0/5", format::SENML_CBOR, second), Code::CHANGED);
    assert_eq!(scene.list(), [(0, "11:0".to_owned()), (1, "11:1".to_owned()), (2, "11:2".to_owned())]);
    assert_eq!(scene.write(Code::PUT, "/33000/0/5", format::SENML_CBOR, second), Code::CHANGED);
    assert_eq!(scene.list(), [(2, "11:2".to_owned())]);
    assert_eq!(scene.write(Code::PUT, "/33000/0/5/2", format::TEXT, b"12:0"), Code::CHANGED);
    assert_eq!(scene.list(), [(2, "12:0".to_owned())]);
    assert_eq!(scene.write(Code::PUT, "/33000/0/5", format::TLV, b"\x86\x05\x44\x00\x00\x0b\x00\x00"), Code::CHANGED);
    assert_eq!(scene.list(), [(0, "11:0".to_owned())]);

    let request = scene.request(Code::DELETE, "/33000/0/5/0", &[]);
    assert_eq!(scene.ask(&request).code, Code::DELETED);
    assert_eq!(scene.list(), []);
    let request = scene.request(Code::DELETE, "/33000/0/5/0", &[]);
    assert_eq!(scene.ask(&request).code, Code::NOT_FOUND);
    // The type of the resource outlives its instances.
    assert_eq!(scene.write(Code::PUT, "/33000/0/5", format::SENML_CBOR, second), Code::CHANGED);

    let mut older = scene_of(SimulatedVersion::V1_1);
    let request = older.request(Code::DELETE, "/33000/0/5/0", &[]);
    assert_eq!(older.ask(&request).code, Code::METHOD_NOT_ALLOWED);
}

#[test]
fn an_instance_is_created_with_the_id_of_the_payload_or_with_one_that_the_device_chooses() {
    let mut scene = scene_of(SimulatedVersion::V1_2);
    let mut create = |content_format: Option<u16>, payload: &[u8]| {
        let mut request = scene.request(Code::POST, "/33000", &[]);
        request.payload = payload.to_vec();
        if let Some(content_format) = content_format {
            request.options.add_uint(number::CONTENT_FORMAT, content_format.into());
        }
        scene.receive(&request);
        scene.poll();
        let position = scene.sent.iter().position(|message| message.token == request.token).expect("an answer");
        let reply = scene.sent.remove(position).expect("an answer");
        let location = reply.options.texts(number::LOCATION_PATH).expect("text").join("/");
        (reply.code, location)
    };
    let created = |location: &str| (Code::CREATED, location.to_owned());
    assert_eq!(create(Some(format::SENML_CBOR), b"\x81\xa3\x21\x67/33000/\x00\x634/1\x02\x05"), created("33000/4"));
    assert_eq!(create(Some(format::SENML_JSON), br#"[{"bn":"/33000/","n":"2/1","v":5}]"#), created("33000/2"));
    assert_eq!(create(Some(format::LWM2M_CBOR), b"\xa1\x19\x80\xe8\xa1\x05\xa1\x01\x05"), created("33000/5"));
    assert_eq!(create(Some(format::TLV), b"\xc1\x01\x05"), created("33000/1"));
    assert_eq!(create(None, b""), created("33000/3"));

    for (content_format, payload, code) in [
        (format::SENML_JSON, &br#"[{"bn":"/33000/","n":"2/1","v":5}]"#[..], Code::BAD_REQUEST),
        (format::SENML_JSON, br#"[{"bn":"/33000/","n":"8/1","v":5},{"n":"9/1","v":5}]"#, Code::BAD_REQUEST),
        (format::TEXT, b"5", Code::UNSUPPORTED_CONTENT_FORMAT),
    ] {
        assert_eq!(create(Some(content_format), payload), (code, String::new()));
    }
    assert_eq!(scene.value("/33000/4/1"), Some(SimulatedValue::Integer(5)));
    assert_eq!(scene.value("/33000/1/1"), Some(SimulatedValue::Integer(5)));
}

#[test]
fn a_discover_goes_as_deep_as_the_server_asks() {
    let mut scene = scene_of(SimulatedVersion::V1_2);
    let content = |links: &str| (Code::CONTENT, links.to_owned());
    assert_eq!(scene.discover("/33000", Some("depth=0")), content("</33000>"));
    assert_eq!(scene.discover("/33000", Some("depth=1")), content("</33000>,</33000/0>"));
    let instances = "</33000/0/5>;dim=2,</33000/0/5/0>,</33000/0/5/1>";
    assert_eq!(scene.discover("/33000/0/5", None), content(instances));
    assert_eq!(scene.discover("/33000/0/5", Some("depth=0")), content("</33000/0/5>;dim=2"));
    assert!(scene.discover("/33000", Some("depth=3")).1.contains(instances));
    assert!(!scene.discover("/33000", None).1.contains("</33000/0/5/0>"));
    assert_eq!(scene.discover("/33000", Some("depth=x")).0, Code::BAD_REQUEST);

    let mut older = scene_of(SimulatedVersion::V1_0);
    assert_eq!(older.discover("/33000/0/5", None), content("</33000/0/5>"));
}

#[test]
fn attributes_of_1_2_are_kept_and_con_decides_whether_notifications_are_confirmable() {
    let mut scene = scene_of(SimulatedVersion::V1_2);
    let mut write_attributes = |items: &[&str]| {
        let mut request = scene.request(Code::PUT, "/33000/0/2", &[]);
        for item in items {
            request.options.add_text(number::URI_QUERY, item);
        }
        scene.ask(&request).code
    };
    assert_eq!(write_attributes(&["con=1", "edge=1", "hqmax=5", "epmin=2"]), Code::CHANGED);
    assert_eq!(write_attributes(&["edge"]), Code::CHANGED);
    assert_eq!(write_attributes(&["colour=1"]), Code::BAD_REQUEST);
    let expected = "</33000/0/2>;con=1;epmin=2;hqmax=5".to_owned();
    assert_eq!(scene.discover("/33000/0/2", None), (Code::CONTENT, expected));

    let token = scene.observe("/33000/0/2");
    scene.change("/33000/0/2", 22.0);
    let id = scene.expect_notification(token, Kind::Confirmable, 2, "22");
    scene.receive(&Message::empty(Kind::Acknowledgement, id));
}

#[test]
fn the_attributes_of_an_observe_hold_for_this_observation_only() {
    let observe = |scene: &mut SimulatorScene| {
        let mut request = scene.request(Code::GET, "/33000/0/2", &[(number::OBSERVE, 0)]);
        request.options.add_text(number::URI_QUERY, "pmax=60");
        scene.ask(&request);
        request.token
    };
    let mut scene = scene_of(SimulatedVersion::V1_2);
    let token = observe(&mut scene);
    assert_eq!(scene.discover("/33000/0/2", None).1, "</33000/0/2>");
    assert_eq!(scene.advance_to_next_deadline(), Duration::from_secs(60));
    scene.expect_notification(token, Kind::NonConfirmable, 2, "21.5");

    let mut older = scene_of(SimulatedVersion::V1_1);
    observe(&mut older);
    // The Update is due, and no notification.
    assert_eq!(older.advance_to_next_deadline(), Duration::from_secs(207));
}

#[test]
fn a_resource_whose_instances_are_all_gone_is_read_as_empty() {
    let mut config = config_with_types(SimulatedVersion::V1_2);
    config.objects.insert(33_000, 0, 5, SimulatedResource::Multiple(ResourceAccess::ReadWrite, BTreeMap::new()));
    let mut scene = SimulatorScene::registered_with(config);
    for (accept, payload) in [
        (format::SENML_CBOR, &b"\x80"[..]),
        (format::SENML_JSON, b"[]"),
        (format::LWM2M_CBOR, b"\xa0"),
        (format::TLV, b"\x80\x05"),
    ] {
        assert_eq!(scene.read_as("/33000/0/5", accept), Ok((Some(accept), payload.to_vec())));
    }
}
