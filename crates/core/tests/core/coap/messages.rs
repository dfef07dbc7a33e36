//! CoAP messages with any options: what is written is read.

use lwm2m_core::coap::{Code, Kind, Message, MessageId, Options, Token};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

fn kind() -> impl Strategy<Value = Kind> {
    select(vec![Kind::Confirmable, Kind::NonConfirmable, Kind::Acknowledgement, Kind::Reset])
}

/// Numbers and lengths around those where the encoding of an option changes.
fn option() -> impl Strategy<Value = (u16, Vec<u8>)> {
    let number = prop_oneof![0..30_u16, 255..285_u16, any::<u16>()];
    let length = prop_oneof![4 => 0..20_usize, 1 => 260..280_usize, 1 => 0..1_500_usize];
    (number, length.prop_flat_map(|length| vec(any::<u8>(), length)))
}

prop_compose! {
    fn message()(
        kind in kind(),
        code in select(vec![Code::GET, Code::POST, Code::FETCH, Code::CONTENT, Code::CHANGED, Code::NOT_FOUND]),
        id in any::<u16>(),
        token in vec(any::<u8>(), 0..=8),
        given in vec(option(), 0..6),
        payload in vec(any::<u8>(), 0..40),
    ) -> Message {
        let mut options = Options::new();
        for (number, value) in &given {
            options.add(*number, value);
        }
        Message { kind, code, id: MessageId(id), token: Token::new(&token), options, payload }
    }
}

proptest! {
    #[test]
    fn a_message_is_read_as_it_was_written(message in message()) {
        prop_assert_eq!(Message::decode(&message.encode()), Ok(message));
    }

    #[test]
    fn a_message_that_is_cut_short_is_no_message_or_a_shorter_one(message in message(), length in 0..200_usize) {
        let datagram = message.encode();
        let cut = &datagram[..length.min(datagram.len())];
        if let Ok(read) = Message::decode(cut) {
            prop_assert_eq!(read.encode(), cut);
        }
    }
}
