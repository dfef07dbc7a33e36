//! Bodies of the requests of peers, and of the responses to them.

use super::*;

#[test]
fn a_body_of_a_device_is_told_when_it_is_whole_and_the_answer_has_its_last_block() {
    let mut scene = BlockwiseScene::new();
    let first = scene.request(&[(number::BLOCK1, block(0, true, 32))], &body(32)).expect("an answer");
    assert_eq!((first.code, block1(&first)), (Code::CONTINUE, block(0, true, 32)));
    assert_eq!(scene.request(&[(number::BLOCK1, block(1, false, 32))], b"end"), None);
    let Some(EndpointEvent::Request { id, request, .. }) = scene.event() else { panic!("no request") };
    assert_eq!(request.payload, [&body(32)[..], b"end"].concat());
    assert!(!request.options.contains(number::BLOCK1));
    scene.endpoint.respond(scene.now, id, Response::new(Code::CREATED));
    let answer = scene.sent();
    assert_eq!((answer.code, block1(&answer)), (Code::CREATED, block(1, false, 32)));
    scene.expect_nothing_more();
}

#[test]
fn a_first_block_larger_than_ours_is_answered_with_our_size() {
    let mut scene = BlockwiseScene::with(Parameters { block_size: 64, ..Parameters::default() });
    let first = scene.request(&[(number::BLOCK1, block(0, true, 128))], &body(128)).expect("an answer");
    assert_eq!((first.code, block1(&first)), (Code::CONTINUE, block(0, true, 64)));
    assert_eq!(scene.request(&[(number::BLOCK1, block(2, false, 64))], b"end"), None);
    assert!(matches!(scene.event(), Some(EndpointEvent::Request { request, .. }) if request.payload.len() == 131));
}

/// Blocks with the bytes of their payloads, and what the last of them is answered.
type Refused<'a> = (&'a [(u32, usize)], Code, BlockError);

#[test]
fn a_body_that_does_not_fit_together_or_is_too_large_is_refused() {
    let limited = Parameters { received_body_size: 64, block_uploads: 1, ..Parameters::default() };
    let cases: [Refused; 4] = [
        (&[(block(1, true, 32), 32)], Code::REQUEST_ENTITY_INCOMPLETE, BlockError::OutOfOrder),
        (
            &[(block(0, true, 16), 16), (block(2, true, 16), 16)],
            Code::REQUEST_ENTITY_INCOMPLETE,
            BlockError::OutOfOrder,
        ),
        (&[(block(0, true, 16), 15)], Code::BAD_REQUEST, BlockError::OutOfOrder),
        (&[(block(0, true, 64), 64), (block(1, false, 64), 1)], Code::REQUEST_ENTITY_TOO_LARGE, BlockError::TooLarge),
    ];
    for (blocks, code, error) in cases {
        let mut scene = BlockwiseScene::with(limited.clone());
        let mut last = None;
        for (value, length) in blocks {
            last = scene.request(&[(number::BLOCK1, *value)], &body(*length));
        }
        assert_eq!(last.map(|answer| answer.code), Some(code), "{blocks:?}");
        assert_eq!(scene.event(), Some(EndpointEvent::BodyRefused { peer: peer(1), error }));
        scene.expect_nothing_more();
    }
}

#[test]
fn bodies_under_way_are_bounded_and_forgotten_in_time() {
    let mut scene = BlockwiseScene::with(Parameters { block_uploads: 1, ..Parameters::default() });
    scene.request(&[(number::BLOCK1, block(0, true, 16))], &body(16));
    let other = message(
        Kind::Confirmable,
        Code::POST,
        MessageId(1),
        Token::EMPTY,
        &[(number::BLOCK1, block(0, true, 16))],
        &body(16),
    );
    scene.endpoint.handle_datagram(scene.now, peer(2), &other.encode());
    assert_eq!(scene.sent().code, Code::SERVICE_UNAVAILABLE);
    assert_eq!(scene.event(), Some(EndpointEvent::BodyRefused { peer: peer(2), error: BlockError::TooMany }));

    while let Some(deadline) = scene.endpoint.next_deadline() {
        scene.now = deadline;
        scene.endpoint.handle_timeout(deadline);
    }
    let late = scene.request(&[(number::BLOCK1, block(1, false, 16))], b"end").expect("an answer");
    assert_eq!(late.code, Code::REQUEST_ENTITY_INCOMPLETE);
}

