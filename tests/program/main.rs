//! The built program and its shell, over real sockets, with brokers and devices.

#![cfg(feature = "embedded")]

#[macro_use]
mod common;
mod bootstrap;
mod broker;
mod cluster;
#[cfg(feature = "console")]
mod console;
mod definitions;
mod documentation;
mod dtls_devices;
mod end_to_end;
mod field_reports;
mod firmware;
mod hostile;
mod load;
mod mapping;
mod metrics;
mod process;
mod psk_http;
mod registering_again;
mod store;
mod tls;
mod vectors;
