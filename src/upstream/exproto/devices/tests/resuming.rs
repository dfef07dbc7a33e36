//! Devices that an earlier process had connected.

use super::*;

#[test]
fn devices_of_before_are_connected_again_at_the_limited_rate() {
    let mut scene = ExProtoScene::new();
    (1..=3).for_each(|device| scene.command_resume(RegistrationId(device), &format!("ep{device}")));
    for device in 1..=3 {
        let anchor = scene.attempt(RegistrationId(device), &format!("c{device}"));
        scene.expect(&[ExProtoAction::Emit(BrokerEvent::Connected { registration: RegistrationId(device) })]);
        assert_eq!(scene.devices.protocol.by_anchor.get(&anchor), Some(&AnchorOwner::Device(RegistrationId(device))));
        if device < 3 {
            assert_eq!(scene.advance_to_deadline(), Duration::from_millis(100), "ten in a second");
        }
    }
    assert_eq!(scene.metrics.connected.get(), 0);
    assert_eq!(scene.metrics.reconnected.get(), 3);
}

#[test]
fn a_device_of_before_waits_for_a_broker_that_is_away_and_so_does_what_it_says() {
    let mut scene = ExProtoScene::new();
    scene.command_resume(ONE, "ep1");
    scene.publish(ONE, "a");
    let (anchor, _) = scene.expect_dial();
    scene.devices.dialed(scene.now, anchor, not_reached());
    scene.expect(&[hang_up(anchor)]);
    scene.recover(TargetId(0));
    let anchor = scene.attempt(ONE, "c1");
    let conn = "c1".to_owned();
    let publication = publication("a", UplinkClass::Answer);
    scene.expect(&[
        ExProtoAction::Emit(BrokerEvent::Connected { registration: ONE }),
        ExProtoAction::Call { anchor, node: scene.dialed[&anchor], call: AdapterCall::Publish { conn, publication } },
    ]);
}

#[test]
fn a_device_of_before_is_told_as_connected_once() {
    let mut scene = ExProtoScene::new();
    scene.command_resume(ONE, "ep1");
    let anchor = scene.attempt(ONE, "c1");
    scene.expect(&[ExProtoAction::Emit(BrokerEvent::Connected { registration: ONE })]);
    scene.devices.anchor_ended(scene.now, anchor);
    scene.expect(&[hang_up(anchor)]);
    scene.advance_to_deadline();
    scene.attempt(ONE, "c2");
    scene.expect_nothing();
}

#[test]
fn a_device_of_before_that_is_disconnected_before_its_turn_is_forgotten() {
    let mut scene = ExProtoScene::new();
    scene.command_resume(ONE, "ep1");
    scene.expect_dial();
    scene.command_resume(RegistrationId(2), "ep2");
    scene.disconnect(RegistrationId(2));
    scene.expect_nothing();
    scene.advance(Duration::from_secs(1));
    scene.expect_nothing();
}
