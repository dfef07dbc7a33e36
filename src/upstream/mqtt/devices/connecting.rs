//! From Connect to `Ready`.

use std::mem;
use std::time::{Duration, Instant};

use tracing::debug;

use crate::upstream::client::targets::TargetId;
use crate::upstream::mqtt::codec::{self, ConnAck, Connect, PacketId, Version};
use crate::upstream::mqtt::reason::{Admission, Reason, Subscription};
use lwm2m_core::gateway::broker::{BrokerEvent, ClientInfo, CloseReason, ConnectError, RegistrationId};

use super::device::{OpenConnection, Session, Target};
use super::{Action, ConnectionId, Device, Devices, State, Timer, session_expiry};

/// Servers in a row that may name another one.
const REFERRALS: u8 = 3;
/// What a server reference leaves out.
const DEFAULT_PORT: &str = "1883";
/// A device that was a client before is refused for good when the broker has refused it for so long and serves others: after
/// a restart EMQX listens before its authentication is there, and refuses everybody meanwhile.
const REFUSED_FOR_GOOD: Duration = Duration::from_secs(30);

impl Devices {
    /// The connection is open.
    pub fn opened(&mut self, now: Instant, connection: ConnectionId) {
        self.disturbances.opened();
        let Some(id) = self.by_connection.get(&connection).copied() else { return };
        let Some(device) = self.devices.get_mut(&id) else { return };
        let State::Dialing { .. } = device.state else { return };
        device.state = State::Connecting { connection, since: now };
        let connect = Connect {
            client: &device.client,
            keep_alive: self.keep_alive,
            session_expiry: session_expiry(&device.client),
            max_packet_size: self.max_packet_size,
        };
        if let Some(session) = self.clients.shared_mut(device.key) {
            session.connecting.insert(connection, now);
            session.last_connected = Some(connection);
        }
        match codec::connect(device.version, connect) {
            Ok(bytes) => self.actions.push_back(Action::Send { connection, bytes }),
            Err(error) => self.refused(now, id, format!("CONNECT: {error}")),
        }
    }

    pub(super) fn connect(&mut self, now: Instant, id: RegistrationId, client: ClientInfo) {
        let key = self.clients.add(&client.clientid, id);
        self.devices.insert(id, Device::registered(now, client, key));
        self.deadlines.set(Timer::Device(id), now + self.connect_timeout);
        self.supersede_older(now, key, id);
        self.advance(now, key);
    }

    pub(super) fn first_attempt(&mut self, now: Instant, id: RegistrationId) {
        match self.brokers.try_or_choose(now, None, false) {
            Some(broker) => self.dial(id, Target::Configured(broker)),
            None => self.gave_up(now, id, "the broker is away"),
        }
    }

    pub(super) fn dial(&mut self, id: RegistrationId, target: Target) {
        self.counters().connections_attempted.inc();
        let Some(device) = self.devices.get_mut(&id) else { return };
        let connection = ConnectionId(self.next_connection);
        self.next_connection += 1;
        if let Target::Configured(broker) = target {
            self.brokers.add_connection(broker);
            device.version = self.brokers.version(broker);
        }
        device.state = State::Dialing { connection };
        device.target = Some(target.clone());
        device.elsewhere = false;
        self.by_connection.insert(connection, id);
        self.actions.push_back(Action::Dial { connection, target, version: device.version });
    }

    /// The broker answered to CONNECT.
    pub(super) fn admitted(&mut self, now: Instant, id: RegistrationId, ack: ConnAck) {
        let Some(device) = self.devices.get_mut(&id) else { return };
        let admission = ack.reason.admission();
        if let State::Connecting { since, .. } = &device.state {
            let took = now.saturating_duration_since(*since);
            self.metrics.times.authenticate.observe(took.as_secs_f64());
        }
        if let Some(broker) = device.broker() {
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
                self.refused_by_broker(now, id, ack.reason, why());
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
        if self.brokers.answers(now, broker) {
            self.recovered(now);
        }
    }

    fn subscribe(&mut self, now: Instant, id: RegistrationId, ack: &ConnAck) {
        let Some(device) = self.devices.get_mut(&id) else { return };
        let State::Connecting { connection, .. } = device.state else { return };
        let ConnAck { limits, session_present, .. } = *ack;
        let keep_alive = limits.keep_alive.unwrap_or(self.keep_alive);
        let open = OpenConnection {
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
        };
        let packet = self.clients.shared_mut(device.key).map_or(PacketId::FIRST, Session::next_packet);
        let said = codec::subscribe(device.version, packet, &device.client.command_filter, device.client.command_qos);
        device.state = State::Subscribing { open, packet, early: Vec::new() };
        match said {
            Ok(bytes) => self.send(now, id, bytes),
            Err(error) => self.refused(now, id, format!("SUBSCRIBE: {error}")),
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
                self.refused_by_broker(now, id, reason, format!("SUBSCRIBE: {reason}"));
            }
            Subscription::Unavailable => self.attempt_failed(now, id, &format!("SUBSCRIBE: {reason}")),
        }
    }

