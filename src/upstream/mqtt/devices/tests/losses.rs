//! Lost connections, and what the next one carries.

use super::*;

#[test]
fn what_was_in_flight_goes_again_in_order_and_then_what_waited() {
    let (mut scene, connection) = MqttScene::with_ready_device();
    ["a", "b", "c", "d"].iter().for_each(|topic| scene.publish(ONE, topic));
    let ids = scene.expect_published(connection, &["a", "b", "c"], false);
    scene.acknowledge(connection, ids[0]);
    scene.expect_published(connection, &["d"], false);
    scene.devices.ended(scene.now, connection, "reset");
    scene.expect(&[MqttAction::HangUp { connection }]);
    scene.publish(ONE, "e");

    scene.advance_to_deadline();
    let again = scene.attempt(&A, true);
    let mut actions = scene.actions();
    assert_eq!(actions.remove(0), MqttAction::Emit(BrokerEvent::Reconnected { registration: ONE }));
    scene.devices.actions.extend(actions);
    let repeated = scene.expect_published(again, &["b", "c", "d"], true);
    assert_eq!(repeated[..2], ids[1..]);
    scene.acknowledge(again, repeated[0]);
    scene.expect_published(again, &["e"], false);
}

#[test]
fn who_waits_for_a_send_is_told_whether_it_is_queued() {
    let mut scene = MqttScene::with(|config| config.link.queue_per_device = 2);
    scene.connect(ONE);
    let send = |number| {
        let (class, ticket) = (UplinkClass::Send, Some(Ticket(number)));
        Publication { class, ticket, ..publication("send", 1) }
    };
    scene.publish_with(ONE, Publication { class: UplinkClass::Notification, ..publication("notify", 1) });
    (1..=2).for_each(|number| scene.publish_with(ONE, send(number)));
    let emitted = |action| {
        let MqttAction::Emit(event) = action else { return None };
        Some(event)
    };
    let told: Vec<BrokerEvent> = scene.actions().into_iter().filter_map(emitted).collect();
    let (queued, full) = (Ticket(1), Ticket(2));
    assert_eq!(
        told,
        [
            BrokerEvent::Queued { registration: ONE, ticket: queued },
            BrokerEvent::Unpublished { registration: ONE, ticket: full },
        ]
    );
    assert_eq!((scene.metrics.dropped_sends.get(), scene.metrics.dropped_notifications.get()), (1, 0));
}

#[test]
fn what_was_in_flight_gives_way_to_a_report_while_the_connection_is_away() {
    let mut scene = MqttScene::with(|config| config.link.queue_per_device = 3);
    let connection = scene.connect(ONE);
    let notification = |topic| Publication { class: UplinkClass::Notification, ..publication(topic, 1) };
    ["a", "b", "c"].iter().for_each(|topic| scene.publish_with(ONE, notification(topic)));
    scene.expect_published(connection, &["a", "b", "c"], false);
    scene.devices.ended(scene.now, connection, "reset");
    scene.expect(&[MqttAction::HangUp { connection }]);
    scene.publish_with(ONE, Publication { class: UplinkClass::Registration, ..publication("report", 1) });
    assert_eq!(scene.metrics.dropped_notifications.get(), 1);

    scene.advance_to_deadline();
    let again = scene.attempt(&A, true);
    let mut packets = scene.actions();
    assert_eq!(packets.remove(0), MqttAction::Emit(BrokerEvent::Reconnected { registration: ONE }));
    let sent = packets.iter().flat_map(|action| match action {
        MqttAction::Send { connection, bytes } if *connection == again => said(bytes),
        other => panic!("{other:?}"),
    });
    let topics = sent.map(|packet| match packet {
        SentPacket::Publish { topic, again, .. } => (topic, again),
        other => panic!("{other:?}"),
    });
    let expected = [("b", true), ("c", true), ("report", false)].map(|(topic, again)| (topic.to_owned(), again));
    assert_eq!(topics.collect::<Vec<_>>(), expected);
}

#[test]
fn a_broker_that_lost_the_session_is_given_everything_as_if_for_the_first_time() {
    let (mut scene, connection) = MqttScene::with_ready_device();
    ["a", "b"].iter().for_each(|topic| scene.publish(ONE, topic));
    scene.expect_published(connection, &["a", "b"], false);
    scene.devices.ended(scene.now, connection, "reset");
    scene.expect(&[MqttAction::HangUp { connection }]);
    scene.advance_to_deadline();
    let again = scene.attempt(&A, false);
    let mut actions = scene.actions();
    assert_eq!(actions.remove(0), MqttAction::Emit(BrokerEvent::Reconnected { registration: ONE }));
    scene.devices.actions.extend(actions);
    scene.expect_published(again, &["a", "b"], false);
}

