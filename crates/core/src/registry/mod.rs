//! The registered devices, found by id, endpoint name, location and address.
//!
//! This layer never builds a packet or a topic, and it does not know how a device or the broker is reached.

mod deferred_acks;
mod device;
mod observations;
mod queue;
mod retained;
mod topics;
mod totals;

pub use deferred_acks::{DeferredAck, DeferredAcks};
pub use device::{AdmitOutcome, Device, InFlight, NewDevice, Presence, PublishedPresence};
pub(crate) use observations::ScheduledObservation;
pub use observations::{DeviceObservations, Grouping, Observation, ObservedPaths};
pub(crate) use queue::CommandBytes;
pub use queue::{ByteReservation, CommandQueue, PendingCommand, QueueFull, QueueLimits};
pub use retained::CommandDigest;
pub use topics::{Topic, TopicEnds, Topics};
pub use totals::RegistryTotals;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use smallvec::SmallVec;

use lwm2m_base::id_map::IdMap;
use lwm2m_base::index::Index;
use lwm2m_base::{AssociationId, Peer, Shard, ShardSet};

/// Identifies one registration of one device, for both the core and the upstream. No other registration gets the same
/// id while the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegistrationId(pub u64);

/// The ids of the gateway's own clients at the broker. Those of registrations count from 1.
impl RegistrationId {
    pub(crate) const BOOTSTRAP: Self = Self(0);
    pub(crate) const CAMPAIGNS: Self = Self(u64::MAX);
    pub(crate) const PRESENCE: Self = Self(u64::MAX - 1);

    /// Returns whether this is the registration of a device, and not a client of the gateway's own.
    pub fn is_of_device(self) -> bool {
        ![Self::BOOTSTRAP, Self::CAMPAIGNS, Self::PRESENCE].contains(&self)
    }
}

/// The last segment of a registration's Location-Path. It cannot be guessed: 72 bits as URL-safe text, of which the
/// first eight are the shard and the others are random. Some clients cannot keep more than these 12 characters.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Location(String);

impl Location {
    const LENGTH: usize = 12;

    /// Creates a location in one of these shards from six bits of each byte.
    pub(crate) fn from_random(bytes: [u8; Self::LENGTH], shards: ShardSet) -> Self {
        Self(shards.text(bytes).into_iter().map(char::from).collect())
    }

    /// Returns the shard that the text of a location names ([`Shard::of_text`]); `None` for a text that is not a
    /// location of a gateway.
    pub fn shard_of(text: &str) -> Option<Shard> {
        Shard::of_text(text.as_bytes())
    }

    /// Returns the shard of a device with this location: that of its association, which its datagrams name, or over
    /// plain UDP that of the location.
    pub(crate) fn shard_of_device(text: &str, peer: Peer) -> Shard {
        let of_association = peer.association.map(AssociationId::shard);
        of_association.or_else(|| Self::shard_of(text)).unwrap_or(Shard::new(0))
    }

    /// Returns whether a text has the form of the locations that a gateway assigns.
    pub(crate) fn is_one(text: &str) -> bool {
        text.len() == Self::LENGTH && Self::shard_of(text).is_some()
    }

