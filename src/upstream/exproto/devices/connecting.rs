//! From Connect to `Ready`.

use std::mem;
use std::time::{Duration, Instant};

use tracing::debug;

use crate::upstream::client::targets::TargetId;
use crate::upstream::dialer::DialFailure;
use crate::upstream::exproto::announcements::Token;
use crate::upstream::exproto::nodes::Fault;
use lwm2m_core::gateway::broker::{BrokerEvent, ClientInfo, CloseReason, ConnectError, RegistrationId};

use super::{Action, AnchorId, Call, Device, Devices, Outcome, Owner, State, Timer};

/// A device that was a client before is refused for good when EMQX has refused it for so long and serves others: after a
/// restart EMQX may listen before its authentication is there.
const REFUSED_FOR_GOOD: Duration = Duration::from_secs(30);

impl Devices {
    /// The anchor is open and has sent its token, or there is none.
    pub fn dialed(&mut self, now: Instant, anchor: AnchorId, outcome: Result<(), DialFailure>) {
        match &outcome {
            Ok(()) => self.disturbances.opened(),
            Err(DialFailure::Local(why)) => self.disturbances.not_opened(why),
            Err(DialFailure::NotReached(_)) => {}
        }
        match (self.by_anchor.get(&anchor).copied(), outcome) {
            (Some(Owner::Probe(node)), outcome) => self.probe_dialed(now, node, outcome),
            (Some(Owner::Device(id)), Ok(())) => self.anchor_open(id),
            (Some(Owner::Device(id)), Err(failure)) => self.not_dialed(now, id, &failure),
            (None, _) => {}
        }
    }

    fn not_dialed(&mut self, now: Instant, id: RegistrationId, failure: &DialFailure) {
        match failure {
            DialFailure::NotReached(why) => {
                self.counters().connections_failed.inc();
                self.blame_node(now, id, Fault::NotReached(why));
                self.attempt_failed(now, id, why);
            }
            DialFailure::Local(why) => {
                self.counters().connections_not_opened.inc();
                self.gave_up(now, id, why);
            }
        }
    }

    /// The broker, or the network, closed the anchor.
    pub fn anchor_ended(&mut self, now: Instant, anchor: AnchorId) {
        let id = match self.by_anchor.get(&anchor).copied() {
            Some(Owner::Device(id)) => id,
            Some(Owner::Probe(node)) => return self.probe_anchor_ended(now, node),
            None => return,
        };
        if let Some(State::Dialing { .. } | State::Announced { .. }) = self.state(id) {
            self.blame_node(now, id, Fault::AnchorClosed);
            let hint = "EMQX closed the anchor at once: its listener may be full, or its `handler.address` wrong";
            return self.attempt_failed(now, id, hint);
        }
        self.lost(now, id, "the anchor ended");
    }

    pub(super) fn connect(&mut self, now: Instant, id: RegistrationId, client: ClientInfo) {
        let key = self.clients.add(&client.clientid, id);
        self.devices.insert(id, Device::registered(now, client, key));
        self.deadlines.set(Timer::Device(id), now + self.connect_timeout);
        self.supersede_older(now, key, id);
        self.advance(now, key);
    }

    pub(super) fn first_attempt(&mut self, now: Instant, id: RegistrationId) {
        match self.nodes.choose(None, false) {
            Some(node) => self.dial(id, node),
            None => self.gave_up(now, id, "EMQX is away"),
        }
    }

    pub(super) fn dial(&mut self, id: RegistrationId, node: TargetId) {
        self.counters().connections_attempted.inc();
        let (anchor, token) = self.dial_for(Owner::Device(id), node);
        let Some(device) = self.devices.get_mut(&id) else { return };
        device.state = State::Dialing { anchor, token };
        device.node = Some(node);
        device.elsewhere = false;
    }

    pub(super) fn dial_for(&mut self, owner: Owner, node: TargetId) -> (AnchorId, Token) {
        let anchor = AnchorId(self.next_anchor);
        self.next_anchor += 1;
        let token = Token::random(&mut self.rng);
        self.by_anchor.insert(anchor, owner);
        match owner {
            Owner::Device(_) => self.nodes.add_connection(node),
            // It is none of those that are spread over the nodes.
            Owner::Probe(_) => {}
        }
        self.announcements.expect(token.clone(), owner);
        self.actions.push_back(Action::Dial { anchor, node, token: token.clone() });
        (anchor, token)
    }

    fn anchor_open(&mut self, id: RegistrationId) {
        let Some(device) = self.devices.get_mut(&id) else { return };
        // Where the broker was faster the device is past this.
        if let State::Dialing { anchor, token } = &device.state {
            device.state = State::Announced { anchor: *anchor, token: token.clone() };
        }
    }

    /// The broker told the device's token: this is its connection.
    pub(super) fn announced(&mut self, now: Instant, id: RegistrationId, conn: String) {
        let Some(device) = self.devices.get_mut(&id) else { return };
        let Some((anchor, node)) = device.state.anchor().zip(device.node) else { return };
        device.state = State::Authenticating { anchor };
        device.announced = Some(anchor);
        if let Some(under_way) = self.clients.shared_mut(device.key) {
            under_way.authenticating.insert(anchor, now);
            under_way.last_authenticated = Some(anchor);
        }
        self.calls.insert(anchor, device.key);
        if let Some(before) = device.conn.replace(conn.clone()) {
            self.by_conn.remove(&before);
        }
        self.by_conn.insert(conn.clone(), id);
        let call = Call::Authenticate { conn, client: device.client.clone() };
        self.actions.push_back(Action::Call { anchor, node, call });
        self.nodes.told(node);
    }

