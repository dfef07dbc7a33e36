//! A broker of one node that goes away, and one of several nodes of which one fails.

use super::*;

const A: TargetId = TargetId(0);
const B: TargetId = TargetId(1);

/// Longer than a probe may take.
const CONNECT_TIMEOUT: Duration = seconds(60);
/// Shorter than any back-off.
const A_MOMENT: Duration = Duration::from_millis(100);

impl ExProtoScene {
    fn with_two_nodes() -> Self {
        Self::with(|config| {
            config.nodes = vec![node("a"), node("b")];
            config.link.connect_timeout = CONNECT_TIMEOUT;
        })
    }

    /// Devices `1..=count`, each with the conn `c` and its number, in turn at A and at B.
    fn with_devices(count: u64) -> (Self, Vec<ConnectionId>) {
        let mut scene = Self::with_two_nodes();
        let anchors: Vec<_> = (1..=count).map(|id| scene.connect(RegistrationId(id), &format!("c{id}"))).collect();
        let nodes: Vec<_> = anchors.iter().map(|anchor| scene.dialed[anchor]).collect();
        assert!(nodes.chunks(2).all(|pair| pair == &[A, B][..pair.len()]), "{nodes:?}");
        (scene, anchors)
    }

    /// Everything that is to be done now; remembers where the anchors go.
    pub(super) fn actions(&mut self) -> Vec<ExProtoAction> {
        let actions: Vec<ExProtoAction> = std::iter::from_fn(|| self.devices.poll_action()).collect();
        for action in &actions {
            if let ExProtoAction::Dial { anchor, node, .. } = action {
                self.dialed.insert(*anchor, *node);
            }
        }
        actions
    }

    /// Lets the time pass and gives each dial, and when it was; each anchor to a node that `refuses` is refused, a
    /// probe too.
    pub(super) fn dials(
        &mut self,
        time: Duration,
        refuses: &[TargetId],
    ) -> Vec<(Duration, AnchorOwner, TargetId, ConnectionId, AnchorToken)> {
        let (start, mut dials) = (self.now, Vec::new());
        while let Some(at) = self.devices.next_deadline().filter(|at| *at <= start + time) {
            self.now = at;
            self.devices.handle_timeout(at);
            for action in self.actions() {
                let ExProtoAction::Dial { anchor, node, token } = action else { continue };
                dials.push((at - start, self.devices.protocol.by_anchor[&anchor], node, anchor, token));
                if refuses.contains(&node) {
                    self.devices.dialed(at, anchor, not_reached());
                    self.expect(&[hang_up(anchor)]);
                }
            }
        }
        self.now = start + time;
        dials
    }

    /// The node has a probe under way by now, after at most a second: gives it.
    pub(super) fn probe_of(&mut self, node: TargetId) -> (ConnectionId, AnchorToken) {
        let dials = self.dials(seconds(1), &[]);
        let probe = dials.into_iter().find(|(_, owner, ..)| *owner == AnchorOwner::Probe(node));
        let (_, _, to, anchor, token) = probe.expect("a probe");
        assert_eq!(to, node);
        (anchor, token)
    }

    /// Answers a probe all the way.
    pub(super) fn serve_probe(&mut self, node: TargetId, anchor: ConnectionId, token: &AnchorToken) {
        self.devices.dialed(self.now, anchor, Ok(()));
        self.socket_says("probe", &token.line());
        let call = AdapterCall::Ping { conn: "probe".to_owned() };
        self.expect(&[ExProtoAction::Call { anchor, node, call }]);
        self.answer(anchor, CallOutcome::Done);
        assert_eq!(self.devices.poll_action(), Some(hang_up(anchor)));
    }

    /// A probe finds the node up again, in a second.
    pub(super) fn recover(&mut self, node: TargetId) {
        let (anchor, token) = self.probe_of(node);
        self.serve_probe(node, anchor, &token);
    }

