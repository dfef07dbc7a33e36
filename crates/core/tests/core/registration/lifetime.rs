//! A registration over time: Update, lifetime, De-register, and its end by the broker.

use super::*;

#[test]
fn a_registration_that_the_broker_ends_is_unknown_to_the_next_update() {
    for reason in REASONS {
        let mut scene = Scene::registered();
        let observed = scene.observe(1, "/3303/0/5700");
        scene.command(&read(2));
        scene.expect_request(Code::GET, "/3/0/0");
        scene.command(&read(3));

        scene.broker_says(BrokerEvent::Closed { registration: scene.device, reason });
        scene.command(&read(4));
        let notification = scene.notify(&observed, Kind::NonConfirmable, 3, "21.5");
        scene.expect_reset(&notification);
        let update = scene.update("");
        scene.ask(&update, Code::NOT_FOUND);
        scene.expect_nothing_left_behind();
        let left = Report::Left { endpoint: "dev-7".to_owned(), reason: LeaveReason::Broker(reason) };
        assert!(scene.reports().contains(&left), "{reason:?}");
    }
}

#[test]
fn a_refused_publication_is_counted_and_the_first_of_a_device_is_marked() {
    let mut scene = Scene::registered();
    scene.reports();
    for first in [true, false, false] {
        let topic = "lwm2m/dev-7/up/resp".to_owned();
        scene.broker_says(BrokerEvent::PublishRefused { registration: scene.device, topic: topic.clone() });
        assert_eq!(scene.reports(), [Report::PublishRefused { endpoint: "dev-7".to_owned(), topic, first }]);
    }
    scene.broker_says(BrokerEvent::PublishRefused { registration: RegistrationId(99), topic: String::new() });
    assert_eq!(scene.reports(), []);
    scene.expect_nothing_more();
}

#[test]
fn updates_are_published_when_the_condition_says_so() {
    let cases = [
        (UpdatePublish::ObjectListChanged, [false, false, true]),
        (UpdatePublish::ContainsObjectList, [false, true, true]),
        (UpdatePublish::Always, [true, true, true]),
    ];
    for (condition, published) in cases {
        let mut scene = Scene::registered_with(|config| config.update_msg_publish_condition = condition);
        let updates = [scene.update("lt=60"), scene.update_with_links(LINKS), scene.update_with_links("</3/0>")];
        for (update, published) in updates.iter().zip(published) {
            scene.ask(update, Code::CHANGED);
            if published {
                let data = scene.expect_reported("update");
                assert_eq!((&data["ep"], &data["lt"]), (&json!("dev-7"), &json!(60)), "the whole registration");
            }
            scene.expect_nothing_more();
        }
    }
}

#[test]
fn an_update_that_is_refused_changes_nothing() {
    let mut scene = Scene::registered();
    for query in ["lt=soon", "lt=60&lt=70", "ep=other", "lwm2m=1.1"] {
        let update = scene.update(query);
        scene.ask(&update, Code::BAD_REQUEST);
    }
    let moved = scene.update("lt=soon");
    scene.device_sends_from(peer(2), &moved);
    scene.expect_reply(peer(2), &moved, Code::BAD_REQUEST);
    scene.command(&read(1));
    scene.expect_request(Code::GET, "/3/0/0");
    scene.expect_nothing_more();
}

#[test]
fn an_update_from_another_address_moves_the_session_there() {
    let mut scene = Scene::registered();
    let observed = scene.observe(1, "/3303/0/5700");
    scene.command(&read(2));
    let in_flight = scene.expect_request(Code::GET, "/3/0/0");
    scene.reports();

    let (old, new) = (scene.peer, peer(2));
    scene.peer = new;
    let update = scene.update("");
    scene.ask(&update, Code::CHANGED);
    let moved = Report::Moved { endpoint: "dev-7".to_owned(), from: old, to: new };
    assert_eq!(scene.reports(), [moved, Report::Updated { endpoint: "dev-7".to_owned() }]);
    scene.expect_nothing_more();
    scene.advance(0.0);
    scene.expect_message(&in_flight);
    scene.answer_text(&in_flight, "Acme");
    scene.expect_answer(&read(2), content("/3/0/0", "Acme"));

    let notification = text_reply(&observed, Kind::Confirmable, MessageId(900), Some(3), "21.5");
    scene.device_sends_from(old, &notification);
    scene.expect_message_to(old, &Message::empty(Kind::Reset, notification.id));
    scene.device_sends(&notification);
    scene.expect_acknowledgement(&notification);
    assert_eq!(scene.expect_any_published("lwm2m/dev-7/up/notify")["seqNum"], 3);
    scene.command(&read(3));
    scene.expect_request(Code::GET, "/3/0/0");
    scene.expect_nothing_more();
}

