//! All devices as clients of an MQTT broker, as a state machine without sockets and clock.
//!
//! The shared lifecycle is that of `client`. Its states have these steps here:
//! 1. `Dialing`: the connection is being opened.
//! 2. `Connecting`: CONNECT is sent, with the earlier session if there is one.
//! 3. `Subscribing`: the filter of the device's commands is subscribed. Commands that waited in the session may come
//!    meanwhile.
//! 4. `Ready`: publications are sent in order, as many at a time as the windows allow. Those that were in flight when
//!    an earlier connection of the same session ended are sent first, once more.
//!
//! Publications belong to the client ID, as its session does. A publication of QoS 1 is delivered at least once. One of
//! QoS 0 is done when the connection has it.

mod connecting;
mod device;
mod probing;
mod publishing;
#[cfg(test)]
mod races;
#[cfg(test)]
mod random_tests;
mod superseding;
#[cfg(test)]
pub(crate) mod test_values;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use tracing::debug;

use crate::upstream::client::clients::ClientKey;
use crate::upstream::client::device::{ConnectionId, Destination, Leaving, UpstreamDevice, UpstreamState, Wait};
use crate::upstream::client::targets::{TargetId, Targets};
use crate::upstream::client::{self, ANSWER_PATIENCE, ClientTimer, EARLY_MESSAGES, Protocol};
use crate::upstream::dialer::DialFailure;
use crate::upstream::metrics::UpstreamMetrics;
use lwm2m_base::id_map::IdMap;
use lwm2m_core::gateway::broker::{BrokerEvent, ClientInfo, CloseReason, MessageReceipt, RegistrationId};

use super::MqttConfig;
use super::brokers::{BrokerFault, BrokerFaults, Brokers};
use super::codec::{self, Incoming, MqttMessage, PacketId, ProtocolVersion};
use super::reason::{Ending, Reason};
use device::{MqttAttempt, MqttRecord, MqttSession, OpenConnection};
use superseding::Orphan;

pub(super) use probing::Probed;

/// Holds all devices as clients of the broker.
pub(crate) type MqttDevices = client::Devices<MqttProtocol>;

/// Limits how long the broker may take to answer PUBLISH or PINGREQ, before the connection is given up.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// Limits how long the broker keeps a session, whatever the lifetime of its device is, so that the sessions of devices
/// that never return do not fill it.
const LONGEST_SESSION: Duration = Duration::from_secs(7 * 24 * 3600);

/// Lists what the state machine wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MqttAction {
    /// Opens a connection. [`MqttDevices::opened`], [`MqttDevices::not_opened`] or [`MqttDevices::ended`] has to
    /// follow, unless `HangUp` comes first.
    Dial {
        connection: ConnectionId,
        destination: Destination,
        version: ProtocolVersion,
    },
    Send {
        connection: ConnectionId,
        bytes: Vec<u8>,
    },
    /// Closes the connection after everything is sent.
    Close {
        connection: ConnectionId,
    },
    HangUp {
        connection: ConnectionId,
    },
    /// Probes a broker. [`MqttDevices::probed`] has to follow.
    Probe {
        broker: TargetId,
    },
    Emit(BrokerEvent),
}

impl From<BrokerEvent> for MqttAction {
    fn from(event: BrokerEvent) -> Self {
        Self::Emit(event)
    }
}

/// Keeps what is known of the broker beside the devices.
pub struct MqttProtocol {
    keep_alive: u16,
    window: usize,
    max_packet_size: usize,
    will_delay: Option<Duration>,
    by_connection: IdMap<ConnectionId, RegistrationId>,
    orphans: IdMap<ConnectionId, Orphan>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MqttTimer {
    /// Ends the time for which the connection of a replaced registration is read.
    HandOver(RegistrationId),
    Orphan(ConnectionId),
}

impl Protocol for MqttProtocol {
    const BROKER: &'static str = "the broker";