    /// Restores a location that was given to a device before.
    pub fn from_text(text: String) -> Self {
        Self(text)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The devices with one address: usually one, several behind a proxy.
type DevicesAtPeer = SmallVec<[RegistrationId; 2]>;

/// Holds all registered devices.
#[derive(Debug, Default)]
pub struct Registry {
    /// Boxed, so that the free places of the table are small.
    devices: IdMap<RegistrationId, Box<Device>>,
    /// The registrations in the order of the endpoint names, in which onlookers page through the devices.
    by_endpoint: BTreeMap<String, RegistrationId>,
    by_location: Index<RegistrationId>,
    /// The devices at each address: a proxy may have several.
    at_peer: Index<DevicesAtPeer>,
    /// The ends of topics of the last device, which most devices share.
    topic_ends: Arc<TopicEnds>,
    totals: RegistryTotals,
}

impl Registry {
    /// Adds a device. One of the same endpoint has to be removed first.
    pub fn insert(&mut self, mut device: Device) {
        let id = device.id;
        device.count_in(&self.totals);
        device.topics.share_ends(&mut self.topic_ends);
        self.by_location.insert(device.location.as_str(), id);
        self.by_endpoint.insert(device.registration.endpoint.clone(), id);
        self.came(device.peer, id);
        self.devices.insert(id, Box::new(device));
    }

    pub fn remove(&mut self, id: RegistrationId) -> Option<Device> {
        let device = self.devices.remove(&id)?;
        self.by_location.remove(device.location.as_str(), |own| *own == id);
        if self.by_endpoint.get(&device.registration.endpoint) == Some(&id) {
            self.by_endpoint.remove(&device.registration.endpoint);
        }
        self.left(device.peer, id);
        Some(*device)
    }

    /// Moves a device to another address. Returns its former address, unless it has this one already.
    pub fn readdress(&mut self, id: RegistrationId, to: Peer) -> Option<Peer> {
        let from = self.device(id).map(|device| device.peer).filter(|from| *from != to)?;
        self.left(from, id);
        self.came(to, id);
        self.device_mut(id)?.peer = to;
        Some(from)
    }

    /// Returns whether a registered device has this address.
    pub fn is_known(&self, peer: Peer) -> bool {
        self.devices_at(peer) > 0
    }

    /// Returns the number of registered devices with this address.
    pub(crate) fn devices_at(&self, peer: Peer) -> usize {
        self.ids_at(peer).map_or(0, SmallVec::len)
    }

    /// Returns the registered devices with this address.
    pub fn at(&self, peer: Peer) -> impl Iterator<Item = &Device> {
        self.ids_at(peer).into_iter().flatten().filter_map(|id| self.device(*id))
    }

    pub fn devices(&self) -> impl Iterator<Item = &Device> {
        self.devices.values().map(AsRef::as_ref)
    }

    /// Returns the names with this prefix and their devices, in the order of the names, from the first name after
    /// `after` on. A caller that chooses by the name need not look at the devices.
    pub(crate) fn names_in_order<'a>(
        &'a self,
        after: Option<&'a str>,
        prefix: &'a str,
    ) -> impl Iterator<Item = (&'a str, RegistrationId)> {
        let begin = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            Some(_) | None => Bound::Included(prefix),
        };
        let named = self.by_endpoint.range::<str, _>((begin, Bound::Unbounded));
        named.map(|(name, id)| (name.as_str(), *id)).take_while(move |(name, _)| name.starts_with(prefix))
    }

    pub(crate) fn devices_mut(&mut self) -> impl Iterator<Item = &mut Device> {
        self.devices.values_mut().map(AsMut::as_mut)
    }

    pub(crate) fn device_mut(&mut self, id: RegistrationId) -> Option<&mut Device> {
        self.devices.get_mut(&id).map(AsMut::as_mut)
    }

    pub fn device(&self, id: RegistrationId) -> Option<&Device> {
        self.devices.get(&id).map(AsRef::as_ref)
    }

    pub(crate) fn device_by_endpoint(&self, endpoint: &str) -> Option<&Device> {
        self.device(self.id_by_endpoint(endpoint)?)
    }

    pub(crate) fn device_by_endpoint_mut(&mut self, endpoint: &str) -> Option<&mut Device> {
        self.device_mut(self.id_by_endpoint(endpoint)?)
    }

    pub(crate) fn id_by_endpoint(&self, endpoint: &str) -> Option<RegistrationId> {
        self.by_endpoint.get(endpoint).copied()
    }

    pub(crate) fn id_by_location(&self, location: &str) -> Option<RegistrationId> {
        let has_location = |id: &RegistrationId| self.device(*id).is_some_and(|device| device.location.0 == location);
        self.by_location.candidates(location).copied().find(has_location)
    }

    /// Returns the sums over all devices.
    pub fn totals(&self) -> &RegistryTotals {
        &self.totals
    }

    pub fn len(&self) -> usize {
        self.devices.len()
    }

    pub fn is_empty(&self) -> bool {
        self.devices.is_empty()
    }

    fn came(&mut self, peer: Peer, id: RegistrationId) {
        let Self { devices, at_peer, .. } = self;
        match at_peer.get_mut(&peer, |ids| are_at(devices, ids, peer)) {
            Some(ids) => {
                if let Err(place) = ids.binary_search(&id) {
                    ids.insert(place, id);
                }
            }
            None => at_peer.insert(&peer, DevicesAtPeer::from_iter([id])),
        }
    }

    fn left(&mut self, peer: Peer, id: RegistrationId) {
        let Some(ids) = self.at_peer.get_mut(&peer, |ids| ids.contains(&id)) else { return };
        ids.retain(|own| *own != id);
        if ids.is_empty() {
            self.at_peer.remove(&peer, |ids| ids.is_empty());
        }
    }

    fn ids_at(&self, peer: Peer) -> Option<&DevicesAtPeer> {
        self.at_peer.candidates(&peer).find(|ids| are_at(&self.devices, ids, peer))
    }
}

/// Returns whether these devices, which have one common address, have this address.
fn are_at(devices: &IdMap<RegistrationId, Box<Device>>, ids: &DevicesAtPeer, peer: Peer) -> bool {
    ids.first().and_then(|id| devices.get(id)).is_some_and(|device| device.peer == peer)
}