#[test]
fn a_separate_answer_is_awaited_from_where_the_device_moved() {
    let mut scene = Scene::registered();
    scene.command(&read(1));
    let request = scene.expect_request(Code::GET, "/3/0/0");
    scene.device_sends(&Message::empty(Kind::Acknowledgement, request.id));
    assert_eq!(scene.expect_any_published("lwm2m/dev-7/up/resp")["msgType"], "ack");
    scene.peer = peer(2);
    let update = scene.update("");
    scene.ask(&update, Code::CHANGED);

    let answer = text_reply(&request, Kind::Confirmable, MessageId(901), None, "Acme");
    scene.device_sends(&answer);
    scene.expect_acknowledgement(&answer);
    scene.expect_answer(&read(1), content("/3/0/0", "Acme"));
    scene.expect_nothing_more();
}

#[test]
fn two_devices_behind_one_address_are_told_apart() {
    let mut scene = Scene::registered();
    let first = (scene.device, scene.location.clone());
    let other = "lwm2m/dev-8/up/resp";
    scene.join("ep=dev-8&lt=300");
    scene.expect_any_published(other);
    scene.command(&read(8));
    let to_second = scene.expect_request(Code::GET, "/3/0/0");
    let second = std::mem::replace(&mut scene.device, first.0);
    scene.command(&read(7));
    let to_first = scene.expect_request(Code::GET, "/3/0/0");
    assert_ne!((to_first.id, to_first.token), (to_second.id, to_second.token));

    scene.answer_text(&to_first, "first");
    scene.expect_answer(&read(7), content("/3/0/0", "first"));
    scene.answer_text(&to_second, "second");
    scene.device = second;
    assert_eq!(scene.expect_any_published(other)["reqID"], 8);

    let gone = scene.deregister();
    scene.ask(&gone, Code::DELETED);
    scene.expect_disconnect(second);
    (scene.device, scene.location) = first;
    scene.command(&read(9));
    scene.expect_request(Code::GET, "/3/0/0");
    scene.expect_nothing_more();
}

#[test]
fn a_lifetime_that_ends_ends_the_registration() {
    let mut scene = Scene::registered();
    scene.advance(299.9);
    scene.expect_nothing_more();
    scene.reports();
    scene.advance(0.1);
    scene.expect_disconnect(scene.device);
    let left = Report::Left { endpoint: "dev-7".to_owned(), reason: LeaveReason::LifetimeOver };
    assert_eq!(scene.reports(), [left]);
    let update = scene.update("");
    scene.ask(&update, Code::NOT_FOUND);
    scene.expect_nothing_left_behind();
}

#[test]
fn every_valid_message_of_the_device_begins_its_lifetime_anew() {
    type Heard = fn(&mut Scene);
    let heard: [(&str, Heard); 6] = [
        ("an Update", |scene| {
            let update = scene.update("");
            scene.ask(&update, Code::CHANGED);
        }),
        ("an answer", |scene| {
            scene.command(&read(2));
            let request = scene.expect_request(Code::GET, "/3/0/0");
            scene.answer(&request, Code::NOT_FOUND);
            scene.expect_any_published("lwm2m/dev-7/up/resp");
        }),
        ("a reset", |scene| {
            scene.command(&read(2));
            let request = scene.expect_request(Code::GET, "/3/0/0");
            scene.device_sends(&Message::empty(Kind::Reset, request.id));
            scene.expect_returned(&read(2), "coap_reset");
        }),
        ("an empty acknowledgement", |scene| {
            scene.command(&read(2));
            let request = scene.expect_request(Code::GET, "/3/0/0");
            scene.device_sends(&Message::empty(Kind::Acknowledgement, request.id));
            scene.expect_any_published("lwm2m/dev-7/up/resp");
            scene.advance(93.0);
            scene.expect_returned(&read(2), "coap_timeout");
            scene.now -= Duration::from_secs(93);
        }),
        ("a confirmable notification", |scene| {
            let observed = scene.observed.clone().expect("observed");
            let notification = scene.notify(&observed, Kind::Confirmable, 3, "21");
            scene.expect_acknowledgement(&notification);
            scene.expect_any_published("lwm2m/dev-7/up/notify");
        }),
        ("a non-confirmable notification", |scene| {
            let observed = scene.observed.clone().expect("observed");
            scene.notify(&observed, Kind::NonConfirmable, 3, "21");
            scene.expect_any_published("lwm2m/dev-7/up/notify");
        }),
    ];
    for (what, happens) in heard {
        let mut scene = Scene::registered();
        scene.observe(1, "/3303/0/5700");
        scene.advance(200.0);
        happens(&mut scene);
        scene.advance(299.0);
        assert_eq!(scene.gateway.table_sizes().devices, 1, "{what}");
        scene.expect_nothing_more();
        scene.advance(1.0);
        assert_eq!(scene.gateway.table_sizes().devices, 0, "{what}");
        scene.expect_disconnect(scene.device);
        scene.expect_nothing_left_behind();
    }
}

