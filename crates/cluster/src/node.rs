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
    fn a_node_has_a_number_of_7_bits() {
        assert_eq!(NodeNumber::try_from(127).map(NodeNumber::number), Ok(127));
        assert_eq!(NodeNumber::try_from(128), Err(NodeNumberError(128)));
        assert_eq!(NodeNumber::try_from(256), Err(NodeNumberError(256)));
    }
}
