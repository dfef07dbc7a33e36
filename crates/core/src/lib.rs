//! The LwM2M gateway without IO: it is told the time, the bytes and the randomness, and answers with outputs.
//!
//! ```text
//! gateway -> mqtt -> registry -> command -> lwm2m -> coap::{Request, Options ...}
//!    |-----> coap::Endpoint
//!    \-----> lwm2m_dtls::DtlsServer
//! ```
//!
//! Each room knows those to its right:
//! - [`coap`] knows peers. It knows nothing of LwM2M, MQTT or devices.
//! - [`lwm2m`] knows the vocabulary of CoAP, never the endpoint, and keeps no state.
//! - [`command`] is what an application asks of a device, whatever it came by.
//! - [`registry`] has the devices, their topics and their pending commands. It builds no packet, topic or payload.
//! - [`mqtt`] maps values to values: JSON to commands, outcomes to JSON, templates to topics. It keeps no state.
//! - [`gateway`] is the only room where the others meet; [`gateway::Gateway`] is what a program drives.
//!
//! The crate names no socket, no file, no runtime and no clock: its Cargo.toml has none of their libraries, and
//! `clippy.toml` forbids the rest.
#![cfg_attr(test, allow(clippy::disallowed_methods))]

pub mod coap;
pub mod command;
pub mod gateway;
pub mod lwm2m;
pub mod mqtt;
pub mod registry;