    type Action = MqttAction;
    type Attempt = MqttAttempt;
    type Connection = OpenConnection;
    type Message = MqttMessage;
    type Faults = BrokerFaults;
    type DeviceRecord = MqttRecord;
    type SharedRecord = MqttSession;
    type Timer = MqttTimer;

    fn choose(
        targets: &mut Targets<BrokerFaults>,
        now: Instant,
        before: Option<TargetId>,
        elsewhere: bool,
    ) -> Option<TargetId> {
        targets.try_or_choose(now, before, elsewhere)
    }

    fn dial(devices: &mut MqttDevices, id: RegistrationId, connection: ConnectionId, destination: Destination) {
        devices.begin_dial(id, connection, destination);
    }

    fn hang_up(devices: &mut MqttDevices, now: Instant, id: RegistrationId) {
        devices.hang_up(now, id);
    }

    fn leave(devices: &mut MqttDevices, now: Instant, id: RegistrationId, leaving: Leaving) {
        devices.send_disconnect(now, id, leaving);
    }

    fn connection_lost(devices: &mut MqttDevices, now: Instant, id: RegistrationId) {
        devices.stop_publishing(id);
        devices.forgive_failures(now, id);
    }

    fn attempt_timed_out(devices: &mut MqttDevices, now: Instant, id: RegistrationId) {
        devices.attempt_timed_out(now, id);
    }

    fn connection_due(devices: &mut MqttDevices, now: Instant, id: RegistrationId) {
        devices.check_connection(now, id);
    }

    fn timed_out(devices: &mut MqttDevices, now: Instant, timer: MqttTimer) {
        match timer {
            MqttTimer::HandOver(id) => devices.handed_over(now, id),
            MqttTimer::Orphan(connection) => devices.orphan_ended(now, connection),
        }
    }

    fn publish_next(devices: &mut MqttDevices, now: Instant, key: ClientKey) {
        devices.publish_next(now, key);
    }

    fn forget_in_flight(session: &mut MqttSession) {
        session.in_flight.clear();
        session.publisher = None;
    }

    fn deliver(devices: &mut MqttDevices, now: Instant, registration: RegistrationId, message: MqttMessage) {
        let is_new = devices.shared_mut(registration).is_none_or(|shared| shared.protocol.takes(&message));
        let MqttMessage { topic, payload, packet, again: is_repeated, mut properties } = message;
        if is_new {
            let connection = devices.state(registration).and_then(UpstreamState::connection);
            properties.receipt = packet.zip(connection).map(|(packet, connection)| MessageReceipt {
                connection: connection.0,
                packet: packet.number(),
                is_repeated,
            });
            devices.emit(registration, BrokerEvent::Message { registration, topic, payload, properties });
        } else if let Some(packet) = packet {
            devices.send(now, registration, codec::puback(packet));
        }
    }

    fn confirm(devices: &mut MqttDevices, now: Instant, MessageReceipt { connection, packet, .. }: MessageReceipt) {
        let Some(id) = devices.protocol.by_connection.get(&ConnectionId(connection)).copied() else { return };
        if devices.state(id).and_then(UpstreamState::connection) == Some(ConnectionId(connection)) {
            devices.send(now, id, codec::puback(PacketId::new(packet)));
        }
    }

    fn requested_connection(device: &UpstreamDevice<Self>) -> Option<ConnectionId> {
        device.state.connection()
    }

    fn retire(devices: &mut MqttDevices, now: Instant, older: RegistrationId, _newer: RegistrationId) {
        devices.hand_over(now, older);
    }

    fn pass_on(devices: &mut MqttDevices, now: Instant, device: UpstreamDevice<Self>) {
        devices.pass_on(now, device);
    }

    fn probe(devices: &mut MqttDevices, now: Instant, broker: TargetId) {
        devices.probe_or_try(now, broker);
    }

