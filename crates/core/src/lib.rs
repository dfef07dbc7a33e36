//! The LwM2M gateway without IO: it is told the time, the bytes and the randomness, and answers with outputs.
//!
//! ```text
//! gateway -> registry -> mqtt -> lwm2m -> coap::{Request, Options ...}
//!    |-----> coap::Endpoint
//!    \-----> lwm2m_dtls::DtlsServer
//! ```
//!
//! Each room knows those to its right:
//! - [`coap`] knows peers. It knows nothing of LwM2M, MQTT or devices.
//! - [`lwm2m`] knows the vocabulary of CoAP, never the endpoint, and keeps no state.
//! - [`mqtt`] maps values to values; it does not know which device is awake.
//! - [`registry`] builds no packet and no topic.
//! - [`gateway`] is the only room where the others meet; [`gateway::Gateway`] is what a program drives.
//!
//! The crate names no socket, no file, no runtime and no clock: its Cargo.toml has none of their libraries, and
//! `clippy.toml` forbids the rest.
#![cfg_attr(test, allow(clippy::disallowed_methods))]

pub mod coap;
pub mod gateway;
pub mod lwm2m;
pub mod mqtt;
pub mod registry;
