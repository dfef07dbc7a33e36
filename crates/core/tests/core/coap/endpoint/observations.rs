//! Observations and their notifications (RFC 7641).

use super::*;

#[test]
fn notifications_are_told_in_order_and_older_ones_acknowledged_and_dropped() {
    let (mut scene, observation, token) = EndpointScene::with_observation();
    let notify = |kind, id, number| message(kind, Code::CONTENT, id, token, &[(number::OBSERVE, number)]);

    scene.receive(notify(Kind::Confirmable, 50, 7));
    assert_eq!(scene.sent(), Message::empty(Kind::Acknowledgement, MessageId(50)));
    scene.expect_outcome(DatagramOutcome::Notification);
    let told = scene.event();
    assert!(
        matches!(told, Some(EndpointEvent::Notification { observation: id, number: Some(7), .. }) if id == observation),
        "{told:?}"
    );

    scene.receive(notify(Kind::Confirmable, 49, 6));
    assert_eq!(scene.sent(), Message::empty(Kind::Acknowledgement, MessageId(49)));
    scene.expect_outcome(DatagramOutcome::Dropped(DropReason::StaleNotification));
    scene.receive(notify(Kind::NonConfirmable, 51, 8));
    scene.expect_outcome(DatagramOutcome::Notification);
    assert!(matches!(scene.event(), Some(EndpointEvent::Notification { number: Some(8), .. })));
    scene.receive(notify(Kind::NonConfirmable, 51, 8));
    scene.expect_outcome(DatagramOutcome::Duplicate);
    scene.expect_nothing_more();
}

#[test]
fn a_notification_of_nothing_is_answered_with_a_reset_each_time() {
    let mut scene = EndpointScene::new();
    for kind in [Kind::Confirmable, Kind::NonConfirmable] {
        let notification = message(kind, Code::CONTENT, 60, token(b"nobody"), &[(number::OBSERVE, 3)]);
        scene.receive(notification.clone());
        assert_eq!(scene.sent(), Message::empty(Kind::Reset, MessageId(60)));
        scene.expect_outcome(DatagramOutcome::Dropped(DropReason::Unexpected));
        scene.receive(notification);
        assert_eq!(scene.sent(), Message::empty(Kind::Reset, MessageId(60)));
        scene.expect_outcome(DatagramOutcome::Duplicate);
    }
    scene.expect_nothing_more();
}

/// RFC 7641 section 3.6: the device would take the reset as the answer to the notification.
#[test]
fn what_comes_with_the_id_of_an_accepted_notification_is_not_reset() {
    for kind in [Kind::Confirmable, Kind::NonConfirmable] {
        let (mut scene, _, observed) = EndpointScene::with_observation();
        scene.receive(message(kind, Code::CONTENT, 61, observed, &[(number::OBSERVE, 6)]));
        if kind == Kind::Confirmable {
            assert_eq!(scene.sent(), Message::empty(Kind::Acknowledgement, MessageId(61)));
        }
        scene.expect_outcome(DatagramOutcome::Notification);
        assert!(matches!(scene.event(), Some(EndpointEvent::Notification { number: Some(6), .. })));

        let forged = [
            message(Kind::Confirmable, Code::CONTENT, 61, token(b"nobody"), &[(number::OBSERVE, 7)]).encode(),
            message(Kind::NonConfirmable, Code::CONTENT, 61, token(b"nobody"), &[]).encode(),
            message(Kind::NonConfirmable, Code::POST, 61, token(b"nobody"), &[(9, 1)]).encode(),
            Message::empty(Kind::Confirmable, MessageId(61)).encode(),
            hex("4045003dc0ff"),
        ];
        for datagram in &forged {
            scene.receive_bytes(scene.peer, datagram);
            assert!(scene.outcome.take().is_some(), "{datagram:02x?}");
            scene.expect_nothing_more();
        }
        // With another id, or when the device may use the id again, they are.
        scene.receive(message(Kind::NonConfirmable, Code::CONTENT, 62, token(b"nobody"), &[]));
        assert_eq!(scene.sent(), Message::empty(Kind::Reset, MessageId(62)));
        scene.outcome = None;
        scene.after(Parameters::default().exchange_lifetime().as_secs_f64());
        scene.receive(message(Kind::NonConfirmable, Code::CONTENT, 61, token(b"nobody"), &[]));
        assert_eq!(scene.sent(), Message::empty(Kind::Reset, MessageId(61)));
    }
}

