//! The lifecycle of the devices as clients of the broker, as a state machine without sockets and clock. Both upstreams
//! share it. [`Protocol`] says what differs: the handshake, the publishing and the probing.
//!
//! A device goes through these states:
//! 1. `Held`: an older registration of the same client ID still publishes what is queued before it leaves, or the
//!    broker may still accept it.
//! 2. `Connecting`: the connection is dialed, and the handshake of the protocol runs on it.
//! 3. `Ready`: the device is a client of the broker, and its publications are sent.
//! 4. `WaitingToReconnect`: the connection has ended; back to 2 after a back-off. A registration that was superseded by
//!    a newer one of its client ID stays here (`superseding`).
//!
//! Each attempt goes to the target that `targets` chooses. Publications belong to the client ID: whichever of its
//! registrations is ready publishes them.

pub(super) mod clients;
mod connecting;
pub(super) mod device;
pub(crate) mod disturbances;
#[cfg(test)]
pub(crate) mod lifecycle_tests;
pub(super) mod pace;
pub(super) mod probing;
pub(super) mod publication_queues;
mod publishing;
mod reconnecting;
pub(crate) mod returning;
mod superseding;
pub(super) mod targets;
#[cfg(test)]
pub(crate) mod test_values;

use std::collections::{BTreeSet, VecDeque};
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use tracing::debug;

use crate::upstream::metrics::UpstreamMetrics;
use crate::upstream::{LinkConfig, UpstreamTableSizes};
use lwm2m_base::deadlines::IdDeadlines;
use lwm2m_base::id_map::IdMap;
use lwm2m_base::total::Total;
use lwm2m_core::gateway::broker::{BrokerCommand, BrokerEvent, CloseReason, MessageReceipt, RegistrationId};

use clients::{ClientKey, Clients};
use device::{ClientShared, ConnectionId, Destination, Leaving, UpstreamDevice, UpstreamState};
use disturbances::Disturbances;
use pace::Turns;
use probing::TargetFaults;
use publication_queues::PublicationQueues;
use returning::Returning;
use targets::{TargetId, Targets, TargetsHealth};

pub(crate) use superseding::ANSWER_PATIENCE;

/// Limits how long a device that was disconnected still publishes what is queued.
pub(crate) const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Limits the commands of one device that are kept until it is ready. More are dropped and counted.
pub(crate) const EARLY_MESSAGES: usize = 128;

/// Says how the upstreams differ. The shared lifecycle calls these functions, which may act on all its state.
pub trait Protocol: Sized {
    /// Names the broker in texts for people.
    const BROKER: &'static str;

    /// Says what is to be done outside of the state machine.
    type Action: From<BrokerEvent>;
    /// Lists the steps of the handshake, each with its connection.
    type Attempt;
    /// Describes the connection of a device that is a client of the broker.
    type Connection;
    /// Describes a command as the broker delivers it.
    type Message;
    /// Keeps what devices and probes have met at one target.
    type Faults: TargetFaults;
    /// Keeps what the protocol knows of one device, beside the shared record.
    type DeviceRecord: Default;
    /// Keeps what the protocol knows of one client ID, beside the shared record.
    type SharedRecord: Debug + Default;
    /// Lists the timers of the protocol, beside the shared ones.
    type Timer: Copy + Debug + Eq + Hash + Ord;

    /// Returns the target of the next attempt.
    fn choose(
        targets: &mut Targets<Self::Faults>,
        now: Instant,
        before: Option<TargetId>,
        elsewhere: bool,
    ) -> Option<TargetId>;

    /// Opens a connection for the device, which is `Connecting` from then on.
    fn dial(devices: &mut Devices<Self>, id: RegistrationId, connection: ConnectionId, destination: Destination);

    /// Gives up the connection of the device, if there is one. The caller sets the next state.
    fn hang_up(devices: &mut Devices<Self>, now: Instant, id: RegistrationId);

    /// Ends the connection of a device that has nothing left to publish, and removes the device.
    fn leave(devices: &mut Devices<Self>, now: Instant, id: RegistrationId, leaving: Leaving);

