//! Payloads as Zephyr's LwM2M engine writes them. Most are SenML CBOR (RFC 8428 section 6): one array of records, whose
//! names are cut at the instance.

use super::*;

/// `[_ {-2: "/3/0/", 0: "0", 3: "Zephyr"}, {_ 0: "9", 2: 95}, {0: "12", 4: true}, {0: "14", 8: h'0102'}]`: arrays and
/// maps may be of indefinite length.
#[test]
fn records_of_an_instance_have_the_base_name_of_the_instance() {
    let scene = CodecScene::new();
    let payload = hex("9f a3 21 65 2f332f302f 00 61 30 03 66 5a6570687972 bf 00 61 39 02 18 5f ff \
         a2 00 62 3132 04 f5 a2 00 62 3134 08 42 0102 ff");
    assert_eq!(
        scene.values("/3/0", format::SENML_CBOR, &payload),
        Ok(vec![
            ("/3/0/0".to_owned(), Value::String("Zephyr".into())),
            ("/3/0/9".to_owned(), Value::Integer(95)),
            ("/3/0/12".to_owned(), Value::Boolean(true)),
            ("/3/0/14".to_owned(), Value::Opaque(vec![1, 2])),
        ])
    );
}

/// `[{-2: "/3/0/", 0: "11", 2: 1.5}]` with a half, a single and a double.
#[test]
fn a_float_has_any_of_the_three_widths() {
    let scene = CodecScene::new();
    for value in ["f9 3e00", "fa 3fc00000", "fb 3ff8000000000000"] {
        let payload = hex(&format!("81 a3 21 65 2f332f302f 00 62 3131 02 {value}"));
        let values = scene.values("/3/0/11", format::SENML_CBOR, &payload);
        assert_eq!(values, Ok(vec![("/3/0/11".to_owned(), Value::Float(1.5))]), "{value}");
    }
}

/// `[{-2: "/3/0/", -3: 1700000000, 0: "9", 2: 90}, {0: "9", 6: 10, 2: 91}]`: the cache of a resource has its base time
/// in the first record, and times relative to it in the others.
#[test]
fn cached_values_keep_their_order_and_have_absolute_times() {
    let scene = CodecScene::new();
    let payload = hex("82 a4 21 65 2f332f302f 22 1a 6553f100 00 61 39 02 18 5a a3 00 61 39 06 0a 02 18 5b");
    let entries = scene.decode("/3/0/9", format::SENML_CBOR, &payload).unwrap();
    let told: Vec<_> = entries.into_iter().map(|entry| (entry.value, entry.time)).collect();
    assert_eq!(told, [(Value::Integer(90), Some(1_700_000_000.0)), (Value::Integer(91), Some(1_700_000_010.0))]);
}

/// `[{-2: "/3/0/", 0: "13", 2: 1700000000}]`: a Time has no tag, and any width that an integer may have.
#[test]
fn a_time_is_an_integer_without_a_tag() {
    let scene = CodecScene::new();
    for (value, seconds) in [
        ("00", 0),
        ("18 5f", 95),
        ("19 ffff", 65_535),
        ("1a 6553f100", 1_700_000_000),
        ("1b 0000000100000000", 4_294_967_296),
        ("20", -1),
        ("3a 6553f0ff", -1_700_000_000),
    ] {
        let payload = hex(&format!("81 a3 21 65 2f332f302f 00 62 3133 02 {value}"));
        let values = scene.values("/3/0/13", format::SENML_CBOR, &payload);
        assert_eq!(values, one("/3/0/13", Value::Time(seconds)), "{value}");
    }
}

/// Only the plain CBOR of a single resource has a date with tag 0; each other format has the seconds.
#[test]
fn a_time_is_the_same_in_each_format() {
    let scene = CodecScene::new();
    let text = |text: &str| text.as_bytes().to_vec();
    for (format, payload) in [
        (format::SENML_CBOR, hex("81 a3 21 65 2f332f302f 00 62 3133 02 1a 6553f100")),
        (format::SENML_JSON, text(r#"[{"bn":"/3/0/","n":"13","v":1700000000}]"#)),
        (format::LWM2M_JSON, text(r#"{"bn":"/3/0/","e":[{"n":"13","v":1700000000}]}"#)),
        (format::TLV, hex("c4 0d 6553f100")),
        (format::TLV, hex("c8 0d 08 000000006553f100")),
        (format::CBOR, [&hex("c0 74")[..], b"2023-11-14T22:13:20Z"].concat()),
        (format::TEXT, text("1700000000")),
    ] {
        let values = scene.values("/3/0/13", format, &payload);
        assert_eq!(values, one("/3/0/13", Value::Time(1_700_000_000)), "{format}: {payload:02x?}");
    }
}

/// `object << 16 | instance` in the releases before `vlo` was there, and `vlo` since.
#[test]
fn an_object_link_is_a_number_or_vlo() {
    let scene = CodecScene::new();
    for value in ["02 1a 00030001", "63 766c6f 63 333a31"] {
        let payload = hex(&format!("81 a3 21 65 2f332f302f 00 62 3232 {value}"));
        let values = scene.values("/3/0/22", format::SENML_CBOR, &payload);
        assert_eq!(values, Ok(vec![("/3/0/22".to_owned(), link(3, 1))]), "{value}");
    }
}

#[test]
fn an_object_without_instances_is_an_empty_array() {
    let scene = CodecScene::new();
    assert_eq!(scene.values("/3", format::SENML_CBOR, &hex("80")), Ok(vec![]));
}

/// `[{-2: "/3/0/", 0: "6/0", 2: 1}, {2: 5}]`: a regression of 2025 leaves the name out of the later instances of a
/// multiple resource. The base name alone is no resource, and a payload is never published in part.
#[test]
fn a_record_without_its_name_makes_the_payload_malformed() {
    let scene = CodecScene::new();
    let payload = hex("82 a3 21 65 2f332f302f 00 63 362f30 02 01 a1 02 05");
    assert!(scene.values("/3/0/6", format::SENML_CBOR, &payload).is_err());
}
