use proptest::prelude::*;

use crate::coap::options::number;
use crate::coap::{Code, Request};
use crate::lwm2m::model::{Object, Operations, Version};
use crate::lwm2m::value::ObjectLink;

use super::*;

const NOW: Duration = Duration::from_secs(1_700_000_000);

/// What the tests know: a device with one resource of each kind.
struct Scene {
    model: Model,
    registration: Registration,
    undefined: UndefinedResources,
}

impl Scene {
    fn new() -> Self {
        Self::with_object_list("</3/0>")
    }

    fn with_object_list(list: &str) -> Self {
        let mut request = Request::new(Code::POST);
        request.options.add_text(number::URI_QUERY, "ep=dev-7");
        request.payload = list.as_bytes().to_vec();
        let lifetimes = Duration::from_secs(1)..=Duration::from_secs(86_400);
        let registration = Registration::from_register(&request, &lifetimes).unwrap();
        let mut object = Object::new(3, Version::FIRST, "Device");
        for (id, resource_type) in [
            (0, Some(ResourceType::String)),
            (4, None),
            (6, Some(ResourceType::Integer)),
            (9, Some(ResourceType::Integer)),
            (10, Some(ResourceType::UnsignedInteger)),
            (11, Some(ResourceType::Float)),
            (12, Some(ResourceType::Boolean)),
            (13, Some(ResourceType::Time)),
            (14, Some(ResourceType::Opaque)),
            (22, Some(ResourceType::ObjectLink)),
            (23, Some(ResourceType::CoreLink)),
        ] {
            object.insert(resource(id, resource_type)).unwrap();
        }
        let mut model = Model::default();
        model.insert(object).unwrap();
        Self { model, registration, undefined: UndefinedResources::Refuse }
    }

    fn decode(&self, request: &str, format: u16, payload: &[u8]) -> Result<Vec<Entry>, String> {
        let context =
            Context { registration: &self.registration, model: &self.model, undefined: self.undefined, unix_time: NOW };
        decode(path(request), Some(format), payload, context).map_err(|error| error.to_string())
    }

    fn values(&self, request: &str, format: u16, payload: &[u8]) -> Result<Vec<(String, Value)>, String> {
        let entries = self.decode(request, format, payload)?;
        Ok(entries.into_iter().map(|entry| (entry.path.to_string(), entry.value)).collect())
    }
}

fn resource(id: u16, resource_type: Option<ResourceType>) -> Resource {
    Resource {
        id,
        name: format!("Resource {id}"),
        operations: Operations { read: true, write: true, execute: resource_type.is_none() },
        multiple: matches!(id, 6 | 22),
        mandatory: false,
        resource_type,
        range: None,
        units: String::new(),
    }
}

fn path(text: &str) -> Path {
    text.parse().unwrap()
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<_> = text.chars().filter(|digit| !digit.is_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap()).collect()
}

fn one(path: &str, value: Value) -> Result<Vec<(String, Value)>, String> {
    Ok(vec![(path.to_owned(), value)])
}

fn link(object: u16, instance: u16) -> Value {
    Value::ObjectLink(ObjectLink { object, instance })
}

#[test]
fn the_text_of_every_type_is_its_value() {
    let scene = Scene::new();
    for format in [format::TEXT, format::LEGACY_TEXT] {
        for (resource, text, value) in [
            ("/3/0/0", "", Value::String(String::new())),
            ("/3/0/0", "Zürich", Value::String("Zürich".into())),
            ("/3/0/9", "-12", Value::Integer(-12)),
            ("/3/0/9", "+52", Value::Integer(52)),
            ("/3/0/9", "52.0", Value::Integer(52)),
            ("/3/0/9", "5.2e1", Value::Integer(52)),
            ("/3/0/9", " 52\r\n", Value::Integer(52)),
            ("/3/0/9", "52\0", Value::Integer(52)),
            ("/3/0/10", "+52.00", Value::UnsignedInteger(52)),
            ("/3/0/13", "1735689600.0", Value::Time(1_735_689_600)),
            ("/3/0/11", "+21.5", Value::Float(21.5)),
            ("/3/0/12", "TRUE", Value::Boolean(true)),
            ("/3/0/12", "0\n", Value::Boolean(false)),
            ("/3/0/22/1", "5:0\0", link(5, 0)),
            ("/3/0/9", "9223372036854775807", Value::Integer(i64::MAX)),
            ("/3/0/10", "18446744073709551615", Value::UnsignedInteger(u64::MAX)),
            ("/3/0/11", "48", Value::Float(48.0)),
            ("/3/0/11", "-2.5e3", Value::Float(-2500.0)),
            ("/3/0/12", "1", Value::Boolean(true)),
            ("/3/0/12", "false", Value::Boolean(false)),
            ("/3/0/13", "1735689600", Value::Time(1_735_689_600)),
            ("/3/0/14", "yv4=", Value::Opaque(vec![0xca, 0xfe])),
            ("/3/0/14", "xyz", Value::Opaque(b"xyz".to_vec())),
            ("/3/0/22/1", "5:0", link(5, 0)),
            ("/3/0/23", "</3/0>", Value::CoreLink("</3/0>".into())),
        ] {
            assert_eq!(scene.values(resource, format, text.as_bytes()), one(resource, value), "{resource} {text}");
        }
    }
}

