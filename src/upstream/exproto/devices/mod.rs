//! All devices on their way to the broker, as a state machine without sockets, calls and clock.
//!
//! A device goes through these states, and its anchor and calls with it:
//! 1. `Held`: an older registration of the same clientid still publishes what is queued before it
//!    leaves, or may still be authenticated.
//! 2. `Dialing`: the anchor is on its way to the broker's listener.
//! 3. `Announced`: the anchor is open and has sent its token; the broker has to tell us of it.
//! 4. `Authenticating`: the broker told us the token, so that the `conn` is known.
//! 5. `Subscribing`: the filter of its commands.
//! 6. `Ready`: one publication is under way at a time; the broker does not keep the order of concurrent ones.
//! 7. `WaitingToReconnect`: the anchor is gone; back to 2 after a back-off. The broker may still say meanwhile that the
//!    end was meant (kicked, discarded, expired): it closes the socket and tells the reason on two ways, and neither is
//!    always the faster one. A registration that was superseded by a newer one of its clientid stays here (`superseding`).
//!
//! Each attempt goes to one node of the broker, as `nodes` chooses it: anchor and calls are that node's.
//!
//! Publications belong to the clientid: whichever of its registrations is ready publishes them. A publication is delivered
//! at least once: when its call fails, or has no answer in time, nobody knows whether the broker had it, and it is sent
//! again.

mod connecting;
mod device;
mod probing;
mod publishing;
#[cfg(test)]
mod races;
#[cfg(test)]
mod random_tests;
mod reconnecting;
mod superseding;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use tracing::debug;

use crate::upstream::Occupancy;
use crate::upstream::client::clients::{ClientKey, Clients};
use crate::upstream::client::disturbances::Disturbances;
use crate::upstream::client::pace::Turns;
use crate::upstream::client::queue::Queues;
use crate::upstream::client::returning::Returning;
use crate::upstream::client::targets::{TargetId, TargetsHealth};
use crate::upstream::metrics::UpstreamMetrics;
use lwm2m_base::deadlines::Deadlines;
use lwm2m_core::gateway::broker::{
    BrokerCommand, BrokerEvent, ClientInfo, CloseReason, MessageProperties, Publication, RegistrationId, UplinkClass,
};

use super::ExProtoConfig;
use super::announcements::{Announcements, Heard, Token};
use super::nodes::{Fault, Nodes};
use device::{Device, State, UnderWay};
use probing::Prober;

/// Limits how long a device that was disconnected still publishes what is queued.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// EMQX answers a publish within 5 s, be it with an error. The call itself is not cancelled: its answer comes too late.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(10);
/// Commands that may arrive between Subscribe and its answer, for one device; more are dropped.
const EARLY_MESSAGES: usize = 128;

/// One connection attempt of one device, or one probe. Never used again in the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AnchorId(pub u64);

/// Whose an anchor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Device(RegistrationId),
    Probe(TargetId),
}

/// What is to be done outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// [`Devices::dialed`] has to follow, and after a success [`Devices::anchor_ended`], unless `HangUp` is faster.
    Dial {
        anchor: AnchorId,
        node: TargetId,
        token: Token,
    },
    HangUp {
        anchor: AnchorId,
    },
    /// [`Devices::called`] has to follow.
    Call {
        anchor: AnchorId,
        node: TargetId,
        call: Call,
    },
    Emit(BrokerEvent),
}

/// A call to the ConnectionAdapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    Authenticate {
        conn: String,
        client: ClientInfo,
    },
    Subscribe {
        conn: String,
        filter: String,
        qos: u8,
    },
    Publish {
        conn: String,
        publication: Publication,
    },
    /// Changes nothing, and is answered for any connection that the broker knows.
    Ping {
        conn: String,
    },
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// Not allowed.
    Refused(String),
    /// The broker does not know the connection (any more), or it is out of step with it.
    ConnectionLost(String),
    /// The broker took the call for a mistake.
    Rejected(String),
    /// The broker answered with an error of its own.
    Failed(String),
    /// The broker was not reached.
    Unreachable(String),
    /// This machine has no descriptor, port or memory left to reach it with.
    Short(String),
}

