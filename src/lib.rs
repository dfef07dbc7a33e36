//! The LwM2M gateway for EMQX.
#![cfg_attr(test, allow(clippy::disallowed_methods))]

pub mod coap;
pub mod deadlines;
pub mod gateway;
pub mod lwm2m;
pub mod mqtt;
pub mod registry;
pub mod secret;

#[cfg(feature = "embedded")]
pub mod embedded;
pub mod observability;
pub mod upstream;
