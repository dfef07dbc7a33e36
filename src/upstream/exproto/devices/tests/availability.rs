//! What the gateway knows of a broker without devices, how it brings devices back, and what a refusal means.

use super::nodes::of_devices;
use super::*;

const A: TargetId = TargetId(0);

impl ExProtoScene {
    /// So many devices, `1..=count`, are clients.
    fn with_clients(count: u64) -> (Self, Vec<ConnectionId>) {
        let mut scene = Self::new();
        let anchors = (1..=count).map(|id| scene.connect(RegistrationId(id), &format!("c{id}"))).collect();
        (scene, anchors)
    }

    fn lose(&mut self, anchors: &[ConnectionId]) {
        for anchor in anchors {
            self.devices.anchor_ended(self.now, *anchor);
        }
        self.actions();
    }

    /// The next attempt of the device, when its back-off is over, is refused.
    fn refuse(&mut self, device: RegistrationId, refused_call: &str) {
        self.advance_to_deadline();
        let (anchor, token) = self.expect_dial();
        self.refuse_attempt(device, anchor, &token, refused_call);
    }

    fn refuse_attempt(
        &mut self,
        device: RegistrationId,
        anchor: ConnectionId,
        token: &AnchorToken,
        refused_call: &str,
    ) {
        self.devices.dialed(self.now, anchor, Ok(()));
        self.socket_says(&format!("again{}", anchor.0), &token.line());
        self.expect_authenticate(device, anchor, &format!("again{}", anchor.0));
        if refused_call == "Subscribe" {
            self.answer(anchor, CallOutcome::Done);
            self.expect_subscribe(device, anchor, &format!("again{}", anchor.0));
        }
        self.answer(anchor, CallOutcome::Refused("not_authorized".to_owned()));
    }

    #[track_caller]
    fn detail(&mut self) -> String {
        self.devices.take_health().expect("a change").detail
    }
}

#[test]
fn a_node_without_devices_is_probed_all_the_time_and_its_end_is_noticed() {
    let mut scene = ExProtoScene::new();
    scene.devices.probe_all(scene.now);
    let (anchor, token) = scene.expect_dial();
    scene.serve_probe(A, anchor, &token);
    assert!(scene.devices.take_health().expect("a change").serving);

    for _ in 0..3 {
        assert_eq!(scene.advance_to_deadline(), seconds(5));
        let (anchor, token) = scene.expect_dial();
        scene.serve_probe(A, anchor, &token);
        assert_eq!(scene.devices.take_health(), None);
    }
    let dials = scene.dials(seconds(9), &[A]);
    let times: Vec<_> = dials.iter().map(|(at, ..)| at.as_millis()).collect();
    assert_eq!(times, [5_000, 6_000, 7_000, 8_000, 9_000]);
    assert!(!scene.devices.take_health().expect("a change").serving);
    assert_eq!((scene.devices.table_sizes().nodes_unavailable, scene.metrics.nodes_failed.get()), (1, 1));

    scene.recover(A);
    assert!(scene.devices.take_health().expect("a change").serving);
    assert_eq!((scene.devices.table_sizes().nodes_unavailable, scene.metrics.nodes_recovered.get()), (0, 1));
}

