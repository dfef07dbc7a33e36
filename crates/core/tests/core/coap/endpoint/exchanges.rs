//! Requests of the gateway: retransmission, and the responses that end them (RFC 7252 sections 4.2 and 5.2).

use super::*;

#[test]
fn a_request_is_sent_again_with_doubled_timeouts_and_then_given_up() {
    let mut scene = EndpointScene::new();
    let exchange = scene.send(get());
    let first = scene.sent();
    assert_eq!((first.kind, first.code, first.token.as_bytes().len()), (Kind::Confirmable, Code::GET, 8));

    let initial = scene.wait_for_deadline();
    assert!((Duration::from_secs(2)..=Duration::from_secs(3)).contains(&initial), "{initial:?}");
    scene.expect_retransmission_of(&first, scene.peer);
    for doubled in [2, 4, 8] {
        assert_eq!(scene.wait_for_deadline(), initial * doubled);
        scene.expect_retransmission_of(&first, scene.peer);
    }
    assert_eq!(scene.wait_for_deadline(), initial * 16);
    assert_eq!(scene.event(), Some(EndpointEvent::TimedOut { exchange }));
    scene.expect_nothing_more();
    assert_eq!(scene.endpoint.next_deadline(), None);

    scene.receive(piggybacked(&first, Code::CONTENT, &[]));
    scene.expect_outcome(DatagramOutcome::Dropped(DropReason::Unexpected));
    scene.expect_nothing_more();
}

#[test]
fn timeouts_have_a_random_factor() {
    let mut scene = EndpointScene::new();
    let mut timeouts = Vec::new();
    for port in 1..50 {
        scene.peer = peer(port);
        let id = scene.send(get());
        timeouts.push(scene.endpoint.next_deadline().expect("a deadline") - scene.now);
        scene.endpoint.forget(id);
    }
    timeouts.sort();
    timeouts.dedup();
    assert!(timeouts.len() > 40, "{} different timeouts", timeouts.len());
}

#[test]
fn a_piggybacked_response_ends_the_exchange_and_its_duplicate_is_dropped() {
    let mut scene = EndpointScene::new();
    let exchange = scene.send(get());
    let request = scene.sent();
    let answer = piggybacked(&request, Code::CONTENT, &[]);

    scene.receive(answer.clone());
    let response = Response::new(Code::CONTENT);
    assert_eq!(scene.event(), Some(EndpointEvent::Response { exchange, response, observing: None }));
    scene.expect_outcome(DatagramOutcome::Response);
    assert_eq!(scene.endpoint.next_deadline(), None);

    scene.receive(answer);
    scene.expect_outcome(DatagramOutcome::Dropped(DropReason::Unexpected));
    scene.expect_nothing_more();
}

#[test]
fn a_response_counts_only_with_its_token_and_from_its_peer() {
    let mut scene = EndpointScene::new();
    scene.send(get());
    let request = scene.sent();

    scene.receive(message(Kind::Acknowledgement, Code::CONTENT, request.id.0, token(b"other"), &[]));
    scene.expect_outcome(DatagramOutcome::Dropped(DropReason::Unexpected));
    scene.receive_from(peer(6000), piggybacked(&request, Code::CONTENT, &[]));
    scene.expect_outcome(DatagramOutcome::Dropped(DropReason::Unexpected));
    scene.expect_nothing_more();
    scene.wait_for_deadline();
    scene.expect_retransmission_of(&request, scene.peer);
}

#[test]
fn a_separate_response_comes_after_the_empty_acknowledgement_and_is_acknowledged_each_time() {
    let mut scene = EndpointScene::new();
    let exchange = scene.send(get());
    let request = scene.sent();

    scene.receive(Message::empty(Kind::Acknowledgement, request.id));
    assert_eq!(scene.event(), Some(EndpointEvent::Acknowledged { exchange }));
    scene.expect_outcome(DatagramOutcome::Acknowledgement);
    scene.after(30.0);
    scene.expect_nothing_more();

    let separate = message(Kind::Confirmable, Code::CONTENT, 900, request.token, &[]);
    scene.receive(separate.clone());
    assert!(matches!(scene.event(), Some(EndpointEvent::Response { observing: None, .. })));
    assert_eq!(scene.sent(), Message::empty(Kind::Acknowledgement, MessageId(900)));
    scene.expect_outcome(DatagramOutcome::Response);

    scene.receive(separate);
    assert_eq!(scene.sent(), Message::empty(Kind::Acknowledgement, MessageId(900)));
    scene.expect_outcome(DatagramOutcome::Duplicate);
    scene.expect_nothing_more();
}

#[test]
fn a_separate_response_may_overtake_the_acknowledgement() {
    let mut scene = EndpointScene::new();
    let exchange = scene.send(get());
    let request = scene.sent();

    scene.receive(message(Kind::NonConfirmable, Code::CONTENT, 901, request.token, &[]));
    let response = Response::new(Code::CONTENT);
    assert_eq!(scene.event(), Some(EndpointEvent::Response { exchange, response, observing: None }));
    scene.expect_outcome(DatagramOutcome::Response);
    scene.receive(Message::empty(Kind::Acknowledgement, request.id));
    scene.expect_outcome(DatagramOutcome::Dropped(DropReason::Unexpected));
    scene.expect_nothing_more();
}

#[test]
fn a_separate_response_that_never_comes_is_given_up() {
    let mut scene = EndpointScene::new();
    let exchange = scene.send(get());
    let request = scene.sent();
    scene.receive(Message::empty(Kind::Acknowledgement, request.id));
    scene.expect_outcome(DatagramOutcome::Acknowledgement);
    scene.event();

    assert_eq!(scene.wait_for_deadline(), Parameters::default().max_transmit_wait());
    assert_eq!(scene.event(), Some(EndpointEvent::TimedOut { exchange }));
    scene.expect_nothing_more();
}

#[test]
fn a_reset_ends_the_exchange() {
    let mut scene = EndpointScene::new();
    let exchange = scene.send(get());
    let request = scene.sent();
    scene.receive(Message::empty(Kind::Reset, request.id));
    assert_eq!(scene.event(), Some(EndpointEvent::Reset { exchange }));
    scene.expect_outcome(DatagramOutcome::Reset);
    scene.expect_nothing_more();
    assert_eq!(scene.endpoint.next_deadline(), None);
}

#[test]
fn tokens_of_one_peer_differ_however_short_they_are() {
    let parameters = Parameters { token_length: 1, ..Parameters::default() };
    let mut scene = EndpointScene { endpoint: Endpoint::new(parameters, [1; 32]), ..EndpointScene::new() };
    let mut tokens = std::collections::BTreeSet::new();
    for _ in 0..1000 {
        scene.send(get());
        tokens.insert(scene.sent().token);
    }
    assert_eq!(tokens.len(), 1000);
    assert!(tokens.iter().any(|token| token.as_bytes().len() == 1));
}