#[test]
fn our_large_answer_is_served_in_blocks() {
    let mut scene = BlockwiseScene::with(Parameters { block_size: 64, ..Parameters::default() });
    let mut received = Vec::new();
    for number in 0..3 {
        let asked = (number > 0).then_some((number::BLOCK2, block(number, false, 64)));
        assert_eq!(scene.request(asked.as_slice(), b""), None);
        let Some(EndpointEvent::Request { id, .. }) = scene.event() else { panic!("no request") };
        let response = Response { payload: body(150), ..Response::new(Code::CONTENT) };
        scene.endpoint.respond(scene.now, id, response);
        let answer = scene.sent();
        assert_eq!(block2(&answer), block(number, number < 2, 64));
        received.extend(answer.payload);
    }
    assert_eq!(received, body(150));
}

#[test]
fn a_block_that_came_already_is_answered_as_before() {
    let mut scene = BlockwiseScene::new();
    let blocks = [(block(0, true, 32), &body(96)[..32]), (block(1, true, 32), &body(96)[32..64])];
    for (value, payload) in [blocks[0], blocks[1], blocks[1]] {
        let answer = scene.request(&[(number::BLOCK1, value)], payload).expect("an answer");
        assert_eq!((answer.code, block1(&answer)), (Code::CONTINUE, value));
    }
    let last = [(number::BLOCK1, block(2, false, 32))];
    assert_eq!(scene.request(&last, b"end"), None);
    let Some(EndpointEvent::Request { id, request, .. }) = scene.event() else { panic!("no request") };
    assert_eq!(request.payload, [&body(96)[..64], b"end"].concat());
    // Before the answer is there, and after it.
    assert_eq!(scene.request(&last, b"end"), None);
    let mut created = Response::new(Code::CREATED);
    created.options.add_text(number::LOCATION_PATH, "rd");
    scene.endpoint.respond(scene.now, id, created);
    let answers = [scene.sent(), scene.sent(), scene.request(&last, b"end").expect("an answer")];
    for answer in &answers {
        assert_eq!((answer.code, block1(answer)), (Code::CREATED, block(2, false, 32)));
        assert_eq!(answer.options.first(number::LOCATION_PATH), Some(&b"rd"[..]));
    }
    assert!(answers[0].id != answers[1].id && answers[1].id != answers[2].id);
    scene.expect_nothing_more();

    // Another last block is none of this body.
    let other = scene.request(&last, b"END").expect("an answer");
    assert_eq!(other.code, Code::REQUEST_ENTITY_INCOMPLETE);
}

#[test]
fn a_block_that_comes_again_with_other_bytes_is_refused_and_a_first_one_begins_anew() {
    let mut scene = BlockwiseScene::new();
    scene.request(&[(number::BLOCK1, block(0, true, 16))], &[1; 16]);
    scene.request(&[(number::BLOCK1, block(1, true, 16))], &[2; 16]);
    let other = scene.request(&[(number::BLOCK1, block(1, true, 16))], &[3; 16]).expect("an answer");
    assert_eq!(other.code, Code::REQUEST_ENTITY_INCOMPLETE);
    scene.event();

    scene.request(&[(number::BLOCK1, block(0, true, 16))], &[1; 16]);
    scene.request(&[(number::BLOCK1, block(1, true, 16))], &[2; 16]);
    for value in [block(0, true, 16), block(1, true, 16)] {
        assert_eq!(scene.request(&[(number::BLOCK1, value)], &[4; 16]).map(|answer| answer.code), Some(Code::CONTINUE));
    }
    assert_eq!(scene.request(&[(number::BLOCK1, block(2, false, 16))], b"end"), None);
    assert!(matches!(
        scene.event(),
        Some(EndpointEvent::Request { request, .. }) if request.payload == [&[4; 32][..], b"end"].concat()
    ));
}

#[test]
fn repeated_last_blocks_leave_nothing_behind() {
    let mut scene = BlockwiseScene::new();
    scene.request(&[(number::BLOCK1, block(0, true, 16))], &[1; 16]);
    let last = [(number::BLOCK1, block(1, false, 16))];
    for _ in 0..4 {
        scene.request(&last, b"end");
    }
    let Some(EndpointEvent::Request { id, .. }) = scene.event() else { panic!("no request") };
    scene.endpoint.respond(scene.now, id, Response::new(Code::CREATED));
    while scene.maybe_sent().is_some() {}
    assert_eq!(scene.endpoint.table_sizes().pending_requests, 0);
    while let Some(deadline) = scene.endpoint.next_deadline() {
        scene.now = deadline;
        scene.endpoint.handle_timeout(deadline);
        while scene.maybe_sent().is_some() {}
    }
    scene.endpoint.handle_timeout(scene.now + Duration::from_secs(1000));
    assert_eq!(scene.endpoint.table_sizes(), CoapTableSizes::default());
}

/// The first block of a body of an unregistered peer; what it is answered with.
fn unregistered_block(scene: &mut BlockwiseScene, from: Peer, number: u32) -> Code {
    let options = [(number::BLOCK1, block(number, true, 16))];
    let first = message(Kind::Confirmable, Code::POST, MessageId(number as u16), Token::EMPTY, &options, &body(16));
    let datagram = first.encode();
    scene.endpoint.handle_decoded(scene.now, from, PeerClass::Unregistered, Message::decode(&datagram), &datagram);
    scene.sent().code
}

