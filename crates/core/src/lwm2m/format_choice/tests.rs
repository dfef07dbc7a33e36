use std::time::Duration;

use super::*;
use crate::coap::Request;
use crate::coap::options::number;
use crate::lwm2m::operation::WriteMode;
use crate::lwm2m::value::Value;

use ContentFormat::{
    Cbor, Lwm2mCbor, Lwm2mJson, Opaque, SenmlCbor, SenmlEtchCbor, SenmlEtchJson, SenmlJson, Text, Tlv,
};

/// A device that announces formats, if there are any.
fn device(version: &str, announced: &str) -> Registration {
    let root = if announced.is_empty() { String::new() } else { format!("</>;ct=\"{announced}\",") };
    device_with_list(version, &format!("{root}</3/0>,</5/0>"))
}

fn device_with_list(version: &str, list: &str) -> Registration {
    let mut request = Request::new(Code::POST);
    request.options.add_text(number::URI_QUERY, "ep=dev-7");
    request.options.add_text(number::URI_QUERY, &format!("lwm2m={version}"));
    request.payload = list.as_bytes().to_vec();
    let lifetimes = Duration::from_secs(1)..=Duration::from_secs(86_400);
    Registration::from_register(&request, &lifetimes, None).unwrap()
}

fn path(text: &str) -> Path {
    text.parse().unwrap()
}

fn operation(at: &str, kind: OperationKind) -> Operation {
    Operation::new(path(at), Vec::new(), kind)
}

fn read(at: &str) -> Operation {
    operation(at, OperationKind::Read)
}

fn write(target: &str, at: &str, value: Value) -> Operation {
    let values = vec![Assignment { path: path(at), value }];
    operation(target, OperationKind::Write { values, mode: WriteMode::Update })
}

fn single() -> Operation {
    write("/3/0/9", "/3/0/9", Value::Integer(1))
}

fn several() -> Operation {
    write("/3/0", "/3/0/9", Value::Integer(1))
}

fn image() -> Operation {
    write("/5/0/0", "/5/0/0", Value::Opaque(vec![1]))
}

fn read_composite() -> Operation {
    operation("/", OperationKind::ReadComposite { paths: vec![path("/3/0/9")] })
}

fn write_composite(value: Option<Value>) -> Operation {
    operation("/", OperationKind::WriteComposite { patches: vec![Patch { path: path("/3/0/9"), value }] })
}

/// The Accept and Content-Format options of the first request.
fn first(operation: &Operation, registration: &Registration) -> (Option<ContentFormat>, Option<ContentFormat>) {
    let attempts = Attempts::first(operation, registration);
    let Formats { accept, format } = attempts.formats();
    (accept, format)
}

/// The formats of all requests of a command whose device rejects each one with this code.
fn formats_of(operation: &Operation, registration: &mut Registration, code: Code) -> Vec<Option<ContentFormat>> {
    let mut attempts = Attempts::first(operation, registration);
    let mut formats = vec![attempts.formats().format];
    while attempts.next(operation, code, registration).is_some() {
        formats.push(attempts.formats().format);
    }
    formats
}

#[test]
fn a_read_asks_for_the_best_format_that_a_device_of_1_1_announced() {
    for (version, announced, at, accept) in [
        ("1.0", "112", "/3/0", None),
        ("1.1", "", "/3/0", None),
        ("1.1", "11542 110 112", "/3/0", Some(SenmlCbor)),
        ("1.1", "110 11544", "/3/0", Some(SenmlJson)),
        ("1.2", "110 11544", "/3/0", Some(Lwm2mCbor)),
        ("1.1", "11543 11542", "/3/0", Some(Tlv)),
        ("1.1", "11543", "/3/0", Some(Lwm2mJson)),
        ("1.1", "0 42 60", "/3/0", None),
        ("1.1", "0 42 60", "/3/0/9", Some(Cbor)),
        ("1.1", "0", "/3/0/9", Some(Text)),
        ("1.1", "42 9999", "/3/0/9", None),
    ] {
        assert_eq!(first(&read(at), &device(version, announced)), (accept, None), "{version} {announced} {at}");
    }
}