    fn ready(&mut self, now: Instant, id: RegistrationId) {
        let Some(device) = self.devices.get_mut(&id) else { return };
        let before = mem::replace(&mut device.state, State::Held);
        let State::Subscribing { open, mut early, .. } = before else { return };
        device.state = State::Ready { open };
        let (key, inherited) = (device.key, mem::take(&mut device.inherited));
        device.referrals = 0;
        device.refused_since = None;
        if let Some(broker) = device.broker() {
            self.brokers.add_client(broker);
        }
        let first = !mem::replace(&mut device.connected_before, true);
        let awaited = first || mem::take(&mut device.resumed);
        let counters = self.counters();
        if first {
            counters.connected.inc();
        } else {
            counters.reconnected.inc();
        }
        let event =
            if awaited { BrokerEvent::Connected { device: id } } else { BrokerEvent::Reconnected { device: id } };
        self.tell(id, event);
        early.retain(|message| !inherited.contains(message));
        for message in inherited.into_iter().chain(early) {
            self.deliver(now, id, message);
        }
        self.retire_older(now, key, id);
        self.publish_next(now, key);
        self.watch_connection(now, id);
        self.returning.connected(now, id);
        if self.disturbances.accepted() {
            self.connect_waiting(now);
        }
    }

    /// The broker refused the device. For one that was a client before that is final when it is repeated for a time in
    /// which the broker serves others; a ban is meant.
    pub(super) fn refused_by_broker(&mut self, now: Instant, id: RegistrationId, reason: Reason, why: String) {
        let clients = self.brokers.clients();
        self.disturbances.refused(&why, clients);
        let Some(device) = self.devices.get_mut(&id) else { return };
        if device.connected_before && reason != Reason::BANNED {
            let since = *device.refused_since.get_or_insert(now);
            if now < since + REFUSED_FOR_GOOD || clients == 0 {
                debug!(device = id.0, clientid = device.client.clientid, why, "refused by the broker for now");
                return self.back_off(now, id);
            }
        }
        self.refused(now, id, why);
    }

    /// The broker does not want this device.
    pub(super) fn refused(&mut self, now: Instant, id: RegistrationId, why: String) {
        let Some(device) = self.devices.get(&id) else { return };
        debug!(device = id.0, clientid = device.client.clientid, why, "refused by the broker");
        if device.connected_before {
            return self.end(now, id, CloseReason::Refused);
        }
        self.tell(id, BrokerEvent::ConnectFailed { device: id, error: ConnectError::Refused(why) });
        self.remove(now, id);
    }

    fn speak_v311(&mut self, now: Instant, id: RegistrationId, why: &str) {
        let Some(device) = self.devices.get_mut(&id) else { return };
        if device.version == Version::V311 {
            return self.attempt_failed(now, id, why);
        }
        device.version = Version::V311;
        if let Some(broker) = device.broker() {
            self.brokers.speaks(broker, Version::V311);
        }
        self.dial_anew(now, id);
    }

    fn go_elsewhere(&mut self, now: Instant, id: RegistrationId, server: Option<String>, why: &str) {
        self.hang_up(now, id);
        if let Some(device) = self.devices.get_mut(&id) {
            device.state = State::Held;
        }
        if self.refer(id, server) { self.dial_anew(now, id) } else { self.gave_up(now, id, why) }
    }

    /// The next attempt goes to the server that this one named, if it named one and not too many did before.
    pub(super) fn refer(&mut self, id: RegistrationId, server: Option<String>) -> bool {
        let Some(server) = server.as_deref().and_then(server_address) else { return false };
        let Some(device) = self.devices.get_mut(&id) else { return false };
        device.referrals += 1;
        if device.referrals > REFERRALS {
            (device.referrals, device.target) = (0, None);
            return false;
        }
        self.metrics.referrals.inc();
        device.target = Some(Target::Referred(server));
        true
    }

    /// Dials the same target once more, at once.
    fn dial_anew(&mut self, now: Instant, id: RegistrationId) {
        self.hang_up(now, id);
        if let Some(target) = self.devices.get(&id).and_then(|device| device.target.clone()) {
            self.dial(id, target);
        }
    }

    /// It did not work this time, for a reason that is not the device's. A first connect tries each address once.
    pub(super) fn attempt_failed(&mut self, now: Instant, id: RegistrationId, why: &str) {
        let brokers = self.brokers.len();
        let Some(device) = self.devices.get(&id) else { return };
        let again = !device.connected_before && (device.failures as usize) + 1 < brokers;
        let before = device.broker();
        let other = if again {
            self.brokers.try_or_choose(now, before, true).filter(|other| Some(*other) != before)
        } else {
            None
        };
        let Some(other) = other else { return self.gave_up(now, id, why) };
        self.hang_up(now, id);
        if let Some(device) = self.devices.get_mut(&id) {
            debug!(device = id.0, clientid = device.client.clientid, why, "not connected to this broker");
            device.failures += 1;
        }
        self.dial(id, Target::Configured(other));
    }

    /// It did not work, and there is no time, or no broker, for another attempt now.
    pub(super) fn gave_up(&mut self, now: Instant, id: RegistrationId, why: &str) {
        let Some(device) = self.devices.get_mut(&id) else { return };
        device.refused_since = None;
        debug!(device = id.0, clientid = device.client.clientid, why, "not connected to the broker");
        if device.connected_before {
            return self.back_off(now, id);
        }
        self.tell(id, BrokerEvent::ConnectFailed { device: id, error: ConnectError::Unavailable(why.to_owned()) });
        self.remove(now, id);
    }
}

/// The first of the servers that a Server Reference lists (MQTT 5.0 section 4.13), as `host:port`.
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
