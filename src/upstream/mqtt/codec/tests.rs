use proptest::prelude::*;

use crate::upstream::client::test_values::client;
use crate::upstream::mqtt::devices::test_values::publication;

use super::*;

fn v5(bytes: &[u8]) -> Result<Vec<Incoming>, Malformed> {
    Frames::new(ProtocolVersion::V5, 1_000).push(bytes)
}

fn v311(bytes: &[u8]) -> Result<Vec<Incoming>, Malformed> {
    Frames::new(ProtocolVersion::V311, 1_000).push(bytes)
}

fn id(number: u16) -> PacketId {
    PacketId(number)
}

fn accepted(limits: ServerLimits, session_present: bool) -> Incoming {
    Incoming::ConnAck(Box::new(ConnAck { reason: Reason::SUCCESS, session_present, limits, server: None }))
}

#[test]
fn connack_of_version_5_tells_what_the_broker_takes() {
    assert_eq!(v5(&[0x20, 3, 1, 0, 0]), Ok(vec![accepted(ServerLimits::default(), true)]));
    let properties = [
        [0x21, 0, 4].as_slice(),
        &[0x27, 0, 1, 0, 0],
        &[0x24, 1],
        &[0x25, 0],
        &[0x13, 0, 60],
        &[0x11, 0, 0, 1, 0],
        &[0x12, 0, 1, b'x'],
    ]
    .concat();
    let length = u8::try_from(properties.len()).unwrap();
    let packet = [&[0x20, length + 3, 0, 0, length], properties.as_slice()].concat();
    let limits =
        ServerLimits { receive_maximum: 4, max_packet_size: 65_536, max_qos: 1, retain: false, keep_alive: Some(60) };
    assert_eq!(v5(&packet), Ok(vec![accepted(limits, false)]));
}

#[test]
fn a_server_reference_is_heard() {
    let reference = [0x1c, 0, 3, b'a', b':', b'1'];
    let connack = [&[0x20, 9, 0, 0x9c, 6], reference.as_slice()].concat();
    let Incoming::ConnAck(ack) = v5(&connack).unwrap().remove(0) else { panic!("no CONNACK") };
    assert_eq!((ack.reason, ack.server.as_deref()), (Reason(0x9c), Some("a:1")));
    let disconnect = [&[0xe0, 8, 0x9d, 6], reference.as_slice()].concat();
    assert_eq!(
        v5(&disconnect),
        Ok(vec![Incoming::Disconnect { reason: Reason(0x9d), server: Some("a:1".to_owned()) }])
    );
}

#[test]
fn a_broker_of_version_311_that_is_spoken_to_in_5_is_understood() {
    let other = ConnAck {
        reason: Reason::UNSUPPORTED_PROTOCOL_VERSION,
        session_present: false,
        limits: ServerLimits::default(),
        server: None,
    };
    assert_eq!(v5(&[0x20, 2, 0, 1]), Ok(vec![Incoming::ConnAck(Box::new(other))]));
}

#[test]
fn the_codes_of_version_311_are_reasons_of_version_5() {
    for (code, reason) in [(0, 0), (1, 0x84), (2, 0x85), (3, 0x88), (4, 0x86), (5, 0x87)] {
        let Incoming::ConnAck(ack) = v311(&[0x20, 2, 0, code]).unwrap().remove(0) else { panic!("no CONNACK") };
        assert_eq!(ack.reason, Reason(reason));
    }
    assert_eq!(v311(&[0x90, 3, 0, 7, 0x80]), Ok(vec![Incoming::SubAck { packet: id(7), reason: Reason(0x80) }]));
    assert_eq!(v311(&[0x40, 2, 0, 7]), Ok(vec![Incoming::PubAck { packet: id(7), reason: Reason::SUCCESS }]));
}

#[test]
fn a_reason_may_be_left_out_and_so_may_the_properties() {
    for (packet, reason) in
        [(&[0x40, 2, 0, 7][..], 0), (&[0x40, 3, 0, 7, 0x10], 0x10), (&[0x40, 4, 0, 7, 0x87, 0], 0x87)]
    {
        assert_eq!(v5(packet), Ok(vec![Incoming::PubAck { packet: id(7), reason: Reason(reason) }]));
    }
    for (packet, reason) in [(&[0xe0, 0][..], 0), (&[0xe0, 1, 0x8e], 0x8e), (&[0xe0, 2, 0x98, 0], 0x98)] {
        assert_eq!(v5(packet), Ok(vec![Incoming::Disconnect { reason: Reason(reason), server: None }]));
    }
}

