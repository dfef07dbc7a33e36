#![no_main]

use libfuzzer_sys::fuzz_target;
use lwm2m_core::mqtt::{downlink, uplink};

fuzz_target!(|payload: &[u8]| {
    match downlink::parse(payload, scene::command_context()) {
        Ok(command) => {
            let request = command.operation.request(scene::registration());
            assert!(request.options.iter().all(|(_, value)| value.len() <= 255));
            assert!(!uplink::timed_out(&command).is_empty());
        }
        Err(refusal) => assert!(!uplink::refused(&refusal.echo, &refusal.reason).is_empty()),
    }
});
