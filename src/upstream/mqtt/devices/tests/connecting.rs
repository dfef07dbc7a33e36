//! The first connection of a device: what a broker answers, and where it sends the device.

use super::*;

#[test]
fn what_a_broker_answers_to_a_first_connect_is_403_or_503() {
    for reason in 0x80..=0xa2 {
        let mut scene = MqttScene::new();
        scene.command_connect(ONE, "ep1");
        let connection = scene.expect_dial(&A);
        scene.open(connection);
        scene.hear(connection, connack(Reason(reason), false, None));
        if [0x84, 0x9c, 0x9d].contains(&reason) {
            continue;
        }
        let refused = matches!(scene.expect_failed(ONE, connection), ConnectError::Refused(_));
        assert_eq!(refused, [0x85, 0x86, 0x87, 0x8a, 0x8c].contains(&reason), "{reason:02x}");
        assert_eq!(scene.devices.next_deadline(), None);
    }
}

#[test]
fn a_client_without_a_filter_is_connected_without_a_subscribe() {
    let mut scene = MqttScene::new();
    let client = ClientInfo { command_filter: String::new(), ..client("lwm2m-status-1") };
    scene.devices.command(scene.now, BrokerCommand::Connect { registration: ONE, client });
    let connection = scene.expect_dial(&A);
    scene.open(connection);
    scene.hear(connection, accepted(false));
    assert_eq!(scene.actions(), [MqttAction::Emit(BrokerEvent::Connected { registration: ONE })]);
    scene.publish(ONE, "up/status");
    scene.expect_published(connection, &["up/status"], false);
}

#[test]
fn a_subscription_that_fails_is_403() {
    for reason in [0x80, 0x83, 0x87, 0x8f, 0x9e, 0xa2] {
        let mut scene = MqttScene::new();
        scene.command_connect(ONE, "ep1");
        let connection = scene.expect_dial(&A);
        scene.open(connection);
        scene.hear(connection, accepted(false));
        scene.answer_subscribe(connection, reason);
        let error = scene.expect_failed(ONE, connection);
        assert!(matches!(error, ConnectError::Refused(_)), "{reason:02x}");
    }
}

#[test]
fn a_first_connect_that_is_lost_on_its_way_is_unavailable() {
    type Break = fn(&mut MqttScene, ConnectionId);
    let end: Break = |scene, connection| scene.devices.ended(scene.now, connection, "reset");
    let silence: Break = |scene, _| scene.advance(seconds(8));
    for (state, fault) in
        ["Dialing", "Connecting", "Subscribing"].into_iter().flat_map(|state| [(state, end), (state, silence)])
    {
        let mut scene = MqttScene::new();
        scene.command_connect(ONE, "ep1");
        let connection = scene.expect_dial(&A);
        if state != "Dialing" {
            scene.open(connection);
        }
        if state == "Subscribing" {
            scene.hear(connection, accepted(false));
            scene.expect_subscribe(connection);
        }
        fault(&mut scene, connection);
        let error = scene.expect_failed(ONE, connection);
        assert!(matches!(error, ConnectError::Unavailable(_)), "{state}");
        // What comes late finds nothing.
        scene.hear(connection, accepted(false));
        scene.expect_nothing();
    }
}

#[test]
fn a_broker_without_version_5_is_spoken_to_in_the_older_one_from_then_on() {
    let mut scene = MqttScene::new();
    scene.command_connect(ONE, "ep1");
    let connection = scene.expect_dial(&A);
    scene.open(connection);
    scene.hear(connection, connack(Reason::UNSUPPORTED_PROTOCOL_VERSION, false, None));
    let actions = scene.actions();
    let [MqttAction::HangUp { .. }, MqttAction::Dial { connection: again, version: ProtocolVersion::V311, .. }] =
        actions.as_slice()
    else {
        panic!("{actions:?}")
    };
    let again = *again;
    scene.open(again);
    scene.hear(again, accepted(false));
    scene.answer_subscribe(again, 1);
    scene.expect_told(&[BrokerEvent::Connected { registration: ONE }]);

    scene.command_connect(TWO, "ep2");
    let actions = scene.actions();
    assert!(matches!(actions.as_slice(), [MqttAction::Dial { version: ProtocolVersion::V311, .. }]), "{actions:?}");
}

#[test]
fn a_device_follows_the_server_that_is_named_and_not_for_ever() {
    let mut scene = MqttScene::new();
    scene.command_connect(ONE, "ep1");
    let mut target = A;
    for _ in 0..3 {
        let connection = scene.expect_dial(&target);
        scene.open(connection);
        scene.hear(connection, connack(Reason(0x9c), false, Some("other:1885")));
        target = Destination::Referred("other:1885".to_owned());
        let mut actions = scene.actions();
        assert_eq!(actions.remove(0), MqttAction::HangUp { connection });
        scene.devices.actions.extend(actions);
    }
    let connection = scene.expect_dial(&target);
    scene.open(connection);
    scene.hear(connection, connack(Reason(0x9c), false, Some("other:1885")));
    let actions = scene.actions();
    assert!(matches!(
        actions.as_slice(),
        [MqttAction::HangUp { .. }, MqttAction::Emit(BrokerEvent::ConnectFailed { .. })]
    ));
}

#[test]
fn a_device_that_is_sent_away_connects_to_the_named_server_and_back_when_that_fails() {
    let (mut scene, connection) = MqttScene::with_ready_device();
    scene.disconnect_by_broker(connection, 0x9d, Some("other:1885"));
    scene.expect(&[MqttAction::HangUp { connection }]);
    scene.advance_to_deadline();
    let referred = scene.expect_dial(&Destination::Referred("other:1885".to_owned()));
    scene.devices.ended(scene.now, referred, "refused");
    scene.expect(&[MqttAction::HangUp { connection: referred }]);
    scene.advance_to_deadline();
    scene.attempt(&A, true);
    scene.expect_told(&[BrokerEvent::Reconnected { registration: ONE }]);
}

#[test]
fn a_first_connect_tries_each_address_once() {
    let mut scene = MqttScene::with(|config| config.brokers.push("b:1883".to_owned()));
    scene.command_connect(ONE, "ep1");
    let first = scene.expect_dial(&A);
    scene.devices.ended(scene.now, first, "refused");
    let actions = scene.actions();
    let [MqttAction::HangUp { .. }, MqttAction::Dial { connection, destination, .. }] = actions.as_slice() else {
        panic!("{actions:?}")
    };
    assert_eq!(*destination, B);
    let second = *connection;
    scene.devices.ended(scene.now, second, "refused");
    assert!(matches!(scene.expect_failed(ONE, second), ConnectError::Unavailable(_)));
    // Both are down: nobody waits for them.
    scene.command_connect(TWO, "ep2");
    let actions = scene.actions();
    assert!(matches!(actions.as_slice(), [MqttAction::Emit(BrokerEvent::ConnectFailed { .. })]), "{actions:?}");
}

#[test]
fn a_want_of_file_descriptors_is_no_fault_of_the_broker() {
    let mut scene = MqttScene::new();
    scene.command_connect(ONE, "ep1");
    let connection = scene.expect_dial(&A);
    scene.devices.not_opened(scene.now, connection, &nothing_left());
    assert!(matches!(scene.expect_failed(ONE, connection), ConnectError::Unavailable(_)));
    scene.devices.probed(scene.now, TargetId(0), Probed::NotOpened(nothing_left()));
    assert_eq!(scene.devices.table_sizes().nodes_unavailable, 0);
    assert_eq!(scene.metrics.nodes_failed.get(), 0);
}
