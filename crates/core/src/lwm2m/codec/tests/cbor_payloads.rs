use super::*;

/// RFC 8949 section 3.4: tag 4 is a decimal fraction, tags 1 and 0 are times. Each is read in every CBOR format.
#[test]
fn cbor_numbers_and_times_may_have_their_tags() {
    let scene = CodecScene::new();
    for (resource, item, value) in [
        (11, "c4 82 20 18d7", Value::Float(21.5)),
        (11, "c4 82 00 1837", Value::Float(55.0)),
        (11, "c4 9f 20 18d7 ff", Value::Float(21.5)),
        (11, "c4 82 390143 01", Value::Float(1e-324)),
        (9, "c4 82 01 05", Value::Integer(50)),
        (9, "c4 82 20 190208", Value::Integer(52)),
        (9, "c4 82 12 09", Value::Integer(9_000_000_000_000_000_000)),
        (13, "c1 1a 5e0be100", Value::Time(1_577_836_800)),
        (13, "c1 c4 82 01 1a 096630b0", Value::Time(1_576_920_800)),
        (13, "c0 7819 323032302d30312d30315430303a30303a30302d30303a3030", Value::Time(1_577_836_800)),
        (13, "c0 74 323032302d30312d30315430303a30303a30305a", Value::Time(1_577_836_800)),
        (13, "7819 323032302d30312d30315430323a33303a30302b30323a3330", Value::Time(1_577_836_800)),
    ] {
        let request = format!("/3/0/{resource}");
        let cbor = hex(item);
        assert_eq!(scene.values(&request, format::CBOR, &cbor), one(&request, value.clone()), "{item}");
        let lwm2m = [
            hex("a1 83 0300"),
            hex(if resource == 9 {
                "09"
            } else if resource == 11 {
                "0b"
            } else {
                "0d"
            }),
            cbor.clone(),
        ];
        assert_eq!(scene.values("/3/0", format::LWM2M_CBOR, &lwm2m.concat()), one(&request, value.clone()), "{item}");
        let label = if cbor[0] >> 5 == 3 { "03" } else { "02" };
        let name = hex(&format!("{:02x}", 0x60 + request.len()));
        let senml = [hex("81 a2 00"), name, request.clone().into_bytes(), hex(label), cbor];
        assert_eq!(scene.values(&request, format::SENML_CBOR, &senml.concat()), one(&request, value), "{item}");
    }
}

#[test]
fn cbor_tags_that_say_something_else_are_refused() {
    let scene = CodecScene::new();
    for (resource, item) in [
        ("/3/0/9", "c4 82 20 18d7"),
        ("/3/0/11", "c4 81 20"),
        ("/3/0/11", "c4 83 20 18d7 00"),
        ("/3/0/11", "c4 82 190191 01"),
        ("/3/0/11", "c4 82 1b7fffffffffffffff 01"),
        ("/3/0/11", "c4 82 190190 01"),
        ("/3/0/11", "c4 18d7"),
        ("/3/0/11", "c4 82 c4 82 00 00 01"),
        ("/3/0/11", "c5 82 20 18d7"),
        ("/3/0/13", "c0 01"),
        ("/3/0/13", "c0 63616263"),
        ("/3/0/13", "c1 c1 01"),
        ("/3/0/13", "c1 63616263"),
        ("/3/0/13", "c0 76 323032302d30312d30315430303a30303a30302e355a"),
        ("/3/0/9", "74 323032302d30312d30315430303a30303a30305a"),
    ] {
        assert!(scene.values(resource, format::CBOR, &hex(item)).is_err(), "{resource} {item}");
    }
}

