//! What the tests that need a broker share.

pub(crate) mod admin;
pub(crate) mod application;
pub(crate) mod broker;
pub(crate) mod device;
pub(crate) mod gateway;
pub(crate) mod left_sessions;
pub(crate) mod ports;
pub(crate) mod program;
pub(crate) mod scene;
pub(crate) mod simulated;
pub(crate) mod turn;
