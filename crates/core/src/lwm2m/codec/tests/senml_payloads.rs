use super::*;

/// A format with types of its own needs no definition.
#[test]
fn a_typed_format_tells_the_values_of_unknown_objects() {
    let scene = Scene::new();
    let expected = |value| one("/4321/0/1", value);
    let json = br#"{"bn":"/4321/0/1","e":[{"v":2.5}]}"#;
    assert_eq!(scene.values("/4321/0", format::LWM2M_JSON, json), expected(Value::Float(2.5)));
    let senml = br#"[{"n":"/4321/0/1","vs":"x"}]"#;
    assert_eq!(scene.values("/4321/0", format::SENML_JSON, senml), expected(Value::String("x".into())));
    assert_eq!(scene.values("/4321/0/1", format::CBOR, b"\x18\x2a"), expected(Value::Integer(42)));
}

#[test]
fn senml_base_fields_hold_until_the_next_ones() {
    let scene = Scene::new();
    let payload = br#"[{"bn":"/3/0/","bt":1500000000,"n":"9","v":81},{"n":"0","vs":"ACME","t":10,"u":"x"},
        {"bn":"/3/0/22/","n":"0","vlo":"1:0"},{"n":"1","vlo":"3:65535"},{"bn":"/3/0/"},{"n":"12","vb":false},{"n":"14","vd":"-_8"}]"#;
    let entries = scene.decode("/3/0", format::SENML_JSON, payload).unwrap();
    let values: Vec<_> = entries.iter().map(|entry| (entry.path.to_string(), entry.value.clone())).collect();
    assert_eq!(
        values,
        [
            ("/3/0/9".to_owned(), Value::Integer(81)),
            ("/3/0/0".to_owned(), Value::String("ACME".into())),
            ("/3/0/22/0".to_owned(), link(1, 0)),
            ("/3/0/22/1".to_owned(), link(3, 65535)),
            ("/3/0/12".to_owned(), Value::Boolean(false)),
            ("/3/0/14".to_owned(), Value::Opaque(vec![0xfb, 0xff])),
        ]
    );
    assert_eq!(entries[1].time, Some(1_500_000_010.0));
    assert_eq!(entries[5].time, Some(1_500_000_000.0));
}

