#![no_main]

use libfuzzer_sys::fuzz_target;

// Text, and what drafts of LwM2M 1.0 called it.
fuzz_target!(|payload: &[u8]| {
    for format in [0, 1541] {
        scene::decode(format, payload);
    }
});
