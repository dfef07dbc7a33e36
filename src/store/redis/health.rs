//! The health of the store, reported to the drivers, the log, the metrics and the health page.

use std::fmt::Display;
use std::sync::Arc;

use tokio::sync::mpsc::UnboundedSender;
use tracing::{error, info, warn};

use crate::conditions::{Condition, ConditionState};
use crate::observability::metrics::Metrics;

use super::super::StoreEvent;
use super::super::handle::WriterReply;

/// The ends of the drivers, and the condition of the store, which a keeper gets when the drivers start.
pub(crate) struct KeeperStart {
    pub ends: Vec<UnboundedSender<WriterReply>>,
    pub condition: Condition,
}

/// Reports the health of the store. Events for the drivers are kept until the drivers start.
pub(super) struct StoreHealth {
    drivers: Option<KeeperStart>,
    is_failing: bool,
    /// Whether the store lost records before the drivers started.
    lost_before_start: bool,
    metrics: Arc<Metrics>,
}

impl StoreHealth {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self { drivers: None, is_failing: false, lost_before_start: false, metrics }
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Begins to report to the drivers.
    pub(super) fn start(&mut self, drivers: KeeperStart, server: &str) {
        self.drivers = Some(drivers);
        self.set_condition(ConditionState::Up, written(server));
        if self.is_failing {
            self.tell(StoreEvent::Away);
        }
        if std::mem::take(&mut self.lost_before_start) {
            self.tell(StoreEvent::ContentsLost);
        }
    }

    /// Sends an event to all drivers, if they have started.
    pub(super) fn tell(&self, event: StoreEvent) {
        for end in self.drivers.iter().flat_map(|drivers| &drivers.ends) {
            // A driver that has closed its end needs no more events.
            let (Ok(()) | Err(_)) = end.send(WriterReply::Event(event));
        }
    }

    /// Reports that a request was answered.
    pub(super) fn succeeded(&mut self, server: &str) {
        if std::mem::take(&mut self.is_failing) {
            info!(server, "store writable again");
            self.metrics.store.failing.set(0);
            self.set_condition(ConditionState::Up, written(server));
            self.tell(StoreEvent::Back);
        }
    }

    /// Reports that a request failed. Only the first failure in a row is logged.
    pub(super) fn failed(&mut self, error: &dyn Display) {
        self.metrics.store.write_errors.inc();
        self.metrics.store.failing.set(1);
        self.set_condition(ConditionState::Degraded, format!("{error}; a restart would lose recent changes"));
        if !std::mem::replace(&mut self.is_failing, true) {
            warn!(%error, "the store cannot be written: a restart would lose recent changes; retrying");
            self.tell(StoreEvent::Away);
        }
    }

    /// Reports that the server has lost records: the drivers write theirs again.
    pub(super) fn contents_lost(&mut self, server: &str) {
        error!(
            server,
            "the store has lost records: it was emptied, restarted or replaced; those of this gateway are written again"
        );
        self.metrics.store.rewrites.inc();
        self.lost_before_start = self.drivers.is_none();
        self.tell(StoreEvent::ContentsLost);
    }

    /// Reports that another process has taken the store: this one ends.
    pub(super) fn fenced(&self, owner: &str) {
        error!(owner, "another gateway has taken the store: this one ends");
        self.set_condition(ConditionState::Down, format!("another gateway has taken the store: {owner}"));
        self.tell(StoreEvent::Fenced);
    }

    fn set_condition(&self, state: ConditionState, detail: String) {
        if let Some(KeeperStart { condition, .. }) = &self.drivers {
            condition.set(state, detail);
        }
    }
}

fn written(server: &str) -> String {
    format!("{server} is written")
}
