//! Names of the far ends of the device side: peers and DTLS associations.

use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::shard::{Shard, ShardSet};

/// Identifies the peer of a device's datagrams: one of our sockets and the remote address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Peer {
    /// Index of the listener in the configuration's order: an answer leaves by the socket that the request came in by.
    pub socket: u16,
    /// The remote address. A DTLS association keeps the address at which it was established, although its device may
    /// move: for such a peer the address is a part of the name and not a destination.
    pub address: SocketAddr,
    /// The DTLS association; `None` over plain UDP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub association: Option<AssociationId>,
}

/// A DTLS association. Never given to another one, not even after a restart that takes the associations up again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AssociationId(pub u64);

impl AssociationId {
    /// Makes an id of random bits in one of these shards.
    pub fn from_random(random: u64, shards: ShardSet) -> Self {
        let [first, rest @ ..] = random.to_be_bytes();
        let [r1, r2, r3, r4, r5, r6, r7] = rest;
        Self(u64::from_be_bytes([shards.choose(first).number(), r1, r2, r3, r4, r5, r6, r7]))
    }

    /// Returns the shard of the association: the first byte of its id, which is also its connection ID.
    pub fn shard(self) -> Shard {
        let [first, ..] = self.0.to_be_bytes();
        Shard::new(first)
    }
}

impl Peer {
    /// Returns the peer at an address over plain UDP.
    pub fn udp(socket: u16, address: SocketAddr) -> Self {
        Self { socket, address, association: None }
    }

    /// Returns the IP address, and of IPv6 the network of 64 bits, which belongs to one customer.
    pub fn network(&self) -> IpAddr {
        match self.address.ip().to_canonical() {
            IpAddr::V4(address) => IpAddr::V4(address),
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        }
    }
}

/// Feeds whole words, and few of them: each datagram is looked up by its peer several times, by a hash function that
/// withstands peers that choose their addresses.
impl Hash for Peer {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let ports = u64::from(self.socket) << 16 | u64::from(self.address.port());
        match self.address {
            SocketAddr::V4(address) => state.write_u64(ports << 32 | u64::from(address.ip().to_bits())),
            SocketAddr::V6(address) => {
                state.write_u64(ports << 32 | u64::from(address.scope_id()));
                let bits = address.ip().to_bits();
                state.write_u64((bits >> 64) as u64);
                state.write_u64(bits as u64);
            }
        }
        if let Some(AssociationId(association)) = self.association {
            state.write_u64(association);
        }
    }
}
