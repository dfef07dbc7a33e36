#![no_main]

use libfuzzer_sys::fuzz_target;
use lwm2m_core::lwm2m::codec::tlv;

fuzz_target!(|payload: &[u8]| {
    if let Ok(tree) = tlv::parse(payload) {
        assert_eq!(tlv::parse(&tlv::encode(&tree)), Ok(tree));
    }
    scene::decode(11542, payload);
});