/// RFC 8428 section 4.5.3.
#[test]
fn a_small_time_is_relative_to_now() {
    let scene = Scene::new();
    for (fields, time) in [
        (r#""t":-5"#, 1_699_999_995.0),
        (r#""t":0"#, 1_700_000_000.0),
        (r#""bt":-100,"t":40"#, 1_699_999_940.0),
        (r#""t":268435455"#, 1_968_435_455.0),
        (r#""t":268435456"#, 268_435_456.0),
        (r#""t":1320067464.5"#, 1_320_067_464.5),
    ] {
        let payload = format!(r#"[{{"n":"/3/0/9","v":1,{fields}}}]"#);
        let entries = scene.decode("/3/0/9", format::SENML_JSON, payload.as_bytes()).unwrap();
        assert_eq!(entries[0].time, Some(time), "{fields}");
        assert_eq!(entries[0].value, Value::Integer(1));
    }
    let entries = scene.decode("/3/0/9", format::SENML_JSON, br#"[{"n":"/3/0/9","v":1}]"#).unwrap();
    assert_eq!(entries[0].time, None);
}

#[test]
fn the_alternate_path_in_front_of_a_name_is_taken_away() {
    let scene = Scene::with_object_list("</m2m>;rt=\"oma.lwm2m\",</m2m/3/0>");
    for name in ["/m2m/3/0/9", "/3/0/9"] {
        let senml = format!(r#"[{{"bn":"{name}","v":81}}]"#);
        assert_eq!(scene.values("/3/0/9", format::SENML_JSON, senml.as_bytes()), one("/3/0/9", Value::Integer(81)));
        let json = format!(r#"{{"bn":"{name}","e":[{{"v":81}}]}}"#);
        assert_eq!(scene.values("/3/0/9", format::LWM2M_JSON, json.as_bytes()), one("/3/0/9", Value::Integer(81)));
    }
}

#[test]
fn senml_that_cannot_be_meant_is_refused() {
    let scene = Scene::new();
    for (payload, reason) in [
        (r#"[{"n":"/3/0/9","v":1,"vs":"1"}]"#, "more than one value"),
        (r#"[{"n":"/3/0/9","v":1,"v":2}]"#, "more than one value"),
        (r#"[{"n":"/3/0/9","n":"/3/0/9","v":1}]"#, "duplicate"),
        (r#"[{"n":"/3/0/9"}]"#, "has no value"),
        (r#"[{"n":"/3/0/9","v":1,"must_":1}]"#, "must_"),
        (r#"[{"n":"/3/0/9","v":1,"bver":11}]"#, "version 11"),
        (r#"[{"n":"/3/0/9","bv":1,"v":1}]"#, "base values"),
        (r#"[{"n":"/3/0/9","vb":true}]"#, "true is no Integer"),
        (r#"[{"n":"/3/0/12","v":1}]"#, "1 is no Boolean"),
        (r#"[{"n":"/3/0/22/0","vs":"1"}]"#, "is no Objlnk"),
        (r#"[{"n":"/3/0/14","vd":"*"}]"#, "base64"),
        (r#"[{"n":"/3/1/9","v":1}]"#, "not at or below"),
        (r#"{"n":"/3/0/9","v":1}"#, "JSON"),
    ] {
        let error = scene.values("/3/0", format::SENML_JSON, payload.as_bytes()).unwrap_err();
        assert!(error.contains(reason), "{payload}: {error}");
    }
    let long = format!(r#"[{{"bn":"{}","n":"9","v":1}}]"#, "/".repeat(MAX_NAME + 1));
    assert!(scene.values("/3/0", format::SENML_JSON, long.as_bytes()).is_err());
}

/// `[{-2:"/3/0/",0:"0",3:"ACME"},{0:"9",2:95},{0:"22/0","vlo":"1:0"}]`.
#[test]
fn senml_cbor_says_the_same_in_numbers() {
    let scene = Scene::new();
    let definite =
        hex("83 a3 21 652f332f302f 00 6130 03 6441434d45 a2 00 6139 02 185f a2 00 6432322f30 63766c6f 63313a30");
    let indefinite = hex(
        "9f bf 21 652f332f302f 00 6130 03 7f 6141 6343 4d45 ff ff bf 00 6139 02 185f ff a2 00 6432322f30 63766c6f 63313a30 ff",
    );
    for payload in [definite, indefinite] {
        assert_eq!(
            scene.values("/3/0", format::SENML_CBOR, &payload),
            Ok(vec![
                ("/3/0/0".to_owned(), Value::String("ACME".into())),
                ("/3/0/9".to_owned(), Value::Integer(95)),
                ("/3/0/22/0".to_owned(), link(1, 0)),
            ])
        );
    }
}

/// Leshan writes a link as a text where SenML has `vlo`.
#[test]
fn an_object_link_may_be_a_text_in_every_format() {
    let scene = Scene::new();
    for (content_format, payload) in [
        (format::SENML_JSON, br#"[{"n":"/3/0/22/0","vs":"3:0"}]"#.to_vec()),
        (format::SENML_CBOR, hex("81 a2 00 69 2f332f302f32322f30 03 63333a30")),
        (format::LWM2M_JSON, br#"{"bn":"/3/0/22/0","e":[{"sv":"3:0"}]}"#.to_vec()),
        (format::CBOR, hex("63333a30")),
        (format::LWM2M_CBOR, hex("a1 84 03001600 63333a30")),
        (format::TEXT, b"3:0".to_vec()),
    ] {
        let read = scene.values("/3/0/22/0", content_format, &payload);
        assert_eq!(read, one("/3/0/22/0", link(3, 0)), "{content_format}");
    }
}

#[test]
fn a_senml_time_may_have_a_tag() {
    let scene = Scene::new();
    // {0: "/3/0/9", 2: 52, 6: ...}
    for (time, seconds) in [
        ("c1 1a 6553f100", 1_700_000_000.0),
        ("c4 82 20 1b 00000003f5476a05", 1_700_000_000.5),
        ("c1 c4 82 20 1b 00000003f5476a05", 1_700_000_000.5),
        ("c0 74 323032302d30312d30315430303a30303a30305a", 1_577_836_800.0),
        ("c4 82 00 04", 1_700_000_004.0),
    ] {
        let own = hex(&format!("81 a3 00 662f332f302f39 02 1834 06 {time}"));
        let base = hex(&format!("81 a3 22 {time} 00 662f332f302f39 02 1834"));
        for payload in [own, base] {
            let entries = scene.decode("/3/0/9", format::SENML_CBOR, &payload).unwrap();
            assert_eq!((&entries[0].value, entries[0].time), (&Value::Integer(52), Some(seconds)), "{time}");
        }
    }
}
