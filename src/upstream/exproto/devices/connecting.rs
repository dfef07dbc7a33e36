//! From Connect to `Ready`.

use std::mem;
use std::time::Instant;

use tracing::debug;

use crate::gateway::broker::{BrokerEvent, ClientInfo, CloseReason, ConnectError, DeviceId};
use crate::upstream::exproto::announcements::Token;

use super::{Action, AnchorId, Call, Device, Devices, Outcome, State, Timer};

impl Devices {
    /// The anchor is open and has sent its token, or there is none.
    pub fn dialed(&mut self, now: Instant, anchor: AnchorId, outcome: Result<(), String>) {
        self.listener_reached(now, outcome.as_ref().copied().map_err(String::as_str));
        let Some(id) = self.by_anchor.get(&anchor).copied() else { return };
        match outcome {
            Ok(()) => self.anchor_open(id),
            Err(error) => {
                self.counters().anchors_failed.increment();
                self.attempt_failed(now, id, &error);
            }
        }
    }

    /// The broker, or the network, closed the anchor.
    pub fn anchor_ended(&mut self, now: Instant, anchor: AnchorId) {
        let Some(id) = self.by_anchor.get(&anchor).copied() else { return };
        if let Some(State::Dialing { .. } | State::Announced { .. }) = self.state(id) {
            self.health.announcement_missed();
            let hint = "EMQX closed the anchor at once: its listener may be full, or its `handler.address` wrong";
            return self.attempt_failed(now, id, hint);
        }
        self.lost(now, id, "the anchor ended");
    }

    pub(super) fn connect(&mut self, now: Instant, id: DeviceId, client: ClientInfo) {
        let clientid = client.clientid.clone();
        self.devices.insert(id, Device::new(client));
        self.deadlines.set(Timer::Device(id), now + self.connect_timeout);
        if !self.wait_for_predecessor(id, &clientid) {
            self.first_attempt(now, id);
        }
    }

    /// The last words of an older device of the same clientid go first: EMQX would discard its connection.
    fn wait_for_predecessor(&mut self, id: DeviceId, clientid: &str) -> bool {
        let predecessor = self.leaving.get(clientid).and_then(|older| self.devices.get_mut(older));
        let Some(predecessor) = predecessor.filter(|older| matches!(older.state, State::Ready { .. })) else {
            return false;
        };
        predecessor.successor = Some(id);
        true
    }

    pub(super) fn predecessor_left(&mut self, now: Instant, id: DeviceId) {
        if let Some(State::Held) = self.state(id) {
            self.first_attempt(now, id);
        }
    }

    fn first_attempt(&mut self, now: Instant, id: DeviceId) {
        if self.health.admits(now) { self.dial(id) } else { self.attempt_failed(now, id, "EMQX is away") }
    }

    pub(super) fn dial(&mut self, id: DeviceId) {
        let Some(device) = self.devices.get_mut(&id) else { return };
        let anchor = AnchorId(self.next_anchor);
        self.next_anchor += 1;
        let token = Token::random(&mut self.rng);
        device.state = State::Dialing { anchor, token: token.clone() };
        self.by_anchor.insert(anchor, id);
        self.announcements.expect(token.clone(), id);
        self.actions.push_back(Action::Dial { anchor, token });
        self.counters().anchors_dialed.increment();
    }

    fn anchor_open(&mut self, id: DeviceId) {
        let Some(device) = self.devices.get_mut(&id) else { return };
        // Where the broker was faster the device is past this.
        if let State::Dialing { anchor, token } = &device.state {
            device.state = State::Announced { anchor: *anchor, token: token.clone() };
        }
    }

