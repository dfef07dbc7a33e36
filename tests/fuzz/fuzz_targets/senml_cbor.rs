#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|payload: &[u8]| {
    scene::decode(112, payload);
    scene::send(112, payload);
});
