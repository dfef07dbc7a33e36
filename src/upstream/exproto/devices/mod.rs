//! All devices as clients of EMQX by ExProto, as a state machine without sockets, calls and clock.
//!
//! The shared lifecycle is that of `client`. Its states have these steps here, with an anchor and calls:
//! 1. `Dialing`: the anchor is being connected to EMQX's listener.
//! 2. `Announced`: the anchor is open and has sent its token; EMQX has to report it to the handler.
//! 3. `Authenticating`: EMQX reported the token, so that the `conn` is known.
//! 4. `Subscribing`: the filter of the device's commands is subscribed.
//! 5. `Ready`: one publication is in flight at a time, because EMQX does not keep the order of concurrent ones.
//! 6. `WaitingToReconnect`: the anchor has ended. EMQX may still report that the end was meant (kicked, discarded,
//!    expired): it closes the socket and reports the reason on two paths, and neither is always the faster one.
//!
//! Each attempt goes to one node, which `nodes` chooses: the anchor and the calls belong to that node.
//!
//! A publication is delivered at least once: when its call fails, or has no answer in time, nobody knows whether EMQX
//! had it, and it is sent again.

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
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;

use crate::upstream::client::clients::ClientKey;
use crate::upstream::client::device::{ConnectionId, Destination, Leaving, UpstreamDevice, UpstreamState};
use crate::upstream::client::probing::MetBy;
use crate::upstream::client::targets::{TargetId, Targets};
use crate::upstream::client::{self, EARLY_MESSAGES, Protocol};
use crate::upstream::metrics::UpstreamMetrics;
use lwm2m_base::ThreadShards;
use lwm2m_base::id_map::IdMap;
use lwm2m_core::gateway::broker::{
    BrokerEvent, ClientInfo, CloseReason, MessageProperties, MessageReceipt, Publication, RegistrationId,
};

use super::ExProtoConfig;
use super::announcements::{AnchorToken, Announcements, LineResult};
use super::nodes::{NodeFault, NodeFaults, Nodes};
use device::{AnchorRecord, ExProtoAttempt, PublishCall};
use probing::Probe;

/// Holds all devices as clients of EMQX.
pub(crate) type ExProtoDevices = client::Devices<ExProtoProtocol>;

/// Limits how long Publish may take. EMQX answers within 5 s, with an error if need be. The call itself is not
/// cancelled: its answer comes too late.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(10);
/// Says to whom an anchor belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AnchorOwner {
    Device(RegistrationId),
    Probe(TargetId),
}

/// Lists what the state machine wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExProtoAction {
    /// Opens an anchor. [`ExProtoDevices::dialed`] has to follow, and after a success [`ExProtoDevices::anchor_ended`],
    /// unless `HangUp` comes first.
    Dial {
        anchor: ConnectionId,
        node: TargetId,
        token: AnchorToken,
    },
    HangUp {
        anchor: ConnectionId,
    },
    /// Makes a call. [`ExProtoDevices::called`] has to follow.
    Call {
        anchor: ConnectionId,
        node: TargetId,
        call: AdapterCall,
    },
    Emit(BrokerEvent),
}

/// Lists the calls to the ConnectionAdapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdapterCall {
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
    /// Asks whether EMQX knows the connection. It changes nothing.
    Ping {
        conn: String,
    },
}

/// Says how a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallOutcome {
    Done,
    /// EMQX does not allow it.
    Refused(String),
    /// EMQX does not know the connection (any more), or the connection is in another state.
    ConnectionLost(String),
    /// EMQX considers the call invalid.
    Rejected(String),
    /// EMQX answered with an error of its own.
    Failed(String),
    /// EMQX was not reached.
    Unreachable(String),
    /// This machine has no descriptor, port or memory left to reach EMQX.
    Short(String),
}

/// Lists what EMQX reports to the handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExProtoEvent {
    SocketCreated,
    SocketClosed { conn: String, reason: String },
    ReceivedBytes { conn: String, bytes: Vec<u8> },
    TimerTimeout,
    ReceivedMessages { conn: String, messages: Vec<ExProtoMessage> },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExProtoMessage {
    pub topic: String,
    pub payload: Vec<u8>,
}

impl From<BrokerEvent> for ExProtoAction {
    fn from(event: BrokerEvent) -> Self {
        Self::Emit(event)
    }
}