#[test]
fn what_comes_with_a_command_is_heard() {
    let properties = [
        [0x02, 0, 0, 0, 9].as_slice(),
        &[0x08, 0, 1, b'r'],
        &[0x09, 0, 2, 1, 2],
        &[0x03, 0, 1, b'j'],
        &[0x26, 0, 1, b'k', 0, 1, b'v'],
    ]
    .concat();
    let length = u8::try_from(properties.len()).unwrap();
    let packet = [&[0x3b, length + 7, 0, 1, b't', 0, 5, length], properties.as_slice(), b"p"].concat();
    let reply = ResponseTopic { topic: "r".to_owned(), correlation: Some(vec![1, 2]) };
    let properties =
        MessageProperties { expiry: Some(Duration::from_secs(9)), reply: Some(reply), retained: true, receipt: None };
    let message =
        MqttMessage { topic: "t".to_owned(), payload: b"p".to_vec(), packet: Some(id(5)), again: true, properties };
    assert_eq!(v5(&packet), Ok(vec![Incoming::Publish(Box::new(message))]));

    let message = MqttMessage {
        topic: "t".to_owned(),
        payload: b"p".to_vec(),
        packet: None,
        again: false,
        properties: MessageProperties::default(),
    };
    assert_eq!(v311(&[0x30, 4, 0, 1, b't', b'p']), Ok(vec![Incoming::Publish(Box::new(message))]));
}

#[test]
fn what_no_broker_says_ends_the_connection() {
    for packet in [
        &[0x10, 0][..],
        &[0x82, 0],
        &[0xf0, 0],
        &[0x40, 1, 0],
        &[0x40, 0xff, 0xff, 0xff, 0xff, 0x01],
        &[0x20, 3, 0, 0x42, 0],
        // QoS 2 was not subscribed.
        &[0x34, 6, 0, 1, b't', 0, 5, 0],
        // Something behind the packet.
        &[0x40, 5, 0, 7, 0, 0, 0],
    ] {
        assert!(v5(packet).is_err(), "{packet:?}");
    }
    assert_eq!(v5(&[0x30, 0xff, 0x07]), Err(Malformed::TooLarge(1_026)));
}

/// The length of a packet has 28 bits (MQTT 5.0 section 1.5.5). That of this payload has, too.
#[test]
fn a_publication_that_no_packet_can_hold_is_an_error() {
    let client = client("ep");
    let publication = Publication { payload: vec![0; (1 << 28) - 1].into(), ..publication("a/b", 1) };
    let sending = Sending { client: &client, packet: None, again: false, retain: false };
    for version in [ProtocolVersion::V5, ProtocolVersion::V311] {
        assert_eq!(publish(version, &publication, sending), Err(EncodeError(MqttError::PacketTooLarge)));
    }
}

proptest! {
    #[test]
    fn no_bytes_make_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), old in any::<bool>()) {
        let version = if old { ProtocolVersion::V311 } else { ProtocolVersion::V5 };
        let mut frames = Frames::new(version, 100);
        for chunk in bytes.chunks(7) {
            if frames.push(chunk).is_err() {
                break;
            }
        }
        prop_assert!(frames.partial.len() <= 200);
    }

    /// What we publish is what a client would hear of it, but for what only a publisher says.
    #[test]
    fn a_publication_survives_the_wire(
        payload in proptest::collection::vec(any::<u8>(), 0..300),
        correlation in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..9)),
        packet in proptest::option::of(1_u16..),
        expiry in proptest::option::of(0..u64::from(u32::MAX)),
        retain in any::<bool>(),
        cut in 1_usize..50,
        old in any::<bool>(),
    ) {
        let version = if old { ProtocolVersion::V311 } else { ProtocolVersion::V5 };
        let client = client("ep");
        let expiry = expiry.map(Duration::from_secs);
        let publication = Publication { payload: payload.clone().into(), expiry, correlation, ..publication("a/b", 1) };
        let sending = Sending { client: &client, packet: packet.map(PacketId), again: packet.is_some(), retain };
        let bytes = publish(version, &publication, sending).unwrap();
        let mut frames = Frames::new(version, 1_000);
        let heard: Vec<Incoming> = bytes.chunks(cut).flat_map(|chunk| frames.push(chunk).unwrap()).collect();
        let expiry = expiry.filter(|_| version == ProtocolVersion::V5);
        let properties = MessageProperties { expiry, retained: retain, ..MessageProperties::default() };
        let (topic, again) = ("a/b".to_owned(), packet.is_some());
        let message = MqttMessage { topic, payload, packet: packet.map(PacketId), again, properties };
        prop_assert_eq!(heard, vec![Incoming::Publish(Box::new(message))]);
        prop_assert!(frames.partial.is_empty());
    }
}
