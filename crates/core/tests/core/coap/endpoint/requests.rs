//! Requests of peers: duplicates, slow answers and options (RFC 7252 sections 4.5, 5.2.2 and 5.4.1).

use super::*;

#[test]
fn a_request_that_comes_again_gets_its_stored_reply_until_its_lifetime_is_over() {
    let mut scene = EndpointScene::new();
    let post = message(Kind::Confirmable, Code::POST, 1, token(b"a"), &[]);
    let id = scene.request(post.clone());

    scene.receive(post.clone());
    scene.expect_outcome(DatagramOutcome::Duplicate);
    scene.endpoint.respond(scene.now, id, Response::new(Code::CREATED));
    let answer = scene.sent();
    assert_eq!(answer, message(Kind::Acknowledgement, Code::CREATED, 1, token(b"a"), &[]));

    scene.receive(post.clone());
    assert_eq!(scene.sent(), answer);
    scene.expect_outcome(DatagramOutcome::Duplicate);
    scene.expect_nothing_more();

    scene.after(247.0);
    scene.request(post);
}

#[test]
fn a_restarted_device_may_begin_its_message_ids_anew() {
    let mut scene = EndpointScene::new();
    let first = scene.request(message(Kind::Confirmable, Code::POST, 1, token(b"a"), &[]));
    scene.endpoint.respond(scene.now, first, Response::new(Code::CREATED));
    scene.sent();
    scene.request(message(Kind::Confirmable, Code::POST, 1, token(b"b"), &[]));
}

#[test]
fn a_slow_answer_leaves_after_an_empty_acknowledgement_and_is_confirmable() {
    let mut scene = EndpointScene::new();
    let post = message(Kind::Confirmable, Code::POST, 2, token(b"t"), &[]);
    let id = scene.request(post.clone());

    assert_eq!(scene.wait_for_deadline(), Duration::from_secs(1));
    assert_eq!(scene.sent(), Message::empty(Kind::Acknowledgement, MessageId(2)));
    scene.receive(post);
    assert_eq!(scene.sent(), Message::empty(Kind::Acknowledgement, MessageId(2)));
    scene.expect_outcome(DatagramOutcome::Duplicate);

    scene.endpoint.respond(scene.now, id, Response::new(Code::CREATED));
    let separate = scene.sent();
    assert_eq!((separate.kind, separate.code, separate.token), (Kind::Confirmable, Code::CREATED, token(b"t")));
    scene.wait_for_deadline();
    scene.expect_retransmission_of(&separate, scene.peer);
    scene.receive(Message::empty(Kind::Acknowledgement, separate.id));
    scene.expect_outcome(DatagramOutcome::Acknowledgement);
    scene.after(100.0);
    scene.expect_nothing_more();
}

#[test]
fn a_non_confirmable_request_is_answered_likewise() {
    let mut scene = EndpointScene::new();
    let id = scene.request(message(Kind::NonConfirmable, Code::POST, 3, token(b"n"), &[]));
    scene.after(10.0);
    scene.endpoint.respond(scene.now, id, Response::new(Code::CHANGED));
    let answer = scene.sent();
    assert_eq!((answer.kind, answer.token), (Kind::NonConfirmable, token(b"n")));
    scene.expect_nothing_more();
}

#[test]
fn unknown_critical_options_are_refused_by_kind() {
    let cases = [
        (Kind::Confirmable, 9, Some((Kind::Acknowledgement, Code::BAD_OPTION)), DatagramOutcome::Request),
        (Kind::Confirmable, 35, Some((Kind::Acknowledgement, Code::PROXYING_NOT_SUPPORTED)), DatagramOutcome::Request),
        (
            Kind::NonConfirmable,
            9,
            Some((Kind::Reset, Code::EMPTY)),
            DatagramOutcome::Dropped(DropReason::CriticalOption),
        ),
    ];
    for (kind, option, answer, outcome) in cases {
        let mut scene = EndpointScene::new();
        scene.receive(message(kind, Code::POST, 4, token(b"c"), &[(option, 1)]));
        let sent = scene.sent();
        assert_eq!(Some((sent.kind, sent.code)), answer, "{kind:?} {option}");
        scene.expect_outcome(outcome);
        scene.expect_nothing_more();
    }
}

#[test]
fn an_unknown_elective_option_is_ignored() {
    let mut scene = EndpointScene::new();
    scene.request(message(Kind::Confirmable, Code::POST, 5, token(b"e"), &[(2000, 1)]));
}

#[test]
fn an_empty_confirmable_message_is_answered_with_a_reset() {
    let mut scene = EndpointScene::new();
    scene.receive(Message::empty(Kind::Confirmable, MessageId(6)));
    assert_eq!(scene.sent(), Message::empty(Kind::Reset, MessageId(6)));
    scene.expect_outcome(DatagramOutcome::Ping);
    scene.receive(Message::empty(Kind::NonConfirmable, MessageId(7)));
    scene.expect_outcome(DatagramOutcome::Dropped(DropReason::InvalidCodeForType));
    scene.receive(message(Kind::Reset, Code::GET, 8, Token::EMPTY, &[]));
    scene.expect_outcome(DatagramOutcome::Dropped(DropReason::InvalidCodeForType));
    scene.expect_nothing_more();
}

#[test]
fn requests_that_wait_for_an_answer_are_bounded() {
    let parameters = Parameters { pending_requests: 2, ..Parameters::default() };
    let mut scene = EndpointScene { endpoint: Endpoint::new(parameters, [1; 32]), ..EndpointScene::new() };
    let [first, _] = [0, 1].map(|id| scene.request(message(Kind::Confirmable, Code::POST, id, Token::EMPTY, &[])));
    let refused = message(Kind::Confirmable, Code::POST, 9, Token::EMPTY, &[]);
    scene.receive(refused.clone());
    scene.expect_outcome(DatagramOutcome::Dropped(DropReason::TooManyRequests));
    scene.expect_nothing_more();

    scene.endpoint.respond(scene.now, first, Response::new(Code::CREATED));
    scene.sent();
    scene.request(refused);
}

#[test]
fn a_peer_that_sends_without_end_pushes_out_only_its_own_past() {
    let parameters =
        Parameters { deduplication_entries_per_peer: 4, deduplication_entries: 100, ..Parameters::default() };
    let mut scene = EndpointScene { endpoint: Endpoint::new(parameters, [1; 32]), ..EndpointScene::new() };
    let quiet = message(Kind::NonConfirmable, Code::CONTENT, 1, token(b"q"), &[]);
    scene.receive_from(peer(1), quiet.clone());
    for id in 0..1000 {
        scene.receive(message(Kind::NonConfirmable, Code::CONTENT, id, token(b"x"), &[]));
    }
    while scene.output().is_some() {}
    scene.receive_from(peer(1), quiet);
    assert_eq!(scene.sent_to(peer(1)).kind, Kind::Reset);
    scene.expect_outcome(DatagramOutcome::Duplicate);
}

#[test]
fn everything_is_forgotten_in_the_end() {
    let (mut scene, observation, _) = EndpointScene::with_observation();
    scene.request(message(Kind::Confirmable, Code::POST, 2, token(b"t"), &[]));
    scene.endpoint.forget(observation);
    while scene.endpoint.next_deadline().is_some() {
        scene.wait_for_deadline();
    }
    while scene.output().is_some() {}
    assert_eq!(scene.event(), None);
}
