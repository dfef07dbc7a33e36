use super::*;

/// RFC 8949 section 3.4: tag 4 is a decimal fraction, tags 1 and 0 are times. Each is read in every CBOR format.
#[test]
fn cbor_numbers_and_times_may_have_their_tags() {
    let scene = Scene::new();
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
    let scene = Scene::new();
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
    let scene = Scene::new();
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

/// `{3:{0:{0:"ACME",6:{0:1,1:5}}}}`, and the same with a key of several ids.
#[test]
fn lwm2m_cbor_is_maps_in_maps() {
    let scene = Scene::new();
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
