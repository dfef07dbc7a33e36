//! What an application asks of a device, as a CoAP request, and what a CoAP response means for it.

use crate::coap::options::{format, number};
use crate::coap::{Code, Request, Response};

use super::codec::{self, Assignment, Context, Entry};
use super::link;
use super::path::Path;
use super::register::Registration;

/// A command in the terms of LwM2M, checked against the object definitions already. `query` are the items that the
/// application put behind the path.
#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    Read {
        path: Path,
        query: Vec<String>,
    },
    Discover {
        path: Path,
        query: Vec<String>,
    },
    /// To an instance (partial update), a resource or a resource instance (replace). At most
    /// [`codec::tlv::MAX_LENGTH`] bytes of values in all.
    Write {
        path: Path,
        query: Vec<String>,
        values: Vec<Assignment>,
    },
    WriteAttributes {
        path: Path,
        query: Vec<String>,
        attributes: Vec<(&'static str, String)>,
    },
    Execute {
        path: Path,
        query: Vec<String>,
        arguments: String,
    },
    /// Of instances of one object; without values the device chooses. As long as those of a write.
    Create {
        path: Path,
        query: Vec<String>,
        values: Vec<Assignment>,
    },
    Delete {
        path: Path,
        query: Vec<String>,
    },
    Observe {
        path: Path,
        query: Vec<String>,
    },
    CancelObserve {
        path: Path,
        query: Vec<String>,
    },
}

/// What the application is told.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The device's code, or 4.00 when its payload could not be understood.
    pub code: Code,
    pub content: Option<Content>,
    /// Why the gateway itself says so, or what it left out of the content, in words.
    pub reason: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// One entry for each resource or resource instance, in the order of the payload.
    Entries(Vec<Entry>),
    /// As the device wrote them.
    Links(Vec<String>),
}

impl Operation {
    pub fn path(&self) -> Path {
        match self {
            Self::Read { path, .. }
            | Self::Discover { path, .. }
            | Self::Write { path, .. }
            | Self::WriteAttributes { path, .. }
            | Self::Execute { path, .. }
            | Self::Create { path, .. }
            | Self::Delete { path, .. }
            | Self::Observe { path, .. }
            | Self::CancelObserve { path, .. } => *path,
        }
    }

    /// Returns the request to the device, the alternate path in front; Observe 0 or 1 where it belongs.
    pub fn request(&self, registration: &Registration) -> Request {
        let mut request = self.request_without_values(registration);
        if let Self::Write { path, values, .. } | Self::Create { path, values, .. } = self {
            let content_format = format_to_write(*path, values, registration);
            put(&mut request, content_format, codec::encode(*path, values, content_format));
        }
        request
    }

    /// Returns the request that follows when the device did not know the format of the first one (4.15): a single Opaque
    /// value goes as TLV in the place of its bytes, and the other way round. `None` where there is no other format to try.
    pub fn request_in_other_format(&self, registration: &Registration) -> Option<Request> {
        let Self::Write { path, values, .. } = self else { return None };
        if !codec::is_single_opaque(*path, values) {
            return None;
        }
        let content_format = match format_to_write(*path, values, registration) {
            format::OCTET_STREAM => format::TLV,
            _ => format::OCTET_STREAM,
        };
        let mut request = self.request_without_values(registration);
        put(&mut request, content_format, codec::encode(*path, values, content_format));
        Some(request)
    }

    fn request_without_values(&self, registration: &Registration) -> Request {
        let mut request = Request::new(self.method());
        registration.alternate_segments().for_each(|segment| request.options.add_text(number::URI_PATH, segment));
        for id in self.path().segments() {
            request.options.add_text(number::URI_PATH, &id.to_string());
        }
        for item in self.query() {
            request.options.add_text(number::URI_QUERY, item);
        }
        match self {
            Self::Read { path, .. } => ask_for_format(&mut request, *path, registration),
            Self::Discover { .. } => request.options.add_uint(number::ACCEPT, format::LINK_FORMAT.into()),
            Self::Observe { path, .. } => {
                request.options.add_uint(number::OBSERVE, 0);
                ask_for_format(&mut request, *path, registration);
            }
            Self::CancelObserve { path, .. } => {
                request.options.add_uint(number::OBSERVE, 1);
                ask_for_format(&mut request, *path, registration);
            }
            Self::Execute { arguments, .. } => put(&mut request, format::TEXT, arguments.as_bytes().to_vec()),
            Self::WriteAttributes { attributes, .. } => {
                for (name, value) in attributes {
                    request.options.add_text(number::URI_QUERY, &format!("{name}={value}"));
                }
            }
            Self::Write { .. } | Self::Create { .. } | Self::Delete { .. } => {}
        }
        request
    }

