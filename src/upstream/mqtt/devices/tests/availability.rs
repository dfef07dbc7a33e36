//! What the gateway knows of a broker without devices, how it brings devices back, and what a refusal means.

use lwm2m_core::gateway::broker::Will;

use super::*;

impl MqttScene {
    /// So many devices, `1..=count`, are clients.
    fn with_clients(count: u64) -> (Self, Vec<ConnectionId>) {
        let mut scene = Self::new();
        let connections = (1..=count).map(|id| scene.connect(RegistrationId(id))).collect();
        (scene, connections)
    }

    /// With a client ID of its own.
    fn connect_another(&mut self, id: u64) -> ConnectionId {
        self.command_connect(RegistrationId(id), &format!("ep{id}"));
        let connection = self.attempt(&A, false);
        self.expect_told(&[BrokerEvent::Connected { registration: RegistrationId(id) }]);
        connection
    }

    fn with_different_clients(count: u64) -> (Self, Vec<ConnectionId>) {
        let mut scene = Self::new();
        let connections = (1..=count).map(|id| scene.connect_another(id)).collect();
        (scene, connections)
    }

    fn lose(&mut self, connections: &[ConnectionId]) {
        for connection in connections {
            self.devices.ended(self.now, *connection, "reset");
        }
        self.actions();
    }

    /// The next attempt, when its time has come.
    fn next_dial(&mut self) -> ConnectionId {
        loop {
            self.advance_to_deadline();
            for action in self.actions() {
                if let MqttAction::Dial { connection, .. } = action {
                    return connection;
                }
            }
        }
    }

    fn refuse(&mut self, connection: ConnectionId, reason: Reason) {
        self.open(connection);
        self.hear(connection, connack(reason, false, None));
    }

    /// From the dial to the answer to SUBSCRIBE; gives what is to be done after it.
    fn come_back(&mut self, connection: ConnectionId) -> Vec<MqttAction> {
        self.devices.opened(self.now, connection);
        self.hear(connection, accepted(true));
        let mut others = Vec::new();
        for action in self.actions() {
            match action {
                MqttAction::Send { connection: on, bytes } if on == connection => {
                    if let Some(SentPacket::Subscribe(packet)) = said(&bytes).pop() {
                        self.hear(connection, Incoming::SubAck { packet: id(packet), reason: Reason(1) });
                    }
                }
                other => others.push(other),
            }
        }
        others.extend(self.actions());
        others
    }

    #[track_caller]
    fn detail(&mut self) -> String {
        self.devices.take_health().expect("a change").detail
    }

    fn probed(&mut self, outcome: Probed) {
        self.devices.probed(self.now, TargetId(0), outcome);
    }

    #[track_caller]
    fn expect_probe(&mut self) {
        self.expect(&[MqttAction::Probe { broker: TargetId(0) }]);
    }
}

fn dialed(actions: &[MqttAction]) -> Vec<ConnectionId> {
    let dialed = |action: &MqttAction| match action {
        MqttAction::Dial { connection, .. } => Some(*connection),
        _ => None,
    };
    actions.iter().filter_map(dialed).collect()
}

// -- Probes -----------------------------------------------------------------------------------------------------------

#[test]
fn a_broker_without_devices_is_probed_all_the_time_and_its_end_is_noticed() {
    let mut scene = MqttScene::new();
    scene.devices.probe_all(scene.now);
    scene.expect_probe();
    scene.probed(accepts());
    assert_eq!(scene.detail(), "a:1883 is available");
    for _ in 0..3 {
        assert_eq!(scene.advance_to_deadline(), seconds(5));
        scene.expect_probe();
        scene.probed(accepts());
        assert_eq!(scene.devices.take_health(), None);
    }

    assert_eq!(scene.advance_to_deadline(), seconds(5));
    scene.expect_probe();
    scene.probed(unreachable());
    assert!(!scene.devices.take_health().expect("a change").serving);
    assert_eq!((scene.devices.table_sizes().nodes_unavailable, scene.metrics.nodes_failed.get()), (1, 1));
    for _ in 0..3 {
        assert_eq!(scene.advance_to_deadline(), seconds(1));
        scene.expect_probe();
        scene.probed(unreachable());
    }
    assert_eq!(scene.advance_to_deadline(), seconds(1));
    scene.expect_probe();
    scene.probed(accepts());
    assert!(scene.devices.take_health().expect("a change").serving);
    assert_eq!((scene.devices.table_sizes().nodes_unavailable, scene.metrics.nodes_recovered.get()), (0, 1));
    assert_eq!(scene.metrics.probes.get(), 9);
}

