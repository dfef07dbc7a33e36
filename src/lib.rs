//! The LwM2M gateway for EMQX: LwM2M devices on one side, EMQX or another MQTT broker on the other.
//!
//! A sans-IO core in a thin shell. The core is plain data with `&mut self`: it is told the time, the bytes and the
//! randomness, and answers with outputs. The shell owns sockets, gRPC, MQTT, the clock, files and
//! signals.
//!
//! ```text
//! main -> cli -> app -> driver -> transport, upstream, store, observability     the shell
//!                         |
//!                         v
//!                      gateway -> registry -> lwm2m -> coap::{Request, Options ...}  the core
//!                         |  \--> mqtt  ----> lwm2m
//!                         |-----> coap::Endpoint
//!                         \-----> dtls
//! ```
//!
//! A datagram of a device: `transport` receives it, [`driver`] hands it to [`gateway::Gateway::handle_datagram`],
//! [`coap::Endpoint`] tells what it means, `registry` whose it is, `lwm2m::codec` what is in it, `mqtt::uplink` what the
//! application reads; [`gateway::Output::Broker`] takes that to [`upstream`], which is [`upstream::exproto`] or
//! [`upstream::mqtt`]: below it nobody knows which. A command of an application takes the same
//! way back, from [`gateway::Gateway::handle_broker`].
//!
//! [`reload`] reads anew what may change meanwhile, and [`driver::control`] takes it, and questions, to the driver.
//!
//! What never happens, each kept by `tests/architecture.rs` or by a type:
//! - The core names no socket, no file, no runtime and no clock.
//! - [`coap`] knows nothing of LwM2M, MQTT or devices. It knows peers.
//! - [`dtls`] knows neither CoAP nor devices. It knows addresses, and who is at them.
//! - [`lwm2m`] knows the vocabulary of CoAP, never the endpoint, and keeps no state.
//! - [`registry`] builds no packet and no topic.
//! - [`mqtt`] maps values to values; it does not know which device is awake.
//! - Only [`upstream`] and the embedded broker know the messages of ExProto and the packets of MQTT, only [`transport`] knows the devices' sockets.
//! - Only `dtls::handshake` and the shell's TLS know OpenSSL, and only `dtls::handshake` has `unsafe`.
//! - Only [`store`] knows the file that outlives the process; it is never waited for while a device could be served.
//! - Past [`app`] nobody validates the configuration again.
//! - No lock, no task and no timer for each device: one driver task owns the core, deadlines are ordered sets.
#![cfg_attr(test, allow(clippy::disallowed_methods))]

// The core.
pub mod coap;
pub mod deadlines;
pub mod dtls;
pub mod gateway;
pub mod lwm2m;
pub mod mqtt;
pub mod rate;
pub mod registry;
pub mod secret;
pub mod simulator;

// The shell.
pub mod app;
pub mod cli;
pub mod config;
pub mod credentials;
pub mod definitions;
#[cfg(feature = "embedded")]
pub mod demo;
pub mod descriptors;
pub mod driver;
#[cfg(feature = "embedded")]
pub mod embedded;
mod errors;
pub mod observability;
pub mod reload;
pub mod service;
pub mod store;
pub mod tls;
pub mod transport;
pub mod upstream;
