//! The LwM2M gateway for EMQX: LwM2M devices on one side, EMQX or another MQTT broker on the other.
//!
//! This crate is the program around the core: it owns sockets, gRPC, MQTT connections, the clock, files and signals.
//! The core, `lwm2m_core`, is a state machine without IO: it takes the time, received bytes and a seed, and returns
//! outputs. Its documentation has the glossary; read it and [`Gateway`](lwm2m_core::gateway::Gateway) next.
//! `docs/architecture.md` follows a notification and a command through all modules.
//!
//! ```text
//! main -> cli -> app -> console -> admin, reload -> driver -> transport, store, credentials, upstream  this crate
//!                                                     |
//!                                                     v
//!                                              lwm2m_core::gateway -> lwm2m_dtls -> lwm2m_base  without IO
//! ```
//!
//! `reload` reads changed files while the program runs, and [`driver::control`] carries changes and questions to the
//! driver.
//!
//! A module is public only where a test, a bench or `main.rs` uses it. The modules form no circle: `console` stands
//! above `admin` and `reload`, these above `driver`, which stands above `store`, `credentials` and `upstream`;
//! `observability` knows the metrics of `upstream` and nothing of the driver.
//!
//! Invariants of this crate:
//! - Only [`upstream`] knows the messages of ExProto and the packets of MQTT; only [`transport`] knows the devices'
//!   sockets.
//! - Only [`store`] knows the file, or the Redis server, that keeps state across restarts. The driver never waits for
//!   it; messages that tell of a change wait for the record of it, at most `store.patience`.
//! - Only [`config`] validates the configuration.
//! - The driver of each thread owns its core and the state of its upstream link. The task of a device's connection to
//!   the broker owns a socket only. No device has a timer of its own: deadlines are ordered sets.
#![cfg_attr(test, allow(clippy::disallowed_methods))]

mod admin;
mod app;
mod bootstrap;
mod cli;
pub mod clock;
pub mod cluster;
pub mod conditions;
pub mod config;
#[cfg(feature = "console")]
mod console;
pub mod credentials;
pub mod definitions;
#[cfg(feature = "embedded")]
mod demo;
pub mod driver;
mod errors;
mod file_snapshot;
mod firmware;
mod meters;
pub mod observability;
pub mod process;
mod reload;
#[cfg(feature = "embedded")]
mod simulation;
pub mod store;
pub mod tls;
pub mod transport;
pub mod upstream;

pub use cli::main;
