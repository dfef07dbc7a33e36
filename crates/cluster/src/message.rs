//! Messages between the nodes of a cluster. Nodes authenticate each other, so the contents are believed.

use std::time::Instant;

use lwm2m_base::Shard;

use crate::node::{Incarnation, NodeProcess};
use crate::term::Term;

/// A message from one node to another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerMessage {
    /// Asks for a [`PeerMessage::Pong`], which repeats `asked`.
    Ping { from: NodeProcess, asked: Instant },
    Pong {
        from: NodeProcess,
        asked: Instant,
        /// Whether the engine answered a request that the node made within the last two intervals of renewal.
        reaches: bool,
        /// The newest process of the receiver's number that the node knows.
        newest: Option<Incarnation>,
        /// The shards that the node holds, with the terms in which it acquired them.
        acquired: Vec<(Shard, Term)>,
        /// The other nodes that the node knows. A node that was stopped may not know those that joined meanwhile.
        others: Vec<NodeProcess>,
    },
    /// Tells that a lease was released for the receiver.
    Yours { shard: Shard },
    /// Tells that the devices of a shard that the receiver has handed over are served, and are connected to the broker.
    Settled { shard: Shard },
}
