//! The records of commands that were given by the API, with their answers. They are kept in memory only, within bounds;
//! a command whose record is evicted continues.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use serde_json::value::RawValue;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use lwm2m_core::gateway::operators::console_commands::AnswerOutcome;

use super::command_id::CommandId;

/// Maximum number of records.
const RECORDS: usize = 1_000;
/// Maximum size of all answers that are kept, in bytes.
const BYTES: usize = 16 * 1024 * 1024;
/// Time for which the record of a command is kept after its end.
const KEPT: Duration = Duration::from_secs(600);

/// The end of a command.
#[derive(Debug)]
pub(crate) struct CommandEnd {
    pub outcome: AnswerOutcome,
    pub took: Option<Duration>,
    /// The JSON that applications get, without hidden values.
    pub answer: Box<RawValue>,
    pub at: Instant,
}

/// A command that was given.
pub(crate) struct GivenCommand {
    pub id: CommandId,
    pub endpoint: String,
    /// Names the command in the queue of its device.
    pub number: u64,
    end: watch::Sender<Option<Arc<CommandEnd>>>,
    /// The task that waits for the answer.
    waiting: Mutex<Option<AbortHandle>>,
}

/// The records, the oldest first.
pub(crate) struct GivenCommands {
    records: Mutex<VecDeque<Arc<GivenCommand>>>,
    forgotten: Counter,
}

impl GivenCommand {
    pub(crate) fn new(id: CommandId, endpoint: String, number: u64) -> Arc<Self> {
        let (end, _) = watch::channel(None);
        Arc::new(Self { id, endpoint, number, end, waiting: Mutex::default() })
    }

    pub(crate) fn end(&self) -> Option<Arc<CommandEnd>> {
        self.end.borrow().clone()
    }

    /// Returns once the command has ended.
    pub(crate) async fn ended(&self) -> Arc<CommandEnd> {
        let mut end = self.end.subscribe();
        loop {
            if let Some(end) = end.borrow_and_update().clone() {
                return end;
            }
            // The sender is as old as this record.
            if end.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Names the task that waits for the answer, which ends when the record is forgotten.
    pub(crate) fn awaited_by(&self, task: AbortHandle) {
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
    }

    fn bytes(&self) -> usize {
        self.end.borrow().as_ref().map_or(0, |end| end.answer.get().len())
    }

    fn forget(&self) {
        if let Some(task) = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
    }
}

impl GivenCommands {
    /// `forgotten` counts the records that make room before their time.
    pub(crate) fn new(forgotten: Counter) -> Self {
        Self { records: Mutex::default(), forgotten }
    }

    /// Adds a record. If there is no room, the oldest record of an ended command is forgotten, or else the oldest one.
    pub(crate) fn add(&self, now: Instant, record: Arc<GivenCommand>) {
        let mut records = self.fresh(now);
        if records.len() >= RECORDS {
            let ended = records.iter().position(|record| record.end().is_some()).unwrap_or(0);
            records.remove(ended).inspect(|record| record.forget());
            self.forgotten.inc();
        }
        records.push_back(record);
    }

    pub(crate) fn get(&self, now: Instant, id: CommandId) -> Option<Arc<GivenCommand>> {
        self.fresh(now).iter().find(|record| record.id == id).cloned()
    }

    /// Returns the commands of a device, the oldest first.
    pub(crate) fn of(&self, now: Instant, endpoint: &str) -> Vec<Arc<GivenCommand>> {
        self.fresh(now).iter().filter(|record| record.endpoint == endpoint).cloned().collect()
    }

    /// Notes the end of a command. If all answers together are too large, the oldest ones are forgotten.
    pub(crate) fn finish(&self, record: &GivenCommand, end: CommandEnd) {
        let mut records = self.fresh(end.at);
        record.end.send_replace(Some(Arc::new(end)));
        let mut bytes: usize = records.iter().map(|record| record.bytes()).sum();
        records.retain(|kept| {
            let fits = bytes <= BYTES || kept.bytes() == 0 || kept.id == record.id;
            if !fits {
                bytes -= kept.bytes();
                self.forgotten.inc();
            }
            fits
        });
    }

    /// Returns the records without those whose time is over.
    fn fresh(&self, now: Instant) -> MutexGuard<'_, VecDeque<Arc<GivenCommand>>> {
        // A panic while the list is locked cannot leave it half changed.
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        records.retain(|record| record.end().is_none_or(|end| now.saturating_duration_since(end.at) < KEPT));
        records
    }
}

#[cfg(test)]
mod tests {
    use serde_json::value::to_raw_value;

    use super::*;
    use crate::clock::monotonic_now;

    fn record(number: u64) -> Arc<GivenCommand> {
        GivenCommand::new(CommandId(number.into()), format!("ep{number}"), number)
    }

    fn end(at: Instant, bytes: usize) -> CommandEnd {
        let answer = to_raw_value(&"x".repeat(bytes - 2)).unwrap();
        CommandEnd { outcome: AnswerOutcome::Answered, took: None, answer, at }
    }

    fn records() -> GivenCommands {
        GivenCommands::new(Counter::default())
    }

    fn kept(records: &GivenCommands, now: Instant, numbers: std::ops::Range<u64>) -> Vec<u64> {
        let is_kept = |number: &u64| records.get(now, CommandId((*number).into())).is_some();
        numbers.filter(is_kept).collect()
    }

    #[test]
    fn a_record_is_kept_until_ten_minutes_after_the_end_of_its_command() {
        let (records, now) = (records(), monotonic_now());
        let (ended, pending) = (record(1), record(2));
        records.add(now, Arc::clone(&ended));
        records.add(now, pending);
        records.finish(&ended, end(now, 10));
        assert_eq!(kept(&records, now + Duration::from_secs(599), 1..3), [1, 2]);
        assert_eq!(kept(&records, now + Duration::from_secs(600), 1..3), [2]);
    }

    #[test]
    fn an_ended_command_makes_room_before_a_pending_one() {
        let (records, now) = (records(), monotonic_now());
        let all: Vec<_> = (0..1_000).map(record).collect();
        all.iter().for_each(|record| records.add(now, Arc::clone(record)));
        records.finish(&all[7], end(now, 10));
        records.add(now, record(1_000));
        assert_eq!(kept(&records, now, 0..9), [0, 1, 2, 3, 4, 5, 6, 8]);
        records.add(now, record(1_001));
        assert_eq!(kept(&records, now, 0..3), [1, 2]);
        assert_eq!((kept(&records, now, 0..2_000).len(), records.forgotten.get()), (1_000, 2));
    }

    #[test]
    fn large_answers_make_room_for_newer_ones() {
        let (records, now) = (records(), monotonic_now());
        let all: Vec<_> = (0..4).map(record).collect();
        all.iter().for_each(|record| records.add(now, Arc::clone(record)));
        for record in &all[1..] {
            records.finish(record, end(now, 7 * 1024 * 1024));
        }
        assert_eq!(kept(&records, now, 0..4), [0, 2, 3]);
        records.finish(&all[0], end(now, 40 * 1024 * 1024));
        assert_eq!(kept(&records, now, 0..4), [0]);
    }

    #[tokio::test]
    async fn who_waits_learns_the_end_before_and_after_it_came() {
        let (records, now, record) = (records(), monotonic_now(), record(1));
        let waiting = tokio::spawn({
            let record = Arc::clone(&record);
            async move { record.ended().await.outcome }
        });
        tokio::task::yield_now().await;
        records.finish(&record, end(now, 10));
        assert_eq!(waiting.await.unwrap(), AnswerOutcome::Answered);
        assert_eq!(record.ended().await.at, now);
    }
}