#[test]
fn what_is_not_valid_does_not_move_the_lifetime() {
    let mut scene = Scene::registered();
    scene.advance(200.0);
    let refused = scene.update("lt=soon");
    scene.ask(&refused, Code::BAD_REQUEST);
    let unknown = text_reply(&refused, Kind::NonConfirmable, MessageId(77), Some(1), "21");
    scene.device_sends(&Message { token: Token::new(b"?"), ..unknown.clone() });
    scene.expect_reset(&unknown);
    let ping = Message::empty(Kind::Confirmable, MessageId(78));
    scene.device_sends(&ping);
    scene.expect_reset(&ping);
    scene.advance(100.0);
    scene.expect_disconnect(scene.device);
    scene.expect_nothing_left_behind();
}

#[test]
fn an_update_may_shorten_the_lifetime_and_lengthen_it() {
    let mut scene = Scene::registered();
    let update = scene.update("lt=20");
    scene.ask(&update, Code::CHANGED);
    scene.advance(19.0);
    let update = scene.update("lt=400");
    scene.ask(&update, Code::CHANGED);
    scene.advance(399.0);
    let update = scene.update("lt=20");
    scene.ask(&update, Code::CHANGED);
    scene.advance(19.9);
    scene.expect_nothing_more();
    scene.advance(0.1);
    scene.expect_disconnect(scene.device);
    scene.expect_nothing_left_behind();
}

#[test]
fn a_device_that_leaves_gives_every_command_its_last_answer_first() {
    let leaves: [fn(&mut Scene); 2] = [
        |scene| {
            let deregister = scene.deregister();
            scene.ask(&deregister, Code::DELETED);
        },
        // 20 s are too short for the answer that the device has promised.
        |scene| scene.advance(20.0),
    ];
    for leave in leaves {
        let mut scene = Scene::new();
        scene.register("ep=dev-7&lt=20");
        for id in [1, 2, 3] {
            scene.command(&read(id));
        }
        let request = scene.expect_request(Code::GET, "/3/0/0");
        scene.device_sends(&Message::empty(Kind::Acknowledgement, request.id));
        scene.expect_any_published("lwm2m/dev-7/up/resp");
        scene.reports();
        leave(&mut scene);
        scene.expect_returned(&read(1), "coap_timeout");
        scene.expect_refused(&read(2));
        scene.expect_refused(&read(3));
        scene.expect_disconnect(scene.device);
        let outcomes = scene.reports().into_iter().filter_map(|report| match report {
            Report::Command { outcome, .. } => Some(outcome),
            _ => None,
        });
        let expected = [CommandOutcome::TimedOut, CommandOutcome::Expired, CommandOutcome::Expired];
        assert_eq!(outcomes.collect::<Vec<_>>(), expected);

        let late = Message { kind: Kind::Confirmable, id: MessageId(901), ..reply(&request) };
        scene.device_sends(&late);
        scene.expect_reset(&late);
        scene.command(&read(4));
        scene.expect_nothing_left_behind();
    }
}

#[test]
fn a_deregister_of_an_unknown_registration_is_not_found() {
    let mut scene = Scene::registered();
    let deregister = scene.deregister();
    scene.ask(&deregister, Code::DELETED);
    scene.expect_disconnect(scene.device);
    scene.ask(&deregister, Code::DELETED);
    let again = scene.deregister();
    scene.ask(&again, Code::NOT_FOUND);
    scene.expect_nothing_left_behind();
}