    /// What this response, or a notification of the observation that it began, means.
    pub fn outcome(&self, response: &Response, context: Context<'_>) -> Outcome {
        if response.code != Code::CONTENT {
            return Outcome { code: response.code, content: None, reason: None };
        }
        let content = match self {
            Self::Read { path, .. } | Self::Observe { path, .. } | Self::CancelObserve { path, .. } => {
                entries(*path, response, context).map(|content| (Some(content), None))
            }
            Self::Discover { .. } => links(response).map(|(content, left_out)| (Some(content), left_out)),
            Self::Write { .. }
            | Self::WriteAttributes { .. }
            | Self::Execute { .. }
            | Self::Create { .. }
            | Self::Delete { .. } => Ok((None, None)),
        };
        match content {
            Ok((content, reason)) => Outcome { code: response.code, content, reason },
            Err(reason) => Outcome { code: Code::BAD_REQUEST, content: None, reason: Some(reason) },
        }
    }

    fn method(&self) -> Code {
        match self {
            Self::Read { .. } | Self::Discover { .. } | Self::Observe { .. } | Self::CancelObserve { .. } => Code::GET,
            // LwM2M 1.0 section 5.4.3: POST adds to an instance, PUT replaces a resource.
            Self::Write { path, .. } if path.len() <= 2 => Code::POST,
            Self::Write { .. } | Self::WriteAttributes { .. } => Code::PUT,
            Self::Execute { .. } | Self::Create { .. } => Code::POST,
            Self::Delete { .. } => Code::DELETE,
        }
    }

    fn query(&self) -> &[String] {
        match self {
            Self::Read { query, .. }
            | Self::Discover { query, .. }
            | Self::Write { query, .. }
            | Self::WriteAttributes { query, .. }
            | Self::Execute { query, .. }
            | Self::Create { query, .. }
            | Self::Delete { query, .. }
            | Self::Observe { query, .. }
            | Self::CancelObserve { query, .. } => query,
        }
    }
}

/// A 1.0 device answers in its own format: the first version of LwM2M had drafts with other numbers.
fn ask_for_format(request: &mut Request, path: Path, registration: &Registration) {
    let announced = path.object().map_or(&[][..], |object| registration.object_formats(object));
    if !registration.is_1_1_or_newer() {
        return;
    }
    if let Some(best) = codec::best_to_read(path, announced) {
        request.options.add_uint(number::ACCEPT, best.into());
    }
}

/// A 1.0 device gets TLV, whatever it announced. The bytes of an Opaque value go as they are to a device that announced
/// so, and to one of 1.1 that announced nothing, which has to read them (LwM2M 1.1 section 7.4): some clients cannot read
/// base64url, and it makes a firmware image a third larger.
fn format_to_write(path: Path, values: &[Assignment], registration: &Registration) -> u16 {
    let announced = path.object().map_or(&[][..], |object| registration.object_formats(object));
    let modern = registration.is_1_1_or_newer();
    let opaque = codec::is_single_opaque(path, values);
    let takes_bytes = announced.contains(&format::OCTET_STREAM) || (modern && announced.is_empty());
    match (opaque && takes_bytes, modern) {
        (true, _) => format::OCTET_STREAM,
        (false, true) => codec::best_to_write(path, values, announced),
        (false, false) => format::TLV,
    }
}

fn put(request: &mut Request, content_format: u16, payload: Vec<u8>) {
    request.options.add_uint(number::CONTENT_FORMAT, content_format.into());
    request.payload = payload;
}

fn entries(path: Path, response: &Response, context: Context<'_>) -> Result<Content, String> {
    let content_format = content_format(response)?;
    let entries = codec::decode(path, content_format, &response.payload, context);
    entries.map(Content::Entries).map_err(|error| error.to_string())
}

/// The links, and how much of the list made no sense. Some devices call their list a text.
fn links(response: &Response) -> Result<(Content, Option<String>), String> {
    match content_format(response)? {
        None | Some(format::LINK_FORMAT | format::TEXT | format::LEGACY_TEXT) => {}
        Some(other) => return Err(format!("content format {other} has no links")),
    }
    let list = link::parse(&response.payload).map_err(|error| error.to_string())?;
    let links = list.links.into_iter().map(|link| link.text.into_owned()).collect();
    Ok((Content::Links(links), list.left_out.map(|left_out| left_out.to_string())))
}