fn unregistered(address: u32, port: u16) -> Peer {
    let [_, b, c, d] = address.to_be_bytes();
    Peer::udp(0, SocketAddr::from(([10, b, c, d], port)))
}

#[test]
fn bodies_of_unregistered_peers_take_no_room_of_others_and_the_oldest_goes() {
    let mut scene = BlockwiseScene::with(Parameters { block_uploads: 200, ..Parameters::default() });
    let over_dtls = Peer { association: Some(AssociationId(7)), ..unregistered(1, 1) };
    assert_eq!(unregistered_block(&mut scene, over_dtls, 0), Code::CONTINUE);
    // One that went on stays while there are others that did not.
    let going_on = unregistered(2, 1);
    assert_eq!(unregistered_block(&mut scene, going_on, 0), Code::CONTINUE);
    assert_eq!(unregistered_block(&mut scene, going_on, 1), Code::CONTINUE);
    for number in 0..510 {
        assert_eq!(unregistered_block(&mut scene, unregistered(1000 + number, 1), 0), Code::CONTINUE);
    }
    let evicted = std::iter::from_fn(|| scene.event())
        .filter(|event| matches!(event, EndpointEvent::BodyRefused { error: BlockError::Evicted, .. }));
    assert_eq!(evicted.count(), 510 - 99);
    assert_eq!(scene.endpoint.table_sizes().assemblies, 101, "half of the room, and the one over DTLS");
    assert_eq!(unregistered_block(&mut scene, over_dtls, 1), Code::CONTINUE);
    assert_eq!(unregistered_block(&mut scene, going_on, 2), Code::CONTINUE);
    assert_eq!(unregistered_block(&mut scene, unregistered(1000, 1), 1), Code::REQUEST_ENTITY_INCOMPLETE);
    // Those that are known have all of their room.
    for host in 1..=200 {
        let options = [(number::BLOCK1, block(0, true, 16))];
        let first = message(Kind::Confirmable, Code::POST, MessageId(1), Token::EMPTY, &options, &body(16));
        scene.endpoint.handle_datagram(scene.now, peer(host), &first.encode());
        assert_eq!(scene.sent().code, Code::CONTINUE);
    }
    scene.now += Duration::from_secs(31);
    scene.endpoint.handle_timeout(scene.now);
    assert_eq!(scene.endpoint.table_sizes().assemblies, 200, "unregistered peers have seconds");
}

#[test]
fn an_address_may_have_what_nobody_else_wants_and_its_share_beyond_half() {
    let mut scene = BlockwiseScene::with(Parameters { block_uploads: 200, ..Parameters::default() });
    for port in 1..=60 {
        assert_eq!(unregistered_block(&mut scene, unregistered(1, port), 0), Code::CONTINUE);
    }
    // Half of a hundred is there: each further one of this address replaces one of its own.
    assert_eq!(scene.endpoint.table_sizes().assemblies, 50);
    for number in 0..50 {
        assert_eq!(unregistered_block(&mut scene, unregistered(1000 + number, 1), 0), Code::CONTINUE);
    }
    assert_eq!(scene.endpoint.table_sizes().assemblies, 100);
    for port in 100..200 {
        assert_eq!(unregistered_block(&mut scene, unregistered(1, port), 0), Code::CONTINUE);
    }
    for number in 0..50 {
        assert_eq!(
            unregistered_block(&mut scene, unregistered(1000 + number, 1), 1),
            Code::CONTINUE,
            "others keep theirs"
        );
    }
}

#[test]
fn bodies_of_unregistered_peers_give_way_to_what_was_asked_for() {
    let parameters = Parameters { block_transfer_bytes: 4096, received_body_size: 4096, ..Parameters::default() };
    let mut scene = BlockwiseScene::with(parameters);
    for number in 0..40 {
        unregistered_block(&mut scene, unregistered(number, 1), 0);
    }
    let of_unregistered = scene.endpoint.table_sizes().block_transfer_bytes;
    assert_eq!(of_unregistered, 512, "an eighth of all");
    scene.send(Request::new(Code::GET));
    for number in 0..4 {
        let sent = scene.sent();
        scene.answer(&sent, Code::CONTENT, &[(number::BLOCK2, block(number, number < 3, 1024))], &body(1024));
        assert!(scene.endpoint.table_sizes().block_transfer_bytes <= 4096);
    }
    let answered = std::iter::from_fn(|| scene.event()).find(|event| matches!(event, EndpointEvent::Response { .. }));
    assert!(answered.is_some());
}
