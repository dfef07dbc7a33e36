//! The promises of the shared lifecycle over MQTT.

use std::collections::{HashMap, HashSet};

use crate::upstream::client::Devices;
use crate::upstream::client::lifecycle_tests::{LifecycleBroker, Observed, ProbeEnd, lifecycle_tests};

use super::*;

/// Plays a broker that keeps sessions, and answers every packet but PUBLISH.
struct SessionBroker {
    scene: MqttScene,
    /// The packet identifiers of the publications without an answer, the oldest first.
    unanswered: HashMap<ConnectionId, Vec<u16>>,
    /// The connections on which neither CONNECT nor SUBSCRIBE has an answer.
    opened: HashSet<ConnectionId>,
    /// The packet identifier of the SUBSCRIBE without an answer.
    subscribing: HashMap<ConnectionId, u16>,
    is_probed: bool,
    observed: Vec<Observed>,
}

/// The reasons of a CONNACK that refuse a device, but for those that are final at once.
const REFUSALS: [u8; 4] = [0x85, 0x86, 0x87, 0x8c];

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
                MqttAction::Probe { .. } => self.is_probed = true,
                MqttAction::Emit(BrokerEvent::Reconnected { .. }) => {}
                MqttAction::Emit(event) => self.observed.push(Observed::Told(event)),
            }
        }
    }

    fn answer(&mut self, connection: ConnectionId, packet: SentPacket) {
        match packet {
            SentPacket::Connect if self.opened.contains(&connection) => {}
            SentPacket::Connect => self.scene.hear(connection, accepted(true)),
            SentPacket::Subscribe(packet) if self.opened.contains(&connection) => {
                self.subscribing.insert(connection, packet);
            }
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
    type Protocol = MqttProtocol;

    /// CONNECT is refused for each of the reasons, or SUBSCRIBE is.
    const REFUSALS: usize = REFUSALS.len() + 1;
    const AVAILABLE: &str = "a:1883 is available";

    fn new() -> Self {
        // No PINGREQ, so that no deadline is left by it. One publication is in flight at a time, as over ExProto.
        let scene = MqttScene::with(|config| (config.keep_alive, config.window) = (Duration::ZERO, 1));
        Self {
            scene,
            unanswered: HashMap::new(),
            opened: HashSet::new(),
            subscribing: HashMap::new(),
            is_probed: false,
            observed: Vec::new(),
        }
    }

    fn devices(&mut self) -> &mut Devices<MqttProtocol> {
        &mut self.scene.devices
    }

    fn now(&self) -> Instant {
        self.scene.now
    }

    fn metrics(&self) -> &UpstreamMetrics {
        &self.scene.metrics
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

    fn open(&mut self, connection: ConnectionId) {
        self.look();
        self.opened.insert(connection);
        self.scene.devices.opened(self.scene.now, connection);
        self.look();
    }

    fn grant(&mut self, connection: ConnectionId) {
        self.opened.remove(&connection);
        self.scene.hear(connection, accepted(true));
        self.look();
    }

    fn refuse_device(&mut self, connection: ConnectionId, way: usize) {
        self.open(connection);
        if let Some(reason) = REFUSALS.get(way) {
            return self.scene.hear(connection, connack(Reason(*reason), false, None));
        }
        self.scene.hear(connection, accepted(true));
        self.look();
        let packet = id(self.subscribing[&connection]);
        self.scene.hear(connection, Incoming::SubAck { packet, reason: Reason::NOT_AUTHORIZED });
    }

    fn fail_device(&mut self, connection: ConnectionId) {
        self.open(connection);
        self.scene.hear(connection, connack(Reason::SERVER_UNAVAILABLE, false, None));
    }

    fn fail_dial(&mut self, connection: ConnectionId) {
        let failure = DialFailure::NotReached("connection refused".to_owned());
        self.scene.devices.not_opened(self.scene.now, connection, &failure);
    }

    fn lack_descriptor(&mut self, connection: ConnectionId) {
        self.scene.devices.not_opened(self.scene.now, connection, &nothing_left());
    }

    fn take_over(&mut self, connection: ConnectionId) {
        self.scene.disconnect_by_broker(connection, 0x8e, None);
    }

    fn probe_all(&mut self) {
        self.scene.devices.probe_all(self.scene.now);
    }

    fn is_probed(&mut self) -> bool {
        self.look();
        self.is_probed
    }

    fn end_probe(&mut self, end: ProbeEnd) {
        let probed = match end {
            ProbeEnd::Served => accepts(),
            ProbeEnd::NotReached => unreachable(),
            ProbeEnd::Closed => Probed::Closed,
            ProbeEnd::NoDescriptor => Probed::NotOpened(nothing_left()),
        };
        self.is_probed = false;
        self.scene.devices.probed(self.scene.now, TargetId(0), probed);
        self.look();
    }

    /// While devices wait, their dials are the probes. What succeeds here is a probe that began before.
    fn recover(&mut self) {
        self.scene.devices.probed(self.scene.now, TargetId(0), accepts());
        self.look();
    }

    fn owner(&self, connection: ConnectionId) -> RegistrationId {
        self.scene.devices.protocol.by_connection[&connection]
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
