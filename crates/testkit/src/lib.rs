//! The test kit: the core in virtual time, and a network between it and many simulated devices.
//!
//! This crate guarantees that a test decides all that happens: time, loss, duplication, reordering and what the broker
//! says. It opens no socket and never sleeps. It knows nothing of the program around the core.

pub mod network;
pub mod scene;
