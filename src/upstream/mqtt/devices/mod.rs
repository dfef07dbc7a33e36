//! All devices on their way to the broker, as a state machine without sockets and clock.
//!
//! A device goes through these states, and its connection with it:
//! 1. `Held`: an older registration of the same clientid still publishes what is queued before it
//!    leaves, or may still be accepted.
//! 2. `Dialing`: the connection is on its way to the broker.
//! 3. `Connecting`: CONNECT is sent, with the session of before if there is one.
//! 4. `Subscribing`: the filter of its commands. Those that waited in the session may come meanwhile.
//! 5. `Ready`: publications go out, so many at a time as the windows allow, in order. Those that were in flight when an
//!    earlier connection of the same session ended go first, once more.
//! 6. `WaitingToReconnect`: the connection is gone; back to 2 after a back-off. A registration that was superseded by a newer
//!    one of its clientid stays here (`superseding`).
//!
//! Publications belong to the clientid, as its session does: whichever of its registrations is ready publishes them.
//! A publication of QoS 1 is delivered at least once. One of QoS 0 is done when the connection has it.

mod connecting;
mod device;
mod publishing;
#[cfg(test)]
mod races;
#[cfg(test)]
mod random_tests;
mod reconnecting;
mod superseding;
#[cfg(test)]
pub mod test_values;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use tracing::debug;

use crate::upstream::Occupancy;
use crate::upstream::client::clients::Clients;
use crate::upstream::client::disturbances::Disturbances;
use crate::upstream::client::pace::Turns;
use crate::upstream::client::queue::Queues;
use crate::upstream::client::returning::Returning;
use crate::upstream::client::targets::{TargetId, TargetsHealth};
use crate::upstream::dialer::DialFailure;
use crate::upstream::metrics::UpstreamMetrics;
use lwm2m_base::deadlines::Deadlines;
use lwm2m_core::gateway::broker::{BrokerCommand, BrokerEvent, ClientInfo, CloseReason, RegistrationId, UplinkClass};

use super::MqttConfig;
use super::brokers::{Brokers, Fault};
use super::codec::{self, Incoming, Message, PacketId, Version};
use super::reason::{Ending, Reason};
use device::{Device, Leaving, Session, State, Wait};
use superseding::{ANSWER_PATIENCE, Orphan};

pub use device::Target;
pub use reconnecting::Probed;

/// Limits how long a device that was disconnected still publishes what is queued.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Without an answer to PUBLISH or PINGREQ for so long a connection is given up.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// Commands that may arrive before the device is ready, for one device; more of QoS 0 are dropped, and the broker has no
/// more of QoS 1 on its way than [`codec::RECEIVE_MAXIMUM`].
const EARLY_MESSAGES: usize = 128;
/// The broker keeps a session for no longer, whatever the lifetime of its device is: so the sessions of devices that never
/// come back do not fill it.
const LONGEST_SESSION: Duration = Duration::from_secs(7 * 24 * 3600);

/// One connection attempt of one device. Never used again in the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// What is to be done outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// [`Devices::opened`], [`Devices::not_opened`] or [`Devices::ended`] has to follow, unless `HangUp` is faster.
    Dial {
        connection: ConnectionId,
        target: Target,
        version: Version,
    },
    Send {
        connection: ConnectionId,
        bytes: Vec<u8>,
    },
    /// When all is sent.
    Close {
        connection: ConnectionId,
    },
    HangUp {
        connection: ConnectionId,
    },
    /// [`Devices::probed`] has to follow.
    Probe {
        broker: TargetId,
    },
    Emit(BrokerEvent),
}

