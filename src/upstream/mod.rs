//! The way up to the broker: both kinds of it stand behind the port of `gateway::broker`.

pub mod exproto;

/// How full the link is, and how it stands with the broker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Occupancy {
    /// Devices that are clients of the broker.
    pub connected: usize,
    /// Devices that are not, and will be if the broker takes them.
    pub connecting: usize,
    /// What waits to be published, and may wait.
    pub publications: usize,
    pub publications_limit: usize,
    pub nodes_up: usize,
    pub nodes_down: usize,
}
