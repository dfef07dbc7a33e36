#![no_main]

use libfuzzer_sys::fuzz_target;

// Formats of one value: text, opaque, and what they were called before.
fuzz_target!(|payload: &[u8]| {
    for format in [0, 42, 1541, 1544] {
        scene::decode(format, payload);
    }
});
