//! Devices that speak DTLS: the gateway in virtual time, and the built program.

#![cfg(feature = "embedded")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/dtls/mod.rs"]
mod dtls;
#[path = "../common/virtual_scene.rs"]
mod virtual_scene;

mod binding;
mod program;
mod restart;
mod scene;