#[test]
fn cbor_is_one_item_of_the_resource_s_type() {
    let scene = CodecScene::new();
    for (resource, payload, value) in [
        ("/3/0/9", "20", Value::Integer(-1)),
        ("/3/0/10", "1b ffffffffffffffff", Value::UnsignedInteger(u64::MAX)),
        ("/3/0/11", "f9 3e00", Value::Float(1.5)),
        ("/3/0/11", "03", Value::Float(3.0)),
        ("/3/0/12", "f5", Value::Boolean(true)),
        ("/3/0/13", "c1 1a 67748580", Value::Time(1_735_689_600)),
        ("/3/0/14", "5f 41ca 41fe ff", Value::Opaque(vec![0xca, 0xfe])),
        ("/3/0/22/0", "63313a30", link(1, 0)),
        ("/3/0/0", "64 41434d45", Value::String("ACME".into())),
    ] {
        assert_eq!(scene.values(resource, format::CBOR, &hex(payload)), one(resource, value), "{payload}");
    }
    for (resource, payload) in [
        ("/3/0/9", ""),
        ("/3/0/9", "01 01"),
        ("/3/0/9", "81 01"),
        ("/3/0/9", "f6"),
        ("/3/0/9", "c0 01"),
        ("/3/0/9", "3b ffffffffffffffff"),
        ("/3/0/11", "f9 7e00"),
        ("/3/0/12", "01"),
        ("/3/0/0", "62 fffe"),
        ("/3/0", "01"),
    ] {
        assert!(scene.values(resource, format::CBOR, &hex(payload)).is_err(), "{resource} {payload}");
    }
}

#[test]
fn a_tag_that_says_nothing_of_the_value_is_passed_over() {
    let scene = CodecScene::new();
    for item in ["d9d9f7 1851", "d9d9f7 d9d9f7 c2 4151", "d820 c4 82 00 1851"] {
        assert_eq!(scene.values("/3/0/9", format::CBOR, &hex(item)), one("/3/0/9", Value::Integer(81)), "{item}");
    }
    // Rational, bigfloat and extended decimal numbers are none that a resource can have.
    for item in ["d81e 82 01 02", "c5 82 01 02", "d90108 82 01 02", "d9d9f7 c5 82 01 02"] {
        assert!(scene.values("/3/0/11", format::CBOR, &hex(item)).is_err(), "{item}");
    }
}

#[test]
fn a_bignum_is_an_integer_of_64_bits_or_a_float() {
    let scene = CodecScene::new();
    for (resource, item, value) in [
        ("/3/0/9", "c2 42 01ff", Value::Integer(511)),
        ("/3/0/9", "c3 42 01ff", Value::Integer(-512)),
        ("/3/0/9", "c2 5f 4101 41ff ff", Value::Integer(511)),
        ("/3/0/9", "c3 47 ffffffffffffff", Value::Integer(-0x100_0000_0000_0000)),
        ("/3/0/10", "c2 4a 0000 ffffffffffffffff", Value::UnsignedInteger(u64::MAX)),
        ("/3/0/11", "c2 49 010000000000000000", Value::Float(18_446_744_073_709_551_616.0)),
        ("/3/0/11", "c2 52 01 0000000000000000000000000000000000", Value::Float(2_f64.powi(136))),
        (
            "/3/0/11",
            "c2 52 01 0000000000000800 000000000000000001",
            Value::Float(2_f64.powi(136) * (1.0 + f64::EPSILON)),
        ),
        ("/4321/0/0", "c2 42 01ff", Value::Integer(511)),
    ] {
        assert_eq!(scene.values(resource, format::CBOR, &hex(item)), one(resource, value), "{item}");
    }
    for (resource, item) in [
        ("/3/0/9", "c2 48 8000000000000000"),
        ("/3/0/10", "c2 49 010000000000000000"),
        ("/3/0/10", "c3 4101"),
        ("/4321/0/0", "c2 49 010000000000000000"),
        ("/3/0/9", "c2 01"),
    ] {
        assert!(scene.values(resource, format::CBOR, &hex(item)).is_err(), "{resource} {item}");
    }
    let huge = [hex("c2 59 0400"), vec![0xff; 1024]].concat();
    assert!(scene.values("/3/0/11", format::CBOR, &huge).is_err(), "no double is as large");
}

#[test]
fn a_map_of_lwm2m_cbor_has_each_key_once() {
    let scene = CodecScene::new();
    for payload in ["a1 03 a2 00 a1 09 01 00 a1 09 02", "a1 03 a1 00 a2 09 01 81 09 02"] {
        assert!(scene.values("/3", format::LWM2M_CBOR, &hex(payload)).unwrap_err().contains("twice"), "{payload}");
    }
}

