//! Counts reloads.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::meters::{counters, gauge, gauges};

use super::labels::{PartLabel, ReloadLabels};

/// A part of the configuration that is reloaded independently of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReloadPart {
    Settings,
    Definitions,
    Keys,
    Certificates,
    /// The keys of bootstrap accounts.
    BootstrapKeys,
    /// The accounts of the bootstrap server.
    Accounts,
}

#[derive(Debug)]
pub struct ReloadMetrics {
    config: ReloadPartMetrics,
    definitions_read: ReloadPartMetrics,
    keys: ReloadPartMetrics,
    certificates: ReloadPartMetrics,
    bootstrap_keys: ReloadPartMetrics,
    accounts: ReloadPartMetrics,
    /// Object definitions in force.
    pub definitions: Gauge,
}

#[derive(Debug)]
struct ReloadPartMetrics {
    ok: Counter,
    failed: Counter,
    /// 1 if the last attempt failed.
    failing: Gauge,
    /// Seconds since 1970; 0 for never.
    last_success: Gauge,
}

impl ReloadMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let reloads = counters(registry, "lwm2m_reloads", "Reloads by part and result");
        let failing = "1 if the last reload of this part failed; the previous state stays in force";
        let failing = gauges(registry, "lwm2m_reload_failing", failing);
        let last = "Time of the last successful reload in seconds since 1970; 0 for none since the start";
        let last = gauges(registry, "lwm2m_reload_last_success_timestamp_seconds", last);
        let of = |part: ReloadPart| {
            let part = part.name();
            ReloadPartMetrics {
                ok: reloads(ReloadLabels { part, result: "ok" }),
                failed: reloads(ReloadLabels { part, result: "failed" }),
                failing: failing(PartLabel { part }),
                last_success: last(PartLabel { part }),
            }
        };
        Self {
            config: of(ReloadPart::Settings),
            definitions_read: of(ReloadPart::Definitions),
            keys: of(ReloadPart::Keys),
            certificates: of(ReloadPart::Certificates),
            bootstrap_keys: of(ReloadPart::BootstrapKeys),
            accounts: of(ReloadPart::Accounts),
            definitions: gauge(registry, "lwm2m_object_definitions", "Object definitions in force"),
        }
    }

    pub fn succeeded(&self, part: ReloadPart, unix_time: Duration) {
        let metrics = self.of(part);
        metrics.ok.inc();
        metrics.failing.set(0);
        metrics.last_success.set(unix_time.as_secs().cast_signed());
    }

    pub fn failed(&self, part: ReloadPart) {
        self.of(part).failed.inc();
        self.of(part).failing.set(1);
    }

    fn of(&self, part: ReloadPart) -> &ReloadPartMetrics {
        match part {
            ReloadPart::Settings => &self.config,
            ReloadPart::Definitions => &self.definitions_read,
            ReloadPart::Keys => &self.keys,
            ReloadPart::Certificates => &self.certificates,
            ReloadPart::BootstrapKeys => &self.bootstrap_keys,
            ReloadPart::Accounts => &self.accounts,
        }
    }
}

impl ReloadPart {
    pub fn name(self) -> &'static str {
        match self {
            Self::Settings => "settings",
            Self::Definitions => "definitions",
            Self::Keys => "keys",
            Self::Certificates => "certificates",
            Self::BootstrapKeys => "bootstrap_keys",
            Self::Accounts => "bootstrap_accounts",
        }
    }
}
