//! A device that registers again while its older registration is in any state.

use super::*;

const THREE: RegistrationId = RegistrationId(3);

fn connected(registration: RegistrationId) -> ExProtoAction {
    ExProtoAction::Emit(BrokerEvent::Connected { registration })
}

impl ExProtoScene {
    /// Takes the first action off, which is this one.
    #[track_caller]
    fn expect_first(&mut self, expected: &ExProtoAction) {
        assert_eq!(self.devices.poll_action().as_ref(), Some(expected));
    }

    /// Takes a device up to the call of Authenticate, which has no answer.
    fn begin(&mut self, registration: RegistrationId, conn: &str) -> ConnectionId {
        let (anchor, token) = self.expect_dial();
        self.devices.dialed(self.now, anchor, Ok(()));
        self.socket_says(conn, &token.line());
        self.expect_authenticate(registration, anchor, conn);
        anchor
    }

    /// Of the device that has begun.
    fn accept(&mut self, registration: RegistrationId, anchor: ConnectionId, conn: &str) {
        self.answer(anchor, CallOutcome::Done);
        self.expect_subscribe(registration, anchor, conn);
        self.answer(anchor, CallOutcome::Done);
    }

    #[track_caller]
    fn expect_no_drops(&self) {
        let dropped = &self.metrics;
        assert_eq!((dropped.dropped_answers.get(), dropped.dropped_registrations.get()), (0, 0));
    }
}

#[test]
fn the_answer_to_a_publish_on_the_older_connection_decides_whether_it_is_sent_again() {
    for taken in [true, false] {
        let (mut scene, older) = ExProtoScene::with_ready_device();
        scene.publish(ONE, "answer");
        scene.expect_publish(ONE, older, "answer");
        scene.publish(ONE, "next");
        scene.command_connect(TWO, "ep1");
        let newer = scene.begin(TWO, "c2");
        scene.devices.anchor_ended(scene.now, older);
        scene.expect(&[hang_up(older)]);
        scene.accept(TWO, newer, "c2");
        scene.expect(&[connected(TWO)]);
        scene.answer(older, if taken { CallOutcome::Done } else { gone() });
        if !taken {
            scene.expect_publish(TWO, newer, "answer");
            scene.answer(newer, CallOutcome::Done);
        }
        scene.expect_publish(TWO, newer, "next");
        scene.expect_no_drops();
    }
}

#[test]
fn a_publish_on_the_older_connection_that_is_never_answered_is_sent_again_after_a_while() {
    let (mut scene, older) = ExProtoScene::with_ready_device();
    scene.publish(ONE, "answer");
    scene.expect_publish(ONE, older, "answer");
    scene.connect_again(TWO, "c2", &[connected(TWO), hang_up(older)]);
    let waited = scene.advance_to_deadline();
    assert_eq!(waited, seconds(5));
    let newer = *scene.dialed.keys().max().expect("an anchor");
    scene.expect_publish(TWO, newer, "answer");
    scene.answer(newer, CallOutcome::Done);
    scene.expect_nothing();
    assert_eq!(scene.devices.next_deadline(), None);
}

impl ExProtoScene {
    fn connect_again(&mut self, registration: RegistrationId, conn: &str, then: &[ExProtoAction]) {
        self.command_connect(registration, "ep1");
        self.attempt(registration, conn);
        self.expect(then);
    }
}

#[test]
fn a_command_that_the_older_connection_received_is_for_the_registration_that_took_its_place() {
    let (mut scene, older) = ExProtoScene::with_ready_device();
    scene.connect_again(TWO, "c2", &[connected(TWO), hang_up(older)]);
    scene.messages("c1", &["before the core knows"]);
    scene.expect(&[message(TWO, "before the core knows")]);
    scene.disconnect(ONE);
    scene.messages("c1", &["late"]);
    scene.expect(&[message(TWO, "late")]);
    scene.socket_closed("c1", "{shutdown,discarded}");
    scene.messages("c1", &["never"]);
    scene.expect_nothing();
}

#[test]
fn commands_that_a_superseded_register_received_come_once_with_the_next_one() {
    let mut scene = ExProtoScene::new();
    scene.command_connect(ONE, "ep1");
    let first = scene.begin(ONE, "c1");
    scene.answer(first, CallOutcome::Done);
    scene.expect_subscribe(ONE, first, "c1");
    scene.messages("c1", &["retained", "once"]);
    scene.command_connect(TWO, "ep1");
    scene.expect_unavailable(ONE);
    scene.expect_first(&hang_up(first));
    scene.disconnect(ONE);
    let second = scene.begin(TWO, "c2");
    scene.answer(second, CallOutcome::Done);
    scene.expect_subscribe(TWO, second, "c2");
    scene.messages("c2", &["retained", "new"]);
    scene.answer(second, CallOutcome::Done);
    let told = ["retained", "once", "new"].map(|topic| message(TWO, topic));
    scene.expect(&[&[connected(TWO)], told.as_slice()].concat());
}

#[test]
fn a_register_waits_until_the_authentication_of_the_one_before_it_is_answered() {
    let mut scene = ExProtoScene::new();
    scene.command_connect(ONE, "ep1");
    let first = scene.begin(ONE, "c1");
    scene.command_connect(TWO, "ep1");
    scene.expect_unavailable(ONE);
    scene.expect(&[hang_up(first)]);
    scene.disconnect(ONE);
    scene.command_connect(THREE, "ep1");
    scene.expect_unavailable(TWO);
    scene.expect_nothing();
    scene.disconnect(TWO);
    scene.advance(seconds(2));
    scene.expect_nothing();
    scene.answer(first, CallOutcome::Done);
    scene.attempt(THREE, "c3");
    scene.expect(&[connected(THREE)]);
}

