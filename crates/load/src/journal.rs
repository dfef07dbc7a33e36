//! The account of numbered notifications: which were sent and received, and the time that each took.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// The notifications of one device that may be under way at once; the oldest of more counts as lost.
const UNDER_WAY: usize = 65_536;

/// The longest latency that is told apart, in microseconds: ten minutes.
const LONGEST: u64 = 600_000_000;

/// The notifications of all devices. Those of one device are numbered from 1 without gaps.
#[derive(Debug)]
pub struct Journal {
    devices: Vec<DeviceJournal>,
    totals: JournalTotals,
    latencies: Latencies,
    recent: Latencies,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JournalTotals {
    pub sent: u64,
    /// Notifications that arrived, each counted once.
    pub received: u64,
    /// Arrivals of what had arrived before.
    pub twice: u64,
    /// Arrivals after a later notification of the same device.
    pub out_of_order: u64,
    /// Notifications that are not awaited any more, because too many later ones of the same device are outstanding.
    pub given_up: u64,
    /// Arrivals with a number that was never sent: another load generator has the same endpoint names.
    pub unknown: u64,
}

/// A distribution of times, to three digits.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

#[derive(Debug, Default)]
struct DeviceJournal {
    /// The number of the first entry of `pending`.
    first: u64,
    /// The time at which each notification was sent; none once it has arrived.
    pending: VecDeque<Option<Instant>>,
    highest: u64,
}

impl Journal {
    pub fn new(devices: u32) -> Self {
        let device = || DeviceJournal { first: 1, ..DeviceJournal::default() };
        Self {
            devices: (0..devices).map(|_| device()).collect(),
            totals: JournalTotals::default(),
            latencies: Latencies::new(),
            recent: Latencies::new(),
        }
    }

    /// Takes the next notification of this device, and returns the number that it is to carry.
    pub fn sent(&mut self, device: u32, now: Instant) -> u64 {
        let journal = &mut self.devices[device as usize];
        self.totals.sent += 1;
        if journal.pending.len() == UNDER_WAY {
            self.totals.given_up += u64::from(journal.pending.pop_front().flatten().is_some());
            journal.first += 1;
        }
        journal.pending.push_back(Some(now));
        journal.first + journal.pending.len() as u64 - 1
    }

    /// Takes a notification that the application has received.
    pub fn received(&mut self, device: u32, number: u64, now: Instant) {
        let Some(journal) = self.devices.get_mut(device as usize) else {
            self.totals.unknown += 1;
            return;
        };
        let Some(place) = number.checked_sub(journal.first) else {
            self.totals.twice += 1;
            return;
        };
        let Some(pending) = usize::try_from(place).ok().and_then(|place| journal.pending.get_mut(place)) else {
            self.totals.unknown += 1;
            return;
        };
        let Some(sent) = pending.take() else {
            self.totals.twice += 1;
            return;
        };
        while journal.pending.front().is_some_and(Option::is_none) {
            journal.pending.pop_front();
            journal.first += 1;
        }
        self.totals.received += 1;
        self.totals.out_of_order += u64::from(number < journal.highest);
        journal.highest = journal.highest.max(number);
        let latency = now.saturating_duration_since(sent);
        self.latencies.record(latency);
        self.recent.record(latency);
    }

    pub fn totals(&self) -> JournalTotals {
        self.totals
    }

    /// The latencies of all notifications that were received.
    pub(crate) fn latencies(&self) -> &Latencies {
        &self.latencies
    }

    /// The latencies since this was called last.
    pub(crate) fn take_recent(&mut self) -> Latencies {
        std::mem::take(&mut self.recent)
    }
}

impl JournalTotals {
    /// Returns the number of notifications that were sent and have not arrived.
    pub fn missing(&self) -> u64 {
        self.sent - self.received
    }
}

impl Latencies {
    pub fn new() -> Self {
        Self(Histogram::new_with_bounds(1, LONGEST, 3).expect("bounds that a histogram takes"))
    }

    pub fn record(&mut self, latency: Duration) {
        self.0.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
    }

    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The latency that so many percent do not exceed.
    pub(crate) fn percentile(&self, percent: f64) -> Duration {
        Duration::from_micros(self.0.value_at_percentile(percent))
    }

    pub fn longest(&self) -> Duration {
        Duration::from_micros(self.0.max())
    }
}

impl Default for Latencies {
    fn default() -> Self {
        Self::new()
    }
}

/// Writes the percentiles that a person looks at first.
impl fmt::Display for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.count() == 0 {
            return f.write_str("none");
        }
        let at = |percent| self.percentile(percent);
        write!(f, "p50 {:.1?}, p90 {:.1?}, p99 {:.1?}, longest {:.1?}", at(50.0), at(90.0), at(99.0), self.longest())
    }
}
