//! The last hour of the gateway in numbers: a sample of each series every 10 s.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::time::{MissedTickBehavior, interval};
use utoipa::ToSchema;

use crate::clock::monotonic_now;
use crate::observability::metrics::ActivityCounts;
use crate::observability::page::MetricsPage;
use crate::observability::snapshot::DriverSnapshot;

use crate::console::ConsoleServer;
use crate::console::time::{Timestamp, now};

const STEP: Duration = Duration::from_secs(10);
const SAMPLES: usize = 360;

/// The series, in the order of [`HistorySample`].
const SERIES: [&str; 16] = [
    "devices",
    "awake",
    "asleep",
    "commandsWaiting",
    "publicationsWaiting",
    "associations",
    "registersPerSecond",
    "updatesPerSecond",
    "notificationsPerSecond",
    "commandsPerSecond",
    "commandsTimedOutPerSecond",
    "commandLatencyP95",
    "failuresPerSecond",
    "publicationsPerSecond",
    "handshakesPerSecond",
    "handshakesFailedPerSecond",
];
/// Number of the series that are states of tables. The others are made of counters.
const STATES: usize = 6;

type HistorySample = [f64; SERIES.len()];

/// Keeps the samples.
#[derive(Debug, Default)]
pub(in crate::console) struct History(Mutex<KeptSamples>);

#[derive(Debug, Default)]
struct KeptSamples {
    samples: VecDeque<HistorySample>,
    counted: Option<(Instant, Totals)>,
    end: Option<Timestamp>,
}

/// The counts that rates are made of.
#[derive(Clone, Debug, Default, PartialEq)]
struct Totals {
    counts: ActivityCounts,
    /// The cumulative buckets of the answer times: upper bound in seconds, and count.
    answer_times: Vec<(f64, f64)>,
}

/// Series of numbers of the last hour.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct HistoryDocument {
    /// Time between two values, in seconds.
    step: u64,
    /// Time of the last values; absent before the first ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<Timestamp>,
    /// At most 360 values by the name of the series, the newest last: `devices`, `awake`, `asleep`, `commandsWaiting`,
    /// `publicationsWaiting`, `associations`; `registersPerSecond`, `updatesPerSecond`, `notificationsPerSecond`,
    /// `commandsPerSecond`, `commandsTimedOutPerSecond`, `failuresPerSecond`, `publicationsPerSecond`,
    /// `handshakesPerSecond`, `handshakesFailedPerSecond`; `commandLatencyP95` in seconds.
    series: BTreeMap<&'static str, Vec<f64>>,
}

/// Adds samples until it is aborted.
pub(in crate::console) async fn record(server: Arc<ConsoleServer>) {
    let mut steps = interval(STEP);
    steps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        steps.tick().await;
        let admin = &server.sources.admin;
        let snapshot = server.gate.pass(admin.snapshot()).await;
        let page = MetricsPage { metrics: Arc::clone(&admin.metrics), snapshot: None };
        let totals = Totals { counts: admin.metrics.activity(), answer_times: answer_times(&page.text()) };
        server.history.add(monotonic_now(), snapshot.as_ref(), totals);
    }
}

impl History {
    /// Adds a sample. Without a snapshot, because the driver did not answer, the states of the last sample are
    /// repeated.
    fn add(&self, at: Instant, snapshot: Option<&DriverSnapshot>, totals: Totals) {
        let mut kept = self.lock();
        let before = kept.samples.back().copied().unwrap_or_default();
        let mut sample = before;
        if let Some(snapshot) = snapshot {
            sample[..STATES].copy_from_slice(&states(snapshot));
        }
        sample[STATES..].copy_from_slice(&totals.rates_since(at, kept.counted.as_ref()));
        kept.counted = Some((at, totals));
        if kept.samples.len() >= SAMPLES {
            kept.samples.pop_front();
        }
        kept.samples.push_back(sample.map(rounded));
        kept.end = Some(now());
    }

