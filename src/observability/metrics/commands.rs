//! Counts commands by type and outcome, and measures the answer times of devices.

use std::time::Duration;

use lwm2m_core::command::MSG_TYPES;
use lwm2m_core::gateway::report::CommandOutcome;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::meters::{counters, histogram};

use super::labels::CommandLabels;

/// Buckets from a device in the same room to one that answers the last retransmission, in seconds.
const EXCHANGE_BUCKETS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0];

#[derive(Debug)]
pub(crate) struct CommandMetrics {
    by_type: [OutcomeCounters; MSG_TYPES.len()],
    /// Commands that could not be parsed.
    unreadable: OutcomeCounters,
    exchange: Histogram,
}

#[derive(Debug)]
struct OutcomeCounters {
    answered: Counter,
    reset: Counter,
    timed_out: Counter,
    refused: Counter,
    expired: Counter,
    queue_full: Counter,
    withdrawn: Counter,
    duplicate_retained: Counter,
    redelivered: Counter,
    transfer_failed: Counter,
    malformed_answer: Counter,
}

impl CommandMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let counters = counters(registry, "lwm2m_commands", "Completed commands by type and outcome");
        let of = |r#type| OutcomeCounters::new(|outcome| counters(CommandLabels { r#type, outcome }));
        let exchange = "Time from the first datagram of a command to the device's answer";
        Self {
            by_type: MSG_TYPES.map(of),
            unreadable: of("error"),
            exchange: histogram(registry, "lwm2m_exchange", exchange, EXCHANGE_BUCKETS),
        }
    }

    pub(super) fn record(&self, msg_type: &str, outcome: CommandOutcome, took: Option<Duration>) {
        let index = MSG_TYPES.iter().position(|known| *known == msg_type);
        index.map_or(&self.unreadable, |index| &self.by_type[index]).of(outcome).inc();
        if let Some(took) = took {
            self.exchange.observe(took.as_secs_f64());
        }
    }

    /// Returns the number of all commands, and of those that timed out.
    #[cfg(feature = "console")]
    pub(super) fn totals(&self) -> (u64, u64) {
        let all = || self.by_type.iter().chain([&self.unreadable]);
        (all().map(OutcomeCounters::total).sum(), all().map(|outcomes| outcomes.timed_out.get()).sum())
    }
}

impl OutcomeCounters {
    fn new(counter: impl Fn(&'static str) -> Counter) -> Self {
        Self {
            answered: counter("answered"),
            reset: counter("reset"),
            timed_out: counter("timed_out"),
            refused: counter("refused"),
            expired: counter("expired"),
            queue_full: counter("queue_full"),
            withdrawn: counter("withdrawn"),
            duplicate_retained: counter("duplicate_retained"),
            redelivered: counter("redelivered"),
            transfer_failed: counter("transfer_failed"),
            malformed_answer: counter("malformed_answer"),
        }
    }

    fn of(&self, outcome: CommandOutcome) -> &Counter {
        match outcome {
            CommandOutcome::Answered => &self.answered,
            CommandOutcome::Reset => &self.reset,
            CommandOutcome::TimedOut => &self.timed_out,
            CommandOutcome::Refused => &self.refused,
            CommandOutcome::Expired => &self.expired,
            CommandOutcome::QueueFull => &self.queue_full,
            CommandOutcome::Withdrawn => &self.withdrawn,
            CommandOutcome::DuplicateRetained => &self.duplicate_retained,
            CommandOutcome::Redelivered => &self.redelivered,
            CommandOutcome::TransferFailed => &self.transfer_failed,
            CommandOutcome::MalformedAnswer => &self.malformed_answer,
        }
    }

    /// Returns the number of commands with any outcome.
    #[cfg(feature = "console")]
    fn total(&self) -> u64 {
        let Self { answered, reset, timed_out, refused, expired, queue_full, .. } = self;
        let Self { withdrawn, duplicate_retained, redelivered, transfer_failed, malformed_answer, .. } = self;
        let sent = [answered, reset, timed_out, transfer_failed, malformed_answer];
        let others = [refused, expired, queue_full, withdrawn, duplicate_retained, redelivered];
        sent.into_iter().chain(others).map(Counter::get).sum()
    }
}
