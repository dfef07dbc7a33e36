//! The batches that a keeper writes together in one request.

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use rand::TryRng;
use rand::rngs::SysRng;

use crate::observability::metrics::Metrics;
use lwm2m_core::gateway::BatchNumber;
use lwm2m_core::gateway::persistence::record::Change;

use super::super::handle::{PendingWrite, WriterReply};
use super::layout::BatchStep;
use super::{BATCH, RedisError};

/// Batches of the drivers that are written together. The drivers are told once, when all of it is written or given up.
#[derive(Default)]
pub(super) struct WriteInProgress {
    pub steps: Vec<BatchStep>,
    /// The changes, which are counted when they are durable.
    changes: Vec<Change>,
    replies: Vec<(BatchNumber, UnboundedSender<WriterReply>)>,
}

impl WriteInProgress {
    /// Takes a batch and those that have come meanwhile, of about [`BATCH`] changes together. `steps` returns the steps
    /// for the changes of one batch.
    pub(super) fn collect(
        first: PendingWrite,
        waiting: &mut UnboundedReceiver<PendingWrite>,
        mut steps: impl FnMut(&[Change]) -> Vec<BatchStep>,
    ) -> Self {
        let mut write = Self::default();
        let mut next = Some(first);
        while let Some(PendingWrite { version, changes, replies }) = next {
            write.steps.extend(steps(&changes));
            write.changes.extend(changes);
            write.replies.push((version, replies));
            next = if write.changes.len() < BATCH { waiting.try_recv().ok() } else { None };
        }
        write
    }

    /// Puts these removals before the other writes, so that records which are written again are not removed.
    pub(super) fn remove_before(current: &mut Option<Self>, removals: Vec<BatchStep>) {
        if !removals.is_empty() {
            current.get_or_insert_default().steps.splice(0..0, removals).for_each(drop);
        }
    }

    /// Counts the changes, and tells the drivers that their batches are durable.
    pub(super) fn stored(self, metrics: &Metrics) {
        metrics.store.written(&self.changes);
        self.reply(WriterReply::Stored);
    }

    /// Tells the drivers, at a shutdown, that their batches are not written.
    pub(super) fn given_up(self) {
        self.reply(|_| WriterReply::GivenUp);
    }

    fn reply(self, reply: impl Fn(BatchNumber) -> WriterReply) {
        for (version, driver) in self.replies {
            // A driver that has closed its end does not wait for the answer.
            let (Ok(()) | Err(_)) = driver.send(reply(version));
        }
    }
}

/// Returns a source of nonces for this many records, all taken from the system at once.
///
/// # Errors
///
/// [`RedisError::Random`] if the system has no random numbers.
pub(super) fn nonces(records: usize) -> Result<impl FnMut() -> [u8; 12], RedisError> {
    let mut nonces = vec![[0; 12]; records];
    for nonce in &mut nonces {
        SysRng.try_fill_bytes(nonce).map_err(|_| RedisError::Random)?;
    }
    let mut nonces = nonces.into_iter();
    Ok(move || nonces.next().expect("there is one for each record"))
}