    pub(super) fn document(&self) -> HistoryDocument {
        let kept = self.lock();
        let values = |index: usize| kept.samples.iter().filter_map(|sample| sample.get(index).copied()).collect();
        let series = SERIES.into_iter().zip(0..).map(|(name, index)| (name, values(index))).collect();
        HistoryDocument { step: STEP.as_secs(), end: kept.end, series }
    }

    // A panic while the samples are locked cannot leave them in a state that matters.
    fn lock(&self) -> MutexGuard<'_, KeptSamples> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Totals {
    /// Returns the values of the series from `registersPerSecond`.
    fn rates_since(&self, at: Instant, before: Option<&(Instant, Self)>) -> [f64; SERIES.len() - STATES] {
        let Some((then, before)) = before else { return Default::default() };
        let seconds = at.saturating_duration_since(*then).as_secs_f64().max(0.001);
        let rate = |count: fn(&ActivityCounts) -> u64| {
            count(&self.counts).saturating_sub(count(&before.counts)) as f64 / seconds
        };
        [
            rate(|counts| counts.registrations),
            rate(|counts| counts.updates),
            rate(|counts| counts.notifications),
            rate(|counts| counts.commands),
            rate(|counts| counts.commands_timed_out),
            percentile_95(&self.answer_times, &before.answer_times),
            rate(|counts| counts.failures),
            rate(|counts| counts.publications),
            rate(|counts| counts.handshakes),
            rate(|counts| counts.handshakes_failed),
        ]
    }
}

fn states(snapshot: &DriverSnapshot) -> [f64; STATES] {
    let DriverSnapshot { gateway, asleep, upstream, .. } = snapshot;
    let awake = gateway.devices.saturating_sub(*asleep);
    let waiting = [gateway.pending_commands, upstream.publications, gateway.dtls.associations];
    let [commands, publications, associations] = waiting;
    [gateway.devices, awake, *asleep, commands, publications, associations].map(|count| count as f64)
}

/// Returns the buckets of the answer times of devices on a page of metrics, the smallest first. The last bound is
/// infinite. The library shows the buckets of a histogram in no other way than as text.
fn answer_times(page: &str) -> Vec<(f64, f64)> {
    let lines =
        page.lines().filter_map(|line| line.strip_prefix("lwm2m_exchange_seconds_bucket{le=\"")?.split_once("\"} "));
    let bucket = |(bound, count): (&str, &str)| {
        let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().ok()? };
        Some((bound, count.parse().ok()?))
    };
    lines.filter_map(bucket).collect()
}

/// Estimates the time within which 95 % of the answers since `before` came; 0 without answers.
fn percentile_95(now: &[(f64, f64)], before: &[(f64, f64)]) -> f64 {
    let count_before = |index: usize| before.get(index).map_or(0.0, |(_, count)| *count);
    let fresh: Vec<(f64, f64)> =
        now.iter().zip(0..).map(|((bound, count), index)| (*bound, count - count_before(index))).collect();
    let wanted = 0.95 * fresh.last().map_or(0.0, |(_, count)| *count);
    let (mut lower, mut below) = (0.0, 0.0);
    for (bound, count) in fresh {
        if wanted > 0.0 && count >= wanted {
            let share = (wanted - below) / (count - below);
            // Nothing is known beyond the last bound.
            return if bound.is_finite() { lower + (bound - lower) * share } else { lower };
        }
        (lower, below) = (bound, count);
    }
    0.0
}

fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// Reads the samples of a page of metrics. Values that JSON cannot express are left out.
pub(super) fn samples(page: &str) -> BTreeMap<String, f64> {
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ')?;
        let value: f64 = value.parse().ok()?;
        value.is_finite().then(|| (name.to_owned(), value))
    };
    lines.filter_map(sample).collect()
}

#[cfg(test)]
mod tests {
    use lwm2m_core::gateway::report::{CommandOutcome, Report};

