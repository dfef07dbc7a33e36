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

    fn probed(&mut self, outcome: Probed) {
        self.devices.probed(self.now, TargetId(0), outcome);
    }
}

// -- Probes -----------------------------------------------------------------------------------------------------------

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

// -- Refusals ---------------------------------------------------------------------------------------------------------

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
            let mut scene = MqttScene::with(|config| config.version = version);
            let will = Will { topic: "up/status".to_owned(), qos: 1, payload: b"offline".to_vec() };
            let will = Some(Box::new(will));
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