#[test]
fn an_authentication_that_is_never_answered_holds_the_next_register_for_five_seconds() {
    let mut scene = ExProtoScene::new();
    scene.command_connect(ONE, "ep1");
    let first = scene.begin(ONE, "c1");
    scene.command_connect(TWO, "ep1");
    scene.expect_unavailable(ONE);
    scene.expect(&[hang_up(first)]);
    assert_eq!(scene.advance_to_deadline(), seconds(5));
    scene.attempt(TWO, "c2");
    scene.expect(&[connected(TWO)]);
    // It was carried out after all: the newest one is connected again, and stays registered.
    scene.socket_closed("c2", "{shutdown,discarded}");
    let actions: Vec<ExProtoAction> = std::iter::from_fn(|| scene.devices.poll_action()).collect();
    assert!(matches!(actions.as_slice(), [ExProtoAction::HangUp { .. }]), "{actions:?}");
    scene.answer(first, CallOutcome::Done);
    scene.advance_to_deadline();
    scene.attempt(TWO, "c3");
    scene.expect_nothing();
}

/// In each state in which the older registration may be when the newer one is asked for, and fails.
#[test]
fn when_the_newer_registration_fails_the_older_one_comes_back() {
    for state in ["Ready", "BackOff", "Dialing", "Authenticating", "Subscribing", "Slot"] {
        let (mut scene, mut anchor) = ExProtoScene::with_ready_device();
        if state != "Ready" {
            scene.devices.anchor_ended(scene.now, anchor);
            scene.expect(&[hang_up(anchor)]);
        }
        if state == "Slot" {
            scene.devices.turns.hold(scene.now + seconds(3));
            scene.advance_to_deadline();
            scene.expect_nothing();
        }
        if state == "Dialing" {
            scene.advance_to_deadline();
            anchor = scene.expect_dial().0;
        }
        if ["Authenticating", "Subscribing"].contains(&state) {
            scene.advance_to_deadline();
            anchor = scene.begin(ONE, "c1b");
        }
        if state == "Subscribing" {
            scene.answer(anchor, CallOutcome::Done);
            scene.expect_subscribe(ONE, anchor, "c1b");
        }
        scene.publish(ONE, "answer");
        if state == "Ready" {
            scene.expect_publish(ONE, anchor, "answer");
            scene.answer(anchor, CallOutcome::Done);
        }
        scene.command_connect(TWO, "ep1");
        if ["Dialing", "Authenticating", "Subscribing"].contains(&state) {
            scene.expect_first(&hang_up(anchor));
        }
        if state == "Authenticating" {
            scene.answer(anchor, CallOutcome::Done);
        }
        let newer = scene.begin(TWO, "c2");
        scene.advance(seconds(5));
        scene.expect_nothing();
        scene.answer(newer, CallOutcome::Refused("not_authorized".to_owned()));
        let error = ConnectError::Refused("Authenticate: not_authorized".to_owned());
        scene.expect(&[ExProtoAction::Emit(BrokerEvent::ConnectFailed { registration: TWO, error }), hang_up(newer)]);
        if state != "Ready" {
            scene.advance_to_deadline();
            let again = scene.attempt(ONE, "c1c");
            scene.expect_publish(ONE, again, "answer");
        }
        assert!(scene.devices.devices.contains_key(&ONE), "{state}");
        scene.expect_no_drops();
    }
}

#[test]
fn a_registration_that_is_kicked_while_its_successor_connects_ends_if_the_successor_fails() {
    for succeeds in [true, false] {
        let (mut scene, older) = ExProtoScene::with_ready_device();
        scene.command_connect(TWO, "ep1");
        let newer = scene.begin(TWO, "c2");
        scene.socket_closed("c1", "{shutdown,kicked}");
        scene.expect(&[hang_up(older)]);
        if succeeds {
            scene.accept(TWO, newer, "c2");
            scene.expect(&[connected(TWO)]);
        } else {
            scene.answer(newer, gone());
            scene.expect_unavailable(TWO);
            scene.expect(&[hang_up(newer), closed(ONE, CloseReason::Kicked)]);
        }
    }
}

#[test]
fn a_device_that_left_and_registers_again_while_the_broker_is_away_loses_no_last_words() {
    let (mut scene, older) = ExProtoScene::with_ready_device();
    scene.devices.anchor_ended(scene.now, older);
    scene.expect(&[hang_up(older)]);
    scene.publish(ONE, "answer");
    scene.disconnect(ONE);
    scene.connect_again(
        TWO,
        "c2",
        &[
            connected(TWO),
            ExProtoAction::Call {
                anchor: ConnectionId(1),
                node: TargetId(0),
                call: AdapterCall::Publish {
                    conn: "c2".to_owned(),
                    publication: publication("answer", UplinkClass::Answer),
                },
            },
        ],
    );
    scene.expect_no_drops();
}

#[test]
fn a_device_of_an_earlier_process_that_registers_again_is_not_connected_any_more() {
    let mut scene = ExProtoScene::new();
    scene.command_resume(ONE, "ep1");
    let (older, token) = scene.expect_dial();
    scene.command_connect(TWO, "ep1");
    scene.expect_first(&hang_up(older));
    scene.attempt(TWO, "c2");
    scene.expect(&[connected(TWO)]);
    scene.socket_says("c1", &token.line());
    scene.disconnect(ONE);
    scene.advance(seconds(60));
    scene.expect_nothing();
}
