//! Messages that cannot be read (RFC 7252 sections 4.2 and 4.3).

use super::*;

/// RFC 7252 sections 4.2 and 4.3; another version of CoAP is ignored (section 3).
#[test]
fn a_confirmable_message_with_a_format_error_is_reset_and_any_other_is_not_answered() {
    let cases = [
        ("4d0220010031323334353637383930313233b27264", MessageDecodeError::TokenLength, true),
        ("40452002c0ff", MessageDecodeError::EmptyPayload, true),
        ("40012002ff", MessageDecodeError::EmptyPayload, true),
        ("400020020a", MessageDecodeError::MalformedEmpty, true),
        ("40e02002", MessageDecodeError::ReservedClass, true),
        ("48022002010203", MessageDecodeError::Malformed, true),
        ("40012002b5", MessageDecodeError::Malformed, true),
        ("50452002c0ff", MessageDecodeError::EmptyPayload, false),
        ("60452002c0ff", MessageDecodeError::EmptyPayload, false),
        ("7000200201", MessageDecodeError::MalformedEmpty, false),
        ("80452002", MessageDecodeError::Version, false),
        ("404520", MessageDecodeError::TooShort, false),
        ("", MessageDecodeError::TooShort, false),
    ];
    for (datagram, error, reset) in cases {
        let mut scene = EndpointScene::new();
        // Its repetition is answered alike.
        for _ in 0..2 {
            scene.receive_bytes(scene.peer, &hex(datagram));
            if reset {
                let id = MessageId(u16::from_str_radix(&datagram[4..8], 16).expect("hex"));
                assert_eq!(scene.sent(), Message::empty(Kind::Reset, id), "{datagram}");
            }
            scene.expect_outcome(DatagramOutcome::Dropped(DropReason::NoMessage(error)));
            scene.expect_nothing_more();
        }
        assert_eq!(scene.endpoint.table_sizes().remembered_messages, 0);
    }
}

#[test]
fn the_reset_of_a_malformed_message_is_not_the_answer_to_a_well_formed_one_with_its_id() {
    let mut scene = EndpointScene::new();
    let register = message(Kind::Confirmable, Code::POST, 0x2002, token(b"r"), &[]);
    let id = scene.request(register.clone());
    scene.endpoint.respond(scene.now, id, Response::new(Code::CREATED));
    let created = scene.sent();
    scene.receive_bytes(scene.peer, &hex("4102200272ff"));
    assert_eq!(scene.sent(), Message::empty(Kind::Reset, MessageId(0x2002)));
    scene.receive(register);
    assert_eq!(scene.sent(), created);
    scene.expect_outcome(DatagramOutcome::Duplicate);
    scene.expect_nothing_more();
}

/// An answer with the message id and the token of the request, as the first byte and the code say, and with this behind
/// it.
fn answer_bytes(request: &Message, first: u8, code: u8, rest: &[u8]) -> Vec<u8> {
    [&[first, code], &request.id.0.to_be_bytes()[..], request.token.as_bytes(), rest].concat()
}

#[test]
fn an_answer_that_cannot_be_read_ends_its_exchange_at_once() {
    let malformed = |error| (DropReason::NoMessage(error), ExchangeError::Malformed(error));
    // First byte, code, what stands behind the token, and what is said.
    type Said = (DropReason, ExchangeError);
    let cases: [(u8, u8, &[u8], Said); 10] = [
        (0x68, 0x45, b"\xff", malformed(MessageDecodeError::EmptyPayload)),
        (0x68, 0x45, b"\xc0\xff", malformed(MessageDecodeError::EmptyPayload)),
        (0x68, 0x45, b"\xc5", malformed(MessageDecodeError::Malformed)),
        (0x68, 0xe0, b"", malformed(MessageDecodeError::ReservedClass)),
        (0x48, 0x45, b"\xff", malformed(MessageDecodeError::EmptyPayload)),
        (0x58, 0x45, b"\xf0", malformed(MessageDecodeError::Malformed)),
        (0x78, 0x00, b"", malformed(MessageDecodeError::MalformedEmpty)),
        (0x68, 0x45, b"\x90", (DropReason::CriticalOption, ExchangeError::CriticalOption(9))),
        (0x48, 0x45, b"\x90", (DropReason::CriticalOption, ExchangeError::CriticalOption(9))),
        (0x68, 0x01, b"", (DropReason::InvalidCodeForType, ExchangeError::NotAResponse(Code::GET))),
    ];
    for (first, code, rest, (reason, error)) in cases {
        let mut scene = EndpointScene::new();
        let exchange = scene.send(get());
        let request = scene.sent();
        let datagram = answer_bytes(&request, first, code, rest);
        scene.receive_bytes(scene.peer, &datagram);
        if first == 0x48 {
            assert_eq!(scene.sent(), Message::empty(Kind::Reset, request.id), "{datagram:02x?}");
        }
        scene.expect_outcome(DatagramOutcome::Dropped(reason));
        assert_eq!(scene.event(), Some(EndpointEvent::Failed { exchange, error }), "{datagram:02x?}");
        scene.expect_nothing_more();
        let occupancy = scene.endpoint.table_sizes();
        assert_eq!((occupancy.exchanges, occupancy.transmissions, occupancy.tokens), (0, 0, 0), "{datagram:02x?}");
    }
}