#[test]
fn text_that_is_no_value_of_its_type_is_refused() {
    let scene = Scene::new();
    for (resource, text) in [
        ("/3/0/0", &b"\xff"[..]),
        ("/3/0/9", b""),
        ("/3/0/9", b"5.5"),
        ("/3/0/9", b"5 5"),
        ("/3/0/9", b"0x5"),
        ("/3/0/9", b"9223372036854775808"),
        ("/3/0/9", b"9223372036854775808.0"),
        ("/3/0/10", b"-1"),
        ("/3/0/11", b"NaN"),
        ("/3/0/11", b"inf"),
        ("/3/0/11", b"1e400"),
        ("/3/0/12", b"yes"),
        ("/3/0/22/0", b"5"),
        ("/3", b"1"),
        ("/3/0/4", b""),
        ("/3/0/99", b"1"),
        ("/4321/0/0", b"1"),
    ] {
        assert!(scene.values(resource, format::TEXT, text).is_err(), "{resource} {text:?}");
    }
}

const ALL_FORMATS: [u16; 12] = [
    format::TEXT,
    format::OCTET_STREAM,
    format::CBOR,
    format::SENML_JSON,
    format::SENML_CBOR,
    format::LEGACY_TEXT,
    format::LEGACY_TLV,
    format::LEGACY_JSON,
    format::LEGACY_OPAQUE,
    format::TLV,
    format::LWM2M_JSON,
    format::LWM2M_CBOR,
];

/// Whatever the format, and without one: objects, instances and multiple resources may be empty.
#[test]
fn an_empty_payload_is_an_empty_list_where_nothing_may_be() {
    let scene = Scene::new();
    let Scene { registration, model, .. } = &scene;
    let context = Context { registration, model, undefined: scene.undefined, unix_time: NOW };
    let formats = ALL_FORMATS.map(Some).into_iter().chain([None, Some(format::LINK_FORMAT), Some(50)]);
    for content_format in formats {
        for request in ["/3", "/3/0", "/3/0/6", "/4321", "/4321/0"] {
            let read = decode(path(request), content_format, b"", context);
            assert_eq!(read.unwrap(), [], "{request} {content_format:?}");
        }
        let octets = [format::OCTET_STREAM, format::LEGACY_OPAQUE].map(Some).contains(&content_format);
        for request in ["/3/0/9", "/3/0/6/0", "/3/0/4"].into_iter().filter(|request| !octets || *request == "/3/0/4") {
            assert!(decode(path(request), content_format, b"", context).is_err(), "{request} {content_format:?}");
        }
    }
    for content_format in [None, Some(format::TEXT)] {
        let entries = decode(path("/3/0/0"), content_format, b"", context).unwrap();
        assert_eq!(entries[0].value, Value::String(String::new()));
    }
    let entries = decode(path("/3/0/14"), Some(format::OCTET_STREAM), b"", context).unwrap();
    assert_eq!(entries[0].value, Value::Opaque(vec![]));
    for content_format in [format::TLV, format::SENML_CBOR] {
        let error = scene.decode("/3/0/9", content_format, b"").unwrap_err();
        assert_eq!(error, "the payload is empty");
        assert_eq!(scene.decode("/4321/0/1", content_format, b""), Ok(vec![]), "it may be a multiple resource");
    }
}

