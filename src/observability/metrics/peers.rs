//! Counts the datagrams and connections between the nodes of a cluster.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::meters::{StateLabel, counter, counters, gauges};

use super::labels::{DirectionLabel, ReasonLabel};

/// The metrics of the connections between nodes. Without a cluster they stay 0.
#[derive(Clone, Debug)]
pub struct PeerMetrics {
    /// Datagrams of devices that were forwarded to another node.
    pub out: Counter,
    /// Datagrams of devices that another node has forwarded.
    pub in_: Counter,
    /// Datagrams to devices that leave through another node.
    pub answers_out: Counter,
    /// Datagrams to devices of another node that leave here.
    pub answers_in: Counter,
    pub drops: ForwardDrops,
    pub connected: Gauge,
    pub away: Gauge,
    /// Connections that were refused.
    pub refused: Counter,
}

/// The datagrams that were dropped on the way between nodes, by reason.
#[derive(Clone, Debug)]
pub struct ForwardDrops {
    /// Datagrams that were dropped because there was no connection to the node.
    pub peer_away: Counter,
    /// Too much waited for the connection to the node.
    pub queue_full: Counter,
    /// The connection ended before they were sent.
    pub connection_lost: Counter,
    /// The event loop was too slow.
    pub driver_full: Counter,
    /// The node does not have the listener.
    pub no_listener: Counter,
    /// Too many datagrams came from addresses without a device.
    pub rate_limited: Counter,
    /// No node was known to have the shard, and too many datagrams were held.
    pub not_held: Counter,
    /// No node was known to have the shard for too long.
    pub expired: Counter,
    /// Two nodes had forwarded them already.
    pub hops: Counter,
    /// The device was not heard since the node has its shard.
    pub no_way: Counter,
}

impl PeerMetrics {
    pub fn register(registry: &mut Registry) -> Self {
        let forwarded =
            "Datagrams between nodes of a cluster: to and from the node of their shard, and answers to devices";
        let forwarded = counters(registry, "lwm2m_forwarded_datagrams", forwarded);
        let forwarded = |direction| forwarded(DirectionLabel { direction });
        let drops = counters(registry, "lwm2m_forward_drops", "Datagrams that were dropped between nodes, by reason");
        let drops = |reason| drops(ReasonLabel { reason });
        let peers =
            gauges(registry, "lwm2m_peers", "Other nodes of the cluster by the state of the connection to them");
        let peers = |state| peers(StateLabel { state });
        Self {
            out: forwarded("out"),
            in_: forwarded("in"),
            answers_out: forwarded("answer_out"),
            answers_in: forwarded("answer_in"),
            drops: ForwardDrops {
                peer_away: drops("peer_away"),
                queue_full: drops("queue_full"),
                connection_lost: drops("connection_lost"),
                driver_full: drops("driver_full"),
                no_listener: drops("no_listener"),
                rate_limited: drops("rate_limited"),
                not_held: drops("not_held"),
                expired: drops("expired"),
                hops: drops("hops"),
                no_way: drops("no_way"),
            },
            connected: peers("connected"),
            away: peers("away"),
            refused: counter(
                registry,
                "lwm2m_peers_refused",
                "Connections to the port of the cluster that were refused",
            ),
        }
    }
}