    /// The device has become a client again, there.
    #[track_caller]
    pub(super) fn come_back(
        &mut self,
        anchor: ConnectionId,
        token: &AnchorToken,
        registration: RegistrationId,
        conn: &str,
    ) {
        self.devices.dialed(self.now, anchor, Ok(()));
        self.socket_says(conn, &token.line());
        self.expect_authenticate(registration, anchor, conn);
        self.answer(anchor, CallOutcome::Done);
        self.expect_subscribe(registration, anchor, conn);
        self.answer(anchor, CallOutcome::Done);
    }
}

pub(super) fn of_devices(
    dials: &[(Duration, AnchorOwner, TargetId, ConnectionId, AnchorToken)],
) -> Vec<(RegistrationId, TargetId)> {
    let device = |owner: &AnchorOwner| match owner {
        AnchorOwner::Device(device) => Some(*device),
        AnchorOwner::Probe(_) => None,
    };
    dials.iter().filter_map(|(_, owner, node, ..)| Some((device(owner)?, *node))).collect()
}

#[test]
fn while_the_broker_is_away_connects_fail_at_once_and_one_probe_a_second_looks_for_it() {
    let mut scene = ExProtoScene::new();
    scene.command_connect(ONE, "ep1");
    let (anchor, _) = scene.expect_dial();
    scene.devices.dialed(scene.now, anchor, not_reached());
    scene.expect_unavailable(ONE);
    scene.expect(&[hang_up(anchor)]);

    for id in 2..5 {
        scene.command_connect(RegistrationId(id), &format!("ep{id}"));
        scene.expect_unavailable(RegistrationId(id));
        scene.expect_nothing();
    }
    let probes = scene.dials(seconds(10), &[A]);
    let times: Vec<_> = probes.iter().map(|(at, ..)| at.as_millis()).collect();
    assert_eq!(times, [100, 1100, 2100, 3100, 4100, 5100, 6100, 7100, 8100, 9100]);
    assert!(probes.iter().all(|(_, owner, ..)| *owner == AnchorOwner::Probe(A)));

    scene.recover(A);
    scene.expect_nothing();
    scene.connect(ONE, "c1");
    assert_eq!((scene.metrics.nodes_failed.get(), scene.metrics.nodes_recovered.get()), (1, 1));
    assert_eq!(scene.metrics.probes.get(), 11);
}

#[test]
fn devices_that_were_lost_wait_for_a_probe_that_succeeds_and_come_back_in_turn() {
    let mut scene = ExProtoScene::new();
    let anchors: Vec<_> = (1..=20).map(|id| scene.connect(RegistrationId(id), &format!("c{id}"))).collect();
    for anchor in &anchors {
        scene.devices.anchor_ended(scene.now, *anchor);
    }
    scene.actions();
    for id in 1..=20 {
        scene.publish(RegistrationId(id), "during the outage");
    }
    let dials = scene.dials(seconds(30), &[A]);
    assert_eq!(of_devices(&dials).len(), 1, "one device finds out that the broker is away");

    scene.recover(A);
    // The first one has its turn at once, the others ten in a second.
    let actions = scene.actions();
    let [ExProtoAction::Dial { .. }] = actions.as_slice() else { panic!("{actions:?}") };
    let dials = scene.dials(seconds(3), &[]);
    assert_eq!(of_devices(&dials).len(), 19);
    for ((earlier, ..), (later, ..)) in dials.iter().zip(&dials[1..]) {
        assert!(*later - *earlier >= Duration::from_millis(100), "{dials:?}");
    }
    let (_, owner, _, anchor, token) = &dials[0];
    let AnchorOwner::Device(device) = *owner else { panic!("{owner:?}") };
    assert!(dials.iter().all(|(_, owner, ..)| matches!(owner, AnchorOwner::Device(_))));
    let call = AdapterCall::Authenticate { conn: "again".to_owned(), client: client(&scene.clientids[&device]) };
    scene.socket_says("again", &token.line());
    scene.expect(&[ExProtoAction::Call { anchor: *anchor, node: A, call }]);
    scene.answer(*anchor, CallOutcome::Done);
    scene.expect_subscribe(device, *anchor, "again");
    scene.answer(*anchor, CallOutcome::Done);
    scene.expect_publish(device, *anchor, "during the outage");
    assert_eq!(scene.metrics.dropped_answers.get(), 0);
}

