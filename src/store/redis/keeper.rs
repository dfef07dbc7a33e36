//! The task that keeps the lease and writes batches.
//!
//! One request is on its way at a time, so that batches are written in order. What comes meanwhile is written together.
//! A request without an answer in 2 seconds closes the connection; the next one is opened after a pause, renews the
//! lease, and repeats the batch, which the server writes once.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::TryRng;
use rand::rngs::SysRng;
use thiserror::Error;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::{Notify, oneshot};
use tokio::time::{sleep, sleep_until};
use tracing::{error, info, warn};

use crate::clock::monotonic_now;
use crate::conditions::{Condition, ConditionState};
use crate::observability::metrics::Metrics;
use lwm2m_core::gateway::BatchNumber;
use lwm2m_core::gateway::record::Change;

use super::super::StoreEvent;
use super::super::handle::{PendingWrite, WriterReply};
use super::connection::{ConnectionError, RedisConnection};
use super::layout::BatchStep;
use super::lease::{AnswerError, LEASE, RenewAnswer};
use super::{BATCH, KeeperParts, RedisError, random_text};

/// Interval at which the lease is renewed.
const RENEW: Duration = Duration::from_secs(1);
/// Pauses after failed requests: the first one, and the longest.
const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(1)];

/// Holds what the keeper is given when the drivers start.
pub(crate) struct KeeperStart {
    pub ends: Vec<UnboundedSender<WriterReply>>,
    pub condition: Condition,
}

/// Owns the connection and the lease.
pub(crate) struct Keeper {
    parts: KeeperParts,
    writes: UnboundedReceiver<PendingWrite>,
    ends: Vec<UnboundedSender<WriterReply>>,
    condition: Option<Condition>,
    /// The batch that is being written.
    current: Option<WriteInProgress>,
    /// Wakes the keeper from its pause.
    sleeper: Arc<Notify>,
    /// Set during the shutdown: failed writes are not retried any more.
    closing: Arc<AtomicBool>,
    failing: bool,
    /// The store has lost records before the drivers started.
    lost_before_start: bool,
    /// Failed attempts in a row.
    failures: u32,
    metrics: Arc<Metrics>,
}

/// Batches that are written together.
struct WriteInProgress {
    steps: Vec<BatchStep>,
    /// Kept to be counted when they are durable.
    changes: Vec<Change>,
    replies: Vec<(BatchNumber, UnboundedSender<WriterReply>)>,
}

