#![no_main]

use libfuzzer_sys::fuzz_target;
use lwm2m_gateway::coap::options::number;
use lwm2m_gateway::coap::{Code, Request};
use lwm2m_gateway::lwm2m::link;
use lwm2m_gateway::lwm2m::register::Registration;

fuzz_target!(|payload: &[u8]| {
    if let Ok(parts) = link::split(payload) {
        let joined = parts.join(",");
        assert_eq!(link::parse(joined.as_bytes()), link::parse(payload));
    }
    let mut request = Request::new(Code::POST);
    request.options.add_text(number::URI_QUERY, "ep=dev-7");
    request.payload = payload.to_vec();
    if let Ok(registration) = Registration::from_register(&request, &scene::lifetimes()) {
        assert_eq!(registration.endpoint, "dev-7");
        assert!(registration.object_paths().all(|path| !path.is_empty()));
    }
});
