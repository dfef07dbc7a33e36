//! A node of a cluster: several gateways share a store, and divide the shards of the devices among them.
//!
//! 1. [`member`] is the task that owns the state machine of leases ([`lwm2m_cluster::ClusterMember`]). It asks the
//!    keeper of the store for leases, and commands the driver which shards to serve ([`ClusterCommand`]).
//! 2. The driver serves while the [`gate`] is open. The member task opens it for as long as nobody else can have the
//!    shards of the node. A process that was stopped finds the gate closed when it goes on.
//! 3. What the member task commands before it opens the gate, the driver does before it serves.
//!
//! The whole node is suspended, not a single shard: whether the leases hold is known of the node only.

pub mod config;
pub mod gate;
pub mod member;
pub mod moves;
mod owners;
pub mod peers;
pub mod status;

use crate::store::redis::shared::names::NameAnswer;
use lwm2m_base::Shard;
use lwm2m_cluster::{Handover, NodeNumber, Term};
use lwm2m_core::gateway::moves::shards::ShardContents;

/// A command of the member task to the driver.
#[derive(Debug)]
pub enum ClusterCommand {
    /// Serve a shard in this term, with its records.
    Serve { shard: Shard, term: Term, contents: Box<ShardContents> },
    /// Number the DTLS records of a shard in this term from now on.
    UseTerm { shard: Shard, term: Term },
    /// End the commands in flight of a shard, write all its records, stop serving it, publish its queued messages, tell
    /// the next node through which nodes its devices are reached, and report [`DriverReport::WoundDown`] with this
    /// number.
    HandOver { shard: Shard, handover: Handover, to: Option<NodeNumber> },
    /// Serve a shard in this term again, if it was to be handed over.
    Resume { shard: Shard, term: Term },
    /// Forget a shard, without informing devices or the broker, and report [`DriverReport::Dropped`].
    Drop(Shard),
    /// The answer of the store to a question about an endpoint name.
    Name(Box<NameAnswer>),
    /// Report [`DriverReport::Devices`].
    CountDevices,
    /// Shut down, because another process of this node is alive.
    End,
}

/// A report of the driver to the member task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriverReport {
    /// An association of the shard has used half of the numbers of its term.
    NeedsTerm(Shard),
    /// All records of the shard are stored, and the driver does not serve it.
    WoundDown { shard: Shard, handover: Handover },
    /// The devices of a shard are connected to the broker after [`ClusterCommand::Serve`], or their time is over.
    Settled(Shard),
    /// The shard is forgotten after [`ClusterCommand::Drop`]: no batch after this has a record of it.
    Dropped(Shard),
    /// The number of registered devices.
    Devices(usize),
}