#[test]
fn an_operation_on_one_object_uses_the_formats_of_its_own_link_and_one_on_several_those_of_the_root() {
    let device = device_with_list("1.1", "</>;ct=110,</3>;ct=11542,</3/0>,</5/0>");
    assert_eq!(first(&read("/3/0"), &device), (Some(Tlv), None));
    assert_eq!(first(&read("/3/0/9"), &device), (Some(Tlv), None));
    assert_eq!(first(&operation("/3", OperationKind::Observe), &device), (Some(Tlv), None));
    assert_eq!(first(&read("/5/0"), &device), (Some(SenmlJson), None));
    assert_eq!(first(&several(), &device), (None, Some(Tlv)));
    assert_eq!(first(&image(), &device), (None, Some(SenmlJson)));
    assert_eq!(first(&read_composite(), &device), (Some(SenmlJson), Some(SenmlJson)));
}

#[test]
fn a_write_uses_what_the_device_announced_or_must_support() {
    for (version, announced, of_single, of_several, of_image) in [
        ("1.0", "", Tlv, Tlv, Tlv),
        ("1.0", "112", Tlv, Tlv, Tlv),
        ("1.0", "11542 42", Tlv, Tlv, Opaque),
        ("1.1", "", Text, SenmlCbor, Opaque),
        ("1.1", "112", SenmlCbor, SenmlCbor, SenmlCbor),
        ("1.1", "112 11542 42", SenmlCbor, SenmlCbor, Opaque),
        ("1.1", "110 0", SenmlJson, SenmlJson, SenmlJson),
        ("1.1", "11543", Lwm2mJson, Lwm2mJson, Lwm2mJson),
        ("1.1", "60 0", Cbor, SenmlCbor, Cbor),
        ("1.1", "11544", Text, SenmlCbor, Opaque),
        ("1.2", "11544", Lwm2mCbor, Lwm2mCbor, Lwm2mCbor),
        ("1.1", "40", Text, SenmlCbor, Opaque),
    ] {
        let device = device(version, announced);
        let formats = [single(), several(), image()].map(|operation| first(&operation, &device));
        let expected = [of_single, of_several, of_image].map(|format| (None, Some(format)));
        assert_eq!(formats, expected, "{version} {announced}");
    }
}

#[test]
fn a_composite_operation_uses_senml() {
    for (version, announced, accept, list, patches) in [
        ("1.1", "", SenmlCbor, SenmlCbor, SenmlCbor),
        ("1.1", "110", SenmlJson, SenmlJson, SenmlJson),
        ("1.1", "110 112", SenmlCbor, SenmlCbor, SenmlCbor),
        ("1.1", "110 11544", SenmlJson, SenmlJson, SenmlJson),
        ("1.2", "110 11544", Lwm2mCbor, SenmlJson, SenmlJson),
        ("1.2", "11544", Lwm2mCbor, SenmlCbor, Lwm2mCbor),
        ("1.1", "60 11542", SenmlCbor, SenmlCbor, SenmlCbor),
    ] {
        let device = device(version, announced);
        assert_eq!(first(&read_composite(), &device), (Some(accept), Some(list)), "{version} {announced}");
        let written = first(&write_composite(Some(Value::Integer(1))), &device);
        assert_eq!(written, (None, Some(patches)), "{version} {announced}");
    }
    for (announced, format) in [("", SenmlEtchCbor), ("110", SenmlEtchJson), ("110 112", SenmlEtchCbor)] {
        assert_eq!(first(&write_composite(None), &device("1.2", announced)).1, Some(format), "{announced}");
    }
}

#[test]
fn a_named_format_is_used_and_never_replaced() {
    let mut device = device("1.1", "112");
    let named = Formats { accept: Some(Cbor), format: None };
    let read = read("/3/0/9").with_formats(named);
    assert_eq!(first(&read, &device), (Some(Cbor), None));
    assert_eq!(Attempts::first(&read, &device).next(&read, Code::NOT_ACCEPTABLE, &mut device), None);
    let write = single().with_formats(Formats { accept: None, format: Some(Text) });
    assert_eq!(formats_of(&write, &mut device, Code::UNSUPPORTED_CONTENT_FORMAT), [Some(Text)]);
    let etch = read_composite().with_formats(Formats { accept: None, format: Some(SenmlEtchJson) });
    assert_eq!(first(&etch, &self::device("1.2", "")), (Some(SenmlJson), Some(SenmlEtchJson)));
    assert!(device.learned_formats().is_empty());
}

#[test]
fn a_format_that_is_not_acceptable_is_asked_for_once() {
    let mut device = device("1.1", "112 110");
    let read = read("/3/0/9");
    let mut attempts = Attempts::first(&read, &device);
    assert_eq!(attempts.next(&read, Code::NOT_ACCEPTABLE, &mut device), Some(SenmlCbor));
    assert_eq!(attempts.formats().accept, None);
    assert_eq!(attempts.next(&read, Code::NOT_ACCEPTABLE, &mut device), None, "it had no Accept");
    assert_eq!(first(&read, &device), (Some(SenmlJson), None));
}

