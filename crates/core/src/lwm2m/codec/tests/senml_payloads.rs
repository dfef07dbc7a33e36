use super::*;

/// A format with types of its own needs no definition.
#[test]
fn a_typed_format_tells_the_values_of_unknown_objects() {
    let scene = CodecScene::new();
    let expected = |value| one("/4321/0/1", value);
    let json = br#"{"bn":"/4321/0/1","e":[{"v":2.5}]}"#;
    assert_eq!(scene.values("/4321/0", format::LWM2M_JSON, json), expected(Value::Float(2.5)));
    let senml = br#"[{"n":"/4321/0/1","vs":"x"}]"#;
    assert_eq!(scene.values("/4321/0", format::SENML_JSON, senml), expected(Value::String("x".into())));
    assert_eq!(scene.values("/4321/0/1", format::CBOR, b"\x18\x2a"), expected(Value::Integer(42)));
}

#[test]
fn senml_base_fields_hold_until_the_next_ones() {
    let scene = CodecScene::new();
    let payload = br#"[{"bn":"/3/0/","bt":1500000000,"n":"9","v":81},{"n":"0","vs":"ACME","t":10,"u":"x"},
        {"bn":"/3/0/22/","n":"0","vlo":"1:0"},{"n":"1","vlo":"3:65535"},
        {"bn":"/3/0/"},{"n":"12","vb":false},{"n":"14","vd":"-_8"}]"#;
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
    let scene = CodecScene::new();
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
    let scene = CodecScene::with_object_list("</m2m>;rt=\"oma.lwm2m\",</m2m/3/0>");
    for name in ["/m2m/3/0/9", "/3/0/9"] {
        let senml = format!(r#"[{{"bn":"{name}","v":81}}]"#);
        assert_eq!(scene.values("/3/0/9", format::SENML_JSON, senml.as_bytes()), one("/3/0/9", Value::Integer(81)));
        let json = format!(r#"{{"bn":"{name}","e":[{{"v":81}}]}}"#);
        assert_eq!(scene.values("/3/0/9", format::LWM2M_JSON, json.as_bytes()), one("/3/0/9", Value::Integer(81)));
    }
}

#[test]
fn senml_that_cannot_be_meant_is_refused() {
    let scene = CodecScene::new();
    for (payload, reason) in [
        (r#"[{"n":"/3/0/9","v":1,"vs":"1"}]"#, "more than one value"),
        (r#"[{"n":"/3/0/9","v":1,"v":2}]"#, "\"v\" twice"),
        (r#"[{"n":"/3/0/9","n":"/3/0/9","v":1}]"#, "\"n\" twice"),
        (r#"[{"n":"/3/0/9","x":1,"x":1,"v":1}]"#, "\"x\" twice"),
        (r#"[{"n":"/3/0/9","s":81}]"#, "has no value"),
        (r#"[{"s":81}]"#, "has no value"),
        (r#"[{"n":"/3/0/9","v":"81"}]"#, "a readable number"),
        (r#"[{"n":"/3/0/9","v":null}]"#, "a readable number"),
        (r#"[{"n":"/3/0/11","v":1e400}]"#, "a readable number"),
        (r#"[{"n":"/3/0/0","vs":"\ud83d"}]"#, "JSON"),
        (r#"[{"n":"/3/0/9","v":1}] x"#, "JSON"),
        (r#"[{"n":"/3/0/9"}]"#, "has no value"),
        (r#"[{"n":"/3/0/9","v":1,"must_":1}]"#, "must_"),
        (r#"[{"n":"/3/0/9","v":1,"bver":11}]"#, "version 11"),
        (r#"[{"n":"/3/0/9","vb":true}]"#, "true is not a valid Integer"),
        (r#"[{"n":"/3/0/12","v":1}]"#, "1 is not a valid Boolean"),
        (r#"[{"n":"/3/0/22/0","vs":"1"}]"#, "is not a valid Objlnk"),
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
    let scene = CodecScene::new();
    let definite =
        hex("83 a3 21 652f332f302f 00 6130 03 6441434d45 a2 00 6139 02 185f a2 00 6432322f30 63766c6f 63313a30");
    let indefinite = hex("9f bf 21 652f332f302f 00 6130 03 7f 6141 6343 4d45 ff ff bf 00 6139 02 185f ff \
         a2 00 6432322f30 63766c6f 63313a30 ff");
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
    let scene = CodecScene::new();
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
    let scene = CodecScene::new();
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

#[test]
fn a_base_value_is_added_to_numbers_and_to_nothing_else() {
    let scene = CodecScene::new();
    let json = br#"[{"bn":"/3/0/","bv":9007199254740992,"n":"9","v":1},{"n":"11","v":0.5,"bv":20},{"n":"0","vs":"x"},
        {"n":"12","vb":true,"bv":1},{"n":"9","v":-1.0}]"#;
    let expected = Ok(vec![
        ("/3/0/9".to_owned(), Value::Integer(9_007_199_254_740_993)),
        ("/3/0/11".to_owned(), Value::Float(20.5)),
        ("/3/0/0".to_owned(), Value::String("x".into())),
        ("/3/0/12".to_owned(), Value::Boolean(true)),
        ("/3/0/9".to_owned(), Value::Integer(0)),
    ]);
    assert_eq!(scene.values("/3/0", format::SENML_JSON, json), expected);
    // {-2: "/3/0/", -5: 20, 0: "11", 2: 1.5}
    let cbor = hex("81 a4 21 652f332f302f 24 14 00 623131 02 f93e00");
    assert_eq!(scene.values("/3/0", format::SENML_CBOR, &cbor), one("/3/0/11", Value::Float(21.5)));
}

#[test]
fn a_history_is_kept_in_its_order() {
    let scene = CodecScene::new();
    let json = br#"[{"bn":"/3/0/9","bt":1717886813,"v":3,"t":20},{"v":1},{"v":2,"t":10},{"v":1}]"#;
    let entries = scene.decode("/3/0/9", format::SENML_JSON, json).unwrap();
    let history: Vec<_> = entries.into_iter().map(|entry| (entry.value, entry.time)).collect();
    let value = |value, time| (Value::Integer(value), Some(time));
    let expected = [value(3, 1_717_886_833.0), value(1, 1_717_886_813.0), value(2, 1_717_886_823.0)];
    assert_eq!(history[..3], expected);
    assert_eq!(history[3], expected[1]);
}

#[test]
fn a_whole_number_of_json_is_exact_in_every_form() {
    let scene = CodecScene::new();
    let read = |number: &str| {
        let senml = format!(r#"[{{"n":"/3/0/9","v":{number}}}]"#);
        let elements = format!(r#"{{"bn":"/3/0/9","e":[{{"v":{number}}}]}}"#);
        [(format::SENML_JSON, senml), (format::LWM2M_JSON, elements)]
            .map(|(content_format, json)| scene.values("/3/0/9", content_format, json.as_bytes()))
    };
    for number in ["9007199254740993", "9007199254740993.0", "9007199254740.993e3", "90071992547409930E-1"] {
        for read in read(number) {
            assert_eq!(read, one("/3/0/9", Value::Integer(9_007_199_254_740_993)), "{number}");
        }
    }
    for number in ["81.5", "9223372036854775808", "1e40", "1e400", "\"81\"", "[81]", "null"] {
        assert!(read(number).iter().all(Result::is_err), "{number}");
    }
}

#[test]
fn labels_that_are_not_needed_are_ignored_however_deep_their_values_are() {
    let scene = CodecScene::new();
    let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
    let json = format!(r#"[{{"n":"/3/0/9","v":81,"u":"%","ut":5,"bs":1,"s":2,"bu":"x","x":{deep}}}]"#);
    let expected = one("/3/0/9", Value::Integer(81));
    assert_eq!(scene.values("/3/0/9", format::SENML_JSON, json.as_bytes()), expected);
    // {0: "/3/0/9", 2: 81, "x": 100,000 arrays in each other}
    let mut cbor = hex("81 a3 00 662f332f302f39 02 1851 6178");
    cbor.extend(std::iter::repeat_n(0x81, 100_000).chain([0x00]));
    assert_eq!(scene.values("/3/0/9", format::SENML_CBOR, &cbor), expected);
    cbor.pop();
    assert!(scene.values("/3/0/9", format::SENML_CBOR, &cbor).is_err());
    let too_deep = format!(r#"[{{"n":"/3/0/9","v":81,"x":{}}}]"#, "[".repeat(100_000));
    assert!(scene.values("/3/0/9", format::SENML_JSON, too_deep.as_bytes()).is_err());
}

#[test]
fn an_object_link_may_be_a_number_in_senml_cbor() {
    let scene = CodecScene::new();
    for (number, expected) in
        [("1a 000b0001", link(11, 1)), ("20", link(65535, 65535)), ("1a ffffffff", link(65535, 65535))]
    {
        let cbor = hex(&format!("81 a2 00 692f332f302f32322f30 02 {number}"));
        assert_eq!(scene.values("/3/0/22/0", format::SENML_CBOR, &cbor), one("/3/0/22/0", expected), "{number}");
    }
}

#[test]
fn a_payload_has_a_limited_number_of_entries() {
    let scene = CodecScene::new();
    let records = |count| vec![r#"{"n":"/3/0/9","v":1}"#; count].join(",");
    let entries = |count: usize| scene.decode("/3/0/9", format::SENML_JSON, format!("[{}]", records(count)).as_bytes());
    assert_eq!(entries(MAX_ENTRIES).map(|entries| entries.len()), Ok(MAX_ENTRIES));
    assert_eq!(entries(MAX_ENTRIES + 1), Err("more than 10000 entries".to_owned()));
}

/// LwM2M 1.2 appendix E, object 25: names of devices behind a gateway begin with a prefix.
#[test]
fn a_name_of_a_device_behind_a_gateway_makes_the_payload_bad() {
    let scene = CodecScene::new();
    let json = br#"[{"n":"/3/0/9","v":81},{"n":"/dev1/3303/0/5700","v":21}]"#;
    let error = scene.decode_of(Requested::Paths(&[Path::ROOT]), format::SENML_JSON, json).unwrap_err();
    assert!(error.contains("/dev1/3303/0/5700"), "{error}");
}

/// A length that a payload only claims reserves nothing, and a payload that ends too early is bad as a whole.
#[test]
fn a_payload_that_claims_more_than_it_has_is_refused() {
    let scene = CodecScene::new();
    for payload in [
        "9b ffffffffffffffff",
        "81 bb ffffffffffffffff 00",
        "81 a1 00 7b 7fffffffffffffff 2f",
        "82 a2 00 662f332f302f39 02 01",
    ] {
        assert!(scene.values("/3/0/9", format::SENML_CBOR, &hex(payload)).is_err(), "{payload}");
    }
    for payload in ["bb ffffffffffffffff", "a1 9b ffffffffffffffff 03", "a1 83 030009 5b 7fffffffffffffff 01"] {
        assert!(scene.values("/3/0/9", format::LWM2M_CBOR, &hex(payload)).is_err(), "{payload}");
    }
}

#[test]
fn a_composite_answer_may_have_several_requested_paths_and_nothing_else() {
    let scene = CodecScene::new();
    let paths = [path("/3/0/9"), path("/3/0/6")];
    let decode = |format, payload: &[u8]| scene.decode_of(Requested::Paths(&paths), format, payload);
    let json = br#"[{"n":"/3/0/9","v":81},{"n":"/3/0/6/1","v":2}]"#;
    assert_eq!(decode(format::SENML_JSON, json).map(|entries| entries.len()), Ok(2));
    let elements = br#"{"bn":"/3/0/","e":[{"n":"9","v":81}]}"#;
    assert_eq!(decode(format::LWM2M_JSON, elements).map(|entries| entries.len()), Ok(1));
    assert!(decode(format::SENML_JSON, br#"[{"n":"/3/0/0","vs":"x"}]"#).unwrap_err().contains("not at or below"));
    for format in [format::TEXT, format::OCTET_STREAM, format::CBOR, format::TLV] {
        assert!(decode(format, b"\x01").unwrap_err().contains("names no paths"), "{format}");
    }
}
