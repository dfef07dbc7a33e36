#![no_main]

use libfuzzer_sys::fuzz_target;
use lwm2m_core::lwm2m::format_choice::Attempts;
use lwm2m_core::lwm2m::operation::OperationKind;
use lwm2m_core::mqtt::{downlink, uplink};

// The payload is `data` of each composite command: what is sent can be read, and a refusal has its reason.
fuzz_target!(|data: &str| {
    for msg_type in ["read-composite", "write-composite", "observe-composite", "cancel-observe-composite"] {
        let payload = format!("{{\"msgType\":\"{msg_type}\",\"data\":{data}}}");
        match downlink::parse(payload.as_bytes(), scene::command_context()) {
            Ok(command) => {
                let registration = scene::registration();
                let formats = Attempts::first(&command.operation, registration).formats();
                let request = command.operation.request_in(formats, registration);
                assert!(!request.payload.is_empty());
                let format = request.options.content_format().expect("a payload has a format");
                assert!(matches!(format, 110 | 112 | 320 | 322 | 11544));
                scene::decode_composite(format, &request.payload);
                match &command.operation.kind {
                    OperationKind::WriteComposite { patches } => {
                        assert!((1..=128).contains(&patches.len()));
                        assert!(patches.iter().all(|patch| patch.path.len() >= 3));
                    }
                    kind => {
                        let paths = match kind {
                            OperationKind::ReadComposite { paths } => paths,
                            other => {
                                assert!(other.observed_paths().is_some(), "{other:?}");
                                continue;
                            }
                        };
                        assert!((1..=128).contains(&paths.len()));
                    }
                }
                scene::is_json(&uplink::timed_out(&command));
            }
            Err(refusal) => scene::is_json(&uplink::refused(&refusal.echo, &refusal.reason)),
        }
    }
});
