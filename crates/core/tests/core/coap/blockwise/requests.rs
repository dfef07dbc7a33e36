//! Bodies of the requests of the gateway (Block1, RFC 7959 section 2.3).

use super::*;

#[test]
fn a_large_body_goes_up_block_by_block() {
    let mut scene = BlockwiseScene::new();
    let exchange = scene.send(put(2500));
    let first = scene.sent();
    assert_eq!((block1(&first), first.options.uint(number::SIZE1)), (block(0, true, 1024), Ok(Some(2500))));
    assert_eq!(first.payload, body(2500)[..1024]);
    scene.answer(&first, Code::CONTINUE, &[(number::BLOCK1, block(0, true, 1024))], b"");

    let second = scene.sent();
    assert_eq!((block1(&second), &second.payload[..]), (block(1, true, 1024), &body(2500)[1024..2048]));
    assert_eq!(second.options.first(number::URI_PATH), Some(&b"5"[..]));
    assert_ne!((second.token, second.id), (first.token, first.id));
    scene.answer(&second, Code::CONTINUE, &[(number::BLOCK1, block(1, true, 1024))], b"");

    let last = scene.sent();
    assert_eq!((block1(&last), &last.payload[..]), (block(2, false, 1024), &body(2500)[2048..]));
    scene.answer(&last, Code::CHANGED, &[(number::BLOCK1, block(2, false, 1024))], b"");
    let response = Response::new(Code::CHANGED);
    assert_eq!(scene.event(), Some(EndpointEvent::Response { exchange, response, observing: None }));
    scene.expect_nothing_more();
    assert_eq!(scene.endpoint.next_deadline(), None);
}

#[test]
fn the_device_may_ask_for_smaller_blocks_on_the_way() {
    let mut scene = BlockwiseScene::new();
    scene.send(put(2048));
    let first = scene.sent();
    scene.answer(&first, Code::CONTINUE, &[(number::BLOCK1, block(0, true, 256))], b"");
    for number in 4..8 {
        let sent = scene.sent();
        assert_eq!(block1(&sent), block(number, number < 7, 256));
        assert_eq!(sent.payload, body(2048)[number as usize * 256..][..256]);
        let code = if number < 7 { Code::CONTINUE } else { Code::CHANGED };
        scene.answer(&sent, code, &[(number::BLOCK1, block(number, number < 7, 256))], b"");
    }
    assert!(matches!(scene.event(), Some(EndpointEvent::Response { .. })));
    scene.expect_nothing_more();
}

#[test]
fn too_large_a_first_block_begins_again_with_the_size_of_the_device() {
    let mut scene = BlockwiseScene::new();
    scene.send(put(1500));
    let first = scene.sent();
    scene.answer(&first, Code::REQUEST_ENTITY_TOO_LARGE, &[(number::BLOCK1, block(0, true, 64))], b"");
    let again = scene.sent();
    assert_eq!((block1(&again), again.payload.len()), (block(0, true, 64), 64));

    scene.answer(&again, Code::REQUEST_ENTITY_TOO_LARGE, &[], b"");
    let told = scene.event();
    assert!(
        matches!(
            &told,
            Some(EndpointEvent::Response { response, .. }) if response.code == Code::REQUEST_ENTITY_TOO_LARGE
        ),
        "without a smaller size it is the answer: {told:?}"
    );
    scene.expect_nothing_more();
}

#[test]
fn an_incomplete_body_is_sent_again_once() {
    let mut scene = BlockwiseScene::new();
    scene.send(put(1500));
    let first = scene.sent();
    scene.answer(&first, Code::CONTINUE, &[(number::BLOCK1, block(0, true, 1024))], b"");
    let second = scene.sent();
    scene.answer(&second, Code::REQUEST_ENTITY_INCOMPLETE, &[], b"");
    let again = scene.sent();
    assert_eq!(block1(&again), block(0, true, 1024));
    scene.answer(&again, Code::REQUEST_ENTITY_INCOMPLETE, &[], b"");
    let told = scene.event();
    assert!(
        matches!(
            &told,
            Some(EndpointEvent::Response { response, .. }) if response.code == Code::REQUEST_ENTITY_INCOMPLETE
        ),
        "{told:?}"
    );
    scene.expect_nothing_more();
}

#[test]
fn an_error_in_the_middle_is_the_answer() {
    let mut scene = BlockwiseScene::new();
    scene.send(put(1500));
    let first = scene.sent();
    scene.answer(&first, Code::FORBIDDEN, &[], b"no");
    assert!(matches!(
        scene.event(),
        Some(EndpointEvent::Response { response, .. })
            if response.code == Code::FORBIDDEN && response.payload == b"no"
    ));
    scene.expect_nothing_more();
}

#[test]
fn an_acknowledged_body_is_told_once_and_a_lost_block_ends_it() {
    let mut scene = BlockwiseScene::new();
    let exchange = scene.send(put(1500));
    let first = scene.sent();
    scene.receive(Message::empty(Kind::Acknowledgement, first.id));
    assert_eq!(scene.event(), Some(EndpointEvent::Acknowledged { exchange }));
    let next = message(
        Kind::NonConfirmable,
        Code::CONTINUE,
        MessageId(900),
        first.token,
        &[(number::BLOCK1, block(0, true, 1024))],
        b"",
    );
    scene.receive(next);
    let second = scene.sent();
    scene.receive(Message::empty(Kind::Acknowledgement, second.id));
    scene.expect_nothing_more();

    while let Some(deadline) = scene.endpoint.next_deadline() {
        scene.now = deadline;
        scene.endpoint.handle_timeout(deadline);
    }
    assert_eq!(scene.event(), Some(EndpointEvent::TimedOut { exchange }));
    scene.expect_nothing_more();
}