    /// Notes that the connection was lost, before the device is connected again.
    fn connection_lost(devices: &mut Devices<Self>, now: Instant, id: RegistrationId);

    /// Handles the expired deadline of a step of the handshake.
    fn attempt_timed_out(devices: &mut Devices<Self>, now: Instant, id: RegistrationId);

    /// Handles the expired timer of a device that is ready.
    fn connection_due(devices: &mut Devices<Self>, now: Instant, id: RegistrationId);

    /// Probes a target that is due, or lets a device try it.
    fn probe(devices: &mut Devices<Self>, now: Instant, target: TargetId);

    /// Handles an expired timer of the protocol.
    fn timed_out(devices: &mut Devices<Self>, now: Instant, timer: Self::Timer);

    /// Publishes the queue of the client ID, in order, as far as publications may be sent now.
    fn publish_next(devices: &mut Devices<Self>, now: Instant, key: ClientKey);

    /// Forgets the publications in flight of a client ID that has no registration left.
    fn forget_in_flight(record: &mut Self::SharedRecord);

    /// Passes a command to the core.
    fn deliver(devices: &mut Devices<Self>, now: Instant, id: RegistrationId, message: Self::Message);

    /// Tells the broker that it need not keep a command any more, if the connection by which it came is still open.
    fn confirm(devices: &mut Devices<Self>, now: Instant, receipt: MessageReceipt);

    /// Returns the connection on which the broker was last asked to make the device a client.
    fn requested_connection(device: &UpstreamDevice<Self>) -> Option<ConnectionId>;

    /// Ends the connection of an older registration that stays, or leaves, now that `newer` is ready.
    fn retire(devices: &mut Devices<Self>, now: Instant, older: RegistrationId, newer: RegistrationId);

    /// Passes what the removed device has not told the core to the newest registration of its client ID.
    fn pass_on(devices: &mut Devices<Self>, now: Instant, device: UpstreamDevice<Self>);

    /// Returns whether the connection of a replaced registration is still read.
    fn hands_over(_devices: &Devices<Self>, _id: RegistrationId) -> bool {
        false
    }
}

/// Holds all devices that are clients of the broker or on their way to it.
pub struct Devices<P: Protocol> {
    pub(super) protocol: P,
    pub(super) connect_timeout: Duration,
    /// Boxed, so that the free places of the table are small.
    pub(super) devices: IdMap<RegistrationId, Box<UpstreamDevice<P>>>,
    /// Counts the devices that are clients of the broker.
    ready: Total,
    pub(super) clients: Clients<ClientShared<P::SharedRecord>>,
    /// Lists the devices that wait for a target that is available.
    pub(super) parked: BTreeSet<RegistrationId>,
    pub(super) queues: PublicationQueues,
    pub(super) targets: Targets<P::Faults>,
    pub(super) disturbances: Disturbances,
    /// Holds the devices that wait for their turn to be reconnected, and paces them.
    pub(super) turns: Turns,
    pub(super) returning: Returning,
    pub(super) deadlines: IdDeadlines<ClientTimer<P::Timer>>,
    pub(super) actions: VecDeque<P::Action>,
    next_connection: u64,
    /// Counts the publications that were dropped since they were last asked for.
    dropped: u64,
    pub(super) rng: StdRng,
    pub(super) metrics: Arc<UpstreamMetrics>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum ClientTimer<T> {
    /// Belongs to the state of the device, which says what it means.
    Device(RegistrationId),
    /// Ends the wait for an unanswered request of an older registration.
    Held(RegistrationId),
    Drain(RegistrationId),
    Protocol(T),
    /// Expires when a target is to be probed. It comes before the turns of the same moment: a device that waits for a
    /// target tries it, not the one whose turn it is.
    Probe,
    /// Reconnects the device whose turn it is.
    Turn,
}

impl<P: Protocol> Devices<P> {
    pub fn with(
        protocol: P,
        targets: Targets<P::Faults>,
        link: &LinkConfig,
        rng: StdRng,
        metrics: Arc<UpstreamMetrics>,
    ) -> Self {
        Self {
            protocol,
            connect_timeout: link.connect_timeout,
            devices: IdMap::default(),
            ready: Total::default(),
            clients: Clients::default(),
            parked: BTreeSet::new(),
            queues: PublicationQueues::new(link.queue_per_device, link.queue_total),
            targets,
            disturbances: Disturbances::default(),
            turns: Turns::per_second(link.connections_per_second),
            returning: Returning::default(),
            deadlines: IdDeadlines::default(),
            actions: VecDeque::new(),
            next_connection: 0,
            dropped: 0,
            rng,
            metrics,
        }
    }