fn content_format(response: &Response) -> Result<Option<u16>, String> {
    let number = response.options.uint(number::CONTENT_FORMAT).map_err(|error| error.to_string())?;
    number.map(u16::try_from).transpose().map_err(|_| "the content format is no number of two bytes".to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::lwm2m::codec::UndefinedResources;
    use crate::lwm2m::model::{Model, Object, Operations, Resource, Version};
    use crate::lwm2m::value::{ResourceType, Value};

    fn registration(query: &[&str], objects: &str) -> Registration {
        let mut request = Request::new(Code::POST);
        ["ep=dev-7"].iter().chain(query).for_each(|item| request.options.add_text(number::URI_QUERY, item));
        request.payload = objects.as_bytes().to_vec();
        Registration::from_register(&request, &(Duration::from_secs(1)..=Duration::from_secs(86_400))).unwrap()
    }

    fn path(text: &str) -> Path {
        text.parse().unwrap()
    }

    fn read(at: &str) -> Operation {
        Operation::Read { path: path(at), query: Vec::new() }
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
        operation.outcome(response, Context { registration: &registration, model: &model, undefined, unix_time })
    }

    #[test]
    fn every_operation_has_its_method_and_its_options() {
        let registration = registration(&[], "</m2m/v1>;rt=\"oma.lwm2m\"");
        let at = path("/3/0/9");
        let query = vec!["a=1".to_owned()];
        let values = vec![Assignment { path: at, value: Value::Integer(60) }];
        for (operation, method, accept, observe, payload) in [
            (Operation::Read { path: at, query: query.clone() }, Code::GET, None, None, &b""[..]),
            (Operation::Discover { path: at, query: query.clone() }, Code::GET, Some(40), None, b""),
            (Operation::Observe { path: at, query: query.clone() }, Code::GET, None, Some(0), b""),
            (Operation::CancelObserve { path: at, query: query.clone() }, Code::GET, None, Some(1), b""),
            (Operation::Write { path: at, query: query.clone(), values }, Code::PUT, None, None, b"\xc1\x09\x3c"),
            (
                Operation::Execute { path: at, query: query.clone(), arguments: "0='x'".into() },
                Code::POST,
                None,
                None,
                b"0='x'",
            ),
            (Operation::Delete { path: at, query }, Code::DELETE, None, None, b""),
        ] {
            let request = operation.request(&registration);
            assert_eq!(request.method, method, "{operation:?}");
            assert_eq!(texts(&request, number::URI_PATH), ["m2m", "v1", "3", "0", "9"], "{operation:?}");
            assert_eq!(texts(&request, number::URI_QUERY), ["a=1"], "{operation:?}");
            assert_eq!(request.options.uint(number::ACCEPT), Ok(accept), "{operation:?}");
            assert_eq!(request.options.uint(number::OBSERVE), Ok(observe), "{operation:?}");
            assert_eq!(request.payload, payload, "{operation:?}");
            assert_eq!(operation.path(), at);
        }
    }

    #[test]
    fn a_write_to_an_instance_is_a_post_and_to_a_resource_instance_a_put() {
        let registration = registration(&[], "");
        let write = |target: &str, at: &str| {
            let values = vec![Assignment { path: path(at), value: Value::Integer(1) }];
            Operation::Write { path: path(target), query: Vec::new(), values }.request(&registration)
        };
        let instance = write("/3/0", "/3/0/6/2");
        assert_eq!((instance.method, &instance.payload[..]), (Code::POST, &b"\x83\x06\x41\x02\x01"[..]));
        let resource_instance = write("/3/0/6/2", "/3/0/6/2");
        assert_eq!((resource_instance.method, &resource_instance.payload[..]), (Code::PUT, &b"\x41\x02\x01"[..]));
    }

    #[test]
    fn attributes_are_query_items_behind_those_of_the_path() {
        let operation = Operation::WriteAttributes {
            path: path("/3/0"),
            query: vec!["con=1".into()],
            attributes: vec![("pmax", "60".into()), ("pmin", "10".into())],
        };
        let request = operation.request(&registration(&[], ""));
        assert_eq!(request.method, Code::PUT);
        assert_eq!(texts(&request, number::URI_QUERY), ["con=1", "pmax=60", "pmin=10"]);
        assert!(request.payload.is_empty());
    }

    #[test]
    fn only_a_device_of_1_1_is_asked_for_the_format_that_it_announced() {
        let objects = "</>;rt=\"oma.lwm2m\";ct=\"11542 110\",</3/0>";
        for (version, accept) in [("lwm2m=1.0", None), ("lwm2m=1.1", Some(110))] {
            let request = read("/3/0").request(&registration(&[version], objects));
            assert_eq!(request.options.uint(number::ACCEPT), Ok(accept), "{version}");
        }
        let request = read("/3/0").request(&registration(&["lwm2m=1.1"], "</3/0>"));
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
            let (at, query) = (path(at), Vec::new());
            for operation in [
                Operation::Read { path: at, query: query.clone() },
                Operation::Observe { path: at, query: query.clone() },
                Operation::CancelObserve { path: at, query },
            ] {
                let request = operation.request(&registration);
                assert_eq!(request.options.uint(number::ACCEPT), Ok(accept), "{operation:?}");
            }
        }
    }

    #[test]
    fn the_bytes_of_an_opaque_value_go_as_they_are_to_a_device_that_reads_them() {
        let write = |target: &str, at: &str, value| {
            let values = vec![Assignment { path: path(at), value }];
            Operation::Write { path: path(target), query: Vec::new(), values }
        };
        let image = || Value::Opaque(vec![0xca, 0xfe]);
        let (bytes, tlv, senml) = (&b"\xca\xfe"[..], &b"\xc2\x00\xca\xfe"[..], Some(112));
        for (version, objects, content_format, payload) in [
            ("lwm2m=1.0", "</5/0>", Some(11542), Some(tlv)),
            ("lwm2m=1.0", "</5/0>;ct=\"11542 42\"", Some(42), Some(bytes)),
            ("lwm2m=1.0", "</5/0>;ct=112", Some(11542), Some(tlv)),
            ("lwm2m=1.1", "</5/0>", Some(42), Some(bytes)),
            ("lwm2m=1.1", "</5>;ct=\"112 11542 42\",</5/0>", Some(42), Some(bytes)),
            ("lwm2m=1.1", "</5/0>;ct=112", senml, None),
            ("lwm2m=1.1", "</5/0>;ct=\"112 11542\"", Some(11542), Some(tlv)),
        ] {
            let registration = registration(&[version], objects);
            let operation = write("/5/0/0", "/5/0/0", image());
            let request = operation.request(&registration);
            assert_eq!(request.options.content_format(), content_format, "{version} {objects}");
            assert!(payload.is_none_or(|payload| request.payload == payload), "{version} {objects}");

            let other = operation.request_in_other_format(&registration).expect("another format");
            let expected = if content_format == Some(42) { (Some(11542), tlv) } else { (Some(42), bytes) };
            assert_eq!((other.options.content_format(), &other.payload[..]), expected, "{version} {objects}");
            assert_eq!((other.method, texts(&other, number::URI_PATH)), (Code::PUT, vec!["5", "0", "0"]));

            for operation in
                [write("/5/0", "/5/0/0", image()), write("/5/0/1", "/5/0/1", Value::String("x".into())), read("/5/0/0")]
            {
                assert_ne!(operation.request(&registration).options.content_format(), Some(42));
                assert_eq!(operation.request_in_other_format(&registration), None);
            }
        }
    }

    #[test]
    fn content_is_understood_or_the_answer_is_4_00_with_a_reason() {
        let good = outcome(&read("/3/0/9"), &content(None, b"81"));
        let entry = Entry { path: path("/3/0/9"), value: Value::Integer(81), time: None, undefined: false };
        let expected = Outcome { code: Code::CONTENT, content: Some(Content::Entries(vec![entry])), reason: None };
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
            assert_eq!(outcome(&read("/3/0/9"), &response), Outcome { code, content: None, reason: None });
        }
    }

    #[test]
    fn discover_gives_links_as_they_are_written() {
        let discover = Operation::Discover { path: path("/3/0"), query: Vec::new() };
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
        let discover = Operation::Discover { path: path("/3"), query: Vec::new() };
        for content_format in [None, Some(40), Some(0), Some(1541)] {
            let list = b"</3>;ver= 1.1;dim=,</3/0/9>;pmin=5;,oops,</3/0/6>;x=\"1\"y\0";
            let links = outcome(&discover, &content(content_format, list));
            let expected = ["</3>;ver= 1.1;dim=", "</3/0/9>;pmin=5", "</3/0/6>"].map(str::to_owned).to_vec();
            assert_eq!((links.code, links.content), (Code::CONTENT, Some(Content::Links(expected))));
            let reason = links.reason.expect("what was left out is told");
            assert_eq!(reason, "left out of the links: a link begins with '<', byte 36 does not, and 1 more");
        }
    }
}
