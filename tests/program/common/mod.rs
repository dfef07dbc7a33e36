//! What the tests that need a broker share.

pub mod admin;
pub mod application;
pub mod broker;
pub mod device;
pub mod gateway;
pub mod left_sessions;
pub mod ports;
pub mod program;
pub mod scene;
pub mod simulated;
pub mod turn;
