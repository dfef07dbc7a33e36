//! Renders the metrics in the text format of OpenMetrics, which Prometheus reads.

use std::fmt;
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
        let mut text = String::new();
        text::encode_registry(&mut text, self.metrics.registry()).expect("a string takes everything");
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Gauges { snapshot: self.snapshot }));
        text::encode(&mut text, &registry).expect("a string takes everything");
        text
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
    fn an_event_loop_that_is_stuck_does_not_hide_what_was_counted() {
        let text = MetricsPage { metrics: Arc::default(), snapshot: None }.text();
        assert!(text.contains("\nlwm2m_event_loop_up 0\n") && text.contains("\nlwm2m_updates_total 0\n"), "{text}");
        assert!(!text.contains("lwm2m_devices{"), "{text}");
    }
}