    fn hands_over(devices: &MqttDevices, id: RegistrationId) -> bool {
        devices.deadlines.get(ClientTimer::Protocol(MqttTimer::HandOver(id))).is_some()
    }
}

impl MqttDevices {
    pub fn new(config: &MqttConfig, rng: StdRng, metrics: Arc<UpstreamMetrics>) -> Self {
        let protocol = MqttProtocol {
            keep_alive: config.keep_alive_seconds(),
            window: config.window,
            max_packet_size: config.max_packet_size,
            will_delay: config.will_delay,
            by_connection: IdMap::default(),
            orphans: IdMap::default(),
        };
        Self::with(protocol, Brokers::of(&config.brokers, config.version), &config.link, rng, metrics)
    }

    /// Handles a packet of the broker.
    pub fn heard(&mut self, now: Instant, connection: ConnectionId, incoming: Incoming) {
        let Some(id) = self.protocol.by_connection.get(&connection).copied() else {
            return self.orphan_heard(now, connection, &incoming);
        };
        let Some(device) = self.devices.get_mut(&id) else { return };
        if matches!(device.state, UpstreamState::Connecting(MqttAttempt::Connecting { .. }))
            && let Some(shared) = self.clients.shared_mut(device.key)
        {
            shared.unanswered.remove(&connection);
        }
        if let Some(open) = device.state.open_mut() {
            open.last_received = now;
            open.pinged = None;
        }
        match (incoming, &device.state) {
            (Incoming::ConnAck(ack), UpstreamState::Connecting(MqttAttempt::Connecting { .. })) => {
                self.admitted(now, id, *ack)
            }
            (
                Incoming::SubAck { packet, reason },
                UpstreamState::Connecting(MqttAttempt::Subscribing { packet: asked, .. }),
            ) if packet == *asked => {
                self.subscribed(now, id, reason);
            }
            (Incoming::PubAck { packet, reason }, UpstreamState::Ready(_)) => {
                self.acknowledged(now, id, packet, reason)
            }
            (
                Incoming::Publish(message),
                UpstreamState::Connecting(MqttAttempt::Subscribing { .. }) | UpstreamState::Ready(_),
            ) => {
                self.message_received(now, id, *message);
            }
            (Incoming::Disconnect { reason, server }, _) => self.disconnected(now, id, reason, server),
            (
                Incoming::Pong | Incoming::UnsubAck,
                UpstreamState::Connecting(MqttAttempt::Subscribing { .. }) | UpstreamState::Ready(_),
            ) => {}
            (unexpected, _) => {
                debug!(registration = id.0, packet = %unexpected, "unexpected packet from the broker");
                self.lost(now, id, "unexpected packet from the broker");
            }
        }
    }

    /// Notes that the system has taken this many bytes more.
    pub fn written(&mut self, now: Instant, connection: ConnectionId, bytes: usize) {
        let Some(id) = self.protocol.by_connection.get(&connection).copied() else { return };
        if let Some(open) = self.devices.get_mut(&id).and_then(|device| device.state.open_mut()) {
            open.unwritten = open.unwritten.saturating_sub(bytes);
        }
        if let Some(key) = self.devices.get(&id).map(|device| device.key) {
            self.publish_next(now, key);
        }
    }

    /// Handles a failed dial, or the end of a connection.
    pub fn ended(&mut self, now: Instant, connection: ConnectionId, why: &str) {
        let Some(id) = self.protocol.by_connection.get(&connection).copied() else {
            return self.orphan_ended(now, connection);
        };
        if let Some(shared) = self.shared_mut(id) {
            shared.unanswered.remove(&connection);
        }
        match self.state(id) {
            Some(UpstreamState::Connecting(MqttAttempt::Dialing { .. })) => {
                self.counters().connections_failed.inc();
                self.fault_met(now, id, BrokerFault::NotReached(why));
                self.attempt_failed(now, id, why);
            }
            Some(UpstreamState::Connecting(MqttAttempt::Connecting { .. })) => {
                self.fault_met(now, id, BrokerFault::Closed);
                self.attempt_failed(now, id, "the broker closed the connection without an answer to CONNECT");
            }
            Some(UpstreamState::Connecting(MqttAttempt::Subscribing { .. }) | UpstreamState::Ready(_)) => {
                // Version 3.1.1 closes where 5 would tell what was wrong.
                if self.devices.get(&id).is_some_and(|device| device.protocol.version == ProtocolVersion::V311) {
                    self.count_failed_attempt(id);
                }
                self.lost(now, id, why);
            }
            Some(UpstreamState::Held | UpstreamState::WaitingToReconnect(_)) | None => {}
        }
    }