pub struct Devices {
    connect_timeout: Duration,
    keep_alive: u16,
    window: usize,
    max_packet_size: usize,
    devices: HashMap<RegistrationId, Device>,
    by_connection: HashMap<ConnectionId, RegistrationId>,
    clients: Clients<Session>,
    orphans: HashMap<ConnectionId, Orphan>,
    /// Devices that wait for the broker to be there again.
    parked: BTreeSet<RegistrationId>,
    queues: Queues,
    brokers: Brokers,
    disturbances: Disturbances,
    /// Devices that are connected again in their turn.
    turns: Turns,
    returning: Returning,
    deadlines: Deadlines<Timer>,
    actions: VecDeque<Action>,
    next_connection: u64,
    rng: StdRng,
    metrics: Arc<UpstreamMetrics>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Timer {
    /// What it means is the state's.
    Device(RegistrationId),
    Drain(RegistrationId),
    /// A CONNECT of an older registration need not be waited for any longer.
    Held(RegistrationId),
    /// The connection of a replaced registration need not be read any longer.
    HandOver(RegistrationId),
    Orphan(ConnectionId),
    /// A broker is probed, or one that is down is tried again.
    Probe,
    /// The next device has its turn to be connected again.
    Turn,
}

impl Devices {
    pub fn new(settings: &MqttConfig, rng: StdRng, metrics: Arc<UpstreamMetrics>) -> Self {
        Self {
            connect_timeout: settings.connect_timeout,
            keep_alive: settings.keep_alive_seconds(),
            window: settings.window,
            max_packet_size: settings.max_packet_size,
            devices: HashMap::new(),
            by_connection: HashMap::new(),
            clients: Clients::default(),
            orphans: HashMap::new(),
            parked: BTreeSet::new(),
            queues: Queues::new(settings.queue_per_device, settings.queue_total),
            brokers: Brokers::of(&settings.brokers, settings.version),
            disturbances: Disturbances::default(),
            turns: Turns::per_second(settings.connections_per_second),
            returning: Returning::default(),
            deadlines: Deadlines::default(),
            actions: VecDeque::new(),
            next_connection: 0,
            rng,
            metrics,
        }
    }

    pub fn command(&mut self, now: Instant, command: BrokerCommand) {
        match command {
            BrokerCommand::Connect { device, client } => self.connect(now, device, client),
            BrokerCommand::Resume { device, client } => self.resume(now, device, client),
            BrokerCommand::Publish { device, publication } => self.publish(now, device, publication),
            BrokerCommand::SetLifetime { device, lifetime } => {
                if let Some(device) = self.devices.get_mut(&device) {
                    device.client.lifetime = lifetime;
                }
            }
            BrokerCommand::Disconnect { device } => self.disconnect(now, device, Leaving::ForGood),
        }
    }

    /// Disconnects every device; the sessions stay.
    pub fn disconnect_all(&mut self, now: Instant) {
        let mut all: Vec<RegistrationId> = self.devices.keys().copied().collect();
        // The older ones first: none of them comes back because a newer registration of its clientid has left.
        all.sort();
        for device in all {
            self.disconnect(now, device, Leaving::ForNow);
        }
    }

    /// What the broker said on a connection.
    pub fn heard(&mut self, now: Instant, connection: ConnectionId, incoming: Incoming) {
        let Some(id) = self.by_connection.get(&connection).copied() else {
            return self.orphan_heard(now, connection, &incoming);
        };
        let Some(device) = self.devices.get_mut(&id) else { return };
        if matches!(device.state, State::Connecting { .. })
            && let Some(session) = self.clients.shared_mut(device.key)
        {
            session.connecting.remove(&connection);
        }
        if let Some(open) = device.state.open_mut() {
            open.last_received = now;
            open.pinged = None;
        }
        match (incoming, &device.state) {
            (Incoming::ConnAck(ack), State::Connecting { .. }) => self.admitted(now, id, *ack),
            (Incoming::SubAck { packet, reason }, State::Subscribing { packet: asked, .. }) if packet == *asked => {
                self.subscribed(now, id, reason);
            }
            (Incoming::PubAck { packet, reason }, State::Ready { .. }) => self.acknowledged(now, id, packet, reason),
            (Incoming::Publish(message), State::Subscribing { .. } | State::Ready { .. }) => {
                self.message_received(now, id, *message);
            }
            (Incoming::Disconnect { reason, server }, _) => self.disconnected(now, id, reason, server),
            (Incoming::Pong | Incoming::UnsubAck, State::Subscribing { .. } | State::Ready { .. }) => {}
            (unexpected, _) => {
                debug!(device = id.0, ?unexpected, "the broker is out of step");
                self.lost(now, id, "the broker is out of step");
            }
        }
    }