#[test]
fn a_first_block_is_repeated_as_any_request_and_a_further_one_twice_as_often() {
    let mut scene = BlockwiseScene::new();
    let exchange = scene.send(put(1500));
    let first = scene.sent();
    assert_eq!(scene.repetitions(&first).len(), 4);
    assert_eq!(scene.event(), Some(EndpointEvent::TimedOut { exchange }));

    let exchange = scene.send(put(1500));
    let first = scene.sent();
    scene.answer(&first, Code::CONTINUE, &[(number::BLOCK1, block(0, true, 1024))], b"");
    let begun = scene.now;
    let second = scene.sent();
    let waits = scene.repetitions(&second);
    assert_eq!(waits.len(), 8);
    assert!(waits.windows(2).take(4).all(|two| two[1] == two[0] * 2), "{waits:?}");
    assert!(waits[4..].iter().all(|wait| *wait == waits[4]), "{waits:?}");
    let lifetime = Parameters::default().exchange_lifetime();
    assert!(waits.iter().sum::<Duration>() < lifetime, "the peer takes it for a repetition: {waits:?}");
    assert!(scene.now - begun < 2 * lifetime);
    assert_eq!(scene.event(), Some(EndpointEvent::TimedOut { exchange }));
    scene.expect_nothing_more();
}

#[test]
fn a_request_that_is_too_large_for_one_message_goes_again_in_blocks() {
    // The bytes that were sent, the options of 4.13, and the size of the blocks.
    type HintOptions<'a> = &'a [(u16, u32)];
    let cases: [(usize, HintOptions, u32); 6] = [
        (300, &[(number::BLOCK1, block(0, false, 128))], 128),
        (300, &[(number::BLOCK1, block(0, true, 64)), (number::SIZE1, 200)], 64),
        (300, &[], 128),
        (300, &[(number::BLOCK1, block(0, false, 512))], 128),
        (300, &[(number::SIZE1, 4096)], 128),
        (17, &[], 16),
    ];
    for (length, options, size) in cases {
        let mut scene = BlockwiseScene::new();
        let exchange = scene.send(put(length));
        let whole = scene.sent();
        assert_eq!((whole.payload.len(), whole.options.contains(number::BLOCK1)), (length, false));
        scene.answer(&whole, Code::REQUEST_ENTITY_TOO_LARGE, options, b"");
        let mut received = Vec::new();
        loop {
            let sent = scene.sent();
            let value = block1(&sent);
            assert_eq!(
                (value & 7, sent.options.content_format()),
                (size.ilog2() - 4, Some(42)),
                "{length} {options:?}"
            );
            received.extend(sent.payload.clone());
            let more = value & 8 != 0;
            let code = if more { Code::CONTINUE } else { Code::CHANGED };
            scene.answer(&sent, code, &[(number::BLOCK1, value)], b"");
            if !more {
                break;
            }
        }
        assert_eq!(received, body(length));
        let response = Response::new(Code::CHANGED);
        assert_eq!(scene.event(), Some(EndpointEvent::Response { exchange, response, observing: None }));
        scene.expect_nothing_more();
    }
}

#[test]
fn blocks_that_would_not_help_are_not_tried() {
    let too_large = |told: &Option<EndpointEvent>| {
        matches!(
            told,
            Some(EndpointEvent::Response { response, .. }) if response.code == Code::REQUEST_ENTITY_TOO_LARGE
        )
    };
    let cases: [(usize, &[(u16, u32)]); 3] = [(16, &[]), (0, &[]), (300, &[(number::SIZE1, 200)])];
    for (length, options) in cases {
        let mut scene = BlockwiseScene::new();
        scene.send(put(length));
        let whole = scene.sent();
        scene.answer(&whole, Code::REQUEST_ENTITY_TOO_LARGE, options, b"");
        let told = scene.event();
        assert!(too_large(&told), "{length}: {told:?}");
        scene.expect_nothing_more();
    }
    // Blocks that are too large as well, without a smaller size, are the end.
    let mut scene = BlockwiseScene::new();
    scene.send(put(300));
    for _ in 0..2 {
        let sent = scene.sent();
        scene.answer(&sent, Code::REQUEST_ENTITY_TOO_LARGE, &[], b"");
    }
    assert!(too_large(&scene.event()));
    scene.expect_nothing_more();
}

#[test]
fn a_success_before_the_last_block_or_2_31_after_it_is_a_failure() {
    let cases: [(usize, &[(Code, bool)]); 5] = [
        (1500, &[(Code::CHANGED, false)]),
        (1500, &[(Code::CREATED, false)]),
        (2500, &[(Code::CONTINUE, true), (Code::CHANGED, false)]),
        (1500, &[(Code::CONTINUE, true), (Code::CONTINUE, true)]),
        (10, &[(Code::CONTINUE, false)]),
    ];
    for (length, answers) in cases {
        let mut scene = BlockwiseScene::new();
        let exchange = scene.send(put(length));
        for (code, with_block) in answers {
            let sent = scene.sent();
            let options: Vec<_> = sent.options.uint(number::BLOCK1).expect("an integer").into_iter().collect();
            let options: Vec<_> =
                options.iter().filter(|_| *with_block).map(|value| (number::BLOCK1, *value)).collect();
            scene.answer(&sent, *code, &options, b"");
        }
        let error = ExchangeError::Transfer(BlockError::Unfinished);
        assert_eq!(scene.event(), Some(EndpointEvent::Failed { exchange, error }), "{length} {answers:?}");
        scene.expect_nothing_more();
    }
}
