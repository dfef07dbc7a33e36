//! The task that talks with the server: it carries out what the member task asks, and writes batches.
//!
//! What the member task asks comes first, and among that the rounds, which renew the leases of the node: the records of
//! many shards take longer to read than a lease lasts. A batch is written after each thing that was asked. A request
//! without an answer closes the connection: requests for leases are dropped then, since the member task repeats them,
//! and all others are repeated at the next connection.

mod asks;
mod records;

use std::collections::{HashMap, VecDeque};
use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ::redis::{Cmd, Pipeline};
use thiserror::Error;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::oneshot;
use tokio::time::{sleep_until, timeout};

use crate::clock::monotonic_now;
use crate::observability::metrics::Metrics;
use lwm2m_base::Shard;
use lwm2m_cluster::engine::EngineRequest;
use lwm2m_cluster::{MemberEvent, Term};

use super::super::super::handle::PendingWrite;
use super::super::RedisError;
use super::super::batch::{WriteInProgress, nonces};
use super::super::connection::{ANSWER_TIMEOUT, ConnectionError, RedisConnection, RedisDialer, connected, server};
use super::super::health::{KeeperStart, StoreHealth};
use super::super::layout::Layout;
use super::super::lease::AnswerError;
use super::super::seal::{Seal, SealKeys};
use super::names::NameAsk;
use super::report::NodeReport;
use super::requests::NodeIdentity;
use super::{EngineAnswer, EngineAsk};

/// The first pause after a failed request. It doubles up to the interval of renewals.
const PAUSE: Duration = Duration::from_millis(50);
/// Pause before a batch is tried again whose leases the server denies.
const FENCED_PAUSE: Duration = Duration::from_millis(20);
/// Maximum number of requests in one pipeline.
const AT_ONCE: usize = 64;

/// The state with which the keeper begins.
pub(crate) struct SharedParts {
    pub dialer: RedisDialer,
    pub connection: Option<RedisConnection>,
    pub identity: NodeIdentity,
    pub layout: Layout,
    pub seal: Seal,
    pub keys: SealKeys,
}

/// Owns the connection, and knows which shards the node has.
pub(crate) struct SharedKeeper {
    parts: SharedParts,
    writes: UnboundedReceiver<PendingWrite>,
    asks: UnboundedReceiver<EngineAsk>,
    answers: UnboundedSender<EngineAnswer>,
    health: StoreHealth,
    /// What the node tells of itself with each round.
    report: String,
    /// The requests that are not done.
    queue: VecDeque<EngineAsk>,
    /// The shards of the node, with the terms in which it acquired them.
    held: HashMap<Shard, Term>,
    /// The batch that is being written.
    current: Option<WriteInProgress>,
    /// Whether the server has denied the leases of the batch at the last attempt.
    is_fenced: bool,
    /// The batches after it whose steps are fixed already.
    prepared: VecDeque<WriteInProgress>,
    /// The node leaves the list of nodes, and asks for no round any more.
    has_left: bool,
    /// The number of the last batch. It grows as long as the process runs, so that no late request is written again.
    seq: u64,
    /// The run of the server and the number of the database at the last round.
    database: Option<(String, String)>,
    /// The time in which the nodes write the names that the server has lost, by the last round.
    rewrite: Duration,
    /// The time of the next attempt, after a failure.
    retry: Option<Instant>,
    /// Failed attempts in a row.
    failures: u32,
    closing: Arc<AtomicBool>,
}

