//! The LwM2M gateway for EMQX.
#![cfg_attr(test, allow(clippy::disallowed_methods))]

pub mod coap;
pub mod deadlines;
pub mod gateway;
pub mod lwm2m;
pub mod mqtt;
pub mod registry;
pub mod secret;
pub mod simulator;

pub mod app;
pub mod cli;
pub mod config;
pub mod definitions;
#[cfg(feature = "embedded")]
pub mod demo;
pub mod driver;
#[cfg(feature = "embedded")]
pub mod embedded;
pub mod observability;
pub mod store;
pub mod transport;
pub mod upstream;
