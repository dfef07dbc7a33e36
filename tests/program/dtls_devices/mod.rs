//! Devices that speak DTLS: the gateway in virtual time, and the built program.

mod binding;
mod restart;
mod scene;