#[test]
fn a_broker_that_closes_probes_at_once_is_unavailable_the_third_time() {
    let mut scene = MqttScene::new();
    scene.devices.probe_all(scene.now);
    scene.probed(accepts());
    scene.devices.take_health();
    for number in 1..=3 {
        let wait = scene.advance_to_deadline();
        assert_eq!(wait, seconds(if number == 1 { 5 } else { 1 }));
        scene.probed(Probed::Closed);
        assert_eq!(scene.devices.take_health().is_some(), number == 3);
    }
}

#[test]
fn a_probe_that_finds_no_descriptor_says_nothing_of_the_broker() {
    let mut scene = MqttScene::new();
    scene.devices.probe_all(scene.now);
    scene.probed(accepts());
    scene.advance_to_deadline();
    scene.devices.take_health();
    scene.probed(Probed::NotOpened(DialFailure::Local("no file descriptor is left".to_owned())));
    let standing = scene.devices.take_health().expect("a change");
    assert!(standing.serving && standing.detail.contains("no file descriptor is left"), "{standing:?}");
    assert_eq!(scene.advance_to_deadline(), seconds(1));
    scene.probed(accepts());
    assert_eq!(scene.detail(), "a:1883 is available");
}

#[test]
fn a_device_whose_connections_the_broker_closes_does_not_keep_others_away() {
    let (mut scene, _) = MqttScene::with_clients(1);
    for _ in 0..20 {
        scene.command_connect(TWO, "ep\u{1}");
        let connection = scene.expect_dial(&A);
        scene.open(connection);
        scene.devices.ended(scene.now, connection, "the broker closed the connection");
        scene.actions();
    }
    assert_eq!((scene.devices.table_sizes().nodes_unavailable, scene.metrics.nodes_failed.get()), (0, 0));
    scene.connect_another(3);
}

// -- The way back -----------------------------------------------------------------------------------------------------

#[test]
fn a_probe_that_succeeds_connects_the_device_that_was_active_last_at_once_and_the_others_in_their_turn() {
    let (mut scene, connections) = MqttScene::with_different_clients(20);
    // The odd ones say something, the later the lower their number is.
    for id in (1..=20).rev().filter(|id| id % 2 == 1) {
        scene.now += Duration::from_millis(1);
        scene.publish(RegistrationId(id), "a");
        let packet = scene.expect_published(connections[id as usize - 1], &["a"], false)[0];
        scene.acknowledge(connections[id as usize - 1], packet);
    }
    scene.lose(&connections);
    // One of them finds out that the broker is away; then it is back, when most are in their back-off.
    let found_out = scene.next_dial();
    scene.devices.ended(scene.now, found_out, "refused");
    scene.advance(Duration::from_millis(100));
    scene.actions();
    let states = scene.devices.devices.values().map(|device| &device.state);
    let back_off = states.filter(|state| matches!(state, DeviceState::WaitingToReconnect(Wait::BackOff)));
    assert!(back_off.count() > 5);
    scene.probed(accepts());

    let mut order = Vec::new();
    let begun = scene.now;
    let mut due = dialed(&scene.actions());
    loop {
        let [connection] = due.as_slice() else { panic!("not ten in a second: {due:?}") };
        order.push(scene.devices.protocol.by_connection[connection].0);
        let after = scene.come_back(*connection);
        assert!(matches!(after.as_slice(), [MqttAction::Emit(BrokerEvent::Reconnected { .. })]), "{after:?}");
        if scene.devices.returning.awaited() == 0 {
            break;
        }
        scene.advance(Duration::from_millis(100));
        due = dialed(&scene.actions());
    }
    let expected: Vec<u64> = (1..=20).step_by(2).chain((2..=20).step_by(2)).collect();
    assert_eq!(order, expected);
    assert_eq!(scene.now - begun, Duration::from_millis(1_900));
}

// -- Refusals ---------------------------------------------------------------------------------------------------------

