//! The task that keeps the lease and writes batches.
//!
//! One request is on its way at a time, so that batches are written in order. What comes meanwhile is written together.
//! A request without an answer in 2 seconds closes the connection; the next one is opened after a pause, renews the
//! lease, and repeats the batch, which the server writes once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{Notify, oneshot};
use tokio::time::{sleep, sleep_until};
use tracing::warn;

use crate::clock::monotonic_now;
use crate::observability::metrics::Metrics;
use lwm2m_core::gateway::persistence::record::Change;

use super::super::StoreEvent;
use super::super::handle::PendingWrite;
use super::batch::{WriteInProgress, nonces};
use super::connection::{ConnectionError, connected, server};
use super::health::{KeeperStart, StoreHealth};
use super::lease::{AnswerError, LEASE, RenewAnswer};
use super::{KeeperParts, RedisError, random_text};

/// Interval at which the lease is renewed.
const RENEW: Duration = Duration::from_secs(1);
/// Pauses after failed requests: the first one, and the longest.
const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(1)];

/// Owns the connection and the lease.
pub(crate) struct Keeper {
    parts: KeeperParts,
    writes: UnboundedReceiver<PendingWrite>,
    health: StoreHealth,
    /// The batch that is being written.
    current: Option<WriteInProgress>,
    /// Wakes the keeper from its pause.
    sleeper: Arc<Notify>,
    /// Set during the shutdown: failed writes are not retried any more.
    closing: Arc<AtomicBool>,
    /// Failed attempts in a row.
    failures: u32,
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
    Random(#[from] RedisError),
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
        Self { parts, writes, health: StoreHealth::new(metrics), current: None, sleeper, closing, failures: 0 }
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
                        // A program that shuts down before its drivers start has dropped the other end, and closes the
                        // channel of writes too.
                        if let Some(start) = start {
                            self.health.start(start, server(&self.parts.connection));
                            self.health.tell(StoreEvent::Leased { until: self.parts.renewed + LEASE });
                        }
                        continue;
                    }
                    () = sleep_until(renewal.into()) => {}
                }
            }
            match self.attempt().await {
                Ok(()) => self.succeeded(),
                Err(AttemptError::Fenced(owner)) => return self.health.fenced(&owner),
                Err(error) => self.failed(&error).await,
            }
        }
        self.release().await;
    }

    /// Takes a batch, and those that have come meanwhile.
    fn begin(&mut self, first: PendingWrite) {
        let now = monotonic_now();
        let layout = &mut self.parts.layout;
        let steps = |changes: &[Change]| changes.iter().flat_map(|change| layout.steps(now, change)).collect();
        self.current = Some(WriteInProgress::collect(first, &mut self.writes, steps));
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
        let new_database = random_text()?;
        let sent = monotonic_now();
        let KeeperParts { identity, lease, .. } = &self.parts;
        let request = identity.renew(lease, &new_database);
        let answer = connected(&mut self.parts.connection)?.ask(&request).await?;
        match self.parts.lease.renewed(answer)? {
            RenewAnswer::Fenced { owner } => Err(AttemptError::Fenced(owner)),
            RenewAnswer::Mine { lost } => {
                self.parts.renewed = sent;
                self.health.tell(StoreEvent::Leased { until: sent + LEASE });
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
        let request = identity.write(lease.seq + 1, &current.steps, seal, nonces(current.steps.len())?)?;
        let answer: String = connected(connection)?.ask(&request).await?;
        match answer.as_str() {
            "stored" => {}
            "fenced" => return Ok(false),
            _ => return Err(AnswerError::new(vec![answer]).into()),
        }
        lease.seq += 1;
        if let Some(written) = self.current.take() {
            written.stored(self.health.metrics());
        }
        Ok(true)
    }

    /// Makes the drivers write all records again. Recent removals are repeated.
    fn contents_lost(&mut self) {
        self.health.contents_lost(server(&self.parts.connection));
        WriteInProgress::remove_before(&mut self.current, self.parts.layout.contents_lost(monotonic_now()));
    }

    fn succeeded(&mut self) {
        self.failures = 0;
        self.health.succeeded(server(&self.parts.connection));
    }

    async fn failed(&mut self, error: &AttemptError) {
        self.parts.connection = None;
        self.health.failed(error);
        if self.closing.load(Ordering::Relaxed)
            && let Some(given_up) = self.current.take()
        {
            // The server may have written the batch.
            self.parts.lease.seq += 1;
            given_up.given_up();
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

    /// Releases the lease, so that the next process need not wait until it expires.
    async fn release(&mut self) {
        let request = self.parts.identity.release();
        let Some(connection) = &mut self.parts.connection else { return };
        if let Err(error) = connection.ask::<String>(&request).await {
            warn!(%error, "the lease of the store was not released: the next start waits until it expires");
        }
    }
}

async fn started(starting: Option<&mut oneshot::Receiver<KeeperStart>>) -> Option<KeeperStart> {
    match starting {
        Some(starting) => starting.await.ok(),
        None => std::future::pending().await,
    }
}
