//! The tests of the contract once more, with devices at the broker by MQTT: the same topics and payloads, the same answers to
//! devices (see `common::broker::Upstream`).

#![allow(clippy::duplicate_mod, reason = "each of these files is a test binary of its own elsewhere")]

#[path = "end_to_end.rs"]
mod end_to_end;
#[path = "outage.rs"]
mod outage;
#[path = "registering_again.rs"]
mod registering_again;
#[path = "vectors.rs"]
mod vectors;
