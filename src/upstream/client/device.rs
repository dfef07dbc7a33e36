//! The record of one device as a client of the broker, and what all registrations of one client ID share.

use std::time::Instant;

use lwm2m_base::small_map::SmallMap;
use lwm2m_base::total::{Contribution, Total};
use lwm2m_core::gateway::broker::{ClientInfo, CloseReason, RegistrationId};

use super::Protocol;
use super::clients::ClientKey;
use super::targets::TargetId;

/// Identifies one connection attempt of a device, or one probe. An id is never used again in the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

pub struct UpstreamDevice<P: Protocol> {
    pub client: ClientInfo,
    pub key: ClientKey,
    /// Is replaced by [`set_state`](Self::set_state) only.
    pub state: UpstreamState<P>,
    /// The target of the connection that there is, or of the last one.
    pub destination: Option<Destination>,
    /// Tells that the last target did not serve the device, so that the next attempt prefers another one.
    pub elsewhere: bool,
    /// Tells that the core knows the device as connected, so that the link reconnects it.
    pub connected_before: bool,
    /// Tells that the device was connected by an earlier process, and that the core waits for `Connected`.
    pub resumed: bool,
    /// Counts the attempts in a row that failed.
    pub failures: u32,
    /// The time of the first refusal since the device was a client, if no other fault came in between.
    pub refused_since: Option<Instant>,
    /// The last time at which the device had something to publish, as far as this process knows.
    pub active: Option<Instant>,
    /// Tells that the core has disconnected the device, which still publishes what is queued.
    pub leaving: Option<Leaving>,
    /// The reason why the broker ended the connection for good while a newer registration was asked for.
    pub ended: Option<CloseReason>,
    /// Keeps commands that other connections of the client ID received before this device was connected.
    pub passed_on: Vec<P::Message>,
    pub protocol: P::DeviceRecord,
    /// Contributes 1 if the device is a client of the broker.
    ready: Contribution,
}

/// Lists the states of a device, in the order in which it goes through them.
pub enum UpstreamState<P: Protocol> {
    /// The device waits: an older registration of the client ID still publishes what is queued before it leaves, or the
    /// broker may still accept it.
    Held,
    /// A connection is dialed, or the handshake runs on it.
    Connecting(P::Attempt),
    /// The device is a client of the broker.
    Ready(P::Connection),
    WaitingToReconnect(Wait),
}

/// Says what a device waits for before the next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    BackOff,
    /// The device waits for its turn among all devices that are reconnected.
    Turn,
    /// The device waits for a target that is available.
    Parked,
    /// The device waits for the end of a newer registration of the client ID.
    Superseded,
}

/// Says how a device leaves that still has something to publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// The registration has ended, and the session at the broker ends with it.
    ForGood,
    /// The gateway shuts down. A broker that keeps sessions keeps this one, with the messages that arrive for it.
    ForNow,
    /// Another link of the program connects the device. The broker keeps the session and publishes no will.
    HandedOver,
}

/// Says where a connection goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    Configured(TargetId),
    /// A server that another one named, as `host:port`.
    Referred(String),
}

/// Keeps what all registrations of one client ID share.
#[derive(Debug, Default)]
pub(crate) struct ClientShared<Record> {
    /// Lists the requests to make the device a client (Authenticate, CONNECT) that have no answer yet, with the time at
    /// which they were sent. The broker may carry one out at any time, and then closes the connection that has the
    /// client ID.
    pub unanswered: SmallMap<ConnectionId, Instant>,
    /// The time until which a request that ended without an answer may still be carried out.
    pub doubtful_until: Option<Instant>,
    /// The connection on which the last such request was sent.
    pub last_requested: Option<ConnectionId>,
    pub protocol: Record,
}

impl<P: Protocol> UpstreamDevice<P> {
    /// Creates the record of a device that the core knows as connected by an earlier process.
    pub fn resumed(client: ClientInfo, key: ClientKey, ready: &Total) -> Self {
        let state = UpstreamState::WaitingToReconnect(Wait::Turn);
        Self { state, connected_before: true, resumed: true, ..Self::new(client, key, ready) }
    }

    /// Creates the record of a device that has just registered.
    pub fn registered(now: Instant, client: ClientInfo, key: ClientKey, ready: &Total) -> Self {
        Self { active: Some(now), ..Self::new(client, key, ready) }
    }

    /// Creates the record of a device that counts in this total whenever it is a client of the broker.
    fn new(client: ClientInfo, key: ClientKey, ready: &Total) -> Self {
        Self {
            client,
            key,
            state: UpstreamState::Held,
            destination: None,
            elsewhere: false,
            connected_before: false,
            resumed: false,
            failures: 0,
            refused_since: None,
            active: None,
            leaving: None,
            ended: None,
            passed_on: Vec::new(),
            protocol: P::DeviceRecord::default(),
            ready: ready.add(0),
        }
    }

    /// Enters another state, and returns the former one.
    pub(crate) fn set_state(&mut self, state: UpstreamState<P>) -> UpstreamState<P> {
        let former = std::mem::replace(&mut self.state, state);
        self.ready.set(usize::from(self.is_ready()));
        former
    }

    /// Returns the configured target where the device is, or was last.
    pub fn target(&self) -> Option<TargetId> {
        match self.destination {
            Some(Destination::Configured(target)) => Some(target),
            Some(Destination::Referred(_)) | None => None,
        }
    }

    /// Returns to the configured targets: the server that another one named does not serve.
    pub(crate) fn forget_referral(&mut self) {
        if let Some(Destination::Referred(_)) = self.destination {
            self.destination = None;
        }
    }

    pub fn is_ready(&self) -> bool {
        matches!(self.state, UpstreamState::Ready(_))
    }
}

impl<P: Protocol> super::Devices<P> {
    pub(in crate::upstream) fn state(&self, id: RegistrationId) -> Option<&UpstreamState<P>> {
        self.devices.get(&id).map(|device| &device.state)
    }

    pub(in crate::upstream) fn is_ready(&self, id: RegistrationId) -> bool {
        self.devices.get(&id).is_some_and(|device| device.is_ready())
    }

    /// Returns what the registrations of the device's client ID share.
    pub(in crate::upstream) fn shared_mut(&mut self, id: RegistrationId) -> Option<&mut ClientShared<P::SharedRecord>> {
        let key = self.devices.get(&id)?.key;
        self.clients.shared_mut(key)
    }
}
