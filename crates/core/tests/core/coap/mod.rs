//! The CoAP layer: messages, the endpoint and block-wise transfer.

mod blockwise;
mod endpoint;
mod messages;