#[test]
fn new_devices_are_spread_over_the_nodes_that_are_up() {
    let (mut scene, _) = ExProtoScene::with_devices(6);
    scene.expect_nothing();
    scene.command_connect(RegistrationId(7), "ep7");
    let (refused, _) = scene.expect_dial();
    assert_eq!(scene.dialed[&refused], A);

    // A node that refuses it is no matter to the device: it is at the next one within the same Connect.
    scene.devices.dialed(scene.now, refused, not_reached());
    assert_eq!(scene.devices.poll_action(), Some(hang_up(refused)));
    let anchor = scene.attempt(RegistrationId(7), "c7");
    scene.expect(&[ExProtoAction::Emit(BrokerEvent::Connected { registration: RegistrationId(7) })]);
    assert_eq!(scene.dialed[&anchor], B);
    for id in 8..12 {
        let anchor = scene.connect(RegistrationId(id), &format!("c{id}"));
        assert_eq!(scene.dialed[&anchor], B);
    }
}

#[test]
fn a_connect_that_no_node_takes_is_unavailable_when_each_was_tried_once() {
    let mut scene = ExProtoScene::with_two_nodes();
    scene.command_connect(ONE, "ep1");
    let (first, _) = scene.expect_dial();
    scene.devices.dialed(scene.now, first, Ok(()));
    scene.devices.anchor_ended(scene.now, first);
    assert_eq!(scene.devices.poll_action(), Some(hang_up(first)));
    let (second, _) = scene.expect_dial();
    assert_eq!([scene.dialed[&first], scene.dialed[&second]], [A, B]);
    scene.devices.dialed(scene.now, second, Ok(()));
    scene.devices.anchor_ended(scene.now, second);
    scene.expect_unavailable(ONE);
    scene.expect(&[hang_up(second)]);
    assert!(scene.devices.is_empty());
}

#[test]
fn when_a_node_is_killed_its_devices_move_and_those_of_the_other_node_notice_nothing() {
    let (mut scene, anchors) = ExProtoScene::with_devices(8);
    for anchor in anchors.iter().step_by(2) {
        scene.devices.anchor_ended(scene.now, *anchor);
    }
    scene.expect(&anchors.iter().step_by(2).map(|anchor| hang_up(*anchor)).collect::<Vec<_>>());

    let dials = of_devices(&scene.dials(seconds(10), &[A]));
    let at = |node| dials.iter().filter(|(_, to)| *to == node).map(|(device, _)| device.0).collect::<Vec<_>>();
    let (refused, mut moved) = (at(A), at(B));
    assert_eq!(refused.len(), 1, "one finds out that A is gone");
    moved.sort_unstable();
    assert_eq!(moved, [1, 3, 5, 7]);
    for (number, anchor) in anchors.iter().skip(1).step_by(2).enumerate() {
        let device = RegistrationId(number as u64 * 2 + 2);
        scene.publish(device, "undisturbed");
        scene.expect_publish(device, *anchor, "undisturbed");
    }
}

#[test]
fn a_single_connection_that_is_lost_is_made_again_at_the_same_node() {
    let (mut scene, anchors) = ExProtoScene::with_devices(3);
    for (device, anchor, node) in [(ONE, anchors[0], A), (TWO, anchors[1], B)] {
        scene.devices.anchor_ended(scene.now, anchor);
        scene.expect(&[hang_up(anchor)]);
        scene.advance_to_deadline();
        let anchor = scene.attempt(device, &format!("again{}", device.0));
        assert_eq!(scene.dialed[&anchor], node);
    }
    assert_eq!(scene.metrics.moved.get(), 0);
}

#[test]
fn a_device_whose_publication_finds_the_adapter_away_moves_and_publishes_it_at_the_other_node() {
    let (mut scene, anchors) = ExProtoScene::with_devices(2);
    scene.publish(ONE, "a");
    scene.expect_publish(ONE, anchors[0], "a");
    scene.publish(ONE, "b");
    scene.answer(anchors[0], unreachable());
    scene.expect(&[hang_up(anchors[0])]);
    let dials = scene.dials(seconds(2), &[A]);
    let (_, _, node, anchor, token) =
        dials.iter().find(|(_, owner, ..)| *owner == AnchorOwner::Device(ONE)).expect("a dial of the device");
    assert_eq!(*node, B);
    scene.come_back(*anchor, token, ONE, "c3");
    scene.expect_publish(ONE, *anchor, "a");
    scene.answer(*anchor, CallOutcome::Done);
    scene.expect_publish(ONE, *anchor, "b");
    assert_eq!(scene.metrics.moved.get(), 1);
}

