//! The core through its public face, in virtual time.

mod bootstrap;
mod coap;
mod commands;
mod composite;
mod dtls;
mod firmware;
mod limits;
mod mapping_vectors;
mod network;
mod notifications;
mod operators;
mod registration;
mod shards;
mod stopping;
mod told_when_stored;
mod upstream;
