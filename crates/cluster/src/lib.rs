//! Decides which node of a cluster owns which shard, and which DTLS record numbers it may use, without IO.
//!
//! - [`Term`] counts the tenures of a shard by a clock of 4 seconds.
//! - [`NodeNumber`], [`Incarnation`] and [`NodeProcess`] name the nodes of a cluster and their processes.
//! - [`WriteNumbers`] gives each DTLS record of an association a number that no other record gets.
//! - [`Floors`] tells which terms a process may use.
//! - [`ClusterMember`] is one node: it acquires, renews and releases leases, and tells when a shard may be served.
//! - [`endpoint_move`] moves a device from a shard of one node to a shard of another one.
//! - [`Directory`] has the addresses of the nodes.
//! - [`frame`] encodes what nodes send to each other: messages, forwarded datagrams and moves of devices.
//! - [`engine`] has the requests to the engine, which is the store of leases, and the effect of each.
//! - `model` (feature `model`) has models of the engine, for tests.
//!
//! # What this crate guarantees
//!
//! - It reads no clock, draws no random numbers and does no IO: time, answers and messages are arguments.
//! - No two records of one association have the same number, whatever the store of leases forgets or brings back. This
//!   rests on the conditions that `write_number` names.
//! - A shard is served by one node at a time. A process that was stopped serves nothing of what another one acquired
//!   meanwhile, if it calls [`ClusterMember::handle_timeout`] before it sends. There is one exception: with
//!   [`Isolated::Serve`] a node in [`EngineContact::Alone`] serves, although silent peers may reach the engine.
//! - After the last failure each shard has an owner within 13 s, if the caller does as it is told. The tests play
//!   random schedules of failures in virtual time.
//! - Own terms of a process without the engine are few, five for each shard. An association that has used their
//!   numbers is silent until the engine answers.
//!
//! # What it does not know
//!
//! Devices, DTLS, CoAP and MQTT; the protocol of the engine that stores leases; the connections between nodes.
//! It does not know an engine of several primaries: all leases have the clock and the run of one.
#![cfg_attr(test, allow(clippy::disallowed_methods))]

mod directory;
pub mod endpoint_move;
pub mod engine;
mod floors;
pub mod frame;
mod member;
mod message;
#[cfg(feature = "model")]
pub mod model;
mod node;
mod rendezvous;
mod term;
pub(crate) mod write_number;

pub use directory::{Directory, NodeAddress};
pub use floors::Floors;
pub use member::{
    ClusterMember, Ended, EngineContact, Handover, Isolated, MemberCommand, MemberConfig, MemberEvent, Now, TenureEnd,
};
pub use message::PeerMessage;
pub use node::{Incarnation, NodeNumber, NodeNumberError, NodeProcess, NodeSet};
pub use term::{Term, WallTime};
pub use write_number::{TermError, WriteNumbers};
