#![no_main]

use libfuzzer_sys::fuzz_target;
use lwm2m_core::lwm2m::format_choice::Attempts;
use lwm2m_core::mqtt::{downlink, uplink};

fuzz_target!(|payload: &[u8]| {
    match downlink::parse(payload, scene::command_context()) {
        Ok(command) => {
            let registration = scene::registration();
            let formats = Attempts::first(&command.operation, registration).formats();
            let request = command.operation.request_in(formats, registration);
            assert!(request.options.iter().all(|(_, value)| value.len() <= 255));
            scene::is_json(&uplink::timed_out(&command));
        }
        Err(refusal) => scene::is_json(&uplink::refused(&refusal.echo, &refusal.reason)),
    }
});