/// Reasons why an attempt failed.
#[derive(Debug, Error)]
enum SharedAttemptError {
    #[error(transparent)]
    Engine(#[from] ConnectionError),
    #[error(transparent)]
    Answer(#[from] AnswerError),
    #[error(transparent)]
    Library(#[from] openssl::error::ErrorStack),
    #[error(transparent)]
    Store(#[from] RedisError),
}

type Channels = (UnboundedReceiver<PendingWrite>, UnboundedReceiver<EngineAsk>, UnboundedSender<EngineAnswer>);

impl SharedKeeper {
    pub(crate) fn new(
        parts: SharedParts,
        (writes, asks, answers): Channels,
        closing: Arc<AtomicBool>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let report = NodeReport::default().with_keys(&parts.identity.seal).text();
        Self {
            parts,
            writes,
            asks,
            answers,
            health: StoreHealth::new(metrics),
            report,
            queue: VecDeque::new(),
            held: HashMap::new(),
            current: None,
            is_fenced: false,
            prepared: VecDeque::new(),
            has_left: false,
            seq: 0,
            database: None,
            rewrite: Duration::ZERO,
            retry: None,
            failures: 0,
            closing,
        }
    }

    /// Serves until the driver has closed its end of the store.
    pub(crate) async fn run(mut self, starting: oneshot::Receiver<KeeperStart>) {
        let Ok(start) = starting.await else { return };
        self.health.start(start, server(&self.parts.connection));
        loop {
            tokio::select! {
                biased;
                Some(ask) = self.asks.recv() => self.take(ask),
                () = ready(()), if self.current.is_none() && !self.prepared.is_empty() => {
                    (self.current, self.is_fenced) = (self.prepared.pop_front(), false);
                }
                write = self.writes.recv(), if self.current.is_none() => match write {
                    Some(first) => (self.current, self.is_fenced) = (Some(self.prepare(first)), false),
                    None => break,
                },
                () = until(self.retry) => self.retry = None,
            }
            while let Ok(ask) = self.asks.try_recv() {
                self.take(ask);
            }
            let is_asked = self.failures == 0 && !self.queue.is_empty();
            if self.retry.is_none() || is_asked || self.closing.load(Ordering::Relaxed) {
                match self.attempt().await {
                    Ok(()) => self.succeeded(),
                    Err(error) => self.failed(&error),
                }
            }
        }
    }

    /// Takes what is asked. What needs no server is done at once.
    fn take(&mut self, ask: EngineAsk) {
        let is_away = self.failures > 0;
        match ask {
            EngineAsk::Discard(shard) => self.discard(shard),
            EngineAsk::Report(report) => self.report = report.with_keys(&self.parts.identity.seal).text(),
            // Who asks learns by the end of the channel that there is no answer.
            EngineAsk::Locate { .. } | EngineAsk::Drain { .. } if is_away => {}
            EngineAsk::Name(ask) if is_away => self.answer(ask.unanswered()),
            // Without a server the node tries again at the next renewal.
            EngineAsk::Request(_) if is_away && self.queue.len() >= Shard::COUNT => {}
            // A round would put the node into the list again.
            EngineAsk::Request(EngineRequest::Round { .. }) if self.has_left => {}
            EngineAsk::Leave(_) => {
                self.has_left = true;
                self.queue.push_back(ask);
            }
            EngineAsk::Request(EngineRequest::Round { .. }) => {
                let before_loads = self.queue.iter().position(|ask| matches!(ask, EngineAsk::Load { .. }));
                self.queue.insert(before_loads.unwrap_or(self.queue.len()), ask);
            }
            ask => self.queue.push_back(ask),
        }
    }

    /// Drops what waits to be written of a shard. The node may get the shard again before that was its turn.
    fn discard(&mut self, shard: Shard) {
        self.held.remove(&shard);
        while let Ok(first) = self.writes.try_recv() {
            let write = self.prepare(first);
            self.prepared.push_back(write);
        }
        self.parts.layout.forget_shard(shard);
        for write in self.current.iter_mut().chain(&mut self.prepared) {
            write.steps.retain(|step| step.hash().shard() != Some(shard));
        }
        self.retry = self.retry.filter(|_| self.failures > 0);
        self.queue.retain(|ask| !matches!(ask, EngineAsk::Load { shard: asked, .. } if *asked == shard));
    }

    /// Joins a batch and those that have come meanwhile. Changes of shards that the node does not have are dropped.
    fn prepare(&mut self, first: PendingWrite) -> WriteInProgress {
        let now = monotonic_now();
        let layout = &mut self.parts.layout;
        let mut write = WriteInProgress::collect(first, &mut self.writes, |changes| {
            layout.note_homes(changes);
            changes.iter().flat_map(|change| layout.steps(now, change)).collect()
        });
        write.steps.retain(|step| step.hash().shard().is_none_or(|shard| self.held.contains_key(&shard)));
        write
    }

    /// Connects if there is no connection, does what was asked, and writes the batch.
    async fn attempt(&mut self) -> Result<(), SharedAttemptError> {
        let patience = self.patience();
        if self.parts.connection.is_none() {
            let connected = timeout(patience * 2, self.parts.dialer.connect()).await;
            let connection = connected.map_err(|_| ConnectionError::Silent("the store".to_owned()))??;
            self.parts.connection = Some(connection);
        }
        while !self.queue.is_empty() {
            self.do_asked().await?;
            while let Ok(ask) = self.asks.try_recv() {
                self.take(ask);
            }
            // A batch whose leases the server denies waits for its pause.
            if self.retry.is_none() || self.failures > 0 {
                self.begin_next();
                self.write().await?;
            }
        }
        self.write().await
    }

    /// Takes the batch that is written next, if none is being written.
    fn begin_next(&mut self) {
        if self.current.is_some() {
            return;
        }
        self.is_fenced = false;
        self.current = match self.prepared.pop_front() {
            Some(prepared) => Some(prepared),
            None => self.writes.try_recv().ok().map(|first| self.prepare(first)),
        };
    }

    /// Writes the batch, unless the server denies one of its leases.
    async fn write(&mut self) -> Result<(), SharedAttemptError> {
        let Some(current) = &mut self.current else { return Ok(()) };
        if current.steps.is_empty() {
            self.written_durably();
            return Ok(());
        }
        let SharedParts { identity, seal, .. } = &mut self.parts;
        let (request, shards) =
            identity.write(self.seq + 1, &current.steps, (seal, &self.held), nonces(current.steps.len())?)?;
        let answer: Vec<String> = self.ask(&request).await?;
        match answer.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["stored"] => {
                self.seq += 1;
                self.written_durably();
                Ok(())
            }
            ["fenced", ref numbers @ ..] => {
                let number = |text: &&str| text.parse::<usize>().ok()?.checked_sub(1);
                let fenced = numbers.iter().filter_map(number).filter_map(|index| shards.get(index).copied());
                self.fenced(fenced.collect());
                Ok(())
            }
            _ => Err(AnswerError::new(answer).into()),
        }
    }

    /// The member task finds out by its next round whether the leases are lost.
    fn fenced(&mut self, shards: Vec<Shard>) {
        if !std::mem::replace(&mut self.is_fenced, true) {
            self.health.metrics().cluster.fenced.inc();
            for shard in shards {
                self.tell_member(EngineAnswer::Event(MemberEvent::Fenced(shard)));
            }
        }
        self.retry = Some(monotonic_now() + FENCED_PAUSE);
    }

    fn written_durably(&mut self) {
        self.is_fenced = false;
        if let Some(written) = self.current.take() {
            written.stored(self.health.metrics());
        }
    }

    /// The driver writes all records of the node's shards again. What was removed lately is removed again.
    fn contents_lost(&mut self) {
        self.health.contents_lost(server(&self.parts.connection));
        let mut removals = self.parts.layout.contents_lost(monotonic_now());
        removals.retain(|step| step.hash().shard().is_none_or(|shard| self.held.contains_key(&shard)));
        WriteInProgress::remove_before(&mut self.current, removals);
    }

    fn succeeded(&mut self) {
        self.failures = 0;
        self.health.succeeded(server(&self.parts.connection));
    }

    fn failed(&mut self, error: &SharedAttemptError) {
        self.parts.connection = None;
        self.health.failed(error);
        let pause = (PAUSE * 2_u32.saturating_pow(self.failures.min(8))).min(self.parts.identity.timing.renew);
        self.failures = self.failures.saturating_add(1);
        self.retry = Some(monotonic_now() + pause);
        // A shard whose records cannot be read does not hold up what was asked after it.
        if let Some(EngineAsk::Load { .. }) = self.queue.front() {
            self.queue.rotate_left(1);
        }
        for ask in std::mem::take(&mut self.queue) {
            match ask {
                EngineAsk::Load { .. } | EngineAsk::Leave(_) | EngineAsk::Name(NameAsk::Take(_)) => {
                    self.queue.push_back(ask);
                }
                ask => self.give_up(ask),
            }
        }
        if self.closing.load(Ordering::Relaxed)
            && let Some(given_up) = self.current.take()
        {
            given_up.given_up();
        }
    }

    async fn ask<T: ::redis::FromRedisValue>(&mut self, request: &Cmd) -> Result<T, ConnectionError> {
        let patience = self.patience();
        let connection = connected(&mut self.parts.connection)?;
        match timeout(patience, connection.ask(request)).await {
            Ok(answer) => answer,
            Err(_) => Err(ConnectionError::Silent(connection.server.clone())),
        }
    }

    async fn ask_all<T: ::redis::FromRedisValue>(
        &mut self,
        requests: &Pipeline,
        patience: Duration,
    ) -> Result<T, ConnectionError> {
        let connection = connected(&mut self.parts.connection)?;
        match timeout(patience, connection.ask_all(requests)).await {
            Ok(answers) => answers,
            Err(_) => Err(ConnectionError::Silent(connection.server.clone())),
        }
    }

    /// Returns how long an answer is waited for, so that a lease allows for a new connection.
    fn patience(&self) -> Duration {
        (self.parts.identity.timing.lease * 2 / 5).min(ANSWER_TIMEOUT)
    }

    fn tell_member(&self, answer: EngineAnswer) {
        // The member task has ended before the keeper at a shutdown.
        let (Ok(()) | Err(_)) = self.answers.send(answer);
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
