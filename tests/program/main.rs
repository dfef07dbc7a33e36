//! The built program and its shell, over real sockets, with brokers and devices.

#![cfg(feature = "embedded")]

#[macro_use]
mod common;
mod bootstrap;
mod check_connect;
mod cli;
mod cluster;
#[cfg(feature = "console")]
mod console;
#[cfg(feature = "console")]
mod console_commands;
#[cfg(feature = "console")]
mod console_devices;
#[cfg(feature = "console")]
mod console_emqx;
#[cfg(feature = "console")]
mod console_events;
#[cfg(feature = "console")]
mod console_failures;
#[cfg(feature = "console")]
mod console_traces;
mod definitions;
mod documentation;
mod documented_metrics;
mod dtls_devices;
mod embedded_broker;
mod end_to_end;
mod exproto_link;
mod field_reports;
mod firmware;
mod firmware_campaigns;
mod hostile;
mod lifecycle;
mod load;
mod mapping;
mod metrics;
mod mqtt_link;
mod outage;
mod parent;
mod presence;
mod psk_http;
mod redis_store;
mod registering_again;
mod reload;
#[cfg(feature = "console")]
mod remote_commands;
mod restart;
mod service;
mod start;
#[cfg(feature = "console")]
mod threads;
mod tls;
#[cfg(feature = "console")]
mod trial;
mod vectors;
