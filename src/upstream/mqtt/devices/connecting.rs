//! The handshake of MQTT, from the dial to `Ready`.

use std::mem;
use std::time::{Duration, Instant};

use crate::upstream::client::device::{ConnectionId, Destination};
use crate::upstream::client::targets::TargetId;
use crate::upstream::mqtt::codec::{self, ConnAck, Connect, PacketId, ProtocolVersion};
use crate::upstream::mqtt::reason::{Admission, Reason, Subscription};
use lwm2m_core::gateway::broker::{BrokerEvent, ClientInfo, RegistrationId};

use super::device::OpenConnection;
use super::{MqttAction, MqttAttempt, MqttDevices, MqttProtocol, Protocol, UpstreamState, session_expiry};

/// Limits the servers in a row that may name another one.
const REFERRALS: u8 = 3;
/// The port of a server reference without one.
const DEFAULT_PORT: &str = "1883";
impl MqttDevices {
    /// Sends CONNECT on a connection that has opened.
    pub fn opened(&mut self, now: Instant, connection: ConnectionId) {
        self.disturbances.opened();
        let Some(id) = self.protocol.by_connection.get(&connection).copied() else { return };
        let Some(device) = self.devices.get_mut(&id) else { return };
        let UpstreamState::Connecting(MqttAttempt::Dialing { .. }) = device.state else { return };
        device.set_state(UpstreamState::Connecting(MqttAttempt::Connecting { connection, since: now }));
        let connect = Connect {
            client: &device.client,
            keep_alive: self.protocol.keep_alive,
            session_expiry: session_expiry(&device.client),
            max_packet_size: self.protocol.max_packet_size,
            will_delay: self.protocol.will_delay,
        };
        let (key, bytes) = (device.key, codec::connect(device.protocol.version, connect));
        self.requested(now, key, connection);
        match bytes {
            Ok(bytes) => self.actions.push_back(MqttAction::Send { connection, bytes }),
            Err(error) => self.refused(now, id, format!("CONNECT: {error}")),
        }
    }

    pub(super) fn begin_dial(&mut self, id: RegistrationId, connection: ConnectionId, destination: Destination) {
        let Some(device) = self.devices.get_mut(&id) else { return };
        if let Destination::Configured(broker) = destination {
            device.protocol.version = self.targets.version(broker);
        }
        device.set_state(UpstreamState::Connecting(MqttAttempt::Dialing { connection }));
        self.protocol.by_connection.insert(connection, id);
        self.actions.push_back(MqttAction::Dial { connection, destination, version: device.protocol.version });
    }

    /// Handles the answer to CONNECT.
    pub(super) fn admitted(&mut self, now: Instant, id: RegistrationId, ack: ConnAck) {
        let Some(device) = self.devices.get_mut(&id) else { return };
        let admission = ack.reason.admission();
        if let UpstreamState::Connecting(MqttAttempt::Connecting { since, .. }) = &device.state {
            let took = now.saturating_duration_since(*since);
            self.metrics.times.authenticate.observe(took.as_secs_f64());
        }
        if let Some(broker) = device.target() {
            self.broker_answered(now, broker);
        }
        let why = || format!("CONNECT: {}", ack.reason);
        match admission {
            Admission::Accepted => {
                self.counters().authenticate_ok.inc();
                self.subscribe(now, id, &ack);
            }
            Admission::Refused => {
                self.counters().authenticate_refused.inc();
                self.refused_by_broker(now, id, why(), ack.reason == Reason::BANNED);
            }
            Admission::OtherVersion => self.speak_v311(now, id, &why()),
            Admission::Elsewhere => {
                self.counters().authenticate_unavailable.inc();
                self.go_elsewhere(now, id, ack.server, &why());
            }
            Admission::Unavailable => {
                self.counters().authenticate_unavailable.inc();
                if let Some(device) = self.devices.get_mut(&id) {
                    device.elsewhere = true;
                    device.forget_referral();
                }
                self.attempt_failed(now, id, &why());
            }
        }
    }

    pub(super) fn broker_answered(&mut self, now: Instant, broker: TargetId) {
        if self.targets.answers(broker) {
            self.target_serves(now, broker);
        }
    }

    fn subscribe(&mut self, now: Instant, id: RegistrationId, ack: &ConnAck) {
        let Some(device) = self.devices.get_mut(&id) else { return };
        let UpstreamState::Connecting(MqttAttempt::Connecting { connection, .. }) = device.state else { return };
        let ConnAck { limits, session_present, .. } = *ack;
        let keep_alive = limits.keep_alive.unwrap_or(self.protocol.keep_alive);
        let open = Box::new(OpenConnection {
            connection,
            limits,
            session_present,
            since: now,
            unwritten: 0,
            last_received: now,
            last_sent: now,
            pinged: None,
            progress: now,
            keep_alive: (keep_alive > 0).then(|| Duration::from_secs(keep_alive.into())),
        });
        let packet =
            self.clients.shared_mut(device.key).map_or(PacketId::FIRST, |shared| shared.protocol.next_packet());
        let ClientInfo { command_filter, command_qos, .. } = &device.client;
        let said = (!command_filter.is_empty())
            .then(|| codec::subscribe(device.protocol.version, packet, command_filter, *command_qos));
        device.set_state(UpstreamState::Connecting(MqttAttempt::Subscribing { open, packet, early: Vec::new() }));
        match said {
            Some(Ok(bytes)) => self.send(now, id, bytes),
            Some(Err(error)) => self.refused(now, id, format!("SUBSCRIBE: {error}")),
            None => self.ready(now, id),
        }
    }

