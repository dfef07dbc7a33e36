//! Bodies of notifications: their order, and what a newer state does to an older one (RFC 7959 section 2.6).

use super::*;

#[test]
fn notifications_keep_their_order_while_the_body_of_one_is_fetched() {
    let (mut scene, observation, token) = BlockwiseScene::observing();
    scene.notify(token, &[(number::OBSERVE, 2), (number::ETAG, 7), (number::BLOCK2, block(0, true, 16))], &body(16));
    let fetch = scene.sent();
    assert_ne!(fetch.token, token);
    scene.notify(token, &[(number::OBSERVE, 3)], b"small");
    scene.expect_nothing_more();

    scene.answer(&fetch, Code::CONTENT, &[(number::ETAG, 7), (number::BLOCK2, block(1, false, 16))], b"end");
    let told: Vec<_> = std::iter::from_fn(|| scene.event())
        .map(|event| match event {
            EndpointEvent::Notification { observation: of, number, response, .. } if of == observation => {
                (number, response.payload)
            }
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(told, [(Some(2), [&body(16)[..], b"end"].concat()), (Some(3), b"small".to_vec())]);
    scene.expect_nothing_more();
}

#[test]
fn a_notification_waits_for_the_first_answer_whose_body_is_fetched() {
    let mut scene = BlockwiseScene::new();
    let mut request = Request::new(Code::GET);
    request.options.add_uint(number::OBSERVE, 0);
    scene.send(request);
    let first = scene.sent();
    let options = [(number::OBSERVE, 1), (number::ETAG, 7), (number::BLOCK2, block(0, true, 16))];
    scene.answer(&first, Code::CONTENT, &options, &body(16));
    let fetch = scene.sent();
    scene.notify(first.token, &[(number::OBSERVE, 2)], b"two");
    scene.expect_nothing_more();
    scene.answer(&fetch, Code::CONTENT, &[(number::ETAG, 7), (number::BLOCK2, block(1, false, 16))], b"end");
    assert!(matches!(scene.event(), Some(EndpointEvent::Response { observing: Some(1), .. })));
    assert!(matches!(scene.event(), Some(EndpointEvent::Notification { number: Some(2), .. })));
    scene.expect_nothing_more();
}

#[test]
fn a_notification_whose_body_cannot_be_fetched_is_told_as_such() {
    let (mut scene, observation, token) = BlockwiseScene::observing();
    scene.notify(token, &[(number::OBSERVE, 2), (number::BLOCK2, block(0, true, 16))], &body(16));
    let fetch = scene.sent();
    scene.receive(Message::empty(Kind::Reset, fetch.id));
    let (error, over) = (BlockError::OutOfOrder.into(), false);
    assert_eq!(scene.event(), Some(EndpointEvent::NotificationFailed { observation, number: Some(2), error, over }));
    scene.notify(token, &[(number::OBSERVE, 3)], b"goes on");
    assert!(matches!(scene.event(), Some(EndpointEvent::Notification { number: Some(3), .. })));
    scene.expect_nothing_more();
}

#[test]
fn a_forgotten_observation_fetches_nothing_more() {
    let (mut scene, observation, token) = BlockwiseScene::observing();
    scene.notify(token, &[(number::OBSERVE, 2), (number::BLOCK2, block(0, true, 16))], &body(16));
    let fetch = scene.sent();
    scene.endpoint.forget(observation);
    scene.answer(&fetch, Code::CONTENT, &[(number::BLOCK2, block(1, false, 16))], b"end");
    scene.expect_nothing_more();
}

/// Of a device without ETag, which answers each block from its present state.
#[test]
fn a_newer_notification_ends_the_fetch_of_the_older_one() {
    let (mut scene, observation, token) = BlockwiseScene::observing();
    scene.notify(token, &[(number::OBSERVE, 2), (number::BLOCK2, block(0, true, 16))], &[b'O'; 16]);
    let older = scene.sent();
    scene.notify(token, &[(number::OBSERVE, 3), (number::BLOCK2, block(0, true, 16))], &[b'N'; 16]);
    let newer = scene.sent();
    assert_ne!(newer.token, older.token);
    assert_eq!(scene.event(), Some(EndpointEvent::NotificationSuperseded { observation }));
    scene.answer(&older, Code::CONTENT, &[(number::BLOCK2, block(1, false, 16))], &[b'N'; 16]);
    scene.expect_nothing_more();
    scene.answer(&newer, Code::CONTENT, &[(number::BLOCK2, block(1, false, 16))], &[b'N'; 16]);
    let Some(EndpointEvent::Notification { number, response, .. }) = scene.event() else { panic!("no notification") };
    assert_eq!((number, response.payload), (Some(3), vec![b'N'; 32]));
    scene.expect_nothing_more();
}

#[test]
fn a_newer_notification_in_one_message_ends_the_fetch_too() {
    let (mut scene, observation, token) = BlockwiseScene::observing();
    scene.notify(token, &[(number::OBSERVE, 2), (number::BLOCK2, block(0, true, 16))], &[b'O'; 16]);
    scene.sent();
    scene.notify(token, &[(number::OBSERVE, 3)], b"small");
    assert_eq!(scene.event(), Some(EndpointEvent::NotificationSuperseded { observation }));
    assert!(matches!(scene.event(), Some(EndpointEvent::Notification { number: Some(3), .. })));
    scene.expect_nothing_more();
    assert_eq!(scene.endpoint.table_sizes().transfers, 0, "nothing is fetched any more");
}

#[test]
fn a_notification_that_waited_with_a_newer_one_behind_it_is_not_fetched() {
    let (mut scene, observation, token) = BlockwiseScene::observing();
    scene.notify(token, &[(number::OBSERVE, 2), (number::ETAG, 7), (number::BLOCK2, block(0, true, 16))], &body(16));
    let tagged = scene.sent();
    scene.notify(token, &[(number::OBSERVE, 3), (number::BLOCK2, block(0, true, 16))], &[b'O'; 16]);
    scene.notify(token, &[(number::OBSERVE, 4)], b"small");
    scene.expect_nothing_more();
    scene.answer(&tagged, Code::CONTENT, &[(number::ETAG, 7), (number::BLOCK2, block(1, false, 16))], b"end");
    assert!(matches!(scene.event(), Some(EndpointEvent::Notification { number: Some(2), .. })));
    assert_eq!(scene.event(), Some(EndpointEvent::NotificationSuperseded { observation }));
    assert!(matches!(scene.event(), Some(EndpointEvent::Notification { number: Some(4), .. })));
    scene.expect_nothing_more();
}

#[test]
fn a_notification_is_the_answer_whose_body_was_being_fetched() {
    for rest in [false, true] {
        let mut scene = BlockwiseScene::new();
        let mut request = Request::new(Code::GET);
        request.options.add_uint(number::OBSERVE, 0);
        let exchange = scene.send(request);
        let first = scene.sent();
        let options = [(number::OBSERVE, 1), (number::BLOCK2, block(0, true, 16))];
        scene.answer(&first, Code::CONTENT, &options, &[b'O'; 16]);
        let older = scene.sent();
        let newer = [(number::OBSERVE, 2), (number::BLOCK2, block(0, rest, 16))];
        scene.notify(first.token, &newer, &[b'N'; 16]);
        if rest {
            let newer = scene.sent();
            scene.answer(&older, Code::CONTENT, &[(number::BLOCK2, block(1, false, 16))], b"N");
            scene.expect_nothing_more();
            scene.answer(&newer, Code::CONTENT, &[(number::BLOCK2, block(1, false, 16))], b"N");
        }
        let Some(EndpointEvent::Response { exchange: told, response, observing }) = scene.event() else {
            panic!("no answer")
        };
        assert_eq!((told, observing, response.payload), (exchange, Some(2), vec![b'N'; 16 + usize::from(rest)]));
        scene.notify(first.token, &[(number::OBSERVE, 3)], b"goes on");
        assert!(matches!(scene.event(), Some(EndpointEvent::Notification { number: Some(3), .. })));
        scene.expect_nothing_more();
    }
}

#[test]
fn that_no_body_can_be_fetched_between_notifications_is_told_now_and_then() {
    let (mut scene, observation, token) = BlockwiseScene::observing();
    let mut told = Vec::new();
    for number in 2..20 {
        scene.notify(token, &[(number::OBSERVE, number), (number::BLOCK2, block(0, true, 16))], &body(16));
        scene.sent();
        told.extend(scene.event());
    }
    let error = ExchangeError::from(BlockError::Superseded);
    let failed = |number| EndpointEvent::NotificationFailed { observation, number: Some(number), error, over: false };
    let superseded = EndpointEvent::NotificationSuperseded { observation };
    assert_eq!(told.len(), 17);
    assert_eq!((&told[7], &told[15]), (&failed(9), &failed(17)));
    assert_eq!(told.iter().filter(|event| **event == superseded).count(), 15);
}