#[test]
fn what_cannot_be_read_and_matches_nothing_leaves_the_exchange_alone() {
    let mut scene = EndpointScene::new();
    let exchange = scene.send(get());
    let request = scene.sent();
    let other = Message { token: token(b"othertok"), ..request.clone() };
    let later = Message { id: MessageId(request.id.0.wrapping_add(1)), ..request.clone() };
    let datagrams = [
        answer_bytes(&other, 0x68, 0x45, b"\xff"),
        answer_bytes(&later, 0x68, 0x45, b"\xff"),
        answer_bytes(&other, 0x58, 0x45, b"\xff"),
        // An empty acknowledgement with a token is no answer: that is still to come.
        answer_bytes(&request, 0x68, 0x00, b""),
        // A request.
        answer_bytes(&request, 0x58, 0x01, b"\xff"),
        // The token is cut short.
        answer_bytes(&request, 0x68, 0x45, b"")[..9].to_vec(),
    ];
    for datagram in datagrams {
        scene.receive_bytes(scene.peer, &datagram);
        assert!(matches!(scene.outcome.take(), Some(DatagramOutcome::Dropped(_))), "{datagram:02x?}");
        scene.expect_nothing_more();
    }
    scene.receive_bytes(peer(9), &answer_bytes(&request, 0x68, 0x45, b"\xff"));
    assert!(matches!(scene.outcome, Some(DatagramOutcome::Dropped(_))));
    scene.receive(piggybacked(&request, Code::CONTENT, &[]));
    assert!(matches!(scene.event(), Some(EndpointEvent::Response { exchange: answered, .. }) if answered == exchange));
}

/// RFC 7641 section 3.6: with the reset the device forgets the observation.
#[test]
fn a_notification_that_cannot_be_read_is_told_and_a_reset_ends_the_observation() {
    let cases: [(u8, &[u8], ExchangeError, bool); 4] = [
        (0x48, b"\xff", ExchangeError::Malformed(MessageDecodeError::EmptyPayload), true),
        (0x58, b"\xff", ExchangeError::Malformed(MessageDecodeError::EmptyPayload), false),
        (0x48, b"\x61\x09\x30", ExchangeError::CriticalOption(9), true),
        (0x58, b"\x61\x09\x30", ExchangeError::CriticalOption(9), true),
    ];
    for (first, rest, error, over) in cases {
        let (mut scene, observation, token) = EndpointScene::with_observation();
        let like = message(Kind::Confirmable, Code::CONTENT, 700, token, &[]);
        scene.receive_bytes(scene.peer, &answer_bytes(&like, first, 0x45, rest));
        if over {
            assert_eq!(scene.sent(), Message::empty(Kind::Reset, MessageId(700)));
        }
        assert!(matches!(scene.outcome.take(), Some(DatagramOutcome::Dropped(_))));
        let told = EndpointEvent::NotificationFailed { observation, number: None, error, over };
        assert_eq!(scene.event(), Some(told));
        scene.expect_nothing_more();

        scene.receive(message(Kind::NonConfirmable, Code::CONTENT, 701, token, &[(number::OBSERVE, 9)]));
        let goes_on = matches!(scene.event(), Some(EndpointEvent::Notification { number: Some(9), .. }));
        assert_eq!(goes_on, !over, "{rest:02x?}");
    }
}

proptest! {
    #[test]
    fn a_datagram_causes_two_others_at_most(datagrams in prop::collection::vec(arbitrary_datagram(), 1..60)) {
        let (mut scene, _, token) = EndpointScene::with_observation();
        scene.send(get());
        for (mut bytes, ours) in datagrams {
            if ours && bytes.len() >= 12 {
                bytes[0] = (bytes[0] & 0x30) | 0x48;
                bytes[4..12].copy_from_slice(token.as_bytes());
            }
            while scene.output().is_some() {}
            scene.receive_bytes(scene.peer, &bytes);
            // An acknowledgement, and a request for the next block.
            prop_assert!(std::iter::from_fn(|| scene.output()).count() <= 2);
        }
    }
}

/// Bytes that begin like a message in most cases, and whether they take over the token of the observation.
fn arbitrary_datagram() -> impl Strategy<Value = (Vec<u8>, bool)> {
    let code = prop::sample::select(vec![0u8, 1, 2, 3, 4, 5, 65, 68, 69, 95, 128, 132, 160]);
    let kind = prop::sample::select(vec![0x40u8, 0x50, 0x60, 0x70, 0x80]);
    let message = (kind, code, 0u8..4, prop::collection::vec(any::<u8>(), 0..40))
        .prop_map(|(kind, code, id, rest)| [&[kind, code, 0, id][..], &rest].concat());
    (prop_oneof![4 => message, 1 => prop::collection::vec(any::<u8>(), 0..40)], any::<bool>())
}