#[test]
fn a_write_is_tried_in_three_formats() {
    for (version, announced, operation, formats) in [
        ("1.1", "", several(), vec![SenmlCbor, Tlv, SenmlJson]),
        ("1.1", "", single(), vec![Text, SenmlCbor, Tlv]),
        ("1.1", "", image(), vec![Opaque, SenmlCbor, Tlv]),
        ("1.1", "112", image(), vec![SenmlCbor, Tlv, SenmlJson]),
        ("1.1", "11543", several(), vec![Lwm2mJson, SenmlCbor, Tlv]),
        ("1.0", "", image(), vec![Tlv, Opaque]),
        ("1.0", "42", image(), vec![Opaque, Tlv]),
        ("1.0", "", several(), vec![Tlv]),
        ("1.1", "110", read_composite(), vec![SenmlJson, SenmlCbor]),
        ("1.2", "", write_composite(None), vec![SenmlEtchCbor]),
    ] {
        let mut device = device(version, announced);
        let tried = formats_of(&operation, &mut device, Code::UNSUPPORTED_CONTENT_FORMAT);
        assert_eq!(tried, formats.into_iter().map(Some).collect::<Vec<_>>(), "{version} {announced} {operation:?}");
    }
}

#[test]
fn the_answer_of_a_composite_changes_its_format_with_the_list() {
    let mut device = device("1.1", "");
    let operation = read_composite();
    let mut attempts = Attempts::first(&operation, &device);
    assert_eq!(attempts.next(&operation, Code::UNSUPPORTED_CONTENT_FORMAT, &mut device), Some(SenmlCbor));
    assert_eq!(attempts.formats(), Formats { accept: Some(SenmlJson), format: Some(SenmlJson) });
    assert_eq!(attempts.next(&operation, Code::NOT_ACCEPTABLE, &mut device), Some(SenmlJson));
    assert_eq!(attempts.formats(), Formats { accept: None, format: Some(SenmlJson) });
    assert_eq!(attempts.next(&operation, Code::UNSUPPORTED_CONTENT_FORMAT, &mut device), None);
    for code in [Code::METHOD_NOT_ALLOWED, Code::NOT_IMPLEMENTED, Code::CONTENT] {
        assert_eq!(Attempts::first(&operation, &device).next(&operation, code, &mut device), None, "{code}");
    }
}

#[test]
fn what_was_learned_is_used_at_once_and_forgotten_with_the_announcement() {
    let mut device = device("1.1", "11543");
    let several = several();
    let mut attempts = Attempts::first(&several, &device);
    assert_eq!(attempts.next(&several, Code::UNSUPPORTED_CONTENT_FORMAT, &mut device), Some(Lwm2mJson));
    assert_eq!(attempts.next(&several, Code::UNSUPPORTED_CONTENT_FORMAT, &mut device), Some(SenmlCbor));
    assert_eq!(attempts.next(&several, Code::CHANGED, &mut device), None);
    assert_eq!(first(&several, &device).1, Some(Tlv));

    let restored: Registration = serde_json::from_str(&serde_json::to_string(&device).unwrap()).unwrap();
    assert_eq!(first(&several, &restored).1, Some(Tlv), "it survives a restart");

    let lifetimes = Duration::from_secs(1)..=Duration::from_secs(86_400);
    let mut update = Request::new(Code::POST);
    update.payload = b"</>;ct=11543,</3/0>".to_vec();
    device.update(&update, &lifetimes).unwrap();
    assert_eq!(first(&several, &device).1, Some(Tlv), "the formats are the same");
    update.payload = b"</>;ct=\"110 11543\",</3/0>".to_vec();
    device.update(&update, &lifetimes).unwrap();
    assert_eq!(first(&several, &device).1, Some(SenmlJson));
}

#[test]
fn only_tlv_can_leave_an_instance_id_to_the_device() {
    let values = vec![Assignment { path: path("/6/0/0"), value: Value::Float(1.0) }];
    let create = operation("/6", OperationKind::Create { values, device_chooses_id: true });
    assert_eq!(first(&create, &device("1.1", "")), (None, Some(Tlv)));
    let empty = operation("/6", OperationKind::Create { values: Vec::new(), device_chooses_id: false });
    assert_eq!(first(&empty, &device("1.1", "112")), (None, None));
}