/// What the broker tells our handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HandlerEvent {
    SocketCreated,
    SocketClosed { conn: String, reason: String },
    ReceivedBytes { conn: String, bytes: Vec<u8> },
    TimerTimeout,
    ReceivedMessages { conn: String, messages: Vec<Message> },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub topic: String,
    pub payload: Vec<u8>,
}

pub struct Devices {
    connect_timeout: Duration,
    devices: HashMap<RegistrationId, Device>,
    by_anchor: HashMap<AnchorId, Owner>,
    by_conn: HashMap<String, RegistrationId>,
    clients: Clients<UnderWay>,
    /// Whose the calls of Authenticate and Publish are that have no answer yet. They outlive their devices.
    calls: HashMap<AnchorId, ClientKey>,
    /// Devices that wait for the broker to be there again.
    parked: BTreeSet<RegistrationId>,
    announcements: Announcements<Owner>,
    queues: Queues,
    nodes: Nodes,
    /// One for each node.
    probers: Vec<Prober>,
    disturbances: Disturbances,
    /// Devices that are connected again in their turn.
    turns: Turns,
    returning: Returning,
    deadlines: Deadlines<Timer>,
    actions: VecDeque<Action>,
    next_anchor: u64,
    rng: StdRng,
    metrics: Arc<UpstreamMetrics>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Timer {
    /// What it means is the state's.
    Device(RegistrationId),
    /// An Authenticate of an older registration need not be waited for any longer.
    Held(RegistrationId),
    Drain(RegistrationId),
    Probe(TargetId),
    /// The next device has its turn to be connected again.
    Turn,
}

impl Devices {
    pub fn new(settings: &ExProtoConfig, rng: StdRng, metrics: Arc<UpstreamMetrics>) -> Self {
        Self {
            connect_timeout: settings.connect_timeout,
            devices: HashMap::new(),
            by_anchor: HashMap::new(),
            by_conn: HashMap::new(),
            clients: Clients::default(),
            calls: HashMap::new(),
            parked: BTreeSet::new(),
            announcements: Announcements::default(),
            queues: Queues::new(settings.queue_per_device, settings.queue_total),
            nodes: Nodes::of(settings),
            probers: settings.nodes.iter().map(|_| Prober::default()).collect(),
            disturbances: Disturbances::default(),
            turns: Turns::per_second(settings.anchors_per_second),
            returning: Returning::default(),
            deadlines: Deadlines::default(),
            actions: VecDeque::new(),
            next_anchor: 0,
            rng,
            metrics,
        }
    }

    pub fn command(&mut self, now: Instant, command: BrokerCommand) {
        match command {
            BrokerCommand::Connect { device, client } => self.connect(now, device, client),
            BrokerCommand::Resume { device, client } => self.resume(now, device, client),
            BrokerCommand::Publish { device, publication } => self.publish(now, device, publication),
            // EMQX keeps nothing for a client of ExProto that is not connected.
            BrokerCommand::SetLifetime { .. } => {}
            BrokerCommand::Disconnect { device } => self.disconnect(now, device),
        }
    }

    /// Disconnects every device.
    pub fn disconnect_all(&mut self, now: Instant) {
        let mut all: Vec<RegistrationId> = self.devices.keys().copied().collect();
        // The older ones first: none of them comes back because a newer registration of its clientid has left.
        all.sort();
        for device in all {
            self.disconnect(now, device);
        }
    }