    pub(super) fn subscribed(&mut self, now: Instant, id: RegistrationId, reason: Reason) {
        if let Some(open) = self.devices.get_mut(&id).and_then(|device| device.state.open_mut()) {
            let took = now.saturating_duration_since(open.since);
            self.metrics.times.subscribe.observe(took.as_secs_f64());
        }
        match reason.subscription() {
            Subscription::Accepted => self.ready(now, id),
            Subscription::Refused => {
                self.counters().subscribe_refused.inc();
                self.refused_by_broker(now, id, format!("SUBSCRIBE: {reason}"), reason == Reason::BANNED);
            }
            Subscription::Unavailable => self.attempt_failed(now, id, &format!("SUBSCRIBE: {reason}")),
        }
    }

    fn ready(&mut self, now: Instant, id: RegistrationId) {
        let Some(device) = self.devices.get_mut(&id) else { return };
        let before = device.set_state(UpstreamState::Held);
        let UpstreamState::Connecting(MqttAttempt::Subscribing { open, mut early, .. }) = before else { return };
        device.set_state(UpstreamState::Ready(*open));
        let (key, passed_on) = (device.key, mem::take(&mut device.passed_on));
        device.protocol.referrals = 0;
        if !self.accepted(id) {
            self.emit(id, BrokerEvent::Reconnected { registration: id });
        }
        early.retain(|message| !passed_on.contains(message));
        for message in passed_on.into_iter().chain(early) {
            MqttProtocol::deliver(self, now, id, message);
        }
        self.settled(now, key, id);
        self.watch_connection(now, id);
    }

    fn speak_v311(&mut self, now: Instant, id: RegistrationId, why: &str) {
        let Some(device) = self.devices.get_mut(&id) else { return };
        if device.protocol.version == ProtocolVersion::V311 {
            return self.attempt_failed(now, id, why);
        }
        device.protocol.version = ProtocolVersion::V311;
        if let Some(broker) = device.target() {
            self.targets.speaks(broker, ProtocolVersion::V311);
        }
        self.dial_anew(now, id);
    }

    fn go_elsewhere(&mut self, now: Instant, id: RegistrationId, server: Option<String>, why: &str) {
        self.hang_up(now, id);
        if let Some(device) = self.devices.get_mut(&id) {
            device.set_state(UpstreamState::Held);
        }
        if self.refer(id, server) { self.dial_anew(now, id) } else { self.gave_up(now, id, why) }
    }

    /// Sends the next attempt to the server that this one named. Returns false if it named none, or if too many did
    /// before.
    pub(super) fn refer(&mut self, id: RegistrationId, server: Option<String>) -> bool {
        let Some(server) = server.as_deref().and_then(server_address) else { return false };
        let Some(device) = self.devices.get_mut(&id) else { return false };
        device.protocol.referrals += 1;
        if device.protocol.referrals > REFERRALS {
            (device.protocol.referrals, device.destination) = (0, None);
            return false;
        }
        self.metrics.referrals.inc();
        device.destination = Some(Destination::Referred(server));
        true
    }

    /// Dials the same target once more, at once.
    fn dial_anew(&mut self, now: Instant, id: RegistrationId) {
        self.hang_up(now, id);
        if let Some(destination) = self.devices.get(&id).and_then(|device| device.destination.clone()) {
            self.dial(id, destination);
        }
    }
}

/// Returns the first of the servers that a Server Reference lists (MQTT 5.0 section 4.13), as `host:port`.
fn server_address(reference: &str) -> Option<String> {
    let first = reference.split_whitespace().next()?;
    let has_port = first
        .rsplit_once(':')
        .is_some_and(|(host, port)| port.parse::<u16>().is_ok() && (!host.contains(':') || host.ends_with(']')));
    if has_port { Some(first.to_owned()) } else { Some(format!("{first}:{DEFAULT_PORT}")) }
}

#[cfg(test)]
mod reference_tests {
    use super::server_address;

    #[test]
    fn a_server_reference_is_a_list_of_hosts_with_or_without_ports() {
        for (reference, address) in [
            ("10.0.0.5:2883", Some("10.0.0.5:2883")),
            ("other.example.org", Some("other.example.org:1883")),
            ("a:1 b:2", Some("a:1")),
            ("[fe80::1]:2883", Some("[fe80::1]:2883")),
            ("[fe80::1]", Some("[fe80::1]:1883")),
            (" ", None),
        ] {
            assert_eq!(server_address(reference).as_deref(), address, "{reference}");
        }
    }
}
