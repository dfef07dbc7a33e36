//! CoAP: messages, and the endpoint that sends and receives them reliably (RFC 7252, RFC 7641, RFC
//! 7959).
//!
//! This layer knows peers. It knows nothing of LwM2M, MQTT or devices.

mod block;
mod code;
mod dedup;
mod endpoint;
mod exchange;
mod exchange_error;
mod message;
mod message_ids;
mod observe;
pub mod options;
mod outcome;
mod parameters;
mod peer_class;
mod table_sizes;
mod transfers;
mod transmission;

pub use block::BlockError;
pub(crate) use block::{Block, BlockSize};
pub use code::Code;
pub use endpoint::{Endpoint, EndpointEvent};
pub(crate) use exchange::RequestMessage;
pub use exchange::{CoapOutput, ExchangeId, PendingAck, RequestId, RequestIds, Transmit};
pub use exchange_error::ExchangeError;
pub use message::{Header, Kind, Message, MessageDecodeError, MessageId, Request, Response, Token};
pub use observe::Freshness;
pub use options::{OptionError, Options};
pub use outcome::{DatagramOutcome, DropReason};
pub use parameters::{AckMode, Parameters};
pub use peer_class::PeerClass;
pub use table_sizes::CoapTableSizes;