    /// What the broker told the handler.
    pub fn heard(&mut self, now: Instant, event: HandlerEvent) {
        let counters = self.counters();
        match event {
            HandlerEvent::SocketCreated => {
                counters.events_socket_created.inc();
            }
            HandlerEvent::SocketClosed { conn, reason } => {
                counters.events_socket_closed.inc();
                self.socket_closed(now, &conn, &reason);
            }
            HandlerEvent::ReceivedBytes { conn, bytes } => {
                counters.events_received_bytes.inc();
                self.bytes_received(now, conn, &bytes);
            }
            HandlerEvent::TimerTimeout => {
                counters.events_timer_timeout.inc();
            }
            HandlerEvent::ReceivedMessages { conn, messages } => {
                counters.events_received_messages.inc();
                self.messages_received(&conn, messages);
            }
        }
    }

    /// How a call to this node ended. There is at most one call of an anchor at a time, so that the state says which one it
    /// was. A call that was given up finds no anchor; what it meant for the clientid counts all the same.
    pub fn called(&mut self, now: Instant, node: TargetId, anchor: AnchorId, outcome: Outcome) {
        let owner = self.by_anchor.get(&anchor).copied();
        let client = self.calls.remove(&anchor);
        let authenticated = client.is_some_and(|client| self.authenticate_ended(now, client, anchor, &outcome));
        match &outcome {
            // A call that was given up says nothing of the node as it is now, and a probe's tells it itself.
            Outcome::Unreachable(error) => {
                if let Some(Owner::Device(_)) = owner {
                    self.node_failed(now, node, Fault::NotServed(error));
                }
            }
            Outcome::Short(why) => self.disturbances.not_opened(why),
            Outcome::Done
            | Outcome::Refused(_)
            | Outcome::ConnectionLost(_)
            | Outcome::Rejected(_)
            | Outcome::Failed(_) => self.nodes.answered(node),
        }
        match owner {
            Some(Owner::Device(device)) => self.device_called(now, device, outcome),
            Some(Owner::Probe(node)) => self.probe_answered(now, node, &outcome),
            None => {
                if let Some(client) = client {
                    self.published_late(now, client, anchor, outcome);
                }
            }
        }
        if let Some(client) = client.filter(|_| authenticated) {
            self.go_on_with(now, client);
        }
    }

