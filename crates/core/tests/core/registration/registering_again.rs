//! A Register of a device that is registered, or whose Register waits.

use super::*;

#[test]
fn a_new_registration_ends_what_is_in_flight_keeps_what_waits_and_drops_observations() {
    let mut scene = Scene::registered();
    let observed = scene.observe(1, "/3303/0/5700");
    for id in [2, 3, 4] {
        scene.command(&read(id));
    }
    let in_flight = scene.expect_request(Code::GET, "/3/0/0");
    scene.expect_nothing_more();

    let (old, before) = (scene.location.clone(), scene.device);
    let register = scene.send_register(QUERY);
    scene.expect_connect();
    scene.expect_nothing_more();
    scene.broker_takes_it();
    scene.expect_disconnect(before);
    scene.expect_created(&register);
    assert_ne!(scene.location, old);
    scene.expect_reported("register");
    scene.expect_returned(&read(2), "coap_timeout");
    for id in [3, 4] {
        let request = scene.expect_request(Code::GET, "/3/0/0");
        scene.expect_nothing_more();
        scene.answer_text(&request, "Acme");
        scene.expect_answer(&read(id), content("/3/0/0", "Acme"));
    }

    scene.answer_text(&in_flight, "late");
    scene.expect_nothing_more();
    let notification = scene.notify(&observed, Kind::Confirmable, 3, "21.5");
    scene.expect_reset(&notification);
    let update = scene.request(Code::POST, &old, "");
    scene.ask(&update, Code::NOT_FOUND);
    scene.expect_nothing_more();
    assert_eq!(scene.gateway.table_sizes().devices, 1);
    let left = Report::Left { endpoint: "dev-7".to_owned(), reason: LeaveReason::Replaced };
    assert_eq!(scene.reports().iter().filter(|report| **report == left).count(), 1);
}

#[test]
fn the_old_registration_serves_until_the_new_one_is_there() {
    let mut scene = Scene::registered();
    let (old, location) = (scene.device, scene.location.clone());
    scene.send_register(QUERY);
    scene.expect_connect();
    let new = std::mem::replace(&mut scene.device, old);
    scene.command(&read(1));
    let request = scene.expect_request(Code::GET, "/3/0/0");
    scene.answer_text(&request, "Acme");
    scene.expect_answer(&read(1), content("/3/0/0", "Acme"));

    // The broker discards the older connection when the newer one has its clientid.
    scene.broker_says(BrokerEvent::Closed { registration: old, reason: CloseReason::Discarded });
    scene.expect_nothing_more();
    let update = scene.request(Code::POST, &location, "");
    scene.ask(&update, Code::CHANGED);

    scene.device = new;
    scene.broker_takes_it();
    scene.expect_disconnect(old);
    assert_eq!(scene.expect_sent().1.code, Code::CREATED);
    scene.expect_reported("register");
    scene.expect_nothing_more();
}

#[test]
fn a_discarded_registration_ends_when_its_successor_is_not_taken() {
    let mut scene = Scene::registered();
    let old = scene.device;
    let register = scene.send_register(QUERY);
    scene.expect_connect();
    scene.broker_says(BrokerEvent::Closed { registration: old, reason: CloseReason::Discarded });
    let error = ConnectError::Unavailable("too slow".to_owned());
    scene.broker_says(BrokerEvent::ConnectFailed { registration: scene.device, error });
    scene.expect_reply(scene.peer, &register, Code::SERVICE_UNAVAILABLE);
    let update = scene.update("");
    scene.ask(&update, Code::NOT_FOUND);
    scene.expect_nothing_left_behind();
}

#[test]
fn the_news_that_the_old_registration_was_discarded_outlives_a_superseded_register() {
    let mut scene = Scene::registered();
    let old = scene.device;
    let first = scene.send_register(QUERY);
    scene.expect_connect();
    scene.broker_says(BrokerEvent::Closed { registration: old, reason: CloseReason::Discarded });
    let superseded = scene.device;
    let second = scene.send_register(QUERY);
    scene.expect_reply(scene.peer, &first, Code::SERVICE_UNAVAILABLE);
    scene.expect_connect();
    scene.expect_disconnect(superseded);
    let error = ConnectError::Refused("not authorized".to_owned());
    scene.broker_says(BrokerEvent::ConnectFailed { registration: scene.device, error });
    scene.expect_reply(scene.peer, &second, Code::FORBIDDEN);
    scene.expect_nothing_left_behind();
}

#[test]
fn a_failed_register_leaves_the_registration_before_it_as_it_is() {
    let mut scene = Scene::registered();
    let old = scene.device;
    let register = scene.send_register(QUERY);
    scene.expect_connect();
    let error = ConnectError::Unavailable("too slow".to_owned());
    scene.broker_says(BrokerEvent::ConnectFailed { registration: scene.device, error });
    scene.expect_reply(scene.peer, &register, Code::SERVICE_UNAVAILABLE);
    scene.device = old;
    let update = scene.update("");
    scene.ask(&update, Code::CHANGED);
    scene.command(&read(1));
    scene.expect_request(Code::GET, "/3/0/0");
    scene.expect_nothing_more();
}

#[test]
fn what_a_kicked_registration_has_goes_to_the_one_that_is_under_way() {
    let mut scene = Scene::registered();
    let old = scene.device;
    [1, 2, 3].iter().for_each(|id| scene.command(&read(*id)));
    let request = scene.expect_request(Code::GET, "/3/0/0");
    let register = scene.send_register(QUERY);
    scene.expect_connect();
    scene.broker_says(BrokerEvent::Closed { registration: old, reason: CloseReason::Kicked });
    scene.expect_nothing_more();

    // Nobody else can publish the answer.
    scene.answer_text(&request, "Acme");
    scene.expect_answer(&read(1), content("/3/0/0", "Acme"));
    scene.expect_request(Code::GET, "/3/0/0");
    scene.broker_takes_it();
    scene.expect_disconnect(old);
    scene.expect_created(&register);
    scene.expect_reported("register");
    scene.expect_returned(&read(2), "coap_timeout");
    let request = scene.expect_request(Code::GET, "/3/0/0");
    scene.answer_text(&request, "Acme");
    scene.expect_answer(&read(3), content("/3/0/0", "Acme"));
    scene.expect_nothing_more();
    assert_eq!(scene.gateway.table_sizes().devices, 1);
}

#[test]
fn commands_that_came_before_the_answer_to_a_superseded_register_are_for_the_next_one() {
    let mut scene = Scene::new();
    let first = scene.send_register(QUERY);
    scene.expect_connect();
    let superseded = scene.device;
    scene.command(&read(1));
    let second = scene.send_register(QUERY);
    scene.expect_reply(scene.peer, &first, Code::SERVICE_UNAVAILABLE);
    scene.expect_connect();
    scene.expect_disconnect(superseded);
    scene.broker_takes_it();
    scene.expect_created(&second);
    scene.expect_reported("register");
    let request = scene.expect_request(Code::GET, "/3/0/0");
    scene.answer_text(&request, "Acme");
    scene.expect_answer(&read(1), content("/3/0/0", "Acme"));
    scene.expect_nothing_more();
}