#[test]
fn a_client_that_is_refused_when_it_comes_back_is_closed_when_that_lasts_while_others_are_served() {
    for reason in [0x85, 0x86, 0x87, 0x8c] {
        let (mut scene, connections) = MqttScene::with_different_clients(2);
        scene.lose(&connections[..1]);
        let mut first = None;
        loop {
            let connection = scene.next_dial();
            scene.refuse(connection, Reason(reason));
            let since = *first.get_or_insert(scene.now);
            let actions = scene.actions();
            if actions == [MqttAction::HangUp { connection }] {
                continue;
            }
            let event = BrokerEvent::Closed { registration: ONE, reason: CloseReason::Refused };
            assert_eq!(actions, [MqttAction::Emit(event), MqttAction::HangUp { connection }]);
            assert!((seconds(30)..=seconds(60)).contains(&(scene.now - since)), "{:?}", scene.now - since);
            break;
        }
    }
}

#[test]
fn a_subscription_that_is_refused_when_a_client_comes_back_is_no_verdict_at_once_either() {
    type Refuse = fn(&mut MqttScene, ConnectionId);
    let suback: Refuse = |scene, connection| scene.answer_subscribe(connection, 0x87);
    let disconnect: Refuse = |scene, connection| {
        scene.expect_subscribe(connection);
        scene.disconnect_by_broker(connection, 0x87, None);
    };
    for refuse in [suback, disconnect] {
        let (mut scene, connection) = MqttScene::with_ready_device();
        scene.lose(&[connection]);
        let connection = scene.next_dial();
        scene.open(connection);
        scene.hear(connection, accepted(true));
        refuse(&mut scene, connection);
        scene.expect(&[MqttAction::HangUp { connection }]);
        let connection = scene.next_dial();
        scene.devices.actions.clear();
        scene.open(connection);
        scene.hear(connection, accepted(true));
        scene.answer_subscribe(connection, 1);
        scene.expect_told(&[BrokerEvent::Reconnected { registration: ONE }]);
    }
}

#[test]
fn a_ban_is_final_at_once() {
    let (mut scene, connection) = MqttScene::with_ready_device();
    scene.lose(&[connection]);
    let connection = scene.next_dial();
    scene.refuse(connection, Reason::BANNED);
    let event = BrokerEvent::Closed { registration: ONE, reason: CloseReason::Refused };
    scene.expect(&[MqttAction::Emit(event), MqttAction::HangUp { connection }]);
}

#[test]
fn a_broker_that_is_short_of_something_gives_no_verdict() {
    for reason in [0x80, 0x83, 0x88, 0x89, 0x97, 0x9f] {
        let (mut scene, connections) = MqttScene::with_different_clients(1);
        scene.lose(&connections[..1]);
        let start = scene.now;
        while scene.now < start + seconds(300) {
            let connection = scene.next_dial();
            scene.refuse(connection, Reason(reason));
            scene.expect(&[MqttAction::HangUp { connection }]);
        }
        let connection = scene.next_dial();
        assert_eq!(
            scene.come_back(connection),
            [MqttAction::Emit(BrokerEvent::Reconnected { registration: ONE })],
            "{reason:x}"
        );
    }
    // The quota of subscriptions is none either: 5.03, and not 4.03.
    let mut scene = MqttScene::new();
    scene.command_connect(ONE, "ep1");
    let connection = scene.expect_dial(&A);
    scene.open(connection);
    scene.hear(connection, accepted(false));
    scene.answer_subscribe(connection, 0x97);
    assert!(matches!(scene.expect_failed(ONE, connection), ConnectError::Unavailable(_)));
}

/// EMQX listens before its authentication is up, and refuses everybody meanwhile.
#[test]
fn a_broker_whose_authentication_is_late_costs_no_device_its_registration() {
    let (mut scene, connections) = MqttScene::with_different_clients(8);
    scene.lose(&connections);
    let start = scene.now;
    let mut refusals = 0;
    while scene.now < start + seconds(90) {
        let connection = scene.next_dial();
        scene.refuse(connection, Reason::NOT_AUTHORIZED);
        scene.expect(&[MqttAction::HangUp { connection }]);
        refusals += 1;
    }
    assert!(refusals > 24, "{refusals}");
    let standing = scene.devices.take_health().expect("a change");
    assert!(standing.serving && standing.detail.contains("the broker refuses every device"), "{standing:?}");

    // The first that is accepted brings back the others, at ten in a second.
    let mut due = vec![scene.next_dial()];
    let accepted = scene.now;
    let mut back = 0;
    while back < 8 {
        for connection in std::mem::take(&mut due) {
            let after = scene.come_back(connection);
            back += 1;
            due.extend(dialed(&after));
        }
        if due.is_empty() && back < 8 {
            due.push(scene.next_dial());
        }
    }
    assert!(scene.now <= accepted + seconds(1), "{:?}", scene.now - accepted);
    assert_eq!(scene.detail(), "a:1883 is available");
}