#[test]
fn an_error_is_the_last_notification() {
    let (mut scene, _, token) = EndpointScene::with_observation();
    scene.receive(message(Kind::Confirmable, Code::NOT_FOUND, 70, token, &[]));
    scene.sent();
    scene.expect_outcome(DatagramOutcome::Notification);
    assert!(matches!(scene.event(), Some(EndpointEvent::Notification { number: None, .. })));

    scene.receive(message(Kind::Confirmable, Code::CONTENT, 71, token, &[(number::OBSERVE, 9)]));
    assert_eq!(scene.sent(), Message::empty(Kind::Reset, MessageId(71)));
    scene.expect_outcome(DatagramOutcome::Dropped(DropReason::Unexpected));
    scene.expect_nothing_more();
}

#[test]
fn a_notification_in_the_place_of_a_lost_answer_is_the_answer() {
    let mut scene = EndpointScene::new();
    scene.send(observe());
    let request = scene.sent();
    scene.receive(message(Kind::Confirmable, Code::CONTENT, 80, request.token, &[(number::OBSERVE, 12)]));
    scene.sent();
    scene.expect_outcome(DatagramOutcome::Response);
    assert!(matches!(scene.event(), Some(EndpointEvent::Response { observing: Some(12), .. })));

    scene.receive(piggybacked(&request, Code::CONTENT, &[(number::OBSERVE, 11)]));
    scene.expect_outcome(DatagramOutcome::Dropped(DropReason::Unexpected));
    scene.expect_nothing_more();
}

#[test]
fn an_answer_without_observe_number_begins_no_observation() {
    let mut scene = EndpointScene::new();
    scene.send(observe());
    let request = scene.sent();
    scene.receive(piggybacked(&request, Code::CONTENT, &[]));
    scene.expect_outcome(DatagramOutcome::Response);
    assert!(matches!(scene.event(), Some(EndpointEvent::Response { observing: None, .. })));
    scene.receive(message(Kind::Confirmable, Code::CONTENT, 81, request.token, &[(number::OBSERVE, 2)]));
    assert_eq!(scene.sent().kind, Kind::Reset);
}

#[test]
fn a_cancellation_has_the_token_of_the_observation_whose_notifications_go_on_until_it_is_forgotten() {
    let (mut scene, observation, token) = EndpointScene::with_observation();
    let cancellation = scene.endpoint.send_cancellation(scene.now, observation, Vec::new()).expect("it is observed");
    let sent = scene.sent();
    assert_eq!((sent.token, sent.options.uint(number::OBSERVE)), (token, Ok(Some(1))));
    assert_eq!((sent.code, sent.options.iter().count()), (Code::GET, 1));

    scene.receive(message(Kind::NonConfirmable, Code::CONTENT, 90, token, &[(number::OBSERVE, 6)]));
    scene.expect_outcome(DatagramOutcome::Notification);
    assert!(matches!(scene.event(), Some(EndpointEvent::Notification { .. })));
    scene.receive(message(Kind::NonConfirmable, Code::CONTENT, 91, token, &[]));
    scene.expect_outcome(DatagramOutcome::Response);
    let told = scene.event();
    assert!(
        matches!(told, Some(EndpointEvent::Response { exchange, observing: None, .. }) if exchange == cancellation),
        "{told:?}"
    );

    scene.endpoint.forget(observation);
    scene.receive(message(Kind::NonConfirmable, Code::CONTENT, 92, token, &[(number::OBSERVE, 7)]));
    assert_eq!(scene.sent().kind, Kind::Reset);
    scene.expect_outcome(DatagramOutcome::Dropped(DropReason::Unexpected));
    scene.expect_nothing_more();
}

/// Clients of old Leshan versions do not count.
#[test]
fn the_same_observe_number_is_news_with_another_body() {
    let (mut scene, observation, token) = EndpointScene::with_observation();
    let notification = |id, text: &str| Message {
        payload: text.as_bytes().to_vec(),
        ..message(Kind::NonConfirmable, Code::CONTENT, id, token, &[(number::OBSERVE, 5)])
    };
    let mut told = Vec::new();
    for (id, text) in [(80, "20.5"), (81, "21.5"), (82, "21.5"), (83, "20.5"), (83, "20.5")] {
        scene.receive(notification(id, text));
        match scene.event() {
            Some(EndpointEvent::Notification { observation: of, number: Some(5), response, .. })
                if of == observation =>
            {
                scene.expect_outcome(DatagramOutcome::Notification);
                told.push((id, response.payload));
            }
            None if id == 83 => scene.expect_outcome(DatagramOutcome::Duplicate),
            None => scene.expect_outcome(DatagramOutcome::Dropped(DropReason::StaleNotification)),
            other => panic!("{other:?}"),
        }
    }
    let expected = [(80, "20.5"), (81, "21.5"), (83, "20.5")].map(|(id, text)| (id, text.as_bytes().to_vec()));
    assert_eq!(told, expected);
    scene.expect_nothing_more();
}
