//! Devices that speak DTLS: the gateway in virtual time, and the built program.

mod binding;
pub mod program;
mod restart;
pub mod scene;
