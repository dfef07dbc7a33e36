//! A driver's handle of the store: it hands batches to the writer and receives its messages.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Thread;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, watch};
use tracing::{error, warn};

use crate::clock::monotonic_now;
use crate::observability::metrics::Metrics;
use lwm2m_core::gateway::persistence::record::Change;
use lwm2m_core::gateway::{BatchNumber, ChangeBatch, Gateway};

use super::{StoreCommand, StoreEvent};

/// Maximum number of batches of one driver that wait for the writer.
const BATCHES: usize = 64;

/// A batch of one driver, with the receiver of the answer.
pub(super) struct PendingWrite {
    pub version: BatchNumber,
    pub changes: Vec<Change>,
    pub replies: mpsc::UnboundedSender<WriterReply>,
}

/// A message of the writer to one driver.
#[derive(Clone, Copy, Debug)]
pub(super) enum WriterReply {
    /// This batch and all before it are durable.
    Stored(BatchNumber),
    /// The program shuts down, and the batch cannot be written.
    GivenUp,
    /// A message that answers no batch.
    Event(StoreEvent),
}

/// Wakes the writer, which sleeps after a failed write.
#[derive(Clone)]
pub(super) enum Sleeper {
    Thread(Thread),
    Task(Arc<Notify>),
}

/// Holds what the handles of all drivers share with the writer.
#[derive(Clone)]
pub(super) struct HandleParts {
    pub writes: mpsc::UnboundedSender<PendingWrite>,
    pub sleeper: Sleeper,
    /// Closed when the writer has ended.
    pub closed: watch::Receiver<()>,
    /// Set during the shutdown: failed writes are not retried any more.
    pub closing: Arc<AtomicBool>,
    pub interval: Duration,
    /// Maximum number of changes in a batch.
    pub batch: usize,
    pub metrics: Arc<Metrics>,
}

/// The handle of the store that one driver has.
pub struct Store {
    parts: HandleParts,
    /// The sender that the writer gets with each batch.
    replies: mpsc::UnboundedSender<WriterReply>,
    /// The answers. There are at most as many as batches that wait, and one event per second.
    answers: mpsc::UnboundedReceiver<WriterReply>,
    /// The times at which the unanswered batches were handed over. The writer answers them in this order.
    waiting: VecDeque<Instant>,
    /// The batch that was handed over last.
    last: BatchNumber,
}

impl Store {
    pub(super) fn new(parts: HandleParts) -> Self {
        let (replies, answers) = mpsc::unbounded_channel();
        Self { parts, replies, answers, waiting: VecDeque::new(), last: BatchNumber::default() }
    }

    /// Returns where the writer sends messages to this driver.
    pub(super) fn replies(&self) -> mpsc::UnboundedSender<WriterReply> {
        self.replies.clone()
    }

    /// Takes a command. Never waits.
    pub fn submit(&mut self, command: StoreCommand) {
        let StoreCommand::Write { version, changes } = command;
        self.last = version;
        let write = PendingWrite { version, changes, replies: self.replies.clone() };
        // Without a writer nothing is confirmed any more.
        if self.parts.writes.send(write).is_ok() {
            self.waiting.push_back(monotonic_now());
        }
    }

    /// Returns whether the store takes another batch. If it does not, the driver keeps its changes as marks.
    pub fn has_room(&self) -> bool {
        self.waiting.len() < BATCHES
    }

    /// Returns the number of the batch that was handed over last.
    pub(crate) fn last(&self) -> BatchNumber {
        self.last
    }

    /// Returns the next event. Cancel-safe. Without a living writer there is none.
    pub async fn event(&mut self) -> StoreEvent {
        loop {
            // `self` has a sender, so that the channel is never closed.
            let Some(reply) = self.answers.recv().await else { std::future::pending().await };
            if let Some(event) = self.take(reply) {
                return event;
            }
        }
    }

    /// Returns when the present changes have to be handed over; `None` without changes.
    pub(crate) fn next_flush(&self, now: Instant, gateway: &Gateway) -> Option<Instant> {
        gateway.has_changes().then(|| now + self.parts.interval)
    }

    /// Hands over a batch of changes, and returns when the next one is due. Never blocks.
    pub fn flush(&mut self, now: Instant, gateway: &mut Gateway) -> Option<Instant> {
        if !gateway.has_changes() {
            return None;
        }
        if !self.has_room() {
            self.parts.metrics.store.queue_full.inc();
            return Some(now + self.parts.interval);
        }
        self.write(gateway.take_batch(now, self.parts.batch));
        gateway.has_changes().then_some(now)
    }

    /// Hands over all remaining changes, and waits until they are written, but not longer than `patience`.
    pub async fn close(mut self, now: Instant, mut gateway: Gateway, patience: Duration) {
        gateway.change_all();
        self.parts.closing.store(true, Ordering::Relaxed);
        self.parts.sleeper.wake();
        let last = async {
            while gateway.has_changes() && self.parts.closed.has_changed().is_ok() {
                if self.has_room() {
                    self.write(gateway.take_batch(now, self.parts.batch));
                } else if let Some(reply) = self.answers.recv().await {
                    self.take(reply);
                }
            }
            // The writer ends when all drivers have closed their handles.
            let Self { parts: HandleParts { writes, mut closed, .. }, mut answers, waiting, .. } = self;
            let mut waiting = waiting.len();
            drop(writes);
            while closed.changed().await.is_ok() {}
            while let Ok(reply) = answers.try_recv() {
                waiting -= usize::from(reply.answers_a_batch());
            }
            if waiting > 0 {
                error!("store writer failed");
            }
        };
        if tokio::time::timeout(patience, last).await.is_err() {
            warn!("store closed with unwritten changes");
        }
    }

    fn write(&mut self, batch: ChangeBatch) {
        let ChangeBatch { version, changes } = batch;
        self.submit(StoreCommand::Write { version, changes });
    }

    fn take(&mut self, reply: WriterReply) -> Option<StoreEvent> {
        let handed_over = reply.answers_a_batch().then(|| self.waiting.pop_front()).flatten();
        match reply {
            WriterReply::Stored(version) => {
                if let Some(handed_over) = handed_over {
                    let took = monotonic_now().saturating_duration_since(handed_over);
                    self.parts.metrics.store.wait.observe(took.as_secs_f64());
                }
                Some(StoreEvent::Stored { version })
            }
            WriterReply::GivenUp => None,
            WriterReply::Event(event) => Some(event),
        }
    }
}

impl WriterReply {
    fn answers_a_batch(self) -> bool {
        match self {
            Self::Stored(_) | Self::GivenUp => true,
            Self::Event(_) => false,
        }
    }
}

impl Sleeper {
    fn wake(&self) {
        match self {
            Self::Thread(thread) => thread.unpark(),
            Self::Task(notify) => notify.notify_one(),
        }
    }
}