#[test]
fn the_reasons_of_disconnect_end_a_registration_or_bring_the_device_back() {
    for reason in (0x80..=0xa2).filter(|reason| ![0x9c, 0x9d].contains(reason)) {
        let (mut scene, connection) = MqttScene::with_ready_device();
        scene.disconnect_by_broker(connection, reason, None);
        let closed = match reason {
            0x87 => Some(CloseReason::Refused),
            0x8e => Some(CloseReason::Discarded),
            0x98 => Some(CloseReason::Kicked),
            0xa0 => Some(CloseReason::Expired),
            _ => None,
        };
        match closed {
            Some(reason) => {
                let event = BrokerEvent::Closed { registration: ONE, reason };
                scene.expect(&[MqttAction::Emit(event), MqttAction::HangUp { connection }]);
                assert!(scene.devices.is_empty());
            }
            None => {
                scene.expect(&[MqttAction::HangUp { connection }]);
                let wait = scene.advance_to_deadline();
                assert!((seconds(1)..=seconds(2)).contains(&wait), "{wait:?}");
                scene.attempt(&A, true);
                scene.expect_told(&[BrokerEvent::Reconnected { registration: ONE }]);
            }
        }
    }
}

#[test]
fn a_publication_that_the_broker_disconnects_for_is_given_up_the_third_time() {
    let (mut scene, mut connection) = MqttScene::with_ready_device();
    scene.publish(ONE, "poison");
    scene.publish(ONE, "fine");
    scene.expect_published(connection, &["poison", "fine"], false);
    for attempt in 1..=3 {
        scene.disconnect_by_broker(connection, 0x95, None);
        scene.expect(&[MqttAction::HangUp { connection }]);
        scene.advance_to_deadline();
        connection = scene.attempt(&A, true);
        let mut actions = scene.actions();
        assert_eq!(actions.remove(0), MqttAction::Emit(BrokerEvent::Reconnected { registration: ONE }));
        scene.devices.actions.extend(actions);
        let left: &[&str] = if attempt < 3 { &["poison", "fine"] } else { &["fine"] };
        scene.expect_published(connection, left, true);
    }
    assert_eq!(scene.metrics.dropped_answers.get(), 1);
}

#[test]
fn while_the_broker_is_away_one_device_in_a_second_tries_and_the_first_answer_brings_all_back() {
    let mut scene = MqttScene::new();
    for number in 1..=3 {
        scene.command_connect(RegistrationId(number), &format!("ep{number}"));
        scene.attempt(&A, false);
        scene.expect_told(&[BrokerEvent::Connected { registration: RegistrationId(number) }]);
    }
    for number in 0..3 {
        scene.devices.ended(scene.now, ConnectionId(number), "reset");
    }
    scene.actions();
    let mut dials = 0;
    let until = scene.now + seconds(20);
    while scene.now < until {
        scene.advance_to_deadline();
        for action in scene.actions() {
            match action {
                MqttAction::Dial { connection, .. } => scene.devices.ended(scene.now, connection, "refused"),
                MqttAction::Probe { broker } => scene.devices.probed(scene.now, broker, unreachable()),
                _ => continue,
            }
            dials += 1;
        }
    }
    assert!((10..=22).contains(&dials), "{dials} dials in 20 s");

    let mut back = 0;
    while back < 3 {
        if scene.devices.actions.is_empty() {
            scene.advance_to_deadline();
        }
        for action in scene.actions() {
            match action {
                MqttAction::Dial { connection, .. } => {
                    scene.open(connection);
                    scene.hear(connection, accepted(true));
                    let actions = scene.actions();
                    let subscribe = actions.iter().find_map(|action| match action {
                        MqttAction::Send { connection: on, bytes } if *on == connection => said(bytes).pop(),
                        _ => None,
                    });
                    let Some(SentPacket::Subscribe(packet)) = subscribe else { panic!("{actions:?}") };
                    let others = actions.into_iter().filter(|action| matches!(action, MqttAction::Dial { .. }));
                    let others: Vec<_> = others.collect();
                    scene.hear(connection, Incoming::SubAck { packet: id(packet), reason: Reason(1) });
                    scene.devices.actions.extend(others);
                    back += 1;
                }
                MqttAction::Probe { broker } => scene.devices.probed(scene.now, broker, accepts()),
                MqttAction::Emit(BrokerEvent::Reconnected { .. }) | MqttAction::HangUp { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(scene.now < until + seconds(32));
}

#[test]
fn a_connection_without_an_answer_is_asked_and_then_given_up() {
    let (mut scene, connection) = MqttScene::with_ready_device();
    assert_eq!(scene.advance_to_deadline(), seconds(60));
    scene.expect_said(connection, &[SentPacket::Ping]);
    scene.hear(connection, Incoming::Pong);
    assert_eq!(scene.advance_to_deadline(), seconds(20));
    scene.expect_nothing();
    assert_eq!(scene.advance_to_deadline(), seconds(40));
    scene.expect_said(connection, &[SentPacket::Ping]);
    assert_eq!(scene.advance_to_deadline(), ANSWER_TIMEOUT);
    scene.expect(&[MqttAction::HangUp { connection }]);
}

#[test]
fn a_publication_without_an_answer_ends_the_connection() {
    let (mut scene, connection) = MqttScene::with_ready_device();
    scene.publish(ONE, "a");
    scene.expect_published(connection, &["a"], false);
    assert_eq!(scene.advance_to_deadline(), ANSWER_TIMEOUT);
    scene.expect(&[MqttAction::HangUp { connection }]);
}
