//! Query items of Register and Update that are any bytes, in any number.

#![no_main]

use libfuzzer_sys::fuzz_target;
use lwm2m_core::coap::options::number;
use lwm2m_core::coap::{Code, Request};
use lwm2m_core::lwm2m::register::Registration;

fuzz_target!(|input: (Option<&[u8]>, Vec<&[u8]>, &[u8])| {
    let (endpoint, items, payload) = input;
    let mut request = Request::new(Code::POST);
    for item in endpoint.map(|endpoint| [b"ep=", endpoint].concat()).iter().map(Vec::as_slice).chain(items) {
        request.options.add(number::URI_QUERY, &item[..item.len().min(300)]);
    }
    request.payload = payload.to_vec();
    if let Ok(registration) = Registration::from_register(&request, &scene::lifetimes(), None) {
        assert!(!registration.endpoint.is_empty());
        assert!(scene::lifetimes().contains(&registration.lifetime));
        assert!(registration.object_paths().all(|path| !path.is_empty()));
    }
    let mut registration = scene::registration().clone();
    if registration.update(&request, &scene::lifetimes()).is_ok() {
        assert_eq!(registration.endpoint, scene::registration().endpoint);
        assert!(scene::lifetimes().contains(&registration.lifetime));
        // An Update that repeats what is known changes nothing.
        let known = registration.clone();
        assert!(registration.update(&request, &scene::lifetimes()).is_ok());
        assert_eq!(registration, known);
    }
});