#[test]
fn the_silent_clients_of_a_node_whose_adapter_is_away_are_taken_to_the_other_one() {
    let (mut scene, anchors) = ExProtoScene::with_devices(6);
    scene.publish(ONE, "a");
    scene.expect_publish(ONE, anchors[0], "a");
    scene.answer(anchors[0], unreachable());
    scene.expect(&[hang_up(anchors[0])]);

    // The listener is there, the adapter is not. One probe is not enough.
    for number in 0..2 {
        let (probe, token) = scene.probe_of(A);
        let hung_up = scene.actions();
        assert_eq!(hung_up, []);
        scene.devices.dialed(scene.now, probe, Ok(()));
        scene.socket_says(&format!("probe{number}"), &token.line());
        scene.actions();
        scene.answer(probe, unreachable());
        let mut hung_up = scene.actions();
        hung_up.sort_by_key(|action| format!("{action:?}"));
        let clients: &[ConnectionId] = if number == 0 { &[] } else { &[anchors[2], anchors[4]] };
        assert_eq!(hung_up, clients.iter().chain([&probe]).map(|anchor| hang_up(*anchor)).collect::<Vec<_>>());
    }
    let moved = of_devices(&scene.dials(seconds(3), &[A]));
    let mut ids: Vec<_> = moved.iter().map(|(device, _)| device.0).collect();
    ids.sort_unstable();
    assert_eq!(ids, [3, 5]);
    assert!(moved.iter().all(|(_, node)| *node == B));
}

#[test]
fn a_hanging_adapter_is_left_after_three_calls_in_a_row_without_an_answer() {
    let (mut scene, anchors) = ExProtoScene::with_devices(8);
    for number in [0, 2] {
        scene.publish(RegistrationId(number as u64 + 1), "a");
        scene.expect_publish(RegistrationId(number as u64 + 1), anchors[number], "a");
    }
    scene.advance(seconds(1));
    scene.publish(RegistrationId(5), "a");
    scene.expect_publish(RegistrationId(5), anchors[4], "a");
    scene.advance(PUBLISH_TIMEOUT - seconds(1));
    scene.expect(&[hang_up(anchors[0]), hang_up(anchors[2])]);
    assert_eq!(scene.metrics.nodes_failed.get(), 0);
    scene.advance(seconds(1));
    assert!(scene.actions().contains(&hang_up(anchors[4])));
    assert_eq!(scene.metrics.nodes_failed.get(), 1);

    // Calls are not cancelled: what is taken at last need not be sent again.
    scene.answer(anchors[0], CallOutcome::Done);
    assert_eq!(scene.metrics.publishes_ok.get(), 1);

    // A probe is taken and told, and its call hangs too: the last client of the node is taken away at the second one.
    // The others are on their way to the other node by then.
    let mut left = Vec::new();
    for number in 0..2 {
        let (probe, token) = scene.probe_of(A);
        scene.devices.dialed(scene.now, probe, Ok(()));
        scene.socket_says(&format!("probe{number}"), &token.line());
        scene.advance(seconds(4));
        left.extend(scene.actions());
    }
    assert!(!left.contains(&hang_up(anchors[6])));
    scene.advance(seconds(1));
    assert!(scene.actions().contains(&hang_up(anchors[6])));
    let device = |anchor| matches!(scene.devices.protocol.by_anchor.get(anchor), Some(AnchorOwner::Device(_)));
    let moving = scene.dialed.iter().filter(|(anchor, _)| device(*anchor) && !anchors.contains(anchor));
    assert_eq!(moving.map(|(_, node)| *node).collect::<Vec<_>>(), [B, B, B]);
}

