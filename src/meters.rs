//! Counters, gauges and histograms of prometheus-client, registered as they are made.
//!
//! A type that counts holds its counters in fields and finds the right one by a `match`: counting is one atomic
//! addition, the compiler finds a case without a counter, and every series is on the page from the start. The labels
//! are derived structs; their values are texts, because `#[derive(EncodeLabelValue)]` would write the names of Rust
//! variants.

use std::fmt::Debug;
use std::hash::Hash;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Registers a counter; the page appends `_total` to its name, and a full stop to the help text.
pub(crate) fn counter(registry: &mut Registry, name: &'static str, help: &'static str) -> Counter {
    let counter = Counter::default();
    registry.register(name, help, counter.clone());
    counter
}

/// Registers a gauge.
pub(crate) fn gauge(registry: &mut Registry, name: &'static str, help: &'static str) -> Gauge {
    let gauge = Gauge::default();
    registry.register(name, help, gauge.clone());
    gauge
}

/// Registers a histogram of durations; the page appends `_seconds` to its name.
pub(crate) fn histogram(
    registry: &mut Registry,
    name: &'static str,
    help: &'static str,
    buckets: impl IntoIterator<Item = f64>,
) -> Histogram {
    let histogram = Histogram::new(buckets);
    registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
    histogram
}

/// Registers the counters of one name and returns how to get the counter with certain labels.
pub(crate) fn counters<L: Labels>(
    registry: &mut Registry,
    name: &'static str,
    help: &'static str,
) -> impl Fn(L) -> Counter + use<L> {
    let family = Family::<L, Counter>::default();
    registry.register(name, help, family.clone());
    move |labels| family.get_or_create_owned(&labels)
}

/// Registers the gauges of one name and returns how to get the gauge with certain labels.
pub(crate) fn gauges<L: Labels>(
    registry: &mut Registry,
    name: &'static str,
    help: &'static str,
) -> impl Fn(L) -> Gauge + use<L> {
    let family = Family::<L, Gauge>::default();
    registry.register(name, help, family.clone());
    move |labels| family.get_or_create_owned(&labels)
}

/// Registers the histograms of one name, all with the same buckets, and returns how to get the one with certain labels.
pub(crate) fn histograms<L: Labels, const N: usize>(
    registry: &mut Registry,
    name: &'static str,
    help: &'static str,
    buckets: [f64; N],
) -> impl Fn(L) -> Histogram + use<L, N> {
    let family = Family::<L, Histogram, HistogramBuckets<N>>::new_with_constructor(HistogramBuckets(buckets));
    registry.register_with_unit(name, help, Unit::Seconds, family.clone());
    move |labels| family.get_or_create_owned(&labels)
}

/// The upper bounds of the buckets of a histogram.
#[derive(Clone, Debug)]
struct HistogramBuckets<const N: usize>([f64; N]);

impl<const N: usize> MetricConstructor<Histogram> for HistogramBuckets<N> {
    fn new_metric(&self) -> Histogram {
        Histogram::new(self.0)
    }
}

/// Distinguishes the series of one name by the result of an operation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ResultLabel {
    pub result: &'static str,
}

/// Distinguishes the series of one name by a state.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct StateLabel {
    pub state: &'static str,
}

/// Labels of a family of metrics.
pub(crate) trait Labels: Clone + Debug + Eq + Hash + EncodeLabelSet + Send + Sync + 'static {}

impl<L: Clone + Debug + Eq + Hash + EncodeLabelSet + Send + Sync + 'static> Labels for L {}
