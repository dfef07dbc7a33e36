//! Bodies of the responses to the gateway (Block2, RFC 7959 section 2.4).

use super::*;

#[test]
fn a_large_answer_is_fetched_to_its_end() {
    let mut scene = BlockwiseScene::new();
    let mut request = Request::new(Code::GET);
    request.options.add_text(number::URI_PATH, "3");
    request.options.add_uint(number::OBSERVE, 0);
    let exchange = scene.send(request);
    let first = scene.sent();
    let options = [(number::OBSERVE, 7), (number::BLOCK2, block(0, true, 64)), (number::ETAG, 5)];
    scene.answer(&first, Code::CONTENT, &options, &body(150)[..64]);

    for number in 1..3u32 {
        let next = scene.sent();
        assert_eq!((block2(&next), next.code), (block(number, false, 64), Code::GET));
        assert_eq!(next.options.first(number::URI_PATH), Some(&b"3"[..]));
        assert!(!next.options.contains(number::OBSERVE), "a block is no observation of its own");
        let part = &body(150)[number as usize * 64..150.min(number as usize * 64 + 64)];
        let options = [(number::BLOCK2, block(number, number < 2, 64)), (number::ETAG, 5)];
        scene.answer(&next, Code::CONTENT, &options, part);
    }
    let Some(EndpointEvent::Response { exchange: told, response, observing }) = scene.event() else {
        panic!("no response")
    };
    assert_eq!((told, response.payload, observing), (exchange, body(150), Some(7)));
    assert!(!response.options.contains(number::BLOCK2));
    scene.expect_nothing_more();
}

#[test]
fn a_body_that_changes_is_fetched_anew_once() {
    let mut scene = BlockwiseScene::new();
    scene.send(Request::new(Code::GET));
    let first = scene.sent();
    scene.answer(&first, Code::CONTENT, &[(number::BLOCK2, block(0, true, 64)), (number::ETAG, 1)], &body(64));
    let second = scene.sent();
    scene.answer(&second, Code::CONTENT, &[(number::BLOCK2, block(1, false, 64)), (number::ETAG, 2)], b"new");
    let again = scene.sent();
    assert_eq!(block2(&again), block(0, false, 64));
    scene.answer(&again, Code::CONTENT, &[(number::BLOCK2, block(0, true, 64)), (number::ETAG, 2)], &body(64));
    let rest = scene.sent();
    scene.answer(&rest, Code::CONTENT, &[(number::BLOCK2, block(1, false, 64)), (number::ETAG, 3)], b"newer");
    assert!(matches!(
        scene.event(),
        Some(EndpointEvent::Failed { error: ExchangeError::Transfer(BlockError::Changed), .. })
    ));
    scene.expect_nothing_more();
}

/// Options of a response, the bytes of its payload, and what is wrong with them.
type Misfit<'a> = (&'a [(u16, u32)], usize, BlockError);

#[test]
fn blocks_that_do_not_fit_together_fail_the_transfer() {
    let cases: [Misfit; 4] = [
        (&[(number::BLOCK2, block(3, true, 64))], 64, BlockError::OutOfOrder),
        (&[(number::BLOCK2, block(1, true, 64))], 63, BlockError::OutOfOrder),
        (&[(number::BLOCK2, block(1, false, 64))], 65, BlockError::OutOfOrder),
        (&[(number::BLOCK2, 7)], 1, BlockError::Malformed),
    ];
    for (options, length, error) in cases {
        let mut scene = BlockwiseScene::new();
        let exchange = scene.send(Request::new(Code::GET));
        let first = scene.sent();
        scene.answer(&first, Code::CONTENT, &[(number::BLOCK2, block(0, true, 64))], &body(64));
        let second = scene.sent();
        scene.answer(&second, Code::CONTENT, options, &body(length));
        assert_eq!(scene.event(), Some(EndpointEvent::Failed { exchange, error: error.into() }), "{options:?}");
        scene.expect_nothing_more();
        assert_eq!(scene.endpoint.next_deadline(), None);
    }
}

/// Some devices answer 5.03 to everything until their transfer has ended (eclipse-leshan and others).
#[test]
fn a_body_beyond_the_limit_is_fetched_to_its_end_and_discarded() {
    let mut scene = BlockwiseScene::with(Parameters { received_body_size: 100, ..Parameters::default() });
    let exchange = scene.send(Request::new(Code::GET));
    for number in 0..5 {
        let sent = scene.sent();
        scene.answer(&sent, Code::CONTENT, &[(number::BLOCK2, block(number, number < 4, 64))], &body(64));
        let held = scene.endpoint.table_sizes().block_transfer_bytes;
        assert_eq!(held, if number == 0 { 64 } else { 0 }, "what is discarded is not held");
    }
    let error = ExchangeError::Discarded { size: 320, limit: 100 };
    assert_eq!(scene.event(), Some(EndpointEvent::Failed { exchange, error }));
    let told = error.to_string();
    assert!(told.contains("320 bytes") && told.contains("coap.received_body_size is 100"), "{told}");
    scene.expect_nothing_more();
    assert_eq!(scene.endpoint.next_deadline(), None);
}

