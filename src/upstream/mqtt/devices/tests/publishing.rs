//! Publications: the window of the broker, its limits and its refusals.

use super::*;

#[test]
fn as_many_publications_as_the_window_has_are_in_flight_and_order_is_kept() {
    let (mut scene, connection) = MqttScene::with_ready_device();
    ["a", "b", "c", "d", "e"].iter().for_each(|topic| scene.publish(ONE, topic));
    let ids = scene.expect_published(connection, &["a", "b", "c"], false);
    scene.acknowledge(connection, ids[0]);
    let next = scene.expect_published(connection, &["d"], false);
    assert!(!ids.contains(&next[0]));
    ids[1..].iter().for_each(|packet| scene.acknowledge(connection, *packet));
    let last = scene.expect_published(connection, &["e"], false);
    scene.acknowledge(connection, next[0]);
    scene.acknowledge(connection, last[0]);
    scene.expect_nothing();
    assert_eq!(scene.metrics.publishes_ok.get(), 5);
}

#[test]
fn the_receive_maximum_of_the_broker_is_honoured() {
    let mut scene = MqttScene::new();
    scene.command_connect(ONE, "ep1");
    let connection = scene.expect_dial(&A);
    scene.open(connection);
    let limits = ServerLimits { receive_maximum: 1, ..ServerLimits::default() };
    let ack = ConnAck { reason: Reason::SUCCESS, session_present: false, limits, server: None };
    scene.hear(connection, Incoming::ConnAck(Box::new(ack)));
    scene.answer_subscribe(connection, 1);
    scene.expect_told(&[BrokerEvent::Connected { registration: ONE }]);
    scene.publish(ONE, "a");
    scene.publish(ONE, "b");
    let ids = scene.expect_published(connection, &["a"], false);
    scene.acknowledge(connection, ids[0]);
    scene.expect_published(connection, &["b"], false);
}

#[test]
fn what_is_larger_than_the_broker_takes_is_given_up_and_the_next_one_goes() {
    let mut scene = MqttScene::new();
    scene.command_connect(ONE, "ep1");
    let connection = scene.expect_dial(&A);
    scene.open(connection);
    let limits = ServerLimits { max_packet_size: 100, ..ServerLimits::default() };
    let ack = ConnAck { reason: Reason::SUCCESS, session_present: false, limits, server: None };
    scene.hear(connection, Incoming::ConnAck(Box::new(ack)));
    scene.answer_subscribe(connection, 1);
    scene.expect_told(&[BrokerEvent::Connected { registration: ONE }]);
    scene.publish_with(ONE, Publication { payload: vec![b'x'; 100].into(), ..publication("large", 1) });
    scene.publish(ONE, "small");
    scene.expect_published(connection, &["small"], false);
    assert_eq!(scene.metrics.dropped_answers.get(), 1);
}

#[test]
fn a_publication_of_qos_0_waits_for_nothing_but_room() {
    let (mut scene, connection) = MqttScene::with_ready_device();
    for _ in 0..3 {
        scene.publish_with(ONE, publication("a", 0));
    }
    assert_eq!(scene.expect_published(connection, &["a", "a", "a"], false), [0, 0, 0]);
    let large = Publication { payload: vec![b'x'; 10_000].into(), ..publication("large", 0) };
    for _ in 0..12 {
        scene.publish_with(ONE, large.clone());
    }
    let sent: usize = scene
        .actions()
        .iter()
        .map(|action| if let MqttAction::Send { bytes, .. } = action { bytes.len() } else { panic!("{action:?}") })
        .sum();
    assert!((64 * 1024..74 * 1024).contains(&sent), "{sent}");
    scene.devices.written(scene.now, connection, sent);
    assert_eq!(scene.expect_published(connection, &["large"; 5], false).len(), 5);
}

#[test]
fn a_publication_that_is_not_allowed_is_told_and_the_next_one_goes() {
    for (reason, told) in [(0x87, true), (0x80, false), (0x83, false), (0x90, false), (0x97, false), (0x99, false)] {
        let (mut scene, connection) = MqttScene::with_ready_device();
        scene.publish(ONE, "a");
        let ids = scene.expect_published(connection, &["a"], false);
        scene.hear(connection, Incoming::PubAck { packet: id(ids[0]), reason: Reason(reason) });
        let event = BrokerEvent::PublishRefused { registration: ONE, topic: "a".to_owned() };
        scene.expect_told(if told { std::slice::from_ref(&event) } else { &[] });
        assert_eq!(scene.metrics.dropped_answers.get(), u64::from(!told));
        scene.publish(ONE, "b");
        scene.expect_published(connection, &["b"], false);
    }
}

#[test]
fn who_waits_for_a_notification_is_told_that_it_lost_its_place() {
    let mut scene = MqttScene::with(|config| config.link.queue_per_device = 1);
    scene.connect(ONE);
    let notification = |topic, number| {
        let (class, ticket) = (UplinkClass::Notification, Some(Ticket(number)));
        Publication { class, ticket, ..publication(topic, 1) }
    };
    // The window is open: this one is in flight, and keeps its place.
    scene.publish_with(ONE, notification("a", 1));
    scene.publish_with(ONE, notification("b", 2));
    let told: Vec<MqttAction> =
        scene.actions().into_iter().filter(|action| matches!(action, MqttAction::Emit(_))).collect();
    assert_eq!(told, [MqttAction::Emit(BrokerEvent::Unpublished { registration: ONE, ticket: Ticket(2) })]);
    assert_eq!(scene.metrics.dropped_notifications.get(), 1);
}