#[test]
fn an_instance_with_nothing_in_it_has_no_entries() {
    let scene = Scene::new();
    for (format, empty) in [
        (format::TLV, &b""[..]),
        (format::LWM2M_JSON, br#"{"bn":"/3/0","e":[]}"#),
        (format::SENML_JSON, b"[]"),
        (format::SENML_CBOR, b"\x80"),
        (format::LWM2M_CBOR, b"\xa0"),
    ] {
        assert_eq!(scene.decode("/3/0", format, empty), Ok(vec![]), "{format}");
    }
}

#[test]
fn octets_are_one_resource_and_need_no_definition() {
    let scene = Scene::new();
    for format in [format::OCTET_STREAM, format::LEGACY_OPAQUE] {
        let value = Value::Opaque(vec![0, 0xff]);
        assert_eq!(scene.values("/4321/0/7", format, &[0, 0xff]), one("/4321/0/7", value));
        assert!(scene.values("/3/0", format, &[0]).is_err());
        assert!(scene.values("/3/0/4", format, &[0]).is_err());
    }
}

#[test]
fn a_tlv_tree_is_flat_in_the_order_of_the_payload() {
    let scene = Scene::new();
    let payload = hex("08 00 11  c4 00 41434d45  86 06 41 00 01 41 01 05  c1 09 64");
    let expected = Ok(vec![
        ("/3/0/0".to_owned(), Value::String("ACME".into())),
        ("/3/0/6/0".to_owned(), Value::Integer(1)),
        ("/3/0/6/1".to_owned(), Value::Integer(5)),
        ("/3/0/9".to_owned(), Value::Integer(100)),
    ]);
    assert_eq!(scene.values("/3", format::TLV, &payload), expected);
    assert_eq!(scene.values("/3/0", format::LEGACY_TLV, &payload), expected);
    assert_eq!(scene.values("/3/0", format::TLV, &payload[3..]), expected);
}

/// Zephyr and Leshan wrote so for some years.
#[test]
fn the_level_of_instances_may_be_missing_where_the_object_has_one() {
    let scene = Scene::new();
    for format in [format::TLV, format::LEGACY_TLV] {
        assert_eq!(
            scene.values("/3", format, &hex("c4 00 41434d45  86 06 41 00 01 41 01 05  c1 09 34")),
            Ok(vec![
                ("/3/0/0".to_owned(), Value::String("ACME".into())),
                ("/3/0/6/0".to_owned(), Value::Integer(1)),
                ("/3/0/6/1".to_owned(), Value::Integer(5)),
                ("/3/0/9".to_owned(), Value::Integer(52)),
            ])
        );
    }
    assert_eq!(scene.values("/3", format::TLV, &hex("03 00 c1 09 34")), one("/3/0/9", Value::Integer(52)));
}

/// LwM2M 1.0 section 6.4.3.3, the answer to a read of `/3/0`.
#[test]
fn the_example_of_the_specification_is_a_tree_and_the_same_bytes_again() {
    let bytes =
        hex("c80014 4f70656e204d6f62696c6520416c6c69616e6365 c80116 4c69676874776569676874204d324d20436c69656e74 \
         c80209 333435303030313233 c303 312e30 8606 410001 410105 880708 42000ed8 42011388 8708 41007d 42010384 \
         c10964 c10a0f 830b 410000 c40d 5182428f c60e 2b30323a3030 c110 55");
    assert_eq!(bytes.len(), 121);
    let tree = tlv::parse(&bytes).unwrap();
    let ids: Vec<_> = tree.iter().map(tlv::Tlv::id).collect();
    assert_eq!(ids, [0, 1, 2, 3, 6, 7, 8, 9, 10, 11, 13, 14, 16]);
    assert_eq!(tree[7], tlv::Tlv::Resource { id: 9, value: [100][..].into() });
    assert_eq!(tlv::encode(&tree), bytes);
}

#[test]
fn a_time_that_is_no_number_is_refused() {
    let scene = Scene::new();
    for time in ["f97e00", "f97c00"] {
        let payload = hex(&format!("81 a3 00 662f332f302f39 02 01 06 {time}"));
        let error = scene.values("/3/0/9", format::SENML_CBOR, &payload).unwrap_err();
        assert!(error.contains("no times"), "{error}");
    }
    let too_large = br#"[{"n":"/3/0/9","v":1,"bt":1e308,"t":1e308}]"#;
    assert!(scene.values("/3/0/9", format::SENML_JSON, too_large).is_err());
}

#[test]
fn tlv_values_are_read_by_their_type() {
    let scene = Scene::new();
    for (resource, payload, value) in [
        ("/3/0/9", "c1 09 c8", Value::Integer(-56)),
        ("/3/0/9", "c2 09 00c8", Value::Integer(200)),
        ("/3/0/9", "c8 09 08 8000000000000000", Value::Integer(i64::MIN)),
        ("/3/0/9", "c3 09 000034", Value::Integer(52)),
        ("/3/0/9", "c3 09 ffffcc", Value::Integer(-52)),
        ("/3/0/9", "c5 09 0100000000", Value::Integer(4_294_967_296)),
        ("/3/0/9", "c6 09 800000000000", Value::Integer(-140_737_488_355_328)),
        ("/3/0/9", "c7 09 7fffffffffffff", Value::Integer(36_028_797_018_963_967)),
        ("/3/0/10", "c3 0a ffffff", Value::UnsignedInteger(0xff_ffff)),
        ("/3/0/10", "c7 0a ffffffffffffff", Value::UnsignedInteger(0xff_ffff_ffff_ffff)),
        ("/3/0/13", "c5 0d 0067748580", Value::Time(1_735_689_600)),
        ("/3/0/10", "c1 0a c8", Value::UnsignedInteger(200)),
        ("/3/0/10", "c8 0a 08 ffffffffffffffff", Value::UnsignedInteger(u64::MAX)),
        ("/3/0/11", "c4 0b c0300000", Value::Float(-2.75)),
        ("/3/0/12", "c1 0c 01", Value::Boolean(true)),
        ("/3/0/13", "c4 0d 67748580", Value::Time(1_735_689_600)),
        ("/3/0/14", "c0 0e", Value::Opaque(vec![])),
        ("/3/0/22/3", "44 03 00010000", link(1, 0)),
        ("/3/0/22/300", "64 012c ffffffff", link(65535, 65535)),
    ] {
        assert_eq!(scene.values(resource, format::TLV, &hex(payload)), one(resource, value), "{payload}");
    }
}

#[test]
fn tlv_that_is_cut_misplaced_or_of_another_type_is_refused() {
    let scene = Scene::new();
    for (request, payload, reason) in [
        ("/3/0", "c8 00 14 414243", "cut short"),
        ("/3/0", "c8", "cut short"),
        ("/3/0", "d8 01 0100", "cut short"),
        ("/3/0", "08 00 02 41 00", "can hold"),
        ("/3/0", "08 00 02 08 00", "can hold"),
        ("/3/0", "82 06 c0 00", "can hold"),
        ("/3/0", "41 00 01", "says nothing"),
        ("/3", "41 00 01", "says nothing"),
        ("/4", "c1 09 64", "says nothing"),
        ("/4321", "c1 09 64", "says nothing"),
        ("/3/0/9", "c0 00", "not at or below"),
        ("/3/0", "03 01 c1 09 64", "not at or below"),
        ("/3/0", "00 01", "not at or below"),
        ("/3/0/9", "", "empty"),
        ("/3/0/9", "c0 09", "0 bytes are no Integer"),
        ("/3/0/10", "c0 0a", "0 bytes are no Unsigned Integer"),
        ("/3/0/9", "c8 09 09 000000000000000001", "9 bytes are no Integer"),
        ("/3/0/12", "c1 0c 02", "2 is no Boolean"),
        ("/3/0/11", "c2 0b 0000", "2 bytes are no Float"),
        ("/3/0/11", "c4 0b 7fc00000", "NaN"),
        ("/3/0/0", "c1 00 ff", "UTF-8"),
        ("/3/0/22/0", "43 00 000100", "3 bytes"),
        ("/3/0", "c1 04 00", "executed"),
        ("/3/0", "c1 63 00", "no definition"),
    ] {
        let error = scene.values(request, format::TLV, &hex(payload)).unwrap_err();
        assert!(error.contains(reason), "{request} {payload}: {error}");
    }
}

#[test]
fn what_has_no_definition_can_come_as_bytes() {
    let mut scene = Scene::new();
    scene.undefined = UndefinedResources::Opaque;
    let entry = |path: &str, bytes: &[u8]| Entry {
        path: super::tests::path(path),
        value: Value::Opaque(bytes.to_vec()),
        time: None,
        undefined: true,
    };
    assert_eq!(scene.decode("/4321/0/0", format::TEXT, b"x"), Ok(vec![entry("/4321/0/0", b"x")]));
    let mixed = scene.decode("/3/0", format::TLV, &hex("c1 63 2a c1 09 64")).unwrap();
    assert_eq!(mixed[0], entry("/3/0/99", &[42]));
    assert_eq!((&mixed[1].value, mixed[1].undefined), (&Value::Integer(100), false));
    assert!(scene.decode("/3/0/4", format::TEXT, b"").is_err());
}

#[test]
fn json_elements_have_their_values_and_never_lose_them_to_a_time() {
    let scene = Scene::new();
    let payload = br#"{"bn":"/3/0/","bt":1500000000,"e":[
        {"n":"0","sv":"ACME"},{"n":"9","v":77,"t":-5},{"n":"11","v":1.5},{"n":"12","bv":true},
        {"n":"14","sv":"yv4="},{"n":"22/0","ov":"1:0"},{"n":"13","v":1735689600}]}"#;
    let entries = scene.decode("/3/0", format::LWM2M_JSON, payload).unwrap();
    let values: Vec<_> = entries.iter().map(|entry| (entry.path.to_string(), entry.value.clone())).collect();
    assert_eq!(
        values,
        [
            ("/3/0/0".to_owned(), Value::String("ACME".into())),
            ("/3/0/9".to_owned(), Value::Integer(77)),
            ("/3/0/11".to_owned(), Value::Float(1.5)),
            ("/3/0/12".to_owned(), Value::Boolean(true)),
            ("/3/0/14".to_owned(), Value::Opaque(vec![0xca, 0xfe])),
            ("/3/0/22/0".to_owned(), link(1, 0)),
            ("/3/0/13".to_owned(), Value::Time(1_735_689_600)),
        ]
    );
    assert_eq!(entries[0].time, Some(1_500_000_000.0));
    assert_eq!(entries[1].time, Some(1_499_999_995.0));
}

