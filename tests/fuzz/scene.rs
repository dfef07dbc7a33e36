//! What the targets share: a registered device, the shipped definitions, and what must hold of every payload.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use lwm2m_core::coap::options::number;
use lwm2m_core::coap::{Code, Request};
use lwm2m_core::lwm2m::codec;
use lwm2m_core::lwm2m::model::Model;
use lwm2m_core::lwm2m::codec::{DecodeContext, UndefinedResources};
use lwm2m_core::lwm2m::path::Path;
use lwm2m_core::lwm2m::register::Registration;

pub fn registration() -> &'static Registration {
    static REGISTRATION: OnceLock<Registration> = OnceLock::new();
    REGISTRATION.get_or_init(|| {
        let mut request = Request::new(Code::POST);
        request.options.add_text(number::URI_QUERY, "ep=dev-7");
        request.options.add_text(number::URI_QUERY, "lwm2m=1.1");
        request.payload = b"</a>;rt=\"oma.lwm2m\";ct=\"110 112\",</a/3/0>,</a/6/0>".to_vec();
        Registration::from_register(&request, &lifetimes()).expect("a good Register")
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
            let unix_time = Duration::from_secs(1_700_000_000);
            let context = DecodeContext { registration: registration(), model: model(), undefined, unix_time };
            for entry in codec::decode(request, Some(format), payload, context).unwrap_or_default() {
                assert!(entry.path.is_at_or_below(&request) && entry.path.len() >= 3);
            }
        }
    }
}
