//! Types that all layers share: the name of a peer, the identity of a device, deadlines, rate limits and secrets.
//!
//! - [`Peer`] names the other end of a datagram; [`AssociationId`] names a DTLS association.
//! - [`Shard`] names one of the 256 parts into which devices are divided; [`ThreadShards`] are those of one thread,
//!   and a [`ShardSet`] any of them.
//! - [`add_fields!`] adds up structs of counts.
//! - [`deadlines`] orders what is due, with one deadline for each key.
//! - [`expiring_map`] holds entries that expire, with a bound on their number.
//! - [`identity`] names what a device proved to be.
//! - [`id_map`] maps ids that the program counts up.
//! - [`index`] finds values by a key that their owner keeps.
//! - [`rate`] limits the rate of one address and of all together, with a bounded number of buckets.
//! - [`secret`] holds texts that no log, report or error shows.
//! - [`small_map`] maps few keys with little memory.
//! - [`sparse`] has hash tables give their memory back.
//! - [`total`] sums up what many owners count.
//!
//! # What this crate guarantees
//!
//! Nothing in it reads a clock, draws random numbers or does IO: time is an argument. It has no dependency on another
//! crate of the workspace.
//!
//! # What it does not know
//!
//! DTLS, CoAP, LwM2M and MQTT.
#![cfg_attr(test, allow(clippy::disallowed_methods))]

mod add_fields;
pub mod deadlines;
pub mod expiring_map;
pub mod id_map;
pub mod identity;
pub mod index;
mod peer;
pub mod rate;
pub mod secret;
mod shard;
pub mod small_map;
pub mod sparse;
pub mod total;

pub use peer::{AssociationId, Peer};
pub use shard::{Shard, ShardSet, ThreadShards};
