//! The page of metrics, in the text format of OpenMetrics, which Prometheus reads.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabel, EncodeLabelSet, EncodeMetric, LabelSetEncoder, MetricEncoder, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::metrics::Metrics;
use super::process;
use super::vitals::Vitals;

pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What a page shows. The series are the same however many devices there are.
#[derive(Clone, Debug)]
pub struct Page {
    pub metrics: Arc<Metrics>,
    /// `None` when the driver did not tell.
    pub vitals: Option<Vitals>,
}

impl Page {
    pub fn text(self) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        text::encode(&mut text, &registry).expect("a string takes everything");
        text
    }
}

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.encode_counters(&mut encoder)?;
        self.encode_times(&mut encoder)?;
        self.encode_levels(&mut encoder)?;
        process::encode(&mut encoder)
    }
}

impl Page {
    fn encode_counters(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        for family in self.metrics.snapshot().chunk_by(|one, next| one.name == next.name) {
            // The encoder puts the suffix behind the name again.
            let name = family[0].name.trim_end_matches("_total");
            let encoder = encoder.encode_descriptor(name, family[0].meaning, None, MetricType::Counter)?;
            encode_family(encoder, family.iter().map(|sample| (&*sample.labels, ConstCounter::new(sample.value))))?;
        }
        Ok(())
    }

    fn encode_times(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        for family in self.metrics.times.list().chunk_by(|one, next| one.name == next.name) {
            let name = family[0].name.trim_end_matches("_seconds");
            let kind = MetricType::Histogram;
            let encoder = encoder.encode_descriptor(name, family[0].meaning, Some(&Unit::Seconds), kind)?;
            encode_family(encoder, family.iter().map(|time| (time.labels, time.histogram.clone())))?;
        }
        Ok(())
    }

    fn encode_levels(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let meaning = "Whether the loop that serves the devices answers.";
        let driver = encoder.encode_descriptor("lwm2m_driver_up", meaning, None, MetricType::Gauge)?;
        ConstGauge::new(u64::from(self.vitals.is_some())).encode(driver)?;
        let vitals = self.vitals.as_ref().map(Vitals::levels).unwrap_or_default();
        let levels = [self.metrics.levels(), vitals].concat();
        for family in levels.chunk_by(|one, next| one.name == next.name) {
            let encoder = encoder.encode_descriptor(family[0].name, family[0].meaning, None, MetricType::Gauge)?;
            encode_family(encoder, family.iter().map(|level| (level.labels, ConstGauge::new(level.value))))?;
        }
        let build = encoder.encode_descriptor("lwm2m_build", "Which program this is.", None, MetricType::Info)?;
        Info::new([("version", env!("CARGO_PKG_VERSION"))]).encode(build)
    }
}

/// The series of one name, each with its labels. One without labels is alone under its name.
fn encode_family<'a>(
    mut encoder: MetricEncoder<'_>,
    family: impl Iterator<Item = (&'a str, impl EncodeMetric)>,
) -> fmt::Result {
    for (labels, metric) in family {
        if labels.is_empty() {
            return metric.encode(encoder);
        }
        metric.encode(encoder.encode_family(&Labels(labels))?)?;
    }
    Ok(())
}

/// `label="value"`, separated by commas.
#[derive(Debug)]
struct Labels<'a>(&'a str);

impl EncodeLabelSet for Labels<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        let pairs = self.0.split(',').filter_map(|pair| pair.split_once('='));
        for (label, value) in pairs {
            (label, value.trim_matches('"')).encode(encoder.encode_label())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_the_counters_the_times_and_the_levels() {
        let metrics = Arc::new(Metrics::default());
        metrics.upstream.publishes_refused.add(3);
        metrics.times.exchange.observe(0.3);
        let vitals = Vitals { asleep: 2, ..Vitals::default() };
        let text = Page { metrics, vitals: Some(vitals) }.text();
        for line in [
            "# TYPE lwm2m_publishes counter",
            r#"lwm2m_publishes_total{result="refused"} 3"#,
            r#"lwm2m_datagrams_total{verdict="dropped",reason="version"} 0"#,
            "# TYPE lwm2m_exchange_seconds histogram",
            r#"lwm2m_exchange_seconds_bucket{le="0.5"} 1"#,
            "lwm2m_exchange_seconds_count 1",
            r#"lwm2m_devices{state="asleep"} 2"#,
            "lwm2m_driver_up 1",
            &format!("lwm2m_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION")),
            "# EOF",
        ] {
            assert!(text.lines().any(|there| there == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_driver_that_is_stuck_does_not_hide_what_was_counted() {
        let text = Page { metrics: Arc::default(), vitals: None }.text();
        assert!(text.contains("\nlwm2m_driver_up 0\n") && text.contains("\nlwm2m_updates_total 0\n"), "{text}");
        assert!(!text.contains("lwm2m_devices{"), "{text}");
    }
}
