//! Names, deadlines, rate limits and secrets that all layers share.
//!
//! This crate guarantees that nothing in it reads a clock, rolls a die or does IO: time and randomness are arguments.
//! It knows neither DTLS, CoAP, LwM2M nor MQTT.
#![cfg_attr(test, allow(clippy::disallowed_methods))]

pub mod deadlines;
mod peer;
pub mod rate;
pub mod secret;

pub use peer::{AssociationId, Peer};
