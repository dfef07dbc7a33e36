//! Devices that speak DTLS: the gateway in virtual time, and the built program.

mod binding;
pub(crate) mod program;
mod restart;
pub(crate) mod scene;
