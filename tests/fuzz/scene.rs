//! What the targets share: a registered device, the shipped definitions, and what must hold of every payload.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use lwm2m_core::coap::options::number;
use lwm2m_core::coap::{Code, Request};
use lwm2m_core::lwm2m::codec;
use lwm2m_core::lwm2m::codec::{DecodeContext, Requested, UndefinedResources};
use lwm2m_core::lwm2m::model::Model;
use lwm2m_core::lwm2m::path::Path;
use lwm2m_core::lwm2m::register::Registration;
use lwm2m_core::lwm2m::send;
use lwm2m_core::mqtt::downlink::CommandContext;
use lwm2m_core::mqtt::uplink;

pub const MAX_ENTRIES: usize = 1_000;

pub fn registration() -> &'static Registration {
    static REGISTRATION: OnceLock<Registration> = OnceLock::new();
    REGISTRATION.get_or_init(|| {
        let mut request = Request::new(Code::POST);
        request.options.add_text(number::URI_QUERY, "ep=dev-7");
        request.options.add_text(number::URI_QUERY, "lwm2m=1.2");
        request.payload = b"</a>;rt=\"oma.lwm2m\";ct=\"110 112\",</a/3/0>,</a/6/0>".to_vec();
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
        ];
        let (model, broken) = Model::from_files(files.map(|content| (String::new(), content.to_vec())));
        assert!(broken.is_empty());
        Arc::new(model)
    })
}

/// Reads the payload as the answer to several requests: what comes out lies where the request went.
pub fn decode(format: u16, payload: &[u8]) {
    for request in ["/3", "/3/0", "/3/0/9", "/3/0/22/1", "/6/0/4", "/4321/0/0"] {
        let request: Path = request.parse().expect("a path");
        for undefined in [UndefinedResources::Refuse, UndefinedResources::Opaque] {
            let context = context(undefined);
            for entry in codec::decode(Requested::Path(request), Some(format), payload, context).unwrap_or_default() {
                assert!(entry.path.is_at_or_below(&request) && entry.path.len() >= 3);
            }
        }
    }
    decode_composite(format, payload);
}

/// Reads the payload as the answer to a composite operation: each entry lies at or below one of its paths.
fn decode_composite(format: u16, payload: &[u8]) {
    let paths = ["/3/0/9", "/6", "/1/0/24/1"].map(|path| path.parse::<Path>().expect("a path"));
    let context = context(UndefinedResources::Refuse);
    for entry in codec::decode(Requested::Paths(&paths), Some(format), payload, context).unwrap_or_default() {
        assert!(paths.iter().any(|path| entry.path.is_at_or_below(path)) && entry.path.len() >= 3);
    }
}

/// Reads the payload as a Send, which has at least one entry of any object.
pub fn send(format: u16, payload: &[u8]) {
    let mut request = Request::new(Code::POST);
    request.options.add_uint(number::CONTENT_FORMAT, format.into());
    request.payload = payload.to_vec();
    if let Ok(entries) = send::read(&request, context(UndefinedResources::Refuse)) {
        assert!((1..=MAX_ENTRIES).contains(&entries.len()));
        assert!(!uplink::send(entries).is_empty());
    }
}

pub fn command_context() -> CommandContext<'static> {
    CommandContext { registration: registration(), model: model(), composite_paths: 128 }
}

pub fn context(undefined: UndefinedResources) -> DecodeContext<'static> {
    let unix_time = Duration::from_secs(1_700_000_000);
    DecodeContext { registration: registration(), model: model(), undefined, unix_time, max_entries: MAX_ENTRIES }
}
