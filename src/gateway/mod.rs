//! The only place where coap, lwm2m, registry and mqtt meet.

pub mod broker;
pub mod report;
pub mod settings;