    /// The system took so many bytes more.
    pub fn written(&mut self, now: Instant, connection: ConnectionId, bytes: usize) {
        let Some(id) = self.by_connection.get(&connection).copied() else { return };
        if let Some(open) = self.devices.get_mut(&id).and_then(|device| device.state.open_mut()) {
            open.unwritten = open.unwritten.saturating_sub(bytes);
        }
        if let Some(key) = self.devices.get(&id).map(|device| device.key) {
            self.publish_next(now, key);
        }
    }

    /// A dial failed, or the connection ended.
    pub fn ended(&mut self, now: Instant, connection: ConnectionId, why: &str) {
        let Some(id) = self.by_connection.get(&connection).copied() else {
            return self.orphan_ended(now, connection);
        };
        if let Some(session) = self.session_mut(id) {
            session.connecting.remove(&connection);
        }
        match self.state(id) {
            Some(State::Dialing { .. }) => {
                self.counters().connections_failed.inc();
                self.blame_broker(now, id, Fault::NotReached(why));
                self.attempt_failed(now, id, why);
            }
            Some(State::Connecting { .. }) => {
                self.blame_broker(now, id, Fault::Closed);
                self.attempt_failed(now, id, "the broker closed the connection without an answer to CONNECT");
            }
            Some(State::Subscribing { .. } | State::Ready { .. }) => {
                // Version 3.1.1 closes where 5 would tell what was wrong.
                if self.devices.get(&id).is_some_and(|device| device.version == Version::V311) {
                    self.blame_publication(id);
                }
                self.lost(now, id, why);
            }
            Some(State::Held | State::WaitingToReconnect(_)) | None => {}
        }
    }

    /// The connection could not be opened.
    pub fn not_opened(&mut self, now: Instant, connection: ConnectionId, failure: &DialFailure) {
        match failure {
            DialFailure::NotReached(why) => self.ended(now, connection, why),
            DialFailure::Local(why) => {
                self.counters().connections_not_opened.inc();
                self.disturbances.not_opened(why);
                if let Some(id) = self.by_connection.get(&connection).copied() {
                    self.gave_up(now, id, why);
                }
            }
        }
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(timer) = self.deadlines.pop_expired(now) {
            match timer {
                Timer::Device(device) => self.state_timed_out(now, device),
                Timer::Drain(device) => self.remove(now, device),
                Timer::Held(device) => {
                    if let Some(key) = self.devices.get(&device).map(|device| device.key) {
                        self.advance(now, key);
                    }
                }
                Timer::HandOver(device) => self.rest_or_leave(now, device),
                Timer::Orphan(connection) => self.orphan_ended(now, connection),
                Timer::Probe => self.probe(now),
                Timer::Turn => self.serve_turns(now),
            }
        }
    }

    /// Call until there is none, after each of the others.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.next()
    }

    /// How many devices are how far; it looks at each.
    pub fn occupancy(&self) -> Occupancy {
        let ready = |device: &&Device| matches!(device.state, State::Ready { .. });
        let connected = self.devices.values().filter(ready).count();
        let nodes_up = self.brokers.up();
        Occupancy {
            connected,
            connecting: self.devices.len() - connected,
            publications: self.queues.len(),
            publications_limit: self.queues.limit(),
            nodes_up,
            nodes_down: self.brokers.len() - nodes_up,
        }
    }

    /// How it is with the brokers, when that has changed since the last time.
    pub fn take_health(&mut self) -> Option<TargetsHealth> {
        let changed = self.brokers.take_changed() | self.disturbances.take_changed();
        changed.then(|| {
            let TargetsHealth { serving, detail } = self.brokers.health();
            TargetsHealth { serving, detail: self.disturbances.add_to(detail) }
        })
    }

    pub fn is_empty(&self) -> bool {
        self.devices.is_empty()
    }

    fn disconnect(&mut self, now: Instant, id: RegistrationId, leaving: Leaving) {
        let is_replaced = self.is_replaced(id);
        let hands_over = self.deadlines.get(Timer::HandOver(id)).is_some();
        let Some(device) = self.devices.get_mut(&id) else { return };
        if is_replaced {
            device.leaving = Some(leaving);
            if !hands_over {
                self.remove(now, id);
            }
            return;
        }
        if !device.connected_before || self.queues.is_empty(device.key) {
            return self.send_disconnect(now, id, leaving);
        }
        if device.leaving.replace(leaving).is_none() {
            self.deadlines.set(Timer::Drain(id), now + DRAIN_TIMEOUT);
        }
    }