    pub fn command(&mut self, now: Instant, command: BrokerCommand) {
        match command {
            BrokerCommand::Connect { registration, client } => self.connect(now, registration, client),
            BrokerCommand::Resume { registration, client } => self.resume(now, registration, client),
            BrokerCommand::Publish { registration, publication } => self.publish(now, registration, publication),
            BrokerCommand::Confirm { receipt, .. } => P::confirm(self, now, receipt),
            BrokerCommand::SetLifetime { registration, lifetime } => {
                if let Some(device) = self.devices.get_mut(&registration) {
                    device.client.lifetime = lifetime;
                }
            }
            BrokerCommand::HandOver { registration } => self.disconnect(now, registration, Leaving::HandedOver),
            BrokerCommand::Abandon { registration } => self.remove(now, registration),
            BrokerCommand::Disconnect { registration } => self.disconnect(now, registration, Leaving::ForGood),
        }
    }

    /// Disconnects every device; sessions at the broker stay.
    pub(crate) fn disconnect_all(&mut self, now: Instant) {
        let mut all: Vec<RegistrationId> = self.devices.keys().copied().collect();
        // The older ones first: none of them comes back because a newer registration of its client ID has left.
        all.sort();
        // Those that have nothing to publish are not connected any more for the time in which others are drained.
        for (id, device) in &self.devices {
            if self.queues.is_empty(device.key) {
                self.turns.remove(*id);
            }
        }
        for id in all {
            self.disconnect(now, id, Leaving::ForNow);
        }
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(timer) = self.deadlines.pop_expired(now) {
            match timer {
                ClientTimer::Device(id) => self.state_timed_out(now, id),
                ClientTimer::Held(id) => {
                    if let Some(key) = self.devices.get(&id).map(|device| device.key) {
                        self.advance(now, key);
                    }
                }
                ClientTimer::Drain(id) => self.remove(now, id),
                ClientTimer::Protocol(timer) => P::timed_out(self, now, timer),
                ClientTimer::Turn => self.serve_turns(now),
                ClientTimer::Probe => self.probe_due(now),
            }
        }
    }

    /// Returns the next action. The caller calls it after each of the other functions, until it returns `None`.
    pub(crate) fn poll_action(&mut self) -> Option<P::Action> {
        self.actions.pop_front()
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.next()
    }

    pub fn is_empty(&self) -> bool {
        self.devices.is_empty()
    }

    /// Returns how many devices are in which state. The cost does not depend on their number.
    pub fn table_sizes(&self) -> UpstreamTableSizes {
        let connected = self.ready.sum();
        let nodes_available = self.targets.up();
        UpstreamTableSizes {
            connected,
            connecting: self.devices.len() - connected,
            publications: self.queues.len(),
            publications_limit: self.queues.limit(),
            nodes_available,
            nodes_unavailable: self.targets.len() - nodes_available,
            nodes: self.targets.states(),
        }
    }

    /// Returns the number of publications that were dropped since the last call.
    pub(in crate::upstream) fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    /// Returns the health of the targets if it has changed since the last call.
    pub(crate) fn take_health(&mut self) -> Option<TargetsHealth> {
        let changed = self.targets.take_changed() | self.disturbances.take_changed();
        changed.then(|| {
            let TargetsHealth { serving, detail } = self.targets.health();
            TargetsHealth { serving, detail: self.disturbances.add_to(detail) }
        })
    }

