use std::time::Duration;

use super::*;
use crate::coap::options::format;
use crate::lwm2m::codec::UndefinedResources;
use crate::lwm2m::format_choice::Attempts;
use crate::lwm2m::model::{Model, Object, Operations, Resource, Version};
use crate::lwm2m::value::{ResourceType, Value};

fn registration(query: &[&str], objects: &str) -> Registration {
    let mut request = Request::new(Code::POST);
    ["ep=dev-7"].iter().chain(query).for_each(|item| request.options.add_text(number::URI_QUERY, item));
    request.payload = objects.as_bytes().to_vec();
    Registration::from_register(&request, &(Duration::from_secs(1)..=Duration::from_secs(86_400)), None).unwrap()
}

fn path(text: &str) -> Path {
    text.parse().unwrap()
}

fn read(at: &str) -> Operation {
    operation(at, OperationKind::Read)
}

fn operation(at: &str, kind: OperationKind) -> Operation {
    Operation::new(path(at), Vec::new(), kind)
}

fn first_request(operation: &Operation, registration: &Registration) -> Request {
    operation.request_in(Attempts::first(operation, registration).formats(), registration)
}

fn texts(request: &Request, number: u16) -> Vec<&str> {
    request.options.texts(number).unwrap()
}

fn content(format: Option<u16>, payload: &[u8]) -> Response {
    let mut response = Response::new(Code::CONTENT);
    format.into_iter().for_each(|format| response.options.add_uint(number::CONTENT_FORMAT, format.into()));
    response.payload = payload.to_vec();
    response
}

fn outcome(operation: &Operation, response: &Response) -> Outcome {
    let mut device = Object::new(3, Version::FIRST, "Device");
    let resource_type = Some(ResourceType::Integer);
    device
        .insert(Resource {
            id: 9,
            name: "Battery Level".into(),
            operations: Operations { read: true, ..Operations::default() },
            multiple: false,
            mandatory: false,
            resource_type,
            range: None,
            units: String::new(),
        })
        .unwrap();
    let mut model = Model::default();
    model.insert(device).unwrap();
    let registration = registration(&[], "");
    let undefined = UndefinedResources::Refuse;
    let unix_time = Duration::ZERO;
    operation.outcome(
        response,
        DecodeContext { registration: &registration, model: &model, undefined, unix_time, max_entries: 100 },
    )
}

#[test]
fn every_operation_has_its_method_and_its_options() {
    let registration = registration(&[], "</m2m/v1>;rt=\"oma.lwm2m\"");
    let at = path("/3/0/9");
    let values = vec![Assignment { path: at, value: Value::Integer(60) }];
    for (kind, method, accept, observe, payload) in [
        (OperationKind::Read, Code::GET, None, None, &b""[..]),
        (OperationKind::Discover, Code::GET, Some(40), None, b""),
        (OperationKind::Observe, Code::GET, None, Some(0), b""),
        (OperationKind::CancelObserve, Code::GET, None, Some(1), b""),
        (OperationKind::Write { values, mode: WriteMode::Replace }, Code::PUT, None, None, b"\xc1\x09\x3c"),
        (OperationKind::Execute { arguments: "0='x'".into() }, Code::POST, None, None, b"0='x'"),
        (OperationKind::Delete, Code::DELETE, None, None, b""),
    ] {
        let operation = Operation::new(at, vec!["a=1".to_owned()], kind);
        let request = first_request(&operation, &registration);
        assert_eq!(request.method, method, "{operation:?}");
        assert_eq!(texts(&request, number::URI_PATH), ["m2m", "v1", "3", "0", "9"], "{operation:?}");
        assert_eq!(texts(&request, number::URI_QUERY), ["a=1"], "{operation:?}");
        assert_eq!(request.options.uint(number::ACCEPT), Ok(accept), "{operation:?}");
        assert_eq!(request.options.uint(number::OBSERVE), Ok(observe), "{operation:?}");
        assert_eq!(request.payload, payload, "{operation:?}");
    }
}

