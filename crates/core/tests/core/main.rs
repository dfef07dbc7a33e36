//! The core through its public face, in virtual time.

mod allocations;
mod coap_blockwise;
mod coap_endpoint;
mod composite_scene;
mod dtls_gateway;
mod floods;
mod gateway_answers;
mod gateway_auto_observe_composite;
mod gateway_commands;
mod gateway_composite;
mod gateway_crowd;
mod gateway_definitions;
mod gateway_fetch_blocks;
mod gateway_network;
mod gateway_network_sends;
mod gateway_observations;
mod gateway_pages;
mod gateway_registration;
mod gateway_send;
mod gateway_stopping;
mod gateway_traces;
mod gateway_upstream;
mod gateway_views;
mod hostile_device;
mod mapping_vectors;
mod soak;