#[test]
fn refusals_of_new_devices_are_told_when_all_of_the_last_three_were_refused_and_none_is_connected() {
    let mut scene = MqttScene::new();
    let refuse_subscription = |scene: &mut MqttScene| {
        scene.command_connect(ONE, "ep1");
        let connection = scene.expect_dial(&A);
        scene.open(connection);
        scene.hear(connection, accepted(false));
        scene.answer_subscribe(connection, 0x87);
        scene.actions();
    };
    for number in 1..=3 {
        scene.devices.take_health();
        refuse_subscription(&mut scene);
        assert_eq!(scene.devices.take_health().is_some(), number == 1 || number == 3);
    }
    scene.connect(ONE);
    assert_eq!(scene.detail(), "a:1883 is available");
}

// -- Wills ------------------------------------------------------------------------------------------------------------

#[test]
fn the_will_of_a_device_that_was_never_let_in_is_not_published() {
    type End = fn(&mut MqttScene, ConnectionId);
    let refused: End = |scene, connection| scene.answer_subscribe(connection, 0x87);
    let silent: End = |scene, connection| {
        scene.expect_subscribe(connection);
        scene.advance(seconds(8));
    };
    let left: End = |scene, connection| {
        scene.expect_subscribe(connection);
        scene.disconnect(ONE);
    };
    for end in [refused, silent, left] {
        for version in [ProtocolVersion::V5, ProtocolVersion::V311] {
            let mut scene = MqttScene::with(|settings| settings.version = version);
            let will = Some(Will { topic: "up/status".to_owned(), qos: 1, payload: b"offline".to_vec() });
            let client = lwm2m_core::gateway::broker::ClientInfo { will, ..client("ep1") };
            scene.devices.command(scene.now, BrokerCommand::Connect { registration: ONE, client });
            let connection = scene.expect_dial(&A);
            scene.open(connection);
            scene.hear(connection, accepted(false));
            end(&mut scene, connection);
            // DISCONNECT without the will, and the session ends.
            let actions = scene.actions();
            let [.., MqttAction::Send { bytes, .. }, MqttAction::Close { connection: closed }] = actions.as_slice()
            else {
                panic!("{actions:?}")
            };
            let session_expiry = (version == ProtocolVersion::V5).then_some(0);
            assert_eq!(said(bytes).last(), Some(&SentPacket::Disconnect { reason: 0, session_expiry }));
            assert_eq!(*closed, connection);
            assert!(scene.devices.is_empty());
        }
    }
}

// -- Times ------------------------------------------------------------------------------------------------------------

#[test]
fn the_times_of_the_brokers_answers_are_measured() {
    let mut scene = MqttScene::new();
    scene.command_connect(ONE, "ep1");
    let connection = scene.expect_dial(&A);
    scene.open(connection);
    scene.advance(Duration::from_millis(20));
    scene.hear(connection, accepted(false));
    scene.advance(Duration::from_millis(30));
    scene.answer_subscribe(connection, 1);
    scene.expect_told(&[BrokerEvent::Connected { registration: ONE }]);
    scene.publish(ONE, "a");
    let packet = scene.expect_published(connection, &["a"], false)[0];
    scene.advance(Duration::from_millis(40));
    scene.acknowledge(connection, packet);
    scene.probed(Probed::Accepted { took: Duration::from_millis(50) });

    let times = &scene.metrics.times;
    let measured =
        [(&times.authenticate, 0.02), (&times.subscribe, 0.03), (&times.publish, 0.04), (&times.probe, 0.05)];
    for (histogram, seconds) in measured {
        assert!((sum(histogram) - seconds).abs() < 1e-9, "{seconds}: {}", sum(histogram));
    }
}

/// The sum as the page of metrics shows it.
fn sum(histogram: &prometheus_client::metrics::histogram::Histogram) -> f64 {
    let mut registry = prometheus_client::registry::Registry::default();
    registry.register("time", "A time", histogram.clone());
    let mut page = String::new();
    prometheus_client::encoding::text::encode(&mut page, &registry).expect("a page");
    let line = page.lines().find_map(|line| line.strip_prefix("time_sum ")).expect("a sum");
    line.parse().expect("a number")
}