    use super::*;
    use crate::observability::metrics::Metrics;

    fn totals(counts: ActivityCounts) -> Totals {
        Totals { counts, ..Totals::default() }
    }

    fn last(history: &History, name: &str) -> f64 {
        history.document().series[name].last().copied().unwrap()
    }

    #[test]
    fn samples_have_the_names_and_labels_of_the_page() {
        let page = "# TYPE a counter\na_total{b=\"c d\"} 3\nn NaN\ng 0.5\n# EOF\n";
        assert_eq!(samples(page), BTreeMap::from([("a_total{b=\"c d\"}".to_owned(), 3.0), ("g".to_owned(), 0.5)]));
    }

    #[test]
    fn a_rate_is_what_was_counted_in_a_step_by_its_seconds() {
        let (history, start) = (History::default(), Instant::now());
        let counted = |registrations, commands_timed_out, handshakes_failed| {
            let commands = 7 + commands_timed_out;
            let counts = ActivityCounts { registrations, commands, commands_timed_out, ..ActivityCounts::default() };
            totals(ActivityCounts { handshakes: 3, handshakes_failed, ..counts })
        };
        let snapshot = DriverSnapshot { asleep: 2, ..DriverSnapshot::default() };
        history.add(start, Some(&snapshot), counted(100, 1, 0));
        assert_eq!(last(&history, "registersPerSecond"), 0.0);
        history.add(start + STEP, None, counted(150, 3, 40));
        assert_eq!(last(&history, "registersPerSecond"), 5.0);
        assert_eq!((last(&history, "commandsPerSecond"), last(&history, "commandsTimedOutPerSecond")), (0.2, 0.2));
        assert_eq!((last(&history, "handshakesPerSecond"), last(&history, "handshakesFailedPerSecond")), (0.0, 4.0));
        // The driver was silent.
        assert_eq!(last(&history, "asleep"), 2.0);
    }

    #[test]
    fn an_hour_is_kept() {
        let (history, start) = (History::default(), Instant::now());
        for number in 0..400_u32 {
            let updates = u64::from(number * number);
            history.add(start + STEP * number, None, totals(ActivityCounts { updates, ..ActivityCounts::default() }));
        }
        let document = history.document();
        assert_eq!(document.series.len(), 16);
        assert!(document.series.values().all(|values| values.len() == SAMPLES));
        // 399 squared less 398 squared, in 10 s.
        assert_eq!(last(&history, "updatesPerSecond"), 79.7);
    }

    #[test]
    fn the_95th_percentile_is_that_of_the_answers_since_the_last_sample() {
        let buckets = |counts: [f64; 4]| [0.1, 1.0, 10.0, f64::INFINITY].into_iter().zip(counts).collect::<Vec<_>>();
        let before = buckets([1_000.0; 4]);
        assert_eq!(percentile_95(&buckets([1_000.0; 4]), &before), 0.0);
        assert_eq!(percentile_95(&buckets([1_090.0, 1_100.0, 1_100.0, 1_100.0]), &before), 0.55);
        assert_eq!(percentile_95(&buckets([1_100.0; 4]), &before), 0.095);
        assert_eq!(percentile_95(&buckets([1_000.0, 1_000.0, 1_000.0, 1_001.0]), &before), 10.0);
    }

    #[test]
    fn the_answer_times_are_those_of_the_page() {
        let report = Report::Command {
            endpoint: "ep1".to_owned(),
            msg_type: "read",
            outcome: CommandOutcome::Answered,
            took: Some(Duration::from_millis(20)),
            unanswered: None,
        };
        let metrics = Arc::new(Metrics::default());
        metrics.record(&report);
        let buckets = answer_times(&MetricsPage { metrics, snapshot: None }.text());
        assert_eq!(buckets[..3], [(0.005, 0.0), (0.01, 0.0), (0.025, 1.0)]);
        assert_eq!(buckets.last(), Some(&(f64::INFINITY, 1.0)));
    }
}
