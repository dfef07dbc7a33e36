//! Names of the nodes of a cluster and of their processes.

use std::fmt::{self, Display};

/// The number of a node, 0 to 127. No two nodes of a cluster have the same, and a node keeps it when it restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeNumber(u8);

/// A number that no node can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the number of a node is {0}, but 0 to 127 was expected")]
pub struct NodeNumberError(pub u64);

impl NodeNumber {
    /// The number of bits that the number of a node has.
    pub const BITS: u32 = 7;
    /// The number of the node of a program without a cluster.
    pub const SINGLE: Self = Self(0);

    /// Returns the number of the node.
    pub const fn number(self) -> u8 {
        self.0
    }
}

impl TryFrom<u64> for NodeNumber {
    type Error = NodeNumberError;

    fn try_from(number: u64) -> Result<Self, NodeNumberError> {
        match u8::try_from(number) {
            Ok(small) if small < 1 << Self::BITS => Ok(Self(small)),
            Ok(_) | Err(_) => Err(NodeNumberError(number)),
        }
    }
}

impl Display for NodeNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(&self.0, f)
    }
}

/// A set of nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeSet(u128);

impl NodeSet {
    /// Returns the set with this node.
    pub const fn with(self, node: NodeNumber) -> Self {
        Self(self.0 | 1 << node.0)
    }

    /// Returns the set without this node.
    pub const fn without(self, node: NodeNumber) -> Self {
        Self(self.0 & !(1 << node.0))
    }

    /// Returns whether the set has this node.
    pub const fn contains(self, node: NodeNumber) -> bool {
        self.0 >> node.0 & 1 == 1
    }

    /// Returns whether the other set has all nodes of this one.
    pub const fn is_subset(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }

    /// Returns the number of nodes.
    pub const fn len(self) -> u32 {
        self.0.count_ones()
    }

    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// Distinguishes the processes of one node. A process that starts later has a greater one: milliseconds since 1970 at
/// the start of the process suffice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub u64);

/// Identifies one process of one node: the owner of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeProcess {
    pub node: NodeNumber,
    pub incarnation: Incarnation,
}

impl Display for NodeProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.node, self.incarnation.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_the_nodes_that_were_added_and_not_removed() {
        let [first, last] = [0, 127].map(|number| NodeNumber::try_from(number).unwrap());
        let both = NodeSet::default().with(first).with(last).with(last);
        assert_eq!((both.len(), both.contains(first), both.contains(last)), (2, true, true));
        let one = both.without(first).without(first);
        assert_eq!((one.len(), one.contains(first), one.contains(last)), (1, false, true));
        assert!(one.without(last).is_empty());
        assert!(one.is_subset(both) && both.is_subset(both) && !both.is_subset(one));
    }

    #[test]
    fn a_node_has_a_number_of_7_bits() {
        assert_eq!(NodeNumber::try_from(127).map(NodeNumber::number), Ok(127));
        assert_eq!(NodeNumber::try_from(128), Err(NodeNumberError(128)));
        assert_eq!(NodeNumber::try_from(256), Err(NodeNumberError(256)));
    }
}