    /// Nothing is left to publish: DISCONNECT, where there is somebody to hear it.
    fn send_disconnect(&mut self, now: Instant, id: RegistrationId, leaving: Leaving) {
        let Some(device) = self.devices.get_mut(&id) else { return };
        if let Some(connection) = device.state.open_mut().map(|open| open.connection) {
            let packet = self.clients.shared_mut(device.key).map_or(PacketId::FIRST, Session::next_packet);
            let bytes = goodbye(device, packet, leaving);
            self.leave_connection(id, connection);
            self.wait_for(id, Wait::BackOff);
            self.actions.push_back(Action::Send { connection, bytes });
            self.actions.push_back(Action::Close { connection });
        }
        self.remove(now, id);
    }

    fn state_timed_out(&mut self, now: Instant, id: RegistrationId) {
        let why = match self.state(id) {
            Some(State::WaitingToReconnect(wait)) => return self.waited(now, id, *wait),
            Some(State::Ready { .. }) => return self.check_connection(now, id),
            Some(State::Held) => return self.gave_up(now, id, "the registration before it is still under way"),
            Some(State::Dialing { .. }) => {
                self.blame_broker(now, id, Fault::NotReached("no answer"));
                "the broker cannot be reached"
            }
            Some(State::Connecting { .. }) => {
                self.blame_broker(now, id, Fault::Silent);
                "no answer to CONNECT"
            }
            Some(State::Subscribing { .. }) => "no answer to SUBSCRIBE",
            None => return,
        };
        self.gave_up(now, id, why);
    }