    fn device_called(&mut self, now: Instant, device: RegistrationId, outcome: Outcome) {
        match self.state(device) {
            Some(State::Authenticating { .. }) => self.authenticated(now, device, outcome),
            Some(State::Subscribing { .. }) => self.subscribed(now, device, outcome),
            Some(State::Ready { .. }) => self.published(now, device, outcome),
            Some(State::Held | State::Dialing { .. } | State::Announced { .. } | State::WaitingToReconnect(_))
            | None => {}
        }
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(timer) = self.deadlines.pop_expired(now) {
            match timer {
                Timer::Device(device) => self.state_timed_out(now, device),
                Timer::Held(device) => {
                    if let Some(key) = self.devices.get(&device).map(|device| device.key) {
                        self.advance(now, key);
                    }
                }
                Timer::Drain(device) => self.remove(now, device),
                Timer::Probe(node) => self.probe_due(now, node),
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

    pub fn is_empty(&self) -> bool {
        self.devices.is_empty()
    }

    /// Counts; it looks at every device.
    pub fn occupancy(&self) -> Occupancy {
        let ready = |device: &&Device| matches!(device.state, State::Ready { .. });
        let connected = self.devices.values().filter(ready).count();
        let nodes_up = self.nodes.up();
        Occupancy {
            connected,
            connecting: self.devices.len() - connected,
            publications: self.queues.len(),
            publications_limit: self.queues.limit(),
            nodes_up,
            nodes_down: self.nodes.len() - nodes_up,
        }
    }

    /// How it is with the nodes, when that has changed since the last time.
    pub fn take_health(&mut self) -> Option<TargetsHealth> {
        let changed = self.nodes.take_changed() | self.disturbances.take_changed();
        changed.then(|| {
            let TargetsHealth { serving, detail } = self.nodes.health();
            TargetsHealth { serving, detail: self.disturbances.add_to(detail) }
        })
    }

    fn disconnect(&mut self, now: Instant, id: RegistrationId) {
        let Some(device) = self.devices.get(&id) else { return };
        let key = device.key;
        let is_replaced =
            self.clients.newer(key, id).any(|newer| matches!(self.state(newer), Some(State::Ready { .. })));
        if is_replaced || !device.connected_before || self.queues.is_empty(key) {
            return self.remove(now, id);
        }
        if let Some(device) = self.devices.get_mut(&id)
            && !std::mem::replace(&mut device.leaving, true)
        {
            self.deadlines.set(Timer::Drain(id), now + DRAIN_TIMEOUT);
        }
    }

    fn state_timed_out(&mut self, now: Instant, id: RegistrationId) {
        let (fault, why) = match self.state(id) {
            Some(State::WaitingToReconnect(wait)) => return self.waited(now, id, *wait),
            Some(State::Held) => return self.gave_up(now, id, "the registration before it is still under way"),
            Some(State::Dialing { .. }) => (Fault::NotReached("no answer"), "EMQX's listener does not answer"),
            Some(State::Announced { .. }) => (Fault::AnchorUntold, "EMQX took the anchor, but did not tell of it"),
            Some(State::Authenticating { .. }) => (Fault::Unanswered, "no answer to Authenticate"),
            Some(State::Subscribing { .. }) => (Fault::Unanswered, "no answer to Subscribe"),
            Some(State::Ready { .. }) => match self.unanswered_publish(now, id) {
                Some(fault) => fault,
                None => return,
            },
            None => return,
        };
        self.blame_node(now, id, fault);
        if let Some(State::Ready { .. }) = self.state(id) {
            return self.lost(now, id, why);
        }
        self.gave_up(now, id, why);
    }

    /// The device met this at its node, and tries another one next.
    fn blame_node(&mut self, now: Instant, id: RegistrationId, fault: Fault<'_>) {
        let Some(device) = self.devices.get_mut(&id) else { return };
        device.elsewhere = true;
        if let Some(node) = device.node {
            self.node_failed(now, node, fault);
        }
    }

    fn socket_closed(&mut self, now: Instant, conn: &str, reason: &str) {
        self.announcements.closed(conn);
        let Some(id) = self.by_conn.get(conn).copied() else { return };
        if self.devices.get(&id).is_some_and(|device| device.conn.as_deref() != Some(conn)) {
            return self.forget_former(id, conn);
        }
        match close_reason(reason) {
            Some(CloseReason::Discarded) if self.discarded_by_us(now, id) => self.connection_gone(now, id, reason),
            Some(meant) => self.close(now, id, meant),
            None => self.connection_gone(now, id, reason),
        }
    }

    fn connection_gone(&mut self, now: Instant, id: RegistrationId, reason: &str) {
        match self.state(id) {
            Some(State::Authenticating { .. } | State::Subscribing { .. } | State::Ready { .. }) => {
                self.lost(now, id, reason);
            }
            // It is the connection before, of which the anchor's end told.
            Some(State::Held | State::Dialing { .. } | State::Announced { .. } | State::WaitingToReconnect(_))
            | None => {}
        }
    }

    fn bytes_received(&mut self, now: Instant, conn: String, bytes: &[u8]) {
        if self.by_conn.contains_key(&conn) {
            return;
        }
        match self.announcements.received(now, &conn, bytes) {
            Heard::Token(Owner::Device(device)) => self.announced(now, device, conn),
            Heard::Token(Owner::Probe(node)) => self.probe_announced(node, conn),
            Heard::Stranger => {
                self.counters().unknown_tokens.inc();
            }
            Heard::Incomplete => {}
        }
    }

    fn messages_received(&mut self, conn: &str, messages: Vec<Message>) {
        let device = self.by_conn.get(conn).copied();
        let Some((id, device)) = device.and_then(|id| Some((id, self.devices.get_mut(&id)?))) else {
            self.counters().messages_dropped.inc_by(messages.len() as u64);
            return;
        };
        if device.connected_before {
            return self.deliver(id, messages);
        }
        if device.conn.as_deref() != Some(conn) {
            return self.inherit(id, messages);
        }
        let count = messages.len();
        let kept = match &mut device.state {
            State::Subscribing { early, .. } => {
                let room = EARLY_MESSAGES.saturating_sub(early.len());
                early.extend(messages.into_iter().take(room));
                count.min(room)
            }
            State::Held
            | State::Dialing { .. }
            | State::Announced { .. }
            | State::Authenticating { .. }
            | State::Ready { .. }
            | State::WaitingToReconnect(_) => 0,
        };
        self.counters().messages_dropped.inc_by((count - kept) as u64);
    }

    fn deliver(&mut self, device: RegistrationId, messages: Vec<Message>) {
        for Message { topic, payload } in messages {
            let properties = MessageProperties::default();
            self.tell(device, BrokerEvent::Message { device, topic, payload, properties });
        }
    }

    /// The connection is gone for good.
    fn close(&mut self, now: Instant, id: RegistrationId, reason: CloseReason) {
        let Some(device) = self.devices.get(&id) else { return };
        if !device.connected_before {
            return self.gave_up(now, id, &format!("EMQX ended the connection: {reason:?}"));
        }
        if !self.clients.is_superseded(device.key, id) {
            return self.end(now, id, reason);
        }
        // What becomes of it is decided when it is known what becomes of the newer registration.
        if let Some(device) = self.devices.get_mut(&id) {
            device.ended = Some(reason);
        }
        self.connection_gone(now, id, "EMQX ended the connection");
    }

    fn end(&mut self, now: Instant, id: RegistrationId, reason: CloseReason) {
        let Some(device) = self.devices.get(&id) else { return };
        debug!(device = id.0, clientid = device.client.clientid, ?reason, "connection ended by EMQX");
        self.counters().closed.inc();
        self.tell(id, BrokerEvent::Closed { device: id, reason });
        self.remove(now, id);
    }

    /// Forgets the device. What waits to be published stays while there is another registration of the clientid.
    fn remove(&mut self, now: Instant, id: RegistrationId) {
        self.hang_up(now, id);
        let Some(device) = self.devices.remove(&id) else { return };
        for timer in [Timer::Device(id), Timer::Held(id), Timer::Drain(id)] {
            self.deadlines.cancel(timer);
        }
        self.parked.remove(&id);
        self.turns.remove(id);
        self.returning.left(now, id);
        let key = device.key;
        let was_last = self.clients.remove(key, id);
        self.bequeath(device);
        if was_last {
            self.clear_queue(key);
        }
        self.go_on_with(now, key);
    }

    /// Gives up the anchor, if there is one.
    fn hang_up(&mut self, now: Instant, id: RegistrationId) {
        self.abandon_call(now, id);
        let Some(device) = self.devices.get(&id) else { return };
        if let Some(token) = device.state.token() {
            self.announcements.forget(token);
        }
        if let Some(anchor) = device.state.anchor() {
            self.by_anchor.remove(&anchor);
            self.actions.push_back(Action::HangUp { anchor });
            if let Some(node) = device.node {
                self.nodes.remove_connection(node);
                if let State::Ready { .. } = device.state {
                    self.nodes.remove_client(node);
                }
            }
        }
    }

    /// Nothing is heard of a device that was disconnected.
    fn tell(&mut self, device: RegistrationId, event: BrokerEvent) {
        if self.devices.get(&device).is_some_and(|device| !device.leaving) {
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

/// The reasons that are the broker's will; all others are the world's.
fn close_reason(text: &str) -> Option<CloseReason> {
    match text.strip_prefix("{shutdown,").and_then(|rest| rest.strip_suffix('}')).unwrap_or(text) {
        "kicked" => Some(CloseReason::Kicked),
        "discarded" => Some(CloseReason::Discarded),
        "expired" => Some(CloseReason::Expired),
        _ => None,
    }
}