#[test]
fn a_node_that_does_not_call_the_handler_gets_no_more_devices() {
    for at_once in [false, true] {
        let (mut scene, anchors) = ExProtoScene::with_devices(12);
        for anchor in anchors.iter().step_by(2).take(3) {
            scene.devices.anchor_ended(scene.now, *anchor);
        }
        scene.actions();
        // Each of the three dials A again, which takes the anchor and does not tell of it.
        let dials = scene.dials(seconds(3), &[]);
        assert_eq!(of_devices(&dials).iter().map(|(_, node)| *node).collect::<Vec<_>>(), [A, A, A]);
        for (_, _, _, anchor, _) in &dials {
            scene.devices.dialed(scene.now, *anchor, Ok(()));
            if at_once {
                scene.devices.anchor_ended(scene.now, *anchor);
            }
        }
        if !at_once {
            scene.advance(CONNECT_TIMEOUT);
        }
        scene.actions();
        assert_eq!(scene.metrics.nodes_failed.get(), 1);
        scene.command_connect(RegistrationId(13), "ep13");
        let (anchor, _) = scene.expect_dial();
        assert_eq!(scene.dialed[&anchor], B);
        // The three move. The clients that are there stay for now.
        let moved = of_devices(&scene.dials(A_MOMENT, &[]));
        assert_eq!(moved, []);
        let moved = of_devices(&scene.dials(seconds(5), &[]));
        assert_eq!(moved.iter().filter(|(_, node)| *node == B).count(), 3, "{moved:?}");
    }
}

#[test]
fn clients_stay_at_a_node_that_only_takes_no_new_anchors() {
    let (mut scene, anchors) = ExProtoScene::with_devices(4);
    scene.devices.anchor_ended(scene.now, anchors[0]);
    scene.expect(&[hang_up(anchors[0])]);
    scene.dials(seconds(30), &[A]);
    scene.publish(RegistrationId(3), "a");
    scene.expect_publish(RegistrationId(3), anchors[2], "a");
    assert_eq!(scene.metrics.connections_lost.get(), 1);
}

#[test]
fn with_no_other_node_up_the_clients_stay_until_one_is() {
    let (mut scene, anchors) = ExProtoScene::with_devices(4);
    for number in [0, 1] {
        let device = RegistrationId(number as u64 + 1);
        scene.publish(device, "a");
        scene.expect_publish(device, anchors[number], "a");
        scene.answer(anchors[number], unreachable());
        scene.expect(&[hang_up(anchors[number])]);
    }
    scene.dials(seconds(20), &[A, B]);
    assert_eq!(scene.metrics.connections_lost.get(), 2);
    scene.command_connect(RegistrationId(9), "ep9");
    scene.expect_unavailable(RegistrationId(9));

    scene.recover(B);
    let now = scene.actions();
    assert!(now.contains(&hang_up(anchors[2])), "{now:?}");
    assert!(!now.contains(&hang_up(anchors[3])), "{now:?}");
}

#[test]
fn a_node_that_is_back_gets_the_next_devices_and_none_is_moved() {
    let (mut scene, anchors) = ExProtoScene::with_devices(4);
    for anchor in [anchors[0], anchors[2]] {
        scene.devices.anchor_ended(scene.now, anchor);
    }
    scene.actions();
    let mut conns = 10..;
    for (_, owner, _, anchor, token) in scene.dials(seconds(10), &[A]) {
        if let (AnchorOwner::Device(device), true) = (owner, scene.dialed[&anchor] == B) {
            let conn = format!("c{}", conns.next().expect("a number"));
            scene.come_back(anchor, &token, device, &conn);
        }
    }
    assert_eq!(scene.metrics.moved.get(), 2);

    scene.recover(A);
    scene.expect_nothing();
    assert_eq!(of_devices(&scene.dials(seconds(4), &[])), []);
    for (id, expected) in [(5, A), (6, A), (7, A), (8, A)] {
        let anchor = scene.connect(RegistrationId(id), &format!("c{id}"));
        assert_eq!(scene.dialed[&anchor], expected, "{id}");
    }
    let anchor = scene.connect(RegistrationId(9), "c9");
    assert_eq!(scene.dialed[&anchor], A, "as many there as at B, and A is the first");
}

