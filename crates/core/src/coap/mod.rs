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
