//! Devices that an earlier process had connected.

use super::*;

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
