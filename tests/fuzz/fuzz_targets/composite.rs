#![no_main]

use libfuzzer_sys::fuzz_target;
use lwm2m_core::mqtt::{downlink, uplink};

// The payload is `data` of each composite command: what is sent can be read, and a refusal has its reason.
fuzz_target!(|data: &str| {
    for msg_type in ["read-composite", "write-composite", "observe-composite", "cancel-observe-composite"] {
        let payload = format!("{{\"msgType\":\"{msg_type}\",\"data\":{data}}}");
        match downlink::parse(payload.as_bytes(), scene::command_context()) {
            Ok(command) => {
                let request = command.operation.request(scene::registration());
                assert!(!request.payload.is_empty());
                if let Some(format @ (110 | 112 | 11544)) = request.options.content_format() {
                    scene::decode(format, &request.payload);
                }
                assert!(!uplink::timed_out(&command).is_empty());
            }
            Err(refusal) => assert!(!uplink::refused(&refusal.echo, &refusal.reason).is_empty()),
        }
    }
});
