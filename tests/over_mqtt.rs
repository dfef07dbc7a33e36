//! The tests of the contract once more, with devices at the broker by MQTT: the same topics and payloads, the same answers to
//! devices (see `common::broker::Upstream`).

#[path = "end_to_end.rs"]
mod end_to_end;
#[path = "outage.rs"]
mod outage;
#[path = "vectors.rs"]
mod vectors;
