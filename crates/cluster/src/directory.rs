//! The other nodes of a cluster and their addresses.

use std::collections::BTreeMap;

use crate::node::NodeNumber;

/// The addresses of nodes, by their numbers. Its bound is the number of nodes that a cluster can have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directory(BTreeMap<NodeNumber, NodeAddress>);

/// The name of a node, and how to reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeAddress {
    /// The name of the node, which its certificate has.
    pub name: String,
    /// The host and port at which it accepts connections of other nodes.
    pub address: String,
}

impl Directory {
    pub fn insert(&mut self, node: NodeNumber, address: NodeAddress) {
        self.0.insert(node, address);
    }

    pub fn remove(&mut self, node: NodeNumber) {
        self.0.remove(&node);
    }

    pub fn get(&self, node: NodeNumber) -> Option<&NodeAddress> {
        self.0.get(&node)
    }

    pub fn iter(&self) -> impl Iterator<Item = (NodeNumber, &NodeAddress)> {
        self.0.iter().map(|(node, address)| (*node, address))
    }
}

impl FromIterator<(NodeNumber, NodeAddress)> for Directory {
    fn from_iter<I: IntoIterator<Item = (NodeNumber, NodeAddress)>>(nodes: I) -> Self {
        Self(nodes.into_iter().collect())
    }
}