    /// Handles a connection that could not be opened.
    pub(crate) fn not_opened(&mut self, now: Instant, connection: ConnectionId, failure: &DialFailure) {
        match failure {
            DialFailure::NotReached(why) => self.ended(now, connection, why),
            DialFailure::Local(why) => {
                self.counters().connections_not_opened.inc();
                self.disturbances.not_opened(why);
                if let Some(id) = self.protocol.by_connection.get(&connection).copied() {
                    self.gave_up(now, id, why);
                }
            }
        }
    }

    /// Sends DISCONNECT if there is a connection, and removes the device, which has nothing left to publish.
    fn send_disconnect(&mut self, now: Instant, id: RegistrationId, leaving: Leaving) {
        let Some(device) = self.devices.get_mut(&id) else { return };
        if let Some(connection) = device.state.open_mut().map(|open| open.connection) {
            let packet =
                self.clients.shared_mut(device.key).map_or(PacketId::FIRST, |shared| shared.protocol.next_packet());
            let bytes = goodbye(device, packet, leaving);
            self.leave_connection(id, connection);
            self.wait_for(id, Wait::BackOff);
            self.actions.push_back(MqttAction::Send { connection, bytes });
            self.actions.push_back(MqttAction::Close { connection });
        }
        self.remove(now, id);
    }

    fn attempt_timed_out(&mut self, now: Instant, id: RegistrationId) {
        let Some(UpstreamState::Connecting(attempt)) = self.state(id) else { return };
        let (fault, why) = match attempt {
            MqttAttempt::Dialing { .. } => (Some(BrokerFault::NotReached("no answer")), "the broker cannot be reached"),
            MqttAttempt::Connecting { .. } => (Some(BrokerFault::Silent), "no answer to CONNECT"),
            MqttAttempt::Subscribing { .. } => (None, "no answer to SUBSCRIBE"),
        };
        if let Some(fault) = fault {
            self.fault_met(now, id, fault);
        }
        self.gave_up(now, id, why);
    }

    /// Checks a connection that is ready when something may be due.
    fn check_connection(&mut self, now: Instant, id: RegistrationId) {
        let Some(device) = self.devices.get_mut(&id) else { return };
        let session = self.clients.shared(device.key).map(|shared| &shared.protocol);
        let waits = session.is_some_and(|session| session.publisher == Some(id) && !session.in_flight.is_empty());
        let UpstreamState::Ready(open) = &mut device.state else { return };
        let answer_due = [open.pinged, waits.then_some(open.progress)].into_iter().flatten().min();
        if answer_due.is_some_and(|since| now >= since + ANSWER_TIMEOUT) {
            return self.lost(now, id, "no answer to PUBLISH or PINGREQ");
        }
        let silent = open.last_received.min(open.last_sent);
        if open.pinged.is_none() && open.keep_alive.is_some_and(|keep_alive| now >= silent + keep_alive) {
            open.pinged = Some(now);
            self.send(now, id, codec::ping());
        }
        self.watch_connection(now, id);
    }

