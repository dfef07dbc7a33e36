//! The test kit: scenes in which the gateway's core runs in virtual time.
//!
//! - [`scene`]: one device, played by the test message by message, and the core.
//! - [`network`]: many simulated devices, a network that loses, repeats and reorders datagrams, and a broker.
//! - [`images`]: the folder of firmware images.
//! - [`store`]: what a process of the core leaves to the next one.
//!
//! # What this crate guarantees
//!
//! A test decides everything that happens: time, loss, duplication, reordering and the answers of the broker. The same
//! seed gives the same run. The kit opens no socket, starts no thread and never sleeps.
//!
//! # What it does not know
//!
//! The program around the core: configuration files, sockets, the store and the upstream connections to a broker.

pub mod images;
pub mod network;
pub mod scene;
pub mod store;
