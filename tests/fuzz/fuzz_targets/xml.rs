#![no_main]

use libfuzzer_sys::fuzz_target;
use lwm2m_core::lwm2m::model::xml;

fuzz_target!(|content: &[u8]| {
    if let Ok(objects) = xml::parse(content) {
        assert!(!objects.is_empty());
    }
});
