//! A device that registers again while its older registration is in any state.

use super::*;

const THREE: RegistrationId = RegistrationId(3);

impl MqttScene {
    fn take_over(&mut self, registration: RegistrationId) -> ConnectionId {
        self.command_connect(registration, "ep1");
        let connection = self.attempt(&A, true);
        self.expect_first(&MqttAction::Emit(BrokerEvent::Connected { registration }));
        connection
    }

    #[track_caller]
    fn expect_first(&mut self, expected: &MqttAction) {
        assert_eq!(self.devices.poll_action().as_ref(), Some(expected));
    }

    #[track_caller]
    fn expect_no_drops(&self) {
        let dropped = &self.metrics;
        assert_eq!((dropped.dropped_answers.get(), dropped.dropped_registrations.get()), (0, 0));
    }
}

#[test]
fn the_older_connection_is_read_to_its_end_and_only_what_it_did_not_acknowledge_is_sent_again() {
    let (mut scene, older) = MqttScene::with_ready_device();
    ["a", "b"].iter().for_each(|topic| scene.publish(ONE, topic));
    let ids = scene.expect_published(older, &["a", "b"], false);
    let newer = scene.take_over(TWO);
    scene.disconnect(ONE);
    scene.publish(TWO, "register");
    scene.expect_nothing();
    scene.acknowledge(older, ids[0]);
    scene.expect_nothing();
    scene.disconnect_by_broker(older, 0x8e, None);
    scene.expect_first(&MqttAction::HangUp { connection: older });
    let packets = scene.packets(newer);
    let [SentPacket::Publish { topic, id, again: true }, SentPacket::Publish { topic: next, again: false, .. }] =
        packets.as_slice()
    else {
        panic!("{packets:?}")
    };
    assert_eq!((topic.as_str(), *id, next.as_str()), ("b", ids[1], "register"));
    scene.expect_no_drops();
}

#[test]
fn an_older_connection_that_the_broker_does_not_end_is_read_for_five_seconds() {
    let (mut scene, older) = MqttScene::with_ready_device();
    scene.publish(ONE, "a");
    scene.expect_published(older, &["a"], false);
    let newer = scene.take_over(TWO);
    assert_eq!(scene.advance_to_deadline(), seconds(5));
    scene.expect_first(&MqttAction::HangUp { connection: older });
    scene.expect_published(newer, &["a"], true);
    scene.disconnect(ONE);
    scene.expect_nothing();
}

#[test]
fn commands_of_qos_0_on_the_older_connection_are_for_the_next_registration_and_those_of_qos_1_come_again() {
    let (mut scene, older) = MqttScene::with_ready_device();
    let newer = scene.take_over(TWO);
    scene.disconnect(ONE);
    scene.hear(older, command("qos 0", None));
    scene.expect(&[message(TWO, "qos 0")]);
    scene.hear(older, command("qos 1", Some(7)));
    scene.expect_nothing();
    scene.hear(newer, command("qos 1", Some(7)));
    scene.expect(&[kept_message(TWO, "qos 1", receipt(newer, 7))]);
}

#[test]
fn a_command_whose_acknowledgement_the_broker_did_not_hear_is_told_once() {
    let (mut scene, older) = MqttScene::with_ready_device();
    scene.hear(older, command("reboot", Some(7)));
    scene.expect(&[kept_message(ONE, "reboot", receipt(older, 7))]);
    scene.confirm(ONE, receipt(older, 7));
    scene.expect(&[puback(older, 7)]);
    let newer = scene.take_over(TWO);
    scene.hear(newer, again(command("reboot", Some(7))));
    scene.expect(&[puback(newer, 7)]);
    // Another one, and one that is sent for the first time.
    for other in [again(command("reset", Some(7))), command("reboot", Some(7))] {
        scene.hear(newer, other);
        assert_eq!(scene.actions().len(), 1);
    }
}

#[test]
fn a_command_of_a_connection_that_has_ended_is_acknowledged_when_the_broker_delivers_it_again() {
    let (mut scene, older) = MqttScene::with_ready_device();
    scene.hear(older, command("reboot", Some(7)));
    scene.expect(&[kept_message(ONE, "reboot", receipt(older, 7))]);
    let newer = scene.take_over(TWO);
    // The identifier may be that of another command by now.
    scene.devices.ended(scene.now, older, "closed");
    scene.actions();
    scene.confirm(ONE, receipt(older, 7));
    scene.expect_nothing();
    scene.hear(newer, again(command("reboot", Some(7))));
    scene.expect(&[puback(newer, 7)]);
}