    /// A connection that is ready is looked at when something may be due.
    fn check_connection(&mut self, now: Instant, id: RegistrationId) {
        let Some(device) = self.devices.get_mut(&id) else { return };
        let session = self.clients.shared(device.key);
        let waits = session.is_some_and(|session| session.publisher == Some(id) && !session.in_flight.is_empty());
        let State::Ready { open } = &mut device.state else { return };
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

    /// Sets when the connection is looked at next. What is sent meanwhile only makes that later than needed.
    fn watch_connection(&mut self, now: Instant, id: RegistrationId) {
        let Some(device) = self.devices.get_mut(&id) else { return };
        let session = self.clients.shared(device.key);
        let waits = session.is_some_and(|session| session.publisher == Some(id) && !session.in_flight.is_empty());
        let State::Ready { open } = &mut device.state else { return };
        let answers = [open.pinged, waits.then_some(open.progress)].into_iter().flatten().map(|at| at + ANSWER_TIMEOUT);
        let ping = open
            .keep_alive
            .filter(|_| open.pinged.is_none())
            .map(|alive| open.last_received.min(open.last_sent) + alive);
        match answers.chain(ping).min() {
            Some(at) => self.deadlines.set(Timer::Device(id), at.max(now + Duration::from_millis(1))),
            None => self.deadlines.cancel(Timer::Device(id)),
        }
    }

    /// The device met this at its broker, and tries another one next.
    fn blame_broker(&mut self, now: Instant, id: RegistrationId, fault: Fault<'_>) {
        let Some(device) = self.devices.get_mut(&id) else { return };
        device.elsewhere = true;
        match device.broker() {
            Some(broker) => {
                if self.brokers.failed(now, broker, fault) {
                    self.counters().nodes_failed.inc();
                    self.plan_probe();
                }
            }
            None => device.forget_referral(),
        }
    }

    fn disconnected(&mut self, now: Instant, id: RegistrationId, reason: Reason, server: Option<String>) {
        debug!(device = id.0, %reason, "DISCONNECT");
        match reason.ending() {
            Ending::Closed(CloseReason::Discarded) if self.discarded_by_us(now, id) => {
                self.lost(now, id, &reason.to_string())
            }
            // It was not let in: as CONNACK and SUBACK say it.
            Ending::Closed(CloseReason::Refused) if !self.state(id).is_some_and(State::is_ready) => {
                self.refused_by_broker(now, id, reason, format!("DISCONNECT: {reason}"));
            }
            Ending::Closed(closing) => self.close(now, id, closing),
            Ending::Elsewhere => {
                self.lost(now, id, &reason.to_string());
                self.refer(id, server);
            }
            Ending::OurFault => {
                self.blame_publication(id);
                self.lost(now, id, &reason.to_string());
            }
            Ending::Lost => self.lost(now, id, &reason.to_string()),
        }
    }

    fn message_received(&mut self, now: Instant, id: RegistrationId, message: Message) {
        if self.is_replaced(id) {
            return self.message_for_heir(now, id, message);
        }
        let Some(device) = self.devices.get_mut(&id) else { return };
        // What is not acknowledged stays with the broker, for as long as the session does.
        if device.leaving.is_some() {
            self.counters().messages_dropped.inc();
            return;
        }
        if device.connected_before {
            return self.deliver(now, id, message);
        }
        match &mut device.state {
            State::Subscribing { early, .. } if early.len() < EARLY_MESSAGES => early.push(message),
            State::Held
            | State::Dialing { .. }
            | State::Connecting { .. }
            | State::Subscribing { .. }
            | State::Ready { .. }
            | State::WaitingToReconnect(_) => {
                self.counters().messages_dropped.inc();
            }
        }
    }

    fn deliver(&mut self, now: Instant, device: RegistrationId, message: Message) {
        let is_new = self.session_mut(device).is_none_or(|session| session.takes(&message));
        let Message { topic, payload, packet, properties, .. } = message;
        if is_new {
            self.tell(device, BrokerEvent::Message { device, topic, payload, properties });
        }
        if let Some(packet) = packet {
            self.send(now, device, codec::puback(packet));
        }
    }

    /// The connection is gone for good.
    fn close(&mut self, now: Instant, id: RegistrationId, reason: CloseReason) {
        let Some(device) = self.devices.get(&id) else { return };
        if !device.connected_before {
            return match reason {
                CloseReason::Kicked | CloseReason::Refused => self.refused(now, id, format!("DISCONNECT: {reason:?}")),
                CloseReason::Discarded | CloseReason::Expired => {
                    self.gave_up(now, id, &format!("the broker ended the connection: {reason:?}"));
                }
            };
        }
        if !self.clients.is_superseded(device.key, id) {
            return self.end(now, id, reason);
        }
        // What becomes of it is decided when it is known what becomes of the newer registration.
        if let Some(device) = self.devices.get_mut(&id) {
            device.ended = Some(reason);
        }
        self.lost(now, id, "the broker ended the connection");
    }

    fn end(&mut self, now: Instant, id: RegistrationId, reason: CloseReason) {
        let Some(device) = self.devices.get(&id) else { return };
        debug!(device = id.0, clientid = device.client.clientid, ?reason, "connection ended by the broker");
        self.counters().closed.inc();
        self.tell(id, BrokerEvent::Closed { device: id, reason });
        self.remove(now, id);
    }

    /// Forgets the device. What waits to be published stays while there is another registration of the clientid.
    fn remove(&mut self, now: Instant, id: RegistrationId) {
        self.hang_up(now, id);
        self.stop_publishing(id);
        let Some(device) = self.devices.remove(&id) else { return };
        for timer in [Timer::Device(id), Timer::Drain(id), Timer::Held(id), Timer::HandOver(id)] {
            self.deadlines.cancel(timer);
        }
        self.parked.remove(&id);
        self.turns.remove(id);
        self.returning.left(now, id);
        let key = device.key;
        if self.clients.remove(key, id) {
            self.clear_queue(key);
        } else {
            self.bequeath(now, device);
        }
        self.go_on_with(now, key);
    }

    /// Gives up the connection, if there is one.
    fn hang_up(&mut self, now: Instant, id: RegistrationId) {
        self.stop_publishing(id);
        let Some(connection) = self.state(id).and_then(State::connection) else { return };
        let farewell = self.farewell(id);
        self.leave_connection(id, connection);
        let Some(device) = self.devices.get_mut(&id) else { return };
        let key = device.key;
        let session = self.clients.shared_mut(key);
        let asked = session.and_then(|session| session.connecting.get(&connection).copied());
        match asked.map(|asked| asked + ANSWER_PATIENCE).filter(|until| *until > now) {
            Some(until) => self.orphan(id, connection, until),
            None => {
                self.give_up_connect(now, key, connection);
                match farewell {
                    Some(bytes) => {
                        self.actions.extend([Action::Send { connection, bytes }, Action::Close { connection }]);
                    }
                    None => self.actions.push_back(Action::HangUp { connection }),
                }
            }
        }
    }

    /// The last packets to a broker that has the will of a device which was never let in. Without them the broker would
    /// publish it.
    fn farewell(&mut self, id: RegistrationId) -> Option<Vec<u8>> {
        let device = self.devices.get(&id)?;
        let has_will = device.client.will.is_some() && matches!(device.state, State::Subscribing { .. });
        if !has_will || device.connected_before {
            return None;
        }
        // Another registration of the clientid needs the session.
        if self.clients.registrations(device.key).len() > 1 {
            return codec::disconnect(device.version, session_expiry(&device.client), false).ok();
        }
        let packet = self.clients.shared_mut(device.key).map_or(PacketId::FIRST, Session::next_packet);
        Some(goodbye(device, packet, Leaving::ForGood))
    }

    /// It belongs to the device no more.
    fn leave_connection(&mut self, id: RegistrationId, connection: ConnectionId) {
        if self.by_connection.remove(&connection).is_some()
            && let Some(device) = self.devices.get(&id)
            && let Some(broker) = device.broker()
        {
            self.brokers.remove_connection(broker);
            if device.state.is_ready() {
                self.brokers.remove_client(broker);
            }
        }
    }

    fn send(&mut self, now: Instant, id: RegistrationId, bytes: Vec<u8>) {
        let Some(open) = self.devices.get_mut(&id).and_then(|device| device.state.open_mut()) else { return };
        open.unwritten += bytes.len();
        open.last_sent = now;
        let connection = open.connection;
        self.actions.push_back(Action::Send { connection, bytes });
    }

    /// Nothing is heard of a device that was disconnected.
    fn tell(&mut self, device: RegistrationId, event: BrokerEvent) {
        if self.devices.get(&device).is_some_and(|device| device.leaving.is_none()) {
            self.actions.push_back(Action::Emit(event));
        }
    }

    fn state(&self, device: RegistrationId) -> Option<&State> {
        self.devices.get(&device).map(|device| &device.state)
    }

    fn dropped(&self, class: UplinkClass) {
        match class {
            UplinkClass::Report => {
                self.counters().dropped_reports.inc();
            }
            UplinkClass::Answer => {
                self.counters().dropped_answers.inc();
            }
            UplinkClass::Notification => {
                self.counters().dropped_notifications.inc();
            }
        }
    }

    fn counters(&self) -> &UpstreamMetrics {
        &self.metrics
    }
}

/// How long the broker keeps the session after the connection.
fn session_expiry(client: &ClientInfo) -> Duration {
    client.lifetime.min(LONGEST_SESSION)
}

/// The last packets of a connection.
fn goodbye(device: &Device, packet: PacketId, leaving: Leaving) -> Vec<u8> {
    let client = &device.client;
    let said = match (leaving, device.version) {
        (Leaving::ForGood, Version::V5) => codec::disconnect(Version::V5, Duration::ZERO, false),
        // Nothing ends a session of 3.1.1 but another connection: it stays, and nothing waits in it.
        (Leaving::ForGood, Version::V311) => codec::unsubscribe_v311(packet, &client.command_filter)
            .and_then(|bytes| Ok([bytes, codec::disconnect(Version::V311, Duration::ZERO, false)?].concat())),
        (Leaving::ForNow, Version::V5) => codec::disconnect(Version::V5, session_expiry(client), client.will.is_some()),
        // Only a connection that ends without a word has its will published.
        (Leaving::ForNow, Version::V311) if client.will.is_some() => Ok(Vec::new()),
        (Leaving::ForNow, Version::V311) => codec::disconnect(Version::V311, Duration::ZERO, false),
    };
    said.unwrap_or_else(|error| {
        debug!(%error, "DISCONNECT is left out");
        Vec::new()
    })
}
