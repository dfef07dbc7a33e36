#![no_main]

use std::time::Instant;

use libfuzzer_sys::fuzz_target;
use lwm2m_cluster::frame::{Frame, FrameClock, split_frame};

// What another node of a cluster sends. A frame that can be read is written as the same bytes.
fuzz_target!(|stream: &[u8]| {
    let clock = FrameClock::new(Instant::now());
    let mut rest = stream;
    loop {
        let before = rest;
        let Ok(Some(frame)) = split_frame(&mut rest) else { return };
        if let Ok(frame) = Frame::decode(frame, clock) {
            let mut again = Vec::new();
            frame.encode(clock, &mut again).expect("it was short enough to be read");
            assert!(before.starts_with(&again), "{frame:?}");
        }
    }
});