/// Keeps what is known of EMQX beside the devices.
pub struct ExProtoProtocol {
    by_anchor: IdMap<ConnectionId, AnchorOwner>,
    by_conn: HashMap<String, RegistrationId>,
    /// Maps the calls of Authenticate and Publish without an answer to their client ID. They outlive their devices.
    calls: IdMap<ConnectionId, ClientKey>,
    announcements: Announcements,
    /// Holds the probes that have not ended.
    probes: BTreeMap<TargetId, Probe>,
    /// The shards of the link's driver thread, which the tokens of its anchors name.
    shards: ThreadShards,
}

/// Expires when the probe of the node has taken too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProbeTimer(TargetId);

impl Protocol for ExProtoProtocol {
    const BROKER: &'static str = "EMQX";

    type Action = ExProtoAction;
    type Attempt = ExProtoAttempt;
    type Connection = ConnectionId;
    type Message = ExProtoMessage;
    type Faults = NodeFaults;
    type DeviceRecord = AnchorRecord;
    type SharedRecord = Option<PublishCall>;
    type Timer = ProbeTimer;

    fn choose(
        targets: &mut Targets<NodeFaults>,
        _now: Instant,
        before: Option<TargetId>,
        elsewhere: bool,
    ) -> Option<TargetId> {
        targets.choose(before, elsewhere)
    }

    fn dial(devices: &mut ExProtoDevices, id: RegistrationId, anchor: ConnectionId, destination: Destination) {
        match destination {
            Destination::Configured(node) => devices.dial_node(id, anchor, node),
            // EMQX names no other server by ExProto.
            Destination::Referred(_) => {}
        }
    }

    fn hang_up(devices: &mut ExProtoDevices, now: Instant, id: RegistrationId) {
        devices.hang_up(now, id);
    }

    fn leave(devices: &mut ExProtoDevices, now: Instant, id: RegistrationId, _leaving: Leaving) {
        devices.remove(now, id);
    }

    fn connection_lost(devices: &mut ExProtoDevices, now: Instant, id: RegistrationId) {
        devices.count_failed_attempt(id);
        devices.abandon_call(now, id);
    }

    fn attempt_timed_out(devices: &mut ExProtoDevices, now: Instant, id: RegistrationId) {
        devices.attempt_timed_out(now, id);
    }

    fn connection_due(devices: &mut ExProtoDevices, now: Instant, id: RegistrationId) {
        devices.publish_due(now, id);
    }

    fn timed_out(devices: &mut ExProtoDevices, now: Instant, ProbeTimer(node): ProbeTimer) {
        devices.probe_timed_out(now, node);
    }

    fn probe(devices: &mut ExProtoDevices, now: Instant, node: TargetId) {
        devices.begin_probe(now, node);
    }

    fn publish_next(devices: &mut ExProtoDevices, now: Instant, key: ClientKey) {
        devices.publish_next(now, key);
    }

    fn forget_in_flight(publishing: &mut Option<PublishCall>) {
        *publishing = None;
    }

    fn deliver(
        devices: &mut ExProtoDevices,
        _now: Instant,
        registration: RegistrationId,
        ExProtoMessage { topic, payload }: ExProtoMessage,
    ) {
        let properties = MessageProperties::default();
        devices.emit(registration, BrokerEvent::Message { registration, topic, payload, properties });
    }

    /// EMQX keeps no command.
    fn confirm(_devices: &mut ExProtoDevices, _now: Instant, _receipt: MessageReceipt) {}

    fn requested_connection(device: &UpstreamDevice<Self>) -> Option<ConnectionId> {
        device.protocol.announced
    }

    fn retire(devices: &mut ExProtoDevices, now: Instant, older: RegistrationId, newer: RegistrationId) {
        devices.rest_or_leave(now, older);
        devices.pass_on_connections(older, newer);
    }

    fn pass_on(devices: &mut ExProtoDevices, now: Instant, device: UpstreamDevice<Self>) {
        devices.pass_on(now, device);
    }
}

impl ExProtoDevices {
    pub fn new(config: &ExProtoConfig, rng: StdRng, metrics: Arc<UpstreamMetrics>) -> Self {
        let protocol = ExProtoProtocol {
            by_anchor: IdMap::default(),
            by_conn: HashMap::new(),
            calls: IdMap::default(),
            announcements: Announcements::default(),
            probes: BTreeMap::new(),
            shards: ThreadShards::ALL,
        };
        Self::with(protocol, Nodes::of(config), &config.link, rng, metrics)
    }

