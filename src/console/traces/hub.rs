//! All traces: they begin and end here, and their messages arrive here.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use rand::TryRng;
use rand::rngs::SysRng;
use tokio::sync::watch;
use tokio::time::interval;
use tracing::debug;

use crate::clock::monotonic_now;
use crate::console::ConsoleServer;
use crate::console::http::problem::{Problem, ProblemKind, silent};
use crate::console::time::now;
use crate::driver::control::Control;
use crate::driver::traced::{TraceReceiver, TraceSender};
use crate::observability::metrics::ConsoleMetrics;
use lwm2m_core::gateway::operators::trace::{TRACES, TraceId, TraceTarget, Traced, TracedEvent};

use super::record::{CoveredMessage, TraceRecord};

/// The interval at which traces are checked for one that has to end.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// The time for which the messages of a trace that has ended are kept.
const KEPT: Duration = Duration::from_secs(3_600);

/// The traces, both running and ended ones.
#[derive(Debug)]
pub(crate) struct TraceHub {
    records: Mutex<Vec<TraceRecord>>,
    copies: TraceSender,
    /// Changes with each new message, and when a trace ends.
    changed: watch::Sender<()>,
    running: Gauge,
    lost: Counter,
}

impl TraceHub {
    pub(crate) fn new(copies: TraceSender, metrics: &ConsoleMetrics) -> Self {
        let (running, lost) = (metrics.traces.clone(), metrics.traced_lost.clone());
        Self { records: Mutex::default(), copies, changed: watch::Sender::default(), running, lost }
    }

    /// Begins a trace, and returns what `shown` makes of it. The oldest trace that has ended makes room.
    pub(crate) async fn begin<T>(
        &self,
        control: &Control,
        target: TraceTarget,
        (by, lasts): (String, Duration),
        shown: impl FnOnce(&TraceRecord) -> T,
    ) -> Result<T, Problem> {
        let id = TraceId(random()?);
        let record = TraceRecord::new(id, target.clone(), by, now(), monotonic_now(), lasts);
        let shown = {
            let mut records = self.lock();
            if records.len() >= TRACES {
                let ended = records.iter().position(|record| !record.runs).ok_or_else(too_many)?;
                records.remove(ended);
            }
            let shown = shown(&record);
            records.push(record);
            shown
        };
        let begun = control.trace(id, target, self.copies.clone()).await;
        if begun != Ok(true) {
            self.lock().retain(|record| record.id != id);
        }
        self.count();
        match begun {
            Ok(true) => Ok(shown),
            Ok(false) => Err(too_many()),
            Err(error) => {
                // The driver may begin it later.
                tell_end(control, id).await;
                Err(silent(error))
            }
        }
    }

    /// Removes a trace.
    pub(crate) async fn remove(&self, control: &Control, id: TraceId) {
        self.lock().retain(|record| record.id != id);
        self.count();
        self.changed.send_replace(());
        tell_end(control, id).await;
    }

    /// Returns what `read` makes of a trace; `None` if there is none.
    pub(crate) fn read<T>(&self, id: TraceId, read: impl FnOnce(&TraceRecord) -> T) -> Option<T> {
        self.lock().iter().find(|record| record.id == id).map(read)
    }

    /// Returns what `read` makes of each trace, the newest first.
    pub(crate) fn read_all<T>(&self, read: impl FnMut(&TraceRecord) -> Option<T>) -> Vec<T> {
        self.lock().iter().rev().filter_map(read).collect()
    }

    /// Returns what `read` makes of the newest trace of which it makes something.
    pub(crate) fn newest<T>(&self, read: impl FnMut(&TraceRecord) -> Option<T>) -> Option<T> {
        self.lock().iter().rev().find_map(read)
    }

    /// Returns a receiver that changes with each new message.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    fn add(&self, traced: Traced, server: &ConsoleServer) {
        let Traced { traces, at, event } = traced;
        let model = Arc::clone(&server.sources.model.borrow());
        let event = match event {
            TracedEvent::Message(message) => Ok(CoveredMessage::of(*message, at, &server.hidden, &model)),
            TracedEvent::Report { peer, identity, report } => Err((peer, identity, report)),
        };
        let mut records = self.lock();
        for (id, left_out) in traces {
            let Some(record) = records.iter_mut().find(|record| record.id == id) else { continue };
            self.lost.inc_by(left_out.saturating_sub(record.left_out));
            record.left_out = left_out;
            match &event {
                Ok(message) => record.add(at, message),
                Err((peer, identity, report)) => record.note(at, *peer, identity.clone(), report),
            }
        }
        drop(records);
        self.changed.send_replace(());
    }

    /// Ends the traces whose time is over, and returns them. Traces that ended long ago are removed.
    fn expire(&self, now: Instant) -> Vec<TraceId> {
        let mut records = self.lock();
        records.retain(|record| now < record.deadline + KEPT);
        let due = records.iter_mut().filter(|record| record.runs && record.deadline <= now);
        let due: Vec<_> = due
            .map(|record| {
                record.runs = false;
                record.id
            })
            .collect();
        drop(records);
        if !due.is_empty() {
            self.count();
            self.changed.send_replace(());
        }
        due
    }

    fn count(&self) {
        let running = self.lock().iter().filter(|record| record.runs).count();
        self.running.set(i64::try_from(running).unwrap_or(i64::MAX));
    }

    fn lock(&self) -> MutexGuard<'_, Vec<TraceRecord>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes copies from the driver, and ends the traces whose time is over.
pub(crate) async fn run(server: Arc<ConsoleServer>, mut copies: TraceReceiver) {
    let mut checks = interval(CHECK_EVERY);
    loop {
        tokio::select! {
            traced = copies.next() => match traced {
                Some(traced) => server.traces.add(traced, &server),
                None => return,
            },
            _ = checks.tick() => {
                for id in server.traces.expire(monotonic_now()) {
                    tell_end(&server.sources.admin.control, id).await;
                }
            }
        }
    }
}

async fn tell_end(control: &Control, id: TraceId) {
    if let Err(error) = control.end_trace(id).await {
        debug!(%error, "the event loop was not asked to end a trace");
    }
}

fn too_many() -> Problem {
    ProblemKind::TooMany.because(format!("{TRACES} traces run: end one of them"))
}

fn random() -> Result<u64, Problem> {
    SysRng.try_next_u64().map_err(|error| ProblemKind::Internal.because(error.to_string()))
}
