//! CoAP: messages, and the endpoint that sends and receives them reliably (RFC 7252, RFC 7641, RFC
//! 7959).
//!
//! This layer knows peers. It knows nothing of LwM2M, MQTT or devices.

mod block;
mod code;
mod endpoint;
mod exchange;
mod failure;
mod history;
mod message;
mod message_ids;
mod observe;
mod occupancy;
pub mod options;
mod parameters;
mod standing;
mod transfers;
mod transmission;
mod verdict;

pub use block::BlockError;
pub use code::Code;
pub use endpoint::{Endpoint, Event};
pub use exchange::{Acknowledge, ExchangeId, Output, RequestId, Transmit};
pub use failure::Failure;
pub use message::{DecodeError, Header, Kind, Message, MessageId, Request, Response, Token};
pub use observe::Freshness;
pub use occupancy::Occupancy;
pub use options::{OptionError, Options};
pub use parameters::{Acknowledging, Parameters};
pub use standing::Standing;
pub use verdict::{DropReason, Verdict};

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

/// Where a device's datagrams come from and go to: one of our sockets, and what is at its other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Peer {
    /// Index of the listener in the configuration's order: an answer leaves by the socket that the request came in by.
    pub socket: u16,
    /// Of a DTLS association it is where it was made. The association moves without a word to this layer, so that this is
    /// part of its name and no place to send to.
    pub address: SocketAddr,
    /// None over plain UDP, where a peer is its address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub association: Option<AssociationId>,
}

/// A DTLS association. Never given to another one, not even after a restart that takes the associations up again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AssociationId(pub u64);

impl Peer {
    /// An address over plain UDP.
    pub fn udp(socket: u16, address: SocketAddr) -> Self {
        Self { socket, address, association: None }
    }

    /// Returns the IP address, and of IPv6 the network of 64 bits, which belongs to one customer.
    pub(crate) fn network(&self) -> IpAddr {
        match self.address.ip().to_canonical() {
            IpAddr::V4(address) => IpAddr::V4(address),
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        }
    }
}
