//! The configuration of a node of a cluster.

use std::net::SocketAddr;
use std::time::Duration;

use crate::tls::TlsConfig;
use lwm2m_cluster::engine::Timing;
use lwm2m_cluster::{Isolated, NodeNumber};

/// The configuration of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterConfig {
    /// The name of the node, which is unique in the cluster.
    pub node: String,
    /// The number of the node, which is unique in the cluster.
    pub number: NodeNumber,
    /// The share of shards that the node takes, relative to other nodes.
    pub weight: u16,
    pub timing: Timing,
    pub isolated: Isolated,
    /// The number of shards that are handed over at the same time.
    pub moves_at_once: usize,
    /// The time for which a node that shuts down forwards datagrams after it has handed its shards over.
    pub linger: Duration,
    /// The address at which the other nodes connect.
    pub bind: SocketAddr,
    /// The host and port by which the other nodes reach that address.
    pub advertise: String,
    /// The authority of the cluster, and the certificate of the node with its key.
    pub tls: TlsConfig,
    /// Whether the node sends to a device from its own address if it cannot reach the node that received the last
    /// datagram of the device.
    pub is_direct: bool,
}