    /// Sets when the connection is checked next. What is sent meanwhile only makes that later than needed.
    fn watch_connection(&mut self, now: Instant, id: RegistrationId) {
        let Some(device) = self.devices.get_mut(&id) else { return };
        let session = self.clients.shared(device.key).map(|shared| &shared.protocol);
        let waits = session.is_some_and(|session| session.publisher == Some(id) && !session.in_flight.is_empty());
        let UpstreamState::Ready(open) = &mut device.state else { return };
        let answers = [open.pinged, waits.then_some(open.progress)].into_iter().flatten().map(|at| at + ANSWER_TIMEOUT);
        let ping = open
            .keep_alive
            .filter(|_| open.pinged.is_none())
            .map(|alive| open.last_received.min(open.last_sent) + alive);
        match answers.chain(ping).min() {
            Some(at) => self.deadlines.set(ClientTimer::Device(id), at.max(now + Duration::from_millis(1))),
            None => self.deadlines.cancel(ClientTimer::Device(id)),
        }
    }

    fn disconnected(&mut self, now: Instant, id: RegistrationId, reason: Reason, server: Option<String>) {
        debug!(registration = id.0, %reason, "DISCONNECT received");
        match reason.ending() {
            Ending::Closed(CloseReason::Discarded) if self.discarded_by_us(now, id) => {
                self.lost(now, id, &reason.to_string())
            }
            // It was not let in: as CONNACK and SUBACK say it.
            Ending::Closed(CloseReason::Refused) if !self.is_ready(id) => {
                self.refused_by_broker(now, id, format!("DISCONNECT: {reason}"), reason == Reason::BANNED);
            }
            Ending::Closed(closing) => self.close(now, id, closing),
            Ending::Elsewhere => {
                self.lost(now, id, &reason.to_string());
                self.refer(id, server);
            }
            Ending::OurFault => {
                self.count_failed_attempt(id);
                self.lost(now, id, &reason.to_string());
            }
            Ending::Lost => self.lost(now, id, &reason.to_string()),
        }
    }

    fn message_received(&mut self, now: Instant, id: RegistrationId, message: MqttMessage) {
        if self.is_replaced(id) {
            return self.message_for_successor(now, id, message);
        }
        let Some(device) = self.devices.get_mut(&id) else { return };
        // What is not acknowledged stays with the broker, for as long as the session does.
        if device.leaving.is_some() {
            self.counters().messages_dropped.inc();
            return;
        }
        if device.connected_before {
            return MqttProtocol::deliver(self, now, id, message);
        }
        match &mut device.state {
            UpstreamState::Connecting(MqttAttempt::Subscribing { early, .. }) if early.len() < EARLY_MESSAGES => {
                early.push(message)
            }
            UpstreamState::Held
            | UpstreamState::Connecting(_)
            | UpstreamState::Ready(_)
            | UpstreamState::WaitingToReconnect(_) => {
                self.counters().messages_dropped.inc();
            }
        }
    }

    /// Handles a connection that the broker ended for good.
    fn close(&mut self, now: Instant, id: RegistrationId, reason: CloseReason) {
        let Some(device) = self.devices.get(&id) else { return };
        if !device.connected_before {
            return match reason {
                CloseReason::Kicked | CloseReason::Refused => self.refused(now, id, format!("DISCONNECT: {reason}")),
                CloseReason::Discarded | CloseReason::Expired => {
                    self.gave_up(now, id, &format!("the broker ended the connection: {reason}"));
                }
            };
        }
        if self.defer_end(id, reason) {
            self.lost(now, id, "the broker ended the connection");
        } else {
            self.end(now, id, reason);
        }
    }

    /// Closes the connection, if there is one.
    fn hang_up(&mut self, now: Instant, id: RegistrationId) {
        self.deadlines.cancel(ClientTimer::Protocol(MqttTimer::HandOver(id)));
        self.stop_publishing(id);
        let Some(connection) = self.state(id).and_then(UpstreamState::connection) else { return };
        let farewell = self.farewell(id);
        self.leave_connection(id, connection);
        let Some(device) = self.devices.get_mut(&id) else { return };
        let key = device.key;
        let shared = self.clients.shared(key);
        let asked = shared.and_then(|shared| shared.unanswered.get(&connection).copied());
        match asked.map(|asked| asked + ANSWER_PATIENCE).filter(|until| *until > now) {
            Some(until) => self.orphan(id, connection, until),
            None => {
                self.give_up_request(now, key, connection);
                match farewell {
                    Some(bytes) => {
                        self.actions.extend([MqttAction::Send { connection, bytes }, MqttAction::Close { connection }]);
                    }
                    None => self.actions.push_back(MqttAction::HangUp { connection }),
                }
            }
        }
    }

