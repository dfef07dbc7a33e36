//! Follows a trace while its messages come. A follower keeps nothing: it reads the entries of the trace, and reports
//! how many were evicted before it read them.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::sleep_until;

use crate::clock::monotonic_now;
use lwm2m_core::gateway::operators::trace::{TraceId, TraceTarget};

use super::hub::TraceHub;
use super::record::{TraceEntry, TraceRecord};

/// Time in which the outcome of a message comes.
const SETTLE_TIME: Duration = Duration::from_millis(100);
/// Maximum number of messages that are read at once.
const BATCH: usize = 64;

/// The trace that is followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FollowedTrace {
    /// The trace with this ID, to its end.
    Id(TraceId),
    /// Each one by this endpoint name.
    Endpoint(String),
}

/// Something that a follower has come to.
#[derive(Debug)]
pub(crate) enum Followed {
    Entry(TraceEntry),
    /// So many messages had gone.
    Lost(u64),
}

#[derive(Debug)]
pub(crate) struct TraceFollower {
    of: FollowedTrace,
    changes: watch::Receiver<()>,
    /// The trace that was read, and the number of the newest entry of it that was read.
    read: Option<(TraceId, u64)>,
    ready: VecDeque<Followed>,
    /// The time of the next reading; `None` until something changes.
    due: Option<Instant>,
}

impl TraceFollower {
    /// Follows a trace from its message after this one.
    pub(crate) fn of_trace(hub: &TraceHub, id: TraceId, after: u64) -> Self {
        Self {
            of: FollowedTrace::Id(id),
            changes: hub.changes(),
            read: Some((id, after)),
            ready: VecDeque::new(),
            due: Some(monotonic_now()),
        }
    }

    /// Follows the traces by this endpoint name from now on.
    pub(crate) fn of_device(hub: &TraceHub, endpoint: &str) -> Self {
        let of = FollowedTrace::Endpoint(endpoint.to_owned());
        let changes = hub.changes();
        let read = hub.newest(|record| of.is(record).then(|| (record.id, record.newest())));
        Self { of, changes, read, ready: VecDeque::new(), due: Some(monotonic_now()) }
    }

    /// Returns the next message; `None` when the trace has ended. Cancel-safe.
    pub(crate) async fn next(&mut self, hub: &TraceHub) -> Option<Followed> {
        loop {
            if let Some(ready) = self.ready.pop_front() {
                return Some(ready);
            }
            let due = match self.due {
                Some(due) => due,
                None if self.is_over(hub) => return None,
                None => {
                    self.changes.changed().await.ok()?;
                    monotonic_now() + SETTLE_TIME
                }
            };
            // It is kept if this call is cancelled: other events must not delay it again and again.
            self.due = Some(due);
            sleep_until(due.into()).await;
            self.changes.borrow_and_update();
            self.due = self.read(hub).then(|| monotonic_now() + SETTLE_TIME);
        }
    }

    /// Reads some messages. Returns whether there was one.
    fn read(&mut self, hub: &TraceHub) -> bool {
        let after = |id| self.read.filter(|(read, _)| *read == id).map_or(0, |(_, newest)| newest);
        let found = hub.newest(|record| {
            self.of.is(record).then(|| {
                let entries: Vec<_> = record.entries(after(record.id)).take(BATCH).cloned().collect();
                (record.id, entries)
            })
        });
        let Some((id, entries)) = found else { return false };
        let Some(newest) = entries.last().map(|entry| entry.n) else { return false };
        let first = entries.first().map_or(newest, |entry| entry.n);
        let lost = first - after(id) - 1;
        if lost > 0 {
            self.ready.push_back(Followed::Lost(lost));
        }
        self.ready.extend(entries.into_iter().map(Followed::Entry));
        self.read = Some((id, newest));
        true
    }

    fn is_over(&self, hub: &TraceHub) -> bool {
        match &self.of {
            FollowedTrace::Id(id) => hub.read(*id, |record| record.runs) != Some(true),
            FollowedTrace::Endpoint(_) => false,
        }
    }
}

impl FollowedTrace {
    fn is(&self, record: &TraceRecord) -> bool {
        match self {
            Self::Id(id) => record.id == *id,
            Self::Endpoint(endpoint) => matches!(&record.target, TraceTarget::Endpoint(name) if name == endpoint),
        }
    }
}