#[test]
fn a_register_waits_until_the_connect_of_the_one_before_it_is_answered() {
    let mut scene = MqttScene::new();
    scene.command_connect(ONE, "ep1");
    let first = scene.expect_dial(&A);
    scene.open(first);
    scene.command_connect(TWO, "ep1");
    scene.disconnect(ONE);
    scene.command_connect(THREE, "ep1");
    scene.disconnect(TWO);
    let failed = scene.actions();
    assert!(
        failed.iter().all(|action| matches!(action, MqttAction::Emit(BrokerEvent::ConnectFailed { .. }))),
        "{failed:?}"
    );
    scene.advance(seconds(2));
    scene.hear(first, accepted(true));
    // The session stays for the next registration.
    let mut actions = scene.actions();
    let dial = actions.pop();
    let [MqttAction::Send { connection, bytes }, MqttAction::Close { .. }] = actions.as_slice() else {
        panic!("{actions:?}")
    };
    assert_eq!(*connection, first);
    assert_eq!(said(bytes), [SentPacket::Disconnect { reason: 0, session_expiry: Some(300) }]);
    scene.devices.actions.extend(dial);
    scene.attempt(&A, true);
    scene.expect_told(&[BrokerEvent::Connected { registration: THREE }]);
}

#[test]
fn a_connect_that_is_never_answered_holds_the_next_register_for_five_seconds() {
    let mut scene = MqttScene::new();
    scene.command_connect(ONE, "ep1");
    let first = scene.expect_dial(&A);
    scene.open(first);
    scene.command_connect(TWO, "ep1");
    assert_eq!(scene.actions().len(), 1);
    assert_eq!(scene.advance_to_deadline(), seconds(5));
    let mut actions = scene.actions();
    actions.sort_by_key(|action| matches!(action, MqttAction::Dial { .. }));
    let dial = actions.pop();
    assert_eq!(actions, [MqttAction::HangUp { connection: first }]);
    scene.devices.actions.extend(dial);
    scene.attempt(&A, false);
    scene.expect_told(&[BrokerEvent::Connected { registration: TWO }]);
}

/// In each state in which the older registration may be when the newer one is asked for, and fails.
#[test]
fn when_the_newer_registration_fails_the_older_one_comes_back() {
    for state in ["Ready", "BackOff", "Dialing", "Connecting", "Subscribing"] {
        let (mut scene, mut connection) = MqttScene::with_ready_device();
        if state != "Ready" {
            scene.devices.ended(scene.now, connection, "reset");
            scene.expect(&[MqttAction::HangUp { connection }]);
        }
        if ["Dialing", "Connecting", "Subscribing"].contains(&state) {
            scene.advance_to_deadline();
            connection = scene.expect_dial(&A);
        }
        if ["Connecting", "Subscribing"].contains(&state) {
            scene.open(connection);
        }
        if state == "Subscribing" {
            scene.hear(connection, accepted(true));
            scene.expect_subscribe(connection);
        }
        scene.command_connect(TWO, "ep1");
        if ["Dialing", "Subscribing"].contains(&state) {
            scene.expect_first(&MqttAction::HangUp { connection });
        }
        if state == "Connecting" {
            scene.hear(connection, connack(Reason::SERVER_UNAVAILABLE, false, None));
            scene.expect_first(&MqttAction::HangUp { connection });
        }
        let newer = scene.expect_dial(&A);
        scene.open(newer);
        scene.publish(ONE, "answer");
        scene.expect_nothing();
        scene.hear(newer, connack(Reason::NOT_AUTHORIZED, false, None));
        let failed = scene.devices.poll_action();
        assert!(
            matches!(failed, Some(MqttAction::Emit(BrokerEvent::ConnectFailed { registration: TWO, .. }))),
            "{failed:?}"
        );
        scene.expect_first(&MqttAction::HangUp { connection: newer });
        if state == "Ready" {
            scene.expect_published(connection, &["answer"], false);
        } else {
            scene.advance_to_deadline();
            let again = scene.attempt(&A, true);
            scene.expect_first(&MqttAction::Emit(BrokerEvent::Reconnected { registration: ONE }));
            scene.expect_published(again, &["answer"], false);
        }
        scene.expect_no_drops();
    }
}

#[test]
fn a_session_is_kept_for_the_lifetime_of_its_device_and_a_week_at_most() {
    for (lifetime, expiry) in [(seconds(86_400), 86_400), (seconds(315_360_000), 604_800)] {
        let mut scene = MqttScene::new();
        let client = lwm2m_core::gateway::broker::ClientInfo { lifetime, ..client("ep1") };
        scene.devices.command(scene.now, BrokerCommand::Connect { registration: ONE, client });
        let connection = scene.expect_dial(&A);
        scene.devices.opened(scene.now, connection);
        let actions = scene.actions();
        let [MqttAction::Send { bytes, .. }] = actions.as_slice() else { panic!("{actions:?}") };
        let property = [[0x11].as_slice(), &u32::to_be_bytes(expiry)].concat();
        assert!(
            bytes.windows(5).any(|part| part == property),
            "no Session Expiry Interval of {expiry} s in {bytes:x?}"
        );
        scene.hear(connection, accepted(false));
        scene.answer_subscribe(connection, 1);
        scene.expect_told(&[BrokerEvent::Connected { registration: ONE }]);
        scene.devices.disconnect_all(scene.now);
        let actions = scene.actions();
        let [MqttAction::Send { bytes, .. }, MqttAction::Close { .. }] = actions.as_slice() else {
            panic!("{actions:?}")
        };
        assert_eq!(said(bytes), [SentPacket::Disconnect { reason: 0, session_expiry: Some(expiry) }]);
    }
}
