//! The LwM2M gateway for EMQX: LwM2M devices on one side, EMQX or another MQTT broker on the other.
//!
//! This crate is the program around the core: it owns sockets, gRPC, MQTT connections, the clock, files and signals. The
//! core, `lwm2m_core`, is plain data with `&mut self` that is told the time, the bytes and the randomness, and answers with
//! outputs. Its documentation has the glossary; read it and `Gateway` next.
//!
//! ```text
//! main -> cli -> app -> driver -> transport, upstream, store, observability     this crate
//!                         |
//!                         v
//!                 lwm2m_core::gateway -> registry -> mqtt -> lwm2m -> coap       without IO
//!                         |
//!                         v
//!                    lwm2m_dtls -> lwm2m_base
//! ```
//!
//! A datagram of a device: `transport` receives it, [`driver`] hands it to [`lwm2m_core::gateway::Gateway::handle_datagram`],
//! `coap::Endpoint` decodes it, `registry` finds the device, `lwm2m::codec` decodes the payload and `mqtt::uplink` makes the
//! JSON that the application reads. [`lwm2m_core::gateway::Output::Broker`] carries it to [`upstream`], which is
//! [`upstream::exproto`] or [`upstream::mqtt`]. A command of an application takes the same way back, from
//! [`lwm2m_core::gateway::Gateway::handle_broker`].
//!
//! `reload` reads changed files while the program runs, and [`driver::control`] carries changes and questions to the
//! driver.
//!
//! A module is public only where a test, a bench or `main.rs` uses it. The modules form no circle: `admin` and `reload` stand
//! above `driver`, which stands above `store`, `credentials` and `upstream`; `observability` knows the metrics of `upstream`
//! and nothing of the driver.
//!
//! Invariants of this crate:
//! - Only [`upstream`] knows the messages of ExProto and the packets of MQTT; only [`transport`] knows the devices' sockets.
//! - Only [`store`] knows the file that outlives the process; no device waits for it.
//! - Only [`config`] validates the configuration.
//! - There is no lock, task or timer per device: one driver task owns the core, and deadlines are ordered sets.
#![cfg_attr(test, allow(clippy::disallowed_methods))]

mod admin;
mod app;
mod cli;
pub mod conditions;
pub mod config;
pub mod credentials;
pub mod definitions;
#[cfg(feature = "embedded")]
mod demo;
mod descriptors;
pub mod driver;
mod errors;
mod meters;
pub mod observability;
mod reload;
pub mod service;
pub mod store;
pub mod tls;
pub mod transport;
pub mod upstream;

pub use cli::main;
