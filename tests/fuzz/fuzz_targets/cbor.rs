#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|payload: &[u8]| {
    for format in [60, 112, 11544] {
        scene::decode(format, payload);
    }
});
