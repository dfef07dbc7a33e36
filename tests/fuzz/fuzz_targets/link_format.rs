#![no_main]

use libfuzzer_sys::fuzz_target;
use lwm2m_core::coap::options::number;
use lwm2m_core::coap::{Code, Request};
use lwm2m_core::lwm2m::link;
use lwm2m_core::lwm2m::register::Registration;

fuzz_target!(|payload: &[u8]| {
    // What was taken of any list is a list of which nothing is left out.
    if let Ok(list) = link::parse(payload) {
        let joined = list.links.iter().map(|link| &*link.text).collect::<Vec<_>>().join(",");
        let again = link::parse(joined.as_bytes()).expect("links");
        assert_eq!(again.left_out, None);
        let targets = |links: &[link::Link<'_>]| links.iter().map(|link| link.target.to_owned()).collect::<Vec<_>>();
        assert_eq!(targets(&again.links), targets(&list.links));
    }
    let mut request = Request::new(Code::POST);
    request.options.add_text(number::URI_QUERY, "ep=dev-7");
    request.payload = payload.to_vec();
    if let Ok(registration) = Registration::from_register(&request, &scene::lifetimes(), None) {
        assert_eq!(registration.endpoint, "dev-7");
        assert!(registration.object_paths().all(|path| !path.is_empty()));
    }
});