/// Reasons why an attempt failed.
#[derive(Debug, Error)]
enum AttemptError {
    #[error(transparent)]
    Engine(#[from] ConnectionError),
    #[error(transparent)]
    Answer(#[from] AnswerError),
    #[error(transparent)]
    Library(#[from] openssl::error::ErrorStack),
    #[error(transparent)]
    Random(RedisError),
    /// The owner.
    #[error("{0} has taken the store")]
    Fenced(String),
}

impl Keeper {
    pub(super) fn new(
        parts: KeeperParts,
        writes: UnboundedReceiver<PendingWrite>,
        (sleeper, closing): (Arc<Notify>, Arc<AtomicBool>),
        metrics: Arc<Metrics>,
    ) -> Self {
        let (ends, condition, current) = (Vec::new(), None, None);
        Self {
            parts,
            writes,
            ends,
            condition,
            current,
            sleeper,
            closing,
            failing: false,
            lost_before_start: false,
            failures: 0,
            metrics,
        }
    }

    /// Renews the lease and writes batches until all drivers have closed their ends, or another process has taken the
    /// store.
    pub(super) async fn run(mut self, starting: oneshot::Receiver<KeeperStart>) {
        let mut starting = Some(starting);
        loop {
            if self.current.is_none() {
                let renewal = self.parts.renewed + RENEW;
                tokio::select! {
                    write = self.writes.recv() => match write {
                        Some(first) => self.begin(first),
                        None => break,
                    },
                    start = started(starting.as_mut()) => {
                        starting = None;
                        // A program that ends before its drivers start has dropped the other end, and closes the
                        // channel of writes too.
                        if let Some(start) = start {
                            self.start(start);
                        }
                        continue;
                    }
                    () = sleep_until(renewal.into()) => {}
                }
            }
            match self.attempt().await {
                Ok(()) => self.succeeded(),
                Err(AttemptError::Fenced(owner)) => return self.fenced(&owner),
                Err(error) => self.failed(&error).await,
            }
        }
        self.release().await;
    }

    fn start(&mut self, KeeperStart { ends, condition }: KeeperStart) {
        condition.set(ConditionState::Up, self.written());
        (self.ends, self.condition) = (ends, Some(condition));
        self.tell(StoreEvent::Leased { until: self.parts.renewed + LEASE });
        if self.failing {
            self.tell(StoreEvent::Away);
        }
        if std::mem::take(&mut self.lost_before_start) {
            self.tell(StoreEvent::ContentsLost);
        }
    }

    /// Takes a batch, and those that have come meanwhile.
    fn begin(&mut self, first: PendingWrite) {
        let mut batches = VecDeque::from([first]);
        let mut count = batches.iter().map(|batch| batch.changes.len()).sum::<usize>();
        while count < BATCH
            && let Ok(next) = self.writes.try_recv()
        {
            count += next.changes.len();
            batches.push_back(next);
        }
        let mut write = WriteInProgress { steps: Vec::new(), changes: Vec::new(), replies: Vec::new() };
        let now = monotonic_now();
        for PendingWrite { version, changes, replies } in batches {
            for change in &changes {
                write.steps.extend(self.parts.layout.steps(now, change));
            }
            write.changes.extend(changes);
            write.replies.push((version, replies));
        }
        self.current = Some(write);
    }

    /// Connects if there is no connection, renews the lease if it is time, and writes the batch.
    async fn attempt(&mut self) -> Result<(), AttemptError> {
        if self.parts.connection.is_none() {
            self.parts.connection = Some(self.parts.dialer.connect().await?);
            self.renew().await?;
        }
        if self.parts.renewed + RENEW <= monotonic_now() {
            self.renew().await?;
        }
        while !self.write().await? {
            // The server has another owner, or has lost the lease.
            self.renew().await?;
        }
        Ok(())
    }

    async fn renew(&mut self) -> Result<(), AttemptError> {
        let new_database = random_text().map_err(AttemptError::Random)?;
        let sent = monotonic_now();
        let KeeperParts { identity, lease, .. } = &self.parts;
        let request = identity.renew(lease, &new_database);
        let answer = connected(&mut self.parts.connection)?.ask(&request).await?;
        match self.parts.lease.renewed(answer)? {
            RenewAnswer::Fenced { owner } => Err(AttemptError::Fenced(owner)),
            RenewAnswer::Mine { lost } => {
                self.parts.renewed = sent;
                self.tell(StoreEvent::Leased { until: sent + LEASE });
                if lost {
                    self.contents_lost();
                }
                Ok(())
            }
        }
    }

    /// Writes the batch. Returns `false` if the server has another owner.
    async fn write(&mut self) -> Result<bool, AttemptError> {
        let Some(current) = &self.current else { return Ok(true) };
        let KeeperParts { identity, lease, seal, connection, .. } = &mut self.parts;
        let mut nonces = vec![[0; 12]; current.steps.len()];
        for nonce in &mut nonces {
            SysRng.try_fill_bytes(nonce).map_err(|_| AttemptError::Random(RedisError::Random))?;
        }
        let mut nonces = nonces.into_iter();
        let nonce = || nonces.next().expect("there is one for each step");
        let request = identity.write(lease.seq + 1, &current.steps, seal, nonce)?;
        let answer: String = connected(connection)?.ask(&request).await?;
        match answer.as_str() {
            "stored" => {}
            "fenced" => return Ok(false),
            _ => return Err(AnswerError::new(vec![answer]).into()),
        }
        lease.seq += 1;
        if let Some(WriteInProgress { changes, replies, .. }) = self.current.take() {
            self.metrics.store.written(&changes);
            for (version, driver) in replies {
                // A driver that has closed its end does not wait for the answer.
                let (Ok(()) | Err(_)) = driver.send(WriterReply::Stored(version));
            }
        }
        Ok(true)
    }

    /// The drivers write all records again. What was removed lately is removed again.
    fn contents_lost(&mut self) {
        error!(
            server = self.server(),
            "the store has lost records: it was emptied, restarted or replaced; all are written again"
        );
        self.metrics.store.rewrites.inc();
        let removals = self.parts.layout.contents_lost(monotonic_now());
        match &mut self.current {
            Some(current) => current.steps.splice(0..0, removals).for_each(drop),
            None if removals.is_empty() => {}
            None => {
                self.current = Some(WriteInProgress { steps: removals, changes: Vec::new(), replies: Vec::new() });
            }
        }
        self.lost_before_start = self.ends.is_empty();
        self.tell(StoreEvent::ContentsLost);
    }

    fn succeeded(&mut self) {
        self.failures = 0;
        if std::mem::take(&mut self.failing) {
            info!(server = self.server(), "store writable again");
            self.metrics.store.failing.set(0);
            self.set_condition(ConditionState::Up, self.written());
            self.tell(StoreEvent::Back);
        }
    }

    async fn failed(&mut self, error: &AttemptError) {
        self.parts.connection = None;
        self.metrics.store.write_errors.inc();
        self.metrics.store.failing.set(1);
        self.set_condition(ConditionState::Degraded, format!("{error}; a restart would lose recent changes"));
        if !std::mem::replace(&mut self.failing, true) {
            warn!(%error, "the store cannot be written: a restart would lose recent changes; retrying");
            self.tell(StoreEvent::Away);
        }
        if self.closing.load(Ordering::Relaxed)
            && let Some(given_up) = self.current.take()
        {
            // The server may have written it.
            self.parts.lease.seq += 1;
            for (_, driver) in given_up.replies {
                let (Ok(()) | Err(_)) = driver.send(WriterReply::GivenUp);
            }
            return;
        }
        let [first, longest] = PAUSES;
        let pause = (first * 2_u32.saturating_pow(self.failures.min(8))).min(longest);
        self.failures += 1;
        tokio::select! {
            () = sleep(pause) => {}
            () = self.sleeper.notified() => {}
        }
    }

    fn fenced(self, owner: &str) {
        error!(owner, "another gateway has taken the store: this one ends");
        self.set_condition(ConditionState::Down, format!("another gateway has taken the store: {owner}"));
        self.tell(StoreEvent::Fenced);
    }

    /// Gives the lease up, so that the next process need not wait for its end.
    async fn release(&mut self) {
        let request = self.parts.identity.release();
        let Some(connection) = &mut self.parts.connection else { return };
        if let Err(error) = connection.ask::<String>(&request).await {
            warn!(%error, "the lease of the store was not given up: the next start waits for its end");
        }
    }

    fn tell(&self, event: StoreEvent) {
        for end in &self.ends {
            // A driver that has closed its end needs no more events.
            let (Ok(()) | Err(_)) = end.send(WriterReply::Event(event));
        }
    }

    fn set_condition(&self, state: ConditionState, detail: String) {
        if let Some(condition) = &self.condition {
            condition.set(state, detail);
        }
    }

    fn written(&self) -> String {
        format!("{} is written", self.server())
    }

    fn server(&self) -> &str {
        self.parts.connection.as_ref().map_or("the server", |connection| connection.server.as_str())
    }
}

fn connected(connection: &mut Option<RedisConnection>) -> Result<&mut RedisConnection, ConnectionError> {
    connection.as_mut().ok_or_else(|| ConnectionError::Silent("the store".to_owned()))
}

async fn started(starting: Option<&mut oneshot::Receiver<KeeperStart>>) -> Option<KeeperStart> {
    match starting {
        Some(starting) => starting.await.ok(),
        None => std::future::pending().await,
    }
}