#[test]
fn an_update_is_a_post_and_a_replacement_a_put() {
    let registration = registration(&[], "");
    let write = |target: &str, at: &str, mode| {
        let values = vec![Assignment { path: path(at), value: Value::Integer(1) }];
        first_request(&operation(target, OperationKind::Write { values, mode }), &registration)
    };
    for (target, at, mode, method, payload) in [
        ("/3/0", "/3/0/6/2", WriteMode::Update, Code::POST, &b"\x83\x06\x41\x02\x01"[..]),
        ("/3/0", "/3/0/9", WriteMode::Replace, Code::PUT, b"\xc1\x09\x01"),
        ("/3/0/6", "/3/0/6/2", WriteMode::Update, Code::POST, b"\x83\x06\x41\x02\x01"),
        ("/3/0/6/2", "/3/0/6/2", WriteMode::Replace, Code::PUT, b"\x41\x02\x01"),
    ] {
        let request = write(target, at, mode);
        assert_eq!((request.method, &request.payload[..]), (method, payload), "{target} {mode:?}");
    }
}

#[test]
fn only_a_device_of_1_1_is_asked_for_the_format_that_it_announced() {
    let objects = "</>;rt=\"oma.lwm2m\";ct=\"11542 110\",</3/0>";
    for (version, accept) in [("lwm2m=1.0", None), ("lwm2m=1.1", Some(110))] {
        let request = first_request(&read("/3/0"), &registration(&[version], objects));
        assert_eq!(request.options.uint(number::ACCEPT), Ok(accept), "{version}");
    }
    let request = first_request(&read("/3/0"), &registration(&["lwm2m=1.1"], "</3/0>"));
    assert_eq!(request.options.uint(number::ACCEPT), Ok(None));
}

/// An object that is read well is understood when it is observed.
#[test]
fn observe_asks_for_the_format_that_read_asks_for() {
    let objects = "</>;rt=\"oma.lwm2m\";ct=\"11542 110\",</3/0>;ct=112,</3303/0>";
    for (version, at, accept) in
        [("lwm2m=1.1", "/3303/0", Some(110)), ("lwm2m=1.1", "/3/0", Some(112)), ("lwm2m=1.0", "/3303/0", None)]
    {
        let registration = registration(&[version], objects);
        for kind in [OperationKind::Read, OperationKind::Observe, OperationKind::CancelObserve] {
            let request = first_request(&operation(at, kind.clone()), &registration);
            assert_eq!(request.options.uint(number::ACCEPT), Ok(accept), "{kind:?}");
        }
    }
}

#[test]
fn a_composite_operation_is_a_fetch_or_an_ipatch_at_the_alternate_path() {
    let registration = registration(&["lwm2m=1.1"], "</m2m>;rt=\"oma.lwm2m\",</m2m/3/0>");
    let paths = || vec![path("/3/0/9"), Path::ROOT];
    let patches = vec![Patch { path: path("/3/0/9"), value: Some(Value::Integer(60)) }];
    let list = b"\x82\xa1\x00\x6a/m2m/3/0/9\xa1\x00\x64/m2m";
    for (kind, method, observe, accept, payload) in [
        (OperationKind::ReadComposite { paths: paths() }, Code::FETCH, None, Some(112), &list[..]),
        (OperationKind::ObserveComposite { paths: paths() }, Code::FETCH, Some(0), Some(112), list),
        (OperationKind::CancelObserveComposite { paths: paths() }, Code::FETCH, Some(1), Some(112), list),
        (
            OperationKind::WriteComposite { patches },
            Code::IPATCH,
            None,
            None,
            b"\x81\xa2\x00\x6a/m2m/3/0/9\x02\x18\x3c",
        ),
    ] {
        let request = first_request(&operation("/", kind), &registration);
        assert_eq!((request.method, texts(&request, number::URI_PATH)), (method, vec!["m2m"]));
        assert_eq!(request.options.uint(number::OBSERVE), Ok(observe), "{method}");
        assert_eq!(request.options.uint(number::ACCEPT), Ok(accept), "{method}");
        assert_eq!((request.options.content_format(), &request.payload[..]), (Some(format::SENML_CBOR), payload));
    }
}

