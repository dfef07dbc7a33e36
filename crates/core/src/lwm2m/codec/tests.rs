mod cbor_payloads;
mod json_payloads;
mod properties;
mod senml_payloads;
mod tlv_payloads;
mod zephyr_payloads;

use proptest::prelude::*;

use crate::coap::options::{format, number};
use crate::coap::{Code, Request};
use crate::lwm2m::model::{Object, Operations, Version};
use crate::lwm2m::value::ObjectLink;

use super::*;

const MAX_ENTRIES: usize = 10_000;
const NOW: Duration = Duration::from_secs(1_700_000_000);

/// What the tests know: a device with one resource of each kind.
struct CodecScene {
    model: Model,
    registration: Registration,
    undefined: UndefinedResources,
}

impl CodecScene {
    fn new() -> Self {
        Self::with_object_list("</3/0>")
    }

    fn with_object_list(list: &str) -> Self {
        let mut request = Request::new(Code::POST);
        request.options.add_text(number::URI_QUERY, "ep=dev-7");
        request.payload = list.as_bytes().to_vec();
        let lifetimes = Duration::from_secs(1)..=Duration::from_secs(86_400);
        let registration = Registration::from_register(&request, &lifetimes, None).unwrap();
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
        self.decode_of(Requested::Path(path(request)), format, payload)
    }

    fn decode_of(&self, requested: Requested<'_>, format: u16, payload: &[u8]) -> Result<Vec<Entry>, String> {
        let Self { registration, model, undefined, .. } = self;
        let (undefined, unix_time, max_entries) = (*undefined, NOW, MAX_ENTRIES);
        let context = DecodeContext { registration, model, undefined, unix_time, max_entries };
        decode(requested, Some(format), payload, context).map_err(|error| error.to_string())
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
    let scene = CodecScene::new();
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
    let scene = CodecScene::new();
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
    let scene = CodecScene::new();
    let CodecScene { registration, model, .. } = &scene;
    let context =
        DecodeContext { registration, model, undefined: scene.undefined, unix_time: NOW, max_entries: MAX_ENTRIES };
    let formats = ALL_FORMATS.map(Some).into_iter().chain([None, Some(format::LINK_FORMAT), Some(50)]);
    for content_format in formats {
        for request in ["/3", "/3/0", "/3/0/6", "/4321", "/4321/0"] {
            let read = decode(Requested::Path(path(request)), content_format, b"", context);
            assert_eq!(read.unwrap(), [], "{request} {content_format:?}");
        }
        let octets = [format::OCTET_STREAM, format::LEGACY_OPAQUE].map(Some).contains(&content_format);
        for request in ["/3/0/9", "/3/0/6/0", "/3/0/4"].into_iter().filter(|request| !octets || *request == "/3/0/4") {
            assert!(
                decode(Requested::Path(path(request)), content_format, b"", context).is_err(),
                "{request} {content_format:?}"
            );
        }
    }
    for content_format in [None, Some(format::TEXT)] {
        let entries = decode(Requested::Path(path("/3/0/0")), content_format, b"", context).unwrap();
        assert_eq!(entries[0].value, Value::String(String::new()));
    }
    let entries = decode(Requested::Path(path("/3/0/14")), Some(format::OCTET_STREAM), b"", context).unwrap();
    assert_eq!(entries[0].value, Value::Opaque(vec![]));
    for content_format in [format::TLV, format::SENML_CBOR] {
        let error = scene.decode("/3/0/9", content_format, b"").unwrap_err();
        assert_eq!(error, "the payload is empty");
        assert_eq!(scene.decode("/4321/0/1", content_format, b""), Ok(vec![]), "it may be a multiple resource");
    }
}

#[test]
fn an_instance_with_nothing_in_it_has_no_entries() {
    let scene = CodecScene::new();
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
    let scene = CodecScene::new();
    for format in [format::OCTET_STREAM, format::LEGACY_OPAQUE] {
        let value = Value::Opaque(vec![0, 0xff]);
        assert_eq!(scene.values("/4321/0/7", format, &[0, 0xff]), one("/4321/0/7", value));
        assert!(scene.values("/3/0", format, &[0]).is_err());
        assert!(scene.values("/3/0/4", format, &[0]).is_err());
    }
}

#[test]
fn what_has_no_definition_can_come_as_bytes() {
    let mut scene = CodecScene::new();
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
fn a_definition_that_is_not_there_in_the_announced_version_is_told() {
    let scene = CodecScene::with_object_list("</3>;ver=2.0,</3/0>");
    let error = scene.decode("/3/0", format::TLV, &hex("c1 09 64")).unwrap_err();
    assert_eq!(error, "/3/0/9 has no definition in version 2.0, which the device announced; loaded: 1.0");
    let scene = CodecScene::with_object_list("</3>;ver=1.9,</3/0>");
    assert_eq!(scene.values("/3/0", format::TLV, &hex("c1 09 64")), one("/3/0/9", Value::Integer(100)));
}

#[test]
fn base64_of_a_device_may_have_line_breaks_where_it_can_be_nothing_else() {
    let scene = CodecScene::new();
    let expected = one("/3/0/14", Value::Opaque(vec![0xca, 0xfe]));
    for (content_format, payload) in [
        (format::SENML_JSON, &br#"[{"n":"/3/0/14","vd":"yv\r\n4="}]"#[..]),
        (format::LWM2M_JSON, br#"{"bn":"/3/0/14","e":[{"sv":"yv\n4 ="}]}"#),
    ] {
        assert_eq!(scene.values("/3/0/14", content_format, payload), expected, "{content_format}");
    }
}

#[test]
fn other_formats_hold_no_values() {
    let scene = CodecScene::new();
    for format in [format::LINK_FORMAT, 41, 50, 999] {
        assert_eq!(scene.decode("/3/0", format, b"{}"), Err(format!("content format {format} holds no values")));
    }
}
