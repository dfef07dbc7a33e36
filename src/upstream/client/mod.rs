//! The lifecycle of the devices as clients of the broker, which both upstreams share.

pub mod clients;
pub mod disturbances;
pub mod pace;
pub mod queue;
pub mod returning;
pub mod targets;