/// An object without instances, an instance without resources, and nothing at all.
#[test]
fn an_empty_map_of_lwm2m_cbor_has_no_entries_at_any_level() {
    let scene = CodecScene::new();
    for (request, payload) in [
        ("/3", "a0"),
        ("/3", "bf ff"),
        ("/3", "a1 03 a0"),
        ("/3", "a1 82 0300 a0"),
        ("/3/0", "a1 03 a1 00 a0"),
        ("/3/0/6", "a1 83 030006 a0"),
    ] {
        assert_eq!(scene.values(request, format::LWM2M_CBOR, &hex(payload)), Ok(vec![]), "{request} {payload}");
    }
}

#[test]
fn what_is_no_value_or_no_path_makes_lwm2m_cbor_bad_as_a_whole() {
    let scene = CodecScene::new();
    // Each follows a good value: {3: {0: {9: 81, ...}}}.
    for rest in [
        "0a f6",          // null
        "0a f7",          // undefined
        "0a e0",          // a simple value
        "0a 81 01",       // an array
        "20 01",          // a negative key
        "1a 00010000 01", // a key of more than two bytes
        "61 39 01",       // a text for a key
        "80 01",          // no ids
        "83 06 00 00 01", // five ids
        "f5 01",          // a Boolean for a key
    ] {
        let payload = hex(&format!("a1 03 a1 00 a2 09 1851 {rest}"));
        assert!(scene.values("/3", format::LWM2M_CBOR, &payload).is_err(), "{rest}");
    }
    for payload in ["a1 03 a1 00 01", "a1 03 01", "a2 03 a1 00 a1 09 01 04 a1 00 a1 00 01", "a1 03 a1 00 a1 09 01 00"] {
        assert!(scene.values("/3", format::LWM2M_CBOR, &hex(payload)).is_err(), "{payload}");
    }
}

#[test]
fn lwm2m_cbor_is_written_under_the_path_of_the_request() {
    let values = |paths: &[&str]| -> Vec<Assignment> {
        let assignment = |text: &&str| Assignment { path: path(text), value: Value::Integer(1) };
        paths.iter().map(assignment).collect()
    };
    for (target, paths, payload) in [
        ("/3/0/9", &["/3/0/9"][..], "a1 83 030009 01"),
        ("/3/0", &["/3/0/6/1", "/3/0/9", "/3/0/6/0"], "a1 82 0300 a2 06 a2 01 01 00 01 09 01"),
        ("/3", &["/3/1/9"], "a1 03 a1 01 a1 09 01"),
        ("/3/0/6", &["/3/0/6/300"], "a1 83 030006 a1 19012c 01"),
    ] {
        assert_eq!(encode(ContentFormat::Lwm2mCbor, "/m2m", path(target), &values(paths)), hex(payload), "{target}");
    }
    let patch = |Assignment { path, value }| Patch { path, value: Some(value) };
    let patches: Vec<_> = values(&["/3/0/9", "/1/0/1", "/3/0/6/0"]).into_iter().map(patch).collect();
    let expected = hex("a2 03 a1 00 a2 09 01 06 a1 00 01 01 a1 00 a1 01 01");
    assert_eq!(encode_patches(ContentFormat::Lwm2mCbor, "/m2m", &patches), expected);
}

/// `{3:{0:{0:"ACME",6:{0:1,1:5}}}}`, and the same with a key of several ids.
#[test]
fn lwm2m_cbor_is_maps_in_maps() {
    let scene = CodecScene::new();
    let nested = hex("a1 03 a1 00 a2 00 6441434d45 06 a2 00 01 01 05");
    let short = hex("bf 82 03 00 bf 00 6441434d45 82 06 00 01 82 06 01 05 ff ff");
    for payload in [nested, short] {
        assert_eq!(
            scene.values("/3", format::LWM2M_CBOR, &payload),
            Ok(vec![
                ("/3/0/0".to_owned(), Value::String("ACME".into())),
                ("/3/0/6/0".to_owned(), Value::Integer(1)),
                ("/3/0/6/1".to_owned(), Value::Integer(5)),
            ])
        );
    }
    for payload in
        ["01", "a1 03 01", "a1 80 01", "a1 84 03000900 a1 00 01", "a1 1a 00010000 a0", "a1 82 0300 a1 09 01 00"]
    {
        assert!(scene.values("/3", format::LWM2M_CBOR, &hex(payload)).is_err(), "{payload}");
    }
}