    /// The broker told the device's token: this is its connection.
    pub(super) fn announced(&mut self, id: DeviceId, conn: String) {
        let Some(device) = self.devices.get_mut(&id) else { return };
        let Some(anchor) = device.state.anchor() else { return };
        device.state = State::Authenticating { anchor };
        if let Some(before) = device.conn.replace(conn.clone()) {
            self.by_conn.remove(&before);
        }
        self.by_conn.insert(conn.clone(), id);
        let call = Call::Authenticate { conn, client: device.client.clone() };
        self.actions.push_back(Action::Call { device: id, anchor, call });
    }

    pub(super) fn authenticated(&mut self, now: Instant, id: DeviceId, outcome: Outcome) {
        match outcome {
            Outcome::Done => self.subscribe(id),
            Outcome::Refused(why) => {
                self.counters().authenticate_refused.increment();
                self.refused(now, id, format!("Authenticate: {why}"));
            }
            Outcome::ConnectionLost(why)
            | Outcome::Rejected(why)
            | Outcome::Failed(why)
            | Outcome::Unreachable(why) => {
                self.counters().authenticate_unavailable.increment();
                self.attempt_failed(now, id, &format!("Authenticate: {why}"));
            }
        }
    }

    fn subscribe(&mut self, id: DeviceId) {
        self.counters().authenticate_ok.increment();
        let Some(device) = self.devices.get_mut(&id) else { return };
        let (Some(anchor), Some(conn)) = (device.state.anchor(), device.conn.clone()) else { return };
        device.state = State::Subscribing { anchor, early: Vec::new() };
        let call =
            Call::Subscribe { conn, filter: device.client.command_filter.clone(), qos: device.client.command_qos };
        self.actions.push_back(Action::Call { device: id, anchor, call });
    }

    pub(super) fn subscribed(&mut self, now: Instant, id: DeviceId, outcome: Outcome) {
        match outcome {
            Outcome::Done => self.ready(now, id),
            Outcome::Refused(why) => {
                self.counters().subscribe_refused.increment();
                self.refused(now, id, format!("Subscribe: {why}"));
            }
            Outcome::ConnectionLost(why)
            | Outcome::Rejected(why)
            | Outcome::Failed(why)
            | Outcome::Unreachable(why) => self.attempt_failed(now, id, &format!("Subscribe: {why}")),
        }
    }

    fn ready(&mut self, now: Instant, id: DeviceId) {
        self.deadlines.cancel(Timer::Device(id));
        let Some(device) = self.devices.get_mut(&id) else { return };
        let Some(anchor) = device.state.anchor() else { return };
        let before = mem::replace(&mut device.state, State::Ready { anchor, publishing: false });
        device.failures = 0;
        let first = !mem::replace(&mut device.connected_before, true);
        let awaited = first || mem::take(&mut device.resumed);
        let counters = self.counters();
        if first {
            counters.connected.increment()
        } else {
            counters.reconnected.increment()
        }
        if awaited {
            self.tell(id, BrokerEvent::Connected { device: id });
        }
        if let State::Subscribing { early, .. } = before {
            self.deliver(id, early);
        }
        self.publish_next(now, id);
    }

    /// The broker does not want this device.
    fn refused(&mut self, now: Instant, id: DeviceId, why: String) {
        let Some(device) = self.devices.get(&id) else { return };
        debug!(device = id.0, clientid = device.client.clientid, why, "refused by EMQX");
        if device.connected_before {
            return self.close(now, id, CloseReason::Refused);
        }
        self.tell(id, BrokerEvent::ConnectFailed { device: id, error: ConnectError::Refused(why) });
        self.remove(now, id);
    }

    /// It did not work this time, for a reason that is not the device's.
    pub(super) fn attempt_failed(&mut self, now: Instant, id: DeviceId, why: &str) {
        let Some(device) = self.devices.get(&id) else { return };
        debug!(device = id.0, clientid = device.client.clientid, why, "not connected to EMQX");
        if device.connected_before {
            return self.back_off(now, id);
        }
        self.tell(id, BrokerEvent::ConnectFailed { device: id, error: ConnectError::Unavailable(why.to_owned()) });
        self.remove(now, id);
    }
}
