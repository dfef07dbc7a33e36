#![no_main]

use libfuzzer_sys::fuzz_target;
use lwm2m_core::coap::Message;

fuzz_target!(|datagram: &[u8]| {
    if let Ok(message) = Message::decode(datagram) {
        assert_eq!(Message::decode(&message.encode()), Ok(message));
    }
});
