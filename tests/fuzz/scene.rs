//! What the targets share: a registered device, the shipped definitions, and what must hold of every payload.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use lwm2m_core::coap::options::number;
use lwm2m_core::coap::{Code, Request};
use lwm2m_core::lwm2m::codec::{self, Assignment, DecodeContext, Entry, Patch, Requested, UndefinedResources};
use lwm2m_core::lwm2m::content_format::ContentFormat;
use lwm2m_core::lwm2m::model::Model;
use lwm2m_core::lwm2m::path::Path;
use lwm2m_core::lwm2m::register::Registration;
use lwm2m_core::lwm2m::send;
use lwm2m_core::lwm2m::value::{ResourceType, Value};
use lwm2m_core::mqtt::downlink::CommandContext;
use lwm2m_core::mqtt::uplink;
use serde_json::value::RawValue;

pub const MAX_ENTRIES: usize = 1_000;
/// An object with a resource of each type, from 0 on, and a multiple resource of each type, from 20 on.
pub const TYPES: u16 = 30_000;
const ALTERNATE_PATH: &str = "/a";
/// The formats that hold several values.
const SEVERAL_VALUES: [ContentFormat; 5] = [
    ContentFormat::Tlv,
    ContentFormat::SenmlJson,
    ContentFormat::SenmlCbor,
    ContentFormat::Lwm2mJson,
    ContentFormat::Lwm2mCbor,
];

pub fn registration() -> &'static Registration {
    static REGISTRATION: OnceLock<Registration> = OnceLock::new();
    REGISTRATION.get_or_init(|| {
        let mut request = Request::new(Code::POST);
        request.options.add_text(number::URI_QUERY, "ep=dev-7");
        request.options.add_text(number::URI_QUERY, "lwm2m=1.2");
        request.payload = b"</a>;rt=\"oma.lwm2m\";ct=\"110 112\",</a/3/0>,</a/6/0>,</a/30000/0>".to_vec();
        Registration::from_register(&request, &lifetimes(), None).expect("a good Register")
    })
}

pub fn lifetimes() -> std::ops::RangeInclusive<Duration> {
    Duration::from_secs(1)..=Duration::from_secs(86_400)
}

pub fn model() -> &'static Arc<Model> {
    static MODEL: OnceLock<Arc<Model>> = OnceLock::new();
    MODEL.get_or_init(|| {
        let files = [
            &include_bytes!("../../xml/3-1_2.xml")[..],
            include_bytes!("../../xml/6-1_0.xml"),
            include_bytes!("../../xml/1-1_2.xml"),
            include_bytes!("../../xml/3303-1_1.xml"),
        ];
        let files = files.map(<[u8]>::to_vec).into_iter().chain([types().into_bytes()]);
        let (model, broken) = Model::from_files(files.map(|content| (String::new(), content)));
        assert!(broken.is_empty());
        Arc::new(model)
    })
}

/// Returns the definition of [`TYPES`].
fn types() -> String {
    let item = |id: usize, multiple: &str, kind: ResourceType| {
        format!(
            "<Item ID=\"{id}\"><Name>R{id}</Name><Operations>RW</Operations>\
             <MultipleInstances>{multiple}</MultipleInstances><Mandatory>Optional</Mandatory><Type>{kind}</Type></Item>"
        )
    };
    let kinds = || ResourceType::ALL.into_iter().enumerate();
    let single: String = kinds().map(|(id, kind)| item(id, "Single", kind)).collect();
    let multiple: String = kinds().map(|(id, kind)| item(20 + id, "Multiple", kind)).collect();
    format!(
        "<LWM2M><Object ObjectType=\"MODefinition\"><Name>Types</Name><ObjectID>{TYPES}</ObjectID>\
         <MultipleInstances>Multiple</MultipleInstances><Mandatory>Optional</Mandatory>\
         <Resources>{single}{multiple}</Resources></Object></LWM2M>"
    )
}

/// Reads the payload as the answer to several requests: each entry lies at or below the path of the request, and what
/// was read can be written and read again.
pub fn decode(format: u16, payload: &[u8]) {
    for request in [
        "/3",
        "/3/0",
        "/3/0/9",
        "/3/0/22/1",
        "/6/0/4",
        "/4321/0/0",
        "/30000",
        "/30000/0",
        "/30000/0/3",
        "/30000/0/26",
        "/30000/0/27/1",
    ] {
        let request: Path = request.parse().expect("a path");
        for undefined in [UndefinedResources::Refuse, UndefinedResources::Opaque] {
            let context = context(undefined);
            let entries = codec::decode(Requested::Path(request), Some(format), payload, context).unwrap_or_default();
            check(&entries, &[request]);
            write_again(request, &entries);
        }
    }
    decode_composite(format, payload);
}