    pub(super) fn authenticated(&mut self, now: Instant, id: RegistrationId, outcome: Outcome) {
        match outcome {
            Outcome::Done => self.subscribe(id),
            Outcome::Refused(why) => {
                self.counters().authenticate_refused.inc();
                self.refused(now, id, format!("Authenticate: {why}"));
            }
            Outcome::ConnectionLost(why)
            | Outcome::Rejected(why)
            | Outcome::Failed(why)
            | Outcome::Unreachable(why)
            | Outcome::Short(why) => {
                self.counters().authenticate_unavailable.inc();
                self.call_failed(now, id, &format!("Authenticate: {why}"));
            }
        }
    }

    fn subscribe(&mut self, id: RegistrationId) {
        self.counters().authenticate_ok.inc();
        let Some(device) = self.devices.get_mut(&id) else { return };
        let Some((anchor, node)) = device.state.anchor().zip(device.node) else { return };
        let Some(conn) = device.conn.clone() else { return };
        device.state = State::Subscribing { anchor, early: Vec::new() };
        let call =
            Call::Subscribe { conn, filter: device.client.command_filter.clone(), qos: device.client.command_qos };
        self.actions.push_back(Action::Call { anchor, node, call });
    }

    pub(super) fn subscribed(&mut self, now: Instant, id: RegistrationId, outcome: Outcome) {
        match outcome {
            Outcome::Done => self.ready(now, id),
            Outcome::Refused(why) => {
                self.counters().subscribe_refused.inc();
                self.refused(now, id, format!("Subscribe: {why}"));
            }
            Outcome::ConnectionLost(why)
            | Outcome::Rejected(why)
            | Outcome::Failed(why)
            | Outcome::Unreachable(why)
            | Outcome::Short(why) => self.call_failed(now, id, &format!("Subscribe: {why}")),
        }
    }

    fn call_failed(&mut self, now: Instant, id: RegistrationId, why: &str) {
        if let Some(device) = self.devices.get_mut(&id) {
            device.elsewhere = true;
        }
        self.attempt_failed(now, id, why);
    }

    fn ready(&mut self, now: Instant, id: RegistrationId) {
        self.deadlines.cancel(Timer::Device(id));
        let Some(device) = self.devices.get_mut(&id) else { return };
        let Some(anchor) = device.state.anchor() else { return };
        let key = device.key;
        let before = mem::replace(&mut device.state, State::Ready { anchor });
        let inherited = mem::take(&mut device.inherited);
        device.failures = 0;
        device.refused_since = None;
        if let Some(node) = device.node {
            self.nodes.add_client(node);
        }
        let first = !mem::replace(&mut device.connected_before, true);
        let awaited = first || mem::take(&mut device.resumed);
        let before_here = mem::replace(&mut device.home, device.node);
        let moved = before_here.is_some() && before_here != device.node;
        let counters = self.counters();
        if moved {
            counters.moved.inc();
        }
        if first {
            counters.connected.inc();
        } else {
            counters.reconnected.inc();
        }
        if awaited {
            self.tell(id, BrokerEvent::Connected { device: id });
        }
        if let State::Subscribing { mut early, .. } = before {
            // A retained command comes to each connection that subscribes.
            early.retain(|message| !inherited.contains(message));
            self.deliver(id, inherited);
            self.deliver(id, early);
        }
        self.retire_older(now, key, id);
        self.publish_next(now, key);
        self.returning.connected(now, id);
        if self.disturbances.accepted() {
            self.connect_waiting(now);
        }
    }

    /// The broker does not want this device.
    fn refused(&mut self, now: Instant, id: RegistrationId, why: String) {
        self.disturbances.refused(&why, self.nodes.clients());
        let Some(device) = self.devices.get_mut(&id) else { return };
        debug!(device = id.0, clientid = device.client.clientid, why, "refused by EMQX");
        if device.connected_before {
            let since = *device.refused_since.get_or_insert(now);
            let is_final = now >= since + REFUSED_FOR_GOOD && self.nodes.clients() > 0;
            return if is_final { self.end(now, id, CloseReason::Refused) } else { self.back_off(now, id) };
        }
        self.tell(id, BrokerEvent::ConnectFailed { device: id, error: ConnectError::Refused(why) });
        self.remove(now, id);
    }

    /// It did not work this time, for a reason that is not the device's. A first connect tries each node once.
    pub(super) fn attempt_failed(&mut self, now: Instant, id: RegistrationId, why: &str) {
        let nodes = self.nodes.len();
        let Some(device) = self.devices.get_mut(&id) else { return };
        let again = !device.connected_before && (device.failures as usize) + 1 < nodes;
        let other = self.nodes.choose(device.node, true).filter(|other| again && Some(*other) != device.node);
        let Some(other) = other else { return self.gave_up(now, id, why) };
        debug!(device = id.0, clientid = device.client.clientid, why, "not connected to this node of EMQX");
        device.failures += 1;
        self.hang_up(now, id);
        self.dial(id, other);
    }

    /// It did not work, and there is no time, or no node, for another attempt now.
    pub(super) fn gave_up(&mut self, now: Instant, id: RegistrationId, why: &str) {
        let Some(device) = self.devices.get_mut(&id) else { return };
        device.refused_since = None;
        debug!(device = id.0, clientid = device.client.clientid, why, "not connected to EMQX");
        if device.connected_before {
            return self.back_off(now, id);
        }
        self.tell(id, BrokerEvent::ConnectFailed { device: id, error: ConnectError::Unavailable(why.to_owned()) });
        self.remove(now, id);
    }
}
