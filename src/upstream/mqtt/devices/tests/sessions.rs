//! Commands of the session, and its end.

use super::*;

#[test]
fn a_command_is_acknowledged_when_it_is_confirmed() {
    let (mut scene, connection) = MqttScene::with_ready_device();
    scene.hear(connection, command("dn", Some(7)));
    scene.expect(&[kept_message(ONE, "dn", receipt(connection, 7))]);
    scene.confirm(ONE, receipt(connection, 7));
    scene.expect(&[puback(connection, 7)]);
    scene.hear(connection, command("dn", None));
    scene.expect(&[message(ONE, "dn")]);
}

#[test]
fn commands_of_the_session_wait_until_a_new_device_is_connected() {
    let mut scene = MqttScene::new();
    scene.command_connect(ONE, "ep1");
    let connection = scene.expect_dial(&A);
    scene.open(connection);
    scene.hear(connection, accepted(true));
    let packet = scene.expect_subscribe(connection);
    scene.hear(connection, command("dn/1", Some(7)));
    scene.expect_nothing();
    scene.hear(connection, Incoming::SubAck { packet: id(packet), reason: Reason(1) });
    let actions = scene.actions();
    let connected = MqttAction::Emit(BrokerEvent::Connected { registration: ONE });
    assert_eq!(actions[..2], [connected, kept_message(ONE, "dn/1", receipt(connection, 7))]);
}

#[test]
fn a_device_of_an_earlier_process_hears_what_the_broker_kept_for_it() {
    let mut scene = MqttScene::new();
    scene.command_resume(ONE, "ep1");
    let connection = scene.expect_dial(&A);
    scene.open(connection);
    scene.hear(connection, accepted(true));
    let packet = scene.expect_subscribe(connection);
    scene.hear(connection, command("dn/1", Some(7)));
    scene.expect(&[kept_message(ONE, "dn/1", receipt(connection, 7))]);
    scene.hear(connection, Incoming::SubAck { packet: id(packet), reason: Reason(1) });
    scene.expect_told(&[BrokerEvent::Connected { registration: ONE }]);
}

#[test]
fn the_end_of_a_registration_is_the_end_of_its_session() {
    let (mut scene, connection) = MqttScene::with_ready_device();
    scene.publish(ONE, "last");
    let ids = scene.expect_published(connection, &["last"], false);
    scene.disconnect(ONE);
    scene.expect_nothing();
    scene.acknowledge(connection, ids[0]);
    let actions = scene.actions();
    let [MqttAction::Send { bytes, .. }, MqttAction::Close { .. }] = actions.as_slice() else { panic!("{actions:?}") };
    assert_eq!(said(bytes), [SentPacket::Disconnect { reason: 0, session_expiry: Some(0) }]);
    assert!(scene.devices.is_empty());
    assert_eq!(scene.devices.next_deadline(), None);
}

#[test]
fn the_end_of_the_program_keeps_the_sessions_for_the_lifetime_of_the_devices() {
    let (mut scene, _) = MqttScene::with_ready_device();
    let lifetime = seconds(600);
    scene.devices.command(scene.now, BrokerCommand::SetLifetime { registration: ONE, lifetime });
    scene.devices.disconnect_all(scene.now);
    let actions = scene.actions();
    let [MqttAction::Send { bytes, .. }, MqttAction::Close { .. }] = actions.as_slice() else { panic!("{actions:?}") };
    assert_eq!(said(bytes), [SentPacket::Disconnect { reason: 0, session_expiry: Some(600) }]);
}

#[test]
fn a_broker_of_version_311_keeps_nothing_for_a_device_that_left() {
    let mut scene = MqttScene::with(|config| config.version = ProtocolVersion::V311);
    scene.connect(ONE);
    scene.disconnect(ONE);
    let actions = scene.actions();
    let [MqttAction::Send { bytes, .. }, MqttAction::Close { .. }] = actions.as_slice() else { panic!("{actions:?}") };
    assert_eq!(said(bytes), [SentPacket::Unsubscribe, SentPacket::Disconnect { reason: 0, session_expiry: None }]);
}

#[test]
fn a_device_that_registers_again_waits_for_the_last_words_of_its_predecessor() {
    let (mut scene, connection) = MqttScene::with_ready_device();
    scene.publish(ONE, "last");
    let ids = scene.expect_published(connection, &["last"], false);
    scene.disconnect(ONE);
    scene.command_connect(TWO, "ep1");
    scene.expect_nothing();
    scene.acknowledge(connection, ids[0]);
    let actions = scene.actions();
    assert!(
        matches!(actions.as_slice(), [MqttAction::Send { .. }, MqttAction::Close { .. }, MqttAction::Dial { .. }]),
        "{actions:?}"
    );
}

#[test]
fn two_gateways_with_one_clientid_take_it_from_each_other_ever_more_slowly() {
    let mut scene = MqttScene::with(|config| config.version = ProtocolVersion::V311);
    let mut connection = scene.connect(ONE);
    let mut waits = Vec::new();
    for _ in 0..5 {
        scene.devices.ended(scene.now, connection, "reset");
        scene.expect(&[MqttAction::HangUp { connection }]);
        waits.push(scene.advance_to_deadline());
        connection = scene.attempt(&A, true);
        scene.expect_told(&[BrokerEvent::Reconnected { registration: ONE }]);
    }
    assert!(waits[4] >= seconds(15), "{waits:?}");
}
