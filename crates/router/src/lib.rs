//! Decides which thread of the gateway, or which node of a cluster, handles a datagram, and which thread has an endpoint
//! name, without IO.
//!
//! # Threads
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
//! # Nodes
//!
//! In a cluster each shard belongs to one node at a time. A balancer in front of the nodes sends a datagram to any of
//! them. The [`NodeRouter`] of the node that received it, its *entry*, reads the same ids:
//!
//! 1. an id of the gateway tells the shard; else the shard that has a device at this address, if the router has learned
//!    it; else the node handles the datagram itself;
//! 2. a Register over plain UDP of an endpoint that the node does not have waits until the store has told the shard of
//!    the endpoint name;
//! 3. a datagram of another node's shard is forwarded to the node that the [`ShardMap`] names. A node that has just
//!    lost the shard forwards it once more; there is no third time;
//! 4. a datagram whose shard has no known owner is held for some seconds. So is one that comes from the node that is
//!    taken for the owner: the shard may be about to come here;
//! 5. answers leave through the entry, because only its flow passes the balancer;
//! 6. an empty acknowledgement or Reset names nothing. If several nodes have devices at its address, such as behind a
//!    proxy, it goes to all of them: the node that has sent the message with this message ID takes it.
//!
//! # What this crate guarantees
//!
//! - It reads no clock and does no IO: time and datagrams are arguments. No datagram makes it panic.
//! - A router reads a datagram once, without a copy of it unless it is held, and keeps nothing of addresses whose
//!   devices the receiving thread or node has. A forged address does not teach it where a device is: it learns that
//!   only from the thread or node that has a device there.
//! - Every table has a bound, and a count of what the bound has cost.
//!
//! # What it does not know
//!
//! Threads, channels, sockets and connections; what a datagram means beyond the ids in it; leases. With one thread, or
//! without a cluster, the program does not call it.
//!
//! [`Shard`]: lwm2m_base::Shard
//! [`ThreadShards`]: lwm2m_base::ThreadShards
#![cfg_attr(test, allow(clippy::disallowed_methods))]

mod claims;
mod device_shards;
mod flows;
mod held;
mod named;
mod node_router;
mod router;
mod shard_map;
mod waiting_registers;
mod ways;

pub use claims::{Claim, Claims};
pub use flows::Flow;
pub use held::HeldDatagram;
pub use node_router::{ForwardDrop, Forwarded, Hop, LocalDevices, NodeRoute, NodeRouter, NodeRouterConfig};
pub use node_router::{Released, ReleasedDatagram, Surroundings};
pub use router::{Route, Router, RouterConfig};
pub use shard_map::ShardMap;
pub use waiting_registers::WaitingRegister;
pub use ways::{Sender, WayOut};