#[test]
fn probes_that_are_closed_at_once_find_a_node_unavailable_the_third_time() {
    for told in [true, false] {
        let mut scene = ExProtoScene::new();
        scene.devices.probe_all(scene.now);
        let (anchor, token) = scene.expect_dial();
        scene.serve_probe(A, anchor, &token);
        scene.devices.take_health();
        for number in 1..=3 {
            scene.advance_to_deadline();
            let (anchor, token) = scene.expect_dial();
            scene.devices.dialed(scene.now, anchor, Ok(()));
            if told {
                // The connection ends before the call comes: EMQX stops at this moment.
                scene.socket_says("probe", &token.line());
                scene.actions();
                scene.answer(anchor, gone());
            } else {
                scene.devices.anchor_ended(scene.now, anchor);
            }
            scene.expect(&[hang_up(anchor)]);
            let down = scene.devices.take_health().is_some_and(|standing| !standing.serving);
            // Where the adapter says that it cannot serve, once is enough.
            assert_eq!(down, number == 3 || told, "probe {number}");
            if down {
                break;
            }
        }
    }
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
fn a_probe_that_succeeds_connects_the_device_that_was_active_last_at_once_and_the_others_in_their_turn() {
    let (mut scene, anchors) = ExProtoScene::with_clients(20);
    // The odd ones say something, the later the lower their number is.
    for id in (1..=20).rev().filter(|id| id % 2 == 1) {
        scene.now += Duration::from_millis(1);
        scene.publish(RegistrationId(id), "a");
        scene.actions();
        scene.answer(anchors[id as usize - 1], CallOutcome::Done);
    }
    scene.lose(&anchors);
    // One of them finds out, and the first probe after it succeeds, when most are in their back-off.
    let dials = scene.dials(Duration::from_millis(1_300), &[A]);
    assert_eq!(of_devices(&dials).len(), 1, "{dials:?}");
    let states = scene.devices.devices.values().map(|device| &device.state);
    let back_off = states.filter(|state| matches!(state, DeviceState::WaitingToReconnect(Wait::BackOff)));
    assert!(back_off.count() > 5);
    scene.recover(A);

    let actions = scene.actions();
    let [ExProtoAction::Dial { anchor, token, .. }] = actions.as_slice() else { panic!("{actions:?}") };
    let begun = scene.now;
    let mut order = vec![scene.devices.protocol.by_anchor[anchor]];
    scene.come_back(*anchor, token, RegistrationId(1), "again1");
    scene.actions();
    assert_eq!(scene.devices.returning.awaited(), 19);
    while scene.devices.returning.awaited() > 0 {
        let dials = scene.dials(Duration::from_millis(100), &[]);
        let dials: Vec<_> =
            dials.into_iter().filter(|(_, owner, ..)| matches!(owner, AnchorOwner::Device(_))).collect();
        let [(_, owner, _, anchor, token)] = dials.as_slice() else { panic!("not ten in a second: {dials:?}") };
        let AnchorOwner::Device(device) = *owner else { panic!("{owner:?}") };
        order.push(*owner);
        scene.come_back(*anchor, token, device, &format!("again{}", device.0));
        scene.actions();
    }
    let active = (1..=20).step_by(2);
    let silent = (2..=20).step_by(2);
    let expected: Vec<_> = active.chain(silent).map(|id| AnchorOwner::Device(RegistrationId(id))).collect();
    assert_eq!(order, expected);
    assert_eq!(scene.now - begun, Duration::from_millis(1_900));
    assert_eq!(scene.metrics.reconnected.get(), 20);
}

#[test]
fn a_device_that_says_something_while_it_waits_comes_earlier() {
    let mut scene = ExProtoScene::new();
    (1..=4).for_each(|id| scene.command_resume(RegistrationId(id), &format!("ep{id}")));
    scene.actions();
    scene.now += Duration::from_millis(1);
    scene.publish(RegistrationId(4), "a");
    scene.expect_nothing();
    let order: Vec<_> = of_devices(&scene.dials(seconds(1), &[])).iter().map(|(device, _)| device.0).collect();
    assert_eq!(order, [4, 2, 3]);
}

#[test]
fn devices_whose_turn_was_near_when_the_broker_went_again_do_not_wait_longer_for_it() {
    let mut scene = ExProtoScene::new();
    (1..=100).for_each(|id| scene.command_resume(RegistrationId(id), &format!("ep{id}")));
    for action in scene.actions() {
        let ExProtoAction::Dial { anchor, .. } = action else { panic!("{action:?}") };
        scene.devices.dialed(scene.now, anchor, not_reached());
    }
    scene.actions();
    scene.dials(seconds(30), &[A]);
    scene.recover(A);
    let dials = scene.actions().len() + of_devices(&scene.dials(seconds(2), &[])).len();
    assert_eq!(dials, 21, "the first at once, and ten in a second");
}

#[test]
fn a_client_that_is_refused_when_it_comes_back_is_closed_when_that_lasts_while_others_are_served() {
    for refused_call in ["Authenticate", "Subscribe"] {
        let (mut scene, anchors) = ExProtoScene::with_clients(2);
        scene.lose(&anchors[..1]);
        scene.refuse(ONE, refused_call);
        let first = scene.now;
        let told = loop {
            let actions = scene.actions();
            let [rest @ .., ExProtoAction::HangUp { .. }] = actions.as_slice() else { panic!("{actions:?}") };
            match rest {
                [] => scene.refuse(ONE, refused_call),
                told => break told.to_vec(),
            }
        };
        assert_eq!(told, [closed(ONE, CloseReason::Refused)]);
        assert!((seconds(30)..=seconds(60)).contains(&(scene.now - first)), "{:?}", scene.now - first);
    }
}

#[test]
fn a_refusal_counts_from_the_first_one_since_the_broker_was_unavailable() {
    let (mut scene, anchors) = ExProtoScene::with_clients(2);
    scene.lose(&anchors[..1]);
    scene.refuse(ONE, "Authenticate");
    let first = scene.now;
    scene.actions();
    while scene.now < first + seconds(40) {
        scene.advance_to_deadline();
        let (anchor, token) = scene.expect_dial();
        scene.devices.dialed(scene.now, anchor, Ok(()));
        scene.socket_says(&format!("again{}", anchor.0), &token.line());
        scene.actions();
        scene.answer(anchor, CallOutcome::Failed("an error of EMQX".to_owned()));
        scene.expect(&[hang_up(anchor)]);
    }
    scene.refuse(ONE, "Authenticate");
    assert!(matches!(scene.actions().as_slice(), [ExProtoAction::HangUp { .. }]));
    assert!(scene.devices.devices.contains_key(&ONE));
}

#[test]
fn a_client_that_is_refused_with_everybody_stays_registered_and_comes_back_when_one_is_accepted() {
    let (mut scene, anchors) = ExProtoScene::with_clients(8);
    scene.lose(&anchors);
    let mut refusals = 0;
    let start = scene.now;
    while scene.now < start + seconds(300) {
        for (_, owner, _, anchor, token) in scene.dials(Duration::from_millis(50), &[]) {
            let AnchorOwner::Device(device) = owner else { panic!("{owner:?}") };
            scene.refuse_attempt(device, anchor, &token, "Authenticate");
            scene.expect(&[hang_up(anchor)]);
            refusals += 1;
        }
    }
    assert!(refusals > 80, "{refusals}");
    assert_eq!(scene.devices.devices.len(), 8);
    assert!(scene.detail().contains("the broker refuses every device"));

    // EMQX accepts: the first that is tried brings all others back, at ten in a second.
    let mut back = 0;
    let mut accepted = None;
    while back < 8 {
        for (_, owner, _, anchor, token) in scene.dials(Duration::from_millis(50), &[]) {
            let AnchorOwner::Device(device) = owner else { panic!("{owner:?}") };
            scene.come_back(anchor, &token, device, &format!("back{}", device.0));
            accepted.get_or_insert(scene.now);
            back += 1;
            let after = scene.actions();
            assert!(after.iter().all(|action| matches!(action, ExProtoAction::Dial { .. })), "{after:?}");
            scene.devices.actions.extend(after);
        }
        let pending: Vec<_> = scene.actions();
        for action in pending {
            let ExProtoAction::Dial { anchor, token, .. } = action else { panic!("{action:?}") };
            let AnchorOwner::Device(device) = scene.devices.protocol.by_anchor[&anchor] else { panic!("a probe") };
            scene.come_back(anchor, &token, device, &format!("back{}", device.0));
            scene.actions();
            back += 1;
        }
    }
    assert!(scene.now <= accepted.expect("one") + seconds(1), "{:?}", scene.now - start);
    assert_eq!(scene.detail(), "a is available");
}

#[test]
fn refusals_of_new_devices_are_told_when_all_of_the_last_three_were_refused_and_none_is_connected() {
    let mut scene = ExProtoScene::new();
    for number in 1..=3 {
        scene.devices.take_health();
        scene.command_connect(ONE, "ep1");
        let (anchor, token) = scene.expect_dial();
        scene.refuse_attempt(ONE, anchor, &token, "Authenticate");
        scene.actions();
        assert_eq!(scene.devices.take_health().is_some(), number == 1 || number == 3);
    }
    scene.connect(ONE, "c1");
    assert_eq!(scene.detail(), "a is available");

    // One that is connected shows that not everybody is refused.
    for _ in 0..5 {
        scene.command_connect(TWO, "ep1");
        let (anchor, token) = scene.expect_dial();
        scene.refuse_attempt(TWO, anchor, &token, "Authenticate");
        scene.actions();
    }
    assert_eq!(scene.devices.take_health(), None);
}

#[test]
fn a_want_of_descriptors_is_told_until_a_connection_is_opened() {
    let (mut scene, anchors) = ExProtoScene::with_clients(2);
    scene.devices.take_health();
    scene.lose(&anchors[..1]);
    scene.advance_to_deadline();
    let (anchor, _) = scene.expect_dial();
    scene.devices.dialed(scene.now, anchor, nothing_left());
    scene.expect(&[hang_up(anchor)]);
    let standing = scene.devices.take_health().expect("a change");
    assert!(standing.serving && standing.detail.contains("no file descriptor is left"), "{standing:?}");
    assert_eq!((scene.devices.table_sizes().nodes_unavailable, scene.metrics.connections_not_opened.get()), (0, 1));

    // The device tries again after its back-off, as after any loss.
    scene.advance_to_deadline();
    scene.attempt(ONE, "again");
    assert_eq!(scene.detail(), "a is available");
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