    /// Makes tokens by which the handler recognizes the anchors of this thread.
    pub fn of_thread(mut self, shards: ThreadShards) -> Self {
        self.protocol.shards = shards;
        self
    }

    /// Handles an event that EMQX reported to the handler.
    pub fn heard(&mut self, now: Instant, event: ExProtoEvent) {
        let counters = self.counters();
        match event {
            ExProtoEvent::SocketCreated => {
                counters.events.socket_created.inc();
            }
            ExProtoEvent::SocketClosed { conn, reason } => {
                counters.events.socket_closed.inc();
                self.socket_closed(now, &conn, &reason);
            }
            ExProtoEvent::ReceivedBytes { conn, bytes } => {
                counters.events.received_bytes.inc();
                self.bytes_received(now, conn, &bytes);
            }
            ExProtoEvent::TimerTimeout => {
                counters.events.timer_timeout.inc();
            }
            ExProtoEvent::ReceivedMessages { conn, messages } => {
                counters.events.received_messages.inc();
                self.messages_received(now, &conn, messages);
            }
        }
    }

    /// Handles the end of a call to this node. An anchor has at most one call at a time, so the state says which one it
    /// was. A call that was given up finds no anchor; what it means for the client ID counts all the same.
    pub(crate) fn called(&mut self, now: Instant, node: TargetId, anchor: ConnectionId, outcome: CallOutcome) {
        let owner = self.protocol.by_anchor.get(&anchor).copied();
        let client = self.protocol.calls.remove(&anchor);
        let authenticated = client.is_some_and(|client| self.authenticate_ended(now, client, anchor, &outcome));
        match &outcome {
            // A call that was given up says nothing of the node as it is now, and a probe's tells it itself.
            CallOutcome::Unreachable(error) => {
                if let Some(AnchorOwner::Device(_)) = owner {
                    self.target_failed(now, node, NodeFault::NotServed(error), MetBy::Device);
                }
            }
            CallOutcome::Short(why) => self.disturbances.not_opened(why),
            CallOutcome::Done
            | CallOutcome::Refused(_)
            | CallOutcome::ConnectionLost(_)
            | CallOutcome::Rejected(_)
            | CallOutcome::Failed(_) => self.targets.answered(node),
        }
        match owner {
            Some(AnchorOwner::Device(device)) => self.device_called(now, device, outcome),
            Some(AnchorOwner::Probe(node)) => self.probe_answered(now, node, &outcome),
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

    fn device_called(&mut self, now: Instant, registration: RegistrationId, outcome: CallOutcome) {
        match self.state(registration) {
            Some(UpstreamState::Connecting(ExProtoAttempt::Authenticating { .. })) => {
                self.authenticated(now, registration, outcome)
            }
            Some(UpstreamState::Connecting(ExProtoAttempt::Subscribing { .. })) => {
                self.subscribed(now, registration, outcome)
            }
            Some(UpstreamState::Ready(_)) => self.published(now, registration, outcome),
            Some(
                UpstreamState::Held
                | UpstreamState::Connecting(ExProtoAttempt::Dialing { .. } | ExProtoAttempt::Announced { .. })
                | UpstreamState::WaitingToReconnect(_),
            )
            | None => {}
        }
    }

    fn attempt_timed_out(&mut self, now: Instant, id: RegistrationId) {
        let Some(UpstreamState::Connecting(attempt)) = self.state(id) else { return };
        let (fault, why) = match attempt {
            ExProtoAttempt::Dialing { .. } => (NodeFault::NotReached("no answer"), "EMQX's listener does not answer"),
            ExProtoAttempt::Announced { .. } => {
                (NodeFault::AnchorUnreported, "EMQX took the anchor, but did not tell of it")
            }
            ExProtoAttempt::Authenticating { .. } => (NodeFault::Unanswered, "no answer to Authenticate"),
            ExProtoAttempt::Subscribing { .. } => (NodeFault::Unanswered, "no answer to Subscribe"),
        };
        self.fault_met(now, id, fault);
        self.gave_up(now, id, why);
    }

    /// Handles the expired timer of a ready device.
    fn publish_due(&mut self, now: Instant, id: RegistrationId) {
        if let Some((fault, why)) = self.unanswered_publish(now, id) {
            self.fault_met(now, id, fault);
            self.lost(now, id, why);
        }
    }

    fn socket_closed(&mut self, now: Instant, conn: &str, reason: &str) {
        self.protocol.announcements.closed(conn);
        let Some(id) = self.protocol.by_conn.get(conn).copied() else { return };
        if self.devices.get(&id).is_some_and(|device| device.protocol.conn.as_deref() != Some(conn)) {
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
            Some(
                UpstreamState::Connecting(ExProtoAttempt::Authenticating { .. } | ExProtoAttempt::Subscribing { .. })
                | UpstreamState::Ready(_),
            ) => self.lost(now, id, reason),
            // It is the connection before, of which the anchor's end told.
            Some(
                UpstreamState::Held
                | UpstreamState::Connecting(ExProtoAttempt::Dialing { .. } | ExProtoAttempt::Announced { .. })
                | UpstreamState::WaitingToReconnect(_),
            )
            | None => {}
        }
    }

    fn bytes_received(&mut self, now: Instant, conn: String, bytes: &[u8]) {
        if self.protocol.by_conn.contains_key(&conn) {
            return;
        }
        match self.protocol.announcements.received(now, &conn, bytes) {
            LineResult::Token(AnchorOwner::Device(device)) => self.announced(now, device, conn),
            LineResult::Token(AnchorOwner::Probe(node)) => self.probe_announced(node, conn),
            LineResult::Unknown => {
                self.counters().unknown_tokens.inc();
            }
            LineResult::Incomplete => {}
        }
    }

    fn messages_received(&mut self, now: Instant, conn: &str, messages: Vec<ExProtoMessage>) {
        let device = self.protocol.by_conn.get(conn).copied();
        let Some((id, device)) = device.and_then(|id| Some((id, self.devices.get_mut(&id)?))) else {
            self.counters().messages_dropped.inc_by(messages.len() as u64);
            return;
        };
        if device.connected_before || device.protocol.conn.as_deref() != Some(conn) {
            return messages.into_iter().for_each(|message| self.deliver_passed_on(now, id, message));
        }
        let count = messages.len();
        let kept = match &mut device.state {
            UpstreamState::Connecting(ExProtoAttempt::Subscribing { early, .. }) => {
                let room = EARLY_MESSAGES.saturating_sub(early.len());
                early.extend(messages.into_iter().take(room));
                count.min(room)
            }
            UpstreamState::Held
            | UpstreamState::Connecting(_)
            | UpstreamState::Ready(_)
            | UpstreamState::WaitingToReconnect(_) => 0,
        };
        self.counters().messages_dropped.inc_by((count - kept) as u64);
    }

    /// Handles a connection that EMQX ended for good.
    fn close(&mut self, now: Instant, id: RegistrationId, reason: CloseReason) {
        let Some(device) = self.devices.get(&id) else { return };
        if !device.connected_before {
            return self.gave_up(now, id, &format!("EMQX ended the connection: {reason}"));
        }
        if self.defer_end(id, reason) {
            self.connection_gone(now, id, "EMQX ended the connection");
        } else {
            self.end(now, id, reason);
        }
    }

    /// Closes the anchor, if there is one.
    fn hang_up(&mut self, now: Instant, id: RegistrationId) {
        self.abandon_call(now, id);
        let Some(device) = self.devices.get(&id) else { return };
        if let Some(token) = device.state.token() {
            self.protocol.announcements.forget(token);
        }
        if let Some(anchor) = device.state.anchor() {
            self.protocol.by_anchor.remove(&anchor);
            self.actions.push_back(ExProtoAction::HangUp { anchor });
            if let Some(node) = device.target() {
                self.targets.remove_connection(node);
                if device.is_ready() {
                    self.targets.remove_client(node);
                }
            }
        }
    }
}

/// Returns the reason if EMQX ended the connection on purpose. Every other reason is a loss.
fn close_reason(text: &str) -> Option<CloseReason> {
    match text.strip_prefix("{shutdown,").and_then(|rest| rest.strip_suffix('}')).unwrap_or(text) {
        "kicked" => Some(CloseReason::Kicked),
        "discarded" => Some(CloseReason::Discarded),
        "expired" => Some(CloseReason::Expired),
        _ => None,
    }
}