#[test]
fn the_kick_of_a_device_that_moved_is_heard_from_its_new_node_and_not_from_the_one_before() {
    let (mut scene, anchors) = ExProtoScene::with_devices(2);
    scene.publish(ONE, "a");
    scene.expect_publish(ONE, anchors[0], "a");
    scene.answer(anchors[0], unreachable());
    scene.expect(&[hang_up(anchors[0])]);
    let dials = scene.dials(seconds(2), &[A]);
    let (_, _, _, anchor, token) =
        dials.iter().find(|(_, owner, ..)| *owner == AnchorOwner::Device(ONE)).expect("a dial of the device");
    scene.come_back(*anchor, token, ONE, "c3");
    scene.expect_publish(ONE, *anchor, "a");
    scene.socket_closed("c1", "{shutdown,discarded}");
    scene.expect_nothing();
    scene.socket_closed("c3", "{shutdown,kicked}");
    scene.expect(&[closed(ONE, CloseReason::Kicked), hang_up(*anchor)]);
}

#[test]
fn a_node_is_looked_at_before_there_are_devices() {
    let mut scene = ExProtoScene::new();
    let health = scene.devices.take_health().unwrap();
    assert_eq!((health.serving, health.detail.as_str()), (false, "a has not answered yet"));
    scene.devices.probe_all(scene.now);
    let (anchor, token) = scene.expect_dial();
    scene.serve_probe(A, anchor, &token);
    let health = scene.devices.take_health().unwrap();
    assert_eq!((health.serving, health.detail.as_str()), (true, "a is available"));
    assert_eq!(scene.metrics.nodes_recovered.get(), 0);
    assert_eq!(scene.devices.take_health(), None);
}

#[test]
fn a_node_that_is_away_from_the_start_is_probed_until_it_serves() {
    let mut scene = ExProtoScene::new();
    scene.devices.probe_all(scene.now);
    let (anchor, _) = scene.expect_dial();
    scene.devices.dialed(scene.now, anchor, not_reached());
    scene.expect(&[hang_up(anchor)]);
    let health = scene.devices.take_health().unwrap();
    assert!(
        !health.serving && health.detail.contains("cannot be reached: connection refused. Is EMQX running"),
        "{health:?}"
    );
    let occupancy = scene.devices.table_sizes();
    assert_eq!((occupancy.nodes_available, occupancy.nodes_unavailable), (0, 1));
    scene.recover(A);
    assert!(scene.devices.take_health().unwrap().serving);
    assert_eq!(scene.devices.table_sizes().nodes_available, 1);
}

#[test]
fn a_device_that_finds_the_node_away_first_leaves_the_first_probe_its_time() {
    let mut scene = ExProtoScene::new();
    scene.devices.probe_all(scene.now);
    let (probe, token) = scene.expect_dial();
    scene.command_connect(ONE, "ep1");
    let (anchor, _) = scene.expect_dial();
    scene.devices.dialed(scene.now, anchor, not_reached());
    assert_eq!(scene.devices.table_sizes().nodes_unavailable, 1);
    while scene.devices.poll_action().is_some() {}
    assert_eq!(scene.dials(seconds(4), &[]), []);
    scene.serve_probe(A, probe, &token);
    assert_eq!(scene.devices.table_sizes().nodes_available, 1);
}

#[test]
fn a_want_of_file_descriptors_is_no_fault_of_the_node() {
    let mut scene = ExProtoScene::new();
    scene.devices.probe_all(scene.now);
    let (anchor, _) = scene.expect_dial();
    scene.devices.dialed(scene.now, anchor, nothing_left());
    scene.expect(&[hang_up(anchor)]);
    scene.advance_to_deadline();
    let (anchor, token) = scene.expect_dial();
    scene.serve_probe(A, anchor, &token);

    scene.command_connect(ONE, "ep1");
    let (anchor, _) = scene.expect_dial();
    scene.devices.dialed(scene.now, anchor, nothing_left());
    scene.expect_unavailable(ONE);
    assert_eq!((scene.devices.table_sizes().nodes_available, scene.metrics.nodes_failed.get()), (1, 0));
}
