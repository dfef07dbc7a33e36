//! Every counter of the program, named once, with its meaning.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn increment(&self) {
        self.add(1);
    }

    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters of the whole program; one of these exists, and everybody counts in it.
#[derive(Debug, Default)]
pub struct Metrics {
    pub upstream: UpstreamMetrics,
}

/// The way up to the broker.
#[derive(Debug, Default)]
pub struct UpstreamMetrics {}
