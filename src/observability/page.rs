//! Renders the metrics in the text format of OpenMetrics, which Prometheus reads.

use std::collections::HashMap;
use std::fmt::{self, Write};
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::metrics::Metrics;
use super::process;
use super::snapshot::DriverSnapshot;

pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The metrics of one scrape. The series are the same however many devices there are.
#[derive(Clone, Debug)]
pub struct MetricsPage {
    pub metrics: Arc<Metrics>,
    /// `None` when the event loop did not answer.
    pub snapshot: Option<DriverSnapshot>,
}

impl MetricsPage {
    pub fn text(self) -> String {
        let encoded = self.metrics.registries().map(|registry| {
            let mut text = String::new();
            text::encode_registry(&mut text, registry).expect("a string takes everything");
            text
        });
        let mut text = added_up(encoded);
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Gauges { snapshot: self.snapshot }));
        text::encode(&mut text, &registry).expect("a string takes everything");
        text
    }
}

/// Adds up the samples of pages that have the same series, and returns them with the descriptions of the first page.
/// Each thread counts in metrics of its own, so that no thread waits for the memory of another one, and the library
/// shows the buckets of a histogram in no other way than as text.
fn added_up(mut pages: impl Iterator<Item = String>) -> String {
    let first = pages.next().unwrap_or_default();
    let others: Vec<String> = pages.collect();
    if others.is_empty() {
        return first;
    }
    let mut sums: HashMap<&str, Sample> = HashMap::new();
    for (series, sample) in others.iter().flat_map(|page| page.lines()).filter_map(Sample::of_line) {
        let sum = sums.entry(series).or_default();
        *sum = sum.plus(sample);
    }
    let mut text = String::with_capacity(first.len());
    for line in first.lines() {
        match Sample::of_line(line).and_then(|(series, sample)| Some((series, sample.plus(*sums.get(series)?)))) {
            Some((series, sum)) => writeln!(text, "{series} {sum}"),
            None => writeln!(text, "{line}"),
        }
        .expect("a string takes everything");
    }
    text
}

/// The value of a sample: counts stay whole numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Sample {
    Whole(i64),
    Real(f64),
}

impl Sample {
    /// Reads the series and the value of a line; `None` if the line is a comment.
    fn of_line(line: &str) -> Option<(&str, Self)> {
        let (series, value) = line.rsplit_once(' ').filter(|_| !line.starts_with('#'))?;
        let whole = value.parse().map(Self::Whole);
        Some((series, whole.or_else(|_| value.parse().map(Self::Real)).ok()?))
    }

    fn plus(self, other: Self) -> Self {
        match (self, other) {
            (Self::Whole(one), Self::Whole(other)) => Self::Whole(one.saturating_add(other)),
            (one, other) => Self::Real(one.real() + other.real()),
        }
    }

    fn real(self) -> f64 {
        match self {
            Self::Whole(whole) => whole as f64,
            Self::Real(real) => real,
        }
    }
}

impl Default for Sample {
    fn default() -> Self {
        Self::Whole(0)
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(whole) => write!(f, "{whole}"),
            Self::Real(real) => write!(f, "{real:?}"),
        }
    }
}

/// The gauges that are determined at each scrape.
#[derive(Debug)]
struct Gauges {
    snapshot: Option<DriverSnapshot>,
}

impl Collector for Gauges {
    fn encode(&self, mut page: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "1 if the event loop that serves the devices answers.";
        let event_loop = page.encode_descriptor("lwm2m_event_loop_up", help, None, MetricType::Gauge)?;
        ConstGauge::new(u64::from(self.snapshot.is_some())).encode(event_loop)?;
        if let Some(snapshot) = &self.snapshot {
            snapshot.encode(&mut page)?;
        }
        let build = page.encode_descriptor("lwm2m_build", "Version of the program.", None, MetricType::Info)?;
        Info::new([("version", env!("CARGO_PKG_VERSION"))]).encode(build)?;
        process::encode(&mut page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_the_counters_the_times_and_the_gauges() {
        let metrics = Arc::new(Metrics::default());
        metrics.upstream.publishes_refused.inc_by(3);
        let snapshot = DriverSnapshot { asleep: 2, ..DriverSnapshot::default() };
        let text = MetricsPage { metrics, snapshot: Some(snapshot) }.text();
        for line in [
            "# TYPE lwm2m_publishes counter",
            r#"lwm2m_publishes_total{result="refused"} 3"#,
            r#"lwm2m_datagrams_total{outcome="dropped",reason="version"} 0"#,
            "# TYPE lwm2m_exchange_seconds histogram",
            "lwm2m_exchange_seconds_count 0",
            r#"lwm2m_devices{state="asleep"} 2"#,
            "lwm2m_event_loop_up 1",
            &format!("lwm2m_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION")),
            "# EOF",
        ] {
            assert!(text.lines().any(|there| there == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_page_adds_up_the_metrics_of_all_threads() {
        let threads = Metrics::of_threads(3);
        for (metrics, count) in threads.iter().zip([1, 10, 100]) {
            metrics.upstream.publishes_refused.inc_by(count);
            metrics.upstream.times.publish.observe(0.25);
            metrics.console.driver_seconds.inc_by(0.5);
        }
        threads[0].dtls_up.set(1);
        let text = MetricsPage { metrics: Arc::clone(&threads[0]), snapshot: None }.text();
        for line in [
            r#"lwm2m_publishes_total{result="refused"} 111"#,
            r#"lwm2m_publishes_total{result="ok"} 0"#,
            r#"lwm2m_broker_call_seconds_count{call="publish"} 3"#,
            r#"lwm2m_broker_call_seconds_sum{call="publish"} 0.75"#,
            "lwm2m_console_driver_seconds_total 1.5",
            "lwm2m_dtls_up 1",
        ] {
            assert!(text.lines().any(|there| there == line), "{line} is not in\n{text}");
        }
        let alone = MetricsPage { metrics: Arc::default(), snapshot: None }.text();
        let descriptions = |page: &str| page.lines().filter(|line| line.starts_with('#')).count();
        assert_eq!(descriptions(&text), descriptions(&alone));
    }

    #[test]
    fn an_event_loop_that_is_stuck_does_not_hide_what_was_counted() {
        let text = MetricsPage { metrics: Arc::default(), snapshot: None }.text();
        assert!(text.contains("\nlwm2m_event_loop_up 0\n") && text.contains("\nlwm2m_updates_total 0\n"), "{text}");
        assert!(!text.contains("lwm2m_devices{"), "{text}");
    }
}