    fn disconnect(&mut self, now: Instant, id: RegistrationId, leaving: Leaving) {
        let (is_replaced, hands_over) = (self.is_replaced(id), P::hands_over(self, id));
        let Some(device) = self.devices.get_mut(&id) else { return };
        if is_replaced {
            if !hands_over {
                return self.remove(now, id);
            }
            device.leaving = Some(leaving);
        } else if leaving == Leaving::HandedOver && !device.is_ready() {
            // Its new owner connects it. A connection of this link would take the session away from that one.
            self.remove(now, id);
        } else if !device.connected_before || self.queues.is_empty(device.key) {
            P::leave(self, now, id, leaving);
        } else if device.leaving.replace(leaving).is_none() {
            self.deadlines.set(ClientTimer::Drain(id), now + DRAIN_TIMEOUT);
        }
    }

    /// Returns whether a device that leaves has no time left to publish, so that it is removed now.
    pub(super) fn drain_is_over(&self, now: Instant, id: RegistrationId) -> bool {
        self.deadlines.get(ClientTimer::Drain(id)).is_some_and(|end| end <= now)
    }

    fn state_timed_out(&mut self, now: Instant, id: RegistrationId) {
        match self.state(id) {
            Some(UpstreamState::WaitingToReconnect(wait)) => self.waited(now, id, *wait),
            Some(UpstreamState::Held) => self.gave_up(now, id, "an earlier registration is still in progress"),
            Some(UpstreamState::Connecting(_)) => P::attempt_timed_out(self, now, id),
            Some(UpstreamState::Ready(_)) => P::connection_due(self, now, id),
            None => {}
        }
    }

    pub(super) fn new_connection(&mut self) -> ConnectionId {
        let connection = ConnectionId(self.next_connection);
        self.next_connection += 1;
        connection
    }

    /// Notes that the broker ended the connection for good while a newer registration was asked for. Returns false if
    /// there is no newer one. What becomes of the device is decided when it is known what becomes of the newer
    /// registration.
    pub(super) fn defer_end(&mut self, id: RegistrationId, reason: CloseReason) -> bool {
        let Some(device) = self.devices.get_mut(&id) else { return false };
        let is_superseded = self.clients.is_superseded(device.key, id);
        if is_superseded {
            device.ended = Some(reason);
        }
        is_superseded
    }

    /// Tells the core that the broker has ended the connection for good, and removes the device.
    pub(super) fn end(&mut self, now: Instant, id: RegistrationId, reason: CloseReason) {
        let Some(device) = self.devices.get(&id) else { return };
        debug!(registration = id.0, clientid = device.client.clientid, %reason, "connection ended by {}", P::BROKER);
        self.counters().closed.inc();
        self.emit(id, BrokerEvent::Closed { registration: id, reason });
        self.remove(now, id);
    }

    /// Forgets the device. Its queue stays while there is another registration of the client ID.
    pub(super) fn remove(&mut self, now: Instant, id: RegistrationId) {
        P::hang_up(self, now, id);
        let Some(device) = self.devices.remove(&id) else { return };
        for timer in [ClientTimer::Device(id), ClientTimer::Held(id), ClientTimer::Drain(id)] {
            self.deadlines.cancel(timer);
        }
        self.parked.remove(&id);
        self.turns.remove(id);
        self.returning.left(now, id);
        let key = device.key;
        let was_last = self.clients.remove(key, id);
        P::pass_on(self, now, *device);
        if was_last {
            self.clear_queue(key);
        } else if let Some(newest) = self.clients.newest(key) {
            self.queues.pass_on(key, id, newest);
        }
        self.go_on_with(now, key);
        self.serve_turns(now);
    }

    /// Tells the core an event, unless the core has disconnected the device.
    pub(super) fn emit(&mut self, id: RegistrationId, event: BrokerEvent) {
        if self.devices.get(&id).is_some_and(|device| device.leaving.is_none()) {
            self.actions.push_back(event.into());
        }
    }

    pub(super) fn counters(&self) -> &UpstreamMetrics {
        &self.metrics
    }
}
