//! CoAP messages on the wire, compared with the library coap-lite.

use coap_lite::{MessageClass, MessageType, Packet};
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

/// A datagram with a valid version and token length whose rest is anything.
fn datagram() -> impl Strategy<Value = Vec<u8>> {
    let first = (0..4_u8, 0..=8_u8).prop_map(|(kind, token)| 0x40 | kind << 4 | token);
    (first, select(vec![1, 2, 5, 0x44, 0x45, 0x84]), vec(any::<u8>(), 2..60))
        .prop_map(|(first, code, rest)| [vec![first, code], rest].concat())
}

fn read_by_the_library(datagram: &[u8]) -> Option<Message> {
    let packet = Packet::from_bytes(datagram).ok()?;
    let kind = match packet.header.get_type() {
        MessageType::Confirmable => Kind::Confirmable,
        MessageType::NonConfirmable => Kind::NonConfirmable,
        MessageType::Acknowledgement => Kind::Acknowledgement,
        MessageType::Reset => Kind::Reset,
    };
    let mut options = Options::new();
    for (number, values) in packet.options() {
        values.iter().for_each(|value| options.add(*number, value));
    }
    let token = Token::new(packet.get_token());
    let code = Code(u8::from(packet.header.code));
    Some(Message { kind, code, id: MessageId(packet.header.message_id), token, options, payload: packet.payload })
}

fn written_by_the_library(message: &Message) -> Vec<u8> {
    let mut packet = Packet::new();
    packet.header.message_id = message.id.0;
    packet.header.code = MessageClass::from(message.code.0);
    packet.header.set_type(match message.kind {
        Kind::Confirmable => MessageType::Confirmable,
        Kind::NonConfirmable => MessageType::NonConfirmable,
        Kind::Acknowledgement => MessageType::Acknowledgement,
        Kind::Reset => MessageType::Reset,
    });
    packet.set_token(message.token.as_bytes().to_vec());
    for (number, value) in message.options.iter() {
        packet.add_option(number.into(), value.to_vec());
    }
    packet.payload.clone_from(&message.payload);
    packet.to_bytes_with_limit(usize::MAX).expect("a message")
}

proptest! {
    #[test]
    fn a_message_is_written_as_the_library_writes_it_and_read_back(message in message()) {
        let datagram = message.encode();
        prop_assert_eq!(&datagram, &written_by_the_library(&message));
        prop_assert_eq!(Message::decode(&datagram), Ok(message));
    }

    #[test]
    fn a_datagram_is_read_as_the_library_reads_it_but_for_a_marker_without_payload(datagram in datagram()) {
        let expected = read_by_the_library(&datagram);
        match Message::decode(&datagram) {
            Ok(message) => prop_assert_eq!(Some(message), expected),
            Err(_) if datagram.ends_with(&[0xff]) => prop_assert!(expected.is_none_or(|read| read.payload.is_empty())),
            Err(error) => prop_assert_eq!(expected, None, "{}", error),
        }
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