#[test]
fn the_entries_of_a_composite_answer_are_at_or_below_one_of_its_paths() {
    let read = operation("/", OperationKind::ReadComposite { paths: vec![path("/3/0"), path("/1/0/1")] });
    let good = outcome(&read, &content(Some(110), br#"[{"n":"/3/0/9","v":81},{"n":"/1/0/1","v":60}]"#));
    assert!(matches!(good.content, Some(Content::Entries(entries)) if entries.len() == 2));
    for response in [
        content(Some(110), br#"[{"n":"/1/0/2","v":1}]"#),
        content(Some(0), b"81"),
        content(Some(11542), b"\xc1\x09\x51"),
        content(None, b"81"),
    ] {
        assert_eq!(outcome(&read, &response).code, Code::BAD_REQUEST, "{response:?}");
    }
    assert_eq!(outcome(&read, &content(None, b"")).content, Some(Content::Entries(Vec::new())));
}

#[test]
fn the_location_of_a_created_instance_has_no_alternate_path() {
    let create = operation("/6", OperationKind::Create { values: Vec::new(), device_chooses_id: false });
    let mut response = Response::new(Code::CREATED);
    ["6", "4"].iter().for_each(|segment| response.options.add_text(number::LOCATION_PATH, segment));
    assert_eq!(outcome(&create, &response).location.as_deref(), Some("/6/4"));
    assert_eq!(outcome(&create, &Response::new(Code::CREATED)).location, None);
    assert_eq!(outcome(&read("/6"), &response).location, None);
}

#[test]
fn content_is_understood_or_the_answer_is_4_00_with_a_reason() {
    let good = outcome(&read("/3/0/9"), &content(None, b"81"));
    let entry = Entry { path: path("/3/0/9"), value: Value::Integer(81), time: None, undefined: false };
    let expected = Outcome { content: Some(Content::Entries(vec![entry])), ..Outcome::of(Code::CONTENT) };
    assert_eq!(good, expected);
    for response in [content(Some(0), b"oops"), content(Some(40), b"</3/0>"), content(Some(50), b"{}")] {
        let bad = outcome(&read("/3/0/9"), &response);
        assert_eq!((bad.code, bad.content, bad.reason.is_some()), (Code::BAD_REQUEST, None, true));
    }
}

#[test]
fn a_code_without_content_is_passed_on_as_it_is() {
    for code in [Code::CHANGED, Code::NOT_FOUND, Code::of(4, 18), Code::SERVICE_UNAVAILABLE] {
        let response = Response::with_diagnostic(code, "words of the device");
        assert_eq!(outcome(&read("/3/0/9"), &response), Outcome::of(code));
    }
}

#[test]
fn discover_gives_links_as_they_are_written() {
    let discover = operation("/3/0", OperationKind::Discover);
    let links = outcome(&discover, &content(Some(40), b"</3/0/9>;pmin=5,</3/0/10>;t=\"a,b\""));
    let expected = vec!["</3/0/9>;pmin=5".to_owned(), "</3/0/10>;t=\"a,b\"".to_owned()];
    assert_eq!(links.content, Some(Content::Links(expected)));
    for response in [content(Some(40), b"</3"), content(Some(0), b"ACME"), content(Some(11542), b"</3>")] {
        let bad = outcome(&discover, &response);
        assert_eq!((bad.code, bad.content, bad.reason.is_some()), (Code::BAD_REQUEST, None, true));
    }
    let empty = outcome(&discover, &content(None, b""));
    assert_eq!((empty.content, empty.reason), (Some(Content::Links(vec![])), None));
}

#[test]
fn discover_may_be_called_a_text_and_have_links_that_deviate() {
    let discover = operation("/3", OperationKind::Discover);
    for content_format in [None, Some(40), Some(0), Some(1541)] {
        let list = b"</3>;ver= 1.1;dim=,</3/0/9>;pmin=5;,oops,</3/0/6>;x=\"1\"y\0";
        let links = outcome(&discover, &content(content_format, list));
        let expected = ["</3>;ver= 1.1;dim=", "</3/0/9>;pmin=5", "</3/0/6>"].map(str::to_owned).to_vec();
        assert_eq!((links.code, links.content), (Code::CONTENT, Some(Content::Links(expected))));
        let reason = links.reason.expect("what was left out is told");
        assert_eq!(reason, "left out of the links: a link begins with '<', byte 36 does not, and 1 more");
    }
}
