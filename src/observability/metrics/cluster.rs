//! Counts what happens to the shards of a node of a cluster.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::meters::{StateLabel, counter, counters, gauge, gauges, histogram};

use super::labels::{OutcomeLabel, ReasonLabel};

/// Upper bounds of the buckets of the time that a shard takes from its lease to its service, in seconds.
const TAKEOVERS: [f64; 9] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0];

/// The metrics of a node. Without a cluster all of them are zero.
#[derive(Debug)]
pub struct ClusterMetrics {
    /// The shards that the node has, served or suspended.
    pub shards: Gauge,
    pub acquired: Counter,
    pub handed_over: Counter,
    pub lost: Counter,
    /// Time from the lease of a shard until its devices are served.
    pub takeover: Histogram,
    pub state: StoreContactGauges,
    /// Time since the request that renewed the leases last, in seconds.
    pub lease_age: Gauge<f64, AtomicU64>,
    /// Newer terms of shards that the node has.
    pub terms: Counter,
    /// Writes that the store refused, because another node may have a shard.
    pub fenced: Counter,
    pub endpoint_moves: EndpointMoveCounters,
}

/// Counts moves of devices by their outcome.
#[derive(Debug)]
pub struct EndpointMoveCounters {
    /// Devices that came from another node.
    pub arrived: Counter,
    /// Devices that went to another node.
    pub left: Counter,
    /// Devices that another node asked for and did not take.
    pub returned: Counter,
    /// Devices whose identity may not use the registration at another node.
    pub forbidden: Counter,
    /// Devices that another node did not give, or that were not taken in time.
    pub failed: Counter,
}

/// One gauge for each state of the contact with the store; that of the current state is 1, the others are 0.
#[derive(Debug)]
pub struct StoreContactGauges {
    pub sure: Gauge,
    pub all_without: Gauge,
    pub alone: Gauge,
    pub unsure: Gauge,
}

impl ClusterMetrics {
    pub fn register(registry: &mut Registry) -> Self {
        let shards = "Shards of this cluster node, served or suspended";
        let moves = "Shards that this cluster node acquired, handed over or lost, by reason";
        let takeovers = "Time from the lease of a shard until its devices are served";
        let states = "Contact of this cluster node with the server of the store: 1 for the current state";
        let age = "Time since this cluster node last renewed its leases";
        let terms = "Terms begun for the DTLS record numbers of the shards of this cluster node";
        let fenced = "Writes that the store of a cluster refused because another node may have the shard";
        let lease_age = Gauge::<f64, AtomicU64>::default();
        registry.register_with_unit("lwm2m_lease_age", age, Unit::Seconds, lease_age.clone());
        let moves = counters(registry, "lwm2m_shard_moves", moves);
        let moves = |reason| moves(ReasonLabel { reason });
        let endpoint_moves = "Moves of devices between cluster nodes, by outcome at this node";
        let endpoint_moves = counters(registry, "lwm2m_endpoint_moves", endpoint_moves);
        let endpoint_moves = |outcome| endpoint_moves(OutcomeLabel { outcome });
        let states = gauges(registry, "lwm2m_store_contact", states);
        let states = |state| states(StateLabel { state });
        Self {
            shards: gauge(registry, "lwm2m_shards", shards),
            acquired: moves("acquired"),
            handed_over: moves("handed_over"),
            lost: moves("lost"),
            takeover: histogram(registry, "lwm2m_takeover", takeovers, TAKEOVERS),
            state: StoreContactGauges {
                sure: states("sure"),
                all_without: states("all_without"),
                alone: states("alone"),
                unsure: states("unsure"),
            },
            lease_age,
            terms: counter(registry, "lwm2m_terms", terms),
            fenced: counter(registry, "lwm2m_store_fenced", fenced),
            endpoint_moves: EndpointMoveCounters {
                arrived: endpoint_moves("arrived"),
                left: endpoint_moves("left"),
                returned: endpoint_moves("returned"),
                forbidden: endpoint_moves("forbidden"),
                failed: endpoint_moves("failed"),
            },
        }
    }
}
