//! A device that continues from another address.

use super::*;

#[test]
fn what_is_under_way_follows_the_device_to_its_new_address() {
    let (mut scene, observation, token) = EndpointScene::with_observation();
    let exchange = scene.send(get());
    let request = scene.sent();
    let (old, new) = (scene.peer, peer(7000));

    scene.endpoint.readdress(scene.now, [exchange, observation], new);
    scene.endpoint.handle_timeout(scene.now);
    scene.expect_retransmission_of(&request, new);
    scene.receive_from(new, piggybacked(&request, Code::CONTENT, &[]));
    scene.expect_outcome(DatagramOutcome::Response);
    assert!(matches!(scene.event(), Some(EndpointEvent::Response { .. })));

    let notification = message(Kind::NonConfirmable, Code::CONTENT, 95, token, &[(number::OBSERVE, 9)]);
    scene.receive_from(new, notification.clone());
    scene.expect_outcome(DatagramOutcome::Notification);
    assert!(matches!(scene.event(), Some(EndpointEvent::Notification { .. })));
    scene.receive_from(old, notification);
    assert_eq!(scene.sent_to(old).kind, Kind::Reset);
}

#[test]
fn a_request_leaves_for_the_new_address_at_once_however_often_it_was_repeated_before() {
    for repetitions in 0..=4 {
        let mut scene = EndpointScene::new();
        let exchange = scene.send(get());
        let request = scene.sent();
        for _ in 0..repetitions {
            scene.wait_for_deadline();
            scene.expect_retransmission_of(&request, scene.peer);
        }
        let new = peer(7000);
        scene.endpoint.readdress(scene.now, [exchange], new);
        assert_eq!(scene.wait_for_deadline(), Duration::ZERO, "{repetitions}");
        scene.expect_retransmission_of(&request, new);
        // There it is repeated as a new one is.
        let initial = scene.wait_for_deadline();
        assert!((Duration::from_secs(2)..=Duration::from_secs(3)).contains(&initial), "{initial:?}");
        scene.expect_retransmission_of(&request, new);
        for doubled in [2, 4, 8] {
            assert_eq!(scene.wait_for_deadline(), initial * doubled);
            scene.expect_retransmission_of(&request, new);
        }
        scene.wait_for_deadline();
        assert_eq!(scene.event(), Some(EndpointEvent::TimedOut { exchange }));
        scene.expect_nothing_more();
    }
}

/// The device may have answered from its new address before anybody knew that it is there, and was reset.
#[test]
fn an_acknowledged_request_is_sent_again_to_the_new_address() {
    let mut scene = EndpointScene::new();
    let exchange = scene.send(get());
    let request = scene.sent();
    scene.receive(Message::empty(Kind::Acknowledgement, request.id));
    scene.expect_outcome(DatagramOutcome::Acknowledgement);
    assert_eq!(scene.event(), Some(EndpointEvent::Acknowledged { exchange }));
    let new = peer(7000);
    let answer = message(Kind::Confirmable, Code::CONTENT, 90, request.token, &[]);
    scene.receive_from(new, answer);
    assert_eq!(scene.sent_to(new).kind, Kind::Reset);
    scene.expect_outcome(DatagramOutcome::Dropped(DropReason::Unexpected));

    scene.endpoint.readdress(scene.now, [exchange], new);
    assert_eq!(scene.wait_for_deadline(), Duration::ZERO);
    scene.expect_retransmission_of(&request, new);
    scene.receive_from(new, Message::empty(Kind::Acknowledgement, request.id));
    scene.expect_outcome(DatagramOutcome::Acknowledgement);
    scene.receive_from(new, message(Kind::Confirmable, Code::CONTENT, 91, request.token, &[]));
    assert_eq!(scene.sent_to(new).kind, Kind::Acknowledgement);
    scene.expect_outcome(DatagramOutcome::Response);
    assert!(matches!(scene.event(), Some(EndpointEvent::Response { exchange: answered, .. }) if answered == exchange));
    scene.expect_nothing_more();
}

/// Message ids begin anywhere for each peer, so that of many peers two begin alike.
fn two_peers_with_the_same_message_id(scene: &mut EndpointScene) -> [(Peer, ExchangeId, Message); 2] {
    let mut first_with = std::collections::HashMap::new();
    for port in 1.. {
        scene.peer = peer(port);
        let exchange = scene.send(get());
        let request = scene.sent();
        if let Some(earlier) = first_with.insert(request.id, (scene.peer, exchange, request.clone())) {
            return [earlier, (scene.peer, exchange, request)];
        }
    }
    unreachable!("there are more ports than message ids")
}

#[test]
fn a_device_that_moves_to_the_address_of_another_leaves_the_exchange_of_that_one_alone() {
    let mut scene = EndpointScene::new();
    let [(from, moving, request), (to, staying, other)] = two_peers_with_the_same_message_id(&mut scene);
    scene.endpoint.readdress(scene.now, [moving], to);
    scene.endpoint.handle_timeout(scene.now);
    assert_eq!(scene.output(), Some(CoapOutput::Retransmitted(to)));
    let moved = scene.sent_to(to);
    assert_ne!(moved.id, request.id);
    assert_eq!(moved, Message { id: moved.id, ..request });

    scene.receive_from(to, piggybacked(&moved, Code::CONTENT, &[]));
    assert!(matches!(scene.event(), Some(EndpointEvent::Response { exchange, .. }) if exchange == moving));
    scene.receive_from(to, piggybacked(&other, Code::CONTENT, &[]));
    assert!(matches!(scene.event(), Some(EndpointEvent::Response { exchange, .. }) if exchange == staying));
    assert_ne!(from, to);
}

#[test]
fn a_message_id_that_came_along_with_a_move_is_not_given_twice() {
    let mut scene = EndpointScene::new();
    let [(_, moving, request), (to, acknowledged, other)] = two_peers_with_the_same_message_id(&mut scene);
    scene.receive_from(to, Message::empty(Kind::Acknowledgement, other.id));
    assert_eq!(scene.event(), Some(EndpointEvent::Acknowledged { exchange: acknowledged }));
    scene.endpoint.readdress(scene.now, [moving], to);

    // The end of the exchange whose message is not on its way any more is not the end of the one that came.
    scene.endpoint.forget(acknowledged);
    scene.expect_outcome(DatagramOutcome::Acknowledgement);
    scene.endpoint.handle_timeout(scene.now);
    scene.expect_retransmission_of(&request, to);
    scene.receive_from(to, piggybacked(&request, Code::CONTENT, &[]));
    assert!(matches!(scene.event(), Some(EndpointEvent::Response { exchange, .. }) if exchange == moving));
}