#[test]
fn json_names_are_joined_with_one_slash() {
    let scene = Scene::new();
    for payload in [
        r#"{"bn":"/3/0","e":[{"n":"9","v":1}]}"#,
        r#"{"bn":"/3/0/","e":[{"n":"/9","v":1}]}"#,
        r#"{"bn":"/","e":[{"n":"3/0/9","v":1}]}"#,
        r#"{"bn":"/3/0/9","e":[{"v":1}]}"#,
        r#"{"e":[{"n":"/3/0/9","v":1}]}"#,
        r#"{"e":[{"n":"9","v":1}]}"#,
    ] {
        let read = scene.values("/3/0", format::LEGACY_JSON, payload.as_bytes());
        assert_eq!(read, one("/3/0/9", Value::Integer(1)), "{payload}");
    }
}

#[test]
fn json_that_says_something_else_is_refused() {
    let scene = Scene::new();
    for (payload, reason) in [
        (r#"{"bn":"/3/0","e":[{"n":"9","sv":"77"}]}"#, "a text is no Integer"),
        (r#"{"bn":"/3/0","e":[{"n":"9","v":7.5}]}"#, "7.5 is no Integer"),
        (r#"{"bn":"/3/0","e":[{"n":"9","v":9223372036854775808}]}"#, "is no Integer"),
        (r#"{"bn":"/3/0","e":[{"n":"12","v":1}]}"#, "1 is no Boolean"),
        (r#"{"bn":"/3/0","e":[{"n":"9"}]}"#, "no value"),
        (r#"{"bn":"/3/0","e":[{"n":"9","v":1,"sv":"1"}]}"#, "more than one value"),
        (r#"{"bn":"/3/1","e":[{"n":"9","v":1}]}"#, "not at or below"),
        (r#"{"bn":"/3/0","e":[{"n":"x","v":1}]}"#, "is no path"),
        (r#"{"bn":"/3/0","e":[{"v":1}]}"#, "is no resource"),
        (r#"{"bn":"/3/0","e":[{"n":"4","v":1}]}"#, "executed"),
        (r#"{"bn":"/3/0","e":[{"n":"14","sv":"x"}]}"#, "base64"),
        (r#"{"bn":"/3/0"}"#, "missing field"),
        (r#"{"e":[]} x"#, "trailing"),
        ("{", "EOF"),
    ] {
        let error = scene.values("/3/0", format::LWM2M_JSON, payload.as_bytes()).unwrap_err();
        assert!(error.contains(reason), "{payload}: {error}");
    }
    let error = scene.values("/3/0", format::LWM2M_JSON, b"{\"bn\":\"\xff\",\"e\":[]}").unwrap_err();
    assert!(error.contains("JSON"), "{error}");
}

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

#[test]
fn a_definition_that_is_not_there_in_the_announced_version_is_told() {
    let scene = Scene::with_object_list("</3>;ver=2.0,</3/0>");
    let error = scene.decode("/3/0", format::TLV, &hex("c1 09 64")).unwrap_err();
    assert_eq!(error, "/3/0/9 has no definition in version 2.0, which the device announced; loaded: 1.0");
    let scene = Scene::with_object_list("</3>;ver=1.9,</3/0>");
    assert_eq!(scene.values("/3/0", format::TLV, &hex("c1 09 64")), one("/3/0/9", Value::Integer(100)));
}

#[test]
fn base64_of_a_device_may_have_line_breaks_where_it_can_be_nothing_else() {
    let scene = Scene::new();
    let expected = one("/3/0/14", Value::Opaque(vec![0xca, 0xfe]));
    for (content_format, payload) in [
        (format::SENML_JSON, &br#"[{"n":"/3/0/14","vd":"yv\r\n4="}]"#[..]),
        (format::LWM2M_JSON, br#"{"bn":"/3/0/14","e":[{"sv":"yv\n4 ="}]}"#),
    ] {
        assert_eq!(scene.values("/3/0/14", content_format, payload), expected, "{content_format}");
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

#[test]
fn other_formats_hold_no_values() {
    let scene = Scene::new();
    for format in [format::LINK_FORMAT, 41, 50, 999] {
        assert_eq!(scene.decode("/3/0", format, b"{}"), Err(format!("content format {format} holds no values")));
    }
}

#[test]
fn a_device_is_asked_for_the_best_format_that_it_announced() {
    for (request, announced, best) in [
        ("/3/0", &[][..], None),
        ("/3/0", &[11542, 110, 112], Some(112)),
        ("/3/0", &[11543, 11542], Some(11542)),
        ("/3/0", &[0, 42, 60], None),
        ("/3/0/9", &[0, 42, 60], Some(60)),
        ("/3/0/9", &[0], Some(0)),
    ] {
        assert_eq!(best_to_read(path(request), announced), best, "{request} {announced:?}");
    }
}

#[test]
fn a_write_is_tlv_unless_the_device_announced_others_only() {
    let integer = |path: &str| Assignment { path: super::tests::path(path), value: Value::Integer(60) };
    let single = [integer("/3/0/9")];
    let encode = |target: &str, values: &[Assignment], announced: &[u16]| {
        let chosen = best_to_write(super::tests::path(target), values, announced);
        (chosen, encode(super::tests::path(target), values, chosen))
    };
    let written = |announced: &[u16]| encode("/3/0/9", &single, announced);
    assert_eq!(written(&[]), (format::TLV, hex("c1 09 3c")));
    assert_eq!(written(&[110, 11542]), (format::TLV, hex("c1 09 3c")));
    assert_eq!(written(&[110, 0]), (format::SENML_JSON, br#"[{"bn":"/3/0/9","v":60}]"#.to_vec()));
    assert_eq!(written(&[112]), (format::SENML_CBOR, hex("81 a2 21 662f332f302f39 02 183c")));
    assert_eq!(written(&[11543]), (format::LWM2M_JSON, br#"{"bn":"/3/0/9","e":[{"v":60}]}"#.to_vec()));
    assert_eq!(written(&[0]), (format::TEXT, b"60".to_vec()));
    assert_eq!(encode("/3/0", &single, &[0]), (format::TLV, hex("c1 09 3c")));
    let opaque = [Assignment { path: path("/3/0/14"), value: Value::Opaque(vec![1]) }];
    assert!(is_single_opaque(path("/3/0/14"), &opaque) && !is_single_opaque(path("/3/0"), &opaque));
    assert!(!is_single_opaque(path("/3/0/9"), &single));
    let both = [integer("/3/0/6/0"), integer("/3/0/9")];
    let json = br#"[{"bn":"/3/0/","n":"6/0","v":60},{"n":"9","v":60}]"#.to_vec();
    assert_eq!(encode("/3/0", &both, &[110]), (format::SENML_JSON, json));
}

#[test]
fn tlv_integers_are_the_shortest_of_1_2_4_or_8_bytes() {
    for (value, bytes) in [
        (0, "00"),
        (127, "7f"),
        (128, "0080"),
        (-128, "80"),
        (-129, "ff7f"),
        (32768, "00008000"),
        (-32769, "ffff7fff"),
        (i64::MAX, "7fffffffffffffff"),
        (2_147_483_648, "0000000080000000"),
    ] {
        assert_eq!(*tlv::encode_value(&Value::Integer(value)), *hex(bytes), "{value}");
    }
    assert_eq!(*tlv::encode_value(&Value::UnsignedInteger(u64::MAX)), [0xff; 8]);
    assert_eq!(*tlv::encode_value(&Value::UnsignedInteger(200)), *hex("00c8"));
}

fn any_value() -> impl Strategy<Value = (u16, Value)> {
    prop_oneof![
        ".{0,40}".prop_map(|text| (0, Value::String(text))),
        any::<i64>().prop_map(|value| (9, Value::Integer(value))),
        any::<u64>().prop_map(|value| (10, Value::UnsignedInteger(value))),
        any::<f64>().prop_filter("finite", |value| value.is_finite()).prop_map(|value| (11, Value::Float(value))),
        any::<bool>().prop_map(|value| (12, Value::Boolean(value))),
        any::<i64>().prop_map(|value| (13, Value::Time(value))),
        proptest::collection::vec(any::<u8>(), 0..300).prop_map(|bytes| (14, Value::Opaque(bytes))),
        (any::<u16>(), any::<u16>()).prop_map(|(object, instance)| (22, link(object, instance))),
        ".{0,40}".prop_map(|text| (23, Value::CoreLink(text))),
    ]
}

/// TLV has no sign for an Unsigned Integer; JSON has one zero.
fn as_read(value: &Value) -> Value {
    match value {
        Value::Float(zero) if *zero == 0.0 => Value::Float(0.0),
        other => other.clone(),
    }
}

proptest! {
    #[test]
    fn what_was_written_is_read_again(values in proptest::collection::vec(any_value(), 1..6), instance in any::<u16>()) {
        let scene = Scene::new();
        let mut seen = std::collections::BTreeSet::new();
        let assignments: Vec<_> = values
            .into_iter()
            .filter(|(id, _)| seen.insert(*id))
            .map(|(id, value)| Assignment { path: Path::of(&[3, instance, id]).unwrap(), value })
            .collect();
        let expected: Vec<_> = assignments.iter().map(|one| (one.path.to_string(), as_read(&one.value))).collect();
        for target in [Path::of(&[3]).unwrap(), Path::of(&[3, instance]).unwrap()] {
            for chosen in [format::TLV, format::SENML_JSON, format::SENML_CBOR, format::LWM2M_JSON] {
                let payload = encode(target, &assignments, chosen);
                let read = scene.values(&target.to_string(), chosen, &payload).map(|values| {
                    values.into_iter().map(|(path, value)| (path, as_read(&value))).collect::<Vec<_>>()
                });
                prop_assert_eq!(read, Ok(expected.clone()), "format {}", chosen);
            }
        }
    }

    #[test]
    fn the_text_of_a_value_is_read_again((id, value) in any_value()) {
        let request = format!("/3/0/{id}");
        let read = Scene::new().values(&request, format::TEXT, &text::encode(&value));
        prop_assert_eq!(read, one(&request, value));
    }

    #[test]
    fn any_bytes_are_entries_at_or_below_the_request_or_an_error(
        payload in proptest::collection::vec(any::<u8>(), 0..120),
        format in prop::sample::select(vec![0, 42, 60, 110, 112, 1541, 1542, 1543, 1544, 11542, 11543, 11544]),
        request in prop::sample::select(vec!["/3", "/3/0", "/3/0/6", "/3/0/6/1", "/9/0/1"]),
    ) {
        for entry in Scene::new().decode(request, format, &payload).unwrap_or_default() {
            prop_assert!(entry.path.is_at_or_below(&path(request)));
        }
    }

    #[test]
    fn any_tlv_that_is_read_is_written_as_a_tree_that_is_the_same(payload in proptest::collection::vec(any::<u8>(), 0..120)) {
        if let Ok(tree) = tlv::parse(&payload) {
            let written = tlv::encode(&tree);
            prop_assert_eq!(tlv::parse(&written), Ok(tree));
        }
    }
}
