//! The promises of the shared lifecycle over MQTT.

use std::collections::HashMap;

use crate::upstream::client::lifecycle_tests::{LifecycleBroker, Observed, lifecycle_tests};

use super::*;

/// Plays a broker that keeps sessions, and answers every packet but PUBLISH.
struct SessionBroker {
    scene: MqttScene,
    /// The packet identifiers of the publications without an answer, the oldest first.
    unanswered: HashMap<ConnectionId, Vec<u16>>,
    observed: Vec<Observed>,
}

impl SessionBroker {
    fn look(&mut self) {
        while let Some(action) = self.scene.devices.poll_action() {
            match action {
                MqttAction::Dial { connection, .. } => self.observed.push(Observed::Dialed(connection)),
                MqttAction::Close { connection } | MqttAction::HangUp { connection } => {
                    self.observed.push(Observed::HungUp(connection));
                }
                MqttAction::Send { connection, bytes } => {
                    said(&bytes).into_iter().for_each(|packet| self.answer(connection, packet));
                }
                MqttAction::Probe { .. } | MqttAction::Emit(BrokerEvent::Reconnected { .. }) => {}
                MqttAction::Emit(event) => self.observed.push(Observed::Told(event)),
            }
        }
    }

    fn answer(&mut self, connection: ConnectionId, packet: SentPacket) {
        match packet {
            SentPacket::Connect => self.scene.hear(connection, accepted(true)),
            SentPacket::Subscribe(packet) => {
                self.scene.hear(connection, Incoming::SubAck { packet: id(packet), reason: Reason(1) });
            }
            SentPacket::Publish { topic, id, .. } => {
                self.unanswered.entry(connection).or_default().push(id);
                self.observed.push(Observed::Published(connection, topic));
            }
            SentPacket::Ping => self.scene.hear(connection, Incoming::Pong),
            SentPacket::PubAck(_) | SentPacket::Unsubscribe | SentPacket::Disconnect { .. } => {}
        }
    }
}

impl LifecycleBroker for SessionBroker {
    fn new() -> Self {
        // No PINGREQ, so that no deadline is left by it. One publication is in flight at a time, as over ExProto.
        let scene = MqttScene::with(|config| (config.keep_alive, config.window) = (Duration::ZERO, 1));
        Self { scene, unanswered: HashMap::new(), observed: Vec::new() }
    }

    fn now(&self) -> Instant {
        self.scene.now
    }

    fn metrics(&self) -> &UpstreamMetrics {
        &self.scene.metrics
    }

    fn client(clientid: &str) -> ClientInfo {
        client(clientid)
    }

    fn publication(topic: &str) -> Publication {
        publication(topic, 1)
    }

    fn command(&mut self, command: BrokerCommand) {
        self.scene.devices.command(self.scene.now, command);
    }

    fn advance(&mut self, time: Duration) {
        self.scene.advance(time);
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.scene.devices.next_deadline()
    }

    fn accept(&mut self, connection: ConnectionId) {
        self.look();
        self.scene.devices.opened(self.scene.now, connection);
        self.look();
    }

    fn acknowledge(&mut self, connection: ConnectionId) {
        let packet = self.unanswered.get_mut(&connection).expect("a publication").remove(0);
        self.scene.acknowledge(connection, packet);
    }

    fn refuse(&mut self, connection: ConnectionId) {
        let packet = self.unanswered.get_mut(&connection).expect("a publication").remove(0);
        self.scene.hear(connection, Incoming::PubAck { packet: id(packet), reason: Reason(0x87) });
    }

    fn lose(&mut self, connection: ConnectionId) {
        self.scene.devices.ended(self.scene.now, connection, "reset");
    }

    fn observe(&mut self) -> Vec<Observed> {
        self.look();
        std::mem::take(&mut self.observed)
    }
}

lifecycle_tests!(SessionBroker);