    /// Returns the last packets to a broker that has the will of a device which was never accepted. Without them the
    /// broker would publish the will.
    fn farewell(&mut self, id: RegistrationId) -> Option<Vec<u8>> {
        let device = self.devices.get(&id)?;
        let has_will = device.client.will.is_some()
            && matches!(device.state, UpstreamState::Connecting(MqttAttempt::Subscribing { .. }));
        if !has_will || device.connected_before {
            return None;
        }
        // Another registration of the client ID needs the session.
        if self.clients.registrations(device.key).len() > 1 {
            return codec::disconnect(device.protocol.version, session_expiry(&device.client), false).ok();
        }
        let packet =
            self.clients.shared_mut(device.key).map_or(PacketId::FIRST, |shared| shared.protocol.next_packet());
        Some(goodbye(device, packet, Leaving::ForGood))
    }

    /// Separates the connection from its device.
    fn leave_connection(&mut self, id: RegistrationId, connection: ConnectionId) {
        if self.protocol.by_connection.remove(&connection).is_some()
            && let Some(device) = self.devices.get(&id)
            && let Some(broker) = device.target()
        {
            self.targets.remove_connection(broker);
            if device.is_ready() {
                self.targets.remove_client(broker);
            }
        }
    }

    fn send(&mut self, now: Instant, id: RegistrationId, bytes: Vec<u8>) {
        let Some(open) = self.devices.get_mut(&id).and_then(|device| device.state.open_mut()) else { return };
        open.unwritten += bytes.len();
        open.last_sent = now;
        let connection = open.connection;
        self.actions.push_back(MqttAction::Send { connection, bytes });
    }
}

/// Returns how long the broker is to keep the session after the connection.
fn session_expiry(client: &ClientInfo) -> Duration {
    client.lifetime.min(LONGEST_SESSION)
}

/// Returns the last packets of a connection.
fn goodbye(device: &UpstreamDevice<MqttProtocol>, packet: PacketId, leaving: Leaving) -> Vec<u8> {
    let client = &device.client;
    let said = match (leaving, device.protocol.version) {
        (Leaving::ForGood, ProtocolVersion::V5) => codec::disconnect(ProtocolVersion::V5, Duration::ZERO, false),
        // Nothing ends a session of 3.1.1 but another connection: it stays, and nothing waits in it.
        (Leaving::ForGood, ProtocolVersion::V311) => codec::unsubscribe_v311(packet, &client.command_filter)
            .and_then(|bytes| Ok([bytes, codec::disconnect(ProtocolVersion::V311, Duration::ZERO, false)?].concat())),
        (Leaving::ForNow, ProtocolVersion::V5) => {
            codec::disconnect(ProtocolVersion::V5, session_expiry(client), client.will.is_some())
        }
        // Only a connection that ends without a word has its will published.
        (Leaving::ForNow, ProtocolVersion::V311) if client.will.is_some() => Ok(Vec::new()),
        (Leaving::HandedOver, ProtocolVersion::V5) => {
            codec::disconnect(ProtocolVersion::V5, session_expiry(client), false)
        }
        (Leaving::ForNow | Leaving::HandedOver, ProtocolVersion::V311) => {
            codec::disconnect(ProtocolVersion::V311, Duration::ZERO, false)
        }
    };
    said.unwrap_or_else(|error| {
        debug!(%error, "DISCONNECT not sent");
        Vec::new()
    })
}
