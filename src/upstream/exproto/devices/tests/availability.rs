//! What the gateway knows of a broker without devices, how it brings devices back, and what a refusal means.

use super::*;

const A: TargetId = TargetId(0);

impl ExProtoScene {
    /// So many devices, `1..=count`, are clients.
    fn with_clients(count: u64) -> (Self, Vec<ConnectionId>) {
        let mut scene = Self::new();
        let anchors = (1..=count).map(|id| scene.connect(RegistrationId(id), &format!("c{id}"))).collect();
        (scene, anchors)
    }
}

#[test]
fn a_probe_that_the_adapter_cannot_serve_finds_a_node_unavailable_at_once() {
    let mut scene = ExProtoScene::new();
    scene.devices.probe_all(scene.now);
    let (anchor, token) = scene.expect_dial();
    scene.serve_probe(A, anchor, &token);
    scene.devices.take_health();
    scene.advance_to_deadline();
    let (anchor, token) = scene.expect_dial();
    scene.devices.dialed(scene.now, anchor, Ok(()));
    // The connection ends before the call comes: EMQX stops at this moment.
    scene.socket_says("probe", &token.line());
    scene.actions();
    scene.answer(anchor, gone());
    scene.expect(&[hang_up(anchor)]);
    assert!(!scene.devices.take_health().expect("a change").serving);
}

#[test]
fn a_listener_that_is_full_serves_the_devices_that_it_has() {
    let (mut scene, _) = ExProtoScene::with_clients(2);
    scene.devices.probe_all(scene.now);
    for _ in 0..20 {
        let (anchor, _) = scene.expect_dial();
        scene.devices.dialed(scene.now, anchor, Ok(()));
        scene.devices.anchor_ended(scene.now, anchor);
        scene.expect(&[hang_up(anchor)]);
        assert_eq!(scene.advance_to_deadline(), seconds(1));
    }
    assert_eq!((scene.devices.table_sizes().nodes_unavailable, scene.metrics.nodes_failed.get()), (0, 0));
}

#[test]
fn a_call_that_finds_no_descriptor_is_no_fault_of_the_node() {
    let (mut scene, anchors) = ExProtoScene::with_clients(1);
    scene.publish(ONE, "a");
    scene.expect_publish(ONE, anchors[0], "a");
    scene.answer(anchors[0], CallOutcome::Short("too many open files".to_owned()));
    scene.expect(&[hang_up(anchors[0])]);
    assert_eq!(scene.devices.table_sizes().nodes_unavailable, 0);
    scene.advance_to_deadline();
    let anchor = scene.attempt(ONE, "again");
    scene.expect_publish(ONE, anchor, "a");
}