/// Reads the payload as the answer to composite operations: each entry lies at or below one of their paths.
pub fn decode_composite(format: u16, payload: &[u8]) {
    let paths = ["/3/0/9", "/6", "/1/0/24/1", "/30000/0/6"].map(|path| path.parse::<Path>().expect("a path"));
    let context = context(UndefinedResources::Refuse);
    for paths in [&paths[..], &[Path::ROOT]] {
        let entries = codec::decode(Requested::Paths(paths), Some(format), payload, context).unwrap_or_default();
        check(&entries, paths);
        patch_again(&entries);
    }
}

/// Reads the payload as a Send, which has at least one entry of any object.
pub fn send(format: u16, payload: &[u8]) {
    let mut request = Request::new(Code::POST);
    request.options.add_uint(number::CONTENT_FORMAT, format.into());
    request.payload = payload.to_vec();
    if let Ok(entries) = send::read(&request, context(UndefinedResources::Refuse)) {
        assert!(!entries.is_empty());
        check(&entries, &[Path::ROOT]);
        is_json(&uplink::send(entries));
    }
}

/// Asserts that a payload is one JSON object. Answers repeat numbers of any size as the application wrote them, so that
/// numbers are not parsed.
pub fn is_json(payload: &[u8]) {
    let object: Result<HashMap<String, &RawValue>, _> = serde_json::from_slice(payload);
    object.expect("what is published is a JSON object");
}

fn check(entries: &[Entry], requested: &[Path]) {
    assert!(entries.len() <= MAX_ENTRIES);
    for entry in entries {
        assert!(requested.iter().any(|path| entry.path.is_at_or_below(path)) && entry.path.len() >= 3);
        assert!(entry.time.is_none_or(f64::is_finite));
        assert!(!matches!(entry.value, Value::Float(value) if !value.is_finite()));
    }
}

/// Writes the entries for a request of this path in each format that holds them, and reads them again.
fn write_again(target: Path, entries: &[Entry]) {
    let Some(values) = assignments(entries) else { return };
    let context = context(UndefinedResources::Refuse);
    let single = matches!(&values[..], [one] if one.path == target).then_some(ContentFormat::Cbor);
    for format in SEVERAL_VALUES.into_iter().chain(single) {
        let payload = codec::encode(format, ALTERNATE_PATH, target, &values);
        let again = codec::decode(Requested::Path(target), Some(format.number()), &payload, context);
        assert_eq!(known(&again.expect("what was written is read")), known(entries), "{format}");
    }
}

/// Writes the entries as a composite write would, and reads them again.
fn patch_again(entries: &[Entry]) {
    let Some(values) = assignments(entries) else { return };
    let patches: Vec<Patch> =
        values.into_iter().map(|Assignment { path, value }| Patch { path, value: Some(value) }).collect();
    for format in [ContentFormat::SenmlJson, ContentFormat::SenmlCbor, ContentFormat::Lwm2mCbor] {
        let payload = codec::encode_patches(format, ALTERNATE_PATH, &patches);
        let requested = Requested::Paths(&[Path::ROOT]);
        let again = codec::decode(requested, Some(format.number()), &payload, context(UndefinedResources::Refuse));
        assert_eq!(known(&again.expect("what was written is read")), known(entries), "{format}");
    }
}

/// Returns what a write would assign, or `None` for entries that no write has: those without a definition, a history,
/// and a resource beside its own instances.
fn assignments(entries: &[Entry]) -> Option<Vec<Assignment>> {
    let conflict = |(at, one): (usize, &Entry)| {
        entries[at + 1..]
            .iter()
            .any(|other| other.path.is_at_or_below(&one.path) || one.path.is_at_or_below(&other.path))
    };
    // Each pair is compared.
    let few = (1..=30).contains(&entries.len());
    if !few || entries.iter().any(|entry| entry.undefined) || entries.iter().enumerate().any(conflict) {
        return None;
    }
    // Octets are read as bytes whatever the type of the resource is.
    let typed = |entry: &Entry| {
        let resource = model().resource(
            entry.path.object()?,
            registration().object_version(entry.path.object()?),
            entry.path.resource()?,
        );
        resource?.resource_type.filter(|expected| *expected == entry.value.resource_type())
    };
    if entries.iter().any(|entry| typed(entry).is_none()) {
        return None;
    }
    Some(entries.iter().map(|Entry { path, value, .. }| Assignment { path: *path, value: value.clone() }).collect())
}

/// Returns paths and values in the order of the paths. JSON has one zero.
fn known(entries: &[Entry]) -> Vec<(String, Value)> {
    let value = |value: &Value| match value {
        Value::Float(zero) if *zero == 0.0 => Value::Float(0.0),
        other => other.clone(),
    };
    let mut known: Vec<_> = entries.iter().map(|entry| (entry.path.to_string(), value(&entry.value))).collect();
    known.sort_by(|(one, _), (other, _)| one.cmp(other));
    known
}

pub fn command_context() -> CommandContext<'static> {
    CommandContext { registration: registration(), model: model(), composite_paths: 128 }
}

pub fn context(undefined: UndefinedResources) -> DecodeContext<'static> {
    let unix_time = Duration::from_secs(1_700_000_000);
    DecodeContext { registration: registration(), model: model(), undefined, unix_time, max_entries: MAX_ENTRIES }
}
