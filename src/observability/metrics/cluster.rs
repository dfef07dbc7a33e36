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
    /// The shards that the node serves.
    pub shards: Gauge,
    pub acquired: Counter,
    pub handed_over: Counter,
    pub lost: Counter,
    /// Time from the lease of a shard until its devices are served.
    pub takeover: Histogram,
    pub state: EngineStateGauges,
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

/// Of these the one of the present state is 1.
#[derive(Debug)]
pub struct EngineStateGauges {
    pub sure: Gauge,
    pub all_without: Gauge,
    pub alone: Gauge,
    pub unsure: Gauge,
}

impl ClusterMetrics {
    pub fn register(registry: &mut Registry) -> Self {
        let shards = "Shards that this node of a cluster holds with their records, served or suspended";
        let moves = "Shards that this node of a cluster took or gave up, by reason";
        let takeovers = "Time from the lease of a shard until its devices are served";
        let states = "1 for the present state of this node of a cluster towards the server of the store";
        let age = "Time since the request by which this node of a cluster renewed its leases last";
        let terms = "Newer terms for the DTLS record numbers of shards that this node of a cluster has";
        let fenced = "Batches that the store of a cluster refused, because another node may have one of their shards";
        let lease_age = Gauge::<f64, AtomicU64>::default();
        registry.register_with_unit("lwm2m_lease_age", age, Unit::Seconds, lease_age.clone());
        let moves = counters(registry, "lwm2m_shard_moves", moves);
        let moves = |reason| moves(ReasonLabel { reason });
        let endpoint_moves = "Moves of devices between the nodes of a cluster, by outcome at this node";
        let endpoint_moves = counters(registry, "lwm2m_endpoint_moves", endpoint_moves);
        let endpoint_moves = |outcome| endpoint_moves(OutcomeLabel { outcome });
        let states = gauges(registry, "lwm2m_engine_state", states);
        let states = |state| states(StateLabel { state });
        Self {
            shards: gauge(registry, "lwm2m_shards", shards),
            acquired: moves("acquired"),
            handed_over: moves("handed_over"),
            lost: moves("lost"),
            takeover: histogram(registry, "lwm2m_takeover", takeovers, TAKEOVERS),
            state: EngineStateGauges {
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
