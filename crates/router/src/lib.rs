//! Decides which thread of the gateway handles a datagram, and which thread has an endpoint name, without IO.
//!
//! The kernel keeps the datagrams of one address with one thread (`SO_REUSEPORT`). A device may speak from another
//! address later, so that its datagrams come to a thread that does not have it. Every id that the gateway gives to a
//! device contains a shard ([`Shard`]), and each shard belongs to one thread ([`ThreadShards`]). The [`Router`] of the
//! thread that received a datagram reads these ids:
//!
//! 1. a DTLS record with a connection ID: the shard of the connection ID;
//! 2. a request to `/rd/LOCATION`: the shard of the location; a request to `/fw/KEY/NAME`: the shard of the key;
//! 3. a Register with an endpoint name: the thread that has this name ([`Claims`]);
//! 4. a response or a notification: the shard of its token;
//! 5. everything else: the thread that has a device at this address, if the router has learned it;
//! 6. else the thread that received it.
//!
//! [`Claims`] is the one table of all threads: it maps each endpoint name to the thread that has it, so that no two
//! threads register one endpoint.
//!
//! # What this crate guarantees
//!
//! - It reads no clock and does no IO: time and datagrams are arguments. No datagram makes it panic.
//! - A router reads a datagram once, without a copy of it, and keeps nothing of addresses whose devices the receiving
//!   thread has. A forged address teaches it nothing: it learns an address only from the thread that has a device
//!   there.
//! - Every table has a bound, and a count of what the bound has cost.
//!
//! # What it does not know
//!
//! Threads, channels and sockets; what a datagram means beyond the ids in it; nodes of a cluster. With one thread the
//! program does not call it.
//!
//! [`Shard`]: lwm2m_base::Shard
//! [`ThreadShards`]: lwm2m_base::ThreadShards
#![cfg_attr(test, allow(clippy::disallowed_methods))]

mod claims;
mod flows;
mod named;
mod router;

pub use claims::{Claim, Claims};
pub use flows::Flow;
pub use named::Named;
pub use router::{Route, Router, RouterConfig};
