#![no_main]

use libfuzzer_sys::fuzz_target;

// Octets, and what drafts of LwM2M 1.0 called them.
fuzz_target!(|payload: &[u8]| {
    for format in [42, 1544] {
        scene::decode(format, payload);
    }
});
