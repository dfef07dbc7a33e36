//! CoAP: messages, and the endpoint that sends and receives them reliably (RFC 7252, RFC 7641, RFC
//! 7959).
//!
//! This layer knows peers. It knows nothing of LwM2M, MQTT or devices.

mod block;
mod code;
mod endpoint;
mod exchange;
mod history;
mod message;
mod message_ids;
mod observe;
mod occupancy;
pub mod options;
mod parameters;
mod standing;
mod transmission;
mod verdict;

pub use block::BlockError;
pub use code::Code;
pub use endpoint::{Endpoint, Event};
pub use exchange::{Acknowledge, ExchangeId, Output, RequestId, Transmit};
pub use message::{DecodeError, Kind, Message, MessageId, Request, Response, Token};
pub use occupancy::Occupancy;
pub use options::{OptionError, Options};
pub use parameters::{Acknowledging, Parameters};
pub use standing::Standing;
pub use verdict::{DropReason, Verdict};

use std::net::SocketAddr;

/// Where a device's datagrams come from and go to: one of our sockets, and the address at its other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Peer {
    /// Index of the listener in the configuration's order: an answer leaves by the socket that the request came in by.
    pub socket: u16,
    pub address: SocketAddr,
}