#[test]
fn a_body_that_has_no_end_is_given_up_after_16_mebibytes() {
    let mut scene = BlockwiseScene::new();
    let exchange = scene.send(Request::new(Code::GET));
    for number in 0..16 * 1024 {
        let sent = scene.sent();
        scene.answer(&sent, Code::CONTENT, &[(number::BLOCK2, block(number, true, 1024))], &body(1024));
        assert!(scene.endpoint.table_sizes().block_transfer_bytes <= 1024 * 1024);
    }
    let error = BlockError::TooLarge.into();
    assert_eq!(scene.event(), Some(EndpointEvent::Failed { exchange, error }));
    scene.expect_nothing_more();
}

#[test]
fn a_body_beyond_the_room_for_all_bodies_fails_with_the_reason() {
    let parameters = Parameters { received_body_size: 100, block_transfer_bytes: 200, ..Parameters::default() };
    let mut scene = BlockwiseScene::with(parameters);
    let mut fetches = Vec::new();
    for host in 1..=3 {
        let exchange = scene.endpoint.send_request(scene.now, peer(host), Request::new(Code::GET));
        let sent = scene.sent();
        fetches.push((exchange, sent.clone()));
        let first = message(
            Kind::Acknowledgement,
            Code::CONTENT,
            sent.id,
            sent.token,
            &[(number::BLOCK2, block(0, true, 64))],
            &body(64),
        );
        scene.endpoint.handle_datagram(scene.now, peer(host), &first.encode());
        scene.sent();
    }
    assert_eq!(scene.endpoint.table_sizes().block_transfer_bytes, 192);
    scene.expect_nothing_more();
    let exchange = scene.endpoint.send_request(scene.now, peer(4), Request::new(Code::GET));
    let sent = scene.sent();
    let options = [(number::BLOCK2, block(0, true, 16))];
    let first = message(Kind::Acknowledgement, Code::CONTENT, sent.id, sent.token, &options, &body(16));
    scene.endpoint.handle_datagram(scene.now, peer(4), &first.encode());
    let error = ExchangeError::Transfer(BlockError::NoRoom);
    assert!(error.to_string().contains("coap.block_transfer_bytes"));
    assert_eq!(scene.event(), Some(EndpointEvent::Failed { exchange, error }));

    // An end of another one makes room.
    scene.endpoint.forget(fetches[0].0);
    assert_eq!(scene.endpoint.table_sizes().block_transfer_bytes, 128);
}

/// RFC 7252 section 5.10.6.1.
#[test]
fn an_absent_etag_makes_no_statement() {
    let tags: [&[Option<u32>]; 4] =
        [&[Some(5), None, None], &[None, Some(5), Some(5)], &[Some(5), None, Some(5)], &[None, Some(5), None]];
    for tags in tags {
        let mut scene = BlockwiseScene::new();
        scene.send(Request::new(Code::GET));
        for (number, tag) in (0..).zip(tags) {
            let sent = scene.sent();
            let mut options = vec![(number::BLOCK2, block(number, number < 2, 16))];
            options.extend(tag.map(|tag| (number::ETAG, tag)));
            scene.answer(&sent, Code::CONTENT, &options, &body(16));
        }
        let told = scene.event();
        assert!(
            matches!(&told, Some(EndpointEvent::Response { response, .. }) if response.payload.len() == 48),
            "{told:?}"
        );
        scene.expect_nothing_more();
    }
    // A tag that a later block brings is compared with those after it.
    let mut scene = BlockwiseScene::new();
    scene.send(Request::new(Code::GET));
    for (number, tag) in [(0, None), (1, Some(5)), (2, Some(6))] {
        let sent = scene.sent();
        let mut options = vec![(number::BLOCK2, block(number, true, 16))];
        options.extend(tag.map(|tag| (number::ETAG, tag)));
        scene.answer(&sent, Code::CONTENT, &options, &body(16));
    }
    assert_eq!(block2(&scene.sent()), block(0, false, 16), "from the beginning");
}

/// wakaama: the first block as SenML JSON, the next ones as TLV.
#[test]
fn blocks_of_another_content_format_are_not_glued_together() {
    let mut scene = BlockwiseScene::new();
    scene.send(Request::new(Code::GET));
    let answer = |scene: &mut BlockwiseScene, format: Option<u32>, number, more, payload: &[u8]| {
        let sent = scene.sent();
        let mut options = vec![(number::BLOCK2, block(number, more, 16))];
        options.extend(format.map(|format| (number::CONTENT_FORMAT, format)));
        assert_eq!(block2_or_first(&sent), block(number, false, 16) >> 4);
        scene.answer(&sent, Code::CONTENT, &options, payload);
    };
    answer(&mut scene, Some(110), 0, true, &[b'['; 16]);
    answer(&mut scene, Some(11542), 1, true, &[1; 16]);
    answer(&mut scene, Some(11542), 0, true, &[0; 16]);
    answer(&mut scene, Some(11542), 1, true, &[1; 16]);
    answer(&mut scene, None, 2, false, &[2; 3]);
    let Some(EndpointEvent::Response { response, .. }) = scene.event() else { panic!("no response") };
    assert_eq!(response.options.content_format(), Some(11542));
    assert_eq!(response.payload, [&[0; 16][..], &[1; 16], &[2; 3]].concat());
    scene.expect_nothing_more();
}

/// The number of the block that is asked for.
fn block2_or_first(message: &Message) -> u32 {
    message.options.uint(number::BLOCK2).expect("an integer").unwrap_or_default() >> 4
}
